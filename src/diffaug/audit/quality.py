"""How like real lesions painted ones are: features, attributes, places, seams and sharpness."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from diffaug.audit.lesions import Found
from diffaug.audit.painted import MOST_COMPARED, MOST_SEAMS, Measured
from diffaug.audit.scores import Score, Values, bootstrap
from diffaug.conditioning.attributes import measure_attributes
from diffaug.data.distributions import QUANTITIES, compare
from diffaug.data.folder import Dataset
from diffaug.data.images import is_grey
from diffaug.data.manifest import SyntheticSet
from diffaug.painting.seams import ratios, region_around
from diffaug.realism.measures import Features, density_coverage, kid, precision_recall

OF_COLOUR = ("redness_contrast", "colour_contrast")  # attributes that mean nothing in grey images


@dataclass(frozen=True)
class Property:
    """The mean of one property of lesions, painted beside real.

    Attributes:
        name: What is measured.
        real: Mean over real lesions.
        low: Lower end of its 95 % interval, over groups.
        high: Upper end.
        painted: Mean over painted lesions.
        painted_low: Lower end of its interval; None where only the real one has an interval.
        painted_high: Upper end.
    """

    name: str
    real: float
    low: float
    high: float
    painted: float | None
    painted_low: float | None = None
    painted_high: float | None = None

    @property
    def outside(self) -> bool:
        """Whether the painted mean, or its interval where it has one, lies outside the interval of the real one."""
        if self.painted is None:
            return False
        low, high = self.painted_low, self.painted_high
        low, high = (self.painted, self.painted) if low is None or high is None else (low, high)
        return high < self.low or low > self.high


def feature_scores(painted: Features, real: Features, other: Features) -> list[Score]:
    """Return kernel distance, precision, recall, density and coverage of painted lesions against real ones.

    Args:
        painted: Features of painted lesions, (N, D).
        real: Of real lesions, (M, D).
        other: Of other real lesions, which show what can be expected of a perfect painter, (L, D).
    """
    distance, usual = kid(painted, real), kid(other, real)
    found = precision_recall(painted, real) | density_coverage(painted, real)
    expected = precision_recall(other, real) | density_coverage(other, real)
    meanings = {
        "precision": "painted lesions that lie among real ones",
        "recall": "real lesions that lie among painted ones",
        "density": "how many real neighbourhoods a painted lesion lies in, over the expected number",
        "coverage": "real lesions whose neighbourhood holds a painted one",
    }
    value, low, high = (distance[name] for name in ("value", "low", "high"))
    meaning = "kernel distance (KID), times 1,000; with few lesions it can be below 0"
    scores = [Score("kernel distance", meaning, value, low, high, best=0.0, real=usual["value"])]
    for name, meaning in meanings.items():
        unit = "number" if name == "density" else "share"
        scores.append(Score(name, meaning, found[name], best=1.0, worst=0.0, real=expected[name], unit=unit))
    return scores


def seam_scores(painted: Measured, real: Sequence[Found]) -> list[Score]:
    """Return the medians of the ratios of gradients at the border, and of detail inside, of painted lesions."""
    made = np.array(painted.values)
    usual = np.array([ratios(one.image, one.mask, region_around(one.mask)) for one in real[:MOST_SEAMS]])
    meanings = {
        "seam": "gradient at the border of what was painted, over that beside it; the real value is best, a higher one "
        "is an edge that shows, a lower one a border that is smoother than in real images",
        "sharpness": "fine detail inside over outside; the real value is best, a lower one is blur, a higher one noise",
    }
    scores = []
    for column, (name, meaning) in enumerate(meanings.items()):
        expected = _median(usual[:, column])
        if not np.isfinite(made[:, column]).any() or not np.isfinite(expected):
            scores.append(Score(name, meaning, None, unit="ratio"))
            continue
        value, low, high = bootstrap([made[:, column]], [painted.groups], _median)
        scores.append(Score(name, meaning, value, low, high, best=expected, real=expected, unit="ratio"))
    return scores


def _median(values: Values) -> float:
    return float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")


def attributes_of(painted: Measured, real: Sequence[Found]) -> list[Property]:
    """Return the mean attributes of painted and of real lesions, with 95 % intervals over groups.

    Where no real image has a colour, there are none of colour: the painter keeps grey images grey.
    """
    grey = all(is_grey(one.image) for one in real)
    measured = [measure_attributes(one.image, one.mask) for one in real]
    usual = Measured([list(asdict(one).values()) for one in measured], [one.group for one in real])
    found = []
    for column, name in enumerate(asdict(measured[0])):
        if grey and name in OF_COLOUR:
            continue
        real_mean, made_mean = (
            bootstrap([np.array([row[column] for row in some.values], dtype=np.float64)], [some.groups], np.mean)
            for some in (usual, painted)
        )
        found.append(Property(name.replace("_", " "), *real_mean, *made_mean))
    return found


def places_of(dataset: Dataset, made: SyntheticSet) -> list[Property]:
    """Return where lesions lie, how large they are and how many an image has; the real mean has an interval.

    Of the set at most MOST_COMPARED pictures are measured.
    """
    return [
        Property(f"{each.quantity}: {QUANTITIES[each.quantity]}", each.real, each.low, each.high, each.painted)
        for each in compare(dataset, made.folder, MOST_COMPARED)
        if each.statistic == "mean"
    ]
