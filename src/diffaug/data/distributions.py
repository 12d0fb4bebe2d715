"""Where lesions lie, how large they are, how many an image has: annotated ones beside painted ones.

A quantity has a value for each lesion, or one for each image. Its mean and its deviation over the annotated images come
with a 95 % bootstrap interval over images; a painted mean or deviation outside that interval is said to be outside.

Knows masks and grey values only: nothing here is learned, and nothing steers what is painted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import PathLike
from diffaug.data.folder import Dataset
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import Lesion, components
from diffaug.data.manifest import read_manifest
from diffaug.data.records import Part, spread
from diffaug.errors import DataError

QUANTITIES = {
    "across": "distance from the left edge, in widths of the image",
    "down": "distance from the top edge, in heights of the image",
    "edge": "distance from the nearest edge, in shorter sides of the image",
    "size": "square root of the lesion's share of the image",
    "light": "mean grey level around it (0 to 255), less the median of the image",
    "texture": "deviation of the grey levels around it (0 to 255)",
    "number": "number of lesions in an image that has one",
}
SAME = 0.9  # a lesion of a painted image that covers one of its background by this IoU is not a new one
RESAMPLES, SEED = 1000, 0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One statistic of one quantity.

    Attributes:
        quantity: A key of QUANTITIES.
        statistic: mean or deviation.
        real: Of the annotated lesions.
        low: Lower end of its 95 % interval.
        high: Upper end.
        painted: Of the painted lesions; None where none were given.
    """

    quantity: str
    statistic: str
    real: float
    low: float
    high: float
    painted: float | None = None

    @property
    def outside(self) -> bool:
        """Whether the painted value lies outside the interval of the real one."""
        return self.painted is not None and not self.low <= self.painted <= self.high

    def annotated_text(self) -> str:
        """Return the value of the annotated lesions with its interval."""
        return f"{self.real:.3g} ({self.low:.3g} to {self.high:.3g})"

    def painted_text(self) -> str:
        """Return the value of the painted lesions, and whether it lies outside; empty without one."""
        return "" if self.painted is None else f"{self.painted:.3g}{' outside' * self.outside}"


def compare(data: Dataset, painted: PathLike | None = None, most: int | None = None) -> tuple[Comparison, ...]:
    """Measure the annotated training cases of a data set and, beside them, a synthetic set that was painted for it.

    Args:
        data: The data set.
        painted: The synthetic set; None for the annotated cases alone.
        most: Measure at most this number of painted cases, evenly spaced over the set; None measures all.

    Raises:
        DataError: No training case has a lesion, or a background of the synthetic set is not in the data set.
    """
    real = [_measured(case.read_image(), components(case.read_mask())) for case in data.split("train") if case.mask]
    real = [values for values in real if values]
    if not real:
        raise DataError(f"distributions are those of lesions: no training case of {data.folder} has one; annotate some")
    made = [] if painted is None else [values for values in _painted(data, Path(painted), most) if values]
    found = []
    for quantity in QUANTITIES:
        values, others = ([np.atleast_1d(each[quantity]) for each in cases] for cases in (real, made))
        low, high = _interval(values)
        for index, statistic in enumerate(("mean", "deviation")):
            new = float(_statistics(others)[index]) if others else None
            found.append(
                Comparison(quantity, statistic, float(_statistics(values)[index]), low[index], high[index], new)
            )
    return tuple(found)


