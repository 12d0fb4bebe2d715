"""The record of a synthetic set: what was asked for, what became of it, and where its files are.

A synthetic set is a folder with `manifest.jsonl`, one `Row` a line: every request, kept or not. `generate` writes it,
every other stage reads it through `read_manifest`. A row holds all that is needed to make its case again, and no times.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from diffaug.artifacts import PathLike, jsonl_text, read_jsonl, write_jsonl
from diffaug.data.case import LESION, NEGATIVE, PAINTED_NEGATIVE, Case, LabelClass
from diffaug.data.folder import read_classes
from diffaug.data.records import Distinct, Names, RecordFile
from diffaug.data.request import Check, RemovedRegion, Request, Scores
from diffaug.data.seen import UNKNOWN, Seen, read_seen
from diffaug.errors import DataError
from diffaug.names import Inside, OptionalName, PicturePath, check_distinct, without_links
from diffaug.reading import json_of_line, read_kept, read_typed
from diffaug.runfolder import in_use, kind_of

MANIFEST = "manifest.jsonl"
PROVENANCE = "provenance.json"
SUMMARY = "summary.json"
SCHEMA = 2  # of a row; raised when a reader of the older one would misunderstand it

# surplus: accepted, beyond the number asked for; joined: accepted, and shown in the picture of another row
Decision = Literal["kept", "surplus", "joined", "stopped", "rejected"]


@dataclass(frozen=True)
class Row:
    """One request of a synthetic set, and what became of it.

    Attributes:
        request: What was asked for.
        decision: What the gate decided.
        reason: The same in words, with the score and its threshold.
        steps: Sampling steps that were done.
        checks: Every look of the gate, in order.
        window: Top, left and side of the painted square, px of the frame.
        model: Digest of the model.
        validator: Digest of its validators.
        config: Digest of what the set depends on beside the model.
        removed: Regions of the background that were painted lesion-free first.
        found: Of a negative, the mean lesion probability that the validator finds in its region.
        shown_in: The id of the row whose picture shows the lesion, where several share one; empty where none do.
        image: Path of the picture in the set's folder; empty where none was written.
        mask: Path of its label.
        region: Path of a mask of what was painted: of a negative, and of a lesion on an image of which nothing else is
            known.
        preview: Path of a small picture of what was turned down.
        preview_mask: Path of the requested mask in that picture.
        image_digest: Of the picture's bytes.
        mask_digest: Of the label's bytes.
        region_digest: Of the bytes of the mask of what was painted; sets of older versions have none.
        lesion_free: Whether the whole label is background.
        scores: What `diffaug select` measured.
    """

    request: Request
    decision: Decision
    reason: str
    steps: int
    checks: tuple[Check, ...]
    window: tuple[int, int, int]
    model: str
    validator: str
    config: str
    removed: tuple[RemovedRegion, ...] = ()
    found: float | None = None
    shown_in: OptionalName = ""
    image: PicturePath = ""
    mask: PicturePath = ""
    region: PicturePath = ""
    preview: PicturePath = ""
    preview_mask: PicturePath = ""
    image_digest: str = ""
    mask_digest: str = ""
    region_digest: str = ""
    lesion_free: bool = False
    scores: Scores | None = None
    look: Check | None = None  # of the critic of realism: how well the lesion convinces, from 0 to 1

    @property
    def id(self) -> str:
        """The id of the request, and of its case."""
        return self.request.id

    @property
    def is_partly_known(self) -> bool:
        """Whether its label is known in its region alone: it is painted on an image of which nothing is known."""
        return bool(self.region) and not self.request.negative

    @property
    def accepted(self) -> bool:
        """Whether the gate accepted it; a surplus case was accepted, too, and a lesion in another row's picture."""
        return self.decision in ("kept", "surplus", "joined")

    @property
    def score(self) -> float | None:
        """The agreement at the last look; None without a gate."""
        return self.checks[-1].score if self.checks else None

    @property
    def stopped_after(self) -> int:
        """The step after which the gate stopped it, or would have: some samples are painted to the end all the same."""
        return next((check.step for check in self.checks if not check.accepted), self.steps)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all files that it names."""
        return tuple(path for path in (self.image, self.mask, self.region, self.preview, self.preview_mask) if path)

    @property
    def digests(self) -> dict[str, str]:
        """The digests of its files by path, as far as they are kept."""
        named = (self.image, self.image_digest), (self.mask, self.mask_digest), (self.region, self.region_digest)
        return {path: digest for path, digest in named if path and digest}


@dataclass(frozen=True, repr=False)
class SyntheticSet:
    """A synthetic set as it lies on disk: a sequence of `Row`.

    Attributes:
        folder: Where it lies; the paths of its rows are relative to it.
        rows: Every request, in order. Those of `read_manifest` lie in the file, and each is read when it is asked for.
        classes: Those of its labels; empty for the one class `lesion`.
        images: Digest of each image that its model was fitted on, by case; empty where the set does not say.
        annotations: Digest of each annotated case that its model was fitted on.
        seen: Every image that its model, or a base of it, has seen.

    Example:
        >>> synthetic = diffaug.read_manifest("synthetic/mine")
        >>> synthetic
        SyntheticSet(synthetic/mine: 2 requests, 1 kept)
        >>> synthetic.case(synthetic["synth-00000"]).prompt
        'a small pale polyp'
        >>> [(record["id"], record["kind"], record["decision"]) for record in synthetic.table()]
        [('synth-00000', 'lesion', 'kept'), ('synth-00001', 'lesion', 'stopped')]
    """

    folder: Path
    rows: Sequence[Row]
    classes: tuple[LabelClass, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    seen: Seen = field(default=UNKNOWN, compare=False)  # arrays, which have no single truth value

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, key: int | str) -> Row:
        """Return the row at a position or of an id.

        Raises:
            DataError: No row has the id.
            IndexError: There are fewer rows.
        """
        if not isinstance(key, str):
            return self.rows[key]
        place = self.place_of(key)
        if place is None:
            raise DataError(f"an id must be in {self.folder / MANIFEST}: {key!r} is not; check the id")
        return self.rows[place]

    def place_of(self, name: str) -> int | None:
        """Return the place of the row of an id; None where there is none."""
        return next((place for place in self._names.places(name) if self.rows[place].id == name), None)

    @cached_property
    def _names(self) -> Names:
        return Names(row.id for row in self.rows)

    def __repr__(self) -> str:
        count = sum(row.decision == "kept" for row in self.rows)
        return f"SyntheticSet({self.folder}: {len(self)} requests, {count} kept)"

    def case(self, row: Row, group: str = "") -> Case:
        """Return a row with a picture as a training case.

        Args:
            row: A row of this set, with an image.
            group: What must not be divided by a split; the background unless given.
        """
        attributes, request = ({NEGATIVE: 1.0} if row.lesion_free else {}), row.request
        paths, group = (self.folder / row.image, self.folder / row.mask), group or request.background
        known = self.folder / row.region if row.is_partly_known else None
        words = group, "train", request.prompt
        return Case(row.id, *paths, *words, attributes, self.classes, known, request.negative)

    def table(self) -> list[dict[str, Any]]:
        """Return one flat record a row, such as for `pandas.DataFrame(synthetic.table())`.

        Every record has the same columns, each with a text, a number, a truth value or None.
        """
        return [_record_of(row) for row in self.rows]


def lesions(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that asked for a lesion, in order."""
    return [row for row in rows if not row.request.negative]


