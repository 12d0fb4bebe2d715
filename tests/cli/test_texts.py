"""What the commands print for people, from results that the library returns."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from study_folders import row_of

from diffaug.artifacts import write_json
from diffaug.cli.plan import changed_settings, plan_text
from diffaug.cli.run import print_reports
from diffaug.cli.texts import (
    audit_text,
    explanation_text,
    exported_text,
    fit_text,
    folds_text,
    generate_text,
    labels_text,
    leaks_text,
    minutes,
    remove_text,
    segment_text,
    selection_text,
    study_text,
    table,
)
from diffaug.config import DenoiserConfig, FitConfig, GenerateConfig, StudyConfig, config_from_values
from diffaug.data.funnel import Counts, Funnel
from diffaug.data.origin import Origin
from diffaug.data.request import MaskTransform
from diffaug.data.segmented import SegmentSummary
from diffaug.export.export import Exported
from diffaug.pipeline.estimate import Estimate
from diffaug.pipeline.machine import Facts, Look
from diffaug.study.sets import Labelling, Selection
from diffaug.study.statistics import summarise
from diffaug.synthesis.explain import Explanation
from diffaug.synthesis.generate import GenerateSummary
from diffaug.synthesis.remove import RemoveSummary
from diffaug.training.codec import Fidelity
from diffaug.training.fit import FitSummary


def record(arm: str, case: int, dice: float) -> dict[str, object]:
    metrics = dict.fromkeys(("iou", "sensitivity", "precision", "false_negative_rate"), dice)
    more = {"hd95": 1.0, "lesion_recall": 1.0, "missed": 0.0, "false_alarm": None, "false_area": None, "area": 0.1}
    return {"arm": arm, "seed": 0, "case": f"c{case}", "group": f"c{case}", "strata": ["medium"], "dice": dice} | {
        **metrics, **more
    }  # fmt: skip


def summary_of(*arms: str, cases: int = 4) -> dict[str, object]:
    records = [record(arm, case, 0.5 + 0.1 * place) for place, arm in enumerate(arms) for case in range(cases)]
    return summarise(records, 50)


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    text = table([("arm", "Dice"), ("copy-paste", "0.1"), ("x", "")])
    assert text.splitlines() == ["arm         Dice", "copy-paste   0.1", "x"]


def test_a_study_is_a_line_for_each_arm_with_its_difference_to_real() -> None:
    text = study_text(summary_of("real", "copy-paste"), Path("studies/my study"), [Path("synthetic/a b")], 4000)
    real, pasted = (next(line for line in text.splitlines() if line.startswith(arm)) for arm in ("real", "copy-paste"))
    assert "0.500" in real and re.search(r"0\.600 +\+10\.0 \[\+10\.0, \+10\.0\]", pasted)
    assert "4 test cases, 1 seed" in text
    *_, last = text.splitlines()
    words = shlex.split(last.removeprefix("Next: "))
    assert words == ["diffaug", "report", "studies/my study", "--synthetic", "synthetic/a b"]


def test_a_table_of_arms_says_how_many_test_cases_are_lesion_free_and_of_which_the_missed_are() -> None:
    empty = {"area": 0, "missed": None, "strata": []}
    records = [record("real", case, 0.5) | (empty if case < 5 else {}) for case in range(12)]
    text = study_text(summarise(records, 50), Path("s"), [], 4000)
    assert "12 test cases (5 of them lesion-free), 1 seed." in text
    assert "Missed: cases with an IoU under 0.1, of the 7 with a lesion." in text
    assert "The Dice of a lesion-free case is 1 if nothing is predicted in it, and 0 otherwise." in text
    assert "lesion" not in study_text(summary_of("real"), Path("s"), [], 4000).partition("test cases")[2]


def test_a_stratum_without_cases_has_no_number() -> None:
    line = next(
        one for one in study_text(summary_of("real"), Path("s"), [], 4000).splitlines() if one.startswith("real")
    )
    assert line.split()[-4:] == ["-", "-", "0.0", "%"]


def test_a_fit_says_what_it_learned_and_how_to_paint() -> None:
    seconds = {"painter": 100.0, "validators": 80.0}
    lesions = {"small": 3, "medium": 0, "large": 9}
    text = fit_text(
        FitSummary(12, 30, lesions, Fidelity(31.24, 0.9), (), None, None, {}, seconds), Path("data/x"), Path("m/x")
    )
    assert "this took 3.0 min" in text and "3 small, 9 large" in text and "31.2 dB" in text and "critic" not in text
    assert text.splitlines()[-1] == "Next: diffaug generate m/x data/x synthetic/x"


def test_a_fit_that_was_finished_says_so_and_the_next_command_takes_its_preset() -> None:
    summary = FitSummary(12, 0, {}, Fidelity(31.0, 0.9), (), None, None, {}, {"painter": 1.0})
    first, *_, last = fit_text(summary, Path("d"), Path("m"), "smoke", again=True).splitlines()
    assert first == "The model m was already fitted; nothing was done."
    assert last == "Next: diffaug generate m d synthetic/m --preset smoke"


def test_a_fit_says_how_many_annotated_cases_hold_no_lesion() -> None:
    summary = FitSummary(22, 4, {}, Fidelity(31.0, 0.9), (), None, None, {}, {"painter": 1.0}, lesion_free=6)
    assert "22 annotated (6 of them lesion-free), 4 unannotated" in fit_text(summary, Path("d"), Path("m"))


def test_a_fit_without_a_critic_says_why() -> None:
    why = "the annotated cases form 2 groups, such as patients, and it needs 3"
    summary = FitSummary(12, 0, {}, Fidelity(31.0, 0.9), (), None, None, {}, {"painter": 1.0}, why)
    assert f"critic   none, so painted lesions are not checked for looking painted: {why}" in fit_text(
        summary, Path("d"), Path("m")
    )


def test_a_study_by_folds_ends_with_its_table_its_report_and_the_next_command() -> None:
    text = folds_text(
        summary_of("selected", "real"), ["real", "selected"], 5, Path("s/nall/report.html"), Path("data/mine"), 4000
    )
    *arms, told, report, after = text.splitlines()
    assert arms[1].startswith("real") and arms[2].startswith("selected")
    assert "the other 4 of 5 folds" in told and report == "Report: s/nall/report.html"
    assert after == "Next: diffaug fit data/mine models/mine"


def test_after_folds_a_model_that_is_there_is_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def after() -> str:
        summary, order, page = summary_of("selected", "real"), ["real", "selected"], Path("s/nall/report.html")
        return folds_text(summary, order, 5, page, Path("data/mine"), 4000, "smoke").splitlines()[-1]

    assert after() == "Next: diffaug fit data/mine models/mine --preset smoke"
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert after() == "Next: diffaug generate models/mine data/mine synthetic/mine --preset smoke"


def test_every_table_of_arms_says_when_nothing_can_be_concluded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of `study`, of folds, of runs and of the demo follow the rule of the report."""
    few, enough = summary_of("real", "selected"), summary_of("real", "selected", cases=9)
    write_json(tmp_path / "summary.json", enough)

    def tables(summary: dict[str, object], iterations: int) -> list[str]:
        write_json(tmp_path / "summary.json", summary)
        write_json(tmp_path / "study.json", {"config": {"arms": ["real", "selected"]}})
        print_reports([tmp_path / "report.html"], iterations)
        return [
            study_text(summary, Path("s"), [], iterations),
            folds_text(summary, ["real", "selected"], 5, Path("s/nall/report.html"), Path("data/mine"), iterations),
            capsys.readouterr().out,
        ]

    for text in tables(enough, 99):
        assert "No conclusion: the networks were trained for 99 iterations." in text
    for text in tables(few, 4000):
        assert "No conclusion: 4 cases are too few to compare on." in text
    for text in tables(enough, 100):
        assert "No conclusion" not in text


