import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from layouts import SEQUENCE_ENDS, imported, write_clinicdb

from diffaug.data.examine import examine_cases
from diffaug.data.folder import Dataset
from diffaug.data.sources import cvc_clinicdb
from diffaug.data.sources.cvc_clinicdb import TABLE, read_cvc_clinicdb, read_sequences
from diffaug.errors import DataError

SEQUENCES = read_sequences()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clinicdb(tmp_path_factory.mktemp("published") / "CVC-ClinicDB")


@pytest.fixture(scope="module")
def whole(published: Path) -> tuple[Dataset, list[str]]:
    return imported("cvc-clinicdb", published, published.parent / "data")


def copied(published: Path, to: Path) -> Path:
    """Return a tree of links to the published files, which a test may change."""
    return shutil.copytree(published, to, copy_function=os.link)


def refused(source: Path, to: Path) -> str:
    with pytest.raises(DataError) as error:
        imported("cvc-clinicdb", source, to)
    assert not to.exists() and list(to.parent.glob(".*")) == []
    message = str(error.value)
    assert "\n" not in message and ";" in message
    return message


def test_the_published_ranges_cover_612_frames_and_29_sequences_without_a_gap() -> None:
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    assert list(SEQUENCES) == list(range(1, table["frames"] + 1)) == list(range(1, 613))
    assert list(SEQUENCES.values()) == sorted(SEQUENCES.values())
    assert tuple(last for _, last in table["sequences"].values()) == SEQUENCE_ENDS
    assert [SEQUENCES[number] for number in (1, 25, 26, 200, 205, 206, 612)] == [1, 1, 2, 10, 10, 11, 29]
    assert all(str(count) in TABLE.read_text(encoding="utf-8") for count in (25, 29, 31))


def test_no_sequence_crosses_a_split_and_every_split_has_its_share(whole: tuple[Dataset, list[str]]) -> None:
    data, notices = whole
    assert [case.id for case in data.cases] == [str(number) for number in range(1, 613)]
    assert {case.group for case in data.cases} == {f"sequence-{number:02}" for number in range(1, 30)}
    assert all(case.group == f"sequence-{SEQUENCES[int(case.id)]:02}" for case in data.cases)
    splits = {case.group: case.split for case in data.cases}
    assert all(case.split == splits[case.group] for case in data.cases)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs(len(data.split(split)) / 612 - share) < 26 / 612  # the longest sequence
    assert all("shown twice" in notice for notice in notices)  # neighbours may be nearly equal


@pytest.mark.parametrize(
    ("inner", "images", "masks"),
    [("PNG", "Original", "Ground Truth"), ("", "images", "masks"), ("", "original", "ground truth")],
)
def test_the_layouts_of_mirrors_are_read(published: Path, tmp_path: Path, inner: str, images: str, masks: str) -> None:
    for old, new in (("Original", images), ("Ground Truth", masks)):
        shutil.copytree(published / old, tmp_path / "mirror" / inner / new, copy_function=os.link)
    cases = read_cvc_clinicdb(tmp_path / "mirror").records
    assert [case.id for case in cases] == [str(number) for number in range(1, 613)]
    assert all(case.image.stem == case.mask.stem == case.id for case in cases if case.mask)
    assert {case.image.parent.name for case in cases} == {images}


def test_the_folder_above_the_archive_is_read(published: Path, tmp_path: Path) -> None:
    copied(published, tmp_path / "downloads" / "CVC-ClinicDB")
    assert len(read_cvc_clinicdb(tmp_path / "downloads").records) == 612


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda s: [(s / f"Original/{n}.tif").unlink() for n in (7, 300, 612)], ["Original lacks 3,", "number 7;"]),
        (lambda s: (s / "Ground Truth/12.tif").unlink(), ["Ground Truth lacks 1,", "number 12;"]),
        (lambda s: (s / "Original/1.tif").rename(s / "Original/frame1.tif"), ["named by their numbers", "frame1.tif"]),
        (lambda s: (s / "Original/1.tif").rename(s / "Original/613.tif"), ["1 to 612", "613.tif"]),
        (
            lambda s: shutil.rmtree(s / "Ground Truth"),
            ["Original/ and Ground Truth/", "holds images such as Original/1.tif"],
        ),
        (shutil.rmtree, ["the images to import must lie in a folder"]),
    ],
    ids=["frames missing", "mask missing", "other name", "other number", "no masks", "no folder"],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    published: Path, tmp_path: Path, spoil: Callable[[Path], object], parts: list[str]
) -> None:
    source = copied(published, tmp_path / "source")
    spoil(source)
    message = refused(source, tmp_path / "data")
    assert all(part in message for part in parts)


def test_files_that_were_numbered_anew_are_noticed(whole: tuple[Dataset, list[str]], published: Path) -> None:
    found, remark = examine_cases(whole[0].cases), read_cvc_clinicdb(published).remark
    order = np.random.default_rng(0).permutation(len(found))
    anew = [replace(found[old], case=one.case) for one, old in zip(found, order, strict=True)]
    assert any("numbered anew" in notice for notice in remark(anew))
    assert remark(found) == []


def test_sequences_that_share_a_frame_are_one_group(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a set that is published with its first seven sequences alone, which is imported sooner."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    first = {name: frames for name, frames in table["sequences"].items() if int(name) <= 7}
    last = max(end for _, end in first.values())
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"frames": last, "sequences": first}), encoding="utf-8")
    monkeypatch.setattr(cvc_clinicdb, "TABLE", tmp_path / "table.yaml")
    for kind in ("Original", "Ground Truth"):
        (tmp_path / "source" / kind).mkdir(parents=True)
        for number in range(1, last + 1):
            shown = 30 if (kind, number) == ("Original", 110) else number  # a frame of sequence 2 in sequence 6
            os.link(published / kind / f"{shown}.tif", tmp_path / "source" / kind / f"{number}.tif")
    data, notices = imported("cvc-clinicdb", tmp_path / "source", tmp_path / "data")
    assert data["108"].group == data["26"].group == "sequence-02"
    assert data["108"].split == data["26"].split
    assert "frames of the sequences 2 and 6 look the same: the two are one group" in notices
