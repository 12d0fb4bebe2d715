"""Which painted cases a training set takes: pure functions of manifest rows and of what was measured on them.

One synthetic set, painted to the end whatever the gate said (`generate.paint_all`), serves every arm of a study: each
arm is a choice of its rows. Knows rows; reads no images.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.config import SelectConfig

Row = Mapping[str, Any]
HELD_OUT = 4  # every fourth fill trains nothing: false positives are counted on it


def painted(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of lesions that were painted to the end, whatever the gate said, in order."""
    return [row for row in rows if row["image"] and not row.get("fill")]


def turned_down(rows: Iterable[Row]) -> list[Row]:
    """Return the painted rows that the gate turned down: there are none where it stopped them."""
    return [row for row in painted(rows) if row["decision"] not in ("kept", "surplus")]


def accepted(rows: Iterable[Row]) -> list[Row]:
    """Return the painted rows that the gate accepted."""
    return [row for row in painted(rows) if row["decision"] in ("kept", "surplus")]


def over_threshold(rows: Iterable[Row], threshold: float) -> list[Row]:
    """Return the painted rows whose last score reaches one threshold for all sizes: the published filter."""
    return [row for row in painted(rows) if row["checks"] and row["checks"][-1]["score"] >= threshold]


def random_like(rows: Iterable[Row], model: Sequence[Row], seed: int) -> list[Row]:
    """Return painted rows drawn at random, with as many of each size as another choice has.

    Where the same rows are given again, the draw is the same.
    """
    rng = np.random.default_rng(seed)
    wanted = Counter(row["size_bin"] for row in model)
    pool = painted(rows)
    chosen: set[str] = set()
    for size in sorted(wanted):
        of_size = sorted(row["id"] for row in pool if row["size_bin"] == size)
        chosen.update(of_size[index] for index in rng.permutation(len(of_size))[: wanted[size]])
    return [row for row in pool if row["id"] in chosen]


def fills(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the accepted lesion-free fills to train on, and those held out to count false positives on."""
    kept = [row for row in rows if row.get("fill") and row["image"] and row["decision"] in ("kept", "surplus")]
    return (
        [row for index, row in enumerate(kept) if (index + 1) % HELD_OUT],
        kept[HELD_OUT - 1 :: HELD_OUT],
    )


def select(rows: Iterable[Row], scores: Mapping[str, Row], config: SelectConfig, count: int) -> list[Row]:
    """Choose the cases that are worth training on: aligned, hard but not too hard, novel, and balanced over strata.

    Of the accepted rows (aligned), those over the `hard_cut` quantile of the loss of their size are dropped: what the
    baseline fails on so much is more often wrong than informative. The rest are chosen one at a time, in turn from each
    stratum (size, and low contrast or not) that still has some, the one with the highest

        rank(loss) + novelty_weight * min(1, distance / typical distance)

    where the distance is that to the nearest training lesion or chosen case, and the typical one the median distance of
    the accepted cases to their nearest training lesion.

    Args:
        rows: Of the manifest.
        scores: By id, what `study.selection` measured: `loss`, `low_contrast`, `features`, `novelty`.
        config: The upper cut of the loss, and the weight of novelty.
        count: Cases wanted; fewer are returned where there are fewer.

    Returns:
        The chosen rows in the order of choice; the first n of them are the choice of n.
    """
    candidates = [row for row in accepted(rows) if row["id"] in scores]
    hardness = {row["id"]: float(scores[row["id"]]["loss"]) for row in candidates}
    cuts = _cuts(candidates, hardness, config.hard_cut)
    candidates = [row for row in candidates if hardness[row["id"]] <= cuts[row["size_bin"]]]
    if not candidates:
        return []
    features = {row["id"]: np.asarray(scores[row["id"]]["features"], dtype=np.float64) for row in candidates}
    distance = {row["id"]: float(scores[row["id"]]["novelty"]) for row in candidates}
    typical = float(np.median(list(distance.values()))) or 1.0
    rank = _ranks(hardness, [row["id"] for row in candidates])
    waiting = _by_stratum(candidates, scores)
    chosen: list[Row] = []
    while waiting and len(chosen) < count:
        for stratum in sorted(waiting):
            if len(chosen) == count:
                break

            def worth(row: Row) -> float:
                return rank[row["id"]] + config.novelty * min(1.0, distance[row["id"]] / typical)

            best = max(waiting[stratum], key=lambda row: (worth(row), -row["index"]))
            waiting[stratum].remove(best)
            chosen.append(best)
            for name, found in features.items():
                distance[name] = min(distance[name], float(np.linalg.norm(found - features[best["id"]])))
        waiting = {stratum: left for stratum, left in waiting.items() if left}
    return chosen


def _cuts(candidates: Sequence[Row], hardness: Mapping[str, float], quantile: float) -> dict[str, float]:
    """Return the greatest hardness that is not too hard, for each size."""
    of_size: dict[str, list[float]] = {}
    for row in candidates:
        of_size.setdefault(row["size_bin"], []).append(hardness[row["id"]])
    return {size: float(np.quantile(values, quantile, method="higher")) for size, values in of_size.items()}


def _ranks(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return each name's rank as a share, 0 for the least and 1 for the greatest value."""
    order: NDArray[np.int64] = np.argsort([values[name] for name in names], kind="stable")
    return {names[int(index)]: place / max(1, len(names) - 1) for place, index in enumerate(order)}


def _by_stratum(candidates: Sequence[Row], scores: Mapping[str, Row]) -> dict[tuple[str, bool], list[Row]]:
    found: dict[tuple[str, bool], list[Row]] = {}
    for row in candidates:
        found.setdefault((row["size_bin"], bool(scores[row["id"]]["low_contrast"])), []).append(row)
    return found
