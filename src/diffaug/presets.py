"""The settings of a stage in Python: those that a caller gives, or those of a preset."""

from collections.abc import Callable
from typing import TypeVar

from diffaug.config import Config, config_from_values
from diffaug.errors import ConfigError

DEFAULT = "default"
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
