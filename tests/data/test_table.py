"""Laws of `cases.csv`: the kind of a case is written, read and checked, and a data set is a table of records."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffaug.artifacts import write_csv
from diffaug.data.case import Case
from diffaug.data.folder import Dataset, check_dataset, new_dataset, read_dataset, write_cases
from diffaug.data.images import write_png
from diffaug.errors import DataError

FREE = {"negative": 1.0}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """A data set with a case of each kind, and a normal image without a mask."""
    with new_dataset(tmp_path / "data") as folder:
        cases = []
        for name, split, kind in (
            ("a", "train", "lesion"),
            ("b", "train", "negative"),
            ("c", "train", "painted-negative"),
            ("d", "unannotated", "unannotated"),
            ("e", "unannotated", "negative"),
        ):
            (folder / "images").mkdir(exist_ok=True)
            (folder / "masks").mkdir(exist_ok=True)
            image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
            write_png(image, np.full((16, 20, 3), 90, dtype=np.uint8))
            has_lesion = kind in ("lesion", "painted-negative")  # such a frame may show lesions of before
            if split == "train":
                values = np.zeros((16, 20), dtype=np.uint8)
                values[4:9, 4:9] = 255 * has_lesion
                write_png(mask, values)
            attributes = FREE if kind == "negative" else {"contrast": 7.5} if name == "a" else {}
            painted = kind == "painted-negative"
            place = mask if split == "train" else None
            cases.append(Case(name, image, place, name, split, attributes=dict(attributes), painted_negative=painted))
        write_cases(folder, cases)
    return read_dataset(tmp_path / "data")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def set_cells(folder: Path, name: str, **cells: str) -> None:
    rows = rows_of(folder)
    next(row for row in rows if row["id"] == name).update(cells)
    write_csv(folder / "cases.csv", rows, list(rows[0]))


def test_the_kind_is_written_and_comes_back(data: Dataset) -> None:
    kinds = ["lesion", "negative", "painted-negative", "unannotated", "negative"]
    assert [row["kind"] for row in rows_of(data.folder)] == kinds
    assert [case.kind for case in data] == kinds
    check_dataset(data)


def test_a_table_without_kinds_is_read_as_before(data: Dataset) -> None:
    rows = rows_of(data.folder)
    write_csv(data.folder / "cases.csv", rows, [name for name in rows[0] if name != "kind"])
    assert [case.kind for case in read_dataset(data.folder)] == [
        "lesion", "negative", "lesion", "unannotated", "negative",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("a", {"kind": "unannotated"}, "case a is unannotated by the column kind and lesion by"),
        ("b", {"kind": "lesion"}, "case b is lesion by the column kind and negative by"),
        ("d", {"kind": "lesion"}, "case d is lesion by the column kind and unannotated by"),
        ("d", {"kind": "painted-negative"}, "case d is painted-negative by the column kind and unannotated by"),
        ("a", {"kind": "tumour"}, "a kind is lesion, negative, painted-negative, unannotated: case a has 'tumour'"),
        ("a", {"kind": "negative", "negative": "0"}, "case a is negative by the column kind and lesion by"),
    ],
)
def test_a_kind_that_contradicts_its_row_is_one_line(
    data: Dataset, name: str, cells: dict[str, str], message: str
) -> None:
    set_cells(data.folder, name, **cells)
    with pytest.raises(DataError) as error:
        read_dataset(data.folder)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "kind"), [("a", "negative"), ("b", "lesion")])
def test_a_kind_that_contradicts_its_mask_is_refused_when_the_mask_is_decoded(
    data: Dataset, name: str, kind: str
) -> None:
    set_cells(data.folder, name, kind=kind, negative="")
    with pytest.raises(DataError, match=f"case {name} "):
        check_dataset(read_dataset(data.folder))


def test_the_word_negative_alone_declares_a_lesion_free_case(data: Dataset) -> None:
    set_cells(data.folder, "b", negative="")
    assert read_dataset(data.folder)["b"].negative


def test_a_case_that_loses_its_mask_has_the_kind_of_one_without(data: Dataset) -> None:
    assert replace(data["c"], mask=None, split="unannotated").kind == "unannotated"


def test_a_data_set_is_a_table_of_flat_records(data: Dataset) -> None:
    table = data.table()
    assert len(table) == len(data) and len({tuple(record) for record in table}) == 1
    assert table[0] == {
        "id": "a", "image": str(data["a"].image), "mask": str(data["a"].mask), "group": "a", "split": "train",
        "prompt": "", "kind": "lesion", "contrast": 7.5, "negative": None,
    }  # fmt: skip
    assert table[4]["mask"] is None and table[4]["negative"] == 1.0
