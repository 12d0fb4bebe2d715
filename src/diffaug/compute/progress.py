"""The one progress bar, on stderr; a logged line a minute where stderr is no terminal. Imports no torch."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines where there is no terminal
Item = TypeVar("Item")


class Show(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: float, description: str | None = None) -> None:
        """Set what is done, in all, and perhaps another description."""


@contextmanager
def progress_bar(description: str, total: float, done: int = 0) -> Iterator[Show]:
    """Show a progress bar for the block; of several processes that train together only the first shows one.

    Args:
        description: What the work is called.
        total: How much there is to do.
        done: How much of it was done before.

    Yields:
        A function that takes what is done so far.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if os.environ.get("RANK", "0") != "0":
        yield lambda done, description=None: None
        return
    if not sys.stderr.isatty():
        yield _Lines(description, total, done)
        return
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done)

        def show(done: float, description: str | None = None) -> None:
            bar.update(task, completed=done, description=description)

        yield show


class _Lines:
    """Logs what is done and the time that is left, at most once in `EVERY` seconds."""

    def __init__(self, description: str, total: float, done: float) -> None:
        self.description, self.total, self.before = description, total, done
        self.started = self.told = time.monotonic()

    def __call__(self, done: float, description: str | None = None) -> None:
        self.description = description or self.description
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told = now
        gained = done - self.before
        left = (self.total - done) * (now - self.started) / gained / 60 if gained > 0 else None
        share = f"{done:.0f} of {self.total:.0f}"
        when = f", about {left:.0f} min left" if left is not None and left >= 1 else ""
        log.info(f"{self.description}: {share}{when}")


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield items with a progress bar; with none where the description is empty."""
    if not description:
        yield from items
        return
    with progress_bar(description, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)
