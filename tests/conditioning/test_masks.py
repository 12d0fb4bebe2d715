from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import ellipse
from scipy import ndimage

from diffaug.conditioning.attributes import shape_of
from diffaug.conditioning.masks import (
    MaskBank,
    MaskEntry,
    draw_transform,
    entries_of,
    origin_points,
    paste,
    render,
    render_label,
)
from diffaug.data.case import Case, LabelClass
from diffaug.data.images import write_png
from diffaug.data.request import MaskTransform
from diffaug.errors import DataError, PlacementError

IDENTITY = MaskTransform()


@pytest.fixture(scope="module")
def bank(cases):
    return MaskBank.from_cases(cases)


def test_the_identity_returns_the_mask_itself(bank):
    for entry in bank.entries:
        np.testing.assert_array_equal(render(entry, IDENTITY, entry.frame), entry.shape)
        if not entry.is_cut:
            np.testing.assert_array_equal(entry.shape, entry.crop)


def test_components_at_their_places_make_the_mask(bank, cases):
    for case in cases:
        whole = np.logical_or.reduce([entry.in_frame() for entry in bank.components(case.id)])
        np.testing.assert_array_equal(whole, case.read_mask())


def test_area_follows_scale_squared_at_any_angle(bank):
    rng = np.random.default_rng(0)
    for entry in bank.entries:
        transform = draw_transform(rng)
        area = np.count_nonzero(render(entry, transform, entry.frame))
        assert area == pytest.approx(transform.scale**2 * np.count_nonzero(entry.shape), rel=0.05)


def test_origins_of_a_transformed_shape_lie_in_the_lesion_it_was_made_from(bank):
    rng = np.random.default_rng(0)
    for entry in [each for each in bank.entries if not each.is_cut]:  # whose corners are rounded
        for transform in [IDENTITY, MaskTransform(flip=True), *(draw_transform(rng) for _ in range(3))]:
            shape = render(entry, transform, (210, 190))
            rows, columns = np.rint(origin_points(entry, transform, (210, 190), np.indices(shape.shape) * 1.0))
            mask = np.pad(entry.in_frame(), 80)
            found = mask[rows.astype(int) + 80, columns.astype(int) + 80]
            deep, far = (
                ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1],
                ndimage.distance_transform_edt(~shape),
            )
            assert found[deep > 2].mean() > 0.97 and not found[far > 2].any()  # an elastic shape has no holes


@pytest.mark.parametrize("side", [64, 160, 480])
def test_a_shape_keeps_its_share_of_a_frame_of_another_size(bank, side):
    for entry in bank.entries:
        share = np.count_nonzero(render(entry, IDENTITY, (side, side))) / side**2
        assert share == pytest.approx(np.count_nonzero(entry.shape) / (160 * 160), rel=0.1)


def test_a_rotation_keeps_the_shape(ellipse_in):
    mask = ellipse_in((100, 100), (50, 50), (15, 35))
    entry = MaskEntry(mask[35:66, 15:86], 35, 15, (100, 100), "a", 0)
    for angle in (30.0, 90.0, 200.0):
        turned = render(entry, MaskTransform(1.0, angle), entry.frame)
        assert shape_of(turned) == pytest.approx(shape_of(entry.crop), abs=0.02)


def test_a_quarter_turn_is_counter_clockwise(ellipse_in):
    crop = np.zeros((20, 30), bool)
    crop[:, :10] = crop[15:] = True
    entry = MaskEntry(crop, 5, 5, (60, 60), "a", 0)
    shape = entry.shape
    turned = render(entry, MaskTransform(1.0, 90.0), (60, 60))
    expected = np.rot90(shape)
    assert turned.shape == pytest.approx(expected.shape, abs=1)
    overlap = paste(turned, 0, 0, (40, 40)) & paste(expected, 0, 0, (40, 40))
    assert np.count_nonzero(overlap) > 0.93 * np.count_nonzero(expected)


def test_a_crop_is_tight_and_never_empty(bank):
    rng = np.random.default_rng(1)
    for entry in bank.entries:
        shape = render(entry, replace(draw_transform(rng), scale=0.02), entry.frame)
        assert shape[0].any() and shape[-1].any() and shape[:, 0].any() and shape[:, -1].any()


def test_a_shape_cut_by_the_frame_gets_round_corners(ellipse_in):
    mask = ellipse_in((120, 120), (60, 0), (40, 40))
    (entry,) = entries_of_mask(mask)
    assert entry.is_cut
    assert not entry.shape[0, 0] and shape_of(entry.shape)[1] > 0.9
    assert np.count_nonzero(entry.shape) == pytest.approx(np.count_nonzero(entry.crop), rel=0.1)


# Classes


@pytest.fixture(scope="module")
def structure():
    """A disc with a cup off its centre, and beside it a lump of a third class."""
    label = np.zeros((90, 110), np.uint8)
    label[ellipse(label.shape, (45, 50), (25, 20))] = 1
    label[ellipse(label.shape, (40, 55), (12, 8), 0.4)] = 2
    label[ellipse(label.shape, (45, 76), (6, 12)) & (label == 0)] = 7
    classes = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)), LabelClass("lump", (7,)))
    case = Case("train-1", Path("a.png"), Path("b.png"), "1", "train", classes=classes)
    (entry,) = entries_of(case, label)
    return entry


