import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import imported
from PIL import Image

from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import (
    Dataset,
    check_dataset,
    copy_case,
    new_dataset,
    read_dataset,
    subset_dataset,
    write_cases,
)
from diffaug.data.images import write_png
from diffaug.data.table import SPLITS
from diffaug.errors import ConfigError, DataError, DiffaugError

Make = Callable[..., Path]


def one_line(error: pytest.ExceptionInfo[DiffaugError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(make_source: Make, tmp_path: Path) -> Dataset:
    return imported("folder", make_source(20), tmp_path / "data")[0]


def edit(folder: Path, row: int, **cells: str) -> None:
    """Change cells of a row of cases.csv, counted from 0."""
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[row].update(cells)
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_cases_come_back_as_they_were_written(data: Dataset) -> None:
    cases = [replace(case, prompt='red, "flat"\npolyp é', attributes={"area": 0.1 + 0.2}) for case in data.cases]
    cases[3] = replace(cases[3], attributes={"contrast": -1e-17})
    write_cases(data.folder, cases)
    assert read_dataset(data.folder).cases == tuple(cases)


def test_paths_in_the_table_are_relative_with_forward_slashes(data: Dataset) -> None:
    with (data.folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == {f"images/{row['id']}.png" for row in rows}


def test_splits_partition_the_cases(data: Dataset) -> None:
    assert sorted(case.id for split in SPLITS for case in data.split(split)) == sorted(c.id for c in data.cases)
    with pytest.raises(DataError, match="must be one of"):
        data.split("validation")


def test_a_data_set_is_a_sequence_of_its_cases(data: Dataset) -> None:
    assert len(data) == len(data.cases) and list(data) == list(data.cases)
    assert data[0] is data[np.int64(0)] is data.cases[0] and data[-1] is data.cases[-1]
    assert all(case in data for case in data.cases)
    with pytest.raises(IndexError):
        data[len(data)]
    assert (
        repr(data)
        == f"Dataset({data.folder}: {len(data)} cases, "
        + ", ".join(f"{len(data.split(split))} {split}" for split in SPLITS if data.split(split))
        + ")"
    )


def test_a_case_is_found_by_its_id(data: Dataset) -> None:
    assert data["c3"].id == "c3"
    with pytest.raises(DataError, match="'c99'"):
        data["c99"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"id": "c1"}, "ids must be unique"),
        ({"id": ""}, "a name is plain"),
        ({"id": "../c0"}, "a name is plain"),
        ({"split": "validation"}, "a split must be one of"),
        ({"mask": ""}, "needs a mask: case c0"),
        ({"split": "unannotated"}, "has no masks: case c0"),
        ({"image": ""}, "needs an image: case c0"),
        ({"image": "images/none.png"}, "the image of case c0 is missing"),
        ({"mask": "masks/none.png"}, "the mask of case c0 is missing"),
        ({"image": "/etc/passwd"}, "inside its folder: the image of case c0"),
        ({"image": "../source/images/c0.png"}, "inside its folder: the image of case c0"),
    ],
)
def test_a_row_that_breaks_a_rule_is_one_line_that_names_it(data: Dataset, cells: dict[str, str], message: str) -> None:
    edit(data.folder, 0, **cells)
    with pytest.raises(DataError) as error:
        read_dataset(data.folder)
    assert message in one_line(error)


def test_an_attribute_that_is_no_number_is_refused(data: Dataset) -> None:
    write_cases(data.folder, [replace(case, attributes={"area": 0.1}) for case in data.cases])
    edit(data.folder, 2, area="wide")
    with pytest.raises(DataError) as error:
        read_dataset(data.folder)
    assert "case c2 has area 'wide'" in one_line(error)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "needs cases.csv"),
        ("id,image,group,split,prompt\n", "mask is missing"),
        ("", "id is missing"),
        ("id,image,mask,group,split,prompt\n", "lists none"),
        ("id,image,mask,group,split,prompt\na,b\n", "a cell for each column"),
        ("id,image,mask,group,split,prompt\na,b,c,d,train,,7\n", "a cell for each column"),
        (b"\xff\xfe\x00", "must be a CSV file"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path: Path, table: str | bytes | None, message: str) -> None:
    if table is not None:
        (tmp_path / "cases.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    with pytest.raises(DataError) as error:
        read_dataset(tmp_path)
    assert message in one_line(error)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file; check the path"):
        read_dataset(tmp_path / "file")


def test_a_table_with_a_byte_order_mark_is_read(data: Dataset) -> None:
    table = data.folder / "cases.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert read_dataset(data.folder) == data


def declared(data: Dataset, text: str = '{"disc": [1, 2], "cup": [2]}') -> Dataset:
    """Return the data set with labels of a disc and a cup."""
    for case in data.cases:
        assert case.mask is not None
        label = case.read_mask().astype(np.uint8)
        label[8:12] *= 2
        Image.fromarray(label).save(case.mask)
    (data.folder / "classes.json").write_text(text)
    return read_dataset(data.folder)


def test_declared_classes_are_read_in_order_and_written_again(data: Dataset, tmp_path: Path) -> None:
    assert data.class_names == ("lesion",)
    assert not (data.folder / "classes.json").exists()
    disc = declared(data)
    assert disc.class_names == ("disc", "cup")
    assert check_dataset(disc).notices == ()
    write_cases(disc.folder, disc.cases)
    assert read_dataset(disc.folder) == disc
    subset = subset_dataset(disc, tmp_path / "subset", 3, 0)
    assert subset.class_names == ("disc", "cup")
    assert all(case.read_masks().shape == (2, 40, 48) for case in subset.split("train"))


def test_a_label_value_outside_the_declared_classes_is_refused(data: Dataset) -> None:
    disc = declared(data)
    label = disc["c3"].read_label()
    label[20, 20] = 7
    Image.fromarray(label).save(str(disc["c3"].mask))
    with pytest.raises(DataError) as error:
        check_dataset(disc.cases)
    assert "has 7, nearest is 2" in one_line(error)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"disc": []}', '{"disc": [0]}', '{"disc": [256]}', '{"disc": [true]}', '{" ": [1]}', '{"a": 1}'],
)
def test_malformed_classes_are_one_line(data: Dataset, text: str) -> None:
    (data.folder / "classes.json").write_text(text)
    with pytest.raises(DataError) as error:
        read_dataset(data.folder)
    assert "classes.json" in one_line(error)


