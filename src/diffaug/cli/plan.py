"""What `--dry-run` prints: the data, the work, settings that are not their defaults, time and disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.cli.base import print_result
from diffaug.cli.texts import minutes
from diffaug.config import Config
from diffaug.knobs import Knobs
from diffaug.runfolder import flat

if TYPE_CHECKING:
    from diffaug.pipeline.estimate import Estimate
    from diffaug.pipeline.machine import Look

TOLD = ("out", "data.source", "data.path", "data.annotated", "data.draws", "data.folds")  # by the command, or the plan
FIRST = ("network", "iterations", "count", "arms", "seeds", "batch_size", "folds")  # settings that matter most
SHOWN = 10  # settings in a line


def print_plan(
    config: Knobs, as_json: bool, data: Path | None, out: Path, device: str, options: Knobs | None = None
) -> None:
    """Print what a stage will do, and the time and the disk that it takes, from a look at data and machine.

    Args:
        config: The settings of the stage, or of a run.
        as_json: Whether to print everything as JSON.
        data: The data set; None where the settings say what will be drawn or imported.
        out: The folder that the stage makes.
        device: Where it will compute.
        options: The settings that the command has options for; by default `config`.
    """
    from diffaug.pipeline.estimate import estimate
    from diffaug.pipeline.machine import facts_of, free_gigabytes, look_at

    look = look_at(config, facts_of(data), device)  # type: ignore[arg-type] # one of the four
    found = estimate(config, look)  # type: ignore[arg-type]
    values = {"config": config.model_dump(mode="json"), "data": asdict(look.facts), "estimate": found.as_dict()}
    changed = changed_settings(options or config)
    print_result(values, lambda: plan_text(changed, look, found, free_gigabytes(out)), as_json)


def changed_settings(settings: Knobs) -> list[str]:
    """Return the settings that are not their defaults, the most important first.

    Those of a stage are named by their options, with values as a command line takes them; those of a whole run, which
    has no options for them, as in its file.
    """
    values = flat(settings.model_dump(mode="json"))
    defaults = flat(type(settings)().model_dump(mode="json"))
    changed = [name for name, value in values.items() if value != defaults.get(name) and name not in TOLD]
    changed.sort(key=_importance)
    if isinstance(settings, Config):
        return [f"{name} {_listed(values[name], ', ')}" for name in changed]
    return [_option(name, values[name]) for name in changed]


def _importance(name: str) -> int:
    last = name.rpartition(".")[2]
    return FIRST.index(last) if last in FIRST else len(FIRST)


def _option(name: str, value: Any) -> str:
    """Return a setting as words of a command line."""
    group, dot, last = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{group}{dot}{'' if value else 'no-'}{last}"
    return f"--{group}{dot}{last} {_listed(value, ' ')}"


def _listed(value: Any, between: str) -> str:
    return between.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def plan_text(changed: Sequence[str], look: "Look", found: "Estimate", free: float) -> str:
    """Return a plan in a few lines.

    Args:
        changed: Settings that are not their defaults, the most important first.
        look: At the data and the machine.
        found: What they let expect.
        free: Space on the disk, GB.
    """
    speeds: Mapping[str, float | None] = {"painter": look.painter, "segmentation network": look.segmenter}
    speed = ", ".join(f"{ms:.0f} ms for a row of the {name}" for name, ms in speeds.items() if ms)
    busy = f"; it is busy now, with {look.busy:.1f} processes for each core, which makes it slower" if look.busy else ""
    where = f"on this machine if nothing else runs on it{busy} (timed: {speed})"
    where = where if speed else "on two cores with AVX-512, since the device is not here, and nothing was timed"
    more = len(changed) - SHOWN
    settings = ", ".join(changed[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return "\n".join(
        [
            "This is a dry run: nothing is written.",
            look.facts.text(),
            f"Work: {found.work}.",
            f"Settings that are not the defaults: {settings or 'none'}.",
            f"Time: about {minutes(60 * found.minutes)} {where}.",
            f"Disk: about {found.megabytes:.0f} MB, of {free:.0f} GB that are free.",
            "--json prints every setting.",
        ]
    )