def summary_of_set() -> GenerateSummary:
    counts = Funnel(Counts(70, 60, 4, 4, surplus=2), Counts(33, 30, 0, 3), {}, {})
    reasons = {"kept": 90, "looks painted": 10}
    return GenerateSummary(
        counts,
        9.0,
        0.1,
        reasons=reasons,
        painted_on=22,
        shown=14,
        sizes={"small": 40, "medium": 20, "large": 0},
        annotated={"small": 11, "medium": 17, "large": 10},
    )


def test_without_an_annotated_test_case_the_next_commands_are_folds_and_an_export() -> None:
    def after(out: str, preset: str = "default") -> list[str]:
        return generate_text(
            summary_of_set(), Path("data/x"), out, f"{out}/sheet.png", preset, tested=False
        ).splitlines()

    *_, why, study, export = after("synthetic/x")
    assert why.startswith("No test case is annotated")
    assert study == "Next: diffaug study data/x studies/x --folds 5"
    assert export == "Next: diffaug export synthetic/x exported/x --format nnunet --with data/x --folds 5"
    *_, study, fetch, export = after("s3://b/x", "smoke")
    assert study.endswith("--folds 5 --preset smoke") and fetch.startswith("Fetch it") and "export x " in export


def test_a_synthetic_set_counts_lesions_and_negatives_apart() -> None:
    summary = summary_of_set()
    text = generate_text(summary, Path("d"), "synthetic/x", "synthetic/x/contact_sheet.png")
    assert "60 lesion cases on 22 images, and 30 negatives (painted without a lesion) beside them" in text
    assert (
        "The painted lesions are 40 small, 20 medium, 0 large. They are made from 14 of the annotated lesions "
        "(11 small, 17 medium, 10 large)." in text.splitlines()
    )
    assert "Of 100 requests:" in text and re.search(r"10 +10 %  looks painted", text)
    assert text.splitlines()[-1] == "Next: diffaug study d studies/x --synthetic synthetic/x"
    same = generate_text(summary, Path("d"), "synthetic/x", "synthetic/x/contact_sheet.png", "smoke")
    assert same.splitlines()[-1] == "Next: diffaug study d studies/x --synthetic synthetic/x --preset smoke"
    none = Funnel(Counts(1, 1), Counts(), {}, {})
    alone = generate_text(GenerateSummary(none, 1.0, 1.0, painted_on=1), Path("d"), "s", "s.png")
    assert "negative" not in alone and alone.startswith("1 lesion case on 1 image, in s.")
    away = generate_text(summary, Path("d"), "s3://b/x", "s3://b/x/contact_sheet.png")
    assert "Fetch it before" in away and away.endswith("studies/x --synthetic x")


