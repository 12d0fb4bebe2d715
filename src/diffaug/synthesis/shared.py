"""Pictures that several painted lesions share.

Each lesion of a case is painted and judged alone, on the same background and apart from the others. The accepted ones
are put into one picture with one label: the first of them holds the files, the others say in which row they are shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from diffaug.data.images import Label, Mask, Pixels
from diffaug.data.manifest import Row
from diffaug.painting.layout import Layout


@dataclass
class SharedPicture:
    """One picture in the making.

    Attributes:
        rows: The accepted lesions that it shows.
        image: Pixels, (H, W, 3).
        values: Its label in the values of the data set's classes, (H, W).
        region: Where it was painted, (H, W).
    """

    rows: list[Row]
    image: Pixels
    values: Label
    region: Mask

    def add(self, row: Row, layout: Layout, image: Pixels) -> None:
        """Put another lesion of the same background into the picture: the pixels that it changed, and its label."""
        changed = (image != layout.background).any(axis=2)
        self.image[changed] = image[changed]
        self.values[layout.masks.old] = 0
        self.values[layout.masks.new] = layout.masks.values[layout.masks.new]
        self.region |= layout.region
        self.rows.append(row)

    def finished_rows(self) -> list[Row]:
        """Return the rows in order, the first of which is to hold the files."""
        first, *others = sorted(self.rows, key=lambda row: row.request.index)
        joined = [replace(row, decision="joined", shown_in=first.id) for row in others]
        return [first, *joined]


class SharedPictures:
    """The pictures of a shard whose cases have several lesions each."""

    def __init__(self, per_case: int) -> None:
        """Take how many requests a case has, at most."""
        self._per_case, self._pictures = per_case, dict[int, SharedPicture]()

    def takes(self, row: Row) -> bool:
        """Tell whether a row's picture is shared with others: it is a kept lesion, and cases have several."""
        return self._per_case > 1 and row.decision == "kept" and not row.request.negative

    def add(self, row: Row, layout: Layout, image: Pixels) -> None:
        """Add a lesion and the frame on which it was painted alone."""
        number = row.request.index // self._per_case
        if number in self._pictures:
            self._pictures[number].add(row, layout, image)
        else:
            self._pictures[number] = SharedPicture(
                [row], np.array(image), np.array(layout.masks.values), np.array(layout.region)
            )

    def finished(self) -> Iterator[SharedPicture]:
        """Yield the pictures in the order of their cases."""
        for number in sorted(self._pictures):
            yield self._pictures[number]