def test_checking_counts_each_conversion_once(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (8, 8, 3), dtype=np.uint8)
    cases = []
    for index, mode in enumerate(["L", "L", "P", "RGBA", "RGB"]):
        image = Image.fromarray(pixels).convert(mode)
        if mode == "RGBA":
            image.putalpha(128)
        image.save(tmp_path / f"{index}.png")
        Image.fromarray(pixels[:, :, 0]).save(tmp_path / f"{index}.jpg")
        cases.append(Case(str(index), tmp_path / f"{index}.png", tmp_path / f"{index}.jpg", str(index), "train"))
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    cases.append(Case("deep", tmp_path / "deep.png", None, "deep", "unannotated"))
    assert sorted(check_dataset(cases).notices) == [
        "1 image is in palette colours and was read as RGB",
        "1 image is transparent in parts and was read without transparency",
        "1 image of more than 8 bits was scaled to 8, with 65,535 as white",
        "2 images are grey and were read as RGB",
        "5 masks are JPEG and were cut at 127",
    ]


def test_images_of_one_camera_that_are_read_on_two_scales_are_told(tmp_path: Path) -> None:
    cases = []
    for index, brightest in enumerate([60_000, 60_000, 3_000]):
        Image.fromarray(np.full((8, 8), brightest, np.uint16)).save(tmp_path / f"{index}.png")
        cases.append(Case(str(index), tmp_path / f"{index}.png", None, str(index), "unannotated"))
    assert len(check_dataset(cases[:2]).notices) == 1
    assert "were read as 12-bit, 16-bit, each by its own largest value" in check_dataset(cases).notices[-1]


def test_a_data_set_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError), new_dataset(tmp_path / "data") as partial:
        (partial / "cases.csv").write_text("half")
        raise DataError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    with new_dataset(tmp_path / "data") as partial:
        name = partial.name
        (partial / "cases.csv").write_text("whole")
    (tmp_path / "data" / "cases.csv").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "left.png").write_text("left by a kill")
    with new_dataset(tmp_path / "data") as partial:
        (partial / "cases.csv").write_text("whole")
    assert files_of(tmp_path) == {"data/cases.csv": b"whole"}


def test_a_parent_that_cannot_be_written_is_one_line(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    with pytest.raises(ConfigError) as error:
        subset_dataset(data, tmp_path / "file" / "subset", 3, 0)
    assert "choose another folder" in one_line(error)


def test_a_subset_keeps_so_many_masks_and_every_image(data: Dataset, tmp_path: Path) -> None:
    subset = subset_dataset(data, tmp_path / "subset", 5, draw=0)
    assert len(subset.split("train")) == 5
    assert len(subset.split("unannotated")) == len(data.split("train")) - 5
    assert {case.id for case in subset.cases} == {case.id for case in data.cases}
    assert [c.id for c in subset.split("test")] == [c.id for c in data.split("test")]
    assert {path.stem for path in (subset.folder / "masks").iterdir()} == {c.id for c in subset.cases if c.mask}
    assert all(case.mask is None for case in subset.split("unannotated"))
    for case in subset.cases:
        assert case.image.read_bytes() == data[case.id].image.read_bytes()


def test_a_subset_depends_on_its_draw_alone(data: Dataset, tmp_path: Path) -> None:
    one, two = (subset_dataset(data, tmp_path / name, 6, draw=3) for name in ("one", "two"))
    other = subset_dataset(data, tmp_path / "other", 6, draw=4)
    smaller = subset_dataset(data, tmp_path / "smaller", 3, draw=3)
    assert files_of(one.folder) == files_of(two.folder)
    assert {c.id for c in one.split("train")} != {c.id for c in other.split("train")}
    assert {c.id for c in smaller.split("train")} < {c.id for c in one.split("train")}


def test_what_is_known_of_a_label_is_kept_beside_it(data: Dataset, tmp_path: Path) -> None:
    case, other, *_ = data.split("train")
    half = np.zeros(case.read_mask().shape, np.uint8)
    half[:, : half.shape[1] // 2] = 255
    (tmp_path / "known").mkdir()
    write_png(tmp_path / "known" / "half.png", half)
    partly = replace(case, known=tmp_path / "known" / "half.png")
    with new_dataset(tmp_path / "copied") as partial:
        write_cases(partial, [copy_case(one, partial) for one in (partly, other)])
    one, two = read_dataset(tmp_path / "copied").cases
    assert (one.read_known() == (half > 0)).all() and two.known is None and two.read_known().all()
    assert one.attributes == case.attributes and digest_of_case(one) != digest_of_case(case)
    assert one.known is not None
    one.known.unlink()
    with pytest.raises(DataError, match="the mask of known pixels of case"):
        read_dataset(tmp_path / "copied")


def test_a_subset_may_leave_lesion_free_images_alone_without_annotation(data: Dataset, tmp_path: Path) -> None:
    def free(case: Case) -> Case:
        return replace(case, attributes={**case.attributes, "negative": 1.0})

    train, bare = data.split("train"), data.split("unannotated")
    some = {case.id for case in (*train[:2], *bare[:1])}
    declared = replace(data, cases=tuple(free(case) if case.id in some else case for case in data.cases))
    subset = subset_dataset(declared, tmp_path / "subset", 3, unannotated="lesion-free")
    assert len(subset.split("train")) == 3 and not any(case.negative for case in subset.split("train"))
    assert {case.id for case in subset.split("unannotated")} == some
    assert all(case.negative and case.mask is None for case in subset.split("unannotated"))
    for split in ("val", "test"):
        assert [case.id for case in subset.split(split)] == [case.id for case in data.split(split)]
    with pytest.raises(DataError, match=f"1 to {len(train) - 2} annotated"):
        subset_dataset(declared, tmp_path / "many", len(train) - 1, unannotated="lesion-free")
    with pytest.raises(DataError, match=r"column negative of cases\.csv: none"):
        subset_dataset(data, tmp_path / "none", 3, unannotated="lesion-free")
    assert not (tmp_path / "many").exists() and not (tmp_path / "none").exists()


@pytest.mark.parametrize("draw", range(5))
def test_a_subset_takes_whole_groups_while_they_fit(data: Dataset, tmp_path: Path, draw: int) -> None:
    train = [replace(case, split="train", group=f"p{index // 4}") for index, case in enumerate(data.cases)]
    write_cases(data.folder, train)
    whole = read_dataset(data.folder)
    kept = subset_dataset(whole, tmp_path / "eight", 8, draw).split("train")
    assert len({case.group for case in kept}) == 2
    cut = subset_dataset(whole, tmp_path / "nine", 9, draw).split("train")
    assert len(cut) == 9
    assert len({case.group for case in cut}) == 3


@pytest.mark.parametrize("annotated", [0, 1000])
def test_a_subset_of_more_than_there_are_is_refused_and_leaves_nothing(
    data: Dataset, tmp_path: Path, annotated: int
) -> None:
    with pytest.raises(DataError) as error:
        subset_dataset(data, tmp_path / "subset", annotated, 0)
    assert str(annotated) in one_line(error)
    assert not (tmp_path / "subset").exists()


def test_the_same_subset_again_changes_nothing_and_another_is_refused(data: Dataset, tmp_path: Path) -> None:
    subset_dataset(data, tmp_path / "subset", 5, 0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "subset").rglob("*")}
    subset_dataset(data, tmp_path / "subset", 5, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "subset").rglob("*")} == before
    with pytest.raises(ConfigError, match="never replaces another"):
        subset_dataset(data, tmp_path / "subset", 6, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "subset").rglob("*")} == before


def test_a_folder_with_other_files_is_never_overwritten(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="other files"):
        subset_dataset(data, tmp_path / "mine", 5, 0)
    assert files_of(tmp_path / "mine") == {"notes.txt": b"keep"}


def test_an_empty_mask_is_refused_unless_the_case_is_declared_negative(tmp_path):
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    write_png(folder / "images" / "a.png", np.full((8, 9, 3), 90, np.uint8))
    write_png(folder / "masks" / "a.png", np.zeros((8, 9), np.uint8))
    case = Case("a", folder / "images" / "a.png", folder / "masks" / "a.png", "a", "test")
    write_cases(folder, [case])
    with pytest.raises(DataError, match=r"case a .* is empty; .*declare it lesion-free with 1 in a column `negative`"):
        check_dataset(read_dataset(folder).cases)
    write_cases(folder, [replace(case, attributes={"negative": 1.0})])
    assert read_dataset(folder).cases[0].negative
    assert check_dataset(read_dataset(folder)).notices == ()
    write_png(folder / "masks" / "a.png", np.full((8, 9), 255, np.uint8))
    with pytest.raises(DataError, match="declared negative and has one"):
        check_dataset(read_dataset(folder).cases)
