"""The Dockerfile, as far as it can be looked at without Docker: what it copies, runs and ends in is there."""

import json
import re
import shlex
import tomllib
from pathlib import Path

from diffaug.cli.main import Commands, _named

ROOT = Path(__file__).parent.parent
KNOWN = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD", "ENV", "EXPOSE", "ARG"}


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def test_every_line_is_an_instruction_and_every_command_can_be_parsed():
    found = instructions()
    assert found[0][0] == "FROM" and {word for word, _ in found} <= KNOWN
    for word, rest in found:
        if word == "RUN":
            assert all(shlex.split(part) for part in rest.split("&&"))


def test_every_copied_path_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert "*" in ignored


def test_all_that_the_package_is_built_from_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    needed |= {path.split("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert needed <= {name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]}


def test_it_ends_in_a_command_that_there_is_as_a_user_that_is_not_root():
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["diffaug"] and json.loads(found["CMD"])[0] in _named(Commands)
    words = [word for word, _ in instructions()]
    assert found["USER"] == "user" and words.index("USER") < words.index("ENTRYPOINT")
    assert any("useradd" in rest and rest.endswith(" user") for word, rest in instructions() if word == "RUN")
    base = next(rest for word, rest in instructions() if word == "FROM")
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    assert base.removeprefix("python:").removesuffix("-slim") in " ".join(supported)
