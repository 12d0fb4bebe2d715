"""What differs on Windows, as far as another system can fake it: names, links, folders that are replaced, new lines."""

import os
import re
from pathlib import Path

import pytest

from diffaug import artifacts, names
from diffaug.data import folder as folders
from diffaug.names import fault_of_name

SOURCES = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))


def test_every_text_file_has_the_same_line_breaks_on_every_system():
    opened = [line for path in SOURCES for line in re.findall(r"\.open\(\s*\"[wax]\"[^)]*\)", path.read_text("utf-8"))]
    assert len(opened) >= 4 and all("newline=" in line for line in opened)
    written = [line for path in SOURCES for line in re.findall(r"\.write_text\([^\n]*", path.read_text("utf-8"))]
    assert written and all("newline=" in line for line in written)


def test_nothing_that_one_system_lacks_is_called_without_a_guard():
    lacking = re.compile(r"os\.(fork|getuid|geteuid|killpg|setsid|getloadavg|sysconf|statvfs|mkfifo)\b|SIGKILL|/proc/")
    lacking = re.compile(rf"{lacking.pattern}|^import (resource|fcntl|pwd|grp)$|\.is_mount\(", re.MULTILINE)
    found = {path.name: lacking.findall(path.read_text("utf-8")) for path in SOURCES}
    assert not {name: some for name, some in found.items() if some}


@pytest.mark.parametrize("name", ["a:b", "what?", "a.", 'say "a"', "a|b", "<a>", "a*"])
def test_a_name_that_windows_does_not_take_is_refused_there(monkeypatch, name):
    assert not fault_of_name(name)
    monkeypatch.setattr(names, "ON_WINDOWS", True)
    assert fault_of_name(name) == "Windows takes for no name of a file"
    assert not fault_of_name("a.b") and not fault_of_name("é (1)")


def test_an_empty_folder_is_replaced_where_a_rename_takes_no_folder(monkeypatch, tmp_path):
    def replace(self, target):
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied", str(target))
        os.replace(self, target)  # noqa: PTH105 - `Path.replace` is what is faked

    monkeypatch.setattr(folders, "ON_WINDOWS", True)
    monkeypatch.setattr(Path, "replace", replace)
    (tmp_path / "set").mkdir()
    for _ in range(2):
        with folders.new_dataset(tmp_path / "set", "a.txt") as partial:
            (partial / "a.txt").write_text("a")
        assert (tmp_path / "set" / "a.txt").read_text() == "a"


def test_a_folder_is_never_opened_to_wait_for_the_disk(monkeypatch, tmp_path):
    real = os.open

    def opened(path, flags, *more):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *more)

    monkeypatch.setattr(artifacts, "ON_WINDOWS", True)
    monkeypatch.setattr(os, "open", opened)
    artifacts.write_json(tmp_path / "a.json", {"a": 1})
    artifacts.sync_tree(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_no_process_is_asked_whether_it_runs_by_a_call_that_would_end_it(monkeypatch):
    monkeypatch.setattr(artifacts, "ON_WINDOWS", True)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("the process would be ended"))
    assert artifacts._is_running(1)
