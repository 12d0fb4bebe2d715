"""Names and paths that come out of files: the one place where they are checked.

A data set, a synthetic set or a study may come from anybody, so what its files say is not trusted. A name is a plain
name of a file on every system; a path is relative, with forward slashes, and leads to a place inside its folder, also
when links are followed.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from diffaug.errors import DataError

LONGEST = 200  # bytes of a name in UTF-8: file systems take LONGEST_FILE, and endings and marks are added
LONGEST_FILE = 255
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2")
DEVICE = re.compile(r"(?:^|/)(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])[ ]*(?:[./]|$)", re.IGNORECASE)  # of Windows
COMMON = re.compile(r"[A-Za-z0-9_-]{1,100}")
COMMON_PATH = re.compile(r"(?:[A-Za-z0-9_-]{1,100}/){0,9}[A-Za-z0-9_-]{1,100}\.[a-z]{3,4}")
# Cc: control; Cf: among others, characters that turn the direction of text; Cs: halves of characters; Zl, Zp: new lines
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
ON_WINDOWS = os.name == "nt"
NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]|\.$')  # such a name is another one there, or none
JOINERS = "\u200c\u200d"  # Cf as well, but parts of words of several scripts and of emoji


def fault_of_name(text: str, longest: int = LONGEST) -> str:
    """Return what keeps a text from being a plain name, in words; "" where nothing does."""
    if COMMON.fullmatch(text) and not DEVICE.search(text):
        return ""  # a table has ten thousands of them
    hidden = any(unicodedata.category(character) in HIDDEN and character not in JOINERS for character in text)
    faults = {
        "is no name": text in ("", ".", ".."),
        "has a slash": bool({"/", "\\"} & set(text)),
        "has a control character, or one that turns text round": hidden,
        f"is longer than {longest} bytes": len(text.encode(errors="replace")) > longest,
        "has a blank at an end": text != text.strip(),
        "is a device of Windows": bool(DEVICE.search(text)),
        "Windows takes for no name of a file": ON_WINDOWS and bool(NOT_ON_WINDOWS.search(text)),
    }
    return next((fault for fault, found in faults.items() if found), "")


def plain_name(text: str, what: str = "a name") -> str:
    """Return a name that came out of a file.

    Args:
        text: The name.
        what: What it is called in the error, and where it stands.

    Raises:
        DataError: It is no plain name.
    """
    if fault := fault_of_name(text):
        raise DataError(
            f"a name is plain, without slashes and hidden characters, {LONGEST} bytes at most: {what} is "
            f"{shown(text)}, which {fault}; rename it"
        )
    return text


def fault_of_path(text: str) -> str:
    """Return what keeps a text from being a relative path inside its folder, in words; "" where nothing does."""
    if COMMON_PATH.fullmatch(text) and not DEVICE.search(text):
        return ""
    path = PurePosixPath(text)
    if path.is_absolute() or (text[1:2] == ":" and text[:1].isalpha()):
        return "is absolute"
    if not path.parts or ".." in path.parts:
        return "leads out of the folder" if path.parts else "is no path"
    if "\\" in text:
        return "has a backslash"
    return next((fault for part in path.parts if (fault := fault_of_name(part, LONGEST_FILE))), "")


class Inside:
    """A folder, and the paths in it that its files name.

    The folders of one table are resolved once, so a table of many files costs one look at each file.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; it may be a link itself."""
        self.folder = folder
        self._root = os.path.realpath(folder)
        self._parents: dict[str, bool] = {}

    def path(self, text: str, what: str = "a path") -> Path:
        """Return the path of a file that may be missing.

        Args:
            text: As it stands in a file of the folder.
            what: What it is called in the error, and where it stands.

        Raises:
            DataError: See `check`.
        """
        self.check(text, what)
        return self.folder / text

    def check(self, text: str, what: str = "a path") -> None:
        """Refuse a path that does not stay in the folder; a table has ten thousands of them.

        Raises:
            DataError: It is not relative, or leads out of the folder, perhaps through a link.
        """
        fault = fault_of_path(text) or ("" if self.holds(text) else "leads out of the folder by a link")
        if fault:
            raise DataError(
                f"a path lies inside its folder: {what} is {shown(text)}, which {fault} ({self.folder}); copy the file "
                "into the folder, or do not use what you do not trust"
            )

    def picture(self, text: str, what: str = "a path") -> Path:
        """Return the path of an image or a mask.

        Raises:
            DataError: See `path`; or its name does not end as those of pictures do.
        """
        path = self.path(text, what)
        if path.suffix.lower() not in PICTURES:
            raise DataError(f"a picture ends in one of {' '.join(PICTURES)}: {what} is {shown(text)}; save it as a PNG")
        return path

    def holds(self, text: str) -> bool:
        """Tell whether a relative path stays in the folder when links are followed."""
        parent, name = os.path.split(text)
        if parent not in self._parents:
            self._parents[parent] = self._is_under(os.path.realpath(f"{self._root}/{parent}"))
        whole = f"{self._root}/{parent}/{name}"
        return self._parents[parent] and (not _is_link(whole) or self._is_under(os.path.realpath(whole)))

    def _is_under(self, place: str) -> bool:
        return place == self._root or place.startswith(self._root.rstrip(os.sep) + os.sep)


def without_links(folder: Path) -> Path:
    """Return a folder in which no link leads out of it, so that nothing else is read. Hidden files do not count.

    Raises:
        DataError: Naming the first link.
    """
    place = Inside(folder)
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *sorted(names)):
            path = os.path.join(parent, name)  # noqa: PTH118 - a set has ten thousands of them
            if not name.startswith(".") and _is_link(path) and not place.holds(os.path.relpath(path, folder)):
                raise DataError(
                    f"a folder that is read holds no link that leads out of it: {path} does; copy the file into the "
                    "folder, or remove the link"
                )
    return folder


def _is_link(place: str) -> bool:
    try:
        status = os.lstat(place)
    except OSError:
        return False
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)  # a link of Windows between folders
    return stat.S_ISLNK(status.st_mode) or (junction is not None and getattr(status, "st_reparse_tag", 0) == junction)


def inside(folder: Path, text: str, what: str = "a path") -> Path:
    """Return a path that a file of a folder names; see `Inside.path`."""
    return Inside(folder).path(text, what)


def folded(name: str) -> str:
    """Return what two names share that are one file where capitals or the spelling of accents do not matter."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_distinct(names: Iterable[str], where: object) -> None:
    """Refuse names that stand twice, or differ by capitals alone.

    Raises:
        DataError: Naming the first two.
    """
    first: dict[str, str] = {}
    for name in names:
        count = len(first)
        twin = first.setdefault(folded(name), name)
        if len(first) > count:
            continue
        if twin == name:
            raise DataError(f"ids must be unique: {where} lists {name} more than once; rename one of the cases")
        raise DataError(
            f"ids must differ by more than capitals, since on many systems they are one file: {where} lists "
            f"{shown(twin)} and {shown(name)}; rename one of the cases"
        )


def shown(text: str) -> str:
    """Return a text that is not trusted as a message shows it: quoted, 80 characters at most, hidden ones as codes."""
    quoted = repr(text) if all(unicodedata.category(one) not in HIDDEN for one in text) else ascii(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:60]}...{quoted[-10:]}"


def _checked_name(text: str) -> str:
    if fault := fault_of_name(text):
        raise ValueError(f"{shown(text)} {fault}: a name has no slashes and no hidden characters")
    return text


def _checked_path(text: str) -> str:
    fault = fault_of_path(text) if text else ""
    if not fault and text and os.path.splitext(text)[1].lower() not in PICTURES:  # noqa: PTH122 - a set has ten thousands
        fault = "is no picture"
    if fault:
        raise ValueError(f"{shown(text)} {fault}: a path of a picture lies inside its folder")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]  # of a file's typed model: a plain name
OptionalName = Annotated[str, AfterValidator(lambda text: _checked_name(text) if text else text)]  # or ""
PicturePath = Annotated[str, AfterValidator(_checked_path)]  # of a file's typed model: a path of a picture, or ""
