"""`diffaug explain`: from a synthetic picture back to what it was made of, in its set or copied out of it.

What a picture says in its metadata (`data.origin`) comes first; the manifest of its set completes it. Reads files
alone: no model is loaded and nothing is painted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from diffaug.artifacts import PathLike, digest_of_file, digest_of_value
from diffaug.conditioning.findings import DOMAINS, Library, library_of
from diffaug.data.images import DAMAGE, opened, read_image
from diffaug.data.manifest import MANIFEST, Row, SyntheticSet, read_manifest
from diffaug.data.origin import Kind, Origin, read_origin, recorded_settings
from diffaug.data.records import RecordFile
from diffaug.data.request import RemovedCase
from diffaug.errors import DataError
from diffaug.reading import json_of_line, typed
from diffaug.runfolder import read_contents

DEEPEST = 4  # folders above a picture in which its set may lie
CONFIG = "config.json"
FIX = "name the set that it was copied from with --in SYNTHETIC"

# same: byte for byte; pixels: other bytes with the same pixels; other: other pixels
State = Literal["same", "pixels", "other"]


@dataclass(frozen=True)
class Made:
    """A row of a set's manifest with its files.

    Attributes:
        row: A request and what became of it, or a removal.
        shown: All rows of requests whose lesions the picture shows, that of its file first.
    """

    row: Row | RemovedCase
    shown: tuple[Row, ...] = ()

    def path(self, kind: Kind) -> str:
        """Return the path of a kind of picture in the set; empty where there is none."""
        return self.row.preview if kind == "preview" and isinstance(self.row, Row) else self.row.image

    @property
    def files(self) -> dict[str, str]:
        """What each file that it names is, by its path."""
        words = {
            "image": "picture", "mask": "mask", "region": "mask of what was painted", "preview": "preview",
            "preview_mask": "mask of the preview",
        }  # fmt: skip
        files = {getattr(self.row, name, ""): word for name, word in words.items()}
        return {path: word for path, word in files.items() if path}


@dataclass(frozen=True)
class Explanation:
    """What is known of a synthetic picture.

    Attributes:
        image: Name of its file.
        what: What it is: picture, preview, or one of their masks.
        origin: What it was painted from, and with what; without metadata as far as its set knows.
        marked: Whether it says so itself, in its metadata.
        row: Its row in the manifest; None where no set was found.
        folder: The set; None where none was found.
        state: Whether it is the file of the set; empty where no set was found.
        domain: The domain of the findings in its prompts; empty without, or for a file of findings.
        references: Where the findings of its prompts are published.
    """

    image: str
    what: str
    origin: Origin
    marked: bool
    row: Row | RemovedCase | None = None
    folder: Path | None = None
    state: State | Literal[""] = ""
    domain: str = ""
    references: tuple[str, ...] = ()

    def beside(self, name: str) -> Path | None:
        """Return a folder that lies beside the set, as `diffaug run` puts `model` and `data`; None if there is none."""
        folder = self.folder.absolute().parent / name if self.folder else None
        return folder if folder and folder.is_dir() else None

    @property
    def decision(self) -> str:
        """What the gate decided, and what became of the request; empty where that is not known."""
        return self.row.decision if isinstance(self.row, Row) else ""

    @property
    def reason(self) -> str:
        """The decision in words."""
        return self.row.reason if isinstance(self.row, Row) else ""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "image": self.image,
            "what": self.what,
            "marked": self.marked,
            "origin": self.origin.as_dict(),
            "references": list(self.references),
            "domain": self.domain,
            "set": None if self.folder is None else self.folder.absolute().name,
            "row": None if self.row is None else asdict(self.row),
            "state": self.state,
        }


def explain_image(image: PathLike, synthetic: PathLike | None = None) -> Explanation:
    """Say what a synthetic picture was made of: background, mask, example, prompt, seeds, model, settings and code.

    Args:
        image: A picture of a synthetic set, or of a folder that `remove` made: in place, or a copy of it. A copy that
            lost its metadata is found in its set by its bytes or by its pixels.
        synthetic: The set that it was copied from; None takes the one that it lies in, if any.

    Raises:
        DataError: It is no picture, nothing says that it is synthetic, or it is none of the set.

    Example:
        >>> found = diffaug.explain_image("synthetic/mine/i.png")
        >>> found.origin.requests[0].prompt
        'a small pale polyp'
    """
    image = Path(image)
    origin = read_origin(image)
    folder = Path(synthetic) if synthetic is not None else set_around(image)
    if folder is None:
        if origin is None:
            raise DataError(
                f"a synthetic picture says so in its metadata, or lies in its set: {image} does neither, so it is a "
                f"real image, or a copy that lost its metadata; {FIX}"
            )
        return _explained(image, "preview" if origin.kind == "preview" else "picture", origin, True)
    made, what, state = _found(image, origin, folder)
    known = origin or _origin_from(folder, made, "preview" if what == "preview" else "picture")
    return _explained(image, what, known, origin is not None, made.row, folder, state)


def set_around(image: Path) -> Path | None:
    """Return the synthetic set in whose folder a picture lies; None where it lies in none."""
    above = [image.absolute(), image.resolve()]
    folders = (folder for path in above for folder in list(path.parents)[:DEEPEST])
    return next((folder for folder in folders if (folder / MANIFEST).is_file()), None)


def _explained(image: Path, what: str, origin: Origin, marked: bool, *found: Any) -> Explanation:
    library = _library(origin)
    names = [name for request in origin.requests for name in request.findings]
    known = [name for name in dict.fromkeys(names) if library and name in library.findings]
    cited = library.cited(known) if library else ()
    row, folder, state = found or (None, None, "")
    return Explanation(image.name, what, origin, marked, row, folder, state, library.domain if library else "", cited)


def _library(origin: Origin) -> Library | None:
    """Return the findings of the package that prompts were made of; None for other findings, or none."""
    digest = origin.settings.get("findings")
    libraries = map(library_of, DOMAINS) if digest else ()
    return next((each for each in libraries if digest_of_value(each.model_dump(mode="json")) == digest), None)


# The set


def read_made(folder: Path) -> tuple[SyntheticSet | None, list[Made]]:
    """Return a set and its rows with their files; the set is None for a folder that `remove` made.

    Raises:
        DataError: The folder is no finished set.
    """
    path = folder / MANIFEST
    lines = RecordFile(path, lambda line, number: json_of_line(line, path, number))  # of a set, gigabytes
    if "source" in lines[0] and "request" not in lines[0]:
        return None, [Made(typed(RemovedCase, values, path)) for values in lines]
    found = read_manifest(folder)
    others: dict[str, list[Row]] = {}
    for row in found:
        if row.shown_in:
            others.setdefault(row.shown_in, []).append(row)
    return found, [Made(row, (row, *others.get(row.id, ()))) for row in found]


def _found(image: Path, origin: Origin | None, folder: Path) -> tuple[Made, str, State]:
    """Return the row of a set that a picture belongs to, what it is, and whether it is the file of the set.

    Raises:
        DataError: It is none of the set.
    """
    synthetic, rows = read_made(folder)
    for made, path, what in _candidates(image, origin, folder, rows):
        state = _state(image, folder / path, made.row.digests.get(path, ""))
        return made, what, state
    digest = digest_of_file(image)
    real = [name for name, other in (synthetic.images if synthetic else {}).items() if other == digest]
    if real:
        raise DataError(
            f"{image} is a real image: {real[0]}, on which the model of {folder} was fitted; nothing is painted on it"
        )
    raise DataError(
        f"a picture is looked for by its metadata, its bytes and its pixels: {folder} has none like {image}; check the "
        "set, or take a copy that was not scaled, cropped or saved as JPEG"
    )


def _candidates(
    image: Path, origin: Origin | None, folder: Path, rows: Sequence[Made]
) -> Iterator[tuple[Made, str, str]]:
    """Yield rows, paths and kinds of files that a picture may be, the surest first."""
    files = [(made, path, what) for made in rows for path, what in made.files.items()]
    inside = image.resolve()
    if inside.is_relative_to(folder.resolve()):
        place = inside.relative_to(folder.resolve()).as_posix()
        yield from (each for each in files if each[1] == place)
    if origin is not None and _is_of(origin, folder):
        named = ((made, made.path(origin.kind)) for made in rows if made.row.id == origin.id)
        yield from ((made, path, made.files[path]) for made, path in named if path)
    digest = digest_of_file(image)
    yield from (each for each in files if each[0].row.digests.get(each[1]) == digest)
    if origin is None:
        yield from (
            each for each in files if each[2] in ("picture", "preview") and _same_pixels(image, folder / each[1])
        )


def _is_of(origin: Origin, folder: Path) -> bool:
    """Tell whether a picture's metadata name a set; a selected set has no settings of its own."""
    contents = read_contents(folder, CONFIG)
    return contents is None or recorded_settings(contents["identity"]) == origin.settings


