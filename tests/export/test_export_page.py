"""The commands and the code of docs/export.md run as they stand there."""

import re
from pathlib import Path

import pytest

from diffaug.artifacts import read_csv
from diffaug.cli.main import main
from diffaug.layouts import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, painted, odd):
    folder = tmp_path_factory.mktemp("shelf")
    for name, path in (("synthetic", painted), ("data", odd)):
        (folder / name).mkdir()
        (folder / name / "mine").symlink_to(path)
    return folder


def test_every_command_and_every_block_of_python_of_the_page_runs(shelf, monkeypatch, capsys):
    monkeypatch.chdir(shelf)
    commands = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
    assert {command.split("--format ")[1].split()[0] for command in commands} == set(FORMATS)
    for command in commands:
        main(command.split()[1:])
        out = capsys.readouterr().out
        assert out.splitlines()[-2] == f"Exported to {command.split()[3]}." and out.startswith("train: 6 real and ")
        assert (shelf / command.split()[3] / "provenance.csv").is_file()
    assert (shelf / "nnUNet_raw/Dataset101_Mine/splits_final.json").is_file()
    for kind, text in BLOCKS:
        if kind == "python":
            exec(text, {})


def test_the_page_names_every_column_of_the_table_of_origins(shelf, painted, monkeypatch):
    monkeypatch.chdir(shelf)
    main(["export", "synthetic/mine", "out", "--format", "folder"])
    columns = set(read_csv(shelf / "out" / "provenance.csv", ())[0])
    assert {
        "origin",
        "background",
        "mask_source",
        "example",
        "prompt",
        "decision",
        "negative",
        "lesion_free",
    } <= columns
    assert "kind" not in columns, "in cases.csv it says lesion or negative"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["no-such-set", "out", "--format", "coco"], ["no-such-set", "does not exist"]),
        (["synthetic/mine", "out", "--format", "cocoa"], ["one of nnunet, monai", "'cocoa'"]),
        (["synthetic/mine", "out", "--format", "coco", "--folds", "3"], ["--with DATA"]),
        (["synthetic/mine", "data", "--format", "coco"], ["holds other files", "choose another folder"]),
        (["synthetic/mine", "out", "--format", "coco", "--with", "nothing"], ["nothing does not exist"]),
    ],
    ids=["set", "format", "folds", "target", "data"],
)
def test_a_refused_export_is_one_line_with_status_1_and_writes_nothing(shelf, words, parts, monkeypatch, capsys):
    monkeypatch.chdir(shelf)
    before = sorted(path.name for path in shelf.iterdir())
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (1, "", 1) and err.startswith("diffaug: ")
    assert all(part in err for part in parts)
    assert sorted(path.name for path in shelf.iterdir()) == before
