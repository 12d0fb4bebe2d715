"""The one progress bar: on stderr, or in the output of a Jupyter cell; elsewhere a logged line a minute. No torch."""

import html
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines where there is no terminal
REDRAWN = 0.5  # seconds between two pictures of a bar in a notebook
HALF = 300.0  # seconds after which a step counts half as much for the time that is left
FEWEST, SHARE, MANY = 5, 0.05, 50  # steps that an estimate needs: so many, and this share of all, but no more than MANY
MEASURED = 10.0  # seconds that it needs
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
        with _open_bar(_Lines(description, total, done, _log, EVERY)) as lines:
            yield lines
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


class _Pace:
    """Estimates the time that is left from the steps so far, of which the last ones count most.

    Args:
        total: How much there is to do.
        done: How much of it was done before.
    """

    def __init__(self, total: float, done: float) -> None:
        self.total, self.before, self.done = total, done, done
        self.started = self.noted = time.monotonic()
        self.seconds = self.steps = 0.0  # weighed: those of HALF seconds ago count half

    def note(self, done: float) -> None:
        """Set what is done, in all."""
        now = time.monotonic()
        weight = 0.5 ** ((now - self.noted) / HALF)
        self.seconds = weight * self.seconds + now - self.noted
        self.steps = weight * self.steps + done - self.done
        self.noted, self.done = now, done

    def left(self) -> float | None:
        """Return the seconds that are left; None while too little was measured."""
        gained, now = self.done - self.before, time.monotonic()
        needed = max(FEWEST, min(SHARE * (self.total - self.before), MANY))
        if gained < needed or now - self.started < MEASURED or self.steps <= 0:
            return None
        return max(0.0, (self.total - self.done) * self.seconds / self.steps - (now - self.noted))


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
        self.description, self.pace = description, _Pace(total, done)
        self.say, self.every, self.told = say, every, time.monotonic()

    def __call__(self, done: float, description: str | None = None) -> None:
        self.description = description or self.description
        self.pace.note(done)
        if not _Command.speaks and time.monotonic() - self.told >= self.every:
            self.told = time.monotonic()
            self.say(self.line(), done)

    def line(self) -> str:
        """Return what is done, and the minutes that are left where this is known and at least one."""
        left = self.pace.left()
        when = f", about {left / 60:.0f} min left" if left is not None and left >= 60 else ""
        return f"{self.description}: {self.pace.done:.0f} of {self.pace.total:.0f}{when}"


class _Command:
    """The bars of a command whose stderr is no terminal: it speaks for all of them."""

    speaks = False
    bars: tuple[_Lines, ...] = ()  # the open ones, the innermost last
    last: _Lines | None = None  # the one that was closed last


@contextmanager
def _open_bar(lines: _Lines) -> Iterator[_Lines]:
    """Let a command speak for a bar during the block."""
    _Command.bars = (*_Command.bars, lines)
    try:
        yield lines
    finally:
        _Command.bars = tuple(bar for bar in _Command.bars if bar is not lines)
        _Command.last = lines


@contextmanager
def minute_lines() -> Iterator[None]:
    """Log a line a minute during the block, a command's work, whatever its bars do, where stderr is no terminal.

    Each of many bars may be open for less than a minute, and one step of a bar may take longer.
    """
    if sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield
        return
    ended, _Command.speaks, _Command.last = Event(), True, None

    def speak() -> None:
        while not ended.wait(EVERY):
            log.info(_line_of_command())

    thread = Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _Command.speaks = False


def _line_of_command() -> str:
    """Return what a command is doing: of the innermost bar, else what it has done last."""
    bars, last = _Command.bars, _Command.last
    if bars:
        return bars[-1].line()
    return f"at work, after {last.description}" if last else "at work: reading and preparing"


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield items with a progress bar; with none where the description is empty."""
    if not description:
        yield from items
        return
    with progress_bar(description, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)
