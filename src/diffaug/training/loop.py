"""The one training loop: seeded by iteration, checkpointed, resumable.

Knows modules and a loss; not what they mean. Codec, painter, validators and the study's segmentation networks use it.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffaug.artifacts import append_jsonl, make_folder, read_jsonl, write_jsonl, write_tensors
from diffaug.compute.devices import ALONE, Process, average_gradients, mean_of_processes
from diffaug.compute.progress import progress_bar
from diffaug.compute.seeds import generator_of, seeded
from diffaug.config import CodecConfig, DenoiserConfig, ValidatorConfig
from diffaug.errors import DataError, ModelError
from diffaug.reading import read_tensors

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 30.0
LOG_EVERY = 50  # iterations
LOOKS = 16  # times that a training is scored, if it is
CLIP = 1.0  # largest norm of a gradient
Tensors = Mapping[str, Tensor]
Loss = Callable[[int, torch.Generator], Tensors | Iterator[Tensors]]


@dataclass(frozen=True)
class Recipe:
    """How modules are trained, whatever their loss.

    Attributes:
        iterations: Optimiser updates in all.
        learning_rate: Highest learning rate.
        warmup: Iterations in which the rate rises to the highest.
        floor: Share of the highest rate that is left at the end.
        beta: Decay of AdamW's second moment.
        weight_decay: AdamW's.
        average: Decay of the moving average; 0 keeps the last weights.
        shares: Of the learning rate that parameters have whose names begin so, such as {"network.encoder.": 0.3}.
    """

    iterations: int
    learning_rate: float
    warmup: int
    floor: float = 0.0
    beta: float = 0.999
    weight_decay: float = 0.01
    average: float = 0.999
    shares: Mapping[str, float] = field(default_factory=dict)

    def share_of(self, name: str) -> float:
        """Return the share of the learning rate that a parameter has."""
        return next((share for start, share in self.shares.items() if name.startswith(start)), 1.0)

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate: it rises linearly to the highest, then falls as half a cosine to the floor."""
        if iteration < self.warmup:
            return self.learning_rate * (iteration + 1) / self.warmup
        done = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return self.learning_rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))


def recipe_of(
    config: CodecConfig | DenoiserConfig | ValidatorConfig, weight_decay: float = 0.01, average: float = 0.999
) -> Recipe:
    """Return how a part of a model is trained: a tenth of the iterations is warm-up, and 2 % of the rate stays."""
    warmup = min(100, max(1, config.iterations // 10))
    return Recipe(config.iterations, config.learning_rate, warmup, 0.02, 0.99, weight_decay, average)


class Average:
    """Exponential moving average of tensors, kept `into` others or in its own; short trainings are averaged too.

    decay_n = min(decay, (1 + n) / (10 + n)) after n iterations, as in diffusers' EMAModel and TensorFlow's. Counts,
    such as those of batch normalisation, are copied.
    """

    def __init__(self, tensors: Tensors, decay: float, into: Tensors | None = None) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in tensors.items()}
        if into is not None:  # the average lives in these tensors
            _fill(into, self.values)
            self.values = {name: into[name] for name in tensors}

    @torch.no_grad()
    def update(self, tensors: Tensors, done: int) -> None:
        """Move the average towards the tensors, after so many iterations."""
        decay = min(self.decay, (1 + done) / (10 + done))
        names = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in names], [tensors[n].detach() for n in names], 1 - decay)
        _fill(self.values, {name: value for name, value in tensors.items() if not value.is_floating_point()})


@torch.no_grad()
def _fill(targets: Tensors, values: Tensors) -> None:
    for name, value in values.items():
        targets[name].copy_(value)


class Best:
    """The averages that scored best so far.

    Args:
        score: Judges the modules; lower is better.
        modules: What is trained.
        tensors: Their parameters and buffers by name.
    """

    def __init__(self, score: Callable[[], float], modules: Iterable[nn.Module], tensors: Tensors) -> None:
        self.score, self.modules, self.tensors = score, tuple(modules), tensors
        self.values = {name: value.detach().clone() for name, value in tensors.items()}
        self.least = torch.tensor([float("inf")])

    def look(self, average: Tensors) -> float:
        """Score the average, keep it if it is the best, and leave the modules as they were."""
        before = {name: value.detach().clone() for name, value in self.tensors.items()}
        _fill(self.tensors, average)
        for module in self.modules:
            module.eval()
        with torch.no_grad():
            found = self.score()
        _fill(self.tensors, before)
        for module in self.modules:
            module.train()
        if found < float(self.least):
            self.least.fill_(found)
            _fill(self.values, average)
        return found


