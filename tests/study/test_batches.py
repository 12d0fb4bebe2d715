from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.fundus import vertical_ratio
from diffaug.data.images import write_png
from diffaug.data.manifest import kept, read_manifest
from diffaug.errors import StudyError
from diffaug.study.arms import Arm
from diffaug.study.batches import REAL, Batches, load, order, paste

CONFIG = StudyConfig(size=64, network="unet", widths=(8, 8, 16, 16, 16), iterations=6, batch_size=4, workers=1)


@pytest.fixture
def train(dataset):
    return read_dataset(dataset).split("train")


def pool_of(synthetic):
    found = read_manifest(synthetic)
    return tuple(found.case(row) for row in kept(found))


def test_every_case_is_seen_once_before_any_is_seen_twice():
    indices = order(5, 23, 0, REAL)
    assert len(indices) == 23
    for start in range(0, 20, 5):
        assert sorted(indices[start : start + 5]) == list(range(5))


def test_an_empty_training_set_is_refused():
    with pytest.raises(StudyError):
        order(0, 4, 0, REAL)


def test_frames_become_squares_and_masks_keep_their_share(train):
    pixels = load(train, 32)
    assert pixels.images.shape == (6, 3, 32, 32)
    assert pixels.masks.shape == (6, 1, 32, 32)
    for case, mask in zip(train, pixels.masks, strict=True):
        assert mask.float().mean().item() == pytest.approx(case.read_mask().mean(), abs=0.02)


def test_arms_with_one_seed_see_the_real_cases_in_the_same_order(train, synthetic):
    pool = pool_of(synthetic)
    arms = [Arm("real", train), Arm("copy-paste", train, paste=True), Arm("validated", train, pool=pool)]
    real, pasted, validated = (
        [
            id_
            for i in range(6)
            for id_ in Batches(arm, CONFIG, 3).draw(i).ids
            if id_.startswith("train") and " " not in id_
        ]
        for arm in arms
    )
    assert pasted == validated == real[: len(pasted)]
    assert len(pasted) == len(real) / 2


def test_a_batch_has_the_asked_share_of_synthetic_cases(train, synthetic):
    arm = Arm("validated", train, pool=pool_of(synthetic))
    for share, expected in ((0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)):
        batch = Batches(arm, CONFIG.model_copy(update={"synthetic_share": share}), 0).draw(1)
        assert sum(name.startswith("synth") for name in batch.ids) == expected
        assert batch.images.shape == (4, 3, 64, 64)


def test_a_batch_depends_on_seed_and_iteration_alone(train):
    arm = Arm("copy-paste", train, paste=True)
    one, two = Batches(arm, CONFIG, 5), Batches(arm, CONFIG, 5)
    one.draw(0)
    assert torch.equal(one.draw(4).images, two.draw(4).images)
    assert not torch.equal(one.draw(4).images, Batches(arm, CONFIG, 6).draw(4).images)


