"""Which pictures of a synthetic set an audit found to show a copied lesion: one file that other commands read."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_file, write_long_json
from diffaug.data.manifest import MANIFEST
from diffaug.errors import DataError
from diffaug.names import Inside, Name
from diffaug.reading import read_typed

FILE, PAGE = "copies.json", "audit.html"


@dataclass(frozen=True)
class Copy:
    """A painted lesion that is a copy.

    Attributes:
        request: Its id.
        picture: Id of the case that shows it; several lesions may share a picture.
        of: Id of the training case that it is most like.
        correlation: Of the two structures, at most 1.
        distance: Of the two lesions' features.
    """

    request: Name
    picture: Name
    of: Name
    correlation: float
    distance: float


@dataclass(frozen=True)
class Copies:
    """What an audit decided.

    Attributes:
        manifest: Digest of the manifest that was audited.
        audited: Number of painted lesions that were looked at.
        copies: Those that are copies.
    """

    manifest: str
    audited: int
    copies: tuple[Copy, ...]


def write_copies(folder: Path, synthetic: Path, audited: int, copies: Iterable[Copy]) -> None:
    """Write the decisions about a synthetic set into the folder of its audit."""
    values = {
        "audited": audited,
        "copies": map(_sorted_values, copies),
        "manifest": digest_of_file(synthetic / MANIFEST),
    }
    write_long_json(folder / FILE, values, indent=2)


def _sorted_values(copy: Copy) -> dict[str, Any]:
    """Return a copy as the values of JSON, by name, in order."""
    return dict(sorted(asdict(copy).items()))


def copied_pictures(audit: Path, synthetic: Path) -> frozenset[str]:
    """Return the ids of the pictures of a synthetic set that show a copied lesion.

    Args:
        audit: Folder that `diffaug audit` made of this set.
        synthetic: The set.

    Raises:
        DataError: The audit has no decisions, or is of another set, or its file is a link that leads out of it.
    """
    path = Inside(audit).path(FILE)  # or a link in a folder of somebody else could lead elsewhere
    if not path.is_file():
        if (audit / PAGE).is_file():
            raise DataError(
                f"an audit says which cases are copies: {audit} looked for none; its {PAGE} says what was missing, "
                "often --with DATA"
            )
        raise DataError(
            f"an audit says which cases are copies: {audit} has no {FILE}; run `diffaug audit {synthetic} OUT --with "
            "DATA` first, and name its folder"
        )
    found = read_typed(path, Copies, "audit the set again")
    if found.manifest != digest_of_file(synthetic / MANIFEST):
        raise DataError(f"an audit belongs to its set: {audit} is of another one than {synthetic}; audit this set")
    return frozenset(each.picture for each in found.copies)
