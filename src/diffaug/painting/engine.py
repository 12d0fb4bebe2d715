"""Slots: every row of the running batch is its own request at its own timestep.

A row that is stopped or finished makes room for the next request at once, so what the gate saves is saved. The batch
shape never changes: empty slots are padded, so a sample does not depend on how many others there are.

Knows requests only as prepared tensors; reads and writes no file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from diffaug.data.manifest import Decision
from diffaug.data.request import Check
from diffaug.diffusion.contract import Conditioning, Denoiser
from diffaug.diffusion.sampler import NO_PAST, Solver, finished, solver_step
from diffaug.diffusion.schedule import Schedule
from diffaug.validator.gate import Gate, Target


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be painted.

    Attributes:
        index: Number of the request.
        noise: Where sampling starts, at the first timestep, (1, Z, h, w).
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
        checks: Every look the gate took at this sample.
        steps: Steps done by this sample.
    """

    index: int
    latents: Tensor
    decision: Decision
    checks: tuple[Check, ...] = ()
    steps: int = 0


class Batch:
    """The running batch: `slots` rows, each a request or padding.

    Args:
        first: What the slots start with, at least one request.
        slots: Rows.
    """

    def __init__(self, first: Sequence[Prepared], slots: int) -> None:
        padded = [*first, *[first[0]] * (slots - len(first))]
        self.held: list[Prepared | None] = [*first, *[None] * (slots - len(first))]
        self.checks: list[tuple[Check, ...]] = [()] * slots
        self.x_t = torch.cat([item.noise for item in padded])
        self.conditioning = Conditioning.stack([item.conditioning for item in padded])
        self.done = torch.zeros(slots, dtype=torch.long)
        self.past, self.past_t = torch.zeros_like(self.x_t), torch.full((slots,), NO_PAST)

    def put_in(self, slot: int, item: Prepared | None) -> None:
        """Give a slot to a request; without one it is padded and starts again from what is there."""
        self.held[slot], self.checks[slot] = item, ()
        self.done[slot], self.past_t[slot] = 0, NO_PAST
        if item is not None:
            self.x_t[slot], self.past[slot] = item.noise[0], 0
            self.conditioning.place(torch.tensor([slot]), item.conditioning)

    def decision(self, slot: int, steps: int) -> Decision | None:
        """Return what became of a slot's request; None while it goes on."""
        checks = self.checks[slot]
        failed = bool(checks) and not checks[-1].accepted
        if self.done[slot] == steps:
            return "rejected" if failed else "kept"
        return "stopped" if failed else None


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
    strength: float = 1.0,
    at_once: int | None = None,
) -> Iterator[Painted]:
    """Denoise requests in slots and yield each as it leaves, in an order that depends on the inputs alone.

    Args:
        denoiser: Any model behind the contract.
        schedule: Its signal power by timestep.
        prepared: Requests in order; taken from the iterator only as slots become free.
        steps: Sampler steps.
        slots: Rows of the batch.
        gate: Looks at estimates on the way; None keeps everything.
        solver: First order (ddim) or second (ab2); each slot keeps its own past.
        strength: Share of the timesteps that the steps span; 1 starts from noise alone.
        at_once: How many slots hold a request, so that fewer are prepared; None is all of them.
    """
    queue = iter(prepared)
    first = list(islice(queue, at_once or slots))
    if not first:
        return
    batch = Batch(first, slots)
    timesteps = torch.cat([schedule.timesteps(steps, strength), torch.tensor([-1])])

    while any(item is not None for item in batch.held):
        # One step of every slot, each at its own timestep; padded slots repeat their first step.
        t, t_next = timesteps[batch.done], timesteps[batch.done + 1]
        x0_hat = denoiser(batch.x_t, t, batch.conditioning)
        batch.x_t, past = solver_step(solver, batch.x_t, x0_hat, t, t_next, batch.past, batch.past_t, schedule)
        batch.past, batch.past_t = past.clone(), t.clone()
        batch.done += 1
        ended = (batch.done == steps).view(-1, 1, 1, 1)
        shown = torch.where(ended, finished(batch.x_t, x0_hat, batch.conditioning.region), x0_hat)

        # The gate looks at the slots whose step is one of its own.
        looked = [i for i, item in enumerate(batch.held) if item and gate and gate.looks_at(int(batch.done[i]))]
        if looked and gate:
            rows = torch.tensor(looked)
            when = torch.where(batch.done[rows] == steps, 0, t[rows])
            targets = [item.target for i in looked if (item := batch.held[i])]
            for i, check in zip(looked, gate.check(shown[rows], when, batch.done[rows], targets), strict=True):
                batch.checks[i] += (check,)

        # Finished and hopeless samples leave; the next requests take their slots.
        for i, item in enumerate(batch.held):
            decision = batch.decision(i, steps) if item else None
            if item and decision:
                yield Painted(item.index, shown[i : i + 1].clone(), decision, batch.checks[i], int(batch.done[i]))
            if decision or not item:
                batch.put_in(i, next(queue, None) if item else None)