def test_the_classes_of_a_component_move_together(structure):
    rng = np.random.default_rng(0)
    drawn = [draw_transform(rng) for _ in range(12)]
    for transform in [MaskTransform(), *drawn, *(replace(one, elastic=0.0) for one in drawn)]:
        shape = render(structure, transform, (90, 110))
        label = render_label(structure, transform, (90, 110))
        np.testing.assert_array_equal(label > 0, shape)
        assert set(np.unique(label[shape])) == {1, 2, 7}
        if transform.elastic:  # which keeps the area of the whole, and no rectangle
            continue
        for value in (1, 2):
            expected = (structure.label == value).sum() * transform.scale**2
            assert (label == value).sum() == pytest.approx(expected, rel=0.12)
        rows, columns = np.nonzero(label == 2)
        hull = label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 7 not in hull  # the cup stays inside its disc
    np.testing.assert_array_equal(render_label(structure, MaskTransform(), (90, 110)), structure.label)
    flipped = render_label(structure, MaskTransform(flip=True), (90, 110))
    np.testing.assert_array_equal(flipped, structure.label[:, ::-1])


def test_a_component_that_the_frame_cut_keeps_its_classes_when_its_corners_are_rounded():
    label = np.zeros((60, 80), np.uint8)
    label[ellipse(label.shape, (0, 40), (30, 25))] = 1
    label[ellipse(label.shape, (4, 40), (14, 10))] = 2
    classes = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))
    (entry,) = entries_of(Case("train-1", Path("a.png"), Path("b.png"), "1", "train", classes=classes), label)
    assert entry.is_cut
    made = render_label(entry, MaskTransform(), (60, 80))
    np.testing.assert_array_equal(made > 0, entry.shape)
    assert (made == 2).sum() == pytest.approx((label == 2).sum(), rel=0.15)


def test_without_classes_a_label_is_the_mask():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:20, 5:30] = True
    (entry,) = entries_of_mask(mask)
    assert entry.label is None
    turned = MaskTransform(1.2, 30.0)
    np.testing.assert_array_equal(render_label(entry, turned, (40, 40)), render(entry, turned, (40, 40)))


def entries_of_mask(mask, folder=None):
    from pathlib import Path

    from diffaug.data.case import Case

    return tuple(entries_of(Case("train-1", Path("a.png"), Path("b.png"), "1", "train"), mask))


def test_specks_are_no_lesions_unless_nothing_else_is_there(ellipse_in):
    mask = ellipse_in((200, 200), (60, 60), (20, 20))
    mask[150:153, 150:153] = True
    assert len(entries_of_mask(mask)) == 1
    speck = mask & (np.arange(200) > 140)
    assert [np.count_nonzero(entry.crop) for entry in entries_of_mask(speck)] == [9]


def test_the_largest_component_comes_first(bank):
    for entry in bank.entries:
        areas = [np.count_nonzero(part.crop) for part in bank.components(entry.case)]
        assert areas == sorted(areas, reverse=True)


def test_the_bank_does_not_depend_on_the_order_of_the_cases(bank, cases):
    names = [(entry.case, entry.component) for entry in MaskBank.from_cases(cases[::-1]).entries]
    assert names == [(entry.case, entry.component) for entry in bank.entries]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_mask_from_val_or_test_is_refused(cases, split):
    with pytest.raises(DataError, match="train-3 is of"):
        MaskBank.from_cases([*cases[:3], replace(cases[3], split=split)])


def test_a_bank_without_a_lesion_says_so_in_one_line(cases, tmp_path):
    write_png(tmp_path / "empty.png", np.zeros((160, 160), np.uint8))
    with pytest.raises(PlacementError) as error:
        MaskBank.from_cases([replace(cases[0], mask=tmp_path / "empty.png")])
    assert "\n" not in str(error.value)


def test_an_unknown_entry_names_its_case(bank):
    with pytest.raises(DataError, match="train-99"):
        bank.entry("train-99", 0)


def test_paste_cuts_off_what_lies_outside():
    crop = np.ones((4, 4), bool)
    assert np.count_nonzero(paste(crop, -2, -2, (10, 10))) == 4
    assert np.count_nonzero(paste(crop, 8, 3, (10, 10))) == 8
    assert np.count_nonzero(paste(crop, 20, 3, (10, 10))) == 0
    assert ndimage.center_of_mass(paste(crop, 3, 4, (10, 10))) == (4.5, 5.5)


def test_an_elastic_transform_bends_a_shape_and_keeps_its_area_and_its_unity(bank):
    for entry in bank.entries:
        plain, bent, again, other = (
            render(entry, MaskTransform(1.2, 30.0, elastic=elastic, warp=warp), entry.frame)
            for elastic, warp in ((0.0, 0), (0.08, 5), (0.08, 5), (0.08, 6))
        )
        np.testing.assert_array_equal(bent, again)
        assert bent.shape != other.shape or (bent != other).any()
        assert ndimage.label(bent, np.ones((3, 3)))[1] == 1
        assert np.count_nonzero(bent) == pytest.approx(np.count_nonzero(plain), rel=0.08)


def test_an_elastic_transform_is_the_same_in_a_larger_frame(bank):
    entry, transform = bank.entries[0], MaskTransform(1.0, 0.0, elastic=0.08, warp=3)
    small, large = render(entry, transform, (160, 160)), render(entry, transform, (320, 320))
    assert shape_of(large) == pytest.approx(shape_of(small), abs=0.08)
    assert np.count_nonzero(large) == pytest.approx(4 * np.count_nonzero(small), rel=0.05)


def test_masks_of_upright_images_are_flipped_and_scaled_and_not_turned(cases):
    upright, rng = MaskBank.from_cases(cases, turn=0.0), np.random.default_rng(0)
    drawn = [upright.draw(rng)[1] for _ in range(20)]
    assert all(transform.angle == 0 for transform in drawn)
    assert len({transform.flip for transform in drawn}) == 2 and len({transform.scale for transform in drawn}) > 10
