import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import imported, write_pair
from PIL import Image

from diffaug.data.folder import read_dataset
from diffaug.errors import ConfigError, DataError

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("other/c0.heic", "1 file was not read, since nothing says what it is, such as other/c0.heic"),
        ("images/c0.gif", "1 file was not read, since nothing says what it is, such as images/c0.gif"),
    ],
)
def test_files_of_an_unknown_format_are_told(make_source: Make, tmp_path: Path, beside: str, said: str) -> None:
    source = make_source()
    (source / beside).parent.mkdir(exist_ok=True)
    (source / beside).write_bytes(b"x")
    (source / "notes.txt").write_text("no picture")
    (source / "images" / "._c0.png").write_bytes(b"what a file manager leaves")
    _, notices = imported("folder", source, tmp_path / "data")
    assert notices == [said]


def test_links_that_lead_nowhere_are_told(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "images" / "gone.png").symlink_to("nowhere.png")
    _, notices = imported("folder", source, tmp_path / "data")
    assert notices == ["1 link leads nowhere, such as images/gone.png"]


def test_a_linked_picture_is_read_and_not_told(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    shutil.move(source / "images" / "c0.png", tmp_path / "elsewhere.png")
    (source / "images" / "c0.png").symlink_to(tmp_path / "elsewhere.png")
    _, notices = imported("folder", source, tmp_path / "data")
    assert notices == []


def test_a_linked_folder_is_read_once_and_its_links_back_are_not_followed(make_source: Make, tmp_path: Path) -> None:
    whole, source = make_source(), tmp_path / "linked"
    shutil.copytree(whole, source / "P1")
    (source / "P2").symlink_to(whole)
    (whole / "back").symlink_to(source)
    data, notices = imported("folder", source, tmp_path / "data", split="100:0:0")
    assert {case.id.split("-")[0] for case in data} == {"P1", "P2"}
    assert notices[0].startswith("2 folders became groups")


def groups(count: int, text: Callable[[int], str]) -> str:
    return "id,group\n" + "".join(f"c{index},{text(index)}\n" for index in range(count))


def test_a_table_of_groups_is_found_whatever_its_capitals(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "Groups.csv").write_text(groups(10, lambda index: f"P{index // 5}"))
    data, _ = imported("folder", source, tmp_path / "data")
    assert {case.group for case in data} == {"P0", "P1"}
    (source / "groups.csv").write_text(groups(10, str))
    with pytest.raises(DataError, match=r"has Groups\.csv and groups\.csv"):
        imported("folder", source, tmp_path / "other")


def test_a_blank_behind_a_patient_divides_nobody(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "groups.csv").write_text(groups(10, lambda index: ("P7", "P7 ", " P7", "P8", "P9")[index % 5]))
    data, _ = imported("folder", source, tmp_path / "data")
    assert {case.group for case in data} == {"P7", "P8", "P9"}
    assert len({case.split for case in data if case.group == "P7"}) == 1
    table = data.folder / "cases.csv"
    table.write_text(table.read_text().replace(",P8,", ",P7 ,"))
    assert {case.group for case in read_dataset(data.folder)} == {"P7", "P9"}


def test_rows_of_groups_that_name_no_case_are_told(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "groups.csv").write_text(groups(12, str))
    _, notices = imported("folder", source, tmp_path / "data")
    assert notices == ["2 rows of groups.csv name no case, such as c10"]


def test_rows_that_contradict_each_other_are_refused(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "groups.csv").write_text(groups(10, str) + "c3,another\n")
    with pytest.raises(DataError, match=r"names '3' and 'another' for case c3"):
        imported("folder", source, tmp_path / "data")


@pytest.mark.parametrize("length", [200, 246, 250])
def test_names_as_long_as_a_file_system_takes_are_cut_and_stay_apart(tmp_path: Path, length: int) -> None:
    for index in range(4):
        for split in ("train", "test"):
            stem = f"{index}".rjust(length, "n")
            write_pair(tmp_path / "source" / split, stem, index + (9 if split == "test" else 0))
    data, notices = imported("folder", tmp_path / "source", tmp_path / "data")
    assert len({case.id for case in data}) == 8 and all(len(case.id) <= 200 for case in data)
    assert notices == ["8 cases have names of more than 200 bytes, which were cut"]
    assert all(case.read_mask().any() for case in data)


def test_names_that_differ_by_capitals_alone_are_refused_before_work(tmp_path: Path) -> None:
    for index, stem in enumerate(("c0", "C0", "c1")):
        write_pair(tmp_path / "source", stem, index)
    with pytest.raises(DataError, match="differ by more than capitals"):
        imported("folder", tmp_path / "source", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_output_that_is_a_link_is_refused_before_work(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").symlink_to("empty")
    with pytest.raises(ConfigError, match=r"data is a link; name a new folder"):
        imported("folder", source, tmp_path / "data")
    with pytest.raises(ConfigError, match=r"root of a disk|cannot be|differs|holds other files"):
        imported("folder", source, Path(os.sep))


def test_an_option_says_which_index_of_a_palette_is_the_background(make_source: Make, tmp_path: Path) -> None:
    source = make_source(4)
    lesions = {}
    for path in sorted((source / "masks").iterdir()):
        lesions[path.stem] = np.asarray(Image.open(path)) > 0
        image = Image.fromarray((~lesions[path.stem]).astype(np.uint8), "P")  # index 0 is the lesion
        image.putpalette([255, 200, 0, 0, 0, 255])
        image.save(path)
    with pytest.raises(DataError, match="background=1 lesion=0"):
        imported("folder", source, tmp_path / "data")
    data, _ = imported("folder", source, tmp_path / "data", classes=("background=1", "lesion=0"))
    assert all(np.array_equal(case.read_mask(), lesions[case.id]) for case in data)
