"""Laws of lesions that an edge cuts: they lie at an edge that cuts them as their own does, and reach up to it."""

import numpy as np
import pytest

from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.edges import cut_lesion, place_at_edge, to_border
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.placement import placement_map_of
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png
from diffaug.data.request import MaskTransform

SIDE = 200
ALL = GenerateConfig(negatives=0.0, place="free")


def cut_case(folder, ellipse_in, name, centre, border=0):
    """Return a case whose lesion, an ellipse at a place, is cut by the edge of the frame or by a black border."""
    image = np.full((SIDE, SIDE, 3), (180, 100, 90), np.uint8)
    image[:, :border] = 0
    mask = ellipse_in((SIDE, SIDE), centre, (24, 34))
    mask[:, : border + bool(border)] = False
    image[mask] = (205, 90, 80)
    write_png(folder / f"{name}.png", image)
    write_png(folder / f"{name}-mask.png", mask.astype(np.uint8) * 255)
    return Case(name, folder / f"{name}.png", folder / f"{name}-mask.png", name, "train")


def map_of(case, lesion=True):
    mask = case.read_mask()
    return placement_map_of(case.read_image(), mask if lesion else np.zeros_like(mask))


def placed(case, transform, places):
    lesion = cut_lesion(MaskBank.from_cases([case]).entry(case.id, 0).cut.draft, map_of(case), transform, places)
    return place_at_edge(places, lesion, np.random.default_rng(0)), lesion


@pytest.mark.parametrize("border", [0, 40])
@pytest.mark.parametrize("flip", [False, True])
def test_a_cut_lesion_fits_the_edge_that_cut_it_and_the_same_edge_of_a_mirrored_frame(
    tmp_path, ellipse_in, border, flip
):
    case = cut_case(tmp_path, ellipse_in, "left", (100, border + 10), border)
    image = case.read_image()[:, ::-1] if flip else case.read_image()
    places = placement_map_of(np.ascontiguousarray(image), np.zeros((SIDE, SIDE), bool))
    corner, lesion = placed(case, MaskTransform(flip=flip, at_edge=True), places)
    own = MaskBank.from_cases([case]).entry(case.id, 0)
    column = SIDE - own.left - own.crop.shape[1] if flip else own.left
    assert abs(corner[1] - column) <= 2 * places.cell
    assert lesion.shape.shape == own.crop.shape


def test_a_cut_lesion_lies_at_no_edge_that_would_cut_another_side_of_it(tmp_path, ellipse_in):
    case = cut_case(tmp_path, ellipse_in, "above", (10, 100))
    image = np.full((SIDE, SIDE, 3), (180, 100, 90), np.uint8)
    image[:60] = 0
    image[:60, 90:110] = (180, 100, 90)  # where the lesion might be cut above, it would be cut beside, too
    assert placed(case, MaskTransform(at_edge=True), map_of(case, lesion=False))[0] is not None
    image[:140] = image[60:] = 0
    assert placed(case, MaskTransform(at_edge=True), placement_map_of(image, np.zeros((SIDE, SIDE), bool)))[0] is None


def test_a_lesion_that_is_longer_than_a_frame_is_wide_fits_nowhere_in_it(tmp_path, ellipse_in):
    case = cut_case(tmp_path, ellipse_in, "wide", (10, 100))
    image = np.full((400, 12, 3), (180, 100, 90), np.uint8)
    narrow = placement_map_of(image, np.zeros(image.shape[:2], bool))
    assert placed(case, MaskTransform(12.0, at_edge=True), narrow)[0] is None


def test_a_mask_reaches_the_border_that_it_comes_near_to_and_ends_there(ellipse_in):
    field = np.ones((120, 160), bool)
    field[:, :40] = False
    near, far = (ellipse_in(field.shape, (60, 60 + away), (20, 20)) for away in (2, 20))
    for mask in (near, far):
        made = to_border(mask, field)
        np.testing.assert_array_equal(to_border(made, field), made)
        assert not (made & ~field).any() and (made | ~field)[mask].all()
    assert to_border(near, field)[60, 40] and not near[60, 40]
    np.testing.assert_array_equal(to_border(far, field), far)
    over = ellipse_in(field.shape, (60, 45), (20, 20))
    np.testing.assert_array_equal(to_border(over, field) & field, to_border(over, field))
    assert to_border(over, field)[60, 40]


def test_the_values_of_classes_go_on_up_to_the_border(ellipse_in):
    field = np.ones((120, 160), bool)
    field[:, :40] = False
    label = ellipse_in(field.shape, (60, 62), (20, 20)).astype(np.uint8)
    label[60:] *= 2
    made = to_border(label, field)
    assert made[55, 40] == 1 and made[65, 40] == 2
    np.testing.assert_array_equal(made[label > 0], label[label > 0])


def test_requests_show_cut_lesions_at_edges_and_their_masks_are_cut_alike(tmp_path, ellipse_in):
    cut = [cut_case(tmp_path, ellipse_in, f"cut-{n}", (60 + 20 * n, 8)) for n in range(3)]
    whole = [cut_case(tmp_path, ellipse_in, f"whole-{n}", (60, 120 + 5 * n)) for n in range(3)]
    drawer = RequestDrawer([*cut, *whole], 0, ALL)
    drawn = list(drawer.draw_some(12))
    edge = [request for request in drawn if request.transform.at_edge]
    assert edge and {request.mask_case for request in edge} <= {case.id for case in cut}
    assert {request.mask_case for request in drawn} > {case.id for case in whole}
    for request in edge:
        new, own = drawer.masks(request).new, drawer.bank.entry(request.mask_case, request.component).in_frame()
        places = drawer.backgrounds.placement_map(request.background)
        assert new[:, 0].any() or new[:, -1].any()
        difference = places.share_cut(new) - drawer.backgrounds.placement_map(request.mask_case).share_cut(own)
        assert abs(difference) < 0.2  # another edge may come near
        assert request.example == request.mask_case
        assert abs(new.mean() / own.mean() / request.transform.scale**2 - 1) < 0.15
