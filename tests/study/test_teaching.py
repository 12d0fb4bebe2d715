from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from diffaug.classical import vary
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.study.arms import Arm
from diffaug.study.batches import Batch, Batches, joined
from diffaug.study.network import segmentation_loss
from diffaug.study.teaching import START, Lesson, cut, lesson_of, opinion

CONFIG = StudyConfig(size=64, iterations=10, batch_size=4, augmentation=1.0)
LATE = 5  # an iteration at which the teacher is listened to
SIDE = 32


class Threshold(nn.Module):
    """A teacher that takes for lesion what is bright in red, and is the surer the brighter it is."""

    def forward(self, images):
        return 20 * (images[:, :1] - 0.5)


def batch_of(known, seed=0):
    """Return a batch of smooth random images with empty masks, of which `known` says what is known."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(len(known), 3, 4, 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    names = tuple(str(row) for row in range(len(known)))
    return Batch(images, torch.zeros(len(known), 1, SIDE, SIDE), names, known, images)


def known_rows(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


def test_a_pixel_of_weight_zero_changes_neither_the_loss_nor_its_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    masks, weights = ((torch.rand(2, 2, 8, 8, generator=generator) > 0.5).double() for _ in range(2))
    loss = segmentation_loss(logits, masks, weights)
    other = torch.where(weights > 0, masks, 1 - masks)
    assert segmentation_loss(logits, other, weights).item() == loss.item()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[weights == 0] == 0).all() and (gradient[weights == 1] != 0).all()


def test_weights_of_one_leave_the_loss_as_it_is():
    logits, masks = torch.randn(2, 1, 8, 8, dtype=torch.float64), (torch.rand(2, 1, 8, 8) > 0.5).double()
    whole = segmentation_loss(logits, masks)
    assert segmentation_loss(logits, masks, torch.ones_like(masks)).item() == pytest.approx(whole.item(), abs=1e-12)


def test_unannotated_images_fill_the_share_of_the_pool_or_half_of_it_and_nothing_of_them_is_known(dataset):
    cases = read_dataset(dataset).split("train")
    bare = tuple(replace(case, id=f"bare-{case.id}", mask=None) for case in cases)
    alone = Batches(Arm("mean-teacher", cases, taught=bare), CONFIG, 0).draw(1)
    beside = Batches(Arm("validated", cases, pool=cases[:3], taught=bare), CONFIG, 0).draw(1)
    assert [name.startswith("bare") for name in alone.ids] == [False, False, True, True]
    assert [name.startswith("bare") for name in beside.ids] == [False, False, False, True]
    for batch in (alone, beside):
        told = [not name.startswith("bare") for name in batch.ids]
        assert batch.known.flatten(1).amin(1).tolist() == batch.known.flatten(1).amax(1).tolist() == told
        assert torch.equal(batch.before, batch.images)
    real = Batches(Arm("real", cases), CONFIG, 0)
    seen = [name for iteration in range(2) for name in real.draw(iteration).ids]
    assert [*Batches(Arm("mean-teacher", cases, taught=bare), CONFIG, 0).draw(0).ids[:2], *alone.ids[:2]] == seen[:4]


def test_an_image_that_is_declared_to_be_lesion_free_is_known_to_be_so(dataset):
    cases = read_dataset(dataset).split("train")
    bare = [replace(case, id=f"bare-{case.id}", mask=None) for case in cases[:2]]
    free = tuple(replace(case, attributes={"negative": 1.0}) for case in bare[:1])
    batches = Batches(Arm("mean-teacher", cases, taught=(*free, bare[1])), CONFIG, 0)
    for iteration in range(4):
        batch = batches.draw(iteration)
        told = dict(zip(batch.ids, batch.known.flatten(1).amin(1).tolist(), strict=True))
        assert told[free[0].id] == 1 and told[bare[1].id] == 0
        assert (batch.masks[2:] == 0).all()


def test_parts_of_a_batch_of_which_nothing_is_said_are_known():
    whole, bare = batch_of(known_rows(1, 1)), batch_of(known_rows(0))
    said = joined([replace(whole, known=None, before=None), bare])
    assert torch.equal(said.known, known_rows(1, 1, 0))
    assert torch.equal(said.before, said.images)
    assert joined([replace(whole, known=None, before=None)] * 2).known is None


def test_a_batch_of_which_all_is_known_is_varied_as_ever():
    batch = replace(batch_of(known_rows(1, 1)), known=None, before=None)
    images, masks, _ = vary(batch.images, batch.masks, CONFIG.augmentation, 3, LATE)
    lesson = lesson_of(batch, Threshold(), CONFIG, 3, LATE)
    assert torch.equal(lesson.images, images) and torch.equal(lesson.masks, masks) and lesson.weights is None


@pytest.mark.parametrize(("teacher", "iteration"), [(None, LATE), (Threshold(), int(START * CONFIG.iterations) - 1)])
def test_without_a_teacher_or_before_it_is_listened_to_what_is_not_known_counts_nothing(teacher, iteration):
    lesson = lesson_of(batch_of(known_rows(1, 0)), teacher, CONFIG, 0, iteration)
    assert torch.equal(lesson.weights, known_rows(1, 0))


def test_the_teacher_labels_the_moved_image_where_it_is_sure():
    batch = batch_of(known_rows(1, 1, 0))  # a single row has no other to take a box from
    lesson = lesson_of(batch, Threshold(), CONFIG, 0, LATE)
    *_, beside = vary(batch.images, batch.masks, CONFIG.augmentation, 0, LATE, batch.before)
    probability = Threshold()(beside).sigmoid()
    sure = torch.maximum(probability, 1 - probability) >= CONFIG.teacher_confidence
    assert 0 < sure[2].float().mean() < 1
    assert torch.equal(lesson.weights[2], sure[2].float())
    assert torch.equal(lesson.masks[2], (probability[2] > 0.5).float())
    assert (lesson.weights[:2] == 1).all() and (lesson.masks[:2] == 0).all()


def test_the_teacher_is_asked_for_the_image_before_and_only_where_the_mask_is_not_known():
    batch = batch_of(known_rows(1, 0))
    half = batch.known.clone()
    half[1, :, :, : SIDE // 2] = 1
    painted = replace(batch, known=half, before=1 - batch.images)
    still = CONFIG.model_copy(update={"augmentation": 0.0})
    lesson = lesson_of(painted, Threshold(), still, 0, LATE)
    *_, beside = vary(batch.images, batch.masks, 0.0, 0, LATE, torch.cat([half, 1 - batch.images], 1))
    labels, sure = opinion(Threshold(), beside[:, 1:], CONFIG.teacher_confidence)
    known = beside[1:, :1] > 0.5
    assert torch.equal(lesson.masks[1:], torch.where(known, torch.zeros(()), labels[1:]))
    assert torch.equal(lesson.weights[1:], torch.where(known, torch.ones(()), sure[1:]))


def test_a_box_comes_from_the_next_of_the_rows_with_its_mask_and_weights():
    rows = torch.tensor([1, 2, 3])
    values = torch.arange(5.0).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    lesson = Lesson(values.expand(-1, 3, -1, -1), values + 10, values + 20)
    taken = 0
    for seed in range(8):
        found = cut(lesson, rows, np.random.default_rng(seed))
        assert torch.equal(found.masks, found.images[:, :1] + 10) and torch.equal(found.weights, found.masks + 10)
        assert torch.equal(found.images[[0, 4]], lesson.images[[0, 4]])
        for row, other in ((1, 3), (2, 1), (3, 2)):
            assert set(found.images[row].unique().tolist()) <= {float(row), float(other)}
            share = (found.images[row, 0] == other).float().mean().item()
            assert share == 0 or 0.2 < share < 0.8
            taken += share > 0
    assert 4 < taken < 20  # half of 24 rows
