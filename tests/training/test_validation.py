from dataclasses import replace

import pytest
import torch

from diffaug.data.folder import read_dataset
from diffaug.models.loading import load_model
from diffaug.painting.window import CONTEXT
from diffaug.training.validation import (
    ESTIMATES,
    NEGATIVE_EVERY,
    estimates,
    frame_views,
    labelled_latents,
    real_scores,
    search_windows,
    train_validators,
)
from diffaug.training.windows import Annotated
from diffaug.validator.latent_segmenter import UPSCALE, frame_side

EACH = 10  # windows of a case


@pytest.fixture(scope="module")
def painter(fitted):
    return load_model(fitted)


@pytest.fixture(scope="module")
def searched(painter, annotated):
    return search_windows(painter, annotated, 0, EACH)


@pytest.fixture(scope="module")
def folds(annotated):
    return {case.case.id: number % 2 for number, case in enumerate(annotated)}


def parameters(network):
    return torch.cat([value.flatten() for value in network.parameters()])


def test_every_case_gives_as_many_windows_and_a_third_is_lesion_free(searched, annotated):
    windows, case_of = searched
    assert case_of.tolist() == [number for number in range(len(annotated)) for _ in range(EACH)]
    free = (windows.label.sum((1, 2, 3)) == 0).float().mean().item()
    assert 1 / 3 <= free < 0.5


def test_estimates_at_the_last_timestep_know_nothing_of_the_latents_inside_the_region(painter, searched):
    windows, _ = searched
    few = windows.rows(torch.arange(6))
    other = replace(few, x0=torch.where(few.region > 0, -few.x0, few.x0))
    last, first = torch.full((6,), 999), torch.full((6,), 0)
    assert torch.equal(estimates(painter, few, last, 0), estimates(painter, other, last, 0))
    assert not torch.allclose(estimates(painter, few, first, 0), estimates(painter, other, first, 0), atol=0.1)


def test_estimates_depend_on_the_seed_and_not_on_how_many_are_evaluated_together(painter, searched):
    few, t = searched[0].rows(torch.arange(6)), torch.full((6,), 700)
    together = estimates(painter, few, t, 3)
    assert torch.equal(together, estimates(painter, few, t, 3))
    assert not torch.equal(together, estimates(painter, few, t, 4))
    torch.testing.assert_close(estimates(painter, few, t, 3, batch=3), together, atol=0.05, rtol=0.05)


def test_real_latents_and_lesion_free_windows_are_trusted_fully_and_noise_less(painter, searched):
    windows, case_of = searched
    made = labelled_latents(painter, windows, case_of, 0)
    count = len(windows)
    real = torch.arange(len(made.times)) < made.painted
    assert made.painted == (1 + ESTIMATES) * count < len(made.times) == len(made.index) == len(made.case)
    assert torch.equal(made.latents[:count], windows.x0) and (made.times[:count] == 0).all()
    assert (made.trust[:count] == 1).all()
    assert torch.equal(made.label[made.index[:count]], windows.label)
    empty = (windows.label.sum((1, 2, 3)) == 0)[made.index[real]]
    assert (made.trust[real][empty] == 1).all()
    noisy = ~empty & (torch.arange(made.painted) >= count)
    torch.testing.assert_close(made.trust[real][noisy], painter.schedule.at(made.times[real][noisy]).float())
    assert torch.equal(made.case[: made.painted], case_of.repeat(1 + ESTIMATES))