def table_of(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons as text: a line for each quantity, and one below it for painted lesions, if any."""
    rows: list[tuple[str, ...]] = [
        ("lesions of the annotated training images", "mean (95 % interval)", "deviation (95 % interval)")
    ]
    for quantity, meaning in QUANTITIES.items():
        pair = [each for each in comparisons if each.quantity == quantity]
        rows.append((meaning, *(each.annotated_text() for each in pair)))
        if any(each.painted is not None for each in pair):
            rows.append(("  painted", *(each.painted_text() for each in pair)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if any(each.painted is not None for each in comparisons):
        lines.append("outside: the painted lesions differ from the annotated ones by more than chance explains.")
    return "\n".join(lines)


def _painted(data: Dataset, folder: Path, most: int | None) -> Iterable[dict[str, Values]]:
    """Yield the values of the new lesions of each kept case that shows one."""
    made = read_manifest(folder)
    places = [place for place, row in enumerate(made) if row.decision == "kept" and not row.request.negative]
    for row in Part(made.rows, spread(places, most or len(places))):
        case, background = made.case(row), data[row.request.background]
        old = components(background.read_mask()) if background.mask else []
        found = components(case.read_mask())
        values = _measured(case.read_image(), [lesion for lesion in found if not _is_old(lesion, old)], found)
        yield {**values, "number": np.array([float(len(found))])} if values else {}


def _is_old(lesion: Lesion, olds: Sequence[Lesion]) -> bool:
    mask = lesion.in_frame()
    for old in olds:
        shared = np.count_nonzero(mask[old.slices] & old.crop)
        if shared > SAME * (lesion.area + old.area - shared):
            return True
    return False


def _measured(image: Pixels, lesions: Sequence[Lesion], present: Sequence[Lesion] = ()) -> dict[str, Values]:
    """Return the values of each quantity in one image; nothing where there is no lesion.

    Args:
        image: Pixels, (H, W, 3).
        lesions: Those to measure.
        present: All lesions of the image, none of which count as what is around others; those to measure by default.
    """
    if not lesions:
        return {}
    grey, every = image.mean(axis=2, dtype=np.float32), np.zeros(image.shape[:2], dtype=bool)
    for lesion in present or lesions:
        every[lesion.slices] |= lesion.crop
    usual, rows = float(np.median(grey[::4, ::4])), []
    for lesion in lesions:
        (height, width), crop = lesion.frame, lesion.crop
        inside = np.argwhere(crop).mean(axis=0) + 0.5
        row, column = inside[0] + lesion.top, inside[1] + lesion.left
        edge = min(row, column, height - row, width - column) / min(height, width)
        around = _around(grey, every, lesion)
        light, texture = (float(np.mean(around)) - usual, float(np.std(around))) if len(around) else (0.0, 0.0)
        rows.append((column / width, row / height, edge, float(np.sqrt(lesion.relative_area)), light, texture))
    values = np.array(rows).T
    return {**dict(zip(QUANTITIES, values, strict=False)), "number": np.array([float(len(lesions))])}


def _around(grey: NDArray[np.float32], lesions: Mask, lesion: Lesion) -> NDArray[np.float32]:
    """Return the grey levels in the box of a lesion and a quarter of it around, without lesions."""
    height, width = lesion.crop.shape
    rows = slice(max(0, lesion.top - height // 4 - 1), lesion.top + height + height // 4 + 1)
    columns = slice(max(0, lesion.left - width // 4 - 1), lesion.left + width + width // 4 + 1)
    return grey[rows, columns][~lesions[rows, columns]]


def _statistics(cases: Sequence[Values]) -> tuple[float, float]:
    """Return mean and deviation of all values of some cases."""
    values = np.concatenate(list(cases))
    return float(values.mean()), float(values.std())


def _interval(cases: Sequence[Values]) -> tuple[list[float], list[float]]:
    """Return the lower and the upper ends of the intervals of mean and deviation."""
    sums = np.array([(len(values), values.sum(), (values**2).sum()) for values in cases])
    drawn = np.random.default_rng(SEED).integers(len(cases), size=(RESAMPLES, len(cases)))
    count, total, square = sums[drawn].sum(axis=1).T
    mean = total / count
    spread = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    low, high = (np.quantile((mean, spread), end, axis=1) for end in (0.025, 0.975))
    return [float(each) for each in low], [float(each) for each in high]
