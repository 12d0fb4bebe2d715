"""Train a critic of realism: real annotated lesions against what the painter made of them."""

from collections.abc import Iterable, Sequence
from itertools import islice

from diffaug.data.request import Request
from diffaug.data.split import folds_by_group
from diffaug.painting.engine import Painted
from diffaug.painting.layout import Layout
from diffaug.painting.looks import origins_of, views_in
from diffaug.painting.painter import Painter
from diffaug.realism.critic import FEWEST, FOLDS, Critic, Seen, fit_critic, is_enough
from diffaug.training.windows import Annotated

LEAST_FOLDS = 3  # with two of them left out, one has to be left
Sample = tuple[Request, Layout, Painted]


def train_critic(
    painter: Painter, cases: Sequence[Annotated], samples: Iterable[Sample], alpha: float, seed: int
) -> Critic | None:
    """Return a critic of a painter; None where there are too few lesions to learn from.

    Args:
        painter: Decodes and blends the samples.
        cases: The annotated training cases.
        samples: Painted to the end, without a gate.
        alpha: Stated chance of turning down a lesion as real as a real one.
        seed: Divides the cases into folds.
    """
    folds = _folds_of(cases, seed)
    if not folds:
        return None
    painted = painted_lesions(painter, samples)
    if not is_enough(_sources_of(cases), [lesion.sources for lesion in painted], folds):
        return None
    real = [Seen(views_in(case.image, lesion), (case.case.id,)) for case in cases for lesion in case.lesions]
    return fit_critic(real, painted, folds, alpha)


def _folds_of(cases: Sequence[Annotated], seed: int) -> dict[str, int]:
    """Return the fold of each annotated case, by case id; none where there are too few groups for folds."""
    groups = {case.case.id: case.case.group for case in cases}
    count = min(FOLDS, len(set(groups.values())))
    lesion_free = [case.case.id for case in cases if not case.lesions]
    return folds_by_group(groups, count, seed, lesion_free) if count >= LEAST_FOLDS else {}


def _sources_of(cases: Sequence[Annotated]) -> list[tuple[str, ...]]:
    """Return the case of each annotated lesion."""
    return [(case.case.id,) for case in cases for _ in case.lesions]


def why_no_critic(cases: Sequence[Annotated], painted: int, seed: int) -> str:
    """Return why `train_critic` had too little to learn from, and what to do: about real lesions, or painted ones.

    Args:
        cases: The annotated training cases.
        painted: Number of samples that could be painted to the end.
        seed: That the critic was given.
    """
    groups, real = len({case.case.group for case in cases}), _sources_of(cases)
    if groups < LEAST_FOLDS:
        return f"the annotated cases form {groups} groups, such as patients, and it needs {LEAST_FOLDS}"
    more = "fit with a larger --validator.trajectories, the number of samples that the fit paints for this"
    if not is_enough(real, real, _folds_of(cases, seed)):
        more = f"annotate more cases, and {more}" if painted < len(real) else "annotate more cases"
    return (
        f"there are {len(real)} real and {painted} painted lesions to learn from. A critic is trained several times, "
        f"each time without some of the annotated cases and without what was painted from them, and {FEWEST} lesions "
        f"of both kinds must be left each time; {more}"
    )


def painted_lesions(painter: Painter, samples: Iterable[Sample]) -> list[Seen]:
    """Return what a critic learns from samples; decoded a batch at a time, so that memory holds features only."""
    found, waiting = list[Seen](), iter(samples)
    for batch in iter(lambda: list(islice(waiting, painter.slots)), []):
        pictures = painter.pictures([layout for _, layout, _ in batch], [sample for _, _, sample in batch])
        for (request, layout, _), picture in zip(batch, pictures, strict=True):
            found.append(Seen(views_in(picture, layout.masks.new), origins_of(request)))
    return found
