"""Groups of settings ("knobs"): how they are checked, what they affect, and the types that several of them have."""

from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffaug.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Width = Annotated[int, Field(gt=0, multiple_of=16)]  # channels; every network normalises them in 16 groups
Cell = Annotated[int, Field(gt=0, multiple_of=4)]  # px; the validator divides a cell into 4 x 4
Weight = Annotated[float, Field(ge=0.0, le=20.0)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Affects:
    """The mark of a knob on which results do not depend, so that it is no part of their identity.

    `extent`: how much is made; a folder may be extended. `computing`: how results are computed, such as the number of
    processes. `place`: a path; the digest of its content is part of the identity instead.
    """

    what: Literal["extent", "computing", "place"]


EXTENT, COMPUTING, PLACE = Affects("extent"), Affects("computing"), Affects("place")


def identity_of(config: "Knobs") -> dict[str, Any]:
    """Return the knobs that results depend on, as JSON values, groups nested."""
    values = config.model_dump(mode="json")
    for name, knob in type(config).model_fields.items():
        group = getattr(config, name)
        if any(isinstance(mark, Affects) for mark in knob.metadata):
            del values[name]
        elif isinstance(group, Knobs):
            values[name] = identity_of(group)
    return values


class Knobs(BaseModel):
    """A frozen group of knobs. Unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        """Take knobs by name.

        Raises:
            ConfigError: A name or a value is impossible; one line, which is also what the command line shows.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # groups inside a group are checked with it


def _group_at(root: str, place: tuple[int | str, ...]) -> Any:
    """Return the class of the group of knobs at a place, seen from the class named `root`."""
    groups = {cls.__name__: cls for cls in Knobs.__subclasses__()}
    start: Any = groups.get(root) or groups["Config"]
    return reduce(lambda group, part: group.model_fields[part].annotation, place, start)


def explain(error: ValidationError) -> str:
    """Return the first violation of a validation error as one line."""
    first = error.errors()[0]
    where = ".".join(part for part in map(str, first["loc"]) if part.isidentifier() or part.isdigit())  # not of unions
    if first["type"] == "extra_forbidden":
        known = ", ".join(_group_at(error.title, first["loc"][:-1]).model_fields)
        return f"a setting must be a known one: {where} is not; use one of {known}"
    if first["type"] == "value_error":  # raised by a check of this file
        return f"{where}: {first['ctx']['error']}".removeprefix(": ")
    rule = first["msg"].partition(",")[0].replace("Input should be", "must be")
    return f"{where} {rule}: it is {first['input']!r}; choose another value"
