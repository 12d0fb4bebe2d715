import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.artifacts import digest_of_file
from diffaug.conditioning.findings import read_library
from diffaug.conditioning.rules import RULES_FILE, read_rules
from diffaug.config import StudyConfig, read_config
from diffaug.data.classes import read_source_classes
from diffaug.data.folder import read_classes, read_dataset
from diffaug.data.manifest import read_manifest, read_rows
from diffaug.data.seen import SEEN_FILE, read_seen
from diffaug.data.sources.coco import read_coco
from diffaug.errors import DataError, DiffaugError
from diffaug.models.checkpoints import read_words, verify
from diffaug.models.lora import LORA_FILE, Adapters
from diffaug.models.sampling import read_sampler
from diffaug.reading import (
    check_size,
    read_arrays,
    read_bytes,
    read_csv,
    read_json,
    read_jsonl,
    read_kept,
    read_tensors,
    read_yaml,
    typed,
)
from diffaug.realism.critic import load_critic
from diffaug.report.tables import read_study
from diffaug.runfolder import contents_of
from diffaug.study.network import load_network
from diffaug.study.records import Records
from diffaug.validator.calibration import Calibration

HOSTILE = (
    b"", b"[", b"[" * 3000, b"{" * 3000, b"[" * 200 + b"]" * 200, b"[]", b"3", b"null", b'"text"', b"[[]]", b"{}",
    b"\xff\xfe\x00", b"\x00" * 50, b"9" * 5000, b'{"a": ' + b"9" * 4200 + b"}", b'{"a": NaN}', b"1e999", b'"\\ud800"',
    b'{"identity": [], "format": 2}', b'{"identity": {}, "format": 2}', b'{"cases": 3, "images": []}', b"- 1\n- {",
    b'{"lesion": 0}', b'{"../x": [1]}', b'{"images": [3], "annotations": [], "categories": [4]}', b"id,image\n",
    b'{"images": [{"id": [], "file_name": 3, "height": 1e999, "width": -1}], "annotations": [], "categories": []}',
    b"id,image,mask,group,split,prompt\n" + b"," * 9, b'{"schema": 2, "request": {"id": 3}}', b'{"files": 3}',
)  # fmt: skip
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
HOSTILE_YAML = (
    LAUGHS, "a: &a [*a]", "a: *b", "[" * 3000, "{a: " * 3000, "- " * 3000, "a: 2024-99-99", "a: [1", "\x00",
    "? [1]\n: 3",
    "a: " + "9" * 5000, "a: 0x" + "f" * 5000,
    "!!python/object:os.system [ls]", "<<: 3", "a: !!binary x", "\u0085: '",
)  # fmt: skip