def test_a_pixel_of_a_painted_case_counts_where_its_label_is_known(train, tmp_path):
    case, other = train[0], train[1]
    height, width = case.read_mask().shape
    half = np.zeros((height, width), np.uint8)
    half[:, : width // 2] = 255
    write_png(tmp_path / "known.png", half)
    partly = replace(case, id="painted", known=tmp_path / "known.png")
    pixels = load([partly, train[2]], 64, {"painted": other.image})
    assert pixels.known[0, 0, :, :32].all() and not pixels.known[0, 0, :, 32:].any() and pixels.known[1].all()
    seen = load([other, train[2]], 64).images
    assert torch.equal(pixels.before, seen) and not torch.equal(pixels.images[0], seen[0])
    batch = Batches(Arm("validated", train, pool=(partly,), before={"painted": other.image}), CONFIG, 0).draw(0)
    assert batch.known[:2].all() and torch.equal(batch.known[2], pixels.known[0].float())
    assert torch.equal(batch.before[2], seen[0].float() / 255)
    assert load([partly], 64).before.equal(load([case], 64).images)  # where the background is not given


def test_lesions_are_pasted_onto_images_that_are_declared_to_be_lesion_free(train):
    free = tuple(
        replace(case, id=f"free-{case.id}", mask=None, split="unannotated", attributes={"negative": 1.0})
        for case in train[:3]
    )
    batches = Batches(Arm("copy-paste", train, paste=True, onto=free), CONFIG, 0)
    names = [name for iteration in range(6) for name in batches.draw(iteration).ids if " on " in name]
    onto = [name.partition(" on ")[2] for name in names]
    assert {case.id for case in free} < set(onto) and {case.id for case in train} & set(onto)
    assert not any(name.startswith("free") for name in names)  # it has no lesion to take


def test_pasting_adds_a_lesion_and_touches_nothing_far_from_it():
    rng = np.random.default_rng(0)
    images, masks = torch.full((5, 3, 64, 64), 0.6), torch.zeros(5, 1, 64, 64)
    lesions, shapes = torch.full((5, 3, 64, 64), 0.2), torch.zeros(5, 1, 64, 64)
    shapes[:, :, 28:36, 26:38] = 1
    pasted, labels = paste(images, masks, lesions, shapes, rng)
    assert (labels.sum((1, 2, 3)) > 0.25 * 0.9 * 96 - 12).all()
    far = torch.nn.functional.max_pool2d(labels, 9, 1, 4) == 0
    assert torch.equal(pasted[far.expand_as(pasted)], images[far.expand_as(images)])
    inner = -torch.nn.functional.max_pool2d(-labels, 7, 1, 3) == 1
    assert (pasted[inner.expand_as(pasted)] < 0.25).all()


def test_the_label_of_a_paste_is_the_union_of_both_lesions():
    masks = torch.zeros(3, 1, 64, 64)
    masks[:, :, :10, :10] = 1
    shapes = torch.zeros(3, 1, 64, 64)
    shapes[:, :, 30:36, 30:36] = 1
    _, labels = paste(torch.rand(3, 3, 64, 64), masks, torch.rand(3, 3, 64, 64), shapes, np.random.default_rng(1))
    assert (labels >= masks).all()
    assert set(labels.unique().tolist()) == {0.0, 1.0}


def test_the_classes_of_a_lesion_are_pasted_together_and_hide_what_lies_under_them():
    masks, shapes = torch.zeros(6, 2, 64, 64), torch.zeros(6, 2, 64, 64)
    masks[:, 0, 10:50, 10:50], masks[:, 1, 20:40, 20:40] = 1, 1
    shapes[:, 0, 24:44, 24:44], shapes[:, 1, 28:34, 28:34] = 1, 1
    _, labels = paste(torch.rand(6, 3, 64, 64), masks, torch.rand(6, 3, 64, 64), shapes, np.random.default_rng(1))
    assert (labels[:, 1] <= labels[:, 0]).all()
    assert not torch.equal(labels, masks)


def test_an_eye_keeps_one_disc_when_another_is_pasted_onto_it():
    masks, shapes = torch.zeros(6, 2, 64, 64), torch.zeros(6, 2, 64, 64)
    masks[:, 0, 10:40, 8:32], masks[:, 1, 20:30, 12:20] = 1, 1
    shapes[:, 0, 30:50, 30:50], shapes[:, 1, 32:46, 34:46] = 1, 1
    images, lesions = torch.full((6, 3, 64, 64), 0.6), torch.full((6, 3, 64, 64), 0.2)
    pasted, labels = paste(images, masks, lesions, shapes, np.random.default_rng(1), one_place=True)
    for label in labels:
        assert ndimage.label(label[0].numpy())[1] == ndimage.label(label[1].numpy())[1] == 1
        rows, columns = np.nonzero(label[0].numpy())
        assert (rows.min(), rows.max() + 1) == (10, 40) and columns.min() <= 8 and columns.max() + 1 >= 32
        assert vertical_ratio(*label.numpy() > 0) == pytest.approx(0.7, abs=0.05)  # that of the pasted disc
    assert (pasted[:, :, 20:30, 15:25] < 0.25).all()
    empty = torch.zeros_like(shapes)
    assert torch.equal(paste(images, masks, lesions, empty, np.random.default_rng(1), one_place=True)[1], masks)


def test_lesions_are_pasted_on_tissue_and_not_on_the_black_border():
    images = torch.full((16, 3, 64, 64), 0.6)
    images[..., :24] = 0
    shapes = torch.zeros(16, 1, 64, 64)
    shapes[:, :, 30:36, 30:36] = 1
    _, labels = paste(images, torch.zeros_like(shapes), images, shapes, np.random.default_rng(2))
    assert labels[..., :24].sum() < 0.12 * labels.sum()
