import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import yaml
from layouts import write_drishti

import diffaug
from diffaug import __version__
from diffaug.cli.main import main
from diffaug.cli.usage import COLOURS, line_of
from diffaug.conditioning.findings import FOLDER
from diffaug.config import PRESETS, Source, read_config
from diffaug.data.folder import read_dataset
from diffaug.data.phantom import make_phantoms
from diffaug.errors import ConfigError
from diffaug.runfolder import held

COMMANDS = [
    ["demo"],
    ["data", "import"],
    ["data", "phantom"],
    ["data", "inspect"],
    ["data", "subset"],
    ["prompts"],
    ["fit"],
    ["generate"],
    ["remove"],
    ["segment"],
    ["pseudo-label"],
    ["select"],
    ["study"],
    ["report"],
    ["predict"],
    ["export"],
    ["review"],
    ["explain"],
    ["reproduce"],
    ["run"],
]


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_in_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, [*command, "--help"])
    assert status == 0
    assert f"Example: diffaug {' '.join(command)} " in " ".join(out.split())


def _options(out: str) -> dict[str, str]:
    """Return the help of each option and positional argument: what stands between its name and its default."""
    rows: list[str] = []
    panels = re.split(r"(?m)^.{0,3} ?(?:positional arguments|options) ", out, maxsplit=1)[1].partition("Example:")[0]
    for line in panels.splitlines():
        if re.match("[│ ] (-[-a-z]|[A-Z{])", line) or not line.strip("│╭╰─╮╯ "):
            rows.append("")
        if rows and line[:2] in ("│ ", "  "):  # a box, or none where the terminal cannot draw it
            rows[-1] += " " + line.strip("│ ")
    found: dict[str, str] = {}
    for row in filter(lambda row: row.strip("-─╮ "), (" ".join(row.split()) for row in rows)):
        name, _, text = re.sub(r"^(-h, )?(\S+)((?:, -\S+)*)", r"\2 ", row).partition(" ")
        found[name + str(len(found))] = re.split(r" ?\((?:default|required)", text.strip())[0]
    return found


@pytest.mark.parametrize("command", [*COMMANDS, ["data"]], ids=" ".join)
def test_an_unknown_option_names_the_help_that_lists_the_options_of_its_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, [*command, "--no-such-option"])
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert err.endswith(f"; run `diffaug {' '.join(command)} --help`\n")


WRONG_WORDS = {
    "fit": "`diffaug fit` lacks DATA, MODEL; run `diffaug fit --help`",
    "fit data --seed 3": "`diffaug fit` lacks MODEL;",
    "fit a b --seed x": "--seed must be a whole number: it is 'x';",
    "fit a b --seed=x": "--seed must be a whole number: it is 'x';",
    "fit a b --seed": "--seed has none;",
    "data import bussi a b": "it is 'bussi'; did you mean busi?",
    "generate m d s --cont 3": "`diffaug generate` has no --cont; did you mean --count?",
    "generate m d s more": "`diffaug generate` has nothing to do with 'more';",
    "data": "`diffaug data` needs one of import, phantom, inspect, subset behind it;",
    "data foo": "`diffaug data` has import, phantom, inspect, subset, and no 'foo'; run `diffaug data --help`",
    "data import": "lacks {folder,nnunet,",
    "data import foo a b": "SOURCE must be one of folder, nnunet, coco,",
    "data phantom out --kind foo": "--kind must be one of endoscopy, cells: it is 'foo';",
    "export set out": "`diffaug export` lacks --format;",
    "--foo": "`diffaug` has no --foo; run `diffaug --help`",
}


@pytest.mark.parametrize("columns", ["50", "300"])
@pytest.mark.parametrize("words", WRONG_WORDS)
def test_words_that_no_command_takes_are_one_line_that_names_the_help(
    words: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    status, out, err = said(capsys, words.split())
    assert (status, out) == (1, "") and err.count("\n") == 1 and err.startswith("diffaug: ")
    assert WRONG_WORDS[words] in err and err.endswith("--help`\n") and not set("│─╭") & set(err)


def test_boxes_of_a_terminal_without_lines_and_with_colours_are_read_as_well() -> None:
    box = (
        " Required options \n ---------- \n  Missing from diffaug fit: \n      DATA \n          Data set. (required) \n"
    )
    assert "lacks DATA;" in line_of(
        box + "  ------\n  For full helptext, run: \n      diffaug fit --help \n", "diffaug fit", []
    )
    assert line_of("", "diffaug", []).endswith("run `diffaug --help`")
    assert COLOURS.sub("", "\x1b[1m\x1b[91m'foo'\x1b[0m") == "'foo'"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_explained_in_sentences(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, [*command, "--help"])
    options = _options(out)
    assert any(name.startswith("--help") for name in options)
    unexplained = {name: text for name, text in options.items() if "--help" not in name and not text.endswith(".")}
    assert unexplained == {}


def test_an_option_is_explained_by_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, ["study", "--help"])
    words = " ".join(line.strip("│╭╰─╮╯ ") for line in out.splitlines())
    assert "--seed INT Random seed. The same seed gives the same result." in " ".join(words.split())


