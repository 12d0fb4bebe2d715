"""`diffaug generate`: complete shards in order until enough cases are kept, and write the synthetic set."""

import logging
import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, write_json
from diffaug.compute.cluster import check_address
from diffaug.compute.cluster import workers as workers_of
from diffaug.compute.pool import Job, check_guard
from diffaug.compute.progress import progress_bar
from diffaug.conditioning.drawer import RequestDrawer, check_config, is_generic
from diffaug.conditioning.rules import LearnedRules, read_rules
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.folder import Dataset, read_dataset, write_cases
from diffaug.data.funnel import Counts, Funnel, funnel
from diffaug.data.lesions import SIZES
from diffaug.data.manifest import (
    MANIFEST,
    PROVENANCE,
    SUMMARY,
    Row,
    SyntheticSet,
    kept,
    lesions,
    read_rows,
    write_rows,
)
from diffaug.data.seen import read_seen, write_seen
from diffaug.errors import ConfigError, ModelError
from diffaug.painting.requests import example_of
from diffaug.presets import DEFAULT, settings_of
from diffaug.realism.critic import load_critic
from diffaug.synthesis.obedience import Acted, acted, line_of
from diffaug.synthesis.places import Place, Store, place_of
from diffaug.synthesis.plan import Plan, backgrounds_of, make_plan, notices_of_fit, provenance_of
from diffaug.synthesis.shards import ROWS, seconds_of, shard_folder, thresholds_of, workshop_of
from diffaug.synthesis.share import WHOLE, Share, ShareSummary
from diffaug.synthesis.sheet import files_shown, reasons_of, write_sheet
from diffaug.validator.calibration import Calibration

PATIENCE = 20  # requests per wanted case before generation gives up
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stratum:
    """What became of the requests for one stratum of a budget.

    Attributes:
        quota: Kept lesions that were wanted.
        counts: Requests by what became of them.
    """

    quota: int
    counts: Counts


