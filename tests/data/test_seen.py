"""What a model has seen, told without its images."""

import numpy as np
import pytest
from PIL import Image

from diffaug.data.seen import NOTHING, SEEN_FILE, UNKNOWN, Seen, read_seen, sketches_of, write_seen
from diffaug.errors import DataError


def frame(seed, size=(96, 80)):
    coarse = np.random.default_rng(seed).integers(40, 220, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def test_a_rescaled_frame_is_known_and_others_are_not():
    seen = Seen.of([], [frame(seed) for seed in range(40)])
    larger = np.asarray(Image.fromarray(frame(3)).resize((200, 170)))
    assert seen.holds(sketches_of([larger, frame(99), np.full((50, 50, 3), 90, np.uint8)])) == [True, False, False]
    assert NOTHING.holds(sketches_of([larger])) == [False] and seen.holds(sketches_of([])) == []


def test_a_mirrored_frame_is_known():
    seen = Seen.of([], [frame(seed) for seed in range(40)])
    mirrored = [frame(3)[::-1], frame(4)[:, ::-1], frame(5)[::-1, ::-1]]
    assert seen.holds(sketches_of(np.ascontiguousarray(each) for each in mirrored)) == [True] * 3


def test_a_list_goes_from_base_to_fit_and_says_who_saw_what():
    base = NOTHING.then(Seen.of([frame(1)], [frame(2)]))
    fitted = base.then(Seen.of([frame(3)], [frame(4)]))
    sketches = sketches_of(frame(seed) for seed in (1, 2, 3, 4))
    assert fitted.by_base(annotated=True).holds(sketches) == [True, False, False, False]
    assert fitted.by_base(annotated=False).holds(sketches) == [False, True, False, False]
    assert fitted.complete and not UNKNOWN.then(fitted).complete


def test_a_list_is_read_as_it_was_written_and_its_absence_is_no_empty_list(tmp_path):
    seen = Seen.of([frame(1)], [frame(2)])
    write_seen(tmp_path, seen)
    first = (tmp_path / SEEN_FILE).read_bytes()
    found = read_seen(tmp_path)
    assert found.complete and np.array_equal(found.sketches, seen.sketches)
    assert found.annotated.tolist() == [True, False] and found.own.tolist() == [True, True]
    write_seen(tmp_path, found)
    assert (tmp_path / SEEN_FILE).read_bytes() == first
    assert not read_seen(tmp_path / "elsewhere").complete
    (tmp_path / SEEN_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="list of seen images"):
        read_seen(tmp_path)
