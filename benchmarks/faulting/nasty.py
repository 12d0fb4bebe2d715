"""Files written by hand to be as bad as can be: for each format, what damage by chance would hardly make."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faulting.makers import Maker, writes
from faulting.mutations import png_chunks, png_of
from faulting.nasty_origins import ORIGINS
from faulting.nasty_scans import DICOM, NIFTI


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
    "empty": writes(b""),
    "zeros": writes(bytes(5000)),
    "noise": writes(np.random.default_rng(0).bytes(5000)),
    "zero device": _links("/dev/zero"),
    "random device": _links("/dev/urandom"),
    "tty": _links("/dev/tty"),
    "memory": _links("/proc/self/mem"),
    "pipe": _pipe,
    "folder": _folder,
    "loop": _unreadable,
    "broken link": _links("nowhere"),
    "canary link": _link_to_canary,
    "large hole": lambda path, old: _hole(path),
    "doubled": writes(lambda old: old + old),
    "bom": writes(lambda old: b"\xef\xbb\xbf" + old),
    "utf-16": writes(lambda old: b"\xff\xfe" + b"".join(bytes((byte, 0)) for byte in old)),
    "crlf": writes(lambda old: old.replace(b"\n", b"\r\n")),
    "halved": writes(lambda old: old[: len(old) // 2]),
}


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def nested(open_: bytes, close: bytes, depth: int) -> bytes:
    """Return brackets inside each other."""
    return open_ * depth + close * depth


JSON: dict[str, Maker] = {
    "deep lists": writes(nested(b"[", b"]", 100_000)),
    "deep objects": writes(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "150 deep": writes(nested(b"[", b"]", 150)),
    "long number": writes(b'{"format": ' + b"9" * 6000 + b"}"),
    "long float": writes(b'{"a": 1' + b"0" * 5000 + b".5}"),
    "exponent": writes(b'{"format": 1e999999999}'),
    "null": writes(b"null"),
    "number": writes(b"1"),
    "text": writes(b'"x"'),
    "list": writes(b"[]"),
    "object": writes(b"{}"),
    "list of lists": writes(b"[[[]]]"),
    "many commas": writes(b"[" + b"0," * 6_000_000 + b"0]"),
    "nan": writes(b'{"format": NaN, "identity": Infinity}'),
    "half characters": writes(b'{"\\ud800": "\\udfff"}'),
    "same key": writes(b'{"format": 2, "format": [], "identity": {}, "identity": 3}'),
}
YAML: dict[str, Maker] = {
    "laughs": writes(
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n".encode() for n in range(12))
    ),
    "self": writes(b"&a [*a]"),
    "deep": writes(nested(b"[", b"]", 3000)),
    "python": writes(b"!!python/object/apply:os.system ['touch x']"),
    "date": writes(b"out: 2024-01-01\npath: 2024-01-01\nnames: 2024-01-01\ntrain: 2024-01-01\n"),
    "sexagesimal": writes(b"seed: 1:" + b"59:" * 3000 + b"0"),
    "hex": writes(b"seed: 0x" + b"f" * 9000),
    "merge": writes(b"<<: [1, 2]\n"),
    "keys": writes(b"? [a, b]\n: 1\n? {a: b}\n: 2\n"),
    "tag": writes(b"!!binary 'x'"),
    "many documents": writes(b"---\na: 1\n---\nb: 2\n"),
    "tab": writes(b"a:\n\t- b\n"),
    "null keys": writes(b"~: ~\n"),
    "float keys": writes(b".nan: 1\n.inf: 2\ntrue: 3\n"),
    "set": writes(b"!!set {a, b}"),
    "omap": writes(b"!!omap [a: 1]"),
    "invalid date": writes(b"seed: 2024-13-45\n"),
    "base 60": writes(b"seed: 190:20:30\n"),
}
CSV: dict[str, Maker] = {
    "one long cell": writes(lambda old: old + b"x" * 300_000 + b"\n"),
    "open quote": writes(lambda old: old + b'"abc'),
    "nul": writes(lambda old: old.replace(b",", b"\0,")),
    "many columns": writes(lambda old: b"," * 500_000 + b"\n" + old),
    "header alone": writes(lambda old: old.split(b"\n")[0] + b"\n"),
    "same columns": writes(lambda old: b"\n".join(line + b"," + line for line in old.splitlines())),
    "bare returns": writes(lambda old: old.replace(b"\n", b"\r")),
    "latin": writes(lambda old: old + b"\xe9\xff\n"),
    "semicolons": writes(lambda old: old.replace(b",", b";")),
    "blank lines": writes(lambda old: old.replace(b"\n", b"\n\n\n")),
    "many rows": writes(lambda old: old + ((old.splitlines() or [b"a,b"])[-1] + b"\n") * 20_000),
}


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
    "bomb": writes(_png(65535, 65535)),
    "79 megapixels": writes(_large_png),
    "no width": writes(_png(0, 40)),
    "huge side": writes(_png(2**31 - 1, 1)),
    "text bomb": writes(_bomb_text),
    "1 bit": writes(_png(48, 40, 1, 0)),
    "frames": writes(_frames),
    "postscript": writes(EPS),
    "gif": writes(_other("GIF")),
    "ico": writes(_other("ICO")),
    "pdf": writes(_other("PDF")),
    "pcx": writes(_other("PCX")),
    "tga": writes(_other("TGA")),
    "ppm": writes(_other("PPM")),
    "ppm bomb": writes(b"P6 60000 60000 255\n"),
    "xbm": writes(b"#define a_width 9999999\n#define a_height 9999999\nstatic char a[] = {\n"),
    "tiff loop": writes(b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x01\0\0\0\x08\0\0\0"),
    "bmp bomb": writes(
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "negative bmp": writes(
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, -5, -5, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    **{
        f"name {name!a}": _named(f"{name}.png")
        for name in ("a\u202eb", "a\nb", " a ", "con", "\x1b[2J", "A" * 245, "..", "-rf")
    },
    "fits": writes(b"SIMPLE  =                    T" + b" " * 50 + b"END" + b" " * 2797),
    "svg": writes(b"<svg/>"),
}


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
    "bomb": writes(lambda old: _renamed(old, _npy(f"({30 * 2**20},)") + bytes(240 * 2**20))),
    "shape": writes(lambda old: _renamed(old, _npy("(1000000000000,)"))),
    "objects": writes(lambda old: _renamed(old, _npy("(1,)", "|O"))),
    "header": writes(lambda old: _renamed(old, _npy("__import__('os')"))),
    "deep header": writes(lambda old: _renamed(old, _npy("(" * 3000 + ")" * 3000))),
    "negative": writes(lambda old: _renamed(old, _npy("(-1,)"))),
    "path": writes(_npz(b"x", "../../canary/x.npy")),
    "no arrays": writes(_npz(b"")),
    "long header": writes(lambda old: _renamed(old, _npy("(1," + " " * 60_000 + ")"))),
    "bad kind": writes(lambda old: _renamed(old, _npy("(1,)", "<q9"))),
}


def _tensors(header: bytes, size: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + body


SAFETENSORS: dict[str, Maker] = {
    "long header": writes(_tensors(b"{}", 2**40)),
    "huge header": writes(_tensors(b" " * 90_000_000 + b"{}")),
    "deep header": writes(_tensors(nested(b'{"a":', b"}", 5000))),
    "no tensors": writes(_tensors(b"{}")),
    "overlap": writes(
        _tensors(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            body=bytes(4),
        )
    ),
    "huge shape": writes(
        _tensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', body=bytes(4))
    ),
    "pickle": writes(
        b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
    ),
    "torch": writes(_npz(b"\x80\x02cposix\nsystem\nX\x02\0\0\0idq\0\x85R.", "archive/data.pkl")),
}


TEXT: dict[str, Maker] = {
    "many points": writes(b"0" + b" 0.1 0.9" * 400_000),
    "odd": writes(b"0 0.1 0.2 0.3"),
    "far": writes(b"0 1e300 1e300 -1e300 5 9 9"),
    "nan": writes(b"0 nan nan inf inf -inf 0"),
    "no class": writes(b"99999999999 0.1 0.1 0.5 0.5 0.1 0.9"),
    "words": writes(b"a b c"),
    "many lines": writes(b"0 0.1 0.1 0.5 0.5 0.1 0.9\n" * 20_000),
    "negative class": writes(b"-1 0.1 0.1 0.5 0.5 0.1 0.9"),
}
KINDS: dict[str, dict[str, Maker]] = {
    "json": JSON,
    "jsonl": JSON,
    "yaml": YAML,
    "csv": CSV,
    "text": TEXT,
    "npz": NPZ,
    "safetensors": SAFETENSORS,
    "png": PICTURE,
    "origin": PICTURE | ORIGINS,
    "tiff": PICTURE,
    "picture": PICTURE,
    "dicom": DICOM,
    "nifti": NIFTI,
    "niigz": NIFTI,
}


def nasty_files(kind: str) -> dict[str, Maker]:
    """Return what to put in the place of a file of a kind, by name."""
    own = dict(KINDS.get(kind, {}))
    if kind in ("json", "jsonl"):
        own["rows"] = writes(json.dumps({"rows": [{"size": [2**31, 2**31], "counts": "x" * 100}]}).encode())
    return {**ANY, **own}