def test_what_was_left_out_is_told_by_name_and_long_lists_are_cut() -> None:
    names = tuple(f"case-{number}" for number in range(8))
    text = remove_text(RemoveSummary(3, 4, 0.5, 0.01, names), Path("o"))
    assert "3 cases with 4 lesions" in text and "case-4 and 3 more" in text and "case-5" not in text
    assert "left out" not in remove_text(RemoveSummary(1, 1, 0.5, 0.01), Path("o"))
    found = segment_text(SegmentSummary(2, ("a.png",), {"b": 0.1, "c": 0.0}), Path("o"))
    assert "2 images segmented, something found in 1 of them" in found and "1 file could not be read: a.png" in found


def test_selections_labels_and_leaks_are_told_in_a_line_or_a_table() -> None:
    text = selection_text(Selection(9, 4, 2, {"small": 1, "large": 3}), Path("o"))
    assert text == "4 of 9 accepted cases chosen (1 small, 3 large), and 2 negatives beside them, in o."
    assert labels_text(Labelling(8, 5), Path("o")) == "5 of 8 unannotated images labelled, in o."
    dice = {"mean": 0.7, "low": 0.6, "high": 0.8}
    more = {"mean": 0.18, "low": 0.12, "high": 0.24}
    assert "+18.0 [+12.0, +24.0]" in leaks_text({"ways": {"random": {"dice": dice, "flattered": more}}})


@pytest.mark.parametrize(
    ("seconds", "told"), [(5, "5 s"), (89, "89 s"), (90, "1.5 min"), (7200, "120.0 min"), (9000, "2.5 hours")]
)
def test_durations_are_told_in_seconds_minutes_or_hours(seconds: float, told: str) -> None:
    assert minutes(seconds) == told


def test_a_plan_of_a_run_names_settings_as_its_file_does_and_leaves_out_what_its_other_lines_tell() -> None:
    data = {"path": "d", "folds": 5, "painted_per_real": 9.0}
    config = config_from_values({"data": data, "device": "cuda", "out": "o", "study": {"iterations": 9}})
    assert changed_settings(config) == ["study.iterations 9", "device cuda", "data.painted_per_real 9.0"]


