"""The one progress bar: on stderr, and silent where stderr is no terminal. Imports no torch."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

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

    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_silent = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, disable=is_silent) as bar:
        task = bar.add_task(description, total=total, completed=done)

        def show(done: float, description: str | None = None) -> None:
            bar.update(task, completed=done, description=description)

        yield show


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield items with a progress bar; with none where the description is empty."""
    if not description:
        yield from items
        return
    with progress_bar(description, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)
