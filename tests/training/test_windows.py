from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from diffaug.conditioning.attributes import measure_attributes
from diffaug.conditioning.cups import CUPS, cup_class, terms
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.fundus import vertical_ratio
from diffaug.data.lesions import lesion_masks
from diffaug.data.phantom import phantom_of_index
from diffaug.training.windows import (
    Annotated,
    Windows,
    dilated,
    drawn,
    encode_windows,
    extent,
    lesion_window,
    normal_window,
    random_blob,
    random_square,
    search_window,
    tissue_window,
)

SIDE, CELLS, CONTEXT = 64, 8, (1.3, 2.2)


def rngs(count=24):
    return [np.random.default_rng((5, n)) for n in range(count)]


def case_of(image, mask):
    lesions = lesion_masks(mask)
    case = Case("train-0", Path("image.png"), Path("mask.png"), "train-0", "train")
    return Annotated(case, image, mask, lesions, [measure_attributes(image, lesion) for lesion in lesions])


@pytest.fixture(scope="module")
def phantom_cases():
    found = [phantom_of_index("train", index, size=128, seed=1) for index in range(6)]
    return [case_of(phantom.image, phantom.mask) for phantom in found]


@pytest.fixture(scope="module")
def glowing():
    """A case whose lesion is white on grey, so that the pixels themselves say where it is."""
    rows, columns = np.mgrid[:128, :128]
    mask = ((rows - 70) / 30) ** 2 + ((columns - 50) / 15) ** 2 <= 1
    mask[60:70, 60:90] = True  # no symmetry
    image = np.where(mask[..., None], 250, 90).astype(np.uint8).repeat(3, axis=2)
    return case_of(image, mask)


def assert_well_formed(sketch):
    assert sketch.image.shape == (1, 3, SIDE, SIDE) and sketch.image.abs().max() <= 1
    assert sketch.region.shape == sketch.mask.shape == sketch.label.shape == (1, 1, SIDE, SIDE)
    assert set(sketch.region.unique().tolist()) <= {0.0, 1.0} and sketch.region.sum() > 0
    for share in (sketch.mask, sketch.label):
        assert share.min() >= 0 and share.max() <= 1
    assert len(sketch.scale) == 2 and isinstance(sketch.prompt, str)


def assert_same(first, second):
    assert (first.prompt, first.scale) == (second.prompt, second.scale)
    for name in ("image", "region", "mask", "label"):
        assert torch.equal(getattr(first, name), getattr(second, name))


# Windows


def test_a_lesion_window_may_be_painted_wherever_the_lesion_is_and_beyond(phantom_cases):
    for number, rng in enumerate(rngs()):
        sketch = lesion_window(phantom_cases[number % 6], SIDE, CELLS, CONTEXT, rng)
        assert_well_formed(sketch)
        assert sketch.mask.sum() > 1
        assert (sketch.region[sketch.mask > 0.5] == 1).all()
        assert sketch.region.sum() > (sketch.mask > 0.5).sum()
        assert (sketch.label >= sketch.mask - 1e-6).all()  # the lesion to be painted is one of those annotated
        assert "lesion" in sketch.prompt


def test_a_users_own_prompt_is_kept(phantom_cases):
    case = replace(phantom_cases[0], case=replace(phantom_cases[0].case, prompt="sessile adenoma"))
    assert lesion_window(case, SIDE, CELLS, CONTEXT, rngs(1)[0]).prompt == "sessile adenoma"


def test_a_normal_window_has_no_lesion_where_it_is_painted(phantom_cases):
    found = [normal_window(phantom_cases[number % 6], SIDE, CELLS, rng) for number, rng in enumerate(rngs())]
    found = [sketch for sketch in found if sketch is not None]
    assert len(found) > 12
    for sketch in found:
        assert_well_formed(sketch)
        assert (sketch.region * sketch.label).sum() == 0
        assert sketch.mask.sum() == 0
        assert sketch.prompt == NORMAL_PROMPT
    assert any(sketch.label.sum() > 0 for sketch in found)  # a lesion beside the region is no hindrance


