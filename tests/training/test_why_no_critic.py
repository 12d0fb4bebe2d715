"""Why a fit has no critic, and the remedy, which is that of the kind of lesions that there are too few of."""

from types import SimpleNamespace
from typing import Any

from diffaug.training.critic import why_no_critic


def cases_of(count: int) -> list[Any]:
    return [SimpleNamespace(case=SimpleNamespace(id=f"c{n}", group=f"g{n}"), lesions=[0]) for n in range(count)]


def test_the_remedy_is_about_the_lesions_that_are_too_few() -> None:
    assert why_no_critic(cases_of(2), 40, 0).startswith("the annotated cases form 2 groups")
    painted, real, both = (why_no_critic(cases_of(n), made, 0) for n, made in ((34, 2), (5, 40), (5, 2)))
    assert (
        "34 real and 2 painted" in painted and "annotate more" not in painted and "--validator.trajectories" in painted
    )
    assert real.endswith("; annotate more cases")
    assert "annotate more cases, and fit with a larger --validator.trajectories" in both
