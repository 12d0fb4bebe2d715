"""The one training loop: seeded by iteration, checkpointed, resumable.

Knows modules and a loss; not what they mean. Codec, painter, validator and the study's segmentation network all use it.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffaug.artifacts import append_jsonl, atomic_path, make_folder, read_jsonl, write_jsonl
from diffaug.compute.devices import ALONE, Process, average_gradients
from diffaug.compute.progress import progress_bar
from diffaug.compute.seeds import generator_of
from diffaug.errors import ModelError

CHECKPOINT_SECONDS = 30.0
LOOKS = 16  # times that a training is scored, if it is
Terms = Mapping[str, Tensor]
Loss = Callable[[int, torch.Generator], Terms | Iterator[Terms]]


class Scaler:
    """Loss scaling for float16, whose state is a tensor, so that it fits into a checkpoint; no effect if not enabled.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), Sec. 3.2.
    """

    def __init__(self, enabled: bool) -> None:
        self.scaler = torch.amp.GradScaler("cpu", enabled=enabled)  # the loss is there; gradients may be elsewhere
        self.state = {"loss_scale": torch.tensor([self.scaler.get_scale(), 0.0])} if enabled else {}

    def restore(self) -> None:
        """Set the scale to what `state` says."""
        if self.state:
            scale, steps = self.state["loss_scale"].tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(steps)})

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled, to those of its parameters."""
        cast("Callable[[], None]", self.scaler.scale(loss).backward)()

    def step(self, optimiser: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
        """Clip the gradients and make a step, unless one is not finite; then note the next scale."""
        self.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.scaler.step(optimiser)
        self.scaler.update()
        if self.state:
            now = self.scaler.state_dict()
            self.state["loss_scale"].copy_(torch.tensor([now["scale"], now["_growth_tracker"]]))


def learning_rate_at(iteration: int, iterations: int, warmup: int = 100) -> float:
    """Return the factor on the learning rate: linear warm-up, then half a cosine down to 2 %."""
    warmup = min(warmup, max(1, iterations // 10))
    if iteration < warmup:
        return (iteration + 1) / warmup
    done = (iteration - warmup) / max(1, iterations - warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Average:
    """Exponential moving average of parameters with a warm-up, so that short trainings are averaged too.

    decay_i = min(decay, (1 + i) / (10 + i)), as in diffusers' EMAModel and TensorFlow's; kept by parameter name so that
    it fits into one safetensors file next to the parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], iteration: int) -> None:
        """Move the average towards the parameters after an iteration."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        names = list(self.values)
        torch._foreach_lerp_([self.values[n] for n in names], [parameters[n].detach() for n in names], 1 - decay)


def _save(path: Path, tensors: Mapping[str, Tensor], iteration: int) -> None:
    with atomic_path(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"iteration": str(iteration)})


def _load(path: Path, targets: Mapping[str, Tensor]) -> int:
    """Fill the target tensors in place and return the iteration that was saved."""
    try:
        with safe_open(path, framework="pt") as file:
            iteration = (file.metadata() or {}).get("iteration")
            if iteration is None or set(file.keys()) != set(targets):
                raise ModelError(f"a checkpoint must fit its model: {path} holds other parts; delete it to start again")
            with torch.no_grad():
                for name, target in targets.items():
                    target.copy_(file.get_tensor(name))
            return int(iteration)
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"a checkpoint must be whole: {path}: {reason}; delete it to start again") from None


def _looks(done: int, iterations: int) -> bool:
    """Tell whether the average is scored after so many iterations: `LOOKS` times, evenly, and at the end."""
    return done == iterations or done % max(1, iterations // LOOKS) == 0


class Best:
    """The averaged parameters that scored best so far.

    Args:
        score: Judges the modules; lower is better.
        modules: What is trained.
        params: Their parameters by name.
    """

    def __init__(
        self, score: Callable[[], float], modules: Mapping[str, nn.Module], params: Mapping[str, Tensor]
    ) -> None:
        self.score, self.modules, self.params = score, modules, params
        self.values = {name: value.detach().clone() for name, value in params.items()}
        self.least = torch.tensor([float("inf")])

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {f"best/{name}": value for name, value in self.values.items()} | {"least": self.least}

    @torch.no_grad()
    def look(self, average: Mapping[str, Tensor]) -> float:
        """Score the average, keep it if it is the best, and leave the modules as they were."""
        kept = {name: value.detach().clone() for name, value in self.params.items()}
        _fill(self.params, average)
        for module in self.modules.values():
            module.eval()
        found = self.score()
        _fill(self.params, kept)
        for module in self.modules.values():
            module.train()
        if found < float(self.least):
            self.least.fill_(found)
            _fill(self.values, average)
        return found


def _fill(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(values[name])


def _backward(parts: Iterable[Terms], scaler: Scaler, where: str, log: Path) -> dict[str, float]:
    """Add up the gradients of the parts of a loss, and return the sums of their terms.

    Raises:
        ModelError: A loss is not finite.
    """
    sums: dict[str, float] = {}
    for part in parts:
        if not torch.isfinite(part["loss"]):
            raise ModelError(f"a loss must be finite: {where}; the log is in {log}; lower the rate")
        scaler.backward(part["loss"])
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    return sums


def optimise(
    name: str,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    folder: Path,
    *,
    iterations: int,
    learning_rate: float,
    seed: int = 0,
    average: float = 0.999,
    weight_decay: float = 0.01,
    score: Callable[[], float] | None = None,
    half: bool = False,
    process: Process = ALONE,
) -> None:
    """Train modules in place; afterwards they hold the moving average of their parameters, the best one if scored.

    The randomness of iteration i is a pure function of (seed, i), so a run that is killed and started again does what
    an unbroken run does (in float16 but for AdamW's count of updates, which leaves out those that overflowed). `folder`
    holds `NAME.safetensors` (the checkpoint) and `NAME.jsonl` (the log).

    Args:
        name: Names the files and the progress bar.
        modules: What is trained; parameters that require no gradient are left alone.
        loss: Maps (iteration, generator) to named scalars; "loss" is minimised, the others are logged. It may yield
            several of them, whose sum counts, each with a graph of its own: memory for one is enough.
        folder: Where checkpoint and log are kept.
        iterations: Optimiser updates in all.
        learning_rate: Peak of the lr_schedule of `learning_rate_at`.
        seed: Seeds every iteration.
        average: Decay of the moving average.
        weight_decay: AdamW's.
        score: Judges the averaged modules on what they have not seen, lower is better; called `LOOKS` times.
        half: Whether the loss is computed in float16, and needs scaling.
        process: Which of the processes that train together this is; gradients are averaged over them.

    Raises:
        ModelError: The checkpoint in `folder` belongs to another model, or the loss is not finite.
    """
    checkpoint, log = make_folder(folder) / f"{name}.safetensors", folder / f"{name}.jsonl"
    params = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters() if p.requires_grad}
    moments = {kind: {n: torch.zeros_like(p) for n, p in params.items()} for kind in ("exp_avg", "exp_avg_sq")}
    mean = Average(params, average)
    best = Best(score, modules, params) if score else None
    optimiser = torch.optim.AdamW(params.values(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)

    # Everything that a resumed run needs, by name.
    state = {f"parameters/{n}": p for n, p in params.items()} | {f"average/{n}": p for n, p in mean.values.items()}
    state |= {f"{kind}/{n}": p for kind, values in moments.items() for n, p in values.items()}
    scaler = Scaler(half)
    state |= (best.state() if best else {}) | scaler.state
    start = _load(checkpoint, state) if checkpoint.exists() else 0
    scaler.restore()
    for n, p in params.items():
        optimiser.state[p] = {kind: values[n] for kind, values in moments.items()} | {
            "step": torch.tensor(float(start))
        }
    if process.leads:
        write_jsonl(log, (row for row in read_jsonl(log) if row["iteration"] < start))

    for module in modules.values():
        module.train()
    saved = logged = time.monotonic()
    with progress_bar(name, iterations, start) as show:
        for i in range(start, iterations):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * learning_rate_at(i, iterations)
            generator = generator_of(seed, i)
            torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
            found = loss(i, generator)
            optimiser.zero_grad(set_to_none=True)
            terms = _backward((found,) if isinstance(found, Mapping) else found, scaler, f"{name} iteration {i}", log)
            if process.count > 1:
                average_gradients(params.values())
            scaler.step(optimiser, list(params.values()))
            mean.update(params, i)

            rows: list[dict[str, float]] = []
            if best and _looks(i + 1, iterations):
                rows.append({"iteration": i, "score": round(best.look(mean.values), 6)})

            show(i + 1)
            now = time.monotonic()
            if now - logged > 5 or i + 1 == iterations:
                rows.append({"iteration": i, **{n: round(value, 6) for n, value in terms.items()}})
                logged = now
            if rows and process.leads:
                append_jsonl(log, *rows)
            if now - saved > CHECKPOINT_SECONDS and process.leads:
                _save(checkpoint, state, i + 1)
                saved = now
    if start < iterations and process.leads:
        _save(checkpoint, state, iterations)

    with torch.no_grad():
        _fill(params, best.values if best else mean.values)
    for module in modules.values():
        module.eval()
