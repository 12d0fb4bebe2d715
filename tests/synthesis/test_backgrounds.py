"""Unannotated frames as backgrounds: what a baseline found in them is replaced, removed, or stays in the label."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffaug.artifacts import digest_of_file, make_folder, read_json, write_json
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.config import FitConfig, GenerateConfig
from diffaug.data.case import NEGATIVE, digest_of_case
from diffaug.data.folder import copy_case, new_dataset, read_dataset, write_cases
from diffaug.data.images import read_codes, read_mask, write_png
from diffaug.data.manifest import read_manifest
from diffaug.errors import ConfigError, DataError, StudyError
from diffaug.export.export import export_set
from diffaug.study.inputs import read_set
from diffaug.study.provenance import check_provenance
from diffaug.synthesis.generate import generate
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import workshop_of
from diffaug.training.fit import fit

CONFIG = GenerateConfig(count=8, shard_size=4, slots=2, negatives=0.0, gate="off")


@pytest.fixture(scope="module")
def labelled(phantoms, tmp_path_factory):
    """The two unannotated phantoms with a disc for a mask, as `diffaug pseudo-label` leaves them."""
    dataset, out = read_dataset(phantoms), tmp_path_factory.mktemp("labelled") / "set"
    areas = [case.read_mask().sum() for case in dataset.split("train")]
    with new_dataset(out) as partial:
        cases = []
        for case in dataset.split("unannotated"):
            height, width = case.read_image().shape[:2]
            rows, columns = np.mgrid[:height, :width]
            disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < np.median(areas) / np.pi / 1.5
            mask = make_folder(partial / "masks") / f"{case.id}.png"
            write_png(mask, disc.astype(np.uint8) * 255)
            cases.append(replace(copy_case(replace(case, split="train"), partial), mask=mask))
        write_cases(partial, cases)
        digests = {case.id: digest_of_case(case) for case in dataset.split("train")}
        write_json(partial / "provenance.json", {"cases": digests})
    return out


@pytest.fixture(scope="module")
def drawer(phantoms, labelled):
    return RequestDrawer(read_dataset(phantoms).split("train"), 0, CONFIG, read_dataset(labelled).split("train"))


@pytest.fixture(scope="module")
def drawn(drawer, labelled):
    """Requests on the labelled frames, of many."""
    others = {case.id for case in read_dataset(labelled).cases}
    return [request for index in range(60) if (request := drawer.draw(index)).background in others]


def test_labelled_frames_are_painted_on_and_give_neither_masks_nor_examples(drawn, drawer):
    assert {request.placement for request in drawn} >= {"replace", "removed"}
    assert {request.mask_case for request in drawn} | {request.example for request in drawn} <= set(drawer.cases)


def test_the_label_is_what_was_found_and_stays_and_the_new_lesion(drawn, drawer):
    for request in drawn:
        found, masks = drawer.backgrounds.case(request.background).read_mask(), drawer.masks(request)
        touched = (masks.new & found).any() or request.placement == "removed"
        np.testing.assert_array_equal(masks.label, masks.new if touched else masks.new | found)
        np.testing.assert_array_equal(masks.old, found if request.placement == "replace" else np.zeros_like(found))


def test_requests_without_other_frames_are_what_they_were(phantoms, drawer):
    alone = RequestDrawer(read_dataset(phantoms).split("train"), 0, CONFIG)
    assert all(alone.draw(index).background in alone.cases for index in range(10))
    assert [alone.draw(index).seed for index in range(10)] == [drawer.draw(index).seed for index in range(10)]


def test_unannotated_frames_that_are_known_to_hold_no_lesion_are_painted_on(fitted, phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data")
    dataset = read_dataset(tmp_path / "data")
    free = {case.id for case in dataset.split("unannotated")}
    declared = [replace(case, attributes={NEGATIVE: 1.0} if case.id in free else {}) for case in dataset.cases]
    write_cases(tmp_path / "data", declared)
    plan = make_plan(fitted, tmp_path / "data", CONFIG, 0)
    assert plan.digest() != make_plan(fitted, phantoms, CONFIG, 0).digest()
    drawer = workshop_of(plan).maker.drawer
    drawn = [request for request in drawer.draw_some(30) if request.background in free]
    assert {request.background for request in drawn} == free
    assert {request.placement for request in drawn} == {"free"}
    for request in drawn:
        masks = drawer.masks(request)
        np.testing.assert_array_equal(masks.label, masks.new)


def test_unannotated_frames_of_which_nothing_is_known_get_a_label_where_they_are_painted(fitted, phantoms, tmp_path):
    config = CONFIG.model_copy(update={"unannotated": "all", "negatives": 0.5, "place": "free"})
    generate(fitted, phantoms, tmp_path / "set", config)
    dataset, found = read_dataset(phantoms), read_set(tmp_path / "set")
    others = {case.id: case for case in dataset.split("unannotated")}
    cases = {case.id: case for case in read_dataset(tmp_path / "set").cases}
    partly = [row for row in found if row.request.background in others]
    assert partly and not any(row.request.negative for row in partly)
    assert [row for row in found if row.is_partly_known] == partly
    check_provenance(found, dataset)
    for row in (row for row in partly if row.id in cases):
        case, background = cases[row.id], others[row.request.background].read_image()
        assert case == replace(found.case(row), attributes=case.attributes)
        known = case.read_known()
        assert case.read_mask().any() and not (case.read_mask() & ~known).any() and not known.all()
        np.testing.assert_array_equal(case.read_image()[~known], background[~known])
    negatives = [row for row in found if row.request.negative and row.region]
    assert negatives
    for row in (*partly, *negatives):
        assert row.region_digest == digest_of_file(tmp_path / "set" / row.region)
    whole = next(case for case in cases.values() if case.id not in {row.id for row in partly})
    assert whole.known is None and whole.read_known().all()
    kept = sum(row.id in cases for row in partly)
    with pytest.raises(DataError, match=rf"those of {kept} cases of .*set are known in part"):
        fit(tmp_path / "set", tmp_path / "model", FitConfig())
    assert not (tmp_path / "model").exists()
    changed = tmp_path / "set" / partly[0].region
    write_png(changed, np.full_like(read_codes(changed), 255))
    with pytest.raises(StudyError, match=f"regions/{partly[0].id}.png is not the file that manifest"):
        read_set(tmp_path / "set")
    with pytest.raises(DataError, match=f"{partly[0].id}.png was changed since"):
        export_set(tmp_path / "set", tmp_path / "exported", "nnunet")


def test_a_case_on_a_labelled_frame_is_judged_by_who_has_not_seen_its_mask(fitted, phantoms, labelled):
    options = {"backgrounds": labelled, "domain": "colonoscopy", "gate": "conformal"}
    workshop = workshop_of(make_plan(fitted, phantoms, CONFIG.model_copy(update=options), 0))
    others, folds = {case.id for case in read_dataset(labelled).cases}, workshop.painter.calibration.folds
    drawn = [workshop.maker.drawer.draw(index) for index in range(30)]
    assert {request.background for request in drawn} & others
    assert all(workshop.maker.fold(request) == folds[request.mask_case] for request in drawn)


def test_a_set_on_labelled_frames_can_be_studied_and_says_what_it_was_painted_on(fitted, phantoms, labelled, tmp_path):
    out, config = tmp_path / "set", CONFIG.model_copy(update={"backgrounds": labelled})
    generate(fitted, phantoms, out, config)
    rows, others = read_manifest(out).rows, {case.id for case in read_dataset(labelled).cases}
    assert {row.request.background for row in rows} & others
    check_provenance(read_set(out), read_dataset(phantoms))
    identity = read_json(out / "config.json")["identity"]
    assert identity["backgrounds"] == make_plan(fitted, phantoms, config, 0).backgrounds_digest
    assert not make_plan(fitted, phantoms, CONFIG, 0).identity()["backgrounds"]
    cases = {case.id: case for case in read_dataset(out).cases}
    for row in rows:
        if row.request.background in others and row.id in cases:
            assert cases[row.id].group == row.request.background
            assert read_mask(out / row.mask).any()


def test_a_set_whose_masks_come_from_an_unannotated_frame_is_refused(fitted, phantoms, labelled, tmp_path):
    out = tmp_path / "set"
    generate(fitted, phantoms, out, CONFIG.model_copy(update={"backgrounds": labelled, "count": 2, "shard_size": 2}))
    other, one = read_dataset(labelled).cases[0].id, read_set(out)
    first = one.rows[0]
    stolen = replace(one, rows=(replace(first, request=replace(first.request, mask_case=other)),))
    with pytest.raises(StudyError, match=f"uses case {other}, which is in split unannotated"):
        check_provenance(stolen, read_dataset(phantoms))


def changed(labelled, to, **fields):
    """A copy of the labelled set whose first case differs."""
    dataset = read_dataset(labelled)
    with new_dataset(to) as partial:
        first, *rest = (copy_case(case, partial) for case in dataset.cases)
        write_cases(partial, [replace(first, **fields), *rest])
        write_json(partial / "provenance.json", read_json(labelled / "provenance.json"))
    return to


def test_frames_of_another_data_set_are_refused(fitted, phantoms, labelled, tmp_path):
    folder = changed(labelled, tmp_path / "other", id="elsewhere")
    with pytest.raises(ConfigError, match=r"backgrounds are unannotated images.*elsewhere of .*other"):
        make_plan(fitted, phantoms, CONFIG.model_copy(update={"backgrounds": folder}), 0)


@pytest.mark.parametrize("told", [None, {"cases": {"train-9999": "0" * 64}}])
def test_labels_from_annotations_that_the_model_has_not_seen_are_refused(fitted, phantoms, labelled, tmp_path, told):
    folder = changed(labelled, tmp_path / "other")
    (folder / "provenance.json").unlink()
    if told:
        write_json(folder / "provenance.json", told)
    with pytest.raises(ConfigError, match="comes from other annotations, such as"):
        make_plan(fitted, phantoms, CONFIG.model_copy(update={"backgrounds": folder}), 0)


def test_a_cup_is_painted_in_annotated_eyes_alone(fitted_eyes, eyes, labelled):
    with pytest.raises(ConfigError, match="in the annotated photograph it belongs to"):
        make_plan(fitted_eyes, eyes, CONFIG.model_copy(update={"backgrounds": labelled, "place": "replace"}), 0)
