"""What the documents show must run: commands on tiny phantoms, and Python as it is. `test_site.py` builds the site.

A page is run from top to bottom in a folder of its own that holds what a page may name: `my-images`, `data/mine`,
`models/mine`, and so on, made by running the tutorial. Commands are made small: see `SMALLER`.
"""

import contextlib
import csv
import io
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from layouts import write_eyes

from diffaug.cli.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOLD = ("concepts", "datasets", "decisions", "results", "stable_diffusion")  # text on what was, or needs downloads
TESTED = ("export", "training")  # by tests/export and tests/augment
PAGES = sorted(
    page
    for path in DOCS.rglob("*.md")
    if (page := path.relative_to(DOCS).with_suffix("").as_posix()) not in (*TOLD, *TESTED)
)
QUICK = ("checks", "faq", "report", "trust")  # pages that train nothing; the tutorial runs once, for all
SMALLER = {"--count": 3, "--annotated": 8, "--folds": 2, "--workers": 1}  # a command that has more is run with these
PRESETS = ("fit", "generate", "study", "select")  # commands that get the preset smoke if the page gives them none
FEW = {  # what makes a command shorter than its preset does, unless its page says otherwise
    "fit": {
        "--codec.iterations": "5",
        "--denoiser.iterations": "2",
        "--denoiser.batch-size": "4",
        "--validator.iterations": "2",
        "--validator.windows-per-case": "3",
        "--validator.trajectories": "1",
    },
    # a fold of the phantoms has six cases; a network that has hardly learned is sure of nothing
    "study": {"--iterations": "2", "--batch-size": "4", "--size": "64", "--pseudo-confidence": "0.5"},
}
OUT = {"import": 4, "subset": 3, "fit": 2, "generate": 3, "study": 2}  # which word of a command it makes
BLOCK = re.compile(r"^```(\w+)[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its language, its title, and its lines."""

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    found = [
        Block(language, re.sub(r'title="([^"]*)"', r"\1", options), code)
        for language, options, code in BLOCK.findall(text)
    ]
    assert len(found) == text.count("\n```") / 2, "every block of code names its language"
    return found


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a block of shell, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if block.language in ("shell", "sh")]
    return [line for line in words if line and line[0] != "set"]


def smaller(words: list[str]) -> list[str]:
    """Return a command that takes seconds: small numbers, one process, and the preset smoke."""
    words = list(words)
    for option, least in SMALLER.items():
        if option in words:
            place = words.index(option) + 1
            words[place] = str(min(int(words[place]), least))
    if words[0] in PRESETS and "--preset" not in words:
        words += ["--preset", "smoke"]
    if words[0] in ("generate", "study") and "--workers" not in words:
        words += ["--workers", "1"]
    if words[0] == "study" and "--folds" in words and not {"--arms", "--baseline", "--leaks"} & set(words):
        words += ["--arms", "real", "copy-paste"]  # which fit no painter in each fold: a page that names its arms does
    few = FEW.get(words[0], {})
    return words + [word for option, value in few.items() if option not in words for word in (option, value)]


def made_here(page: str) -> set[str]:
    """Return the folders that a page makes before it reads them."""
    made, named = set(), set()
    for words in (words[1:] for block in blocks(page) for words in commands(block)):
        out = words[OUT[kind]] if (kind := words[words[0] == "data"]) in OUT else ""
        made |= {out} - named - {""}
        named |= set(words)
    return made


def run(words: list[str]) -> str:
    """Run a command of diffaug in this process, and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(words)
        except SystemExit as error:
            pytest.fail(f"diffaug {shlex.join(words)} ended with {error.code}: {printed.getvalue()}")
    return printed.getvalue()


def plain(line: str) -> str:
    """Return a line whose numbers, which may differ from machine to machine, are 0."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "0", line)).strip()


def missing_lines(shown: str, printed: str) -> list[str]:
    """Return the lines of a page that a command did not print in this order, apart from their numbers."""
    rest: Iterator[str] = iter([plain(line) for line in printed.splitlines()])
    return [line for line in shown.splitlines() if line.strip() not in ("", "…") and plain(line) not in rest]