def _state(image: Path, path: Path, digest: str) -> State:
    """Return whether a picture is a file of the set, by the digest in the manifest or, without one, by its bytes."""
    if digest_of_file(image) == (digest or (digest_of_file(path) if path.is_file() else "")):
        return "same"
    return "pixels" if path.is_file() and _same_pixels(image, path) else "other"


def _same_pixels(image: Path, other: Path) -> bool:
    """Tell whether two files show the same pixels; False where one cannot be read."""
    try:
        with opened(image) as one, opened(other) as two:
            if one.size != two.size:
                return False
    except (*DAMAGE, Image.DecompressionBombError):
        return False
    return bool(np.array_equal(read_image(image), read_image(other)))


def _origin_from(folder: Path, made: Made, kind: Kind) -> Origin:
    """Return what a set knows of the origin of a picture without metadata."""
    contents: Mapping[str, Any] = read_contents(folder, CONFIG) or {"identity": {}}
    noted = typed(dict[str, Any], contents.get("versions", {}), f"the versions in {folder / CONFIG}")
    versions = {name: str(value) for name, value in noted.items()}
    settings = {"model": made.row.model, **recorded_settings(contents["identity"])}
    if isinstance(made.row, RemovedCase):
        return Origin(settings, "", versions, "", made.row.id, "removed", source=made.row.source)
    requests = tuple(row.request for row in made.shown)
    return Origin(settings, made.row.validator, versions, "", made.row.id, kind, requests)
