"""Cases of several lesions, generated."""

import numpy as np
import pytest
from synthetic_sets import CONFIG

from diffaug.data.folder import read_dataset
from diffaug.data.funnel import funnel
from diffaug.data.images import read_image, read_mask
from diffaug.data.manifest import kept, read_manifest
from diffaug.synthesis.generate import generate
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import workshop_of

SEVERAL = CONFIG.model_copy(update={"lesions_per_case": 3, "count": 3, "gate": "off", "shard_size": 3, "place": "free"})


@pytest.fixture(scope="module")
def made(fitted, phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "set"
    generate(fitted, phantoms, out, SEVERAL)
    return read_manifest(out)


def test_the_lesions_of_a_case_share_one_picture_and_count_once(made):
    first = [row for row in kept(made) if not row.request.negative]
    joined = [row for row in made if row.decision == "joined"]
    assert joined and len(first) == SEVERAL.count
    for row in joined:
        shown = made[row.shown_in]
        assert shown.image and not row.image and row.accepted
        assert shown.request.background == row.request.background
        assert shown.request.index // 3 == row.request.index // 3
    counts = funnel(made.rows).lesions
    assert counts.requested == counts.kept + counts.joined + counts.stopped + counts.rejected
    assert {case.id for case in read_dataset(made.folder)} == {row.id for row in kept(made)}


def test_a_shared_picture_shows_every_lesion_and_the_background_elsewhere(made, fitted, phantoms):
    workshop = workshop_of(make_plan(fitted, phantoms, SEVERAL, 0))
    drawer, maker = workshop.maker.drawer, workshop.maker
    for row in kept(made):
        if row.request.negative:
            continue
        members = [row, *(other for other in made if other.shown_in == row.id)]
        layouts = [maker.layout(member.request) for member in members]
        image, label = read_image(made.folder / row.image), read_mask(made.folder / row.mask)
        painted = np.any([layout.region for layout in layouts], axis=0)
        background = drawer.backgrounds.image(row.request.background)
        np.testing.assert_array_equal(image[~painted], background[~painted])
        new = np.any([layout.masks.new for layout in layouts], axis=0)
        np.testing.assert_array_equal(label, drawer.backgrounds.lesion(row.request.background) | new)
        assert all((image != background).any(axis=2)[layout.masks.new].any() for layout in layouts)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])  # two import torch
def test_two_workers_and_a_second_run_write_the_same_set(made, fitted, phantoms, tmp_path, workers):
    generate(fitted, phantoms, tmp_path / "again", SEVERAL, workers=workers)
    names = sorted(path.relative_to(made.folder) for path in made.folder.rglob("*.png"))
    again = tmp_path / "again"
    assert names == sorted(path.relative_to(again) for path in again.rglob("*.png"))
    for name in (*names, "manifest.jsonl", "cases.csv"):
        assert (made.folder / name).read_bytes() == (again / name).read_bytes()