def _save(path: Path, tensors: Tensors, done: int) -> None:
    values = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_tensors(path, values, {"done": str(done), "digest": _digest_of(values)})


def _digest_of(values: Tensors) -> str:
    """Return the digest of tensors by name: a file of which a part was zeroed still opens."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(values[name].cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _load(path: Path, targets: Tensors, forgiving: bool) -> int:
    """Fill the target tensors in place, each in its own memory format, and return the iterations done.

    Args:
        path: The checkpoint.
        targets: What it must hold.
        forgiving: Whether a damaged one, which is of no use to anybody, is taken for none.

    Raises:
        ModelError: The file is damaged, or holds other tensors.
    """
    try:
        values, about = read_tensors(path)
        done = int(about.get("done", -1))
        if "digest" in about and about["digest"] != _digest_of(values):
            raise ValueError("its values are not those that were written")
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        if not forgiving:
            raise ModelError(f"a checkpoint must be whole: {path}: {reason}; delete it to start again") from None
        log.warning(f"{path} is damaged ({reason}): this training starts again from its beginning")
        return 0
    fits = set(values) == set(targets) and all(values[name].shape == targets[name].shape for name in values)
    if done < 0 or not fits:
        raise ModelError(f"a checkpoint must fit its model: {path} holds other parts; delete it to start again")
    _fill(targets, values)
    return done


def _rows_until(table: Path, start: int) -> list[dict[str, Any]]:
    """Return the rows of a log up to an iteration; none of a damaged one, which nothing depends on."""
    try:
        return [row for row in read_jsonl(table) if int(row.get("iteration", start + 1)) <= start]
    except (DataError, TypeError, ValueError):
        return []


def _is_look(done: int, iterations: int) -> bool:
    """Tell whether the average is scored after so many iterations: `LOOKS` times, evenly, and at the end."""
    return done == iterations or done % max(1, iterations // LOOKS) == 0


def _backward(parts: Iterable[Tensors], where: str) -> dict[str, float]:
    """Add up the gradients of the parts of a loss, and return the sums of their terms.

    Raises:
        ModelError: A loss is not finite.
    """
    sums: dict[str, float] = {}
    for part in parts:
        if not torch.isfinite(part["loss"]):
            raise ModelError(f"a loss must stay finite: {where}; lower its learning rate")
        cast("Callable[[], None]", part["loss"].backward)()
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    return sums


def tensors_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return what training changes, by name: parameters that need a gradient, and buffers that are saved."""
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
        buffers = {key for key, _ in module.named_buffers()}
        state = module.state_dict(keep_vars=True)
        found |= {f"{name}.{key}": value for key, value in state.items() if key in trained | buffers}
    return found


