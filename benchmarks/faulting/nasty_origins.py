"""Synthetic pictures whose metadata were written to harm whoever asks where they are from, or paints them again."""

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from faulting.makers import Maker, writes
from faulting.mutations import origin_of, png_chunks, png_of, with_origin


def _changed(change: Callable[[dict[str, Any]], Any]) -> Maker:
    """Return what writes a picture whose origin was changed in place, and fits its digest again."""

    def make(old: bytes) -> bytes:
        value = origin_of(old)
        change(value)
        return with_origin(old, value)

    return writes(make)


def _set(name: str, value: Any) -> Maker:
    return _changed(lambda origin: origin["settings"].update({name: value}))


def _asked(**changes: Any) -> Maker:
    def change(origin: dict[str, Any]) -> None:
        for request in origin["requests"][:1]:  # a picture of which lesions were removed has none
            request.update(changes)

    return _changed(change)


def _with(*chunks: tuple[bytes, bytes]) -> Maker:
    return writes(lambda old: png_of([*png_chunks(old)[:1], *chunks, *png_chunks(old)[1:]]))


BOMB = zlib.compress(bytes(60 * 2**20))
ORIGINS: dict[str, Maker] = {
    "compressed text": _with((b"zTXt", b"diffaug\0\0" + BOMB)),
    "compressed international text": _with((b"iTXt", b"diffaug\0\1\0\0\0" + BOMB)),
    "many texts": _with(*[(b"zTXt", b"k%d\0\0" % number + zlib.compress(bytes(900_000))) for number in range(300)]),
    "text of a megabyte": _with((b"tEXt", b"diffaug\0" + b"[" * 2**20)),
    "no requests": _changed(lambda origin: origin.update(requests=[])),
    "many requests": _changed(lambda origin: origin.update(requests=origin["requests"] * 400)),
    "huge index": _asked(index=10**12),
    "negative index": _asked(index=-1),
    "late index": _asked(index=249_999),
    "path as id": _changed(lambda origin: origin.update(id="../../canary/canary")),
    "path as background": _asked(background="../../canary/canary.png"),
    "huge shard": _set("generate.shard_size", 10**9),
    "huge batch": _set("generate.slots", 10**9),
    "huge count": _set("generate.count", 10**18),
    "text as seed": _set("seed", "x"),
    "negative seed": _set("seed", -1),
    "no number as seed": _set("seed", float("nan")),
    "domain": _set("generate.domain", "fundus"),
    "path as findings": _set("generate.findings", "../canary/canary.yaml"),
    "path as backgrounds": _set("generate.backgrounds", "../canary"),
    "device": _set("device", "cuda:7"),
    "long format": _changed(lambda origin: origin.update(format="x" * 200_000)),
    "long model": _set("model", "m" * 200_000),
    "removal": _changed(lambda origin: origin.update(kind="removed", source="train-0")),
    "preview": _changed(lambda origin: origin.update(kind="preview")),
    "one huge row": _changed(lambda origin: origin["versions"].update({f"v{number}": "x" for number in range(9000)})),
    "size": writes(lambda old: old.replace(struct.pack(">II", 64, 64), struct.pack(">II", 2**31 - 1, 2**31 - 1), 1)),
    "no settings": _changed(lambda origin: origin.update(settings={})),
    "list as settings": writes(lambda old: with_origin(old, json.loads('{"format": 1, "settings": []}'))),
}
