import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image
from study_folders import make_dataset, make_painted_eyes, make_synthetic

from diffaug.artifacts import read_json, write_csv, write_json
from diffaug.config import StudyConfig
from diffaug.errors import DataError, StudyError
from diffaug.report.figures import strata_figure
from diffaug.report.page import (
    bases_sentence,
    clean_sentence,
    comparisons,
    contrast_limit,
    difference_table,
    fraction,
    headline_arm,
    is_sure,
    labelled_sentence,
    missed_sentence,
    nested,
    percent,
    points,
    read_cases,
    read_table,
    signed,
    spread,
    verdict,
    write_report,
)
from diffaug.study.derive import select_set
from diffaug.study.run import run_study

CONFIG = StudyConfig(seeds=2, size=64, widths=(8, 8, 16, 16, 16), iterations=4, batch_size=4, bootstrap=50, workers=1)
EMPTY = {"mean": None, "low": None, "high": None}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    data, synthetic = make_dataset(root / "data <b>"), make_synthetic(root / "synthetic")
    run_study(data, root / "study", [synthetic], CONFIG)
    run_study(data, root / "alone", [], CONFIG.model_copy(update={"arms": ("real",)}))
    return root


@pytest.fixture(scope="module")
def page(folders):
    return Page(write_report(folders / "study").read_text(encoding="utf-8"))


def summary_of(mean, low, high, seeds=3, draws=1):
    interval = {"mean": mean, "low": low, "high": high}
    group = {"n": 9, "dice": interval, "missed": interval, "false_negative_rate": interval}
    arm = {
        "n": 40,
        "seeds": seeds,
        "draws": draws,
        "dice": interval,
        "strata": {"small": group, "large": {**group, "n": 0}},
    }
    difference = {"dice": interval, "missed": interval, "false_negative_rate": interval, "missed_small": interval}
    difference["strata"] = {
        "small": group,
        "large": {"n": 0, "dice": EMPTY, "missed": EMPTY, "false_negative_rate": EMPTY},
    }
    return {"arms": {"real": arm, "validated": arm}, "differences": {"validated - real": difference}}


def test_the_page_needs_nothing_but_itself(page):
    assert not page.all("script")
    assert not page.all("link")
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) > 10
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r'(src|href)="(?!data:|#)', page.text)
    assert "url(" not in page.text.split("</style>")[0]


@pytest.mark.browser
def test_a_browser_shows_the_page_without_leaving_it(folders, page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    shot, path = tmp_path / "page.png", folders / "study" / "report.html"
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]
    words = [*quiet, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,2000", f"--screenshot={shot}"]
    subprocess.run([chromium, *words, path.as_uri()], check=True, timeout=90, stderr=subprocess.DEVNULL)
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=900 * 2000)
    assert picture.size == (900, 2000)
    assert colours is not None and len(colours) > 500  # text, figures and photographs, not an empty or broken page


def test_every_picture_decodes_and_says_what_it_shows(page):
    for image in page.all("img"):
        kind, _, data = image["src"].partition(";base64,")
        content = base64.b64decode(data, validate=True)
        assert content.startswith({"data:image/jpeg": b"\xff\xd8", "data:image/svg+xml": b"<?xml"}[kind])
        assert len(image["alt"]) > 10


def test_names_and_prompts_are_escaped(page):
    assert "a small &lt;flat&gt; polyp" in page.text
    assert "<flat>" not in page.text
    assert "data &lt;b&gt;" in page.text


def test_links_lead_to_sections(page):
    ids = {section["id"] for section in page.all("section")}
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in ids}
    assert ids == {"arms", "strata", "differences", "funnel", "accepted", "refused", "worst", "run"}


def test_the_page_shows_kept_and_refused_requests_and_the_worst_cases(page):
    assert all(f"synth-{index:05d}" in page.text for index in range(5))
    assert "score under threshold; step 10, score 0.20 under 0.50" in page.text
    assert "Dice" in page.text
    assert sum("Test case" in image["alt"] for image in page.all("img")) == 5


def test_the_same_study_gives_the_same_bytes(folders, page):
    again = write_report(folders / "study", to=folders / "elsewhere" / "again.html")
    assert again == folders / "elsewhere" / "again.html"
    assert again.read_text(encoding="utf-8") == page.text


def test_a_study_of_one_arm_is_reported_without_a_comparison(folders):
    text = write_report(folders / "alone").read_text(encoding="utf-8")
    assert "Nothing was compared" in text
    assert 'id="funnel"' not in text


def test_the_page_is_made_when_the_images_of_the_data_set_are_gone(folders, page, tmp_path):
    shutil.copytree(folders / "study", tmp_path / "study")
    plan = tmp_path / "study" / "study.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace("data <b>", "gone"), encoding="utf-8")
    assert "none can be shown" in write_report(tmp_path / "study").read_text(encoding="utf-8")


