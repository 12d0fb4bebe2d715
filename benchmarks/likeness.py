"""How easily painted lesions are told from real ones, by a classifier on features of an ImageNet encoder.

Usage: python benchmarks/likeness.py DATA SYNTH [--out FILE.json] [--rejected]
    DATA   the data set that SYNTH was painted on; its annotated training cases are the real lesions.
    SYNTH  a synthetic set of `diffaug generate`.

Printed: the area under the ROC curve of a logistic regression, cross-fitted so that no lesion is scored by one that has
learned from its case, its background or its example; the kernel distance (KID) of painted and of pasted lesions from
real ones, in the same features. Intervals are 95 % bootstrap intervals over cases and backgrounds. Pasted lesions are
the naive copies that painting must beat: the same lesion, moved by the same transform onto the same place.

`painter.py` measures the same on what it paints. Needs no model, and takes a second for four lesions.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.stats import rankdata

from diffaug.artifacts import write_json
from diffaug.audit.lesions import new_lesion
from diffaug.conditioning.masks import MaskBank, render
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.images import Mask, Pixels, read_image
from diffaug.data.lesions import lesion_masks
from diffaug.data.manifest import Row, SyntheticSet, lesions, read_manifest
from diffaug.data.request import MaskTransform
from diffaug.encoder import NAME, encoder_digest
from diffaug.painting.looks import features_in, origins_of
from diffaug.realism.measures import kid, resampler

DRAWS = 1000  # of the bootstrap
PENALTY = 100.0  # of the squared weights of standardised features
MOST = 120  # real lesions, so that a classifier for each is a matter of seconds
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """A lesion's features, the group that it is resampled with, and the groups of its background and its example."""

    features: Features
    group: str
    sources: frozenset[str]


def scores_of(real: Sequence[Seen], painted: Sequence[Seen]) -> tuple[Features, Features]:
    """Return scores of real and of painted lesions, each by a regression on all that shares no source with it."""
    found = [*real, *painted]
    labels = np.array([False] * len(real) + [True] * len(painted))
    rows, scores = np.stack([one.features for one in found]), np.zeros(len(found))
    for sources in dict.fromkeys(one.sources for one in found):
        taught = np.array([not one.sources & sources for one in found])
        if min((taught & labels).sum(), (taught & ~labels).sum()) < 2:
            raise SystemExit(
                "a classifier needs lesions of both kinds that share no case: there are too few; give more"
            )
        weights, bias = regression(rows[taught], labels[taught])
        tested = np.array([one.sources == sources for one in found])
        scores[tested] = rows[tested] @ weights + bias
    return scores[~labels], scores[labels]


def auc(real: Sequence[Seen], painted: Sequence[Seen]) -> dict[str, float]:
    """Return the area under the ROC curve with an interval over groups."""
    low, high = scores_of(real, painted)
    rng, draws = np.random.default_rng(0), []
    groups = [resampler([one.group for one in some]) for some in (real, painted)]
    for _ in range(DRAWS):
        a, b = (low[groups[0](rng)], high[groups[1](rng)])
        draws.append(area_under_curve(a, b))
    edges = np.percentile(draws, [2.5, 97.5])
    value = area_under_curve(low, high)
    return {"value": round(value, 3), "low": round(float(edges[0]), 3), "high": round(float(edges[1]), 3)}


def area_under_curve(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return the chance that a score of `high` exceeds one of `low`; a tie counts half."""
    ranks = rankdata(np.concatenate([low, high]))
    return float((ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def regression(rows: Features, labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Return weights (D,) and bias of a logistic regression for rows (N, D), with both kinds weighed alike.

    Features are standardised; the penalty is PENALTY / 2 times the squared weights.
    """
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    inputs, signs = (rows - mean) / deviation, np.where(labels, 1.0, -1.0)
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * len(labels)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (inputs @ values[:-1] + values[-1])
        slopes = -signs * share * _sigmoid(-margins)
        total = float((share * np.logaddexp(0.0, -margins)).sum() + PENALTY / 2 * (values[:-1] @ values[:-1]))
        return total, np.append(inputs.T @ slopes + PENALTY * values[:-1], slopes.sum())

    start = np.zeros(inputs.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    weights = found[:-1] / deviation
    return weights, float(found[-1] - mean @ weights)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    chances: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * values))
    return chances


