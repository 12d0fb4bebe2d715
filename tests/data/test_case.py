from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import ExifTags, Image

from diffaug.artifacts import digest_of_file, digest_of_value
from diffaug.data.case import Case, LabelClass, digest_of_case, label_from_probabilities, masks_from_label
from diffaug.errors import DataError


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


DISC = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))


def labelled(folder: Path, label: NDArray[np.uint8], classes: tuple[LabelClass, ...] = DISC) -> Case:
    Image.fromarray(np.zeros((*label.shape, 3), np.uint8)).save(folder / "image.png")
    Image.fromarray(label).save(folder / "label.png")
    return Case("case-7", folder / "image.png", folder / "label.png", "g", "train", classes=classes)


def test_classes_that_share_values_nest_and_the_mask_is_their_union(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 3, (9, 7), dtype=np.uint8)
    case = labelled(tmp_path, label)
    disc, cup = case.read_masks()
    assert case.class_names == ("disc", "cup")
    assert np.array_equal(case.read_label(), label)
    assert np.array_equal(disc, label > 0) and np.array_equal(cup, label == 2)
    assert (disc | cup == disc).all()
    assert np.array_equal(case.read_mask(), case.read_masks().any(axis=0))


def test_without_declared_classes_a_mask_is_the_one_class_lesion(tmp_path: Path) -> None:
    case = labelled(tmp_path, np.array([[0, 255], [255, 0]], np.uint8), ())
    assert case.class_names == ("lesion",)
    assert case.read_masks().shape == (1, 2, 2)
    assert np.array_equal(case.read_masks()[0], case.read_mask())
    assert np.array_equal(case.read_label(), case.read_mask())


def test_a_label_of_palette_colours_or_greys_is_read_by_its_indices(tmp_path: Path) -> None:
    case = labelled(tmp_path, np.array([[0, 1, 2]], np.uint8))
    for palette in ([0, 0, 0, 90, 0, 0, 0, 90, 0], [255, 255, 255, 0, 0, 0, 9, 9, 9]):
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
        image.putpalette(palette)
        image.save(tmp_path / "label.png")
        assert case.read_label().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("value", "nearest"), [(3, 2), (128, 2), (255, 2)])
def test_a_value_of_no_class_is_one_line_with_the_nearest_one(tmp_path: Path, value: int, nearest: int) -> None:
    case = labelled(tmp_path, np.array([[0, 1], [2, value]], np.uint8))
    for read in (case.read_mask, case.read_label, case.read_masks):
        with pytest.raises(DataError) as raised:
            read()
        message = str(raised.value)
        assert f"case case-7 ({case.mask}) has {value}, nearest is {nearest};" in message
        assert "0, 1, 2" in message and "\n" not in message


def test_a_label_drawn_on_stored_pixels_is_turned_as_its_image_is(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2], [0, 0, 2]], np.uint8)
    case = labelled(tmp_path, label)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "image.jpg", exif=exif(6))
    turned = replace(case, image=tmp_path / "image.jpg")
    assert np.array_equal(turned.read_label(), np.rot90(label, -1))
    assert np.array_equal(turned.read_mask(), np.rot90(label, -1) > 0)


def test_the_digest_of_a_case_changes_with_its_classes_alone_where_it_has_some(tmp_path: Path) -> None:
    case = labelled(tmp_path, np.ones((2, 2), np.uint8))
    plain = replace(case, classes=())
    files = [digest_of_file(tmp_path / name) for name in ("image.png", "label.png")]
    assert digest_of_case(plain) == digest_of_value(["", *files])
    assert len({digest_of_case(one) for one in (plain, case, replace(case, classes=DISC[:1]))}) == 3


def test_a_missing_file_and_a_missing_mask_name_the_case(tmp_path: Path) -> None:
    case = Case("case-7", tmp_path / "none.png", None, "g", "unannotated")
    with pytest.raises(DataError, match="case-7"):
        case.read_image()
    with pytest.raises(DataError, match="case-7"):
        case.read_mask()


@given(arrays(np.float64, (2, 5, 5), elements=st.floats(0, 1)))
def test_a_label_made_of_probabilities_holds_declared_values_so_that_a_cup_lies_in_its_disc(probability):
    classes = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))
    label = label_from_probabilities(probability, classes)
    disc, cup = masks_from_label(label, classes)
    assert set(np.unique(label)) <= {0, 1, 2} and not (cup & ~disc).any()
    sure = (np.abs(probability - 0.5) > 0.01).all(axis=0)
    nested = (probability[0] >= probability[1]) & sure
    assert (disc[nested] == (probability[0] > 0.5)[nested]).all() and (
        cup[nested] == (probability[1] > 0.5)[nested]
    ).all()


def test_a_label_survives_its_masks():
    classes = (LabelClass("tool", (9,)), LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))
    label = np.random.default_rng(0).choice([0, 1, 2, 9], (20, 20)).astype(np.uint8)
    masks = masks_from_label(label, classes)
    assert np.array_equal(label_from_probabilities(masks.astype(float), classes), label)