def test_an_unfinished_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"no summary\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("to", ["", "summary.json", "page"])
def test_a_report_that_would_overwrite_something_else_is_refused(folders, tmp_path, to):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    before = (study / "summary.json").read_bytes()
    with pytest.raises(StudyError, match=r"ends in \.html"):
        write_report(study, to=study / to)
    assert (study / "summary.json").read_bytes() == before and not (study / "page").exists()


def test_a_synthetic_set_that_is_not_there_is_refused(folders, tmp_path):
    with pytest.raises(StudyError, match=r"nothere has no manifest\.jsonl"):
        write_report(folders / "study", tmp_path / "nothere", tmp_path / "page.html")


def test_a_chosen_set_is_shown_without_a_funnel(folders, tmp_path):
    select_set(folders / "synthetic", tmp_path / "chosen", folders / "study", CONFIG.select, 2)
    page = write_report(folders / "study", tmp_path / "chosen", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "was chosen from another set: 2 of" in page and "What became of the requests" not in page
    assert page.count('alt="Close-up of the painted lesion') == 2
    assert not (tmp_path / "funnel.csv").exists()


def test_a_difference_of_a_single_case_is_not_sure():
    assert not is_sure({"mean": -0.066, "low": -0.066, "high": -0.066})


def test_a_damaged_table_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_text("case,dice\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="study's table"):
        read_cases(tmp_path / "cases.csv")


@pytest.mark.parametrize(
    ("interval", "kind", "words"),
    [
        ((0.05, 0.01, 0.09), "gain", "+5.0 points"),
        ((-0.05, -0.09, -0.01), "loss", "−5.0 points"),
        ((0.05, -0.01, 0.09), "none", "the interval spans zero"),
        ((0.0, 0.0, 0.0), "none", "0.0 points"),
    ],
)
def test_the_headline_claims_no_more_than_the_interval(interval, kind, words):
    found = verdict(summary_of(*interval), "validated")
    assert found["kind"] == kind
    assert words in found["text"]
    assert "40 held-out real cases" in found["text"]


@pytest.mark.parametrize(
    ("arm", "title"), [("copy-paste", "Pasted lesions helped"), ("pseudo-label", "Pseudo-labels helped")]
)
def test_the_headline_names_what_was_added(arm, title):
    summary = summary_of(0.05, 0.01, 0.09)
    summary["arms"][arm], summary["differences"][f"{arm} - real"] = (
        summary["arms"]["validated"], summary["differences"]["validated - real"]
    )  # fmt: skip
    assert verdict(summary, arm)["title"] == title


def test_what_painting_adds_to_self_training_is_told_apart():
    summary, arm = summary_of(0.05, 0.01, 0.09), "validated+pseudo-label"
    assert labelled_sentence(summary, "validated") == "" == labelled_sentence(summary, None)
    summary["arms"][arm] = {**summary["arms"]["validated"], "cases": {"real": 6, "pool": 9, "labelled": 5}}
    summary["differences"][f"{arm} - real"] = summary["differences"]["validated - real"]
    assert "the arm pseudo-label was not run" in labelled_sentence(summary, arm)
    assert verdict(summary, arm)["title"] == "Painted and labelled cases helped"
    against = {"dice": {"mean": 0.006, "low": -0.007, "high": 0.02, "p": 0.4}}
    told = labelled_sentence(summary | {"differences": {f"{arm} - pseudo-label": against}}, arm)
    assert "that real gave them (5" in told and "by +0.6 points" in told and told.endswith("no difference shown.")


def test_the_page_claims_no_cleaner_test_than_there_was():
    plan = {"identity": {}, "duplicates": [], "shared_groups": []}
    summary = summary_of(0.1, 0.0, 0.2) | {"base_seen": None}
    assert clean_sentence(plan, summary).startswith("No test image was used to train or choose anything, nor")
    assert "but for repeated frames" in clean_sentence(plan | {"duplicates": [["a", "b"]]}, summary)
    assert "not sought" in clean_sentence(plan | {"identity": {"folds": 3}}, summary)
    seen = {"known": True, "of": 40, "unannotated": 40, "annotated": 0}
    assert "but for what the base model has seen" in clean_sentence(plan, summary | {"base_seen": seen})
    assert bases_sentence({"base_seen": seen | {"unannotated": 0}}) == "" and "not recorded" in bases_sentence({})


def test_a_single_seed_is_said():
    assert "a single seed" in verdict(summary_of(0.1, 0.05, 0.2, seeds=1), "validated")["text"]


def test_draws_are_not_counted_as_seeds():
    text = verdict(summary_of(0.1, 0.05, 0.2, seeds=2, draws=3), "validated")["text"]
    assert "with 3 draws of the annotated cases, 2 seeds each, the arm" in text
    text = verdict(summary_of(0.1, 0.05, 0.2, seeds=1, draws=3), "validated")["text"]
    assert "with 3 draws of the annotated cases, the arm" in text


def test_the_contrast_under_which_a_lesion_is_low_contrast_is_given_for_all_draws():
    assert contrast_limit({"contrast_cut": 5.04}) == "5.0"
    assert contrast_limit({"contrast_cut": None}) == "no cut"
    assert contrast_limit({"contrast_cut": None, "contrast_cuts": [4.21, 5.04]}) == "4.2 to 5.0, by draw"


def test_the_funnel_is_drawn_from_its_table(folders, tmp_path):
    write_report(folders / "study", to=tmp_path / "report.html")
    table = (tmp_path / "funnel.csv").read_text(encoding="utf-8").splitlines()
    assert table == ["size,requested,stopped,rejected,kept", "small,0,0,0,0", "medium,5,0,1,4", "large,0,0,0,0"]


def test_small_lesions_are_reported_or_said_to_be_absent():
    summary = summary_of(-0.1, -0.2, 0.1)
    assert missed_sentence(summary, "validated").endswith("no difference shown.")
    summary["differences"]["validated - real"]["missed_small"] = EMPTY
    assert "no small lesion" in missed_sentence(summary, "validated")


def test_the_headline_is_about_the_arm_furthest_along_the_pipeline():
    assert headline_arm({"differences": {"copy-paste - real": {}, "validated - real": {}}}) == "validated"
    assert headline_arm({"differences": {"oracle - real": {}, "selected@2 - real": {}}}) == "selected@2"
    assert headline_arm({"differences": {"oracle - real": {}}}) is None
    assert headline_arm({"differences": {}}) is None


def test_an_empty_stratum_is_shown_as_empty_and_never_as_zero():
    table = difference_table(summary_of(0.1, 0.0, 0.2), ["small", "large"])
    row = next(row for row in table if row[0] == "Dice, large")
    assert row[1] == 0
    assert [points(one) for one in row[2]] == ["–"]
    assert (fraction(EMPTY), percent(EMPTY)) == ("–", "–")


def test_numbers_are_written_with_signs_and_without_a_signed_zero():
    assert [signed(value) for value in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]
    assert percent({"mean": 0.125, "low": 0.0, "high": 0.25}) == "12.5 % [0.0, 25.0]"
    assert is_sure({"mean": 0.1, "low": 0.01, "high": 0.2})
    assert not is_sure({"mean": 0.1, "low": 0.0, "high": 0.2})


@pytest.mark.parametrize(("length", "count"), [(0, 3), (2, 3), (3, 3), (10, 4), (101, 8)])
def test_examples_are_spread_evenly_and_never_repeated(length, count):
    rows = spread(range(length), count)
    assert len(rows) == len(set(rows)) == min(length, count)
    assert rows == sorted(rows)


def test_a_page_of_two_classes_tells_each_and_the_error_of_the_ratio(tmp_path, eyes):
    synthetic = make_painted_eyes(tmp_path / "synthetic", eyes)
    config = CONFIG.model_copy(update={"arms": ("real", "validated"), "seeds": 1, "iterations": 2})
    run_study(eyes, tmp_path / "study", [synthetic], config)
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    page = Page(text)
    groups = [attributes for attributes in page.all("th") if attributes.get("scope") == "rowgroup"]
    assert len(groups) == 2 + 6  # classes and strata
    assert "Mean absolute error of the vertical cup-to-disc ratio" in text and "Dice, cup" in text
    assert text.index(">disc</th>") < text.index(">cup</th>")


# Figures are drawn from the tables beside the page


@pytest.fixture(scope="module")
def ratios(folders):
    """A finished study with two ratios of painted cases, and beside it a curve over two numbers of annotated cases."""
    arms = ("real", "copy-paste", "validated@0.5", "validated")
    config = CONFIG.model_copy(update={"arms": arms, "synthetic_per_real": 0.2, "iterations": 2})
    run_study(folders / "data <b>", folders / "ratios", [folders / "synthetic"], config)
    rows = [
        {"annotated": n, "arm": arm, "draws": 3, "n": 5, "mean": n / 200, "low": n / 250, "high": n / 150}
        for n in (25, 50)
        for arm in ("real", "oracle")
    ]
    write_csv(folders / "ratios" / "curve.csv", rows, list(rows[0]))
    costs = {"annotated": 25, "draw": 0, "fold": "", "fit_seconds": 9.5, "requested": 12, "stopped": 1, "rejected": 1}
    write_csv(folders / "ratios" / "costs.csv", [costs | {"kept": 10, "fills": 4, "generate_seconds": 20.0}], COSTS)
    return folders / "ratios"


COSTS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "fills", "generate_seconds",
)  # fmt: skip


def test_the_table_holds_what_the_summary_says(ratios):
    summary, table = read_json(ratios / "summary.json"), nested(read_table(ratios / "summary.csv"))
    assert set(table["arms"]) == set(summary["arms"]) and set(table["differences"]) == set(summary["differences"])
    for kind in ("arms", "differences"):
        for name, one in table[kind].items():
            assert one["dice"] == {key: summary[kind][name]["dice"][key] for key in ("mean", "low", "high")}
            assert one["strata"]["small"]["missed"]["mean"] == summary[kind][name]["strata"]["small"]["missed"]["mean"]
            assert one["n"] == 5


def test_the_page_has_the_curve_the_ratios_and_what_each_stage_cost(ratios):
    text = write_report(ratios).read_text(encoding="utf-8")
    page = Page(text)
    assert {"curve", "ratio", "funnel"} <= {section["id"] for section in page.all("section")}
    assert "0.250 [0.200, 0.333]" in text  # a row of curve.csv
    assert "<td>2.0</td></tr>" in text  # seconds per kept case of costs.csv
    assert "Dice, validated against copy-paste" in text


def test_a_figure_follows_its_table(ratios, tmp_path):
    study = shutil.copytree(ratios, tmp_path / "study")
    before = write_report(study).read_text(encoding="utf-8")
    table = (study / "summary.csv").read_text(encoding="utf-8").splitlines()
    head, line = table[0], next(line for line in table if line.startswith("validated@0.5,real,all,dice,"))
    cells = dict(zip(head.split(","), line.split(","), strict=True)) | {"mean": "0.4", "low": "0.3", "high": "0.5"}
    (study / "summary.csv").write_text(
        "\n".join(",".join(cells.values()) if one == line else one for one in table) + "\n", encoding="utf-8"
    )
    after = write_report(study).read_text(encoding="utf-8")

    def figure(text):
        return next(image["src"] for image in Page(text).all("img") if "for each real one" in image["alt"])

    assert figure(before) != figure(after)


def test_arms_that_have_a_ratio_each_are_all_drawn(ratios):
    summary = read_json(ratios / "summary.json")
    alone = {**summary, "arms": {"validated@0.5": summary["arms"]["validated@0.5"]}}
    drawn = strata_figure(alone, ("small",)).split(",", 1)[1]
    assert "validated@0.5" in base64.b64decode(drawn).decode()


def test_repeated_frames_that_were_allowed_and_a_short_budget_are_said(ratios, tmp_path):
    study = shutil.copytree(ratios, tmp_path / "study")
    plan = read_json(study / "study.json")
    assert "Not a clean test" not in write_report(study).read_text(encoding="utf-8")
    plan |= {"duplicates": [["test-1", "train-2"]], "draws": [0], "wanted_draws": [0, 1, 2]}
    write_json(study / "study.json", plan)
    text = write_report(study).read_text(encoding="utf-8")
    assert "Not a clean test:" in text and "test-1 = train-2" in text
    assert "enough for 1 of 3 draws" in text


def test_relative_changes_and_other_arms_are_compared_with_corrected_p_values(ratios):
    summary = read_json(ratios / "summary.json")
    found = {label: (kind, p) for label, _, kind, _, p in comparisons(summary, "validated")}
    counts = {label: n for label, n, *_ in comparisons(summary, "validated")}
    assert counts["Relative change, pixels not found, all lesions"] == summary["arms"]["real"]["n"]
    assert found["Dice, validated against copy-paste"][0] == "points"
    strata = summary["differences"]["validated - real"]["strata"]
    for label, (kind, p) in found.items():
        if label.startswith("Relative change, pixels not found, small"):
            assert counts[label] == strata["small"]["n"]
            assert kind == "percent" and p == strata["small"]["false_negative_rate"]["p_holm"]
            break
    else:
        raise AssertionError("no small lesions were compared")
    assert comparisons(summary, None) == []


def test_rescued_and_lost_cases_stand_side_by_side(folders, tmp_path):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    lines = (study / "cases.csv").read_text(encoding="utf-8").splitlines()
    head = lines[0].split(",")
    arm, case, dice = (head.index(name) for name in ("arm", "case", "dice"))
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        better = row[arm] == ("selected" if row[case] == "test-0" else "real")
        row[dice] = ("0.9" if better else "0.1") if row[case] in ("test-0", "test-1") else "0.5"
    text = "\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n"
    (study / "cases.csv").write_text(text, encoding="utf-8")
    page = write_report(study).read_text(encoding="utf-8")
    rescued, lost = page.index("<h3>Rescued</h3>"), page.index("<h3>Lost</h3>")
    assert rescued < page.index("<strong>test-0</strong> Dice 0.10 → 0.90") < lost
    assert lost < page.index("<strong>test-1</strong> Dice 0.90 → 0.10")