def painted(rows: Iterable[Row]) -> list[Row]:
    """Return the lesions that were painted to the end and written, whatever the gate said, in order."""
    return [row for row in lesions(rows) if row.image]


def accepted(rows: Iterable[Row]) -> list[Row]:
    """Return the painted lesions that the gate accepted, surplus ones included, in order."""
    return [row for row in painted(rows) if row.accepted]


def negatives(rows: Iterable[Row]) -> list[Row]:
    """Return the accepted cases that were painted lesion-free, in order."""
    return [row for row in rows if row.request.negative and row.image and row.accepted]


def kept(rows: Iterable[Row]) -> list[Row]:
    """Return the cases that belong to the set, lesions and negatives, in order."""
    return [row for row in rows if row.decision == "kept"]


def values_of(row: Row) -> dict[str, Any]:
    """Return what the line of a row holds."""
    return {"schema": SCHEMA, **asdict(row)}


def text_of_rows(rows: Iterable[Row]) -> str:
    """Return rows as JSON lines."""
    return jsonl_text(map(values_of, rows))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, atomically."""
    write_jsonl(path, map(values_of, rows))


def read_rows(path: Path) -> tuple[Row, ...]:
    """Read rows that `write_rows` wrote; none where the file does not exist.

    Raises:
        DataError: A line is not a row, or another version of diffaug wrote it.
    """
    return tuple(row_of(values, path, number) for number, values in enumerate(read_jsonl(path, torn=False), start=1))


@cache
def _adapter() -> TypeAdapter[Row]:
    return TypeAdapter(Row)


def row_of(values: Any, path: Path, number: int) -> Row:
    """Return the row that a line of a manifest holds.

    Args:
        values: JSON value of the line.
        path: The manifest, and the number of the line, from 1, as errors name them.
        number: See `path`.

    Raises:
        DataError: It is not a row, or another version of diffaug wrote it.
    """
    version = values.pop("schema", 1) if isinstance(values, dict) else None
    if version != SCHEMA:
        raise DataError(
            f"a manifest has rows of schema {SCHEMA}: {path} line {number} is of {version}, which another version of "
            "diffaug wrote; generate the set again with this one"
        )
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"only diffaug writes a manifest: {path} line {number} has {where}: {first['msg']}; "
            "restore the file, or generate the set again"
        ) from None


def _row_of_line(path: Path, line: bytes, number: int) -> Row:
    return row_of(json_of_line(line, path, number), path, number)


def read_manifest(folder: PathLike) -> SyntheticSet:
    """Read a finished synthetic set.

    Args:
        folder: The folder that `diffaug generate` or `diffaug select` made.

    Raises:
        DataError: The folder holds no finished set, or one of another version of diffaug, or a row breaks a rule.

    Example:
        >>> synthetic = diffaug.read_manifest("synthetic/mine")
        >>> [row.request.prompt for row in synthetic if row.accepted]
        ['a small pale polyp']
    """
    folder = Path(folder)
    check_finished(folder)
    without_links(folder)
    table = folder / MANIFEST
    rows = RecordFile(table, partial(_row_of_line, table))
    _check_rows(folder, rows)
    path = folder / PROVENANCE
    known = read_typed(path, Fitted, "generate the set again") if path.is_file() else Fitted()
    return SyntheticSet(folder, rows, read_classes(folder), known.images, known.cases, read_seen(folder))


def _check_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Go through the rows of a set once, and refuse what breaks a rule.

    Raises:
        DataError: See `read_manifest`.
    """
    place, distinct, pictures = Inside(folder), Distinct(), 0
    for row in rows:
        distinct.see(row.id)
        pictures += not row.shown_in
        for name in row.files:
            place.check(name, f"a file of {row.id} in {MANIFEST}")
    counted, found = _counts_of(folder / SUMMARY, len(rows), pictures)
    if counted not in (None, found):
        raise DataError(
            f"a synthetic set has the rows that its summary counts: {folder / MANIFEST} has {found}, not {counted}; "
            "run the command that made the set again, or restore the file"
        )
    if distinct.may_repeat:
        check_distinct((row.id for row in rows), folder / MANIFEST)


