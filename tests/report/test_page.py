import base64
import html
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from study_folders import make_dataset, make_painted_eyes, make_synthetic

from diffaug.artifacts import make_folder, read_json, write_csv, write_json
from diffaug.audit.audit import audit_set
from diffaug.config import StudyConfig
from diffaug.data.copies import Copy, write_copies
from diffaug.data.funnel import Counts
from diffaug.data.manifest import MANIFEST, accepted, read_manifest, read_rows, write_rows
from diffaug.data.request import Check
from diffaug.errors import ConfigError, DataError, StudyError
from diffaug.report.figures import strata_figure
from diffaug.report.page import write_report
from diffaug.report.pictures import accepted_cards
from diffaug.report.synthetic import set_page, sets_of
from diffaug.report.tables import comparisons, read_study
from diffaug.study.places import Places
from diffaug.study.sets import select_set
from diffaug.study.study import run_study

CONFIG = StudyConfig(
    seeds=2, size=64, network="unet", widths=(8, 8, 16, 16, 16), iterations=4, batch_size=4, bootstrap=50, workers=1
)


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


@pytest.mark.parametrize("name", ["places.json", "study.json", "cases.csv"])
def test_a_study_whose_link_leads_out_of_its_folder_is_not_read(folders, tmp_path, name):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    (study / name).rename(tmp_path / "outside")
    (study / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=f"no link that leads out of it: .*{name}"):
        write_report(study)


def test_the_page_needs_nothing_but_itself(page):
    assert not page.all("script")
    assert not page.all("link")
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) > 10
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r'(src|href)="(?!data:|#)', page.text)
    assert "url(" not in page.text.split("</style>")[0]


