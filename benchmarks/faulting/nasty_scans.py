"""DICOM and NIfTI files written by hand to be as bad as can be."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable

from faulting.makers import Maker, writes


def _dicom(**values: object) -> Callable[[bytes], bytes]:
    def make(old: bytes) -> bytes:
        import pydicom
        from pydicom.encaps import encapsulate

        found = pydicom.dcmread(io.BytesIO(old))
        if "syntax" in values:
            found.PixelData = encapsulate([found.PixelData])
            found["PixelData"].VR = "OB"
        for name, value in values.items():
            if name == "syntax":
                found.file_meta.TransferSyntaxUID = str(value)
            else:
                setattr(found, name, value)
        file = io.BytesIO()
        found.save_as(file, enforce_file_format=False)
        return file.getvalue()

    return make


def _deflated(old: bytes) -> bytes:
    import pydicom

    file, found = io.BytesIO(), pydicom.dcmread(io.BytesIO(old))
    found.PixelData = b"\0\0"
    found.save_as(file, enforce_file_format=False)
    data = file.getvalue()
    at = data.index(b"1.2.840.10008.1.2.1\0")
    head = data[:at] + b"1.2.840.10008.1.2.1.99"[:20].ljust(20, b"\0") + data[at + 20 :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return head[:340] + packer.compress(bytes(400 * 2**20)) + packer.flush()


def _sequence(old: bytes) -> bytes:
    return old + (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3000)


DICOM: dict[str, Maker] = {
    "65535 squared": writes(_dicom(Rows=65535, Columns=65535)),
    "many frames": writes(_dicom(NumberOfFrames=2_000_000_000)),
    "a million frames": writes(_dicom(NumberOfFrames=1_000_000)),
    "jpeg": writes(_dicom(syntax="1.2.840.10008.1.2.4.50")),
    "run lengths": writes(_dicom(syntax="1.2.840.10008.1.2.5", Rows=30_000, Columns=30_000)),
    "deflated": writes(_deflated),
    "nested": writes(_sequence),
    "no rows": writes(_dicom(Rows=0)),
    "window": writes(_dicom(WindowWidth="1e308", WindowCenter="-1e308")),
    "slope": writes(_dicom(RescaleSlope="1e300", RescaleIntercept="1e308")),
    "patient": writes(_dicom(PatientID="../../x\\y")),
    "spacing": writes(_dicom(PixelSpacing=[0.0, -1.0])),
    "64 bits": writes(_dicom(BitsAllocated=64, BitsStored=64, HighBit=63)),
    "palette": writes(_dicom(PhotometricInterpretation="PALETTE COLOR")),
    "colours": writes(_dicom(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    "samples": writes(_dicom(SamplesPerPixel=60_000)),
}


def _nifti(at: int, form: str, *values: float) -> Callable[[bytes], bytes]:
    def make(old: bytes) -> bytes:
        packed = old[:2] == b"\x1f\x8b"
        found = bytearray(gzip.decompress(old) if packed else old)
        struct.pack_into(f"<{form}", found, at, *values)
        return gzip.compress(bytes(found)) if packed else bytes(found)

    return make


def _zeros(old: bytes) -> bytes:
    """Return a volume that declares 3 GB, of which 640 MB of zeros are there, in 3 MB."""
    plain = gzip.decompress(old) if old[:2] == b"\x1f\x8b" else old
    head = bytearray(plain[:352])
    struct.pack_into("<8h", head, 40, 3, 3000, 3000, 170, 1, 1, 1, 1)
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as out:
        out.write(bytes(head))
        block = bytes(2**24)
        for _ in range(40):
            out.write(block)
    return file.getvalue()


NIFTI: dict[str, Maker] = {
    "huge": writes(_nifti(40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)),
    "four axes": writes(_nifti(40, "8h", 4, 48, 40, 3, 32767, 1, 1, 1)),
    "seven axes": writes(_nifti(40, "8h", 7, 48, 40, 3, 1, 1, 1, 1)),
    "negative": writes(_nifti(40, "8h", 3, -48, 40, 3, 1, 1, 1, 1)),
    "no axes": writes(_nifti(40, "8h", 0, 0, 0, 0, 0, 0, 0, 0)),
    "zero axis": writes(_nifti(40, "8h", 3, 48, 40, 0, 1, 1, 1, 1)),
    "complex": writes(_nifti(70, "hh", 32, 64)),
    "binary": writes(_nifti(70, "hh", 1, 1)),
    "unknown": writes(_nifti(70, "h", 9999)),
    "slope": writes(_nifti(112, "ff", 1e38, 1e38)),
    "slope nan": writes(_nifti(112, "ff", float("nan"), float("inf"))),
    "offset": writes(_nifti(108, "f", 1e30)),
    "negative offset": writes(_nifti(108, "f", -400.0)),
    "header": writes(_nifti(0, "i", 540)),
    "zooms": writes(_nifti(76, "8f", 1, 0, 0, 0, 0, 0, 0, 0)),
    "zooms nan": writes(_nifti(76, "8f", *[float("nan")] * 8)),
    "affine": writes(_nifti(280, "12f", *[0.0] * 12)),
    "affine nan": writes(_nifti(280, "12f", *[float("nan")] * 12)),
    "gzip bomb": writes(_zeros),
    "pair": writes(_nifti(344, "4s", b"ni1\0")),
    "extension": writes(_nifti(348, "4s", b"\1\0\0\0")),
}