def run_page(page: str, folder: Path) -> None:
    names: dict[str, object] = {}
    printed = ""
    for made in made_here(page):
        (folder / made).unlink(missing_ok=True)  # only links are there
    for block in blocks(page):
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, f"docs/{page}.md", "exec"), names)
        elif block.language in ("shell", "sh"):
            printed = "".join(run(smaller(words[1:])) for words in commands(block) if words[0] == "diffaug")
        elif block.language in ("yaml", "json"):
            {"yaml": yaml.safe_load, "json": json.loads}[block.language](block.text)
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.title != "for example":
            assert not (missing := missing_lines(block.text, printed)), f"not printed: {missing}\n{printed}"


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tutorial was run."""
    folder = tmp_path_factory.mktemp("tutorial")
    with contextlib.chdir(folder):
        run_page("tutorial", folder)
    return folder


@pytest.fixture
def desk(tutorial: Path, tmp_path: Path) -> Iterator[Path]:
    """The working folder of a page, with all that pages name but do not make."""
    for kind in ("data", "models", "synthetic", "studies"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "mine").symlink_to(tutorial / kind / "phantoms")
    with (tutorial / "data/phantoms/cases.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mask"]]
    for row in rows:
        put_pair(tutorial / "data/phantoms", row, tmp_path / "my-images")
        put_busi(tutorial / "data/phantoms", row, tmp_path / "Dataset_BUSI_with_GT", row["id"])
    eyes = write_eyes(tmp_path / "drawn", vessels=True)
    for kind in ("images", "masks"):
        shutil.copytree(eyes / kind, tmp_path / "my-eyes" / kind)
    with contextlib.chdir(tmp_path):
        yield tmp_path


def put_pair(data: Path, row: dict[str, str], to: Path) -> None:
    for kind in ("image", "mask"):
        (to / f"{kind}s").mkdir(parents=True, exist_ok=True)
        shutil.copy(data / row[kind], to / f"{kind}s" / f"{row['id']}.png")


def put_busi(data: Path, row: dict[str, str], to: Path, name: str) -> None:
    """Write a case as BUSI has it, and a normal image: the same, mirrored, its lesion hidden."""
    import numpy as np
    from PIL import Image

    for kind in ("benign", "normal"):
        (to / kind).mkdir(parents=True, exist_ok=True)
    image, mask = Image.open(data / row["image"]), Image.open(data / row["mask"])
    image.save(to / f"benign/benign ({name}).png")
    mask.save(to / f"benign/benign ({name})_mask.png")
    pixels, lesion = np.array(image)[:, ::-1].copy(), np.array(mask)[:, ::-1] > 0
    pixels[lesion] = np.median(pixels[~lesion], axis=0)
    Image.fromarray(pixels).save(to / f"normal/normal ({name}).png")
    Image.fromarray(np.zeros_like(lesion, dtype=np.uint8)).save(to / f"normal/normal ({name})_mask.png")


def belongs_to(page: str) -> object:
    return page if page in QUICK else pytest.param(page, marks=pytest.mark.slow)


def has_code(page: str) -> bool:
    return page != "tutorial" and any(block.language != "text" for block in blocks(page))


def test_the_tutorial_runs_as_it_is_printed(tutorial: Path) -> None:
    made = [path.parent.name for path in sorted(tutorial.glob("*/phantoms/"))]
    assert made == ["data", "models", "predicted", "studies", "synthetic"]


@pytest.mark.parametrize("page", [belongs_to(page) for page in PAGES if has_code(page)])
def test_the_code_of_a_page_runs(page: str, desk: Path) -> None:
    run_page(page, desk)


def test_the_python_of_the_readme_runs(desk: Path) -> None:
    text, names = (ROOT / "README.md").read_text(encoding="utf-8"), {}
    code = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), names)


def test_every_extra_is_documented_and_every_form_for_issues_can_be_filled_in() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(extras)
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    for form in (yaml.safe_load(path.read_text(encoding="utf-8")) for path in forms):
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert form["name"] and form["description"] and ids and len(set(ids)) == len(ids)


class _ParsedError(Exception):
    """A command line was read, and is not run."""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_commands_that_exist(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tyro.cli

    def read_and_stop(*args: Any, **options: Any) -> None:
        read(*args, **options)
        raise _ParsedError

    monkeypatch.setattr(tyro, "cli", read_and_stop)
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks(page):
        for first, *words in commands(block):
            assert first in ("diffaug", "make"), f"{first} is not run by this test"
            if first == "make":
                assert words[0] in targets
                continue
            with pytest.raises(_ParsedError):
                run(words)
