"""The command line: one class a command, each a few lines around a library call.

Torch is imported by the commands that need it, so that `--help` answers at once.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, get_args

from pydantic import ValidationError
from tyro.conf import subcommand

from diffaug import __version__
from diffaug.artifacts import storing
from diffaug.cli.audit import Audit
from diffaug.cli.base import Command, choose_preset, refuse_urls
from diffaug.cli.data import Data, DataCommand, Prompts
from diffaug.cli.export import Export
from diffaug.cli.model import Fit, Generate, Remove, Segment
from diffaug.cli.provenance import Explain, Reproduce
from diffaug.cli.review import Review
from diffaug.cli.run import Demo, Run
from diffaug.cli.study import Predict, PseudoLabel, Report, Select, Study
from diffaug.cli.usage import overview, parse
from diffaug.compute.progress import minute_lines
from diffaug.errors import ConfigError, DiffaugError, one_line
from diffaug.knobs import explain

Commands = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Prompts, subcommand("prompts")]
    | Annotated[Fit, subcommand("fit")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Remove, subcommand("remove")]
    | Annotated[Segment, subcommand("segment")]
    | Annotated[PseudoLabel, subcommand("pseudo-label")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Study, subcommand("study")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Audit, subcommand("audit")]
    | Annotated[Review, subcommand("review")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Explain, subcommand("explain")]
    | Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Run, subcommand("run")]
)
SPINS = "1000"  # times that a waiting thread looks before it sleeps; 300,000 by default
ABOUT = "Paint lesions where annotations are scarce, and measure whether they help."


def main(argv: list[str] | None = None) -> None:
    """Run a command, or list them if none is given; an expected error is one line on stderr and exit status 1."""
    words = sys.argv[1:] if argv is None else argv
    if words == ["--version"]:
        return print(__version__)
    if words in ([], ["--help"], ["-h"]):
        return print(overview(ABOUT, _named(Commands)))
    _show_log()
    _wait_briefly()
    try:
        _check_command(words[0])
        choose_preset(words)
        command = _parse(words)
        _check_seed(command)
        refuse_urls(getattr(command, "command", command))
        with _ends_as_by_ctrl_c(), storing(), minute_lines():
            command.run()
    except ValidationError as error:
        _fail(explain(error))
    except DiffaugError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to continue")
    except MemoryError:
        _fail("memory ran out; take smaller images or fewer workers and slots, then run the same command again")
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ToStderr(logging.Handler):
    """Prints a line to where stderr is now: stdout is for results."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message alone."""
        print("\n".join(map(one_line, self.format(record).split("\n"))), file=sys.stderr, flush=True)


def _wait_briefly() -> None:
    """Let threads of torch sleep soon while they wait for each other: on a busy machine they took the time of others.

    It counts for what is imported after this, and for worker processes; whoever has set it is not overruled.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _show_log() -> None:
    """Print what the library logs. A process adds the handler once."""
    logger = logging.getLogger("diffaug")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        logger.addHandler(_ToStderr())


@contextmanager
def _ends_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which schedulers and `timeout` send, end a command as Ctrl-C does: workers end, one line is told."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(words: list[str]) -> Command:
    """Return the command that words ask for; an error names the help of this command."""
    form: Any = Commands
    prog, rest = "diffaug", list(words)
    about: str | None = ABOUT
    for commands in (Commands, DataCommand):
        named = _named(commands)
        if not rest or rest[0] not in named:
            break
        form, about = named[rest[0]], None
        prog += f" {rest.pop(0)}"
        if form is not Data:
            break
    command: Command = parse(form, prog, about, rest)
    return command


def _named(commands: Any) -> dict[str, Any]:
    """Return the classes of a union of commands by their names."""
    return {name.name: form for form, name in map(get_args, get_args(commands))}


def _check_command(word: str) -> None:
    """Refuse a first word that is no command, and say which command it may be meant for.

    Raises:
        ConfigError: There is no such command.
    """
    names, beneath = [*_named(Commands)], [*_named(DataCommand)]
    if word.startswith("-") or word in names:
        return
    if word in beneath:
        raise ConfigError(f"a command must be a known one: {word!r} is a command of data; use `diffaug data {word}`")
    meant = get_close_matches(word, names, n=1)
    fix = f"did you mean `{meant[0]}`?" if meant else "`diffaug --help` lists them"
    raise ConfigError(f"a command must be a known one: {word!r} is not; {fix}")


def _check_seed(command: Any) -> None:
    """Check that numbers of random draws are not negative."""
    command = getattr(command, "command", command)
    for name in ("seed", "draw"):
        value = getattr(command, name, 0)
        if value is not None and value < 0:
            raise ConfigError(f"--{name} must be 0 or more: it is {value}; use 0")


def _fail(line: str) -> None:
    print(f"diffaug: {one_line(line)}", file=sys.stderr)
    raise SystemExit(1)
