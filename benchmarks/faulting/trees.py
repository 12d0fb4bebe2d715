"""Folders that are compared: their files as values, without what differs from run to run, such as seconds."""

import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

VOLATILE = ("seconds", "ms", "milliseconds", "created", "generate_seconds", "fit_seconds", "seconds_per_kept")
# They hold seconds, or digests of logs that do.
TIMED = ("costs.csv", "training.csv", "curve.csv", "training/digests.json", "draw0/files.json")
IGNORED = (".lock", "seconds.json", ".tmp")

Tree = Mapping[str, Any]


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_volatile(each) for name, each in value.items() if name not in VOLATILE}
    return [_without_volatile(each) for each in value] if isinstance(value, list) else value


def _value_of(path: Path, root: bytes) -> Any:
    """Return what a file says: of JSON its values without seconds, of others their bytes; roots of paths cut off."""
    data = path.read_bytes().replace(root, b"@")
    try:
        if path.as_posix().endswith(TIMED):
            lines = data.splitlines()
            return sorted(json.loads(data)) if path.suffix == ".json" else (lines[:1], len(lines))
        if path.suffix == ".json":
            return _without_volatile(json.loads(data))
        if path.suffix == ".jsonl":
            return [_without_volatile(json.loads(line)) for line in data.splitlines()]
        if path.suffix == ".csv":
            return data.splitlines()  # a last line without its end says the same
        if path.suffix == ".html":
            return re.sub(rb"[0-9]+", b"", data)  # times of trainings are among its numbers
    except ValueError:
        pass
    return data


def tree_of(folder: Path) -> Tree:
    """Return what each file below a folder says, by its relative path; files that processes leave for each other not.

    Empty folders count, with None.
    """
    found: dict[str, Any] = {}
    root = os.fsencode(folder.absolute())
    for place, folders, names in os.walk(folder):
        base = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in names:
            path = Path(place, name)
            if name not in IGNORED and stat.S_ISREG(path.lstat().st_mode):
                found[(base / name).as_posix()] = _value_of(path, root)
        if not names and not folders:
            found[f"{base.as_posix()}/"] = None
    return found


def differences(expected: Tree, found: Tree) -> tuple[list[str], list[str]]:
    """Return the files that are missing, and those that differ or are too many."""
    lost = sorted(set(expected) - set(found))
    other = sorted(name for name, value in found.items() if name not in expected or expected[name] != value)
    return lost, other


def is_whole(path: Path) -> bool:
    """Tell whether a file opens, by its suffix; the last line of a log may be cut off."""
    data = path.read_bytes()
    try:
        return _opens(path, data)
    except (ValueError, OSError, SyntaxError, SafetensorError, EOFError, KeyError):
        return False


def _opens(path: Path, data: bytes) -> bool:
    readers: dict[str, Callable[[], Any]] = {
        ".json": lambda: json.loads(data),
        ".jsonl": lambda: [json.loads(line) for line in data.split(b"\n")[:-1]],
        ".png": lambda: Image.open(io.BytesIO(data)).load(),
        ".npz": lambda: dict(np.load(io.BytesIO(data))),
        ".safetensors": lambda: safe_open(path, "np"),
        ".checkpoint": lambda: safe_open(path, "np"),
        ".csv": lambda: data.endswith(b"\n") or 1 / 0,
        ".html": lambda: data.rstrip().endswith(b"</html>") or 1 / 0,
    }
    try:
        readers.get(path.suffix, lambda: None)()
    except ZeroDivisionError:
        return False
    return True


def torn_in(folder: Path) -> list[str]:
    """Return the files under their last names that do not open."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".partial")
    inside = [path for path in paths if not any(part.endswith(".partial") for part in path.parts)]
    return sorted(str(path.relative_to(folder)) for path in inside if not is_whole(path))


def fresh(template: Path, folder: Path) -> Path:
    """Make a folder a copy of a template, whatever it was."""
    clear(folder)
    shutil.copytree(template, folder, symlinks=True)
    return folder


def clear(folder: Path) -> None:
    """Remove a folder, also one whose permissions were changed."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
