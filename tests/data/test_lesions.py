"""Laws of the one definition of a lesion, and that every stage counts by it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.conditioning.masks import entries_of
from diffaug.conditioning.patches import regions_of
from diffaug.conditioning.placement import lost_from_view
from diffaug.data.case import Case
from diffaug.data.examine import examine_case
from diffaug.data.images import write_png
from diffaug.data.lesions import (
    LEAST_PIXELS,
    LEAST_SHARE,
    SIZES,
    components,
    connected_parts,
    count_lesions,
    largest_part,
    least_area,
    lesion_masks,
    size_class,
)
from diffaug.errors import ShapeError
from diffaug.study.evaluate import lesion_recall
from diffaug.training.windows import Annotated

SIDE = 96


def random_mask(seed: int) -> np.ndarray:
    """Return squares and specks at random places: some touch, some at a corner alone."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(int(rng.integers(1, 9))):
        side = int(rng.choice([1, 2, 3, 4, 8, 16]))
        top, left = rng.integers(0, SIDE // 4, 2) * 4
        mask[top : top + side, left : left + side] = True
    return mask


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_lesions_are_disjoint_parts_of_the_mask_from_the_largest_down(seed):
    mask = random_mask(seed)
    masks = lesion_masks(mask)
    areas = [int(lesion.sum()) for lesion in masks]
    assert areas == sorted(areas, reverse=True) == [lesion.area for lesion in components(mask)]
    assert np.sum(masks, axis=0).max(initial=0) <= 1
    assert not any((lesion & ~mask).any() for lesion in masks)
    assert all(connected_parts(lesion)[1] == 1 for lesion in masks)
    assert all(area >= LEAST_PIXELS for area in areas)
    if masks:
        np.testing.assert_array_equal(largest_part(mask), masks[0])


@given(seeds)
def test_transposing_a_mask_changes_no_lesion(seed):
    mask = random_mask(seed)
    assert sorted(lesion.area for lesion in components(mask)) == sorted(one.area for one in components(mask.T))


def test_pixels_that_touch_at_a_corner_are_one_lesion():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:15, 5:15] = mask[15:25, 15:25] = True
    assert count_lesions(mask) == 1
    mask[14, 14] = False
    assert count_lesions(mask) == 2


def test_specks_are_no_lesions_unless_there_is_nothing_else():
    mask = np.zeros((200, 200), dtype=bool)
    mask[10:13, 10:16] = mask[90:93, 90:93] = True
    assert least_area(mask.size) == LEAST_SHARE * mask.size == 20
    assert [lesion.area for lesion in components(mask)] == [18]
    mask[40:60, 40:60] = True
    assert [lesion.area for lesion in components(mask)] == [400]
    mask[:] = False
    mask[7, 7] = True
    assert components(mask) == [] and not components(np.zeros_like(mask))


def test_sizes_are_shares_of_the_frame():
    assert [size_class(share) for share in (0.0, 0.0499, 0.05, 0.15, 0.1501, 1.0)] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip
    assert {size_class(share) for share in np.linspace(0, 1, 99)} == set(SIZES)


def test_a_mask_has_two_dimensions():
    with pytest.raises(ShapeError, match=r"shape \(H, W\): this one has \(1, 8, 8\)"):
        components(np.zeros((1, 8, 8), dtype=bool))


@pytest.mark.parametrize("seed", range(40))
def test_every_stage_counts_the_same_lesions(seed, tmp_path):
    mask = random_mask(seed)
    write_png(tmp_path / "image.png", np.full((SIDE, SIDE, 3), 120, np.uint8))
    write_png(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    case = Case("train-1", tmp_path / "image.png", tmp_path / "mask.png", "1", "train")
    lesions = lesion_masks(mask)
    # The mask bank and fitting have the same lesions in the same order.
    for found in ([entry.in_frame() for entry in entries_of(case, mask)], Annotated.of(case).lesions):
        assert len(found) == len(lesions)
        assert all(np.array_equal(one, lesion) for one, lesion in zip(found, lesions, strict=True))
    # Inspection reports their number.
    assert examine_case(case).lesions == len(lesions)
    # Evaluation counts each once: an answer that is one of them alone finds one of them.
    for lesion in lesions:
        assert lesion_recall(mask, lesion) == 1 / len(lesions)
    if not lesions:
        assert lesion_recall(mask, mask) is None
    # Each lies in one region of clearing, and the regions also hold the specks.
    regions = regions_of(mask, np.ones_like(mask))
    assert all(sum(bool((part & lesion).any()) for part, _ in regions) == 1 for lesion in lesions)
    np.testing.assert_array_equal(np.logical_or.reduce([part for part, _ in regions]), mask)
    # Placement finds all of them hidden where nothing is seen.
    hidden = lost_from_view(mask, np.zeros_like(mask))
    np.testing.assert_array_equal(hidden, np.logical_or.reduce([np.zeros_like(mask), *lesions]))


def test_a_lesion_is_connected_over_all_classes():
    label = np.zeros((60, 60), np.uint8)
    label[10:30, 10:30], label[15:25, 15:25] = 1, 2
    case = Case("train-1", Path("a.png"), Path("b.png"), "1", "train")
    assert len(list(entries_of(case, label))) == count_lesions(label > 0) == 1
