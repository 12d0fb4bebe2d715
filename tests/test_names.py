import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import DataError
from diffaug.names import Inside, check_distinct, fault_of_name, fault_of_path, inside, plain_name, shown, without_links

NAMES = ("synth-00017", "P7", "IM 12 (3)", "dätä", "患者-3", "a.b.c", "console", ".hidden", "👩\u200d⚕️")
BAD_NAMES = (
    "", ".", "..", "a/b", "a\\b", "/etc", "a\nb", "a\0b", "x\u202egnp.exe", "x\u2028y", "\ud800", " a", "a ", "nul",
    "CON", "com1.png", "LPT9 .x", "COM¹", "x" * 201, "ä" * 101,
)  # fmt: skip
BAD_PATHS = ("", "/etc/passwd", "../x.png", "a/../../x.png", "C:/x.png", "c:x.png", "a\\x.png", "a/nul/x.png", "..")


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match="rename it") as error:
        plain_name(name, "the id of a case")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", BAD_PATHS)
def test_a_path_that_leads_out_of_its_folder_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a path lies inside its folder"):
        inside(tmp_path, text)


@given(st.text(max_size=40))
def test_what_is_taken_for_a_path_stays_inside_whatever_the_text(text: str) -> None:
    if not fault_of_path(text):
        assert os.path.normpath(Path("/root/folder", text)).startswith("/root/folder/")


@given(st.text(max_size=20))
def test_a_plain_name_is_one_part_of_a_path(name: str) -> None:
    if not fault_of_name(name):
        assert Path("/root/folder", f"{name}.png").parent == Path("/root/folder")


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(b"")
    (folder / "images/b.png").symlink_to("a.png")
    (folder / "images/c.png").symlink_to("/etc/passwd")
    (folder / "masks").symlink_to(tmp_path)
    place = Inside(folder)
    assert place.path("images/a.png") == folder / "images/a.png"
    assert place.path("images/b.png") == folder / "images/b.png"
    assert place.path("images/missing.png") == folder / "images/missing.png"
    for text in ("images/c.png", "masks/a.png"):
        with pytest.raises(DataError, match="leads out of the folder by a link"):
            place.path(text)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    assert inside(tmp_path / "link", "a.png") == tmp_path / "link" / "a.png"


def test_a_picture_has_the_name_of_one(tmp_path: Path) -> None:
    assert Inside(tmp_path).picture("a.PNG") == tmp_path / "a.PNG"
    with pytest.raises(DataError, match="a picture ends in one of"):
        Inside(tmp_path).picture("run.sh")


@pytest.mark.parametrize("names", [("A", "a"), ("Stra\u00dfe", "STRASSE"), ("e\u0301", "\u00c9")])
def test_names_that_are_one_file_elsewhere_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="differ by more than capitals"):
        check_distinct(names, "cases.csv")


def test_a_name_that_stands_twice_is_refused_and_others_are_not() -> None:
    check_distinct(("a", "b", "a1"), "cases.csv")
    with pytest.raises(DataError, match="more than once"):
        check_distinct(("a", "b", "a"), "cases.csv")


def test_a_message_shows_what_hides_in_a_text() -> None:
    assert shown("a\u202eb") == "'a\\u202eb'"
    assert len(shown("x" * 500)) < 80


def test_a_folder_holds_no_link_that_leads_out_and_others_pass(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(b"a")
    (folder / "images" / "b.png").symlink_to("a.png")
    (folder / ".hidden").symlink_to("/etc/passwd")
    (tmp_path / "link").symlink_to(folder)
    assert without_links(tmp_path / "link") == tmp_path / "link"
    for name, target in (("summary.json", "/etc/passwd"), ("shards", "/etc"), ("images/c.png", "../../other")):
        (folder / name).symlink_to(target)
        with pytest.raises(DataError, match="no link that leads out"):
            without_links(folder)
        (folder / name).unlink()