def one_line(error: pytest.ExceptionInfo[DiffaugError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 1500


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_json_comes_back_whatever_it_holds(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@pytest.mark.parametrize("data", [b"[" * 3000, b"[" * 150 + b"]" * 150, b"9" * 5000, b"\xff", b"", b'"\\ud800"', b"{"])
def test_json_without_end_or_sense_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json must be JSON: ") as error:
        read_json(tmp_path / "a.json")
    assert one_line(error)


def test_json_of_too_many_values_is_refused_before_they_are_made(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b"[]," * 9_000_000 + b"[]]")
    started = time.process_time()
    with pytest.raises(DataError, match="more than 16,000,000 values"):
        read_json(tmp_path / "a.json")
    assert time.process_time() - started < 2


def test_only_an_appended_file_may_end_in_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_jsonl(path) == [{"a": 1}]
    with pytest.raises(DataError, match="line 2 must be JSON"):
        read_jsonl(path, torn=False)


@pytest.mark.parametrize("line", [b"", b"{}", b'{"a":1,"b":2,"c":3,"d":4}', b'{"a":[' + b"0," * 60 + b"0]}"])
def test_lines_of_more_than_fits_into_memory_are_refused_before_they_are_taken_apart(
    tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "rows.jsonl").write_bytes((line + b"\n") * 1_000_001)
    started = time.process_time()
    with pytest.raises(DataError, match="must be JSON lines: more than "):
        read_jsonl(tmp_path / "rows.jsonl")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", HOSTILE_YAML, ids=range(len(HOSTILE_YAML)))
def test_yaml_that_expands_or_makes_no_sense_is_one_line_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(DataError, match=r"a\.yaml must be YAML") as error:
        read_yaml(tmp_path / "a.yaml")
    assert one_line(error) and time.process_time() - started < 5
    for read in (read_config, read_library):
        with pytest.raises(DiffaugError) as error:
            read(tmp_path / "a.yaml")
        assert one_line(error)


def test_aliases_that_stand_for_little_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2024-01-01_and_more}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": "2024-01-01_and_more"}}


def test_a_date_where_a_path_belongs_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("out: 2024-01-01\n")
    with pytest.raises(DiffaugError, match="out Input is not a valid path") as error:
        read_config(tmp_path / "a.yaml")
    assert one_line(error)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_a_device_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        with pytest.raises(DataError, match=r"device, a pipe or a folder|Is a directory"):
            read_bytes(tmp_path / name)
    (tmp_path / "cases.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"holds no link that leads out of it: .*cases\.csv"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match=r"cases\.csv must be a CSV file"):
        read_csv(tmp_path / "cases.csv", ())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that are files")
def test_a_pipe_in_the_place_of_weights_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    os.mkfifo(path)
    readers: list[Callable[[], object]] = [
        lambda: read_tensors(path),
        lambda: digest_of_file(path),
        lambda: load_network(StudyConfig(network="unet"), path),
        lambda: Adapters.load(_with_a_pipe(tmp_path / "lora", LORA_FILE)),
    ]
    for read in readers:
        with pytest.raises((ValueError, DiffaugError), match="it is a device, a pipe or a folder"):
            read()


def _with_a_pipe(folder: Path, name: str) -> Path:
    folder.mkdir()
    os.mkfifo(folder / name)
    return folder


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(2**34)  # of zeros that take no place on the disk
    for read in (read_json, read_yaml, lambda path: read_csv(path, ()), lambda path: read_arrays(path, ("a",))):
        with pytest.raises(DataError, match="more than"):
            read(tmp_path / "a.csv")


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array(True), "c": np.zeros((0, 4), np.float32)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    for name, found in read_arrays(tmp_path / "a.npz", tuple(arrays)).items():
        assert found.dtype == arrays[name].dtype and np.array_equal(found, arrays[name])


def npz(header: dict[str, Any], data: bytes, size: int | None = None) -> bytes:
    """Return an .npz file with one array, whose header may be a lie."""
    member, whole = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member.getvalue() + data + bytes(size or 0))
    return whole.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npz({"descr": "|i1", "fortran_order": False, "shape": (10**12,)}, b"x"),
        npz({"descr": "|i1", "fortran_order": False, "shape": (2**62, 2**62)}, b"x"),
        npz({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"x" * 8),
        npz({"descr": "|i1", "fortran_order": False, "shape": (3 * 10**8,)}, b"", 3 * 10**8),
        npz({"descr": "|i1", "fortran_order": False, "shape": (-1,)}, b""),
        b"PK\x03\x04", b"", b"x" * 100,
    ],
    ids=range(8),
)  # fmt: skip
def test_arrays_that_are_not_there_take_no_memory(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz must be a whole \.npz file") as error:
        read_arrays(tmp_path / "a.npz", ("a",))
    assert one_line(error)
    (tmp_path / SEEN_FILE).write_bytes(data)
    with pytest.raises(DataError, match="must be a list of seen images"):
        read_seen(tmp_path)


def test_a_value_of_another_type_is_named_in_one_line() -> None:
    with pytest.raises(DataError, match=r"only diffaug writes x\.json: a\.b: .*; restore") as error:
        typed(dict[str, dict[str, int]], {"a": {"b": "c\nd"}}, "x.json")
    assert one_line(error)


def test_what_is_kept_and_damaged_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    assert read_kept(tmp_path / "a.json", dict[str, int]) is None
    assert read_kept(tmp_path / "absent.json", dict[str, int]) is None


def doors(folder: Path) -> dict[str, Any]:
    """Return what reads each file that may come from anybody."""
    return {
        "cases.csv": lambda: read_dataset(folder),
        "classes.json": lambda: (read_classes(folder), read_source_classes(folder)),
        "rows.jsonl": lambda: read_rows(folder / "rows.jsonl"),
        "manifest.jsonl": lambda: read_manifest(folder),
        "provenance.json": lambda: read_manifest(folder),
        SEEN_FILE: lambda: read_seen(folder),
        "calibration.json": lambda: Calibration.load(folder / "calibration.json"),
        "digests.json": lambda: verify(folder),
        "base.json": lambda: verify(folder),
        "sampler.json": lambda: read_sampler(folder),
        RULES_FILE: lambda: read_rules(folder),
        "tokenizer/words.json": lambda: read_words(folder),
        "realism/critic.json": lambda: load_critic(folder),
        "config.json": lambda: contents_of(folder, "config.json"),
        "study.json": lambda: read_study(folder),
        "runs.jsonl": lambda: Records(folder / "runs.jsonl"),
        "annotations.json": lambda: read_coco(folder),
    }


@pytest.mark.parametrize("name", doors(Path()))
def test_every_door_takes_hostile_files_without_a_traceback(tmp_path: Path, name: str) -> None:
    for number, data in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        (folder / "manifest.jsonl").write_text("")
        (folder / name).write_bytes(data)
        try:
            doors(folder)[name]()
        except DiffaugError as error:
            assert "\n" not in str(error)


def test_a_file_of_no_kind_that_is_so_large_has_no_digest_and_weights_are_as_long_as_their_header_says(tmp_path):
    for name in ("a.png", "config.json", "b.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**34)
        with pytest.raises(DataError, match="bytes at most"):
            digest_of_file(tmp_path / name)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**32], "data_offsets": [0, 2**34]}}).encode()
    with (tmp_path / "c.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**34)
    check_size(tmp_path / "c.safetensors", (tmp_path / "c.safetensors").stat().st_size)


def test_an_error_is_one_line_whatever_the_names_of_files_are():
    error = DataError("the file a\nb\x1b[2J\u202ec.png; rename it")
    assert str(error) == r"the file a\nb\x1b[2J\u202ec.png; rename it"
    assert str(DataError("plain: é, 名")) == "plain: é, 名"


def test_of_many_wrong_values_the_first_is_told_and_no_other_is_looked_at_however_deep_they_lie():
    wrong = list(range(10))
    for kind, value, place in (
        (list[str], ["a", *wrong], "1"),
        (dict[str, tuple[str, ...]], {"words": ["a", "b", *wrong]}, "words.2"),
        (list[dict[str, list[str]]], [{}, {"x": wrong}], "1.x.0"),
        (ManyLists, {"names": wrong, "numbers": [[0]]}, "names.0"),
    ):
        with pytest.raises(DataError, match=f" {place}: Input should be a valid string") as caught:
            typed(kind, value, "words.json")
        assert caught.value.__context__.error_count() == 1


@dataclass(frozen=True)
class ManyLists:
    names: tuple[str, ...]
    numbers: list[list[int]]


def test_of_a_table_with_very_many_wrong_values_their_number_is_told():
    with pytest.raises(DataError, match=r"only diffaug writes x\.json: 1,001 of its values have another type; restore"):
        typed(dict[str, int], dict.fromkeys(map(str, range(1001)), "a"), "x.json")


def test_json_of_too_many_keys_is_refused_before_they_are_made(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{" + b",".join(b'"%d" :0' % number for number in range(3_000_001)) + b"}")
    started = time.process_time()
    with pytest.raises(DataError, match="more than 3,000,000 keys"):
        read_json(tmp_path / "a.json")
    assert time.process_time() - started < 2
