"""Laws of the public face: what `import diffaug` offers, how it is typed, described and called."""

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from layouts import write_pair
from PIL import Image

import diffaug
from diffaug.data.images import write_png
from diffaug.data.manifest import write_rows

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diffaug"
NAMES = """
    Attributes Case CaseDataset Check CodecConfig Conditioning Config ConfigError Counts DataConfig DataError
    Dataset DatasetCheck DenoiserConfig DiffaugError DiscPlace EmptyArmError Explanation Exported FindingsError
    FitConfig FitSummary FoldCounts Funnel Gate GenerateConfig GenerateSummary Imported Inspection LabelClass
    LatentInpainter Library MaskTransform Mix ModelError OnArrays Origin Painter Painting PlacementError
    RandPaintLesiond RandPasteLesiond RemoveSummary RemovedCase RemovedRegion Reproduction Request Row SamplerConfig
    Scores SegmentSummary SelectConfig Selection ShapeError ShareSummary SplitSummary StudyConfig StudyError
    SyntheticDataset SyntheticSet ValidatorConfig WorkerError audit_set check_dataset describe draw_prompts
    draw_requests explain_image export_set fit funnel generate generate_cases generate_share import_dataset
    inspect_dataset library_of load_model locate_disc make_phantoms measure_attributes mix predict_images
    read_config read_dataset read_manifest remove reproduce_image run_pipeline run_study sample segment_images
    select_set subset_dataset write_report
""".split()  # noqa: SIM905
FUNCTIONS = [name for name in NAMES if name[0].islower()]


def test_the_public_names_are_these_and_each_is_there():
    assert sorted(diffaug.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(diffaug))
    assert all(getattr(diffaug, name).__name__ == name for name in NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'diffaug' has no attribute 'paint_all'"):
        diffaug.paint_all  # noqa: B018


def test_a_type_checker_sees_real_types_and_a_wrong_call(tmp_path):
    assert (SOURCE / "py.typed").is_file()
    (tmp_path / "use.py").write_text("import diffaug\n\nreveal_type(diffaug.read_dataset)\ndiffaug.read_dataset(3)\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "use.py")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'Revealed type is "def (folder: str | os.PathLike[str]) -> diffaug.data.folder.Dataset"' in result.stdout
    assert 'Argument 1 to "read_dataset" has incompatible type "int"' in result.stdout
    assert result.stdout.count("error:") == 1


def parameters(name):
    return [each for each in inspect.signature(getattr(diffaug, name)).parameters if each != "self"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_returns_and_raises(name):
    function = getattr(diffaug, name)
    text = inspect.getdoc(function)
    assert text and text.splitlines()[0].endswith(".")
    described = re.findall(r"^    (\w+): ", text.partition("Args:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert described == parameters(name)
    raised = re.findall(r"raise (\w+)\(", inspect.getsource(function))
    assert all(f"    {error}: " in text.partition("Raises:\n")[2] for error in raised)
    assert "Example:\n    >>> " in text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FUNCTIONS])
def test_a_class_has_a_description(name):
    text = getattr(diffaug, name).__doc__
    assert text and not text.startswith(f"{name}(")  # what dataclass writes where there is none


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_path_may_be_a_string_or_any_path(name):
    for parameter, hint in typing.get_type_hints(getattr(diffaug, name)).items():
        if parameter != "return":
            parts = {
                hint,
                *typing.get_args(hint),
                *(part for arg in typing.get_args(hint) for part in typing.get_args(arg)),
            }
            assert Path not in parts, f"{name}({parameter}) takes a Path only"


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "run_study"])  # whose tables are JSON values
def test_a_result_has_a_type(name):
    result = typing.get_type_hints(getattr(diffaug, name))["return"]
    assert result is not dict and typing.get_origin(result) is not dict and result is not typing.Any


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, phantoms):
    """A folder with all that the examples read."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "data").mkdir()
    (folder / "data/mine").symlink_to(phantoms)
    (folder / "run.yaml").write_text("preset: demo\nseed: 3\n")
    for index in range(10):
        write_pair(folder / "downloads/mine", f"c{index}", index, ".jpg")
    transform, window = diffaug.MaskTransform(), (0, 0, 64)
    ends = (("kept", "i.png", 0.75), ("stopped", "", 0.25))
    rows = []
    for index, (decision, image, score) in enumerate(ends):
        request = diffaug.Request(
            index, f"synth-0000{index}", 1, "a", "b", 0, "free", transform, 1, 2, "a small pale polyp", "small"
        )
        check = diffaug.Check(step=4, t=0, score=score, threshold=0.5)
        rows.append(diffaug.Row(request, decision, "", 4, (check,), window, "", "", "", image=image, mask=image))
    (folder / "synthetic/mine").mkdir(parents=True)
    write_rows(folder / "synthetic/mine/manifest.jsonl", rows)
    (folder / "synthetic/mine/summary.json").write_text("{}")
    said = diffaug.Origin({}, "", {}, "", rows[0].id, requests=(rows[0].request,)).texts()
    write_png(folder / "synthetic/mine/i.png", np.zeros((8, 8, 3), np.uint8), texts=said)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_as_it_is_printed(name, shelf, monkeypatch):
    monkeypatch.chdir(shelf)
    names = {"diffaug": diffaug, "np": np, "Path": Path, "Image": Image}
    tests = doctest.DocTestFinder(recurse=False).find(getattr(diffaug, name), name, module=False, globs=names)
    for test in tests:
        report = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False).run(test, out=report.append)
        assert not report, "".join(report)


def modules():
    return sorted(path for path in SOURCE.rglob("*.py"))


def test_the_library_prints_nothing():
    printing = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in modules()
        if path.relative_to(SOURCE).parts[0] not in ("cli", "__main__.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_data_sets_are_read_without_torch():
    script = "import sys, diffaug\nfor name in ('read_dataset', 'read_manifest', 'Config'): getattr(diffaug, name)\n"
    script += "assert 'torch' not in sys.modules, 'torch was imported'"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