def test_help_imports_no_torch_and_neither_does_a_wrong_path() -> None:
    wrong = (["fit", "nowhere", "m"], ["generate", "nowhere", "d", "s"], ["remove", "nowhere", "d", "r"])
    code = (
        "import sys\nfrom diffaug.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'diffusers', 'transformers', 'matplotlib', 'skimage', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"for words in {wrong!r}:\n    try:\n        main(words)\n    except SystemExit as end:\n"
        "        assert end.code == 1\n"
        "heavy = {'torch', 'monai', 'diffusers', 'transformers', 'matplotlib', 'skimage'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_importing_the_package_imports_no_torch_and_every_public_name_exists() -> None:
    code = "import sys, diffaug; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert all(hasattr(diffaug, name) for name in diffaug.__all__)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data", "inspect", "no-such-folder"], ["no-such-folder", "does not exist"]),
        (["fit", "no-such-data", "m"], ["no-such-data"]),
        (["generate", "no-such-model", "d", "s"], ["no-such-model", "diffaug fit"]),
        (["segment", "no-such-model", "i", "o"], ["no-such-model", "diffaug fit"]),
        (["fit", "d", "m", "--preset", "nonsense"], ["preset", "default", "'nonsense'"]),
        (["run", "no-such.yaml"], ["no-such.yaml"]),
        (["prompts", "--domain", "funduss"], ["'funduss'", "nearest: fundus"]),
        (["prompts", "--findings", "no-such.yaml"], ["no-such.yaml"]),
        (["prompts", "-n", "-1"], ["0 or more"]),
        (["study", "d", "o", "--folds", "3", "--synthetic", "s"], ["--folds", "--synthetic is given"]),
        (["study", "d", "o", "--folds", "3", "--baseline", "--test", "val"], ["--folds", "--test is given"]),
        (["study", "d", "o", "--leaks", "--oracle", "full"], ["--leaks", "--oracle is given"]),
        (["study", "d", "o", "--network", "efficientnet"], ["efficientnet-lite0, unet", "'efficientnet'"]),
        (["predict", "no-such-study", "i", "o"], ["no-such-study", "check the path"]),
        (["explain", "no-such.png"], ["no-such.png", "does not exist"]),
        (["reproduce", "no-such.png"], ["no-such.png", "does not exist"]),
        (["fitt", "d", "m"], ["'fitt'", "did you mean `fit`"]),
        (["import", "folder", "f", "d"], ["'import'", "`diffaug data import`"]),
    ],
    ids=[
        "inspect",
        "fit",
        "generate",
        "segment",
        "preset",
        "run",
        "domain",
        "findings",
        "count",
        "folds",
        "baseline",
        "leaks",
        "network",
        "predict",
        "explain",
        "reproduce",
        "misspelt",
        "beneath",
    ],
)
def test_an_expected_error_is_one_line_with_status_1_and_writes_nothing(
    words: list[str],
    parts: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(capsys, words)
    assert (status, out) == (1, "")
    assert err.startswith("diffaug: ") and err.count("\n") == 1 and "Traceback" not in err
    assert all(part in err for part in parts)
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_each_command_is_a_line_and_the_version_is_printed_with_its_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in ([], ["--help"], ["-h"]):
        main(words)
        out, err = capsys.readouterr()
        listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
        assert (
            set(listed) == {command[0] for command in COMMANDS} | {"data", "audit"}
            and err == ""
            and max(map(len, out.splitlines())) <= 130
        )
        assert "`diffaug COMMAND --help`" in out
    main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


def test_prompts_are_printed_with_their_references_and_without_torch() -> None:
    command = "main(['prompts', '--domain', 'colonoscopy', '-n', '50', '--seed', '1'])"
    code = f"import sys\nfrom diffaug.cli.main import main\n{command}\nassert 'torch' not in sys.modules\n"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    lines = [line.split(" | ") for line in run.stdout.splitlines()]
    assert len(lines) == 50 and all(len(line) == 2 and "doi:10." in line[1] for line in lines)


def test_a_users_own_findings_are_prompted_and_a_slip_in_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = FOLDER / "fundus.yaml"
    main(["prompts", "--findings", str(own), "-n", "3"])
    assert len(capsys.readouterr().out.splitlines()) == 3
    slip = tmp_path / "own.yaml"
    slip.write_text(own.read_text(encoding="utf-8").replace("shape: [round", "shape: [rond", 1), encoding="utf-8")
    status, out, err = said(capsys, ["prompts", "--findings", str(slip)])
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "'rond'" in err and "nearest: round" in err


@pytest.mark.parametrize("source", get_args(Source))
def test_every_source_that_is_not_there_is_one_line_with_status_1_and_writes_nothing(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(capsys, ["data", "import", source, "no-such-folder", "data"])
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "no-such-folder" in err
    assert list(tmp_path.iterdir()) == []


def test_an_import_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_drishti(tmp_path / "source", 5)
    main(["data", "import", "drishti-gs", str(tmp_path / "source"), str(tmp_path / "data"), "--seed", "3"])
    out, err = capsys.readouterr()
    counts, after = out.splitlines()
    assert "1 test image is too few to show a difference" in err and "--split 100:0:0" in err
    assert counts == f"5 cases in {tmp_path / 'data'}: 3 train, 1 val, 1 test"
    assert after == f"Next: diffaug data inspect {tmp_path / 'data'} --out {tmp_path / 'data.png'}"


def test_an_impossible_option_is_one_line_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, ["fit", "d", "m", "--validator.alpha", "0.7"])
    assert status == 1 and err == "diffaug: alpha must be less than 0.5: it is 0.7; choose another value\n"


def test_a_config_file_with_an_unknown_knob_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "böse config.yaml"
    path.write_text("study:\n  sedes: 3\n", encoding="utf-8")
    status, _, err = said(capsys, ["run", str(path)])
    assert status == 1 and "study.sedes" in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "preset: nothing\n", "generate:\n  count: -3\n"])
