import os
from pathlib import Path

import numpy as np
import pytest
from layouts import Pixels, fundus
from PIL import Image

from diffaug.data.fundus import (
    DiscPlace,
    crop_around,
    disc_and_cup,
    locate_disc,
    vertical_diameter,
    vertical_ratio,
)
from diffaug.data.images import read_image, read_label
from diffaug.errors import DataError, ShapeError

REAL = os.environ.get("DIFFAUG_DATA")


@pytest.mark.parametrize("seed", range(8))
def test_the_crop_holds_the_disc_of_a_drawn_photograph(seed: int) -> None:
    pixels, label = fundus(seed, 300)
    window = crop_around(locate_disc(pixels), 300, 300, 3)
    assert (label[window] > 0).sum() == (label > 0).sum()
    assert label[window].shape[0] < 150


@pytest.mark.parametrize("factor", [0.6, 1.3, 2.0])
def test_the_place_grows_with_the_image(factor: float) -> None:
    pixels, _ = fundus(0, 300)
    side = round(300 * factor)
    scaled = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    first, second = locate_disc(pixels), locate_disc(scaled)
    for name in ("row", "column", "diameter"):
        assert getattr(second, name) == pytest.approx(factor * getattr(first, name), rel=0.05)


def test_dark_margins_move_the_place_and_change_nothing_else() -> None:
    pixels, _ = fundus(1, 300)
    first, second = locate_disc(pixels), locate_disc(np.pad(pixels, ((0, 0), (40, 60), (0, 0)), constant_values=2))
    assert second.row == pytest.approx(first.row, abs=4)
    assert second.column == pytest.approx(first.column + 40, abs=4)
    assert second.diameter == pytest.approx(first.diameter, rel=0.05)


@pytest.mark.parametrize("value", [0, 120])
@pytest.mark.parametrize("shape", [(60, 80, 3), (1, 1, 3)])
def test_an_image_without_a_disc_has_a_place_inside_it(value: int, shape: tuple[int, ...]) -> None:
    place = locate_disc(np.full(shape, value, np.uint8))
    assert 0 <= place.row <= shape[0] and 0 <= place.column <= shape[1]


@pytest.mark.parametrize("row", [0, 5, 50, 99, 120])
@pytest.mark.parametrize("diameter", [4, 20, 90])
def test_a_crop_is_a_square_inside_the_image(row: float, diameter: float) -> None:
    rows, columns = crop_around(DiscPlace(row, 30, diameter), 100, 80, 3)
    sides = rows.stop - rows.start, columns.stop - columns.start
    assert sides == (min(80, 3 * diameter),) * 2
    assert min(rows.start, columns.start) >= 0 and rows.stop <= 100 and columns.stop <= 80


def embedded(crop: Pixels, label: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Set a crop around a disc, a quarter of its size, into a field of view of its edge's colour on a dark ground."""
    small = np.asarray(Image.fromarray(crop).resize((128, 128), Image.Resampling.BOX), dtype=np.float64)
    rows, columns = np.mgrid[:480, :480]
    radius = np.hypot(rows - 240, columns - 240) / 230
    edge = np.median(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]), axis=0)
    photograph = edge * (1.05 - 0.45 * radius[..., None] ** 2)
    top, left = int(176 + rng.uniform(-30, 30)), int(rng.choice((70, 282)) + rng.uniform(-15, 15))
    place = np.s_[top : top + 128, left : left + 128]
    away = np.minimum(np.arange(128), np.arange(128)[::-1])
    weight = np.clip(np.minimum(away[:, None], away[None, :]) / 22, 0, 1)[..., None]
    photograph[place] = weight * small + (1 - weight) * photograph[place]
    photograph *= 1 + 0.8 * np.exp(-(((radius - 1) / 0.03) ** 2))[..., None]  # flash haze at the border
    photograph[radius > 1] = 3
    whole = np.zeros((480, 480), np.uint8)
    whole[place] = np.asarray(Image.fromarray(label).resize((128, 128), Image.Resampling.NEAREST))
    whole[radius > 1] = 0
    return np.clip(photograph, 0, 255).astype(np.uint8), whole


@pytest.mark.parametrize(("disc", "cup"), [((40, 36), (10, 12)), ((31, 20), (30, 3)), ((25, 25), (0, 0))])
def test_the_vertical_ratio_of_ellipses_is_that_of_their_vertical_axes(disc, cup) -> None:
    rows, columns = np.mgrid[:101, :101] - 50

    def drawn(height: int, width: int) -> np.ndarray:
        if height == 0:
            return np.zeros((101, 101), dtype=bool)
        return (rows / (height + 0.5)) ** 2 + (columns / (width + 0.5)) ** 2 <= 1

    heights = [2 * half + 1 if half else 0 for half in (disc[0], cup[0])]
    assert [vertical_diameter(drawn(*one)) for one in (disc, cup)] == heights
    assert vertical_ratio(drawn(*disc), drawn(*cup)) == heights[1] / heights[0]


def test_a_photograph_without_a_disc_has_no_ratio_and_one_without_a_cup_has_zero() -> None:
    empty, disc = np.zeros((9, 9), dtype=bool), np.ones((9, 9), dtype=bool)
    assert vertical_ratio(disc, empty) == 0.0
    assert vertical_ratio(empty, empty) is None and vertical_ratio(empty, disc) is None


def test_a_disc_that_is_declared_as_its_rim_has_the_ratio_of_the_whole() -> None:
    disc, cup = np.zeros((2, 30, 30), dtype=bool)
    disc[5:25, 5:25], cup[10:18, 10:18] = True, True
    assert vertical_ratio(disc & ~cup, cup) == vertical_ratio(disc, cup) == 0.4


def test_disc_and_cup_are_found_by_their_names() -> None:
    assert disc_and_cup(("rim", "disc", "cup")) == (1, 2) and disc_and_cup(("disc",)) is None


@pytest.mark.skipif(REAL is None, reason="DIFFAUG_DATA names no folder of real images")
def test_the_crop_holds_the_disc_of_real_photographs_in_a_dark_canvas() -> None:
    rng = np.random.default_rng(0)
    paths = sorted((Path(str(REAL)) / "drishti-gs" / "images").iterdir())
    assert len(paths) == 50
    for path in paths:
        photograph, whole = embedded(read_image(path), read_label(path.parent.parent / "masks" / path.name), rng)
        window = crop_around(locate_disc(photograph), 480, 480, 3)
        assert (whole[window] > 0).sum() == (whole > 0).sum() > 0, path.name


def test_what_is_no_photograph_or_no_mask_is_refused() -> None:
    disc = np.zeros((20, 20), bool)
    with pytest.raises(ShapeError, match=r"this one has \(20, 20\)"):
        locate_disc(disc)
    with pytest.raises(ShapeError, match=r"the shape of its image, \(20, 20\): this one has \(20, 19\)"):
        vertical_ratio(disc, disc[:, 1:])
    with pytest.raises(DataError, match="pass mask > 0"):
        vertical_ratio(disc, disc.astype(np.uint8))
