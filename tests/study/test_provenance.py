import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from study_folders import make_dataset, make_synthetic, write_provenance

from diffaug.artifacts import read_json, write_csv, write_json
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_rows, write_rows
from diffaug.data.seen import NOTHING, SEEN_FILE, Seen, write_seen
from diffaug.errors import StudyError
from diffaug.report.page import write_report
from diffaug.study.inputs import read_inputs, read_set
from diffaug.study.provenance import check_provenance, check_repeated, repeated_frames, shared_groups
from diffaug.study.study import run_study


@pytest.mark.parametrize(("source", "where"), [("test-1", "in split test"), ("elsewhere-3", "not in the data set")])
def test_a_synthetic_set_that_saw_other_than_training_cases_is_refused_by_name(tmp_path, dataset, source, where):
    folder = make_synthetic(tmp_path / "leak", sources=("train-0", source))
    with pytest.raises(StudyError, match=rf"synth-00000 of .*leak uses case {source}, which is {where}"):
        check_provenance(read_set(folder), read_dataset(dataset))


def move(dataset, case, split):
    rows = list(csv.DictReader((dataset / "cases.csv").read_text(encoding="utf-8").splitlines()))
    for row in rows:
        if row["id"] == case:
            row["split"] = split
            row["mask"] = "" if split == "unannotated" else row["mask"]
    with (dataset / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_an_unannotated_source_is_refused(dataset, synthetic):
    move(dataset, "train-1", "unannotated")
    with pytest.raises(StudyError, match="train-1, which is in split unannotated"):
        read_inputs(dataset, [synthetic], ["test"])


def test_a_rejected_row_is_checked_too(dataset, synthetic):
    *rows, last = read_rows(synthetic / "manifest.jsonl")
    moved = replace(last, request=replace(last.request, mask_case="test-0"))
    write_rows(synthetic / "manifest.jsonl", [*rows, moved])
    with pytest.raises(StudyError, match="test-0"):
        read_inputs(dataset, [synthetic], ["test"])


def test_a_model_that_was_fitted_on_a_test_image_is_refused_by_its_digest(dataset, synthetic):
    move(dataset, "train-5", "test")  # no row of the set names it
    with pytest.raises(StudyError, match=r"fitted on train-5, which is case train-5 in split test"):
        read_inputs(dataset, [synthetic], ["test"])


def test_a_training_image_that_is_also_tested_on_is_a_matter_of_repeated_frames(tmp_path, dataset, synthetic):
    shutil.copy(dataset / "images" / "train-5.png", dataset / "images" / "test-1.png")
    with pytest.raises(StudyError, match=r"test-1 = train-5 show the same frame.*--allow-duplicates"):
        run_study(dataset, tmp_path / "study", [synthetic], StudyConfig(batch_size=4))
    check_provenance(read_set(synthetic), read_dataset(dataset))


def test_a_patient_of_the_oracle_is_not_tested_on(tmp_path, dataset):
    full = make_dataset(tmp_path / "full")
    table = full / "cases.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("masks/train-1.png,train-1,", "masks/train-1.png,test-2,"), encoding="utf-8")
    config = StudyConfig(arms=("real", "oracle"), batch_size=4)
    with pytest.raises(StudyError, match=r"between training and test: test-2 lies in both"):
        run_study(dataset, tmp_path / "study", [], config, oracle=full)


def test_a_model_that_was_fitted_on_unannotated_training_images_is_fine(dataset, synthetic):
    move(dataset, "train-5", "unannotated")
    told = read_json(synthetic / "provenance.json")
    del told["cases"]["train-5"]
    write_json(synthetic / "provenance.json", told)
    assert len(read_inputs(dataset, [synthetic], ["test"]).train) == 5


def test_a_model_that_was_fitted_on_more_annotations_than_real_has_is_refused(dataset, synthetic):
    move(dataset, "train-4", "unannotated")
    move(dataset, "train-5", "unannotated")
    with pytest.raises(StudyError, match=r"fitted on 2 that are not of this data set's .*, such as train-4"):
        read_inputs(dataset, [synthetic], ["test"])


def test_a_model_that_was_fitted_on_another_mask_of_a_training_image_is_refused(dataset, synthetic):
    shutil.copy(dataset / "masks" / "train-1.png", dataset / "masks" / "train-3.png")
    with pytest.raises(StudyError, match=r"fitted on 1 .*such as train-3"):
        read_inputs(dataset, [synthetic], ["test"])


def test_a_set_that_does_not_say_what_its_model_saw_is_refused(dataset, synthetic):
    (synthetic / "provenance.json").unlink()
    with pytest.raises(StudyError, match=r"no provenance\.json"):
        read_inputs(dataset, [synthetic], ["test"])


def photograph(path, seed, shift=0):
    """Write a frame with structure of its own, which a fingerprint can tell from others."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 220, (12, 12, 3), dtype=np.uint8)).resize((40, 56))
    Image.fromarray((np.asarray(coarse).astype(int) + shift).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def repeating(dataset):
    """A data set whose test-2 is train-2 a little brighter."""
    for name, seed, shift in (("train-2", 1, 0), ("test-2", 1, 9), ("train-4", 2, 0), ("test-4", 3, 0)):
        photograph(dataset / "images" / f"{name}.png", seed, shift)
    return dataset


def test_test_images_that_are_nearly_training_images_are_found_by_name(repeating):
    data = read_dataset(repeating)
    assert repeated_frames(data.split("train"), data.split("test")) == [("test-2", "train-2")]
    with pytest.raises(StudyError, match=r"test-2 = train-2 show the same frame; .*--allow-duplicates"):
        check_repeated([("test-2", "train-2")], allowed=False)


def test_many_repeated_frames_are_counted():
    with pytest.raises(StudyError, match="and 3 more"):
        check_repeated([(f"test-{index}", f"train-{index}") for index in range(8)], allowed=False)


def test_a_repeated_frame_stops_a_study_unless_it_is_allowed_and_then_it_is_said(tmp_path, repeating):
    config = StudyConfig(
        arms=("real",), size=64, network="unet", widths=(8,) * 5, iterations=2, batch_size=4, workers=1, bootstrap=20
    )
    with pytest.raises(StudyError, match="test-2 = train-2"):
        run_study(repeating, tmp_path / "out", [], config)
    assert not (tmp_path / "out").exists()
    run_study(repeating, tmp_path / "out", [], config, allow_duplicates=True)
    assert read_json(tmp_path / "out" / "study.json")["duplicates"] == [["test-2", "train-2"]]


def regroup(dataset, *cases):
    """Declare that some cases are of one patient."""
    rows = list(csv.DictReader((dataset / "cases.csv").read_text(encoding="utf-8").splitlines()))
    write_csv(
        dataset / "cases.csv", [row | ({"group": "p1"} if row["id"] in cases else {}) for row in rows], list(rows[0])
    )


def test_a_group_in_training_and_test_stops_a_study_unless_it_is_allowed_and_then_it_is_said(tmp_path, dataset):
    regroup(dataset, "train-1", "test-3")
    config = StudyConfig(
        arms=("real",), size=64, network="unet", widths=(8,) * 5, iterations=2, batch_size=4, workers=1, bootstrap=20
    )
    with pytest.raises(StudyError, match=r"p1 lies in both; .*--allow-duplicates"):
        run_study(dataset, tmp_path / "out", [], config)
    assert not (tmp_path / "out").exists()
    run_study(dataset, tmp_path / "out", [], config, allow_duplicates=True)
    assert read_json(tmp_path / "out" / "study.json")["shared_groups"] == ["p1"]
    assert "1 group lies both in training and in test (p1)" in write_report(tmp_path / "out").read_text(
        encoding="utf-8"
    )


def test_groups_of_two_data_sets_may_share_their_names(tmp_path, dataset):
    regroup(dataset, "train-1")
    other = make_dataset(tmp_path / "other", train=0, test=5, seed=3)
    regroup(other, "test-3")
    inputs = read_inputs(dataset, [], [str(other)])
    assert shared_groups(inputs.dataset, inputs.test) == []


def test_an_unannotated_image_of_a_tested_patient_is_found(dataset):
    regroup(dataset, "train-1", "test-3")
    move(dataset, "train-1", "unannotated")
    inputs = read_inputs(dataset, [], ["test"])
    assert shared_groups(inputs.dataset, inputs.test) == ["p1"]


def test_a_test_image_among_the_unannotated_ones_is_found(repeating):
    move(repeating, "train-2", "unannotated")
    shutil.copy(repeating / "images" / "test-2.png", repeating / "images" / "train-2.png")
    inputs = read_inputs(repeating, [], ["test"])
    assert repeated_frames(inputs.seen(), inputs.test) == [("test-2", "train-2")]


SHORT = StudyConfig(
    arms=("real", "validated"),
    size=64,
    network="unet",
    widths=(8,) * 5,
    iterations=2,
    batch_size=4,
    workers=1,
    bootstrap=20,
)


def seen_before(dataset, synthetic, *cases, annotated=False):
    """Say that the base of a set's painter has seen some images."""
    images = [case.read_image() for case in read_dataset(dataset).cases if case.id in cases]
    base = Seen.of(images, []) if annotated else Seen.of([], images)
    write_seen(synthetic, NOTHING.then(base).then(Seen.of([], [])))


def report_of(out):
    return " ".join(write_report(out).read_text(encoding="utf-8").split())


def test_test_images_that_the_base_has_seen_are_counted_and_said(tmp_path, repeating, synthetic):
    write_provenance(synthetic, repeating)
    run_study(repeating, tmp_path / "clean", [synthetic], SHORT, allow_duplicates=True)
    assert read_json(tmp_path / "clean" / "summary.json")["base_seen"]["unannotated"] == 0
    assert "Seen before" not in report_of(tmp_path / "clean")
    seen_before(repeating, synthetic, "test-4")
    summary = run_study(repeating, tmp_path / "out", [synthetic], SHORT, allow_duplicates=True)
    assert summary["base_seen"] == {"known": True, "of": 5, "unannotated": 1, "annotated": 0}
    assert read_json(tmp_path / "out" / "study.json")["base_seen"]["unannotated"] == ["test-4"]
    page = report_of(tmp_path / "out")
    assert "base model was trained on 1 of the 5 test images, unannotated." in page
    assert "the images that the base model has seen" in page


def test_a_base_that_does_not_say_what_it_has_seen_is_said(tmp_path, dataset, synthetic):
    (synthetic / SEEN_FILE).unlink()
    summary = run_study(dataset, tmp_path / "out", [synthetic], SHORT)
    assert summary["base_seen"]["known"] is False
    assert "is not recorded" in report_of(tmp_path / "out")


def test_without_painted_cases_no_base_is_told_of(tmp_path, dataset):
    summary = run_study(dataset, tmp_path / "out", [], SHORT.model_copy(update={"arms": ("real",)}))
    assert summary["base_seen"] is None
    assert "No test image was used to train or to choose anything. No annotations" in report_of(tmp_path / "out")


def test_a_test_image_that_was_annotated_for_the_base_is_refused(tmp_path, repeating, synthetic):
    write_provenance(synthetic, repeating)
    move(repeating, "test-2", "val")
    seen_before(repeating, synthetic, "test-4", annotated=True)
    with pytest.raises(StudyError, match=r"1 were annotated for a base of the painter, such as test-4"):
        run_study(repeating, tmp_path / "out", [synthetic], SHORT)
    assert not (tmp_path / "out").exists()
