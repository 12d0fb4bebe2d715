"""Laws of an audit: a set of copies is all copies, a new one is not, and what is torn or leaks is named."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_folders import row_of

from diffaug.artifacts import read_json
from diffaug.audit.audit import audit_set
from diffaug.audit.diagnosis import diagnose
from diffaug.audit.lesions import audited_rows, real_lesions
from diffaug.audit.painted import Measured
from diffaug.audit.privacy import ALPHA, Likeness, limits_of
from diffaug.audit.quality import attributes_of
from diffaug.cli.main import main
from diffaug.conditioning.attributes import measure_attributes
from diffaug.data.copies import copied_pictures
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import MANIFEST, SyntheticSet, read_manifest, read_rows, write_rows
from diffaug.errors import ConfigError, DataError, DiffaugError, StudyError
from diffaug.export.export import export_set


@pytest.fixture(scope="module")
def audits(lesion_data, copied, fresh, tmp_path_factory):
    """The folders of an audit of a set of copies and of a set of new lesions."""
    folder = tmp_path_factory.mktemp("audits")
    for name, synthetic in (("copied", copied), ("fresh", fresh)):
        audit_set(synthetic, folder / name, lesion_data)
    return folder


def test_a_set_of_training_lesions_is_all_copies_of_them(audits):
    found = read_json(audits / "copied" / "audit.json")["privacy"]
    assert found["copy_share"] == found["copy_share_low"] == 1.0 and found["from_example"] == 1.0
    assert found["control_recall"] >= 0.9 and set(found["control"]) == {
        "flipped", "moved", "saved as JPEG", "resized", "lighter or darker",
    }  # fmt: skip


def test_a_set_of_new_lesions_has_about_the_rate_of_false_alarms(audits):
    found = read_json(audits / "fresh" / "audit.json")
    assert found["privacy"]["copy_share"] <= 0.25 and found["privacy"]["copy_share_low"] <= ALPHA
    assert found["diagnosis"]["passed"] and all(check["passed"] for check in found["diagnosis"]["checks"])


def test_each_score_has_its_best_value_beside_it_and_lies_in_its_interval(audits):
    found = read_json(audits / "fresh" / "audit.json")
    scores = {one["name"]: one for one in (*found["quality"]["scores"], *found["privacy"]["scores"])}
    assert {"kernel distance", "precision", "recall", "density", "coverage", "seam", "sharpness", "copies"} <= set(
        scores
    )
    for one in scores.values():
        assert one["best"] is not None, one
        assert one["low"] is None or one["low"] <= one["value"] <= one["high"], one
    assert {row["name"].split(":")[0] for row in found["quality"]["places"]} >= {"across", "down", "size", "number"}


@pytest.mark.slow
def test_the_order_of_rows_and_the_format_of_pictures_do_not_matter(audits, copied, lesion_data, tmp_path):
    changed = shutil.copytree(copied, tmp_path / copied.name)
    rows = read_rows(changed / MANIFEST)
    Image.open(changed / rows[0].image).save(changed / rows[0].image, compress_level=0)
    write_rows(changed / MANIFEST, [replace(row, image_digest="") for row in reversed(rows)])
    audit_set(changed, tmp_path / "audit", lesion_data)
    before, after = (read_json(folder / "audit.json") for folder in (audits / "copied", tmp_path / "audit"))
    for name in ("copy_share", "copies", "control", "limits", "held_out", "from_example"):
        assert before["privacy"][name] == after["privacy"][name]
    for one, other in zip(before["quality"]["scores"], after["quality"]["scores"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-3)
    lacking = [check for check in after["diagnosis"]["checks"] if check["wrong"]]
    assert [check["findings"] for check in lacking] == [["the manifest lacks digests of files"]]


@pytest.mark.slow
def test_a_damaged_set_is_audited_without_its_torn_pictures(fresh, lesion_data, tmp_path, monkeypatch):
    monkeypatch.setattr("diffaug.audit.audit.FEWEST", 6)
    torn = shutil.copytree(fresh, tmp_path / "set")
    path = torn / "shards/00000/images/synth-00003.png"
    path.write_bytes(path.read_bytes()[:200])
    found = audit_set(torn, tmp_path / "audit", lesion_data)
    assert found.lesions["painted"] == 7 and "Places are not measured" in " ".join(found.notices)
    assert "The set is damaged" in (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")


def test_lesions_that_nobody_trains_on_are_not_audited():
    decisions = ("kept", "surplus", "rejected", "kept", "joined", "joined")
    rows = [row_of(number, ("a", "b"), decision=decision, image="a.png") for number, decision in enumerate(decisions)]
    rows[4] = replace(rows[4], image="", shown_in=rows[0].id)
    rows[5] = replace(rows[5], image="", shown_in=rows[1].id)
    made = SyntheticSet(Path("set"), tuple(rows))
    assert [row.id for row in audited_rows(made)] == [rows[place].id for place in (0, 3, 4)]
    assert [row.id for row in audited_rows(made, frozenset({rows[0].id}))] == [rows[3].id]


def test_a_torn_file_is_in_the_diagnosis(fresh, tmp_path):
    torn = shutil.copytree(fresh, tmp_path / "set")
    path = torn / "shards/00000/images/synth-00003.png"
    path.write_bytes(path.read_bytes()[:200])
    (torn / "shards/00000/masks/synth-00004.png").unlink()
    found = audit_set(torn, tmp_path / "audit")
    assert found.diagnosis.damaged == {"synth-00003", "synth-00004"} and not found.diagnosis.passed
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "The set is damaged" in page and "synth-00003.png is not the file" in page


def test_a_picture_of_a_test_image_and_a_source_that_is_tested_are_found(fresh, lesion_cases, tmp_path):
    leaking = shutil.copytree(fresh, tmp_path / "set")
    rows = list(read_rows(leaking / MANIFEST))
    Image.fromarray(lesion_cases["test-3"].read_image()[:, ::-1].copy()).save(leaking / rows[2].image)
    rows[2] = replace(rows[2], image_digest="", request=replace(rows[2].request, background="test-3"))
    write_rows(leaking / MANIFEST, rows)
    found = {each.name: each for each in diagnose(read_manifest(leaking), lesion_cases).outcomes}
    assert found["no picture repeats a test image"].findings == ("synth-00002 shows test test-3",)
    assert "test-3, which is in split test" in found["sources are training cases"].findings[0]


def test_without_a_data_set_only_the_files_are_examined(fresh, tmp_path, capsys):
    main(["audit", str(fresh), str(tmp_path / "audit")])
    told = capsys.readouterr().out
    assert "files are those that were written: passed" in told and "sources are training cases: not checked" in told
    found = read_json(tmp_path / "audit" / "audit.json")
    assert found["privacy"] is None and not (tmp_path / "audit" / "copies.json").exists()
    with pytest.raises(DataError, match=r"looked for none; its audit\.html says what was missing"):
        copied_pictures(tmp_path / "audit", fresh)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no copies\.json; run `diffaug audit .* --with DATA` first"):
        copied_pictures(tmp_path / "empty", fresh)


@pytest.mark.slow
def test_copies_among_very_few_painted_lesions_are_found_though_quality_is_not_measured(copied, lesion_data, tmp_path):
    few = shutil.copytree(copied, tmp_path / copied.name)
    rows = read_rows(few / MANIFEST)
    write_rows(
        few / MANIFEST, [replace(row, decision="kept" if place < 2 else "surplus") for place, row in enumerate(rows)]
    )
    found = audit_set(few, tmp_path / "audit", lesion_data)
    assert found.lesions["painted"] == 2 and not found.quality and not found.attributes
    assert "Quality needs 8 painted lesions: there are 2" in " ".join(found.notices)
    assert copied_pictures(tmp_path / "audit", few) == {rows[0].id, rows[1].id}


def test_the_page_needs_no_network_escapes_names_and_has_a_text_for_each_picture(audits):
    text = (audits / "copied" / "audit.html").read_text(encoding="utf-8")
    assert "set &lt;b&gt;" in text and "set <b>" not in text and "<script" not in text
    assert (
        not re.search(r'(src|href)="(?!data:|#)', text)
        and "prefers-color-scheme: dark" in text
        and "@media print" in text
    )
    assert all('alt="' in picture for picture in re.findall(r"<img[^>]*>", text))


def test_the_page_says_which_lesions_set_the_limits_and_why_a_single_measure_may_find_more(audits):
    text = (audits / "copied" / "audit.html").read_text(encoding="utf-8")
    assert (
        "with 16 real lesions: 8 that are held out from training, and, since these are few, 8 training lesions" in text
    )
    assert "together each gets half of that, 2.5 %, so the first share can be smaller" in text
    assert "held-out real lesions are, by" not in text


def test_grey_images_have_no_attributes_of_colour(lesion_cases):
    lesions = real_lesions(lesion_cases.annotated("train"))
    painted = Measured([list(asdict(measure_attributes(one.image, one.mask)).values()) for one in lesions])
    painted.groups = [one.group for one in lesions]
    grey = [replace(one, image=one.image[..., :1].repeat(3, axis=2)) for one in lesions]
    of_colour = {"redness contrast", "colour contrast"}
    assert of_colour < {each.name for each in attributes_of(painted, lesions)}
    assert not of_colour & {each.name for each in attributes_of(painted, grey)}


def test_the_same_audit_again_changes_nothing_and_another_is_refused(copied, fresh, tmp_path):
    again = tmp_path / "audit"
    audit_set(copied, again)
    before = {path.name: path.read_bytes() for path in again.iterdir()}
    audit_set(copied, again)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before
    with pytest.raises(ConfigError):
        audit_set(fresh, again)


# Copies are left out


def test_an_export_leaves_copies_out_and_says_so(audits, copied, fresh, lesion_data, tmp_path):
    decisions = json.loads((audits / "copied" / "copies.json").read_text())
    (tmp_path / "audit").mkdir()
    decisions["copies"] = [one for one in decisions["copies"] if one["picture"] in ("synth-00001", "synth-00007")]
    (tmp_path / "audit" / "copies.json").write_text(json.dumps(decisions))
    found = export_set(copied, tmp_path / "out", "folder", without_copies=tmp_path / "audit")
    assert "pictures that show copies of training lesions are left out: 2" in found.notices
    left = {case.id for case in read_dataset(tmp_path / "out")} if (tmp_path / "out" / "cases.csv").is_file() else set()
    names = left or {path.stem for path in (tmp_path / "out").rglob("*.png")}
    assert not any("00001" in name or "00007" in name for name in names) and any("00002" in name for name in names)
    with pytest.raises(DataError, match="has none that is wanted"):
        export_set(copied, tmp_path / "none", "folder", without_copies=audits / "copied")
    with pytest.raises(DataError, match="is of another one"):
        export_set(fresh, tmp_path / "other", "folder", without_copies=audits / "copied")
    assert not (tmp_path / "none").exists() and not (tmp_path / "other").exists()


def test_an_export_refuses_a_test_image_that_is_trained_on(fresh, lesion_data, tmp_path):
    from study_folders import write_provenance

    data = shutil.copytree(lesion_data, tmp_path / "data")
    image = np.asarray(Image.open(data / "images/train-2.png"))[4:90, 2:94]
    Image.fromarray(np.ascontiguousarray(image[:, ::-1])).save(data / "images/test-5.png")
    mask = Image.open(data / "masks/train-2.png").crop((2, 4, 94, 90))
    mask.save(data / "masks/test-5.png")
    made = shutil.copytree(fresh, tmp_path / "set")
    write_provenance(made, data)
    with pytest.raises(StudyError, match="test-5 = train-2"):
        export_set(made, tmp_path / "out", "folder", data)
    found = export_set(made, tmp_path / "out", "folder", data, allow_duplicates=True)
    assert any("repeat one of train: " in notice for notice in found.notices)


def test_a_damaged_file_of_decisions_is_one_line(audits, copied, tmp_path):
    for text in ("{}", "[]", '{"manifest": 3', '{"manifest": "x", "audited": 1, "copies": [{"request": "../x"}]}'):
        (tmp_path / "copies.json").write_text(text)
        with pytest.raises(DiffaugError) as error:
            copied_pictures(tmp_path, copied)
        assert "\n" not in str(error.value)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "copies.json").symlink_to(audits / "copied" / "copies.json")
    with pytest.raises(DataError, match="leads out of the folder by a link"):
        copied_pictures(tmp_path / "audit", copied)


# The limits


def test_at_most_one_in_twenty_fresh_lesions_is_beyond_limits_of_held_out_ones():
    rng = np.random.default_rng(0)

    def drawn(count):
        return [Likeness(*rng.normal((30, 0.5), (3, 0.1)), 0) for _ in range(count)]

    alarms = []
    for _ in range(100):
        limits = limits_of(drawn(79))
        assert limits.false_alarms == ALPHA
        alarms.append(np.mean([limits.is_copy(one) for one in drawn(60)]))
    assert 0.03 < np.mean(alarms) <= 0.055


def test_limits_do_not_depend_on_order_and_two_lesions_have_some():
    found = [Likeness(float(n), n / 10, 0) for n in range(1, 9)]
    assert limits_of(found) == limits_of(found[::-1])
    assert limits_of(found[:2]).is_copy(Likeness(0.5, 0.0, 0)) and not limits_of(found[:2]).is_copy(found[0])


@pytest.mark.slow
def test_averages_over_a_part_of_the_lesions_say_so_and_copies_are_those_of_all(
    audits, copied, lesion_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("diffaug.audit.painted.MOST_COMPARED", 7)
    found = audit_set(copied, tmp_path / "audit", lesion_data).as_dict()
    whole = read_json(audits / "copied" / "audit.json")
    assert (found["lesions"]["painted"], found["lesions"]["compared"], whole["lesions"]["compared"]) == (8, 7, 8)
    assert "on 7 of the 8 painted lesions" in (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert not any("of the 8 painted" in line for line in whole["notices"])
    assert (tmp_path / "audit" / "copies.json").read_bytes() == (audits / "copied" / "copies.json").read_bytes()
    assert found["privacy"]["copy_share"] == whole["privacy"]["copy_share"]
    assert found["quality"]["attributes"] != whole["quality"]["attributes"]
