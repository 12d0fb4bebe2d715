"""What the commands share: their options, the preset, and how results are printed."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from tyro.conf import Positional, arg

from diffaug.config import PRESETS, Config, config_from_values
from diffaug.errors import ConfigError

URL = re.compile(r"([a-z][a-z0-9+.]+):/+(.+)")  # also where a path has lost a slash of it
Seed = Annotated[int, arg(help="Random seed. The same seed gives the same result.")]
Device = Annotated[
    str,
    arg(help="Compute on this device: cpu, cuda, cuda:N, mps (of a Mac), or auto, which takes cuda if it is there."),
]
DryRun = Annotated[bool, arg(help="Print the plan with an estimate of time and disk space, and stop.")]
Json = Annotated[bool, arg(help="Print the whole result as JSON, for machines.")]
# Paths are named in the help by what they hold.
DataPath = Annotated[Positional[Path], arg(metavar="DATA")]
OutPath = Annotated[Positional[Path], arg(metavar="OUT")]
SyntheticPath = Annotated[Positional[Path], arg(metavar="SYNTHETIC")]
StudyPath = Annotated[Positional[Path], arg(metavar="STUDY")]
ModelPath = Annotated[Positional[Path], arg(metavar="MODEL", help="Model folder that `diffaug fit` made.")]
Preset = Annotated[
    str, arg(help=f"Take the defaults of the other options from this preset. One of {', '.join(PRESETS)}.")
]
Flat = arg(name="")  # the options of a group stand beside those of the command, without its name


class Command(Protocol):
    """What every command can do."""

    def run(self) -> None:
        """Carry the command out."""
        ...


class _Chosen:
    """The words of this call, and the preset and network in them, which set the defaults of all other options."""

    preset = Config()
    words: tuple[str, ...] = ()


def command_words() -> tuple[str, ...]:
    """Return the words of this call, without the name of the program."""
    return _Chosen.words


def without_option(option: str, words: Sequence[str]) -> list[str]:
    """Return words without an option and its value."""
    before = ["", *words]
    return [
        word
        for word, last in zip(words, before, strict=False)
        if option not in (word, last) and not word.startswith(f"{option}=")
    ]


def chosen_preset() -> Config:
    """Return the preset that `choose_preset` read, with the defaults of its network."""
    return _Chosen.preset


def choose_preset(words: list[str]) -> None:
    """Read --preset and --network ahead of everything else, since they set the defaults of the other options.

    Raises:
        ConfigError: There is no such preset.
    """
    network = _last_value("--network", words)
    values = {"study": {"network": network}} if network and not network.startswith("--") else {}
    _Chosen.words = tuple(words)
    _Chosen.preset = config_from_values(values, _last_value("--preset", words) or "default")


def _last_value(option: str, words: list[str]) -> str | None:
    """Return the value that an option is given last; None where it is not given."""
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def refuse_urls(command: Any) -> None:
    """Refuse URLs where a command takes paths, and say how to fetch what is there.

    Raises:
        ConfigError: An option is one.
    """
    for value in vars(command).values():
        for path in value if isinstance(value, tuple) else (value,):
            found = URL.fullmatch(str(path)) if isinstance(path, Path) else None
            if found is None:
                continue
            url, to = f"{found[1]}://{found[2].rstrip('/')}", found[2].rstrip("/").rpartition("/")[2]
            code = (
                f"import fsspec; files, root = fsspec.url_to_fs('{url}'); files.get(root + '/', '{to}', recursive=True)"
            )
            raise ConfigError(
                f"`diffaug generate` alone writes to a URL, and nothing reads one: {url} is one; give a folder; to "
                f'fetch a set: python -c "{code}"'
            )


def print_result(value: Any, text: Callable[[], str], as_json: bool) -> None:
    """Print a result: its text for people, or all of it as JSON.

    Args:
        value: Its JSON value.
        text: Makes the text.
        as_json: Which of the two.
    """
    print(json.dumps(value, indent=2, sort_keys=True) if as_json else text())
