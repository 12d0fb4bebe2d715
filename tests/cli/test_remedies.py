"""What messages and documents name must exist: options of the command line, and knobs of a config."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import diffaug
from diffaug.cli.main import main
from diffaug.config import Config
from diffaug.knobs import Knobs
from diffaug.layouts import SOURCES

PACKAGE = Path(diffaug.__file__).parent
ROOT = Path(__file__).parents[2]
OF_THEN = ("decisions.md", "results.md")  # they name options of the time they tell of
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in OF_THEN)
DOCUMENTS = ("README.md", *(page.relative_to(ROOT).as_posix() for page in PAGES))
COMMANDS = (
    "demo", "data import", "data phantom", "data inspect", "data subset", "prompts", "fit", "generate", "remove",
    "segment", "pseudo-label", "select", "study", "report", "predict", "export", "explain", "reproduce", "run", "audit",
    "review",
)  # fmt: skip
OPTION = r"(?<![-\w])--[a-z](?:[-a-z0-9_.]*[a-z0-9])?"
GROUPS = [name for name, field in Config.model_fields.items() if isinstance(field.default, Knobs)]
KNOB = rf"(?<![\w./])(?:{'|'.join(GROUPS)})(?:\.[a-z_]+)+"


def _strings(tree: ast.AST) -> Iterator[str]:
    """Yield every piece of text below a node, docstrings and parts of f-strings included."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _sources() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _knobs(group: Knobs, place: str = "") -> Iterator[str]:
    for name in type(group).model_fields:
        value: Any = getattr(group, name)
        yield place + name
        if isinstance(value, Knobs):
            yield from _knobs(value, f"{place}{name}.")


def test_every_option_that_a_text_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"--version"}
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        options |= set(re.findall(OPTION, capsys.readouterr().out))
    named = {
        (where, option) for where, tree in _sources() for text in _strings(tree) for option in re.findall(OPTION, text)
    }
    assert len(named) > 10
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    others = (
        r"(?ms)^```(?:sh|text title=.for example.)$.*?^```$|^(?-s:(?:python benchmarks/|pip ).*)$"  # of other programs
    )
    texts = {name: re.sub(others, "", text) for name, text in texts.items()}
    named |= {(name, option) for name, text in texts.items() for option in re.findall(OPTION, text)}
    assert {(where, option) for where, option in named if option not in options} == set()


def test_every_knob_that_an_error_names_exists() -> None:
    known = set(_knobs(Config()))
    raised = [(where, node) for where, tree in _sources() for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    named = {(where, knob) for where, node in raised for text in _strings(node) for knob in re.findall(KNOB, text)}
    named = {(where, knob) for where, knob in named if not knob.endswith((".json", ".yaml"))}
    assert len(named) > 5
    assert {(where, knob) for where, knob in named if knob not in known} == set()


def test_the_layouts_of_an_import_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "import", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    docs = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    table = [line for line in docs.splitlines() if line.startswith("| `")]
    for name in SOURCES:
        assert re.search(rf"[{{,│ ]{name}[,}}: ]", shown), name
        assert any(f"`{name}`" in line.split("|")[1] for line in table), name
