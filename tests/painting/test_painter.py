import io
import shutil

import numpy as np
import pytest
import torch
from layouts import ellipse
from PIL import Image
from scipy import ndimage

from diffaug import Painter
from diffaug.conditioning.attributes import band_width
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.request import RequestMasks
from diffaug.data.folder import read_dataset
from diffaug.errors import ConfigError, DataError, ModelError, ShapeError
from diffaug.models.checkpoints import seal
from diffaug.painting.layout import layout_of
from diffaug.painting.window import CONTEXT


@pytest.fixture(scope="module")
def painter(fitted):
    return Painter.load(fitted)


@pytest.fixture(scope="module")
def image(phantoms):
    return read_dataset(phantoms).split("unannotated")[0].read_image()


@pytest.fixture(scope="module")
def mask(image):
    """An ellipse in the middle of the frame."""
    made = ellipse(image.shape[:2], (64, 60), (9, 14))
    assert field_of_view(image)[made].all()
    return made


def near(mask):
    """Where a painting of the mask may differ: inside the blending band around it."""
    return ndimage.distance_transform_edt(~mask) <= band_width(mask, 0.08)


@pytest.mark.parametrize("start", ["noise", "image"])
def test_every_pixel_outside_the_blending_band_is_the_images_byte_for_byte(painter, image, mask, start):
    before = image.copy()
    made = painter.paint(image, mask, prompt="a small pale lesion", seed=1, start=start)
    assert made.image.shape == image.shape and made.image.dtype == np.uint8
    assert (made.image[~near(mask)] == image[~near(mask)]).all()
    assert (made.image[mask] != image[mask]).any()
    assert (image == before).all() and (made.label == mask).all() and made.label is not mask


def test_the_same_seed_paints_the_same_bytes_and_another_seed_others(painter, image, mask):
    first, again, other = (painter.paint(image, mask, seed=seed) for seed in (1, 1, 2))
    assert (first.image == again.image).all() and first.checks == again.checks
    assert (first.image != other.image).any()


def test_prompt_and_start_reach_what_is_painted(painter, image, mask):
    plain = painter.paint(image, mask, seed=1).image
    assert (painter.paint(image, mask, prompt="a large red polyp", seed=1).image != plain).any()
    assert (painter.paint(image, mask, seed=1, start="image").image != plain).any()


def test_the_decision_is_that_of_the_look_at_the_result(painter, image, mask):
    made = painter.paint(image, mask, seed=1)
    (check,) = made.checks
    assert (check.step, check.t) == (painter.sampler.steps, 0)
    assert made.decision == ("kept" if check.accepted else "rejected")
    assert f"{check.score:.3f}" in made.reason and f"{check.threshold:.3f}" in made.reason


def test_a_painting_shows_itself_in_a_notebook_and_says_little_in_a_shell(painter, image, mask):
    made = painter.paint(image, mask, seed=1)
    assert (np.asarray(Image.open(io.BytesIO(made._repr_png_()))) == made.image).all()
    assert len(repr(made)) < 500 and "array" not in repr(made)


def test_painting_touches_no_disk(painter, image, mask, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.open", refuse)
    painter.paint(image, mask, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_painted_at_its_own_size(painter, image, mask):
    large, wide = (
        np.kron(values, np.ones((2, 2) + (1,) * (values.ndim - 2), values.dtype)) for values in (image, mask)
    )
    made = painter.paint(large, wide, seed=1)
    assert made.image.shape == large.shape and (made.image[~near(wide)] == large[~near(wide)]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image, mask: (image[..., 0], mask), "an image is an array (H, W, 3) of uint8: it is uint8 of shape"),
        (lambda image, mask: (image / 255, mask), "float64"),
        (lambda image, mask: (image[:20, :20], mask[:20, :20]), "32 px"),
        (lambda image, mask: ("frame.png", mask), "str"),
        (lambda image, mask: (image, mask[:100]), "with the shape of its image"),
        (lambda image, mask: (image, mask.astype(np.uint8)), "write mask > 0"),
        (lambda image, mask: (image, np.stack([mask, mask])), "with the shape of its image"),
        (lambda image, mask: (image, [[True]]), "list"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused_in_one_line(painter, image, mask, change, said):
    with pytest.raises(ShapeError) as error:
        painter.paint(*change(image, mask))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_empty_mask_and_one_outside_the_field_of_view_are_refused(painter, image, mask):
    with pytest.raises(DataError, match="it is empty"):
        painter.paint(image, np.zeros_like(mask))
    dark = image.copy()
    dark[:, :90] = 0  # a black border over most of the mask
    with pytest.raises(DataError, match="lie in the field of view"):
        painter.paint(dark, mask)


def test_an_unknown_start_is_refused(painter, image, mask):
    with pytest.raises(ConfigError, match="start is noise or image: it is 'mask'"):
        painter.paint(image, mask, start="mask")


def test_a_mask_of_each_class_is_painted_by_a_model_of_several(fitted_eyes, eyes):
    case = read_dataset(eyes).split("test")[0]
    painter, masks = Painter.load(fitted_eyes), case.read_masks()
    made = painter.paint(case.read_image(), masks, seed=1)
    assert (made.label == masks).all() and made.image.shape == case.read_image().shape
    with pytest.raises(ShapeError, match=r"here \(2, 96, 96\)"):
        painter.paint(case.read_image(), masks[0])


def test_a_model_without_a_sampler_is_refused_in_one_line(fitted, tmp_path):
    model = shutil.copytree(fitted, tmp_path / "model")
    (model / "sampler.json").unlink()
    seal(model)
    with pytest.raises(
        ModelError, match=r"sampler\.json is missing or malformed, as in models of older versions"
    ) as error:
        Painter.load(model)
    assert "\n" not in str(error.value)


def test_windows_are_drawn_within_the_context(painter, image, mask):
    masks = RequestMasks(mask, np.zeros_like(mask), mask, mask.astype(np.uint8))
    view = field_of_view(image)
    sides = {layout_of(image, masks, mask[None], view, prompt="", seed=seed).window.side for seed in range(20)}
    longer = 27
    assert len(sides) > 3 and max(32, CONTEXT[0] * longer) <= min(sides) and max(sides) <= CONTEXT[1] * longer + 8
    one, other = (layout_of(image, masks, mask[None], view, prompt="", seed=3) for _ in range(2))
    assert one.window == other.window and torch.equal(*(torch.from_numpy(a.tissue) for a in (one, other)))
