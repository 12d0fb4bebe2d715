"""Where the data of a study lie on this machine: a file of its own, so that nothing that is shared holds it.

`study.json` and the report name folders. `places.json` beside it has their paths; a study without the file can be read
and predicts, but shows no images and selects nothing. Leave the file out of what you share.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffaug.artifacts import write_json
from diffaug.reading import read_kept

FILE = "places.json"


@dataclass(frozen=True)
class Places:
    """The folders that a study read, as absolute paths.

    Attributes:
        data: The data set.
        synthetic: The synthetic sets.
        tests: Data sets that were tested on, by what stands before the ids of their cases.
    """

    data: str = ""
    synthetic: list[str] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)


def name_of(folder: Path) -> str:
    """Return the name by which what is shared speaks of a folder."""
    return folder.resolve().name


def write_places(study: Path, places: Places) -> None:
    """Write the paths beside what a study says."""
    write_json(study / FILE, asdict(places))


def read_places(study: Path, plan: Mapping[str, Any]) -> Places:
    """Return the paths of the folders that study.json names; nothing for those of which none is known.

    A study of an older version has them in study.json itself.
    """
    kept = read_kept(study / FILE, Places)
    if kept is None:
        tests = {test["prefix"]: test["folder"] for test in plan.get("tests", []) if test.get("prefix")}
        return Places(plan.get("data", ""), list(plan.get("synthetic", [])), tests)
    names = {name for test in plan.get("tests", []) if (name := test.get("prefix"))}
    return Places(
        _if_named(kept.data, plan.get("data", "")),
        [_if_named(*pair) for pair in zip(kept.synthetic, plan.get("synthetic", []), strict=False)],
        {prefix: place for prefix, place in kept.tests.items() if prefix in names},
    )


def _if_named(place: str, name: str) -> str:
    """Return a path if study.json still names its folder, or the last ones of its folders, else nothing."""
    last = Path(name).parts
    return place if last and Path(place).parts[-len(last) :] == last else ""
