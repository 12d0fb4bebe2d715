"""Slots: every row of the running batch is its own request at its own timestep.

A row that is stopped or finished makes room for the next request at once, so what the gate saves is saved. The batch
shape never changes: empty slots are padded, so a sample does not depend on how many others there are.

A request may start from several seeds. Each runs to the gate's first look, waits there outside the batch, and when all
have come the best goes on: one rung of successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

Knows requests only as prepared tensors; reads and writes no file.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
        noise: Where sampling starts, at the first timestep, a row per candidate, (C, Z, h, w).
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
        candidate: Which row of the noise it started from.
        rivals: Where there were several, the score of each at the first look.
    """

    index: int
    latents: Tensor
    decision: Decision
    checks: list[Check] = field(default_factory=list)
    steps: int = 0
    candidate: int = 0
    rivals: tuple[float, ...] = ()


@dataclass
class Run:
    """One candidate of a request, in a slot or waiting for its rivals.

    Attributes:
        item: The request.
        candidate: Row of its noise.
        x_t: Where it is, (Z, h, w).
        past: What the solver remembers, (Z, h, w).
        past_t: Timestep of that.
        shown: The last direct estimate, at the end the finished sample, (Z, h, w).
        done: Steps done.
        checks: Looks so far.
        rivals: Scores of all candidates at the first look, once they are known.
    """

    item: Prepared
    candidate: int
    x_t: Tensor
    past: Tensor
    past_t: int
    shown: Tensor
    done: int = 0
    checks: list[Check] = field(default_factory=list)
    rivals: tuple[float, ...] = ()

    @staticmethod
    def of(item: Prepared, candidate: int) -> "Run":
        """Return a run at its start."""
        noise = item.noise[candidate]
        return Run(item, candidate, noise, torch.zeros_like(noise), NO_PAST, noise)

    def waits(self) -> bool:
        """Tell whether this is a candidate after its first look, which must be compared."""
        return len(self.item.noise) > 1 and len(self.checks) == 1 and not self.rivals

    def decision(self, steps: int) -> Decision | None:
        """Return what became of it, None while it goes on."""
        failed = bool(self.checks) and not self.checks[-1].accepted
        if self.done == steps:
            return "rejected" if failed else "kept"
        return "stopped" if failed else None

    def painted(self, decision: Decision) -> Painted:
        """Return it as it leaves."""
        latents = self.shown[None].clone()
        return Painted(self.item.index, latents, decision, self.checks, self.done, self.candidate, self.rivals)


class Queue:
    """Hands out runs: candidates that won first, then the next of the requests in order.

    Args:
        prepared: Requests; taken from the iterator only as runs are asked for.
    """

    def __init__(self, prepared: Iterable[Prepared]) -> None:
        self.fresh = (Run.of(item, candidate) for item in prepared for candidate in range(len(item.noise)))
        self.winners: deque[Run] = deque()
        self.parked: dict[int, list[Run]] = {}

    def next(self) -> Run | None:
        """Return a run for a free slot, or None where nothing waits."""
        return self.winners.popleft() if self.winners else next(self.fresh, None)

    def park(self, run: Run) -> Run | None:
        """Set a candidate aside after its first look; return the best one once its rivals are all there."""
        rivals = self.parked.setdefault(run.item.index, [])
        rivals.append(run)
        if len(rivals) < len(run.item.noise):
            return None
        del self.parked[run.item.index]
        rivals.sort(key=lambda rival: rival.candidate)
        best = max(rivals, key=lambda rival: rival.checks[0].score)  # the first of equals
        best.rivals = tuple(rival.checks[0].score for rival in rivals)
        return best