@dataclass(frozen=True)
class GenerateSummary:
    """What `generate` made.

    Attributes:
        funnel: Requests by what became of them.
        seconds: Computing time of all shards, summed over workers.
        seconds_per_kept: The same for each kept lesion.
        budget: By stratum, where something was aimed at.
        left_out_of_prompts: Words that the model was not trained on, and how many prompts went without each.
        notices: What the gate does not do, or does with little to go by.
        reasons: Requests by what became of them, in words.
        rules: What in the frames is no tissue, and how many images with a lesion can be painted on: one line.
        painted_on: Frames that a kept case is painted on.
        shown: Different annotated lesions that the kept ones started from.
        sizes: Kept lesions by size class.
        annotated: Annotated lesions by size class.
        findings: By finding how it acted in the prompts, and how far kept lesions show what it implies.
    """

    funnel: Funnel
    seconds: float
    seconds_per_kept: float
    budget: Mapping[str, Stratum] = field(default_factory=dict)
    left_out_of_prompts: Mapping[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    rules: str = ""
    painted_on: int = 0
    shown: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    annotated: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[str, Acted] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, as `summary.json` holds them."""
        values = asdict(self)
        return {**values.pop("funnel"), **values, "notices": list(self.notices)}


@dataclass(frozen=True)
class _Run:
    """A checked call: what is made, where, by how many workers, and what was said before work started."""

    plan: Plan
    place: Place
    workers: int
    ray: str
    notices: tuple[str, ...]
    learned: LearnedRules
    share: Share = WHOLE

    @property
    def out(self) -> Path:
        """The folder in which this process reads and writes the set."""
        return self.place.folder


def generate(
    model: PathLike,
    data: PathLike,
    out: PathLike,
    config: GenerateConfig | None = None,
    *,
    preset: str = DEFAULT,
    seed: int = 0,
    workers: int = 1,
    ray: str = "",
    device: str = "cpu",
) -> GenerateSummary:
    """Complete shards in order until `config.count` cases are kept, and write the synthetic set.

    The same call again resumes; files are byte-identical to those of an unbroken run, whatever the number of workers.

    Args:
        model: A finished model folder.
        data: The data set it was fitted on.
        out: The synthetic set to make: a folder, or a URL that fsspec writes to, such as s3://bucket/mine.
        config: What to paint, and how much; None takes the preset's.
        preset: default, demo (minutes, on phantoms), or smoke (shows only that it runs).
        seed: Base seed of the requests.
        workers: Processes, one thread each. With several, a script needs `if __name__ == "__main__":` around its calls,
            since each worker imports the script.
        ray: Work on a Ray cluster, with one of its CPUs for each worker: `auto` takes that of this machine, else starts
            one here; HOST:PORT names another. Its machines need the model, the data and `out` under the same paths.
        device: Where to compute: cpu, cuda, cuda:N, mps or auto. Every worker holds a model of its own there.

    Returns:
        What was made; `summary.json` holds it, too.

    Raises:
        ModelError: The model is unfinished or altered, was fitted on other cases, or keeps too little.
        ConfigError: `out` holds a set with other settings, another process works in it, the device is not there, there
            is no such preset, or settings are given beside one.
        FindingsError: The domain is unknown, or the findings break a rule.
        PlacementError: No mask fits on any background.
        StudyError: The baseline is not of these training cases out of fold.
        WorkerError: A worker was killed, the script that calls this starts workers without a guard, or a cluster lost
            too many workers.
        StorageError: The disk is full, or a file cannot be written.

    Example:
        >>> config = diffaug.GenerateConfig(count=200)
        >>> diffaug.generate("models/mine", "data/mine", "synthetic/mine", config)  # doctest: +SKIP
    """
    settings = settings_of(config, preset, lambda chosen: chosen.generate)
    shards = _painted(_checked(Path(model), Path(data), place_of(out), settings, seed, (workers, ray), device))
    while True:
        try:
            next(shards)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # the summary that `_painted` returns


def generate_cases(
    model: PathLike,
    data: PathLike,
    out: PathLike,
    config: GenerateConfig | None = None,
    *,
    preset: str = DEFAULT,
    seed: int = 0,
    workers: int = 1,
    ray: str = "",
    device: str = "cpu",
) -> Iterator[Case]:
    """Do what `generate` does, and yield every kept case, negatives too, as soon as its shard is on the disk.

    The set is finished when the last case has been taken. Whoever stops earlier leaves a set that the same call, or
    `generate`, continues. Inputs are checked when this is called, before the first case is asked for.

    Args:
        model: As of `generate`.
        data: As of `generate`.
        out: As of `generate`; a folder.
        config: As of `generate`.
        preset: As of `generate`.
        seed: As of `generate`.
        workers: As of `generate`.
        ray: As of `generate`.
        device: As of `generate`.

    Raises:
        ConfigError: `out` is a URL.
        DiffaugError: Whatever `generate` raises.

    Example:
        >>> cases = diffaug.generate_cases("models/mine", "data/mine", "synthetic/mine")  # doctest: +SKIP
        >>> next(cases).show()  # doctest: +SKIP
    """
    settings = settings_of(config, preset, lambda chosen: chosen.generate)
    place = place_of(out)
    if isinstance(place, Store):
        raise ConfigError(f"cases are handed out as files: out is the URL {out}; use a folder, or generate")
    run = _checked(Path(model), Path(data), place, settings, seed, (workers, ray), device)
    dataset = read_dataset(run.plan.data)
    return (case for rows in _painted(run) for case in _cases_of(run.out, rows, dataset))


def generate_share(
    model: PathLike,
    data: PathLike,
    out: PathLike,
    config: GenerateConfig | None = None,
    *,
    share: tuple[int, int],
    preset: str = DEFAULT,
    seed: int = 0,
    workers: int = 1,
    ray: str = "",
    device: str = "cpu",
) -> ShareSummary:
    """Make one share of the shards of a synthetic set; `generate`, called after all shares, joins them.

    Calls for other shares may run at the same time, on this machine or on others that see the same folder. They need
    not know of each other. The same call again resumes. In a finished set nothing is made.

    Args:
        model: As of `generate`.
        data: As of `generate`.
        out: As of `generate`.
        config: As of `generate`, and the same for all shares.
        share: Which share, from 0, and how many there are: (0, 3), (1, 3) and (2, 3) are a set.
        preset: As of `generate`.
        seed: As of `generate`.
        workers: As of `generate`: processes of this call.
        ray: As of `generate`.
        device: As of `generate`.

    Returns:
        What the share has.

    Raises:
        ConfigError: There is no such share, or another process makes it, the whole set, or one of another number of
            shares in this folder.
        DiffaugError: Whatever `generate` raises.

    Example:
        >>> diffaug.generate_share("models/mine", "data/mine", "synthetic/mine", share=(0, 3))  # doctest: +SKIP
    """
    settings, part = settings_of(config, preset, lambda chosen: chosen.generate), Share(*share)
    run = replace(_checked(Path(model), Path(data), place_of(out), settings, seed, (workers, ray), device), share=part)
    quotas = run.plan.quotas()
    with run.place.claimed(run.plan.contents(), str(part)):
        try:
            finished = run.place.is_finished()
            there = [shard for shard in run.place.shards() if part.has(shard, len(quotas))] if finished else []
            folders = [run.place.take(shard) for shard in there] if finished else [*_complete(run)]
        finally:
            workshop_of.cache_clear()
        asked = [row for folder in folders for row in lesions(read_rows(folder / ROWS))]
        seconds = round(sum(seconds_of(folder) or 0.0 for folder in folders), 1)
    return ShareSummary(*share, len(folders), len(asked), len(kept(asked)), sum(part.quotas(quotas).values()), seconds)


def _checked(
    model: Path, data: Path, place: Place, config: GenerateConfig, seed: int, workers: tuple[int, str], device: str
) -> _Run:
    """Check all that can be told before work starts, and log what a user should know."""
    check_guard()
    if workers[1]:
        check_address(workers[1])
    plan, learned = make_plan(model, data, config, seed, device), read_rules(model)
    if not place.holds(plan.contents()):  # a mask that fits nowhere is told before anything is written
        dataset = read_dataset(data)
        train, others = [case for case in dataset.split("train") if case.mask], backgrounds_of(config, dataset)
        RequestDrawer(train, seed, config, others, budget=plan.budget, rules=learned.rules).draw(0)
    notices = [*notices_of_fit(model), *notices_of_gate(plan)]
    for line in [learned.line(), *notices, *([plan.budget.table()] if plan.budget else [])]:
        log.warning(line)
    return _Run(plan, place, *workers, tuple(notices), learned)


def _painted(run: _Run) -> Generator[list[Row], None, GenerateSummary]:
    """Complete the shards, yield the kept rows of each, write the set, and return its summary."""
    with run.place.claimed(run.plan.contents()):
        try:
            folders, rows, found = list[Path](), list[Row](), Counter[str]()
            for folder in _complete(run):
                folders.append(folder)
                made = _mark_surplus(read_rows(folder / ROWS), run.plan.quotas(), found)
                rows += made
                yield kept(made)
            return _written(run, folders, rows)
        finally:
            workshop_of.cache_clear()  # the model leaves memory with its last shard


def notices_of_gate(plan: Plan) -> list[str]:
    """Return what the gate does not do, or does with little to go by: told when cases are generated."""
    if plan.config.gate == "off":
        return []
    critic = load_critic(plan.model) if plan.has_realism else None
    gate = thresholds_of(plan, Calibration.load(plan.model / "calibration.json"))
    return [*gate.notices(), *(critic.notices() if critic else [])]


def _written(run: _Run, folders: Sequence[Path], rows: Sequence[Row]) -> GenerateSummary:
    """Write the set of some completed shards, and return its summary."""
    plan, out, learned = run.plan, run.out, run.learned
    for extra in run.place.shards():
        if shard_folder(out, extra) not in folders:
            run.place.remove(extra)  # made ahead by another worker, and not needed

    measured = [] if is_generic(plan.config) else lesions(kept(rows))  # by `acted`
    run.place.gather([*files_shown(rows), *(name for row in measured for name in (row.image, row.mask))])
    write_rows(out / MANIFEST, rows)
    write_cases(out, _cases_of(out, kept(rows), read_dataset(plan.data)))
    write_seen(out, read_seen(plan.model))
    write_json(out / PROVENANCE, provenance_of(plan))
    write_sheet(out, rows)
    summary = _summary(plan, rows, sum(seconds_of(folder) or 0.0 for folder in folders), run.notices)
    library = check_config(plan.config)
    findings = acted(rows, library, out, learned.rules)
    if findings or not is_generic(plan.config):
        log.warning(line_of(findings, library))
    summary = replace(summary, rules=learned.line(), findings=findings)
    write_json(out / SUMMARY, summary.as_dict())
    run.place.publish()
    return summary


def _cases_of(out: Path, rows: Sequence[Row], dataset: Dataset) -> list[Case]:
    """Return kept rows as cases, each in the group of its background."""
    made = SyntheticSet(out, tuple(rows), dataset.cases[0].classes)
    return [made.case(row, group=dataset[row.request.background].group) for row in rows]


def _summary(plan: Plan, rows: Sequence[Row], seconds: float, notices: Sequence[str]) -> GenerateSummary:
    counted, unknown = funnel(rows), Counter(part for row in rows for part in row.request.unknown_words)
    strata = {
        name: Stratum(quota, funnel([row for row in rows if row.request.aim == name]).lesions)
        for name, quota in plan.quotas().items()
    }
    painted = [row.request for row in kept(rows) if not row.request.negative]
    sizes = Counter(request.size_bin for request in painted)
    annotated = Calibration.load(plan.model / "calibration.json").counts
    return GenerateSummary(
        funnel=counted,
        seconds=round(seconds, 1),
        seconds_per_kept=round(round(seconds, 1) / max(1, counted.lesions.kept), 3),
        budget=strata if plan.budget else {},
        left_out_of_prompts=dict(sorted(unknown.items())),
        notices=tuple(notices),
        reasons=reasons_of(rows),
        painted_on=len({row.request.background for row in kept(rows)}),
        shown=len({example_of(request) for request in painted}),
        sizes={name: sizes[name] for name in SIZES},
        annotated={name: annotated.get(name, 0) for name in SIZES},
    )


def _complete(run: _Run) -> Iterator[Path]:
    """Complete shards of a share in order until enough cases are kept; yield the folder of each.

    With a budget, a shard is left out when its stratum has its quota: the shards stay what they are, and strata of
    which little is kept get more of them.

    Raises:
        ModelError: Too few of very many requests are kept.
    """
    plan, place, share, workers = run.plan, run.place, run.share, run.workers
    budget, size, wanted = plan.budget, plan.config.shard_size, share.quotas(plan.quotas())
    asked = 1 + plan.config.negatives  # requests for one lesion
    most = {name: max(4, math.ceil(PATIENCE * quota * asked / size)) for name, quota in wanted.items()}
    found, made = Counter[str](), Counter[str]()

    def stratum_of(shard: int) -> str:
        return budget.stratum_of(shard) if budget else ""

    def open_from(start: int) -> Iterator[int]:
        """Yield shards of the share whose strata lack cases, as far as is known."""
        while any(found[name] < quota for name, quota in wanted.items()):
            if share.has(start, len(wanted)) and found[stratum_of(start)] < wanted[stratum_of(start)]:
                yield start
            start += 1

    with (
        progress_bar("kept cases", sum(wanted.values())) as show,
        workers_of(workers, ray=run.ray, device=plan.device) as pool,
    ):
        ahead: dict[int, Job[int]] = {}
        for shard in open_from(0):
            name = stratum_of(shard)
            if made[name] == most[name]:
                raise ModelError(
                    f"a model must keep 1 of {PATIENCE} requests: {found[name]} of {round(made[name] * size / asked)} "
                    f"{name + ' ones ' if name else ''}were kept; fit it longer, annotate more cases, "
                    "or lower --validator.alpha of the fit"
                )
            for number in islice(open_from(shard), workers):
                if number not in ahead:
                    ahead[number] = pool.submit(*place.task(plan, number))
            found[name] += pool.result(ahead.pop(shard))
            folder = place.take(shard)
            made[name] += 1
            show(sum(min(found[name], quota) for name, quota in wanted.items()))
            yield folder


def _mark_surplus(rows: Sequence[Row], quotas: Mapping[str, int], found: Counter[str]) -> list[Row]:
    """Mark what was kept beyond the wanted count, in all or of a stratum, so that `--count N` means N.

    Args:
        rows: Of the next shard.
        quotas: The wanted count by stratum.
        found: What was kept in the shards before; it is counted further.
    """
    marked = []
    for row in rows:
        name = row.request.aim
        if row.decision == "kept" and not row.request.negative:
            found[name] += 1
            if found[name] > quotas[name]:
                reason = f"kept, beyond the {quotas[name]} {name + ' ones ' if name else ''}asked for"
                row = replace(row, decision="surplus", reason=reason)  # noqa: PLW2901 - the marked one takes its place
        marked.append(row)
    return marked
