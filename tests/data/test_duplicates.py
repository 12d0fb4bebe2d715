import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from diffaug.data import duplicates
from diffaug.data.case import Case
from diffaug.data.duplicates import Fingerprint, duplicates_of_fingerprints, find_duplicates, fingerprint
from diffaug.data.images import Pixels
from diffaug.data.phantom import phantom_of_index
from diffaug.data.sources.folder import read_folder


@pytest.fixture(scope="module")
def scenes() -> list[Pixels]:
    return [phantom_of_index("train", index, 128).image for index in range(30)]


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def resized(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).resize((90, 111)))


def brighter(pixels: Pixels) -> Pixels:
    return np.array(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.15))


@pytest.mark.parametrize("change", [np.copy, lambda pixels: jpeg(pixels, 40), resized, brighter])
def test_a_changed_copy_is_found_and_nothing_else(scenes: list[Pixels], change: Callable[[Pixels], Pixels]) -> None:
    prints = {f"scene-{index}": fingerprint(pixels) for index, pixels in enumerate(scenes)}
    prints |= {f"copy-{index}": fingerprint(change(scenes[index])) for index in range(0, 30, 5)}
    assert duplicates_of_fingerprints(prints) == [(f"scene-{index}", f"copy-{index}") for index in range(0, 30, 5)]


def round_frame(seed: int) -> Pixels:
    """Return faint tissue in a round field of view, as a fundus camera gives it."""
    rows, columns = np.mgrid[:128, :128]
    grid = np.random.default_rng(seed).integers(90, 122, (12, 12), dtype=np.uint8)
    tissue = np.array(Image.fromarray(grid).resize((128, 128), Image.Resampling.BICUBIC))
    tissue[np.hypot(rows - 63.5, columns - 63.5) > 61] = 3
    return np.repeat(tissue[:, :, None], 3, axis=2)


def test_the_border_of_a_round_field_of_view_makes_no_pair() -> None:
    frames = {str(seed): fingerprint(round_frame(seed)) for seed in range(20)}
    assert duplicates_of_fingerprints(frames) == []
    frames["again"] = fingerprint(jpeg(round_frame(4), 60))
    assert duplicates_of_fingerprints(frames) == [("4", "again")]


def test_flat_images_repeat_only_when_they_are_equal() -> None:
    flat = {str(value): fingerprint(np.full((20, 20, 3), value, np.uint8)) for value in (10, 11, 200)}
    assert duplicates_of_fingerprints(flat) == []
    flat["again"] = fingerprint(np.full((20, 20, 3), 200, np.uint8))
    assert duplicates_of_fingerprints(flat) == [("200", "again")]


def test_flat_images_of_two_sizes_are_not_equal() -> None:
    sizes = {str(size): fingerprint(np.zeros((*size, 3), np.uint8)) for size in ((4, 9), (6, 6))}
    assert duplicates_of_fingerprints(sizes) == []


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    nothing = np.zeros(1024, np.float32), np.zeros((128, 128), np.uint8)
    prints = {str(index): Fingerprint(str(index % 9), *nothing) for index in range(10)}
    assert duplicates_of_fingerprints(prints) == [("0", "9")]


def test_no_images_have_no_duplicates() -> None:
    assert duplicates_of_fingerprints({}) == []


def test_duplicates_of_cases_are_named_by_id(make_source: Callable[..., Path]) -> None:
    source = make_source(3)
    for kind in ("images", "masks"):
        (source / kind / "x.png").write_bytes((source / kind / "c1.png").read_bytes())
    cases = [Case(record.id, record.image, None, "", "") for record in read_folder(source).records]
    assert find_duplicates(cases) == [("c1", "x")]