class Batch:
    """The running batch: `slots` rows, each a run or padding.

    Args:
        runs: What the slots start with, at least one.
        slots: Rows.
    """

    def __init__(self, runs: list[Run], slots: int) -> None:
        padded = [*runs, *[runs[0]] * (slots - len(runs))]
        self.held: list[Run | None] = [*runs, *[None] * (slots - len(runs))]
        self.x_t = torch.stack([run.x_t for run in padded])
        self.told = Conditioning.stack([run.item.conditioning for run in padded])
        self.done = torch.zeros(slots, dtype=torch.long)
        self.past, self.past_t = torch.zeros_like(self.x_t), torch.full((slots,), NO_PAST)

    def note(self, slot: int, run: Run, shown: Tensor) -> None:
        """Write a slot's state back into its run."""
        run.x_t, run.past, run.shown = self.x_t[slot].clone(), self.past[slot].clone(), shown
        run.past_t, run.done = int(self.past_t[slot]), int(self.done[slot])

    def put_in(self, slot: int, run: Run | None) -> None:
        """Give a slot to a run; without one it is padded and starts again from what is there."""
        self.held[slot] = run
        self.done[slot], self.past_t[slot] = (run.done, run.past_t) if run else (0, NO_PAST)
        if run is not None:
            self.x_t[slot], self.past[slot] = run.x_t, run.past
            self.told.place(torch.tensor([slot]), run.item.conditioning)


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
) -> Iterator[Painted]:
    """Denoise requests in slots and yield each as it leaves, in an order that depends on the inputs alone.

    Args:
        denoiser: Any model behind the contract.
        schedule: Its signal power by timestep.
        prepared: Requests in order; taken from the iterator only as slots become free.
        steps: Sampler steps.
        slots: Rows of the batch.
        gate: Looks at estimates on the way, and chooses among candidates; None keeps the first of everything.
        solver: First order (ddim) or second (ab2, dpm++); each slot keeps its own past.
        strength: Share of the timesteps that the steps span; 1 starts from noise alone.
    """
    queue = Queue(prepared if gate else (_of_one_seed(item) for item in prepared))
    first = [run for _ in range(slots) if (run := queue.next())]
    if not first:
        return
    batch = Batch(first, slots)
    timesteps = torch.cat([schedule.timesteps(steps, strength), torch.tensor([-1])])

    while any(run is not None for run in batch.held):
        # One step of every slot, each at its own timestep; padded slots repeat their first step.
        t, t_next = timesteps[batch.done], timesteps[batch.done + 1]
        x0_hat = denoiser(batch.x_t, t, batch.told)
        batch.x_t, past = solver_step(solver, batch.x_t, x0_hat, t, t_next, batch.past, batch.past_t, schedule)
        batch.past, batch.past_t = past.clone(), t.clone()
        batch.done += 1
        ended = (batch.done == steps).view(-1, 1, 1, 1)
        shown = torch.where(ended, finished(batch.x_t, x0_hat, batch.told.region), x0_hat)

        # The gate looks at the slots whose step is one of its own.
        looked = [i for i, run in enumerate(batch.held) if run and gate and gate.looks_at(int(batch.done[i]))]
        if looked and gate:
            rows = torch.tensor(looked)
            when = torch.where(batch.done[rows] == steps, 0, t[rows])
            targets = [run.item.target for i in looked if (run := batch.held[i])]
            for i, check in zip(looked, gate.check(shown[rows], when, batch.done[rows], targets), strict=True):
                if run := batch.held[i]:
                    run.checks.append(check)

        # Finished and hopeless samples leave, candidates wait for their rivals; what comes next takes their slots.
        for i, run in enumerate(batch.held):
            if run is not None:
                batch.note(i, run, shown[i])
                best = queue.park(run) if run.waits() else run
                decision = best.decision(steps) if best else None
                if best and decision:
                    yield best.painted(decision)
                elif best is run:
                    continue
                elif best:
                    queue.winners.append(best)
            batch.put_in(i, queue.next() if run else None)


def _of_one_seed(item: Prepared) -> Prepared:
    """Return a request that starts from its first candidate alone."""
    return Prepared(item.index, item.noise[:1], item.conditioning, item.target)
