"""What the kept cases should be like: the strata to aim at, the quota of each, and the training cases to follow.

A stratum is a size class and whether the contrast is low, both measured on the training cases. The aim `match` needs no
budget, since requests follow the data by themselves. The other aims fix a quota of kept cases for each stratum before
anything is drawn, and give each shard to one stratum: a stratum of which the gate keeps little gets shards until its
quota is full.

Knows cases and the files of a study folder; knows no networks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_jsonl
from diffaug.conditioning.prompts import WORDS
from diffaug.config import AIMS
from diffaug.data.case import Case, digest_of_case
from diffaug.errors import ConfigError, StudyError, nearest
from diffaug.reading import typed
from diffaug.runfolder import contents_of

LOW = "low-contrast"
STRATA = tuple(f"{size}{contrast}" for size in WORDS["size"] for contrast in ("", f" {LOW}"))


@dataclass(frozen=True)
class Budget:
    """Quotas of kept cases.

    Attributes:
        aim: As asked.
        strata: Those with a quota, in the order of STRATA.
        quotas: Kept cases of each.
        training: Share of the training cases in each.
        weights: Training cases of these strata, and the weight with which each is drawn for its mask and its words.
    """

    aim: str
    strata: tuple[str, ...]
    quotas: tuple[int, ...]
    training: tuple[float, ...]
    weights: tuple[tuple[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self) | {"weights": dict(self.weights)}

    def stratum_of(self, shard: int) -> str:
        """Return the stratum of a shard: strata take turns."""
        return self.strata[shard % len(self.strata)]

    def table(self) -> str:
        """Return the plan as text, a line for each stratum."""
        wanted = sum(self.quotas)
        lines = [f"aim {self.aim}: kept cases by stratum"]
        for name, quota, share in zip(self.strata, self.quotas, self.training, strict=True):
            lines.append(f"  {name:20} {quota:5d}  ({quota / wanted:4.0%}; {share:4.0%} of the training cases)")
        return "\n".join(lines)


def stratum(words: Mapping[str, str]) -> str:
    """Return the stratum of a lesion from its words of size and contrast."""
    return words["size"] + (f" {LOW}" if words.get("contrast") == LOW else "")


def make_budget(
    aim: str, words: Mapping[str, Mapping[str, str]], count: int, needs: Mapping[str, float] | None = None
) -> Budget:
    """Divide kept cases among strata.

    Args:
        aim: `missed`, or the name of a size or of low contrast.
        words: Of each training case, by aspect.
        count: Kept cases in all.
        needs: For `missed`, the share of each case's lesion that a network missed which was not trained on the case.

    Raises:
        ConfigError: No training case is in the strata of the aim, or nothing was missed.
    """
    of_case = {case: stratum(said) for case, said in words.items()}
    aimed = {case: name for case, name in of_case.items() if aim == "missed" or aim in name.split()}
    weights = {case: needs[case] if needs is not None else 1.0 for case in sorted(aimed)}
    total = sum(weights.values())
    if total <= 0:
        what = "the baseline missed nothing" if aim == "missed" else f"no training case is {aim}"
        raise ConfigError(f"an aim needs training cases to follow: {what}; use --aim match")
    shares: dict[str, float] = defaultdict(float)
    for case, weight in weights.items():
        shares[aimed[case]] += weight / total
    quotas = _quotas(shares, count)
    strata = tuple(name for name in STRATA if quotas.get(name))
    training = tuple(round(list(of_case.values()).count(name) / len(of_case), 4) for name in strata)
    kept = tuple((case, round(weight, 6)) for case, weight in weights.items() if aimed[case] in strata)
    return Budget(aim, strata, tuple(quotas[name] for name in strata), training, kept)


def _quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Round shares of a count to whole numbers with the same sum, by largest remainders."""
    exact = {name: share * count for name, share in shares.items()}
    quotas = {name: int(value) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: (quotas[name] - exact[name], STRATA.index(name)))
    for name in by_rest[: count - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def check_aim(aim: str, baseline: Path | None) -> None:
    """Refuse an unknown aim, the aim `missed` without a baseline, and a baseline without that aim.

    Raises:
        ConfigError: The message has the nearest valid names.
    """
    if aim not in AIMS:
        raise ConfigError(f"an aim must be a known name: {aim!r} is not; {nearest(aim, AIMS)}")
    if (aim == "missed") != (baseline is not None):
        raise ConfigError(
            f"--aim missed and --baseline STUDY belong together: the aim is {aim}, and --baseline is "
            + (
                "not given; make STUDY with `diffaug study DATA STUDY --folds 5 --baseline`"
                if baseline is None
                else f"{baseline}; leave --baseline out, or set --aim missed"
            )
        )


@dataclass(frozen=True)
class _Identity:
    folds: int = 0


@dataclass(frozen=True)
class _Tested:
    """What study.json says of a study by folds: digests of the tested cases."""

    identity: _Identity
    tested: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Missed:
    """What is read of a record of a study."""

    case: str
    false_negative_rate: float | None


def read_needs(study: Path, train: Sequence[Case], held_out: Sequence[Case]) -> dict[str, float]:
    """Read which share of each training case's lesion a baseline missed, out of fold; the mean over seeds.

    Args:
        study: Folder of a finished `diffaug study --folds K --baseline` of these training cases.
        train: The annotated training cases.
        held_out: Cases of val and test, whose results may not steer what is painted.

    Raises:
        StudyError: The study is not finished, is not out of fold, or holds results of other cases.
    """
    if not (study / "summary.json").is_file() or not (study / "study.json").is_file():
        raise StudyError(
            f"a baseline must be a finished study: {study} lacks study.json or summary.json; "
            "run `diffaug study DATA STUDY --folds 5 --baseline`"
        )
    plan = typed(_Tested, contents_of(study, "study.json"), study / "study.json")
    tested = plan.tested
    held = {digest_of_case(case): case for case in held_out}
    for name, digest in tested.items():
        if digest in held:
            raise StudyError(
                f"results on val or test cases may not steer what is painted: case {name} of {study} is "
                f"{held[digest].id} of {held[digest].split}; use results of `diffaug study --folds 5 --baseline`"
            )
    known = {case.id: digest_of_case(case) for case in train}
    foreign = [name for name in (*known, *tested) if name not in known or tested.get(name) != known[name]]
    if not plan.identity.folds or foreign:
        what = f"case {foreign[0]} differs" if foreign else "it has no folds"
        raise StudyError(
            f"a baseline must be the out-of-fold results of these training cases: {study} is not, {what}; "
            "run `diffaug study DATA STUDY --folds 5 --baseline` on this data set"
        )
    missed: dict[str, list[float]] = {name: [] for name in known}
    for path in sorted((study / "runs").glob("real-*-fold*[0-9].jsonl")):
        fix = "remove the file, and study the data set again"
        for row in (typed(_Missed, line, path, fix) for line in read_jsonl(path, torn=False)):
            if row.false_negative_rate is not None and row.case in missed:
                missed[row.case].append(row.false_negative_rate)
    return {name: sum(values) / len(values) if values else 0.0 for name, values in missed.items()}
