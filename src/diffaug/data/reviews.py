"""What people decided about the cases of a synthetic set: `review.jsonl` in its folder, one appended line a decision.

`diffaug review` writes it; `select`, `export`, `study` and `SyntheticDataset` leave out the pictures that it rejects. A
line names the digest of the picture that was looked at, so that decisions are not taken for those of another set.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from diffaug.artifacts import append_jsonl, read_jsonl, write_text
from diffaug.data.manifest import SyntheticSet
from diffaug.errors import DataError
from diffaug.names import Inside, Name
from diffaug.reading import read_bytes, typed

FILE = "review.jsonl"
LONGEST_WHY = 500  # characters
FIX = "restore the file, or remove the line, and look at its case again"

Decision = Literal["accept", "reject", "undo"]
Why = Annotated[str, StringConstraints(max_length=LONGEST_WHY)]
When = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]  # UTC


@dataclass(frozen=True)
class Review:
    """One decision.

    Attributes:
        id: Of the row.
        decision: `undo` takes back the last decision about the row that was not taken back before.
        who: The reviewer.
        when: UTC, to the second.
        why: In the reviewer's words; often empty.
        image: Digest of the row's picture, as the manifest has it; empty for a row without one.
    """

    id: Name
    decision: Decision
    who: Name
    when: When
    why: Why = ""
    image: str = ""


def in_force(reviews: Iterable[Review]) -> dict[str, Review]:
    """Return the decision about each row that holds: the last one that was not taken back."""
    made: dict[str, list[Review]] = {}
    for review in reviews:
        _take(made, review)
    return {name: of_row[-1] for name, of_row in made.items() if of_row}


def _take(made: dict[str, list[Review]], review: Review) -> None:
    """Add a decision to those about each row that are not taken back."""
    of_row = made.setdefault(review.id, [])
    if review.decision != "undo":
        of_row.append(review)
    elif of_row:
        of_row.pop()


def read_reviews(folder: Path) -> list[Review]:
    """Return the decisions of a set, in order; there are none where nobody reviewed it.

    A line that a kill cut off is passed over.

    Raises:
        DataError: A line breaks a rule of the file, or the file is a link that leads out of the folder.
    """
    path = Inside(folder).path(FILE)
    lines = read_jsonl(path)
    return [typed(Review, line, f"{path} line {number}", FIX) for number, line in enumerate(lines, start=1)]


def rejected_pictures(found: SyntheticSet) -> frozenset[str]:
    """Return the ids of the pictures of a set that people rejected, or that show a lesion which they rejected.

    Raises:
        DataError: See `read_reviews`; or a decision is about another picture than the set has.
    """
    holding = in_force(read_reviews(found.folder))
    if not holding:
        return frozenset()
    rejected = set()
    for row in found:
        review = holding.get(row.id)
        if review and review.image != row.image_digest:
            raise DataError(
                f"a review belongs to its set: {found.folder / FILE} decides about another picture of {row.id} than "
                "the manifest names; remove the file, and review this set"
            )
        if review and review.decision == "reject":
            rejected.add(row.shown_in or row.id)
    return frozenset(rejected)


class Reviews:
    """The decisions of a set, to which more are appended.

    A line that a kill cut off is removed when the file is opened.

    Attributes:
        lines: All decisions, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Inside(folder).path(FILE)
        self.lines = read_reviews(folder)
        self._made: dict[str, list[Review]] = {}
        for line in self.lines:
            _take(self._made, line)
        if self.path.exists() and not (data := read_bytes(self.path)).endswith(b"\n"):
            whole = data.split(b"\n")[: len(self.lines)]
            write_text(self.path, "".join(f"{line.decode()}\n" for line in whole))

    def add(self, review: Review) -> None:
        """Append a decision to the file, then to the list."""
        append_jsonl(self.path, asdict(review))
        _take(self._made, review)
        self.lines.append(review)

    def holding(self, name: str) -> Review | None:
        """Return the decision about a row that holds, if any."""
        of_row = self._made.get(name)
        return of_row[-1] if of_row else None