def _state_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and saved buffers of modules by name, which share their memory."""
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def _optimiser(
    parameters: Mapping[str, nn.Parameter], recipe: Recipe
) -> tuple[torch.optim.Optimizer, dict[str, Tensor]]:
    """Return AdamW, and the tensors of its state by name, which it fills in place."""
    rates = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta), "weight_decay": recipe.weight_decay}
    shares = {name: recipe.share_of(name) for name in parameters}
    groups = [
        {"params": [value for name, value in parameters.items() if shares[name] == share], "share": share}
        for share in dict.fromkeys(shares.values())
    ]
    optimiser = torch.optim.AdamW(groups, **rates, fused=True)  # type: ignore[arg-type]
    state: dict[str, Tensor] = {}
    for key, value in parameters.items():
        moments = {kind: torch.zeros_like(value, requires_grad=False) for kind in ("exp_avg", "exp_avg_sq")}
        optimiser.state[value] = {"step": torch.zeros((), device=value.device), **moments}
        state |= {f"{kind}/{key}": moment for kind, moment in optimiser.state[value].items()}
    return optimiser, state


def optimise(
    modules: Mapping[str, nn.Module],
    loss: Loss,
    recipe: Recipe,
    files: Path,
    *,
    seed: int = 0,
    score: Callable[[], float] | None = None,
    process: Process = ALONE,
    report: Callable[[int], None] | None = None,
    averaged: Mapping[str, nn.Module] | None = None,
    forgiving: bool = False,
) -> None:
    """Train modules in place; they end with the moving average of their weights, with the best average if scored.

    The randomness of iteration i is a pure function of (seed, i), so a run that is killed and started again does what
    an unbroken run does.

    Args:
        modules: What is trained; parameters that need no gradient are left alone.
        loss: Maps (iteration, generator) to named scalars; "loss" is minimised, the others are logged. It may yield
            several of them, whose sum counts, each with a graph of its own: memory for one is enough.
        recipe: Iterations, rates and decays.
        files: Path of the files without suffix: `.checkpoint`, and `.log.jsonl`.
        seed: Seeds every iteration.
        score: Judges the averaged modules on what they have not seen, lower is better; called `LOOKS` times.
        process: Which of the processes that train together this is; gradients are averaged over them.
        report: Is called with the iterations done; None shows a progress bar.
        averaged: Copies of the modules by the same names, which always hold the moving average, such as a teacher.
        forgiving: Whether training starts from its beginning where the checkpoint is damaged.

    Raises:
        ModelError: The checkpoint is of another model, or the loss is not finite.
    """
    make_folder(files.parent)
    name, checkpoint, table = files.name, files.with_name(f"{files.name}.checkpoint"), log_of(files)
    tensors = tensors_of(modules)
    parameters = {key: value for key, value in tensors.items() if isinstance(value, nn.Parameter)}
    average = Average(tensors, recipe.average, None if averaged is None else _state_of(averaged))
    best = Best(score, modules.values(), tensors) if score else None
    optimiser, moments = _optimiser(parameters, recipe)
    state = moments | _named("weights", tensors) | _named("average", average.values)  # all that a resumed run needs
    state |= _named("best", best.values) | {"least": best.least} if best else {}
    start = _load(checkpoint, state, forgiving) if checkpoint.exists() else 0
    if process.leads:
        write_jsonl(table, _rows_until(table, start))
    for module in modules.values():
        module.train()
    saved, clock = time.monotonic(), time.process_time()
    with seeded(seed), _reported(name, recipe.iterations, start, report) as show:
        for i in range(start, recipe.iterations):
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * recipe.learning_rate_at(i)
            generator = generator_of(seed, i)
            torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
            optimiser.zero_grad(set_to_none=True)
            found = loss(i, generator)
            terms = _backward((found,) if isinstance(found, Mapping) else found, f"{name} iteration {i + 1}")
            if process.count > 1:
                average_gradients(parameters.values())
            nn.utils.clip_grad_norm_(parameters.values(), CLIP)
            optimiser.step()

            done = i + 1
            average.update(tensors, done)
            row: dict[str, float] = {}
            if best and _is_look(done, recipe.iterations):
                row["score"] = round(best.look(average.values), 6)
            if done % LOG_EVERY == 0 or done == recipe.iterations:
                terms = _of_all(terms) if process.count > 1 else terms
                row |= _logged(terms, (time.process_time() - clock) / (done - start))
            show(done)
            if row and process.leads:
                append_jsonl(table, {"iteration": done, **row})
            if process.leads and (time.monotonic() - saved > CHECKPOINT_SECONDS or done == recipe.iterations):
                _save(checkpoint, state, done)
                saved = time.monotonic()

    _fill(tensors, best.values if best else average.values)
    for module in modules.values():
        module.eval()


def _of_all(terms: Mapping[str, float]) -> dict[str, float]:
    """Return the means of terms over the processes that train together: those of the whole batch."""
    return dict(zip(terms, mean_of_processes(torch.tensor(list(terms.values()))).tolist(), strict=True))


def _logged(terms: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the terms of a loss and the milliseconds of an iteration, as the log has them."""
    return {**{key: round(value, 6) for key, value in terms.items()}, "ms": round(1000 * seconds, 1)}


def _named(kind: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that they have in a checkpoint."""
    return {f"{kind}/{name}": value for name, value in values.items()}


def log_of(files: Path) -> Path:
    """Return the log of a training, whose rows say the iterations done, and losses, scores or ms of CPU for each."""
    return files.with_name(f"{files.name}.log.jsonl")


@contextmanager
def _reported(
    name: str, iterations: int, start: int, report: Callable[[int], None] | None
) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the iterations done: `report`, or one that moves a progress bar."""
    if report is not None:
        yield report
        return
    with progress_bar(name, iterations, start) as show:
        yield show