def test_a_malformed_config_file_raises_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(path)
    assert "\n" not in str(error.value)


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["generate", "m", str(phantoms), "s", "--count", "77", "--dry-run", "--json"])
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["config"]["count"] == 77
    assert set(plan["estimate"]) == {"minutes", "megabytes", "work"} and plan["data"]["known"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_a_few_lines_about_what_differs_from_the_defaults(
    phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["generate", "m", str(phantoms), "s", "--count", "77", "--place", "free", "--dry-run"])
    plan = capsys.readouterr().out
    assert "defaults: --count 77, --place free." in plan and "MB, of" in plan and len(plan.splitlines()) < 10
    assert "for a row of the painter" in plan
    main(["fit", str(phantoms), "m", "--device", "cuda:7", "--dry-run"])
    plan = capsys.readouterr().out
    assert "defaults: none." in plan and "the device is not here" in plan


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--domain", "colonoskopy"], "nearest: colonoscopy"),
        (["--findings", "no-such.yaml"], "no-such.yaml"),
        (["--aim", "mised"], "nearest: missed"),
        (["--aim", "missed"], "--baseline STUDY belong together"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(capsys, ["generate", "m", "d", "s", *options, "--dry-run"])
    assert (status, out, err.count("\n")) == (1, "", 1) and told in err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.yaml").write_text("generate: {aim: mised}\nout: out\n")
    for words in (["run", "run.yaml", "--dry-run"], ["run", "run.yaml"]):
        status, out, err = said(capsys, words)
        assert (status, out, err.count("\n")) == (1, "", 1) and "nearest: missed" in err
    for path, wanted in (("path: nothere", "must be a folder: data.path is nothere"), ("", "data.path is needed")):
        (tmp_path / "run.yaml").write_text(f"out: out\ndata:\n  source: kvasir-seg\n  {path}\n")
        for words in (["run", "run.yaml", "--dry-run"], ["run", "run.yaml"]):
            status, out, err = said(capsys, words)
            assert (status, out, err.count("\n")) == (1, "", 1) and wanted in err
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_run_takes_a_device_and_a_dry_run_refuses_its_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text('study: {arms: [real, "selected@9"]}\n')
    words = ["run", str(tmp_path / "run.yaml"), "--dry-run", "--json"]
    status, out, err = said(capsys, words)
    assert (status, out, err.count("\n")) == (1, "", 1) and "selected@9 takes 9" in err
    (tmp_path / "run.yaml").write_text("out: out\n")
    main([*words, "--device", "cuda", "--budget", "5"])
    config = yaml.safe_load(capsys.readouterr().out)["config"]
    assert (config["device"], config["budget"]) == ("cuda", 5)
    main([*words, "--annotated", "25", "all", "--draws", "1", "--arms", "real", "oracle"])
    config = yaml.safe_load(capsys.readouterr().out)["config"]
    assert (config["data"]["annotated"], config["data"]["draws"]) == ([25, "all"], [1])
    assert config["study"]["arms"] == ["real", "oracle"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--baseline"], "needs --folds, which is not set"),
        (["--baseline", "--folds", "3", "--arms", "real", "copy-paste"], "--arms is real copy-paste"),
        (["--folds", "1"], "it is 1"),
        (["--folds", "-2", "--leaks"], "it is -2"),
        (["--seed", "-1"], "--seed must be 0 or more: it is -1"),
        (["--arms", "foo", "--dry-run"], "an arm must be one of"),
    ],
)
def test_options_of_a_study_that_mean_nothing_are_one_line_of_error(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    status, out, err = said(capsys, ["study", str(phantoms), str(tmp_path / "s"), *words])
    assert (status, out, err.count("\n")) == (1, "", 1) and told in err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_study_is_about_its_data(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, ["study", "nothere", "s", "--dry-run"])
    assert (status, out) == (1, "") and "nothere" in err
    main(["study", str(phantoms), "s", "--folds", "4", "--batch-size", "4", "--dry-run", "--json"])
    plan = yaml.safe_load(capsys.readouterr().out)
    train = len(read_dataset(phantoms).split("train"))
    assert plan["config"]["data"]["path"] == str(phantoms)
    assert plan["config"]["data"]["annotated"] == [train - train // 4]
    main(["study", str(phantoms), "s", "--folds", "4", "--batch-size", "4", "--dry-run"])
    assert "defaults: --batch-size 4." in capsys.readouterr().out
    main(["study", str(phantoms), "s", "--folds", "4", "--baseline", "--dry-run", "--json"])
    alone = yaml.safe_load(capsys.readouterr().out)
    assert alone["config"]["arms"] == ["real"] and alone["estimate"]["minutes"] < plan["estimate"]["minutes"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "nothere", "m"], "nothere does not exist"),
        (["generate", "m", "nothere", "s"], "nothere does not exist"),
        (["study", "DATA", "s", "--folds", "30"], "got 30 folds of 8 groups"),
        (["study", "DATA", "s", "--folds", "30", "--baseline"], "got 30 folds of 8 groups"),
        (["study", "DATA", "s", "--folds", "2", "--batch-size", "4", "--arms", "real", "selected"], "without fold 0"),
        (["study", "DATA", "s", "--synthetic", "nothere"], "nothere"),
    ],
)
def test_a_dry_run_refuses_data_that_the_run_would_refuse(
    words: list[str], told: str, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(phantoms) if word == "DATA" else word for word in words]
    status, out, err = said(capsys, [*words, "--dry-run"])
    assert (status, out, err.count("\n")) == (1, "", 1) and told in err


