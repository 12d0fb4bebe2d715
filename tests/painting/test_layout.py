import numpy as np
import pytest
from scipy import ndimage

from diffaug.conditioning.attributes import band_width
from diffaug.conditioning.request import RequestMasks
from diffaug.painting.below import share_below
from diffaug.painting.layout import layout_of

SIDE = 120
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
FIELD = (ROWS > 4) & (COLUMNS > 4)
FRAME = np.full((SIDE, SIDE, 3), 120, np.uint8)


def disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) <= radius


def laid(new, others=None, **effect):
    label = new if others is None else new | others
    masks = RequestMasks(new, np.zeros_like(new), label, label.astype(np.uint8))
    return layout_of(FRAME, masks, new[None], FIELD, prompt="", seed=0, **effect)


def test_without_an_example_the_region_is_the_mask_and_its_band():
    new = disc(60, 60, 15)
    layout = laid(new)
    assert (layout.region == (ndimage.distance_transform_edt(~new) <= band_width(new, 0.08)) & FIELD).all()
    assert (layout.reach & layout.field == layout.region).all()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_halo_widens_the_region_and_not_what_the_painter_fills(share):
    new = disc(40, 30, 15)
    plain, layout = laid(new), laid(new, halo=share)
    assert (layout.reach == plain.reach).all()
    assert layout.halo == pytest.approx(share * 15, rel=0.03)
    assert (layout.region == (ndimage.distance_transform_edt(~new) <= layout.halo) & FIELD).all()
    window = layout.window
    assert window.side >= 2 * (15 + 1.3 * layout.halo)


def test_a_halo_leaves_other_lesions_alone():
    new, other = disc(60, 50, 15), disc(60, 74, 6)
    assert not (laid(new, other, halo=0.8).region & other).any()


def test_an_effect_below_is_part_of_the_region():
    new = disc(40, 60, 12)
    layout = laid(new, halo=0.4, depth=1.0)
    assert layout.depth == 25
    assert layout.region[share_below(new, 25) > 0.05].all()
    assert not layout.region[:20].any() and layout.region[60, 60] and not layout.region[80:].any()
