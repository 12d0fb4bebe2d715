"""Real lesions beside a painted one: what it was painted from, and the one that is most like it.

"Like" is by the measured attributes (`attributes.FEATURES`), as the novelty of `diffaug select`. All training lesions
are measured once, in a thread of its own, when the first painted lesion is looked at.
"""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from diffaug.conditioning.attributes import Attributes, Reference, measure_attributes
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.errors import DataError
from diffaug.review.rows import Rows
from diffaug.runfolder import kind_of


@dataclass(frozen=True)
class Nearest:
    """The real training lesion that is most like a painted one.

    Attributes:
        id: Of its case; empty while lesions are measured, or where there is none.
        distance: In standard deviations of the training lesions.
        measured: Training cases that were measured so far.
        of: How many there are.
    """

    id: str
    distance: float
    measured: int
    of: int


class RealLesions:
    """The annotated training cases of a data set, beside which painted lesions are shown.

    Raises:
        DataError: The folder is no data set of real images.
    """

    def __init__(self, folder: Path) -> None:
        if (kind := kind_of(folder)) == "is a synthetic set":
            raise DataError(f"--with names the data set that the synthetic set was generated from: {folder} {kind}")
        self._dataset = read_dataset(folder)
        self._names = frozenset(case.id for case in self._dataset)
        self._cases = self._dataset.annotated("train")
        self._lock = Lock()
        self._thread: Thread | None = None
        self._known: dict[str, Attributes] = {}  # by case, those with a lesion
        self._done = 0

    def case(self, name: str) -> Case:
        """Return a case by its id.

        Raises:
            DataError: The data set has no such case.
        """
        return self._dataset[name]

    def example(self, rows: Rows, number: int) -> str:
        """Return the id of the case that a row was painted from, or else of that whose mask it has; empty for none."""
        return next((name for name in rows.sources(number) if name in self._names), "")

    def nearest(self, rows: Rows, number: int) -> Nearest:
        """Return the training lesion that is most like the lesion of a row.

        Raises:
            DataError: The row has no picture, or a file cannot be read.
        """
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._measure, daemon=True)
                self._thread.start()
        if self._done < len(self._cases):
            return Nearest("", 0.0, self._done, len(self._cases))
        case = rows.case(number)
        attributes = measure_attributes(case.read_image(), case.read_mask())
        if not self._known or attributes.relative_area == 0:
            return Nearest("", 0.0, self._done, len(self._cases))
        distances = Reference(list(self._known.values())).distances(attributes)
        place = int(distances.argmin())
        return Nearest(list(self._known)[place], float(distances[place]), self._done, len(self._cases))

    def _measure(self) -> None:
        for case in self._cases:
            try:
                attributes = measure_attributes(case.read_image(), case.read_mask())
            except DataError:
                attributes = None  # the page says what is wrong with it where it is shown
            if attributes is not None and attributes.relative_area > 0:
                self._known[case.id] = attributes
            self._done += 1