def check_finished(folder: Path) -> None:
    """Refuse a folder that is no finished synthetic set, by its files; none of them is read.

    Raises:
        DataError: It is something else, or its set is not finished.
    """
    kind = kind_of(folder)
    started = kind == "is a synthetic set" or (kind == "is a data set" and (folder / SUMMARY).is_file())
    if kind and not started:
        raise DataError(
            f"a synthetic set is a folder that `diffaug generate` or `diffaug select` made: {folder} {kind}; check the "
            "path"
        )
    for name in (MANIFEST, SUMMARY):
        if not (folder / name).is_file():
            if in_use(folder):
                raise DataError(
                    f"a synthetic set must be finished: a process is still making {folder}; wait until it has finished"
                )
            raise DataError(
                f"a synthetic set must be finished: {folder} has no {name}; run `diffaug generate` again to complete it"
            )


def rows_painted(summary: Path) -> int | None:
    """Return how many rows the summary of `generate` counts; None where it is another summary."""
    painted = read_kept(summary, _Painted)
    return painted.lesions.requested + painted.negatives.requested if painted else None


@dataclass(frozen=True)
class _Requested:
    requested: int


@dataclass(frozen=True)
class _Painted:
    """What the summary of `generate` counts."""

    lesions: _Requested
    negatives: _Requested


@dataclass(frozen=True)
class _Selected:
    """What the summary of `select` counts."""

    kept: int
    negatives: int


def _counts_of(summary: Path, rows: int, pictures: int) -> tuple[int | None, int]:
    """Return how many rows a summary counts, if it says so, and how many there are; a selection counts pictures."""
    if (painted := rows_painted(summary)) is not None:
        return painted, rows
    selected = read_kept(summary, _Selected)
    counted = selected.kept + selected.negatives if selected else None
    return counted, pictures


@dataclass(frozen=True)
class Fitted:
    """What a model was fitted on, as fit.json and provenance.json say it: digests of images and annotated cases."""

    images: dict[str, str] = field(default_factory=dict)
    cases: dict[str, str] = field(default_factory=dict)


def _record_of(row: Row) -> dict[str, Any]:
    request, transform, values = asdict(row.request), asdict(row.request.transform), asdict(row)
    nested = ("request", "transform", "checks", "window", "removed", "scores", "look")
    return {
        **{name: value for name, value in {**request, **transform, **values}.items() if name not in nested},
        "kind": PAINTED_NEGATIVE if request["negative"] else LESION,
        "findings": ", ".join(row.request.findings),
        "unknown_words": ", ".join(row.request.unknown_words),
        **dict(zip(("window_top", "window_left", "window_side"), row.window, strict=True)),
        "score": row.score,
        "threshold": row.checks[-1].threshold if row.checks else None,
        "looks_real": row.look.score if row.look else None,
        "removed_regions": len(row.removed),
        **{name: getattr(row.scores, name, None) for name in ("loss", "novelty", "low_contrast")},
    }
