"""The one progress bar: on stderr, or in the output of a Jupyter cell; elsewhere a logged line a minute. No torch."""

import html
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines where there is no terminal
REDRAWN = 0.5  # seconds between two pictures of a bar in a notebook
Item = TypeVar("Item")


class Show(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: float, description: str | None = None) -> None:
        """Set what is done, in all, and perhaps another description."""


def _log(line: str, done: float) -> None:
    log.info(line)


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
    if _in_notebook():
        with _cell_bar(description, total, done) as show:
            yield show
        return
    if not sys.stderr.isatty():
        yield _Lines(description, total, done, _log, EVERY)
        return
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done)

        def show(done: float, description: str | None = None) -> None:
            bar.update(task, completed=done, description=description)

        yield show


def _in_notebook() -> bool:
    """Tell whether this code runs in a cell of a notebook, which has a kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _cell_bar(description: str, total: float, done: float) -> Iterator[Show]:
    """Show a bar in the output of the cell for the block, and leave nothing of it."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def draw(line: str, done: float) -> None:
        bar = f'<progress value="{done:.0f}" max="{total:.0f}"></progress>'
        handle.update(HTML(f"{bar} {html.escape(line)}"))

    try:
        yield _Lines(description, total, done, draw, REDRAWN)
    finally:
        handle.update(HTML(""))


class _Lines:
    """Says what is done and the time that is left, from time to time.

    Args:
        description: What the work is called.
        total: How much there is to do.
        done: How much of it was done before.
        say: Takes the line, and what is done.
        every: Least seconds between two lines.
    """

    def __init__(
        self, description: str, total: float, done: float, say: Callable[[str, float], None], every: float
    ) -> None:
        self.description, self.total, self.before = description, total, done
        self.say, self.every = say, every
        self.started = self.told = time.monotonic()

    def __call__(self, done: float, description: str | None = None) -> None:
        self.description = description or self.description
        now = time.monotonic()
        if now - self.told < self.every:
            return
        self.told = now
        gained = done - self.before
        left = (self.total - done) * (now - self.started) / gained / 60 if gained > 0 else None
        share = f"{done:.0f} of {self.total:.0f}"
        when = f", about {left:.0f} min left" if left is not None and left >= 1 else ""
        self.say(f"{self.description}: {share}{when}", done)


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield items with a progress bar; with none where the description is empty."""
    if not description:
        yield from items
        return
    with progress_bar(description, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)
