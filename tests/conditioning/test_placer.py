import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffaug.conditioning.attributes import band_width, near
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.placement import BAND
from diffaug.conditioning.placer import REST
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png
from diffaug.errors import DataError

CONFIG = GenerateConfig(negatives=0.0)


def test_a_removed_lesion_leaves_its_place_to_a_smaller_or_another_one(cases):
    drawer, over, beside = RequestDrawer(cases, 0, GenerateConfig(negatives=0.0, place="removed")), 0, 0
    for index in range(40):
        request = drawer.draw(index)
        masks, lesion = drawer.masks(request), drawer.backgrounds.lesion(request.background)
        np.testing.assert_array_equal(masks.label, masks.new)
        assert not masks.old.any()
        over, beside = over + (masks.new & lesion).any(), beside + (masks.new & ~lesion).any()
    assert over > 5 and beside > 5


def test_nothing_comes_from_outside_the_cases(cases, requests):
    names = {case.id for case in cases}
    assert {request.background for request in requests} | {request.mask_case for request in requests} <= names


@pytest.mark.parametrize("split", ["val", "test"])
def test_cases_of_val_and_test_are_refused(cases, split):
    outside = replace(cases[0], split=split)
    with pytest.raises(DataError, match="training cases only"):
        RequestDrawer([*cases[1:], outside], 0, CONFIG)
    with pytest.raises(DataError, match="training cases only"):
        RequestDrawer(cases, 0, CONFIG, others=[outside])


def test_lesion_free_images_are_backgrounds_but_give_no_masks(cases, tmp_path):
    write_png(tmp_path / "normal.png", np.full((120, 160, 3), (180, 100, 90), np.uint8))
    normal = replace(cases[0], id="normal-1", image=tmp_path / "normal.png", mask=None, split="unannotated")
    drawer = RequestDrawer(cases[:2], 0, GenerateConfig(negatives=0.0, place="free"), others=[normal])
    drawn = [drawer.draw(index) for index in range(30)]
    used = [request for request in drawn if request.background == "normal-1"]
    assert used and all(request.mask_case != "normal-1" for request in drawn)
    masks = drawer.masks(used[0])
    assert masks.new.shape == (120, 160)
    np.testing.assert_array_equal(masks.label, masks.new)


def narrow_view(cases, folder):
    """Return a case whose frame shows hardly more tissue than its lesion: no patch of it covers that."""
    rows, columns = np.mgrid[:160, :160] - 79.5
    lesion, view = np.hypot(rows, columns) < 24, np.hypot(rows, columns) < 44
    image = np.where(view[..., None], np.where(lesion[..., None], (205, 90, 80), (190, 100, 85)), 0)
    write_png(folder / "narrow.png", image.astype(np.uint8))
    write_png(folder / "narrow-mask.png", lesion.astype(np.uint8) * 255)
    return replace(
        cases[0], id="narrow", group="narrow", image=folder / "narrow.png", mask=folder / "narrow-mask.png"
    )  # fmt: skip


@pytest.mark.parametrize("place", ["removed", "replace", "mixed"])
def test_no_lesion_is_to_go_that_tissue_of_its_frame_does_not_cover(cases, tmp_path, place):
    config = GenerateConfig(negatives=0.0, place=place)
    drawer = RequestDrawer([*cases[:4], narrow_view(cases, tmp_path)], 0, config)
    assert not drawer.backgrounds.can_be_cleared("narrow")
    assert not drawer.backgrounds.can_be_covered(drawer.backgrounds.lesions_of("narrow")[0])
    for index in range(20):
        request = drawer.draw(index)
        if request.background == "narrow":
            assert request.placement == "replace"
            masks = drawer.masks(request)
            rest = near(masks.old, band_width(masks.new, BAND)) & ~masks.new
            assert rest.sum() <= REST * masks.new.sum()
        elif request.placement == "removed":
            assert drawer.backgrounds.can_be_cleared(request.background)


@pytest.mark.skipif("DIFFAUG_DATA" not in os.environ, reason="needs real images: set DIFFAUG_DATA to their folder")
def test_on_real_frames_no_new_mask_touches_black_or_an_overlay_or_a_lesion_that_stays():
    folder = Path(os.environ["DIFFAUG_DATA"]) / "kvasir-seg" / "train"
    images = sorted((folder / "images").iterdir())[:20]
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    real = [Case(f"train-{path.stem}", path, masks[path.stem], path.stem, "train") for path in images]
    drawer = RequestDrawer(real, 0, CONFIG)
    for index in range(20):
        request = drawer.draw(index)
        found, image = drawer.masks(request), drawer.cases[request.background].read_image().astype(int)
        lesion = drawer.backgrounds.lesion(request.background) & (request.placement != "removed")
        black, green = image.max(axis=2) < 12, image[..., 1] > image[..., 0] + 40
        for forbidden in (black, green, lesion & ~found.old):
            assert np.count_nonzero(found.new & forbidden) <= 0.01 * np.count_nonzero(found.new)
