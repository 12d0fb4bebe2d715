"""How a model is sampled: sealed into its folder by `fit`, since its thresholds hold for that sampler alone."""

from pathlib import Path

from diffaug.artifacts import read_json, write_json
from diffaug.config import SamplerConfig
from diffaug.errors import ConfigError, DataError, ModelError

SAMPLER_FILE = "sampler.json"


def write_sampler(folder: Path, sampler: SamplerConfig) -> None:
    """Write the sampler of a model into its folder, before it is sealed."""
    write_json(folder / SAMPLER_FILE, sampler.model_dump(mode="json"))


def read_sampler(folder: Path) -> SamplerConfig:
    """Read the sampler of a model.

    Raises:
        ModelError: It is missing or malformed, such as in a model of an older version.
    """
    try:
        return SamplerConfig.model_validate(read_json(folder / SAMPLER_FILE))
    except (DataError, ConfigError, ValueError):
        raise ModelError(
            f"a model says how it is sampled: {folder / SAMPLER_FILE} is missing or malformed, as in models of older "
            "versions; fit the model again with this one"
        ) from None
