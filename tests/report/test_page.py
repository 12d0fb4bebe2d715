import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image
from study_folders import make_dataset, make_painted_eyes, make_synthetic

from diffaug.config import StudyConfig
from diffaug.errors import DataError, StudyError
from diffaug.report.page import (
    difference_table,
    fraction,
    headline_arm,
    is_sure,
    missed_sentence,
    percent,
    points,
    read_cases,
    signed,
    spread,
    verdict,
    write_report,
)
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


def summary_of(mean, low, high, seeds=3):
    interval = {"mean": mean, "low": low, "high": high}
    group = {"n": 9, "dice": interval, "missed": interval, "false_negative_rate": interval}
    arm = {"n": 40, "seeds": seeds, "dice": interval, "strata": {"small": group, "large": {**group, "n": 0}}}
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


def test_a_single_seed_is_said():
    assert "a single seed" in verdict(summary_of(0.1, 0.05, 0.2, seeds=1), "validated")["text"]


def test_small_lesions_are_reported_or_said_to_be_absent():
    summary = summary_of(-0.1, -0.2, 0.1)
    assert missed_sentence(summary, "validated").endswith("no difference shown.")
    summary["differences"]["validated - real"]["missed_small"] = EMPTY
    assert "no small lesion" in missed_sentence(summary, "validated")


def test_the_headline_is_about_the_arm_furthest_along_the_pipeline():
    assert headline_arm({"differences": {"copy-paste - real": {}, "validated - real": {}}}) == "validated"
    assert headline_arm({"differences": {"oracle - real": {}}}) == "oracle"
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
