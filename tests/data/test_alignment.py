"""Laws of finding an image that shows a part of another one."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from diffaug.data.alignment import SAME_PART, aligned, oriented, structures_of, views_of
from diffaug.data.duplicates import duplicates_of_fingerprints, fingerprint
from diffaug.data.images import Pixels


def tissue(seed: int, side: int = 160) -> Pixels:
    """Return texture of several scales."""
    rng, image = np.random.default_rng(seed), np.zeros((side, side), np.float32)
    for cells, weight in ((6, 25), (14, 25), (32, 20), (60, 12)):
        grid = Image.fromarray(rng.normal(0, weight, (cells, cells)).astype(np.float32))
        image += np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
    return np.repeat((image + 120).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "flipped": lambda image: image[:, ::-1],
    "turned": np.rot90,
    "cut": lambda image: image[20:150, 5:150],
    "cut and flipped": lambda image: image[::-1][3:140, 26:160],
    "lighter": lambda image: (image * 0.8 + 30).astype(np.uint8),
    "resized": lambda image: np.asarray(Image.fromarray(image).resize((90, 70))),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_copy_is_found_among_unrelated_images_and_in_either_order(change: str) -> None:
    prints = {str(seed): fingerprint(tissue(seed)) for seed in range(6)}
    copy = fingerprint(np.ascontiguousarray(CHANGES[change](tissue(3))))
    assert duplicates_of_fingerprints({**prints, "copy": copy}) == [("3", "copy")]
    assert duplicates_of_fingerprints({"copy": copy, **prints}) == [("copy", "3")]


def test_images_of_one_side_are_not_compared() -> None:
    prints = {name: fingerprint(tissue(0)) for name in ("a", "b", "c")}
    found = duplicates_of_fingerprints(prints, {"a": 1, "b": 1, "c": 2})
    assert found == [("a", "c"), ("b", "c")]


def test_structure_does_not_depend_on_brightness_and_contrast() -> None:
    grey = tissue(1, 64)[None, ..., 0].astype(np.float32)
    assert np.allclose(structures_of(grey), structures_of(0.7 * grey + 20), atol=1e-3)
    assert not structures_of(np.full((1, 64, 64), 99.0, np.float32)).any()


def test_alignment_is_symmetric_and_one_for_the_same_image() -> None:
    one, other = (views_of(fingerprint(tissue(seed)).thumbnail) for seed in (1, 2))
    assert aligned(one, one) == pytest.approx(1.0, abs=1e-3)
    assert aligned(one, other) == aligned(other, one) < SAME_PART


def test_there_are_eight_orientations() -> None:
    square = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    assert len({oriented(square, number).tobytes() for number in range(8)}) == 8