def test_a_model_that_is_being_fitted_and_one_whose_fit_was_stopped_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    for command in (["generate", str(model), "d", "s"], ["remove", str(model), "d", "r"]):
        with held(model):
            assert "`diffaug fit` is still working in" in said(capsys, command)[2]
            (model / "fit.json").write_text("{}")
            assert "`diffaug fit` is still working in" in said(capsys, command)[2]
        status, _, err = said(capsys, command)
        assert status == 1 and "was stopped; run the same `diffaug fit` again, which continues it" in err
        (model / "fit.json").unlink()
        assert "has no digests.json; check the path" in said(capsys, command)[2]


def test_a_set_that_is_being_made_and_one_that_is_not_finished_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(tmp_path / "set"), str(tmp_path / "to"), "--format", "coco"]
    with held(tmp_path / "set"):
        assert "a process is still making" in said(capsys, command)[2]
    assert "run `diffaug generate` again to complete it" in said(capsys, command)[2]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_data_set_in_the_place_of_the_model_is_told(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, ["generate", str(phantoms), "m", "s"])
    assert status == 1 and f"{phantoms} is a data set; name the model; it comes first" in err


def test_a_dry_run_of_a_study_names_the_arms_that_will_be_trained(
    phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", str(phantoms), "s", "--dry-run"])
    assert "2 arms (real, copy-paste) x" in capsys.readouterr().out


def test_a_dry_run_prints_what_is_aimed_at(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "m", str(phantoms), "s", "--aim", "small", "--count", "9", "--dry-run"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "aim small: kept cases by stratum" and all("small" in line for line in lines[1:])
    assert sum(int(line.split("(")[0].split()[-1]) for line in lines[1:]) == 9


def test_a_preset_sets_the_defaults_and_an_option_overrides_it(
    phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", str(phantoms), "m", "--preset", "smoke", "--validator.folds", "4", "--dry-run", "--json"])
    config = yaml.safe_load(capsys.readouterr().out)["config"]
    assert config["validator"]["folds"] == 4
    assert config["denoiser"]["iterations"] == PRESETS["smoke"].fit.denoiser.iterations


@pytest.mark.parametrize("command", [["fit", "DATA", "m"], ["generate", "m", "DATA", "s"], ["study", "DATA", "s"]])
def test_a_dry_run_of_a_stage_names_options_that_its_command_has(
    command: list[str], phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(phantoms) if word == "DATA" else word for word in command]
    main([*words, "--preset", "smoke", "--dry-run"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Settings"))
    named = re.findall(r"--[-a-z.]+", line)
    options = said(capsys, [command[0], "--help"])[1]
    assert named and all(f" {name} " in options for name in named) and "more" not in line
    if command[0] != "generate":
        assert named[0].endswith("iterations")


def test_lora_and_merge_have_short_names_and_any_base_is_taken(
    phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "fit",
            str(phantoms),
            "m",
            "--base",
            "owner/name",
            "--lora",
            "16",
            "--merge",
            "--device",
            "auto",
            "--dry-run",
            "--json",
        ]
    )
    denoiser = yaml.safe_load(capsys.readouterr().out)["config"]["denoiser"]
    assert (denoiser["lora_rank"], denoiser["merge"]) == (16, True)


def test_the_example_configs_are_valid() -> None:
    for path in sorted(Path(__file__).parents[2].glob("runs/*.yaml")):
        assert read_config(path).out.name == path.stem


def test_the_network_sets_the_defaults_of_the_other_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_phantoms(tmp_path / "data", 4, 0, 2, 0, size=64)
    config = tmp_path / "run.yaml"
    config.write_text(f"preset: smoke\nout: {tmp_path / 'out'}\nstudy: {{batch_size: 4}}\n")
    study = ["study", str(tmp_path / "data"), str(tmp_path / "out"), "--dry-run", "--json"]

    def shown(words: list[str]) -> dict[str, object]:
        main(words)
        told = json.loads(capsys.readouterr().out)["config"]
        found: dict[str, object] = told.get("study", told)
        return found

    default, small = shown(study), shown([*study, "--network", "unet"])
    assert default["network"] == "efficientnet-lite0" and small["network"] == "unet"
    assert small["iterations"] == 8000 != default["iterations"]
    assert shown([*study, "--network=unet", "--iterations", "9"])["iterations"] == 9
    run = shown(["run", str(config), "--dry-run", "--json", "--network", "unet"])
    assert run["learning_rate"] == small["learning_rate"] and run["iterations"] == 8 and run["batch_size"] == 4


def test_a_command_that_a_scheduler_stops_ends_in_one_line_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    script = "import sys; from diffaug.cli.main import main; main(sys.argv[1:])"
    words = ["data", "phantom", str(tmp_path / "data"), "--train", "3000", "--size", "256"]
    with subprocess.Popen([sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True) as run:
        for _ in range(600):
            if list(tmp_path.rglob("*.png")):
                break
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        told = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert told.splitlines()[-1] == "diffaug: stopped; run the same command again to continue"
    assert "Traceback" not in told and "leaked" not in told
    assert not (tmp_path / "data" / "cases.csv").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(monkeypatch, capsys, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main(["prompts", "-n", "1"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected
