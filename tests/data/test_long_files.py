"""Laws of files of many records: what is read piece by piece is what would be read as a whole, in memory that stays."""

import csv
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_folders import make_dataset, row_of

from diffaug.artifacts import write_json, write_long_json
from diffaug.data import records
from diffaug.data.duplicates import Fingerprint, duplicates_across, duplicates_of_fingerprints, fingerprint
from diffaug.data.folder import find_cases, read_dataset
from diffaug.data.manifest import MANIFEST, SUMMARY, read_manifest, read_rows, write_rows
from diffaug.data.records import Distinct, Names, Part, RecordFile, Spool, spread
from diffaug.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ROWS = tuple(row_of(number, ("train-0", "train-1"), prompt=f"é {number}\u2028") for number in range(7))


def written(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / MANIFEST, rows)
    write_json(folder / SUMMARY, {"lesions": {"requested": len(rows)}, "negatives": {"requested": 0}})
    return folder


def test_rows_that_lie_in_a_file_are_those_of_a_tuple(tmp_path):
    rows = read_manifest(written(tmp_path, ROWS)).rows
    assert rows == ROWS == tuple(rows) == read_rows(tmp_path / MANIFEST)
    assert [rows[place] for place in range(-7, 7)] == [*ROWS, *ROWS]
    assert (rows[2:5], rows[::-1], rows[9:]) == (ROWS[2:5], ROWS[::-1], ())
    assert Part(rows, [4, 1])[::-1] == (ROWS[1], ROWS[4]) and rows != ROWS[1:]
    for place in (7, -8):
        with pytest.raises(IndexError):
            rows[place]


def test_a_row_is_found_by_its_id(tmp_path):
    found = read_manifest(written(tmp_path, ROWS))
    assert [found.place_of(row.id) for row in ROWS] == list(range(7)) and found.place_of("absent") is None
    assert found["synth-00003"] == ROWS[3]


@pytest.mark.parametrize("head", [False, True])
def test_a_file_of_more_records_than_a_set_can_have_is_refused(tmp_path, monkeypatch, head):
    monkeypatch.setattr(records, "MOST", 5)
    (tmp_path / "short").write_bytes(b"{}\n" * 5)
    (tmp_path / "long").write_bytes(b"{}\n" * 7)
    assert len(RecordFile(tmp_path / "short", lambda line, _: line, head)) == 5 - head
    with pytest.raises(DataError, match=r"5 records at most: .*long has more"):
        RecordFile(tmp_path / "long", lambda line, _: line, head)


def test_a_manifest_that_changes_while_it_is_used_is_refused(tmp_path):
    found = read_manifest(written(tmp_path, ROWS))
    write_rows(tmp_path / MANIFEST, ROWS[1:])
    with pytest.raises(DataError, match=r"must stay as it is.*run the same command again"):
        found[0]


def test_a_record_that_is_no_line_of_a_manifest_is_named_by_its_number(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"1\n\n2")
    lines = RecordFile(path, lambda data, number: (data, number))
    assert list(lines) == [(b"1", 1), (b"", 2), (b"2", 3)] and lines[1] == (b"", 2)
    path.write_bytes(b"")
    assert list(RecordFile(path, lambda data, _number: data)) == [b""]
    with pytest.raises(DataError, match="No such file"):
        RecordFile(tmp_path / "absent", lambda data, _number: data)


@settings(max_examples=10)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=11, max_size=11), st.booleans()
)
def test_cases_that_lie_in_a_table_are_those_of_the_data_set(tmp_path_factory, prompts, marked):
    folder = make_dataset(tmp_path_factory.mktemp("data") / "set")
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8-sig" if marked else "utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row, prompt in zip(rows, prompts, strict=True):
            writer.writerow({**row, "prompt": prompt.replace("\r", "\n")})
            file.write("\n")
    cases = find_cases(folder)
    assert tuple(cases) == read_dataset(folder).cases
    assert cases[-1] == read_dataset(folder).cases[-1]


