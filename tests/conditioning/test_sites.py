"""Frames whose lower half is textured and bright; lesions lie in its left part."""

from dataclasses import replace

import numpy as np
import pytest
from layouts import ellipse

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.kinds import Kinds
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.rules import ENDOSCOPIC
from diffaug.conditioning.sites import FLOOR, Sites
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png

SIDE = 96


def write_frame(folder, name, centre, tissue=(150, 90, 80), size=SIDE):
    rng = np.random.default_rng(abs(hash(centre)) % 2**32 if centre else 1)
    image = np.full((size, size, 3), tissue, float) * 0.75
    image[size // 2 :] = np.array(tissue) + rng.normal(0, 6, (size - size // 2, size, 1))
    mask = np.zeros((size, size), bool)
    if centre:
        mask = ellipse((size, size), centre, (size * 0.06, size * 0.07), 0.0)
        image[mask] = (200, 60, 60)
    paths = folder / f"{name}.png", folder / f"{name}-mask.png"
    write_png(paths[0], np.clip(image, 0, 255).astype(np.uint8))
    write_png(paths[1], mask.astype(np.uint8) * 255)
    return Case(name, *paths, name, "train")


@pytest.fixture(scope="module")
def lower_left(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lower-left")
    rng = np.random.default_rng(0)
    centres = [(float(SIDE * rng.uniform(0.65, 0.8)), float(SIDE * rng.uniform(0.15, 0.4))) for _ in range(24)]
    return tuple(write_frame(folder, f"train-{n:02d}", centre) for n, centre in enumerate(centres))


def test_a_lesion_is_likelier_where_lesions_lie_and_impossible_nowhere(lower_left):
    bank = MaskBank.from_cases(lower_left)
    backgrounds = Backgrounds({case.id: case for case in lower_left}, (), bank)
    density = Sites(backgrounds, bank.entries).density("train-00", True, 0.013)
    rows, columns = (side // 4 for side in density.shape)
    assert density[2 * rows :, : 2 * columns].mean() > 5 * density[:rows, 2 * columns :].mean()
    assert density.min() >= FLOOR * density.mean() * 0.9
    assert np.isfinite(density).all()


def test_painted_lesions_lie_where_real_ones_do(lower_left):
    drawer = RequestDrawer(lower_left, 0, GenerateConfig(negatives=0.0, place="removed"))
    centres = []
    for index in range(24):
        rows, columns = np.nonzero(drawer.masks(drawer.draw(index)).new)
        centres.append((rows.mean() / SIDE, columns.mean() / SIDE))
    down, across = np.median(centres, axis=0)
    assert down > 0.55 and across < 0.5


@pytest.mark.parametrize(("domain", "stays"), [("ultrasound", True), ("endoscopy", False)])
def test_a_lesion_of_a_scan_stays_at_about_its_depth(tmp_path, domain, stays):
    centres = [(SIDE * down, SIDE * 0.5) for down in np.linspace(0.15, 0.85, 12)]
    cases = {case.id: case for case in (write_frame(tmp_path, f"{n:02d}", at) for n, at in enumerate(centres))}
    bank = MaskBank.from_cases(tuple(cases.values()))
    sites = Sites(Backgrounds(cases, (), bank, replace(ENDOSCOPIC, domain=domain)), bank.entries)
    for name in ("01", "10"):
        density = sites.density("05", True, 0.013, bank.components(name)[0])
        rows = np.linspace(0, 1, density.shape[0])
        likely = density.sum(axis=1) / density.sum()
        far = np.abs(rows - centres[int(name)][0] / SIDE) > 0.25
        assert (likely[far].sum() < 0.01) == stays


def test_without_a_pattern_the_density_is_even(cases):
    bank = MaskBank.from_cases(cases)
    backgrounds = Backgrounds({case.id: case for case in cases}, (), bank)
    places = backgrounds.placement_map("train-0", True)
    density = Sites(backgrounds, bank.entries[:1]).density("train-0", True, 0.02)[places.tissue]
    assert density.max() < 12 * np.median(density)


def test_masks_and_examples_of_a_dark_frame_do_not_go_onto_a_bright_one(tmp_path):
    dark = [write_frame(tmp_path, f"dark-{n}", (60.0, 30.0 + n), (45, 45, 45)) for n in range(6)]
    bright = [write_frame(tmp_path, f"pale-{n}", (60.0, 30.0 + n), (220, 190, 215)) for n in range(6)]
    drawer = RequestDrawer([*dark, *bright], 0, GenerateConfig(negatives=0.0, place="replace"))
    for index in range(24):
        request = drawer.draw(index)
        assert {name[:4] for name in request.sources} in ({"dark"}, {"pale"})


def test_frames_of_one_kind_weigh_about_alike_and_a_frame_alone_has_the_nearest(lower_left, tmp_path):
    odd = write_frame(tmp_path, "white", None, (250, 250, 250))
    bank = MaskBank.from_cases(lower_left)
    backgrounds = Backgrounds({case.id: case for case in lower_left}, (replace(odd, mask=None),), bank)
    kinds = Kinds(backgrounds, bank.names)
    assert kinds.weights("train-03").min() > 0.9
    assert np.count_nonzero(kinds.weights("white")) >= 3


def test_backgrounds_and_examples_are_used_alike(lower_left):
    drawer = RequestDrawer(lower_left, 0, GenerateConfig(negatives=0.5))
    lesions = [request for request in map(drawer.draw, range(90)) if not request.negative]
    count = len(lower_left)
    for names in ([each.background for each in lesions], [each.example for each in lesions]):
        used = {name: names.count(name) for name in names}
        assert len(used) >= min(count, len(lesions)) * 0.9
        assert max(used.values()) <= 5 * -(-len(lesions) // count)
    rounds = [each.background for each in lesions][:count]
    assert len(set(rounds)) >= 0.9 * count
