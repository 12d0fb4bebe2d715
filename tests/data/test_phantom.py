from pathlib import Path

import numpy as np
import pytest

from diffaug.data.cells import SHARES, draw_cells
from diffaug.data.folder import check_dataset
from diffaug.data.phantom import KINDS, Phantom, cells_of_index, make_phantoms, phantom_of_index
from diffaug.errors import ConfigError


@pytest.fixture(scope="module")
def scenes() -> list[Phantom]:
    return [phantom_of_index("train", index, 96) for index in range(60)]


def test_a_scene_depends_on_seed_split_and_index_alone(scenes: list[Phantom]) -> None:
    again = phantom_of_index("train", 7, 96)
    assert np.array_equal(again.image, scenes[7].image)
    assert np.array_equal(again.mask, scenes[7].mask)
    assert not np.array_equal(phantom_of_index("val", 7, 96).image, scenes[7].image)
    assert not np.array_equal(phantom_of_index("train", 7, 96, seed=1).image, scenes[7].image)


def test_a_case_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    few = make_phantoms(tmp_path / "few", 3, 1, 1, 1, size=64)
    more = make_phantoms(tmp_path / "more", 5, 2, 3, 4, size=64)
    for case in few.cases:
        assert case.image.read_bytes() == more[case.id].image.read_bytes()
        if case.mask is not None:
            assert case.mask.read_bytes() == more[case.id].mask.read_bytes()


def test_phantoms_are_a_data_set_that_passes_every_check(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 12, 4, 6, 8, size=64, seed=2)
    assert [len(data.split(split)) for split in ("train", "val", "test", "unannotated")] == [12, 4, 6, 8]
    assert check_dataset(data).notices == ()
    assert all(case.read_image().shape == (64, 64, 3) for case in data.cases)


def test_every_annotated_scene_holds_a_lesion_inside_the_field_of_view(scenes: list[Phantom]) -> None:
    for scene in scenes:
        assert scene.mask.any()
        assert scene.image[scene.mask].max(axis=1).mean() > 25  # not on the black frame


def test_obvious_small_and_flat_lesions_all_exist(scenes: list[Phantom]) -> None:
    kinds = [scene.kinds[0] for scene in scenes]
    assert set(kinds) == set(KINDS)
    assert 0.3 < kinds.count("protruding") / len(kinds) < 0.7
    areas = np.array([scene.mask.mean() for scene in scenes])
    assert (areas < 0.05).mean() > 0.2
    assert (areas > 0.15).mean() > 0.1


def contrast(scene: Phantom) -> float:
    """Return the difference in colour of the lesion and its surrounding ring, in grey levels."""
    from scipy.ndimage import binary_dilation

    ring = binary_dilation(scene.mask, iterations=6) & ~scene.mask
    return float(np.abs(scene.image[scene.mask].mean(axis=0) - scene.image[ring].mean(axis=0)).mean())


def test_flat_lesions_differ_less_from_their_surroundings_than_protruding_ones(scenes: list[Phantom]) -> None:
    flat = [contrast(scene) for scene in scenes if set(scene.kinds) <= {"flat", "small-flat"}]
    high = [contrast(scene) for scene in scenes if set(scene.kinds) <= {"protruding"}]
    assert np.median(flat) < 0.6 * np.median(high)


def test_some_unannotated_scenes_are_lesion_free() -> None:
    lesions = [bool(phantom_of_index("unannotated", index, 64).kinds) for index in range(30)]
    assert 8 <= sum(lesions) <= 22


def test_the_same_command_again_changes_nothing(tmp_path: Path) -> None:
    first = make_phantoms(tmp_path / "data", 2, 1, 1, 0, size=64)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    assert make_phantoms(tmp_path / "data", 2, 1, 1, 0, size=64) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


@pytest.mark.parametrize(("train", "size"), [(0, 64), (-1, 64), (2, 16)])
def test_impossible_numbers_are_refused_and_leave_nothing(tmp_path: Path, train: int, size: int) -> None:
    with pytest.raises(ConfigError) as error:
        make_phantoms(tmp_path / "data", train, size=size)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_cells_holds_many_nuclei_and_some_touch() -> None:
    from diffaug.data.lesions import count_lesions

    masks = [cells_of_index("train", index, 256)[1] for index in range(12)]
    counts = [count_lesions(mask) for mask in masks]
    assert min(counts) >= 12
    assert 18 <= np.median(counts) <= 36
    assert all(mask.mean() < 0.5 for mask in masks)


def test_nuclei_are_brighter_than_their_dark_background_save_in_brightfield() -> None:
    lights = set()
    for index in range(40):
        pixels, mask, light = draw_cells(np.random.default_rng(index), 128)
        inside, outside = np.median(pixels[mask]), np.median(pixels[~mask])
        assert inside < outside - 30 if light == "brightfield" else inside > outside + 10
        assert (outside > 150) == (light == "brightfield")
        lights.add(light)
    assert lights == set(SHARES)


def test_a_frame_of_cells_depends_on_seed_split_and_index_alone() -> None:
    again, other = cells_of_index("train", 3, 96), cells_of_index("train", 3, 96, seed=1)
    assert np.array_equal(again[0], cells_of_index("train", 3, 96)[0])
    assert not np.array_equal(again[0], other[0])


def test_cells_are_a_data_set_that_passes_every_check(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 6, 2, 2, 2, kind="cells", size=128)
    assert [len(data.split(split)) for split in ("train", "val", "test", "unannotated")] == [6, 2, 2, 2]
    assert check_dataset(data).notices == ()
    for case in data.split("train"):
        assert np.array_equal(case.read_mask(), cells_of_index("train", int(case.id.split("-")[1]), 128)[1])


def test_an_unknown_kind_of_phantoms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="endoscopy, cells"):
        make_phantoms(tmp_path / "data", 2, kind="stars")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
