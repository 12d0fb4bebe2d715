"""Words of the command line that no command takes: one line, as for any other bad input, instead of tyro's box."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro
from tyro.conf import OmitSubcommandPrefixes

from diffaug.errors import ConfigError, meant

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
NEW = "\n"
KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def overview(about: str, commands: Mapping[str, type]) -> str:
    """Return what the package does, and a line for each of its commands: the first of its docstring."""
    width = max(map(len, commands))
    lines = [f"  {name.ljust(width)}  {(form.__doc__ or '').partition(NEW)[0]}" for name, form in commands.items()]
    further = "`diffaug COMMAND --help` shows the options of a command and an example; `diffaug --version` the version."
    return "\n".join(["usage: diffaug COMMAND ...", "", about, "", *lines, "", further])


def parse(form: Any, prog: str, about: str | None, words: Sequence[str]) -> Any:
    """Return the command that words ask for.

    Args:
        form: The class of a command, or a union of such.
        prog: How the command is called.
        about: What its help says first; None where the class says it.
        words: The words after `prog`.

    Raises:
        ConfigError: There is no such command, option or value.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(form, prog=prog, description=about, args=words, config=(OmitSubcommandPrefixes,))
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(line_of(COLOURS.sub("", said.getvalue()), prog, words)) from None


def line_of(box: str, prog: str, words: Sequence[str]) -> str:
    """Return what a box of tyro says about words, as the rule, the value and the remedy."""
    said = "\n".join(_parts(box))
    if found := re.search(r"Unrecognized options: (.*)", said):
        line = _unknown(re.split(r",? ", found[1]), said, prog)
    elif found := re.search(r"Error parsing (\S+): (.*)", said):
        line = _wrong_kind(found[1], found[2], said, words)
    elif found := re.search(r"Missing value for argument '([^']*)'", said):
        is_option = found[1].startswith("-")
        line = f"an option needs a value: {found[1]} has none" if is_option else _lacking([found[1].upper()], prog)
    elif found := re.search(r"invalid choice '(.*?)' for argument '([^']*)'. Expected one of \((.*)\)", said):
        name = found[2] if found[2].startswith("-") else found[2].upper()
        choices = re.findall(r"'([^']*)'", found[3])
        line = f"{name} must be one of {', '.join(choices)}: it is {found[1]!r}{meant(found[1], choices)}"
    elif "Missing from" in said:
        required = box.partition("For full helptext")[0]
        line = _lacking(re.findall(r"(?m)^[│ ] {5}(-[\w.-]+|[A-Z_]+|\{\S+)(?=\s)", required), prog)
    elif found := re.search(r"Expected one of \{(.*)\}", said):
        line = f"a command must be complete: `{prog}` needs one of {found[1]} behind it"
    else:
        line = f"a command must be called as its help says: {said.partition(chr(10))[0]}"
    return f"{line}; run `{prog} --help`"


def _parts(box: str) -> list[str]:
    """Return what stands between the lines of a box, each part on one line, without the title of the box."""
    parts: list[list[str]] = [[]]
    for row in box.splitlines():
        text = row.strip("│ ")
        if not text.strip("─-"):
            parts.append([])
        elif row.startswith(("│", "  ")):  # a terminal that cannot draw boxes gets two blanks
            parts[-1].append(text)
    return [" ".join(part) for part in parts if part]


def _lacking(names: Sequence[str], prog: str) -> str:
    return f"a command needs what its help calls required: `{prog}` lacks {', '.join(names)}"


def _unknown(tokens: Sequence[str], said: str, prog: str) -> str:
    option = next((token.partition("=")[0] for token in tokens if token.startswith("-")), "")
    if not option and (beneath := re.search(r"Available subcommands: (.*)", said)):
        return f"a command must be a known one: `{prog}` has {beneath[1]}, and no {tokens[0]!r}"
    if not option:
        return f"a command takes what its help names: `{prog}` has nothing to do with {tokens[0]!r}"
    known = re.search(r"Perhaps you meant: .*?(--[\w.-]+)", said)
    fix = f"; did you mean {known[1]}?" if known else ""
    return f"an option must be one of its command: `{prog}` has no {option}{fix}"


def _wrong_kind(name: str, reason: str, said: str, words: Sequence[str]) -> str:
    kind = re.search(rf"Argument helptext: {re.escape(name)} (\S+)", said)
    given = re.search(rf"{re.escape(name)}[ =](\S+)", " ".join(words))
    if kind and given and kind[1] in KINDS:
        return f"{name} must be {KINDS[kind[1]]}: it is {given[1]!r}"
    return f"an option needs a value of its kind: {name}: {reason}"
