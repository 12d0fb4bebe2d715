import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.artifacts import (
    append_jsonl,
    atomic_path,
    digest_of_file,
    digest_of_folder,
    digest_of_value,
    make_folder,
    read_json,
    read_jsonl,
    storing,
    versions,
    write_csv,
    write_json,
    write_jsonl,
    write_text,
)
from diffaug.errors import ConfigError, DataError, StorageError

ROWS = [{"a": 1, "b": "é"}, {"a": 2, "b": "line\nbreak"}, {"a": 3, "b": "para\u2028graph \x85"}]


def one_line(error):
    return "\n" not in str(error.value)


def test_json_comes_back_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "ä"})
    assert read_json(tmp_path / "a.json") == {"a": "ä", "b": [1, 2.5, None]}


def test_the_bytes_of_json_do_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    write_json(tmp_path / "b.json", {"a": 2, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)), max_size=4))
def test_json_lines_come_back_whatever_characters_they_hold(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


def test_lines_can_be_appended(tmp_path):
    for row in ROWS:
        append_jsonl(tmp_path / "log.jsonl", row)
    assert read_jsonl(tmp_path / "log.jsonl") == ROWS


def test_a_missing_file_of_lines_is_empty(tmp_path):
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_a_last_line_cut_off_anywhere_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    write_jsonl(path, ROWS[:2])
    whole = path.read_bytes()
    for length in range(len(json.dumps(ROWS[0], ensure_ascii=False).encode()) + 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_jsonl(path) == ROWS[:1]
    path.write_bytes('{"a": "é'.encode()[:-1])  # in the middle of a character
    assert read_jsonl(path) == []


def test_a_damaged_line_in_the_middle_is_one_line_of_error(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DataError, match="line 2") as error:
        read_jsonl(path)
    assert one_line(error)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\x00"])
def test_a_missing_or_damaged_json_file_is_one_line_of_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json") as error:
        read_json(tmp_path / "a.json")
    assert one_line(error)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_an_ended_process_left_of_a_file_goes_with_the_next_write(tmp_path):
    """On a disk that became read-only nobody could remove it."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left = tmp_path / f".a[1].txt.{ended.pid}.partial"
    others = [f".b.txt.{ended.pid}.partial", f".a[1].txt.{os.getppid()}.partial", ".a[1].txt.x.partial"]
    for name in (left.name, *others):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a[1].txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].txt", *others}


def test_a_value_that_is_not_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_csv_holds_the_columns_in_order_and_quotes_what_needs_it(tmp_path):
    write_csv(tmp_path / "a.csv", [{"b": 'say "x", y', "a": 1, "c": 0}], ("a", "b"))
    assert (tmp_path / "a.csv").read_bytes() == b'a,b\n1,"say ""x"", y"\n'
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": 'say "x", y'}]


def test_a_digest_of_a_value_ignores_the_order_of_keys_and_nothing_else():
    assert digest_of_value({"a": 1, "b": 2}) == digest_of_value({"b": 2, "a": 1})
    assert len({digest_of_value(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1], [], None)}) == 6


def test_a_digest_of_a_folder_sees_names_and_bytes_but_not_its_place(tmp_path):
    for name in ("one", "two"):
        write_text(make_folder(tmp_path / name / "sub") / "a.txt", "a")
    first, second = digest_of_folder(tmp_path / "one"), digest_of_folder(tmp_path / "two")
    assert first == second
    write_text(tmp_path / "two" / "sub" / "a.txt", "b")
    assert digest_of_folder(tmp_path / "two") != first
    (tmp_path / "one" / "sub" / "a.txt").rename(tmp_path / "one" / "sub" / "b.txt")
    assert digest_of_folder(tmp_path / "one") != first
    assert digest_of_folder(tmp_path / "one", ("*.csv",)) == digest_of_value({})


def test_a_folder_below_a_file_is_one_line_of_error(tmp_path):
    write_text(tmp_path / "file", "")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="another folder") as error:
            make_folder(path)
        assert one_line(error)


def test_versions_name_python_and_the_packages_that_shape_a_result():
    found = versions()
    assert {"python", "torch", "diffusers", "diffaug"} <= set(found)
    assert "absent" not in found.values()


def aged(path, text="same size"):
    """Write a file that was last changed a day ago."""
    path.write_text(text)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 86_400))
    return path


def test_a_process_reads_an_unchanged_file_once_for_many_digests(tmp_path, monkeypatch):
    path = aged(tmp_path / "a.png")
    reads = []
    monkeypatch.setattr("diffaug.artifacts._read_digest", lambda path: reads.append(path) or "digest")
    monkeypatch.chdir(tmp_path)
    assert {digest_of_file(path), digest_of_file(Path("a.png")), digest_of_file(path)} == {"digest"}
    assert reads == [path]


def test_a_changed_file_has_another_digest_even_with_its_old_size_and_time(tmp_path):
    path = aged(tmp_path / "a.png")
    before, status = digest_of_file(path), path.stat()
    path.write_text("size same")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_of_file(path) != before


def test_a_file_that_changes_twice_in_one_tick_of_the_clock_has_another_digest(tmp_path):
    path = tmp_path / "a.png"
    digests = []
    for text in ("first one", "other one"):
        path.write_text(text)
        digests.append(digest_of_file(path))
    assert digests[0] != digests[1]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, monkeypatch):
    done, real_sync, real_replace = [], os.fsync, Path.replace

    def sync(descriptor):
        done.append(("sync", os.fstat(descriptor).st_ino))
        real_sync(descriptor)

    def replace(path, target):
        done.append(("replace", path.stat().st_ino))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "a")
    file, folder = (tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino
    assert done == [("sync", file), ("replace", file), ("sync", folder)]


def test_names_as_long_as_a_file_system_takes_can_be_written(tmp_path):
    write_text(tmp_path / ("x" * 251 + ".txt"), "a")
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [1]


def test_an_error_of_the_system_is_one_line_whoever_raises_it(tmp_path):
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(StorageError, match=r"a\.bin: No space left on device; free"), storing(tmp_path / "a.bin"):
        raise RuntimeError(full)
    with pytest.raises(RuntimeError, match="of another kind"), storing(tmp_path / "a.bin"):
        raise RuntimeError("of another kind")
    with pytest.raises(StorageError):
        write_text(tmp_path / "absent" / "a.txt", "a")
