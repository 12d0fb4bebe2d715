"""One progress bar for every stage, on stderr."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffaug.compute.devices import this_process


def progress_bar() -> Progress:
    """Return a progress bar on stderr that disappears from logs which are no terminal."""
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty() or not this_process().leads
    )