def test_a_plan_of_a_stage_names_settings_as_its_options_the_most_important_first() -> None:
    study = StudyConfig(bootstrap=9, batch_size=4, iterations=8, arms=("real", "selected"))
    assert changed_settings(study) == ["--iterations 8", "--arms real selected", "--batch-size 4", "--bootstrap 9"]
    fit = FitConfig(denoiser=DenoiserConfig(windows_per_case=3, merge=True))
    assert changed_settings(fit) == ["--denoiser.windows-per-case 3", "--denoiser.merge"]
    assert changed_settings(GenerateConfig(realism=False)) == ["--no-realism"]
    assert changed_settings(FitConfig()) == []


def test_a_plan_is_a_few_lines() -> None:
    found, look = Estimate(1.0, 3.2, 3, "fit and paint"), Look(Facts(40, 3, 9, 64, 32, 1.5, 0.1, True, 8), 33.3)
    text = plan_text([f"--name-{number} 1" for number in range(12)], look, found, 57.2)
    assert len(text.splitlines()) <= 10
    assert "not the defaults: --name-0 1, --name-1 1," in text and "--name-9 1 and 2 more." in text
    assert "40 annotated (8 of them lesion-free) and 3 unannotated training images, 9 test images" in text
    assert "64 x 32 px, 1.5 lesions in an image that has any." in text and "busy" not in text
    assert "Work: fit and paint." in text and "about 60 s" in text and "33 ms for a row of the painter" in text
    assert "about 3 MB, of 57 GB" in text
    busy = plan_text([], replace(look, busy=2.34), found, 1.0)
    assert "if nothing else runs on it; it is busy now, with 2.3 processes for each core" in busy
    bare = plan_text([], Look(), found, 1.0)
    assert "is not there" in bare and "not the defaults: none." in bare


def test_an_audit_with_copies_ends_with_the_command_that_leaves_them_out() -> None:
    synthetic, out, data = Path("synthetic/mine"), Path("audits/my set"), Path("data/mine")
    told = audit_text(["checked"], 17, synthetic, out, "audit.html", data)
    assert (
        "--without-copies 'audits/my set' of `export` and `select` leaves out the 17 pictures that show a copy." in told
    )
    words = shlex.split(told.splitlines()[-1])
    assert words[:4] == ["Next:", "diffaug", "export", "synthetic/mine"]
    assert words[-4:] == ["--with", "data/mine", "--without-copies", "audits/my set"]
    assert "without-copies" not in audit_text(["checked"], 0, synthetic, out, "audit.html", data)


def test_an_export_says_that_copies_were_not_looked_for() -> None:
    found = Exported(Path("exported/mine"), {"train": "3 cases"}, (), ())
    assert "run `diffaug audit synthetic/mine AUDIT --with DATA`" in exported_text(found, Path("synthetic/mine"), False)
    assert "audit" not in exported_text(found, Path("synthetic/mine"), True)


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (MaskTransform(), "1.00 times its size, turned by 0 degrees; from row 0 and column 0 on"),
        (MaskTransform(0.8, 12.0, flip=True), "0.80 times its size, turned by 12 degrees, mirrored; from row 0"),
        (MaskTransform(at_edge=True), "column 0 on, cut off by the edge as its own image cuts it off"),
    ],
)
def test_a_picture_is_explained_by_each_lesion_that_it_shows(transform, told):
    request = replace(row_of(3, ("train-0", "train-1")).request, transform=transform, example="train-1")
    origin = Origin({}, "v", {"code": "abc"}, "a processor", id=request.id, requests=(request, request))
    text = explanation_text(Explanation("a.png", "picture", origin, marked=True), Path("a.png"))
    assert text.count(told) == 2 and "Lesion 2:" in text and "case train-0" in text and "the lesion of the mask" in text
    assert text.splitlines()[0] == "a.png is synthetic: a picture painted by diffaug, synth-00003."
    assert text.splitlines()[-1] == "Next: diffaug reproduce a.png --model MODEL --data DATA"
    mask = explanation_text(Explanation("m.png", "mask", origin, marked=True), Path("m.png"))
    assert "is the mask of a picture" in mask and "reproduce" not in mask