def test_a_frame_that_is_all_lesion_or_all_dark_has_no_normal_window():
    image = np.full((128, 128, 3), 120, np.uint8)
    everywhere = case_of(image, np.ones((128, 128), dtype=bool))
    assert normal_window(everywhere, SIDE, CELLS, rngs(1)[0]) is None
    mask = np.zeros((128, 128), dtype=bool)
    mask[:9, :9] = True
    assert normal_window(case_of(image // 30, mask), SIDE, CELLS, rngs(1)[0]) is None


def test_a_search_window_is_lesion_free_when_asked_and_else_shows_a_lesion(phantom_cases):
    for lesion_free in (True, False):
        found = []
        for number, rng in enumerate(rngs(36)):
            sketch = search_window(phantom_cases[number % 6], SIDE, CELLS, rng, lesion_free)
            assert_well_formed(sketch)
            assert (sketch.region[sketch.label > 0.5] == 1).all()
            assert (sketch.prompt == NORMAL_PROMPT) == (sketch.label.sum().item() == 0)
            found.append(sketch.label.sum().item() == 0)
        share = np.mean(found)
        assert share > 0.85 if lesion_free else share < 0.05


def test_lesions_of_search_windows_are_off_the_centre_and_cut(phantom_cases):
    sketches = [
        search_window(phantom_cases[n % 6], SIDE, CELLS, rng, lesion_free=False) for n, rng in enumerate(rngs(60))
    ]
    labels = [sketch.label[0, 0].numpy() > 0.5 for sketch in sketches]
    centre = np.array([ndimage.center_of_mass(label) for label in labels if label.any()]) / SIDE
    assert centre.std(axis=0).min() > 0.1
    cut = [label[0].any() or label[-1].any() or label[:, 0].any() or label[:, -1].any() for label in labels]
    assert 0.15 < np.mean(cut) < 0.95


def test_a_tissue_window_uses_no_annotation(phantom_cases):
    for number, rng in enumerate(rngs(8)):
        sketch = tissue_window(phantom_cases[number % 6].image, SIDE, CELLS, rng)
        assert_well_formed(sketch)
        assert sketch.label.sum() == 0
        assert (sketch.region[sketch.mask > 0.5] == 1).all()
        assert "area" in sketch.prompt and "lesion" not in sketch.prompt


def test_image_mask_and_label_are_turned_together(glowing):
    for rng in rngs(16):
        sketch = lesion_window(glowing, SIDE, CELLS, CONTEXT, rng)
        bright = sketch.image.mean(1, keepdim=True)
        assert bright[sketch.mask > 0.99].min() > bright[sketch.label < 0.01].max()
        sketch = search_window(glowing, SIDE, CELLS, rng, lesion_free=False)
        bright = sketch.image.mean(1, keepdim=True)
        inside, outside = (-F.max_pool2d(-part, 7, 1, 3) > 0 for part in (sketch.label, 1 - sketch.label))
        assert not inside.any() or bright[inside].min() > bright[outside].max()


def test_windows_are_turned_and_mirrored_in_every_way(glowing):
    whole = (9.0, 9.0)  # the window is the frame: nothing but turns and mirrors are left
    assert len({lesion_window(glowing, SIDE, CELLS, whole, rng).mask.argmax().item() for rng in rngs(60)}) == 8


def test_the_scale_tells_the_size_of_the_window_in_the_frame(glowing):
    near = lesion_window(glowing, SIDE, CELLS, (1.3, 1.3), rngs(1)[0]).scale
    far = lesion_window(glowing, SIDE, CELLS, (2.0, 2.0), rngs(1)[0]).scale
    assert far[0] > near[0] and far[1] > near[1]


def test_a_window_is_a_pure_function_of_its_generator(phantom_cases):
    case = phantom_cases[0]
    makers = (
        lambda rng: lesion_window(case, SIDE, CELLS, CONTEXT, rng),
        lambda rng: normal_window(case, SIDE, CELLS, rng),
        lambda rng: search_window(case, SIDE, CELLS, rng, lesion_free=False),
        lambda rng: tissue_window(case.image, SIDE, CELLS, rng),
    )
    for make in makers:
        first, second = (make(np.random.default_rng(3)) for _ in range(2))
        assert_same(first, second)


def test_a_drawn_window_depends_on_its_number_alone(phantom_cases):
    def make(_, rng):
        return tissue_window(phantom_cases[0].image, SIDE, CELLS, rng)

    few, many = list(drawn(make, 2, 4)), list(drawn(make, 4, 4))
    for first, second in zip(few, many, strict=False):
        assert_same(first, second)
    assert list(drawn(lambda _, rng: None, 3, 4)) == []


# Classes


@pytest.fixture(scope="module")
def discs(eyes):
    return [Annotated.of(case) for case in read_dataset(eyes).split("train")]


def test_a_window_has_a_mask_for_each_class_in_the_order_of_the_data_set(discs):
    for number, rng in enumerate(rngs(12)):
        sketch = lesion_window(discs[number % 8], SIDE, CELLS, CONTEXT, rng)
        assert sketch.mask.shape == sketch.label.shape == (1, 2, SIDE, SIDE)
        assert sketch.region.shape == (1, 1, SIDE, SIDE)
        assert (sketch.mask[:, 1] <= sketch.mask[:, 0]).all()  # the cup lies in the disc
        assert (sketch.region[sketch.mask.amax(1, keepdim=True) > 0.5] == 1).all()
        assert (sketch.mask[:, 1].sum() > 1) == (number % 8 != 7)  # one eye has no cup
        searched = search_window(discs[number % 8], SIDE, CELLS, rng, lesion_free=False)
        assert searched.label.shape == (1, 2, SIDE, SIDE) and searched.region.shape == (1, 1, SIDE, SIDE)


def test_a_disc_is_described_with_the_cup_that_the_window_shows(discs):
    said = set()
    for number, rng in enumerate(rngs(40)):
        sketch = lesion_window(discs[number % 8], SIDE, CELLS, CONTEXT, rng)
        assert "optic disc" in sketch.prompt and "lesion" not in sketch.prompt
        disc, cup = sketch.mask[0].numpy() > 0.5
        named = [name for name in CUPS if sketch.prompt.endswith(terms()[name])]
        assert named in ([], [cup_class(vertical_ratio(disc, cup))])
        said |= set(named)
    assert {"no-cup", "average-cup", "large-cup", "very-large-cup"} <= said


def test_the_union_of_classes_is_drawn_as_a_mask_of_one_class_is(discs):
    whole = replace(discs[2], classes=None, case=replace(discs[2].case, classes=()))
    makers = (
        lambda case, rng: lesion_window(case, SIDE, CELLS, CONTEXT, rng),
        lambda case, rng: search_window(case, SIDE, CELLS, rng, lesion_free=False),
    )
    for make in makers:
        one, two = (make(case, np.random.default_rng(4)) for case in (whole, discs[2]))
        assert torch.equal(one.image, two.image) and torch.equal(one.region, two.region)
        assert torch.equal(one.label, two.label.amax(1, keepdim=True))


def test_a_lesion_of_several_takes_its_own_classes_along():
    image, mask = np.full((128, 128, 3), 120, np.uint8), np.zeros((2, 128, 128), dtype=bool)
    mask[0, 20:50, 20:50], mask[1, 30:40, 30:40] = True, True
    mask[0, 80:100, 80:100] = True
    case = replace(case_of(image, mask[0]), classes=mask)
    areas = [lesion_window(case.alone(n), SIDE, CELLS, CONTEXT, rngs(1)[0]).mask[0, 1].sum() > 0 for n in (0, 1)]
    assert areas == [True, False]


# Shapes


def test_a_blob_is_one_piece_of_any_size_inside_the_window():
    shares = []
    for rng in rngs(60):
        blob = random_blob(SIDE, rng)
        assert set(blob.unique().tolist()) == {0.0, 1.0}
        _, pieces = ndimage.label(blob[0, 0].numpy())
        assert pieces == 1
        shares.append(blob.mean().item())
    assert min(shares) < 0.06 and max(shares) > 0.2


def test_dilation_reaches_as_far_as_asked():
    mask = torch.zeros(1, 1, 32, 32)
    mask[0, 0, 16, 16] = 1
    grown = dilated(mask, 5)
    assert grown[0, 0, 16, 21] == 1 and grown[0, 0, 16, 22] == 0
    assert extent(grown) == pytest.approx(10, rel=0.1)


def test_random_squares_lie_in_the_frame():
    for rng in rngs(60):
        window = random_square((90, 130), rng)
        assert 0 <= window.top <= 90 - window.side and 0 <= window.left <= 130 - window.side
        assert 18 <= window.side <= 90


# Encoding


def test_encoding_does_not_depend_on_the_batch(untrained, phantom_cases):
    sketches = [lesion_window(phantom_cases[n % 6], SIDE, CELLS, CONTEXT, rng) for n, rng in enumerate(rngs(5))]
    together, apart = encode_windows(untrained, sketches), encode_windows(untrained, iter(sketches), batch=2)
    assert len(together) == len(apart) == 5
    for name, value in vars(together).items():
        torch.testing.assert_close(getattr(apart, name), value, atol=1e-4, rtol=1e-4)
    picked = together.rows(torch.tensor([3, 1]))
    assert isinstance(picked, Windows) and torch.equal(picked.x0[0], together.x0[3])


def test_encoded_masks_keep_their_area_and_regions_cover_what_they_touch(untrained, phantom_cases):
    sketches = [lesion_window(phantom_cases[n % 6], SIDE, CELLS, CONTEXT, rng) for n, rng in enumerate(rngs(5))]
    windows = encode_windows(untrained, sketches)
    area = torch.cat([sketch.mask for sketch in sketches]).mean((1, 2, 3))
    torch.testing.assert_close(windows.mask.mean((1, 2, 3)), area)
    torch.testing.assert_close(windows.fine_mask.mean((1, 2, 3)), area)
    assert windows.fine_mask.shape == windows.label.shape == windows.fine_region.shape == (5, 1, 32, 32)
    assert (windows.region.mean((1, 2, 3)) >= windows.fine_region.mean((1, 2, 3))).all()
    assert windows.tokens.shape == (5, 32)
    told = windows.conditioning(untrained.embed_tokens(windows.tokens))
    assert len(told) == 5 and torch.equal(told.masked_image_latents, windows.masked)
