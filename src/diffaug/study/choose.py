"""Which painted cases a training set takes: pure functions of a synthetic set's rows and of their scores.

One synthetic set, painted to the end whatever the gate said (`generate.paint_all`), serves every arm of a study: each
arm is a choice of its rows. Knows rows; reads no images.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.config import SelectConfig
from diffaug.data.manifest import Row, negatives, painted
from diffaug.data.request import Scores

HELD_OUT = 4  # every fourth negative trains nothing: false alarms are counted on it


def is_kept_lesion(row: Row) -> bool:
    """Tell whether a row is an accepted painted lesion of the set: one of those that were asked for, with a picture.

    What the last shard of a set kept beyond the count is `surplus`. It belongs neither to cases.csv nor to a study.
    """
    return row.decision == "kept" and bool(row.image) and not row.request.negative


def kept_lesions(rows: Iterable[Row]) -> list[Row]:
    """Return the accepted painted lesions that a study trains on, in order."""
    return [row for row in rows if is_kept_lesion(row)]


def over_threshold(rows: Iterable[Row], threshold: float) -> list[Row]:
    """Return the painted lesions whose last score reaches one threshold for all sizes: the published filter."""
    return [row for row in painted(rows) if row.score is not None and row.score >= threshold]


def random_like(rows: Iterable[Row], model: Sequence[Row], seed: int) -> list[Row]:
    """Return painted lesions drawn at random, with as many of each size as another choice has.

    Where the same rows are given again, the draw is the same.
    """
    rng = np.random.default_rng(seed)
    wanted = Counter(row.request.size_bin for row in model)
    pool = painted(rows)
    chosen: set[str] = set()
    for size in sorted(wanted):
        of_size = sorted(row.id for row in pool if row.request.size_bin == size)
        chosen.update(of_size[index] for index in rng.permutation(len(of_size))[: wanted[size]])
    return [row for row in pool if row.id in chosen]


def training_negatives(rows: Iterable[Row]) -> list[Row]:
    """Return the accepted negatives to train on."""
    return [row for index, row in enumerate(negatives(rows)) if is_trained_on(index)]


def is_trained_on(number: int) -> bool:
    """Tell whether the negative of a number, from 0, is trained on."""
    return bool((number + 1) % HELD_OUT)


def held_out_negatives(rows: Iterable[Row]) -> list[Row]:
    """Return the accepted negatives that no arm trains on: every fourth."""
    return negatives(rows)[HELD_OUT - 1 :: HELD_OUT]


def select(rows: Iterable[Row], scores: Mapping[str, Scores], config: SelectConfig, count: int) -> list[Row]:
    """Choose the cases that are worth training on: accepted, hard but not too hard, novel, and balanced over strata.

    Of the accepted rows, those over the `hard_cut` quantile of the loss of their size are dropped: what the baseline
    fails on so much is more often wrong than informative. The rest are chosen one at a time, in turn from each stratum
    (size, and low contrast or not) that still has some, the one with the highest

        rank(loss) + novelty_weight * min(1, distance / typical distance)

    where the distance is that to the nearest training lesion or chosen case, and the typical one the median distance of
    the accepted cases to their nearest training lesion.

    Args:
        rows: Of the synthetic sets.
        scores: What `study.derive` measured, by id.
        config: The upper cut of the loss, and the weight of novelty.
        count: Cases wanted; fewer are returned where there are fewer.

    Returns:
        The chosen rows in the order of choice; the first n of them are the choice of n.
    """
    candidates = [row for row in kept_lesions(rows) if row.id in scores]
    if not candidates:
        return []
    return [candidates[place] for place in choice_of(candidates, [scores[row.id] for row in candidates], config, count)]


def choice_of(rows: Iterable[Row], scores: Iterable[Scores], config: SelectConfig, count: int) -> list[int]:
    """Return the places of the rows that `select` chooses, in the order of choice.

    Args:
        rows: Accepted painted lesions; of each a few numbers are kept, so there may be many.
        scores: Of each row.
        config: See `select`.
        count: See `select`.
    """
    table = _Table.of(rows, scores)
    return [int(place) for place in table.choice(table.not_too_hard(config.hard_cut), config.novelty, count)]


@dataclass(frozen=True, eq=False)
class _Table:
    """What a selection needs of each row, in arrays of one length.

    Attributes:
        size: The place of its size in the sorted names of sizes.
        low_contrast: Whether its contrast is low.
        loss: Of the baseline.
        novelty: Distance to the nearest training lesion.
        features: Its attributes, (n, D).
        index: Of the request.
    """

    size: NDArray[np.int64]
    low_contrast: NDArray[np.bool_]
    loss: NDArray[np.float64]
    novelty: NDArray[np.float64]
    features: NDArray[np.float64]
    index: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Row], scores: Iterable[Scores]) -> "_Table":
        """Go through rows and their scores once."""
        index, sizes, low = array("q"), array("q"), array("b")
        loss, novelty, features = array("d"), array("d"), array("d")
        number_of: dict[str, int] = {}
        for row, found in zip(rows, scores, strict=True):
            index.append(row.request.index)
            sizes.append(number_of.setdefault(row.request.size_bin, len(number_of)))
            low.append(found.low_contrast)
            loss.append(found.loss)
            novelty.append(found.novelty)
            features.extend(found.features)
        order = np.argsort(np.argsort(np.array(list(number_of), dtype=object)))
        return cls(
            order[np.array(sizes)] if sizes else np.array([], np.int64),
            np.array(low, np.bool_),
            np.array(loss),
            np.array(novelty),
            np.array(features).reshape(len(index), -1 if index else 0),
            np.array(index),
        )

    def not_too_hard(self, quantile: float) -> NDArray[np.int64]:
        """Return the places of the rows whose loss is at most a quantile of the losses of their size."""
        easy = np.zeros(len(self.loss), np.bool_)
        for size in np.unique(self.size):
            losses = self.loss[self.size == size]
            easy |= (self.size == size) & (self.loss <= np.quantile(losses, quantile, method="higher"))
        return np.flatnonzero(easy)

    def choice(self, places: NDArray[np.int64], novelty: float, count: int) -> NDArray[np.int64]:
        """Choose among some places one at a time, in turn from each stratum; see `select`."""
        if not len(places):
            return places
        distance, features, index = self.novelty[places], self.features[places], self.index[places]
        typical, rank = float(np.median(distance)) or 1.0, _ranks(self.loss[places])
        stratum = 2 * self.size[places] + self.low_contrast[places]
        waiting = [np.flatnonzero(stratum == each) for each in np.unique(stratum)]
        chosen: list[int] = []
        while waiting and len(chosen) < count:
            for number in range(min(len(waiting), count - len(chosen))):
                members = waiting[number]
                worth = rank[members] + novelty * np.minimum(1.0, distance[members] / typical)
                equals = np.flatnonzero(worth == worth.max())
                taken = equals[np.argmin(index[members[equals]])]
                chosen.append(int(members[taken]))
                waiting[number] = np.delete(members, taken)
                apart = features - features[chosen[-1]]
                distance = np.minimum(distance, np.sqrt((apart[:, None] @ apart[:, :, None])[:, 0, 0]))
            waiting = [members for members in waiting if len(members)]
        return places[chosen]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value as a share, 0 for the least and 1 for the greatest."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) / max(1, len(values) - 1)
    return ranks
