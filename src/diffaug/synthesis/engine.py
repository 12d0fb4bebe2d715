"""Slots: every row of the running batch is its own request at its own timestep.

A row that is stopped or finished makes room for the next request at once, so what the gate saves is saved. The batch
shape never changes: empty slots are padded, so a sample does not depend on how many others there are.

Knows requests only as prepared tensors; reads and writes no file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser
from diffaug.diffusion.sampler import NO_PAST, Solver, finished, solver_step
from diffaug.diffusion.schedule import Schedule
from diffaug.validator.gate import Check, Gate, Target

Decision = Literal["kept", "stopped", "rejected"]


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be painted.

    Attributes:
        index: Number of the request.
        noise: Where sampling starts, (1, Z, h, w).
        conditioning: One row.
        target: What the gate holds the estimates against.
    """

    index: int
    noise: Tensor
    conditioning: Conditioning
    target: Target


@dataclass(frozen=True)
class Painted:
    """A request that left its slot.

    Attributes:
        index: Number of the request.
        latents: The finished sample, (1, Z, h, w); where it was stopped on the way, the last direct estimate.
        decision: kept, stopped (on the way) or rejected (at the end).
        checks: Every look the gate took.
        steps: Steps done.
    """

    index: int
    latents: Tensor
    decision: Decision
    checks: list[Check] = field(default_factory=list)
    steps: int = 0


@torch.no_grad()
def paint(
    denoiser: Denoiser,
    schedule: Schedule,
    prepared: Iterable[Prepared],
    *,
    steps: int,
    slots: int,
    gate: Gate | None = None,
    solver: Solver = "ab2",
) -> Iterator[Painted]:
    """Denoise requests in slots and yield each as it leaves, in an order that depends on the inputs alone.

    Args:
        denoiser: Any model behind the contract.
        schedule: Its signal power by timestep.
        prepared: Requests in order; taken from the iterator only as slots become free.
        steps: Sampler steps.
        slots: Rows of the batch.
        gate: Looks at estimates on the way; None keeps everything.
        solver: First order (ddim) or second (ab2, dpm++); each slot keeps its own past.
    """
    waiting = iter(prepared)
    first = list(islice(waiting, slots))
    if not first:
        return
    padded = first + [first[0]] * (slots - len(first))
    held: list[Prepared | None] = [*first, *[None] * (slots - len(first))]
    x_t = torch.cat([item.noise for item in padded])
    told = Conditioning.stack([item.conditioning for item in padded])
    done = torch.zeros(slots, dtype=torch.long)  # steps done by each slot
    past, past_t = torch.zeros_like(x_t), torch.full((slots,), NO_PAST)
    checks: list[list[Check]] = [[] for _ in range(slots)]
    timesteps = torch.cat([schedule.timesteps(steps), torch.tensor([-1])])

    while any(item is not None for item in held):
        # One step of every slot, each at its own timestep; padded slots repeat their first step.
        t, t_next = timesteps[done], timesteps[done + 1]
        x0_hat = denoiser(x_t, t, told)
        x_t, past = solver_step(solver, x_t, x0_hat, t, t_next, past, past_t, schedule)
        past, past_t = past.clone(), t.clone()
        done += 1
        ended = (done == steps).view(-1, 1, 1, 1)
        shown = torch.where(ended, finished(x_t, x0_hat, told.region), x0_hat)

        # The gate looks at the slots whose step is one of its own.
        looked = [i for i, item in enumerate(held) if item and gate and gate.looks_at(int(done[i]))]
        if looked and gate:
            rows = torch.tensor(looked)
            when = torch.where(done[rows] == steps, 0, t[rows])
            targets = [item.target for i in looked if (item := held[i])]
            for i, check in zip(looked, gate.check(shown[rows], when, done[rows], targets), strict=True):
                checks[i].append(check)

        # Finished and hopeless samples leave; the next requests take their slots.
        for i, item in enumerate(held):
            complete, failed = int(done[i]) == steps, bool(checks[i]) and not checks[i][-1].accepted
            if item is not None and (complete or failed):
                decision: Decision = ("rejected" if complete else "stopped") if failed else "kept"
                yield Painted(item.index, shown[i : i + 1].clone(), decision, checks[i], int(done[i]))
                held[i] = next(waiting, None)
            if held[i] is not item or item is None:
                done[i], past_t[i], checks[i] = 0, NO_PAST, []
                if (fresh := held[i]) is not None:
                    x_t[i] = fresh.noise[0]
                    told.place(torch.tensor([i]), fresh.conditioning)