@pytest.mark.parametrize("change", [lambda text: text + "a,b\n", lambda text: text.replace("prompt", "words")])
def test_a_table_that_breaks_a_rule_is_refused_as_a_data_set_is(tmp_path, change):
    folder = make_dataset(tmp_path / "set", train=2, test=1)
    (folder / "cases.csv").write_text(change((folder / "cases.csv").read_text()))
    errors = []
    for read in (read_dataset, find_cases):
        with pytest.raises(DataError) as caught:
            read(folder)
        errors.append(str(caught.value).split(" row ")[0])
    assert errors[0] == errors[1]


def test_reading_a_manifest_takes_few_bytes_a_row(tmp_path):
    peaks = []
    for number, count in enumerate((50, 550)):
        rows = (replace(row, request=replace(row.request, id=f"synth-{place}")) for place, row in enumerate(ROWS * 79))
        folder = written(tmp_path / str(number), [row for row, _ in zip(rows, range(count), strict=False)])
        read_manifest(folder)  # imports and caches
        tracemalloc.start()
        found = read_manifest(folder)
        assert sum(row.decision == "kept" for row in found) == count and found.place_of("synth-7") == 7
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 500 < 100


@settings(max_examples=20)
@given(st.dictionaries(st.text(), JSON | st.lists(JSON), max_size=4), st.sampled_from([None, 1, 2]))
def test_json_that_is_written_piece_by_piece_is_that_of_the_whole(tmp_path_factory, value, indent):
    path = tmp_path_factory.mktemp("json") / "long.json"
    pieces = {name: iter(item) if isinstance(item, list) else item for name, item in value.items()}
    write_long_json(path, pieces, indent)
    assert path.read_bytes() == (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(errors="strict")


@settings(max_examples=10)
@given(st.lists(JSON))
def test_a_spool_gives_back_what_it_took_and_leaves_nothing(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("spool")
    with Spool(folder) as spool:
        for value in values:
            spool.add(value)
        assert list(spool) == list(spool) == values and len(spool) == len(values)
        assert list(spool.at(range(len(values) - 1, -1, -1))) == values[::-1]
    assert not list(folder.iterdir())


@given(st.lists(st.text()))
def test_names_are_found_where_they_stand_and_repeats_are_never_missed(names):
    found = Names(names)
    assert all(place in found.places(name) for place, name in enumerate(names))
    distinct = Distinct()
    for name in names:
        distinct.see(name)
    assert distinct.may_repeat or len(set(names)) == len(names)


@given(st.integers(0, 50), st.integers(1, 60))
def test_numbers_are_spread_evenly(count, most):
    some = spread(np.arange(count), most)
    assert len(some) == min(count, most) and len(set(some)) == len(some)
    gaps = np.diff(some)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_images_compared_in_blocks_have_the_duplicates_of_all_at_once(monkeypatch):
    rng = np.random.default_rng(0)

    def picture(seed):
        grid = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        return np.kron(grid, np.ones((10, 10, 1), np.uint8))

    def noisy(pixels):
        return (pixels.astype(int) + rng.integers(-4, 5, pixels.shape)).clip(0, 255).astype(np.uint8)

    many: dict[str, Fingerprint] = {f"train-{number}": fingerprint(picture(number)) for number in range(9)}
    few = {"same": fingerprint(picture(2)), "noisy": fingerprint(noisy(picture(5))[:, ::-1])}
    few |= {"other": fingerprint(picture(99))}
    sides = {name: 1 + (name in few) for name in (*many, *few)}
    expected = duplicates_of_fingerprints({**many, **few}, sides)
    assert expected == [("train-2", "same"), ("train-5", "noisy")]
    for block in (512, 4):
        monkeypatch.setattr("diffaug.data.duplicates.BLOCK", block)
        assert list(duplicates_across(iter(many.items()), few)) == expected