# --- Real, painted, pasted --------------------------------------------------------------------------------------------


def real_lesions(dataset: Dataset) -> list[Seen]:
    """Return annotated training lesions, MOST of them at most."""
    found: list[Seen] = []
    cases = dataset.annotated("train")
    for place in np.random.default_rng(0).permutation(len(cases)):
        case = cases[place]
        if len(found) >= MOST:
            break
        image = case.read_image()
        for mask in lesion_masks(case.read_mask()):
            found.append(Seen(features_in(image, mask), case.group, frozenset({case.group})))
    return found


def painted_lesions(dataset: Dataset, made: SyntheticSet, rows: Sequence[Row]) -> list[tuple[Row, Mask, Seen]]:
    """Return the painted lesions of rows."""
    groups, found = {case.id: case.group for case in dataset.cases}, []
    for row in rows:
        mask = new_lesion(made, row)
        if mask is not None:
            request = row.request
            sources = {groups.get(name, name) for name in origins_of(request)}
            group = groups.get(request.background, request.background)
            seen = Seen(features_in(read_image(made.folder / row.image), mask), group, frozenset(sources))
            found.append((row, mask, seen))
    return found


def pasted_lesions(dataset: Dataset, rows: Sequence[tuple[Row, Mask, Seen]]) -> list[Features]:
    """Return features of the lesions of the masks' cases, pasted where something was painted, feathered by 1.5 px."""
    bank, found = MaskBank.from_cases(dataset.annotated("train")), []
    for row, mask, _ in rows:
        request = row.request
        if request.placement == "removed" or request.background not in {case.id for case in dataset.cases}:
            continue  # the frame without its lesion was not kept
        entry = bank.entry(request.mask_case, request.component)
        source, background = (dataset[name].read_image() for name in (request.mask_case, request.background))
        shape = render(entry, request.transform, mask.shape)
        warped = pasted_onto(source, entry.in_frame(), request.transform, mask, shape)
        alpha = ndimage.gaussian_filter(mask.astype(np.float32), 1.5)[:, :, None]
        mixed: Pixels = (background * (1 - alpha) + warped * alpha).round().astype(np.uint8)
        found.append(features_in(mixed, mask))
    return found


def pasted_onto(source: Pixels, lesion: Mask, transform: MaskTransform, new: Mask, shape: Mask) -> NDArray[np.float32]:
    """Return a source frame moved so that its lesion lies on the new mask, by flip, angle and scale of a transform."""
    if transform.flip:
        source, lesion = source[:, ::-1], lesion[:, ::-1]
    scale = float(np.sqrt(shape.sum() / lesion.sum()))
    radians = np.deg2rad(transform.angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    backward = turn.T / scale
    centres = [np.argwhere(mask).mean(axis=0) for mask in (lesion, new)]
    offset = centres[0] - backward @ centres[1]
    planes = [
        ndimage.affine_transform(source[..., c].astype(np.float32), backward, offset, new.shape, order=1, mode="mirror")
        for c in range(3)
    ]
    return np.stack(planes, axis=2)


def measure(data: Path, synth: Path, rejected: bool = False) -> dict[str, Any]:
    """Return what is printed."""
    dataset, made = read_dataset(data), read_manifest(synth)
    rows = [row for row in lesions(made.rows) if row.image and (row.accepted or rejected)]
    real, painted = real_lesions(dataset), painted_lesions(dataset, made, rows)
    pasted = pasted_lesions(dataset, painted)
    features = np.stack([one.features for one in real])
    result: dict[str, Any] = {
        "encoder": NAME,
        "encoder_digest": encoder_digest(),
        "real": len(real),
        "painted": len(painted),
        "backgrounds": len({row.request.background for row, _, _ in painted}),
        "auc": auc(real, [seen for _, _, seen in painted]),
        "kid_painted": kid(np.stack([seen.features for _, _, seen in painted]), features),
    }
    return result | ({"kid_pasted": kid(np.stack(pasted), features)} if len(pasted) > 1 else {})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("synth", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rejected", action="store_true", help="count what the gate turned down, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(given.data, given.synth, given.rejected)
    for name, value in result.items():
        print(f"{name:16} {json.dumps(value)}")
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    main()
