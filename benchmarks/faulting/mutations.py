"""Seeded mutations of valid files: of their bytes, and of what their format means."""

import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

LONG = 10**39
WORDS = (
    "", ".", "..", "/", "../../canary/canary.png", "@CANARY@/canary.png", "@CANARY@/canary.json", "a\u202egnp.exe",
    "\x00", "\x1b[2J", "con", "x" * 300, "é" * 150, "\ud800", "nan", "1e999", "-1", "null",
    "images/../../canary/canary.png",
    "C:\\x.png", "\\\\host\\share\\a.png", "file:///etc/passwd", "http://127.0.0.1:9/x", "${HOME}", "{{7*7}}",
    "<script>alert(1)</script>", "=1+1", "%s%n", "train", "2024-01-01", "!!python/object/apply:os.system [id]",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63, -(2**63), LONG, 1e308, -1e308, 1e-308, 0.5,
    float("nan"), float("inf"), True, 10**7, 100_000,
)  # fmt: skip
WORST = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
    b"\x80\0\0\0",
    b"\xff\xfe",
)

ELEMENTS = (
    0, 1, 2, 3, 7, 8, 12, 16, 32, 64, 65535, 10**6, -1, "", "x", "1\\2", None, "1e400", "nan", [1, 2], "RGB",
    "PALETTE COLOR", "YBR_FULL_422", "MONOCHROME1",
)  # fmt: skip
FIELDS = (  # bytes of a NIfTI-1 header, and what lies there
    (0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (70, "h"), (72, "h"), (76, "f"), (80, "f"),
    (88, "f"), (108, "f"), (112, "f"), (116, "f"), (252, "h"), (254, "h"), (256, "f"), (280, "f"), (300, "f"),
    (344, "i"),
)  # fmt: skip


def mutated(kind: str, data: bytes, seed: int) -> bytes:
    """Return a mutation of a valid file.

    Args:
        kind: The format: json, jsonl, yaml, csv, text, npz, safetensors, png, origin (a PNG that says
            what it was made of), tiff, dicom, nifti, niigz or bytes.
        data: The file.
        seed: Chooses the mutation.
    """
    rng = random.Random(seed)
    shape = SHAPES.get(kind)
    if shape is not None and rng.random() < 0.75:
        try:
            return shape(data, rng)
        except (ValueError, OverflowError, struct.error, KeyError, IndexError, yaml.YAMLError):
            pass
    return of_bytes(data, rng)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, double or overwrite some bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        size = max(1, len(found))
        at = rng.randrange(size) if rng.random() < 0.6 else rng.randrange(min(size, 128))  # headers matter most
        span = rng.choice((1, 2, 4, 8, 64, 1024))
        how = rng.randrange(6)
        if how == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del found[at:]
        elif how == 2:
            found[at:at] = rng.choice(WORST) * rng.choice((1, 4, 100))
        elif how == 3:
            found[at:at] = found[at : at + span]
        elif how == 4:
            del found[at : at + span]
        else:
            found[at : at + 4] = rng.choice(WORST)
    return bytes(found)


def _value(rng: random.Random) -> Any:
    """Return something that a place of a file of values does not expect."""
    deep: Any = 0
    for _ in range(rng.choice((2, 60, 120))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(WORDS), lambda: rng.choice(NUMBERS), lambda: None, lambda: [], dict, lambda: deep,
        lambda: [rng.choice(NUMBERS)] * 3, lambda: {rng.choice(WORDS): rng.choice(NUMBERS)}, lambda: [[]], lambda: "1",
    )  # fmt: skip
    return rng.choice(kinds)()


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(items):
        found.append((value, key))
        _places(each, found)
    return found


def of_value(value: Any, rng: random.Random) -> Any:
    """Replace, remove, rename or repeat some parts of a value of JSON."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = _places(value, [])
        if not places or rng.random() < 0.03:
            return _value(rng)
        holder, key = rng.choice(places)
        how = rng.randrange(6)
        if how <= 2:
            holder[key] = _value(rng)
        elif how == 3:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS) or "x"] = holder.pop(key) if how == 4 else holder[key]
        else:
            holder.extend([holder[key]] * rng.choice((1, 50)))
    return value


def _of_json(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(of_value(json.loads(data), rng), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def _of_jsonl(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        how = rng.randrange(6)
        if how == 0:
            lines.append(lines[at])
        elif how == 1:
            del lines[at]
        else:
            lines[at] = _of_json(lines[at], rng)
        lines = lines or [b"{}"]
    return b"\n".join(lines) + b"\n"


def _of_yaml(data: bytes, rng: random.Random) -> bytes:
    return yaml.safe_dump(of_value(yaml.safe_load(data), rng), allow_unicode=True).encode(errors="surrogatepass")


def _of_csv(data: bytes, rng: random.Random) -> bytes:
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.randrange(len(rows)) if rng.random() < 0.85 else 0
        column = rng.randrange(max(1, len(rows[row])))
        how = rng.randrange(8)
        if how <= 3:
            rows[row][column] = str(rng.choice((*WORDS, *NUMBERS)))
        elif how == 4:
            del rows[row][column]
        elif how == 5:
            rows.append(list(rows[row]))
        elif how == 6:
            rows = [[cell for at, cell in enumerate(each) if at != column] for each in rows]
        else:
            rows[row][column] = rng.choice(('"', "'", "\r", '"a\n"', "\t", ";")) + rows[row][column]
    return "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass") + b"\n"


def _of_text(data: bytes, rng: random.Random) -> bytes:
    lines = [line.split(" ") for line in data.decode().splitlines()] or [[""]]
    for _ in range(rng.choice((1, 2, 4))):
        row = rng.randrange(len(lines))
        column = rng.randrange(len(lines[row]))
        lines[row][column : column + rng.randrange(2)] = [str(rng.choice((*WORDS, *NUMBERS)))] * rng.choice((1, 1, 3))
    return "\n".join(" ".join(line) for line in lines).encode(errors="surrogatepass")


def _of_npz(data: bytes, rng: random.Random) -> bytes:
    arrays = dict(np.load(io.BytesIO(data)))
    name = rng.choice(sorted(arrays))
    shapes = ((), (0,), (1,), (3, 3, 3), (0, 5), (10_000, 2))
    kinds = ("u1", "i8", "f8", "c16", "U5", "S3", "b1", "f2")
    how = rng.randrange(4)
    if how == 0:
        arrays[name] = np.zeros(rng.choice(shapes), rng.choice(kinds))
    elif how == 1:
        arrays[rng.choice(WORDS[10:20])] = arrays.pop(name)
    elif how == 2:
        arrays[name] = np.full_like(arrays[name].astype("f8"), rng.choice((np.nan, np.inf, 1e308, -1)))
    else:
        arrays[name] = np.array([{"a": 1}], dtype=object)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    found = file.getvalue()
    return found.replace(b"(1,)", b"(9,)") if rng.random() < 0.2 else found


def _of_safetensors(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.3:
        name = rng.choice([key for key in header if key != "__metadata__"])
        part = header[name]
        part[rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(
            ("F64", "BOOL", "U8", [], [0], [2**40], [-1], [[1]], [0, 2**62], [8, 0], None, [1] * 50)
        )
        if rng.random() < 0.5:
            header[name + "x"] = header.pop(name)
    else:
        header = of_value(header, rng)
    text = json.dumps(header).encode(errors="surrogatepass")
    length = rng.choice((len(text), len(text), len(text), 2**63, 0, len(text) * 2))
    body = bytearray(data[8 + size :])
    if rng.random() < 0.3:
        body = body[: rng.randrange(len(body) + 1)]
    if rng.random() < 0.2:
        body[:] = np.full(len(body) // 4, rng.choice((np.nan, np.inf, 1e38)), "<f4").tobytes()
    return struct.pack("<Q", length) + text + bytes(body)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return names and contents of the chunks of a PNG file."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG file of chunks, with their checksums."""
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _of_png(data: bytes, rng: random.Random) -> bytes:
    chunks = png_chunks(data)
    how = rng.randrange(7)
    if how <= 2:
        head = bytearray(chunks[0][1])
        at = rng.randrange(len(head))
        head[at] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255, head[at] ^ 1))
        chunks[0] = (b"IHDR", bytes(head))
    elif how == 3:
        at = rng.randrange(len(chunks))
        chunks[at] = (chunks[at][0], of_bytes(chunks[at][1], rng))
    elif how == 4:
        del chunks[rng.randrange(len(chunks))]
    elif how == 5:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    else:
        text = rng.choice(
            (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"gAMA", b"acTL", b"fdAT", b"sBIT")
        )
        body = rng.choice(
            (b"", b"x", b"a\0\0" + zlib.compress(bytes(10**7)), b"\xff" * 70_000, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
        )
        chunks.insert(1, (text, body))
    return png_of(chunks)


ORIGIN = b"diffaug\0"  # the keyword of the text that says what a synthetic picture was made of


def origin_of(data: bytes) -> dict[str, Any]:
    """Return what a synthetic picture says of itself."""
    return json.loads(next(body for _, body in png_chunks(data) if body.startswith(ORIGIN)).removeprefix(ORIGIN))


def with_origin(data: bytes, value: Any, kind: bytes = b"tEXt") -> bytes:
    """Return a synthetic picture that says something else of itself, whose digest of its set fits again."""
    from diffaug.artifacts import digest_of_value

    if isinstance(value, dict) and isinstance(value.get("settings"), dict):
        value["set"] = digest_of_value(value["settings"])
    text = json.dumps(value).encode()
    body = {b"tEXt": text, b"zTXt": b"\0" + zlib.compress(text), b"iTXt": bytes(4) + text}[kind]
    return png_of([(kind, ORIGIN + body) if old.startswith(ORIGIN) else (name, old) for name, old in png_chunks(data)])


def _of_origin(data: bytes, rng: random.Random) -> bytes:
    return with_origin(data, of_value(origin_of(data), rng), rng.choice((b"tEXt", b"tEXt", b"zTXt", b"iTXt")))


def _of_tiff(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack(f"{order}I", data[4:8])[0]
    count = struct.unpack(f"{order}H", data[start : start + 2])[0]
    for _ in range(rng.choice((1, 1, 2))):
        at = start + 2 + 12 * rng.randrange(count)
        field, form, value = rng.choice(((0, "H", 0), (2, "H", 1), (4, "I", 2), (8, "I", 3))[:4])[0], "I", 0
        form = "H" if field < 4 else "I"
        value = rng.choice((0, 1, 2, 3, 5, 7, 8, 16, 32, 255, 65535, 2**31 - 1, 2**32 - 1))
        struct.pack_into(f"{order}{form}", found, at + field, value & (0xFFFF if form == "H" else 0xFFFFFFFF))
    return bytes(found)


def _of_dicom(data: bytes, rng: random.Random) -> bytes:
    import pydicom

    found = pydicom.dcmread(io.BytesIO(data))
    names = [element.keyword for element in found if element.keyword]
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(
            [*names, "NumberOfFrames", "PlanarConfiguration", "WindowWidth", "PixelSpacing", "BitsAllocated"]
        )
        try:
            if rng.random() < 0.2 and name in found:
                delattr(found, name)
            else:
                setattr(found, name, rng.choice(ELEMENTS))
        except (ValueError, TypeError, AttributeError):
            continue
    if rng.random() < 0.2:
        found.file_meta.TransferSyntaxUID = rng.choice(
            ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5",
             "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.90", "9.9")
        )  # fmt: skip
    file = io.BytesIO()
    try:
        found.save_as(file, enforce_file_format=False)
    except Exception:  # what pydicom does not write is no file
        return of_bytes(data, rng)
    return file.getvalue()


def _of_nifti(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at, form = rng.choice(FIELDS)
        value = rng.choice((0, 1, 2, 3, 4, 7, 16, 128, 255, 32767, -1, -32768))
        real = rng.choice((0.0, 1e38, -1e38, float("nan"), float("inf"), 352.0, 1e9, 0.5))
        struct.pack_into(f"<{form}", found, at, real if form == "f" else value)
    return bytes(found)


def _of_niigz(data: bytes, rng: random.Random) -> bytes:
    plain = gzip.decompress(data)
    return gzip.compress(_of_nifti(plain, rng) if rng.random() < 0.7 else of_bytes(plain, rng))


SHAPES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _of_json, "jsonl": _of_jsonl, "yaml": _of_yaml, "csv": _of_csv, "text": _of_text, "npz": _of_npz,
    "safetensors": _of_safetensors, "png": _of_png, "origin": _of_origin, "tiff": _of_tiff, "dicom": _of_dicom,
    "nifti": _of_nifti, "niigz": _of_niigz,
}  # fmt: skip