def shown(path, width, folder, *words):
    """Open a page in headless Chromium and return what it prints."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    words = [*quiet.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000", *words]
    command = [chromium, *words, path.as_uri()]
    return subprocess.run(
        command, check=True, timeout=90, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


@pytest.mark.browser
def test_a_browser_shows_the_page_without_leaving_it(folders, page, tmp_path):
    shot = tmp_path / "page.png"
    shown(folders / "study" / "report.html", 900, tmp_path, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=900 * 2000)
    assert picture.size == (900, 2000)
    assert colours is not None and len(colours) > 500  # text, figures and photographs, not an empty or broken page


@pytest.mark.browser
@pytest.mark.parametrize("width", [500, 1280])  # Chromium has no narrower window; the page inside is made 400 px wide
def test_nothing_lies_beside_the_page_on_a_phone_or_a_screen(folders, page, tmp_path, width):
    inner = 400 if width == 500 else width
    frame = (
        f'<iframe id="page" srcdoc="{html.escape(page.text)}" style="width:{inner}px;height:2000px;border:0"></iframe>'
        "<pre id=told></pre><script>document.getElementById('page').onload = event => {"
        "const page = event.target.contentDocument, width = page.documentElement.clientWidth;"
        "const all = [...page.querySelectorAll('body *')];"
        "const wide = all.filter(one => one.getBoundingClientRect().right > width + 1);"
        "document.getElementById('told').textContent = `width ${width}, beside it: ${wide.map(one => one.tagName)}.`}"
        "</script>"
    )
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    told = shown(tmp_path / "frame.html", width, tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    found, beside = re.search(r"width (\d+), beside it: (.*?)\.</pre>", told).groups()
    assert inner - 20 <= int(found) <= inner and beside == ""  # a scroll bar may take some pixels


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
    assert "score under threshold" in page.text and "step 10" not in page.text  # the reason says what decided
    assert "Dice" in page.text
    assert sum("Test case" in image["alt"] for image in page.all("img")) == 5


def test_the_page_names_the_files_that_are_there_and_says_which_cases_are_left_out(folders, page):
    text = re.sub(r"<[^>]*>", "", page.text)
    assert "drawn from summary.csv, cases.csv and funnel.csv beside" in text and "curve.csv" not in text
    alone = re.sub(r"<[^>]*>", "", write_report(folders / "alone").read_text(encoding="utf-8"))
    assert "drawn from summary.csv and cases.csv beside" in alone
    assert "selected leaves out accepted lesions that the network of real finds harder than 90 % of those" in text
    assert "leaves out accepted lesions" not in alone
    assert "No number is bold" in text


def test_a_figure_counts_the_cases_that_have_a_value(folders):
    measured = read_study(folders / "study").measured
    arms = {name: {**group, "missed": {**group["missed"], "n": 77}} for name, group in measured.arms.items()}
    drawn = base64.b64decode(strata_figure(replace(measured, arms=arms)).wide.split(",", 1)[1]).decode()
    assert drawn.count("n = 77") == 1 and f"n = {measured.first['n']} " in drawn


def test_the_same_study_gives_the_same_bytes(folders, page):
    again = write_report(folders / "study", to=folders / "elsewhere" / "again.html")
    assert again == folders / "elsewhere" / "again.html"
    assert again.read_text(encoding="utf-8") == page.text


FOLDS = {"synthetic": ["a/synthetic", "b/synthetic"], "synthetic_of": ["fold 0", "fold 1"], "folds": 2, "draws": [0]}


@pytest.fixture(scope="module")
def two_sets(folders):
    """Two sets with four accepted lesions each, one of them beyond the count, a rejected one, and a negative."""
    sets = [make_synthetic(folders / name / "synthetic", negatives=1, data=folders / "data <b>") for name in "ab"]
    for made in sets:
        rows = list(read_rows(made / MANIFEST))
        rows[3] = replace(rows[3], decision="surplus", reason="kept, beyond the 3 asked for")
        rows[4] = replace(rows[4], reason="looks painted", checks=(Check(10, 0, 0.8, 0.5),))  # the validator agreed
        write_rows(made / MANIFEST, rows)
    return sets


def with_sure_gains(folder, to):
    """Return a copy of a study in which every difference is sure, from 9 groups."""
    study = shutil.copytree(folder, to)
    summary, sure = read_json(study / "summary.json"), {"mean": 0.112, "low": 0.038, "high": 0.189}
    for difference in summary["differences"].values():
        for group in (difference, *difference["strata"].values()):
            for value in group.values():
                if isinstance(value, dict) and value.get("mean") is not None:
                    value |= {**sure, "p": 0.01, "p_holm": 0.01, "groups": 9}
    enough = {"n": 9, "groups": 9, "dice": {"mean": 0.7, "low": 0.6, "high": 0.8}, "precision": sure | {"mean": 0.8}}
    summary["arms"] = {name: {**arm, **enough} for name, arm in summary["arms"].items()}
    write_json(study / "summary.json", summary)
    return study


@pytest.fixture(scope="module")
def folds_page(folders, two_sets):
    """The page of a study by two folds: a synthetic set for each, sure gains, but networks of four iterations."""
    study = with_sure_gains(folders / "study", folders / "folds")
    plan, places = read_json(study / "study.json"), read_json(study / "places.json")
    plan |= FOLDS | {"wanted_draws": [0], "cases": plan["cases"] | {"synthetic": [3, 3]}}
    write_json(study / "study.json", plan)
    write_json(study / "places.json", places | {"synthetic": [str(made) for made in two_sets]})
    return write_report(study).read_text(encoding="utf-8")


def test_a_page_without_a_conclusion_praises_nothing(folds_page):
    assert "+11.2 [+3.8, +18.9]" in folds_page and ">0.010</td>" in folds_page  # the numbers are there
    assert "No conclusion: the networks were trained for 4 iterations</h1>" in folds_page
    assert 'class="n sure"' not in folds_page and "changed mean Dice" not in folds_page
    assert "rescued" not in folds_page and 'id="changes"' not in folds_page


def test_a_study_of_one_arm_is_reported_without_a_comparison(folders):
    text = write_report(folders / "alone").read_text(encoding="utf-8")
    assert "Nothing was compared" in text
    assert 'id="funnel"' not in text


def test_the_page_is_made_when_the_images_of_the_data_set_are_gone(folders, tmp_path):
    shutil.copytree(folders / "alone", tmp_path / "study")
    plan = tmp_path / "study" / "study.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace("data <b>", "gone"), encoding="utf-8")
    assert "none can be shown" in write_report(tmp_path / "study").read_text(encoding="utf-8")


def test_no_place_of_this_machine_stands_in_what_is_shared(folders, page):
    place = str(folders)
    assert place in (folders / "study" / "places.json").read_text()
    for path in (folders / "study").rglob("*"):
        if path.is_file() and path.name != "places.json":
            assert place.encode() not in path.read_bytes(), path
    assert "data &lt;b&gt;" in page.text


def test_a_study_without_its_places_is_reported_without_images(folders, tmp_path):
    study = shutil.copytree(folders / "alone", tmp_path / "study")
    (study / "places.json").unlink()
    assert "none can be shown" in write_report(study).read_text(encoding="utf-8")


@pytest.mark.parametrize("torn", ["", "\0" * 300, "some"])
def test_a_data_set_that_is_torn_or_lacks_tested_cases_is_told(folders, tmp_path, torn):
    study = shutil.copytree(folders / "alone", tmp_path / "study")
    data = shutil.copytree(folders / "data <b>", tmp_path / "data <b>")
    lines = (data / "cases.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    first = [line for line in lines if not line.startswith("test-0")]
    (data / "cases.csv").write_text("".join(first) if torn == "some" else torn, encoding="utf-8")
    places = read_json(study / "places.json")
    write_json(study / "places.json", {**places, "data": str(data)})
    with pytest.raises(DataError) as told:
        write_report(study)
    assert torn != "some" or "such as test-0; restore the data set, or remove" in str(told.value)
    (study / "places.json").unlink()
    assert "none can be shown" in write_report(study).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["/etc/passwd", "../data <b>/images/test-0.png", "predictions/run.sh"])
def test_a_prediction_outside_the_study_is_not_shown(folders, tmp_path, path):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    rows = (study / "cases.csv").read_text(encoding="utf-8")
    (study / "cases.csv").write_text(rows.replace("predictions/real-0/00000.png", path), encoding="utf-8")
    with pytest.raises(DataError, match=r"a prediction in cases\.csv is"):
        write_report(study, None, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("change", [{"arms": 3}, {"arms": {"real": {"dice": []}}}, {"differences": []}])
def test_a_summary_of_other_types_is_one_line(folders, tmp_path, change):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    write_json(study / "summary.json", read_json(study / "summary.json") | change)
    with pytest.raises(DataError) as error:
        write_report(study)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "table", "line"),
    [
        ("summary.csv", "arm,against\n", "these tables have 0"),
        ("curve.csv", "annotated,arm\n" + "".join(f"1,arm-{number}\n" for number in range(101)), "of 100 arms"),
        ("costs.csv", "draw\n" + "1\n" * 1001, "1,000 rows"),
        ("costs.csv", "a\n1\n", "are damaged"),
        ("training.csv", "minutes\n3\n", "are damaged"),
    ],
)
def test_a_table_that_no_study_writes_is_one_line(folders, tmp_path, name, table, line):
    study = shutil.copytree(folders / "study", tmp_path / "study")
    (study / name).write_text(table, encoding="utf-8")
    with pytest.raises(DataError, match=line):
        write_report(study)


def test_an_unfinished_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"no summary\.json"):
        write_report(tmp_path)
    with pytest.raises(StudyError, match=r"nowhere does not exist; check the path"):
        write_report(tmp_path / "nowhere")
    write_json(make_folder(tmp_path / "folds" / "nall") / "summary.json", {})
    with pytest.raises(StudyError, match=r"those of .*folds lie in .*nall; name it"):
        write_report(tmp_path / "folds")


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
    assert "from another set by `diffaug select`: it holds 2 of" in page and "what became of the requests" not in page
    assert page.count('alt="Close-up of the painted lesion') == 2
    assert not (tmp_path / "funnel.csv").exists()


def test_copies_that_an_audit_found_are_not_chosen(folders, tmp_path):
    synthetic, study = folders / "synthetic", folders / "study"
    rows = accepted(read_manifest(synthetic))
    (tmp_path / "audit").mkdir()
    write_copies(tmp_path / "audit", synthetic, len(rows), [Copy(rows[0].id, rows[0].id, "train-0", 0.9, 1.0)])
    found = select_set(synthetic, tmp_path / "out", study, CONFIG.select, without_copies=tmp_path / "audit")
    assert found.copies == 1 and rows[0].id not in {row.id for row in read_manifest(tmp_path / "out")}
    write_copies(tmp_path / "audit", synthetic, len(rows), [Copy(row.id, row.id, "train-0", 0.9, 1.0) for row in rows])
    with pytest.raises(StudyError, match="are copies; paint with a larger"):
        select_set(synthetic, tmp_path / "none", study, CONFIG.select, without_copies=tmp_path / "audit")
    assert not (tmp_path / "none").exists()


def test_an_audit_shows_the_verdict_of_a_study_of_its_set_alone(folders, tmp_path):
    audit_set(folders / "synthetic", tmp_path / "audit", study=folders / "study")
    assert read_json(tmp_path / "audit" / "audit.json")["usefulness"]["title"]
    other = shutil.copytree(folders / "synthetic", tmp_path / "other")
    write_rows(other / MANIFEST, list(read_rows(other / MANIFEST))[::-1])
    with pytest.raises(StudyError, match="is of another set"):
        audit_set(other, tmp_path / "second", study=folders / "study")
    assert not (tmp_path / "second").exists()
    damaged = shutil.copytree(folders / "study", tmp_path / "study")
    write_json(damaged / "summary.json", {})
    with pytest.raises(DataError, match=r"are damaged .KeyError: 'arms'"):
        audit_set(folders / "synthetic", tmp_path / "third", study=damaged)


def test_the_funnel_is_drawn_from_its_table(folders, page):
    table = (folders / "study" / "funnel.csv").read_text(encoding="utf-8").splitlines()
    assert table == ["size,requested,stopped,rejected,kept,surplus,joined", "medium,5,0,1,4,0,0"]


def test_the_sets_of_all_folds_are_counted_together_and_each_picture_says_its_fold(folders, two_sets, tmp_path):
    sets = sets_of(Places(synthetic=[str(made) for made in two_sets]), FOLDS)
    assert sets == dict(zip(("fold 0", "fold 1"), two_sets, strict=True))
    assert set(sets_of(Places(synthetic=["gone", str(two_sets[1])]), FOLDS)) == {"fold 1"}
    found = set_page(sets, FOLDS, tmp_path / "funnel.csv")
    assert found.lesions == Counts(requested=10, rejected=2, kept=6, surplus=2)  # as many as cases.csv has, and no more
    assert (found.negatives, found.requested, found.studied) == (2, 12, 2)
    assert [name for name, _ in found.bins] == ["medium", "all lesions", "negatives", "all"]
    told = (tmp_path / "funnel.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert told == ["medium,10,0,2,6,2,0", "negatives,2,0,0,2,0,0"]
    assert {card.of for card in found.accepted} == {card.of for card in found.refused} == {"fold 0", "fold 1"}
    assert found.seconds_per_kept == 3.0  # 9 seconds for each set


def test_a_negative_shows_what_was_painted_and_no_empty_mask(folders, two_sets, tmp_path):
    found = set_page({"a": two_sets[0]}, {}, tmp_path / "funnel.csv")
    (negative,) = [card for card in found.accepted if card.row.request.negative]
    assert negative.outlined and negative.plain != negative.outlined
    label = two_sets[0] / negative.row.mask
    Image.new("L", (48, 40)).save(label)  # nothing else is in the frame
    (negative,) = [card for card in accepted_cards({"a": read_manifest(two_sets[0])}) if card.row.request.negative]
    assert negative.mask == "" and negative.outlined


def test_a_page_of_several_sets_says_which_and_how_many_cases_its_folds_hold(folds_page):
    assert "study of 5 annotated cases in 2 folds</p>" in folds_page and "tested on 5" not in folds_page
    assert "the 12 requests of 2 synthetic sets together (<strong>fold 0; fold 1</strong>)" in folds_page
    tile = "Kept lesion cases, 2 sets</dt><dd>6<small>of 10 requests for a lesion, and 2 negatives</small>"
    assert tile in folds_page
    assert "The numbers of training cases are those of the first fold." in folds_page
    assert '<span class="tag">fold 1</span><span class="tag">negative</span>' in folds_page
    assert "looks painted</p>" in folds_page and "score 0.80</p>" not in folds_page
    assert ", limit 0.50</p>" in folds_page
    assert "lesions pasted while training" in folds_page


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
    write_csv(folders / "ratios" / "costs.csv", [costs | {"kept": 10, "negatives": 4, "generate_seconds": 20.0}], COSTS)
    return folders / "ratios"


COSTS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "negatives",
    "generate_seconds",
)  # fmt: skip


def test_the_table_holds_what_the_summary_says(ratios):
    study = read_study(ratios)
    for kind in ("arms", "differences"):
        found, table = getattr(study.results, kind), getattr(study.measured, kind)
        assert list(table) == list(found)
        for name, group in table.items():
            assert group["dice"] == {key: found[name]["dice"][key] for key in ("mean", "low", "high", "n", "groups")}
            assert group["strata"]["small"]["missed"]["mean"] == found[name]["strata"]["small"]["missed"]["mean"]
            assert group["n"] == 5


@pytest.fixture(scope="module")
def ratios_page(ratios):
    return write_report(ratios).read_text(encoding="utf-8")


def test_the_page_has_the_curve_the_ratios_and_what_each_stage_cost(ratios_page):
    text, page = ratios_page, Page(ratios_page)
    assert {"curve", "ratio", "funnel"} <= {section["id"] for section in page.all("section")}
    assert "0.250 [0.200, 0.333]" in text  # a row of curve.csv
    assert '<td data-label="Per kept case, s">2.0</td></tr>' in text  # seconds per kept case of costs.csv
    assert "Dice, validated against copy-paste" in text


def test_a_figure_follows_its_table(ratios, ratios_page, tmp_path):
    study = shutil.copytree(ratios, tmp_path / "study")
    table = (study / "summary.csv").read_text(encoding="utf-8").splitlines()
    head, line = table[0], next(line for line in table if line.startswith("validated@0.5,real,all,dice,"))
    cells = dict(zip(head.split(","), line.split(","), strict=True)) | {"mean": "0.4", "low": "0.3", "high": "0.5"}
    (study / "summary.csv").write_text(
        "\n".join(",".join(cells.values()) if one == line else one for one in table) + "\n", encoding="utf-8"
    )
    after = write_report(study).read_text(encoding="utf-8")

    def figure(text):
        return next(image["src"] for image in Page(text).all("img") if "for each real one" in image["alt"])

    assert figure(ratios_page) != figure(after)


def test_arms_that_have_a_ratio_each_are_all_drawn(ratios):
    results = read_study(ratios).results
    alone = replace(results, arms={"validated@0.5": results.arms["validated@0.5"]})
    drawn = strata_figure(alone).wide.split(",", 1)[1]
    assert "validated@0.5" in base64.b64decode(drawn).decode()


def test_repeated_frames_that_were_allowed_and_a_short_budget_are_said(ratios, ratios_page, tmp_path):
    study = shutil.copytree(ratios, tmp_path / "study")
    plan = read_json(study / "study.json")
    assert "Not a clean test" not in ratios_page
    plan |= {"duplicates": [["test-1", "train-2"]], "draws": [0], "wanted_draws": [0, 1, 2]}
    write_json(study / "study.json", plan)
    text = write_report(study).read_text(encoding="utf-8")
    assert "Not a clean test:" in text and "test-1 = train-2" in text
    assert "enough for 1 of 3 draws" in text


def test_relative_changes_and_other_arms_are_compared_with_corrected_p_values(ratios):
    results = read_study(ratios).results
    rows = {row.label: row for row in comparisons(results, "validated")}
    assert rows["Relative change, pixels not found, all lesions"].n == results.arms["real"]["n"]
    assert not rows["Dice, validated against copy-paste"].relative
    small = results.difference("validated", "real")["strata"]["small"]
    row = rows["Relative change, pixels not found, small lesions"]
    assert row.relative and row.n == small["n"] and row.p == small["false_negative_rate"]["p_holm"]
    assert comparisons(results, None) == []


def test_rescued_and_lost_cases_stand_side_by_side(folders, tmp_path):
    study = with_sure_gains(folders / "study", tmp_path / "study")
    plan = read_json(study / "study.json")
    write_json(study / "study.json", plan | {"config": plan["config"] | {"iterations": 4000}})
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
    assert page.count('class="n sure"') > 9  # of tables of differences with a conclusion
    rescued, lost = page.index("<h3>Rescued</h3>"), page.index("<h3>Lost</h3>")
    assert rescued < page.index("<strong>test-0</strong> Dice 0.10 → 0.90") < lost
    assert lost < page.index("<strong>test-1</strong> Dice 0.90 → 0.10")


def test_the_date_of_a_page_can_be_set_so_that_two_pages_are_equal(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    pages = [write_report(folders / "alone", to=tmp_path / f"{name}.html").read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1] and b"written on 2001-09-09." in pages[0]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is a number of seconds since 1970: it is 'yesterday'"):
        write_report(folders / "alone", to=tmp_path / "three.html")
    assert not (tmp_path / "three.html").exists()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    text = write_report(folders / "alone", to=tmp_path / "four.html").read_text(encoding="utf-8")
    assert re.search(r"written on \d{4}-\d\d-\d\d\.", text)
