"""The settings of a stage in Python: those that a caller gives, or those of a preset."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffaug.config import PRESETS, Config, config_from_values
from diffaug.errors import ConfigError
from diffaug.knobs import identity_of
from diffaug.runfolder import flat

DEFAULT = "default"
OFTEN_GIVEN = ("count",)  # settings that are often given beside a preset, so that they do not tell it
Stage = TypeVar("Stage")


def settings_of(given: Stage | None, preset: str, stage: Callable[[Config], Stage]) -> Stage:
    """Return the settings of a stage.

    Args:
        given: Those of the caller; None takes those of the preset.
        preset: A name of a preset, such as default or demo.
        stage: Takes the settings of the stage out of those of all stages.

    Raises:
        ConfigError: Settings and a preset are given, or there is no such preset.
    """
    if given is None:
        return stage(config_from_values({}, preset))
    if preset != DEFAULT:
        raise ConfigError(f"settings come from config or from a preset: both are given ({preset}); leave one out")
    return given


def preset_of(stage: str, values: Mapping[str, Any]) -> str:
    """Return the name of the preset whose settings of a stage some values are; empty for the default and for others.

    A preset is known by all settings in which it differs from the default, except the number of cases.

    Args:
        stage: fit, generate or study.
        values: Settings of the stage as JSON values, as the file of a folder holds them: groups may be nested, the name
            of the stage may stand before each, and other names do not count.
    """
    found = {name.removeprefix("config.").removeprefix(f"{stage}."): value for name, value in flat(values).items()}
    usual = flat(identity_of(getattr(PRESETS[DEFAULT], stage)))
    for name, preset in PRESETS.items():
        settings = flat(identity_of(getattr(preset, stage))).items()
        own = {knob: value for knob, value in settings if value != usual.get(knob) and knob not in OFTEN_GIVEN}
        if own and all(found.get(knob) == value for knob, value in own.items()):
            return name
    return ""