def test_negatives_are_labelled_empty_where_they_were_painted_and_as_annotated_elsewhere(painter, searched):
    windows, case_of = searched
    made = labelled_latents(painter, windows, case_of, 0)
    negatives = torch.arange(made.painted, len(made.times))
    assert len(negatives) >= 4 and (made.trust[negatives] == 1).all()
    half = len(negatives) // 2
    assert (made.times[negatives[:half]] == 0).all() and (made.times[negatives[half:]] > 0).all()
    assert torch.equal(made.label[made.index[negatives[:half]]], made.label[made.index[negatives[half:]]])
    rows = windows.rows(torch.nonzero(windows.label.sum((1, 2, 3)) > 0)[:, 0][::NEGATIVE_EVERY])
    assert len(rows) == half
    label = made.label[made.index[negatives[:half]]]
    assert (label * rows.fine_region).sum() == 0
    torch.testing.assert_close(label * (1 - rows.fine_region), rows.label * (1 - rows.fine_region))
    outside = rows.region == 0  # the painter knows these cells
    same = torch.where(outside, made.latents[negatives[:half]] - rows.x0, torch.zeros(()))
    assert same.abs().max() < 0.2 * rows.x0.abs().max()
    assert not torch.allclose(made.latents[negatives[:half]], rows.x0, atol=0.5)


def test_a_validator_never_sees_the_cases_of_its_fold(painter, annotated, folds, tiny, tmp_path):
    changed = [replace(case, image=255 - case.image) if folds[case.case.id] == 0 else case for case in annotated]
    first = train_validators(painter, annotated, folds, tiny.validator, tmp_path / "first")
    second = train_validators(painter, changed, folds, tiny.validator, tmp_path / "second")
    assert len(first) == 2
    assert torch.equal(parameters(first[0]), parameters(second[0]))
    assert not torch.equal(parameters(first[1]), parameters(second[1]))


def test_whole_frames_are_varied_with_their_masks_and_are_as_large_as_segment_sees_them(painter, annotated):
    views = frame_views(painter, annotated, 3, 0)
    side = frame_side(painter.cell, painter.latent_side)
    cells, fine = side // painter.cell, UPSCALE * side // painter.cell
    assert views.latents.shape == (len(annotated), 3, painter.latent_channels, cells, cells)
    assert views.label.shape == (len(annotated), 3, 1, fine, fine)
    assert not torch.equal(views.latents[:, 0], views.latents[:, 1])
    shares = (views.label.float() / 255).mean((2, 3, 4))
    annotated_shares = torch.tensor([case.mask.mean() for case in annotated])
    assert (shares.amax(1) > 0.2 * annotated_shares).all() and (shares < 4 * annotated_shares[:, None]).all()
    again = frame_views(painter, annotated, 3, 0)
    assert torch.equal(views.latents, again.latents) and torch.equal(views.label, again.label)


def test_every_real_lesion_is_scored_once_at_every_check(painter, annotated, folds, tiny, tmp_path):
    networks = train_validators(painter, annotated, folds, tiny.validator, tmp_path)
    scores = real_scores(painter, networks, annotated, folds, tiny, CONTEXT)
    assert all(set(found) == {2, 4} for found in scores.values())
    for step in (2, 4):
        values = [score for found in scores.values() for score in found[step]]
        assert len(values) == sum(len(case.lesions) for case in annotated)
        assert all(0 <= value <= 1 for value in values)


def test_lesions_of_two_classes_are_scored_by_networks_of_two_classes(eyes, fitted_eyes, tiny, tmp_path):
    painter = load_model(fitted_eyes)
    discs = [Annotated.of(case) for case in read_dataset(eyes).split("train")]
    folds = {case.case.id: number % 2 for number, case in enumerate(discs)}
    networks = train_validators(painter, discs, folds, tiny.validator, tmp_path)
    assert all(network.network.head.out_channels == 2 for network in networks)
    scores = real_scores(painter, networks, discs, folds, tiny, CONTEXT)
    assert sum(len(found[4]) for found in scores.values()) == 8


def test_a_lesion_is_scored_by_the_validator_that_has_not_seen_it(painter, annotated, folds, tiny, tmp_path):
    networks = train_validators(painter, annotated, folds, tiny.validator, tmp_path)
    pair = [networks[0], networks[1]]
    alone = [case for case in annotated if folds[case.case.id] == 1]
    scores = real_scores(painter, pair, alone, folds, tiny, CONTEXT)
    with torch.no_grad():
        for value in networks[0].parameters():  # it has seen all of them, and is not asked
            value.fill_(torch.nan)
    assert real_scores(painter, pair, alone, folds, tiny, CONTEXT) == scores
