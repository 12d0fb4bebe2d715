"""Files written by hand to be as bad as can be: for each format, what damage by chance would hardly make."""

import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faulting.mutations import png_chunks, png_of

Maker = Callable[[Path, bytes], None]  # puts it at a path, where the valid bytes were


def _writes(data: bytes | Callable[[bytes], bytes]) -> Maker:
    def make(path: Path, old: bytes) -> None:
        path.write_bytes(data if isinstance(data, bytes) else data(old))

    return make


def _links(to: str) -> Maker:
    def make(path: Path, old: bytes) -> None:
        path.symlink_to(to)

    return make


def _canary(path: Path) -> Path:
    """Return the folder that nothing may open: beside the folder `case` of a lane."""
    case = next(parent for parent in path.parents if parent.name == "case")
    return case.parent / "canary"


def _link_to_canary(path: Path, old: bytes) -> None:
    found = _canary(path) / f"canary{path.suffix}"
    path.symlink_to(found if found.exists() else _canary(path) / "canary.json")


def _pipe(path: Path, old: bytes) -> None:
    os.mkfifo(path)


def _folder(path: Path, old: bytes) -> None:
    path.mkdir()


def _unreadable(path: Path, old: bytes) -> None:
    path.symlink_to(path.name)  # itself


ANY: dict[str, Maker] = {
    "empty": _writes(b""), "zeros": _writes(bytes(5000)), "noise": _writes(np.random.default_rng(0).bytes(5000)),
    "zero device": _links("/dev/zero"), "random device": _links("/dev/urandom"), "tty": _links("/dev/tty"),
    "memory": _links("/proc/self/mem"), "pipe": _pipe, "folder": _folder, "loop": _unreadable,
    "broken link": _links("nowhere"), "canary link": _link_to_canary, "large hole": lambda path, old: _hole(path),
    "doubled": _writes(lambda old: old + old), "bom": _writes(lambda old: b"\xef\xbb\xbf" + old),
    "utf-16": _writes(lambda old: b"\xff\xfe" + b"".join(bytes((byte, 0)) for byte in old)),
    "crlf": _writes(lambda old: old.replace(b"\n", b"\r\n")), "halved": _writes(lambda old: old[: len(old) // 2]),
}  # fmt: skip


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def _nested(open_: bytes, close: bytes, depth: int) -> bytes:
    return open_ * depth + close * depth


JSON: dict[str, Maker] = {
    "deep lists": _writes(_nested(b"[", b"]", 100_000)), "deep objects": _writes(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "150 deep": _writes(_nested(b"[", b"]", 150)), "long number": _writes(b'{"format": ' + b"9" * 6000 + b"}"),
    "long float": _writes(b'{"a": 1' + b"0" * 5000 + b".5}"), "exponent": _writes(b'{"format": 1e999999999}'),
    "null": _writes(b"null"), "number": _writes(b"1"), "text": _writes(b'"x"'), "list": _writes(b"[]"),
    "object": _writes(b"{}"), "list of lists": _writes(b"[[[]]]"), "many commas": _writes(b"[" + b"0," * 6_000_000 + b"0]"),
    "nan": _writes(b'{"format": NaN, "identity": Infinity}'), "half characters": _writes(b'{"\\ud800": "\\udfff"}'),
    "same key": _writes(b'{"format": 2, "format": [], "identity": {}, "identity": 3}'),
}  # fmt: skip
YAML: dict[str, Maker] = {
    "laughs": _writes(b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n".encode() for n in range(12))),
    "self": _writes(b"&a [*a]"), "deep": _writes(_nested(b"[", b"]", 3000)), "python": _writes(b"!!python/object/apply:os.system ['touch x']"),
    "date": _writes(b"out: 2024-01-01\npath: 2024-01-01\nnames: 2024-01-01\ntrain: 2024-01-01\n"),
    "sexagesimal": _writes(b"seed: 1:" + b"59:" * 3000 + b"0"), "hex": _writes(b"seed: 0x" + b"f" * 9000),
    "merge": _writes(b"<<: [1, 2]\n"), "keys": _writes(b"? [a, b]\n: 1\n? {a: b}\n: 2\n"), "tag": _writes(b"!!binary 'x'"),
    "many documents": _writes(b"---\na: 1\n---\nb: 2\n"), "tab": _writes(b"a:\n\t- b\n"), "null keys": _writes(b"~: ~\n"),
    "float keys": _writes(b".nan: 1\n.inf: 2\ntrue: 3\n"), "set": _writes(b"!!set {a, b}"), "omap": _writes(b"!!omap [a: 1]"),
    "invalid date": _writes(b"seed: 2024-13-45\n"), "base 60": _writes(b"seed: 190:20:30\n"),
}  # fmt: skip
CSV: dict[str, Maker] = {
    "one long cell": _writes(lambda old: old + b"x" * 300_000 + b"\n"), "open quote": _writes(lambda old: old + b'"abc'),
    "nul": _writes(lambda old: old.replace(b",", b"\0,")), "many columns": _writes(lambda old: b"," * 500_000 + b"\n" + old),
    "header alone": _writes(lambda old: old.split(b"\n")[0] + b"\n"), "same columns": _writes(
        lambda old: b"\n".join(line + b"," + line for line in old.splitlines())),
    "bare returns": _writes(lambda old: old.replace(b"\n", b"\r")), "latin": _writes(lambda old: old + b"\xe9\xff\n"),
    "semicolons": _writes(lambda old: old.replace(b",", b";")), "blank lines": _writes(lambda old: old.replace(b"\n", b"\n\n\n")),
    "many rows": _writes(lambda old: old + (old.split(b"\n")[1] + b"\n") * 20_000),
}  # fmt: skip


def _png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png_of([(b"IHDR", head), (b"IDAT", body or zlib.compress(bytes(1000))), (b"IEND", b"")])


def _bomb_text(old: bytes) -> bytes:
    chunks = png_chunks(old)
    return png_of([chunks[0], (b"zTXt", b"a\0\0" + zlib.compress(bytes(300 * 2**20), 9)), *chunks[1:]])


def _large_png(old: bytes) -> bytes:
    rows = zlib.compress(bytes((8000 * 3 + 1) * 9900), 9)
    return _png(8000, 9900, body=rows)


def _frames(old: bytes) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    frames = [Image.new("RGB", (48, 40), (n, n, n)) for n in range(200)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _other(form: str) -> Callable[[bytes], bytes]:
    def make(old: bytes) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (48, 40), (200, 10, 10)).save(file, form)
        return file.getvalue()

    return make


def _named(name: str) -> Maker:
    """Return what puts the valid bytes under a hostile name, beside those of the right name."""

    def make(path: Path, old: bytes) -> None:
        path.write_bytes(old)
        (path.parent / name).write_bytes(old)

    return make


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(@CANARY@) run\nshowpage\n%%EOF\n"
PICTURE: dict[str, Maker] = {
    "bomb": _writes(_png(65535, 65535)), "79 megapixels": _writes(_large_png), "no width": _writes(_png(0, 40)),
    "huge side": _writes(_png(2**31 - 1, 1)), "text bomb": _writes(_bomb_text), "1 bit": _writes(_png(48, 40, 1, 0)),
    "frames": _writes(_frames), "postscript": _writes(EPS), "gif": _writes(_other("GIF")), "ico": _writes(_other("ICO")),
    "pdf": _writes(_other("PDF")), "pcx": _writes(_other("PCX")), "tga": _writes(_other("TGA")), "ppm": _writes(_other("PPM")),
    "ppm bomb": _writes(b"P6 60000 60000 255\n"), "xbm": _writes(b"#define a_width 9999999\n#define a_height 9999999\nstatic char a[] = {\n"),
    "tiff loop": _writes(b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x01\0\0\0\x08\0\0\0"),
    "bmp bomb": _writes(b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)),
    "negative bmp": _writes(b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, -5, -5, 1, 24, 0, 0, 0, 0, 0, 0)),
    **{f"name {name!a}": _named(f"{name}.png") for name in ("a\u202eb", "a\nb", " a ", "con", "\x1b[2J", "A" * 245, "..", "-rf")},
    "fits": _writes(b"SIMPLE  =                    T" + b" " * 50 + b"END" + b" " * 2797), "svg": _writes(b"<svg/>"),
}  # fmt: skip


def _npz(body: bytes, name: str = "x.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)
    return file.getvalue()


def _npy(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _renamed(old: bytes, body: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(old)) as archive:
        names = archive.namelist()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, body)
    return file.getvalue()


NPZ: dict[str, Maker] = {
    "bomb": _writes(lambda old: _renamed(old, _npy(f"({30 * 2**20},)") + bytes(240 * 2**20))),
    "shape": _writes(lambda old: _renamed(old, _npy("(1000000000000,)"))), "objects": _writes(lambda old: _renamed(old, _npy("(1,)", "|O"))),
    "header": _writes(lambda old: _renamed(old, _npy("__import__('os')"))), "deep header": _writes(
        lambda old: _renamed(old, _npy("(" * 3000 + ")" * 3000))), "negative": _writes(lambda old: _renamed(old, _npy("(-1,)"))),
    "path": _writes(_npz(b"x", "../../canary/x.npy")), "no arrays": _writes(_npz(b"")), "long header": _writes(
        lambda old: _renamed(old, _npy("(1," + " " * 60_000 + ")"))), "bad kind": _writes(lambda old: _renamed(old, _npy("(1,)", "<q9"))),
}  # fmt: skip


def _tensors(header: bytes, size: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + body


SAFETENSORS: dict[str, Maker] = {
    "long header": _writes(_tensors(b"{}", 2**40)), "huge header": _writes(_tensors(b" " * 90_000_000 + b"{}")),
    "deep header": _writes(_tensors(_nested(b'{"a":', b"}", 5000))), "no tensors": _writes(_tensors(b"{}")),
    "overlap": _writes(_tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', body=bytes(4))),
    "huge shape": _writes(_tensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', body=bytes(4))),
    "pickle": _writes(b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."),
    "torch": _writes(_npz(b"\x80\x02cposix\nsystem\nX\x02\0\0\0idq\0\x85R.", "archive/data.pkl")),
}  # fmt: skip


def _dicom(**values: object) -> Callable[[bytes], bytes]:
    def make(old: bytes) -> bytes:
        import pydicom

        found = pydicom.dcmread(io.BytesIO(old))
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
    return head[:340] + packer.compress(bytes(3 * 2**30)) + packer.flush()


def _sequence(old: bytes) -> bytes:
    return old + (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3000)


DICOM: dict[str, Maker] = {
    "65535 squared": _writes(_dicom(Rows=65535, Columns=65535)), "many frames": _writes(_dicom(NumberOfFrames=2_000_000_000)),
    "a million frames": _writes(_dicom(NumberOfFrames=1_000_000)), "jpeg": _writes(_dicom(syntax="1.2.840.10008.1.2.4.50")),
    "run lengths": _writes(_dicom(syntax="1.2.840.10008.1.2.5", Rows=30_000, Columns=30_000)), "deflated": _writes(_deflated),
    "nested": _writes(_sequence), "no rows": _writes(_dicom(Rows=0)), "window": _writes(_dicom(WindowWidth="1e308", WindowCenter="-1e308")),
    "slope": _writes(_dicom(RescaleSlope="1e300", RescaleIntercept="1e308")), "patient": _writes(_dicom(PatientID="../../x\\y")),
    "spacing": _writes(_dicom(PixelSpacing=[0.0, -1.0])), "64 bits": _writes(_dicom(BitsAllocated=64, BitsStored=64, HighBit=63)),
    "palette": _writes(_dicom(PhotometricInterpretation="PALETTE COLOR")), "colours": _writes(_dicom(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    "samples": _writes(_dicom(SamplesPerPixel=60_000)),
}  # fmt: skip


def _nifti(at: int, form: str, *values: float) -> Callable[[bytes], bytes]:
    def make(old: bytes) -> bytes:
        packed = old[:2] == b"\x1f\x8b"
        found = bytearray(gzip.decompress(old) if packed else old)
        struct.pack_into(f"<{form}", found, at, *values)
        return gzip.compress(bytes(found)) if packed else bytes(found)

    return make


def _zeros(old: bytes) -> bytes:
    """Return a volume of 30 GB that compresses to 30 MB, cut to the first 3 GB."""
    plain = gzip.decompress(old) if old[:2] == b"\x1f\x8b" else old
    head = bytearray(plain[:352])
    struct.pack_into("<8h", head, 40, 3, 3000, 3000, 170, 1, 1, 1, 1)
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as out:
        out.write(bytes(head))
        block = bytes(2**24)
        for _ in range(183):
            out.write(block)
    return file.getvalue()


NIFTI: dict[str, Maker] = {
    "huge": _writes(_nifti(40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)), "four axes": _writes(_nifti(40, "8h", 4, 48, 40, 3, 32767, 1, 1, 1)),
    "seven axes": _writes(_nifti(40, "8h", 7, 48, 40, 3, 1, 1, 1, 1)), "negative": _writes(_nifti(40, "8h", 3, -48, 40, 3, 1, 1, 1, 1)),
    "no axes": _writes(_nifti(40, "8h", 0, 0, 0, 0, 0, 0, 0, 0)), "zero axis": _writes(_nifti(40, "8h", 3, 48, 40, 0, 1, 1, 1, 1)),
    "complex": _writes(_nifti(70, "hh", 32, 64)), "binary": _writes(_nifti(70, "hh", 1, 1)), "unknown": _writes(_nifti(70, "h", 9999)),
    "slope": _writes(_nifti(112, "ff", 1e38, 1e38)), "slope nan": _writes(_nifti(112, "ff", float("nan"), float("inf"))),
    "offset": _writes(_nifti(108, "f", 1e30)), "negative offset": _writes(_nifti(108, "f", -400.0)), "header": _writes(_nifti(0, "i", 540)),
    "zooms": _writes(_nifti(76, "8f", 1, 0, 0, 0, 0, 0, 0, 0)), "zooms nan": _writes(_nifti(76, "8f", *[float("nan")] * 8)),
    "affine": _writes(_nifti(280, "12f", *[0.0] * 12)), "affine nan": _writes(_nifti(280, "12f", *[float("nan")] * 12)),
    "gzip bomb": _writes(_zeros), "pair": _writes(_nifti(344, "4s", b"ni1\0")), "extension": _writes(_nifti(348, "4s", b"\1\0\0\0")),
}  # fmt: skip
TEXT: dict[str, Maker] = {
    "many points": _writes(b"0" + b" 0.1 0.9" * 400_000), "odd": _writes(b"0 0.1 0.2 0.3"), "far": _writes(b"0 1e300 1e300 -1e300 5 9 9"),
    "nan": _writes(b"0 nan nan inf inf -inf 0"), "no class": _writes(b"99999999999 0.1 0.1 0.5 0.5 0.1 0.9"), "words": _writes(b"a b c"),
    "many lines": _writes(b"0 0.1 0.1 0.5 0.5 0.1 0.9\n" * 20_000), "negative class": _writes(b"-1 0.1 0.1 0.5 0.5 0.1 0.9"),
}  # fmt: skip
KINDS: dict[str, dict[str, Maker]] = {
    "json": JSON, "jsonl": JSON, "yaml": YAML, "csv": CSV, "text": TEXT, "npz": NPZ, "safetensors": SAFETENSORS,
    "png": PICTURE, "tiff": PICTURE, "picture": PICTURE, "dicom": DICOM, "nifti": NIFTI, "niigz": NIFTI,
}  # fmt: skip


def nasty_files(kind: str) -> dict[str, Maker]:
    """Return what to put in the place of a file of a kind, by name."""
    own = dict(KINDS.get(kind, {}))
    if kind in ("json", "jsonl"):
        own["rows"] = _writes(json.dumps({"rows": [{"size": [2**31, 2**31], "counts": "x" * 100}]}).encode())
    return {**ANY, **own}
