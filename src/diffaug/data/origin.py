"""What a synthetic picture says of itself: that it is synthetic, what it was painted from, and with what.

Two texts stand in the metadata of a PNG beside its pixels, so that they stay with a copy: a sentence for people, and a
JSON value, the `Origin`. They hold names of cases, digests and settings, and no paths. Masks have none.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from diffaug.artifacts import digest_of_value
from diffaug.data.images import DAMAGE, opened
from diffaug.data.request import Request
from diffaug.errors import DataError
from diffaug.names import OptionalName, shown
from diffaug.reading import json_from_bytes, typed

FORMAT = 1
WORDS, KEY = "Description", "diffaug"  # keywords of the texts; the first is one that viewers show (PNG 1.2, 4.2.3)
MARK = {WORDS: "synthetic: painted by diffaug, not the image of a patient"}
LONGEST = 2**18  # bytes of an origin

# picture: a painted frame; preview: the window of a sample that was turned down; removed: a frame without its lesions
Kind = Literal["picture", "preview", "removed"]


@dataclass(frozen=True)
class Origin:
    """What a synthetic picture was painted from, and with what.

    Attributes:
        settings: All that the set depends on: settings, seed, and digests of model, data and findings.
        validator: Digest of the validators.
        versions: Of Python, of the packages, and of the code of diffaug.
        processor: Kind of the processor that computed it.
        id: Of the row in the manifest of its set; empty for what all pictures of a set have in common.
        kind: What the picture shows.
        requests: What was asked for, one for each lesion that the picture shows; none for a removal.
        source: The case whose lesions were removed; empty for others.
    """

    settings: dict[str, Any]
    validator: str
    versions: dict[str, str]
    processor: str
    id: OptionalName = ""
    kind: Kind = "picture"
    requests: tuple[Request, ...] = ()
    source: OptionalName = ""

    @property
    def set_digest(self) -> str:
        """The digest of the set: of all that its pictures depend on, which is known before the first is painted."""
        return digest_of_value(self.settings)

    @property
    def model(self) -> str:
        """The digest of the model; empty where it is not known."""
        return str(self.settings.get("model", ""))

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the cases that it is made of, sorted."""
        return tuple(sorted({self.source} - {""} | {name for each in self.requests for name in each.sources}))

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, as the metadata hold them."""
        return {"format": FORMAT, "synthetic": True, "set": self.set_digest, **asdict(self)}

    def texts(self) -> dict[str, str]:
        """Return the texts of a PNG by keyword, in ASCII."""
        return {**MARK, KEY: json.dumps(self.as_dict(), sort_keys=True)}


def recorded_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of a set as pictures hold it: of a budget the digest, since it names every training case."""
    budget = identity.get("budget")
    return {**identity, "budget": digest_of_value(budget)} if budget else dict(identity)


def origin_of(texts: Mapping[Any, Any], where: object) -> Origin | None:
    """Return the origin that texts of a PNG tell of; None where they tell of none.

    Args:
        texts: By keyword.
        where: What errors name.

    Raises:
        DataError: The origin is damaged, contradicts itself, or is of a later version of diffaug.
    """
    text = texts.get(KEY)
    if not isinstance(text, str):
        return None
    rule = "metadata of a synthetic picture are as diffaug wrote them"
    try:
        if len(text) > LONGEST:
            raise ValueError(f"more than {LONGEST:,} characters")
        values = json_from_bytes(text.encode())
    except ValueError as error:
        raise DataError(f"{rule}: those of {where} are no JSON ({error}); take the file from its set") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise DataError(
            f"{rule}: those of {where} are of format {shown(str(found))}, not {FORMAT}; use the version that made it"
        )
    origin = typed(Origin, values, f"the metadata of {where}", "take the file from its set")
    if origin.set_digest != values.get("set"):
        raise DataError(f"{rule}: those of {where} contradict the digest of their set; take the file from its set")
    return origin


def read_origin(path: Path) -> Origin | None:
    """Return what a picture says of its origin; None where it says nothing. No pixel is decoded.

    Raises:
        DataError: The file is missing or no picture, or its origin is damaged.
    """
    try:
        with opened(path) as image:
            texts = dict(image.info) if image.format == "PNG" else {}
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else "it is no picture"
        raise DataError(f"a picture is needed: {path}: {reason}; check the path") from None
    return origin_of(texts, path)


def marks_of(texts: Mapping[Any, Any]) -> dict[str, str]:
    """Return what marks a picture as synthetic, from the texts of a PNG, written anew; nothing for other pictures."""
    try:
        origin = origin_of(texts, "a picture")
    except DataError:
        return MARK
    return origin.texts() if origin else MARK if texts.get(WORDS) == MARK[WORDS] else {}
