"""Which painted cases a training set takes: pure functions of a synthetic set's rows and of their scores.

One synthetic set, painted to the end whatever the gate said (`generate.paint_all`), serves every arm of a study: each
arm is a choice of its rows. Knows rows; reads no images.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffaug.config import SelectConfig
from diffaug.data.manifest import Row, accepted, negatives, painted
from diffaug.data.request import Scores

HELD_OUT = 4  # every fourth negative trains nothing: false alarms are counted on it


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
    return [row for index, row in enumerate(negatives(rows)) if (index + 1) % HELD_OUT]


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
    candidates = [row for row in accepted(rows) if row.id in scores]
    cuts = _cuts(candidates, scores, config.hard_cut)
    candidates = [row for row in candidates if scores[row.id].loss <= cuts[row.request.size_bin]]
    if not candidates:
        return []
    features = {row.id: np.asarray(scores[row.id].features, dtype=np.float64) for row in candidates}
    distance = {row.id: scores[row.id].novelty for row in candidates}
    typical = float(np.median(list(distance.values()))) or 1.0
    rank = _ranks({row.id: scores[row.id].loss for row in candidates})
    waiting = _by_stratum(candidates, scores)
    chosen: list[Row] = []

    def worth(row: Row) -> tuple[float, int]:
        return rank[row.id] + config.novelty * min(1.0, distance[row.id] / typical), -row.request.index

    while waiting and len(chosen) < count:
        for stratum in sorted(waiting)[: count - len(chosen)]:
            best = max(waiting[stratum], key=worth)
            waiting[stratum].remove(best)
            chosen.append(best)
            for name, measured in features.items():
                distance[name] = min(distance[name], float(np.linalg.norm(measured - features[best.id])))
        waiting = {stratum: rest for stratum, rest in waiting.items() if rest}
    return chosen


def _cuts(candidates: Sequence[Row], scores: Mapping[str, Scores], quantile: float) -> dict[str, float]:
    """Return the greatest loss that is not too hard, for each size."""
    of_size: dict[str, list[float]] = {}
    for row in candidates:
        of_size.setdefault(row.request.size_bin, []).append(scores[row.id].loss)
    return {size: float(np.quantile(values, quantile, method="higher")) for size, values in of_size.items()}


def _ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return each name's rank as a share, 0 for the least and 1 for the greatest value."""
    names = list(values)
    order: NDArray[np.int64] = np.argsort(list(values.values()), kind="stable")
    return {names[int(index)]: place / max(1, len(names) - 1) for place, index in enumerate(order)}


def _by_stratum(candidates: Sequence[Row], scores: Mapping[str, Scores]) -> dict[tuple[str, bool], list[Row]]:
    found: dict[tuple[str, bool], list[Row]] = {}
    for row in candidates:
        found.setdefault((row.request.size_bin, scores[row.id].low_contrast), []).append(row)
    return found
