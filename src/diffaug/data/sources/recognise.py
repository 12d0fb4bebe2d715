"""What a folder looks like: the sentence that a reader adds where it does not understand its source."""

import os
from pathlib import Path

from diffaug.data.images import SUFFIXES
from diffaug.data.sources.names import base_of_mask, natural, read_folder_name
from diffaug.errors import DataError

ENOUGH = 20_000  # files; what a folder looks like shows long before


def files_of(source: Path) -> list[Path]:
    """Return the files below a folder in natural order, without hidden ones and what file managers leave.

    Raises:
        DataError: A folder cannot be read.
    """
    return [path for path in paths_of(source) if path.is_file()]


def paths_of(source: Path) -> list[Path]:
    """Return what `files_of` returns, and links that lead nowhere.

    Folders that are links are followed, but none is entered again below itself.

    Raises:
        DataError: A folder cannot be read.
    """
    found, waiting = list[Path](), [(source, frozenset[str]())]
    while waiting:
        folder, around = waiting.pop()
        real = os.path.realpath(folder)
        if real in around:
            continue
        try:
            inside = [path for path in folder.iterdir() if not (path.name.startswith(".") or path.name == "__MACOSX")]
        except OSError as error:
            raise DataError(f"every folder must be readable: {folder} is not ({error.strerror}); change it") from None
        waiting += [(path, around | {real}) for path in inside if path.is_dir()]
        found += [path for path in inside if not path.is_dir()]
    return sorted(found, key=lambda path: ([natural(part) for part in path.relative_to(source).parts], path))


def not_understood(rule: str, source: Path, layout: str) -> DataError:
    """Return the error of a reader that does not find its layout: the rule, what was seen, and what reads it."""
    seen, name = look_at(source)
    remedy = f"import it as `{name}`" if name and name != layout else "check the path"
    return DataError(f"{rule}: {source} {seen}; {remedy}")


def look_at(source: Path) -> tuple[str, str]:
    """Return what lies in a folder, in words, and the name of the layout that reads it, "" where none does."""
    if source.is_file():
        return "is a file", {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".csv": "csv"}.get(source.suffix, "")
    files = files_of(source)[:ENOUGH]
    special = _published_form(source, files)
    if special:
        return special
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        return (f"holds {files[0].relative_to(source)} and no image" if files else "holds no file"), ""
    there = {path.with_suffix("") for path in images}
    for path in images:
        marked = base_of_mask(path.stem)
        if marked and path.with_name(marked[0]) in there:
            partner = next(other for other in images if other.with_suffix("") == path.with_name(marked[0]))
            return f"holds {path.name} beside {partner.name}", "folder"
    for path in images:
        if any(read_folder_name(part).kind == "mask" for part in path.relative_to(source).parts[:-1]):
            return f"holds masks such as {path.relative_to(source)}", "folder"
    return f"holds images such as {images[0].relative_to(source)} and no mask", ""


def _published_form(source: Path, files: list[Path]) -> tuple[str, str] | None:
    """Return what is seen of a layout that certain files give away, and its name; None without such files."""
    names = {path.relative_to(source).as_posix().lower(): path for path in files}
    last = {path.name.lower(): path for path in reversed(files)}
    if any(f"{folder}/" in name for name in names for folder in ("imagestr", "labelstr")):
        return "holds imagesTr or labelsTr, as nnU-Net has them", "nnunet"
    if any(name in last for name in ("metadata.csv", "metadata.jsonl")):
        table = last.get("metadata.csv") or last["metadata.jsonl"]
        return f"holds {table.relative_to(source)}, as imagefolder has it", "hf"
    yolo = [path for path in files if path.suffix == ".txt" and "labels" in path.relative_to(source).parts]
    if yolo or "data.yaml" in last:
        return f"holds {(last.get('data.yaml') or yolo[0]).relative_to(source)}, as YOLO has it", "yolo"
    for path in files:
        if path.suffix == ".json" and _has_annotations(path):
            return f"holds {path.relative_to(source)}, as COCO has it", "coco"
    for suffixes, words, name in (
        ((".dcm", ".dicom"), "DICOM files", "dicom"),
        ((".nii", ".nii.gz"), "NIfTI files", "nifti"),
    ):
        found = next((path for path in files if path.name.lower().endswith(suffixes)), None)
        if found:
            return f"holds {words} such as {found.relative_to(source)}", name
    listed = next((path for path in files if path.suffix == ".csv" and _has_columns(path)), None)
    return (f"holds {listed.relative_to(source)} with the columns image and mask", "csv") if listed else None


def _has_annotations(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 20)
    return b'"annotations"' in start or (b'"images"' in start and b'"categories"' in start)


def _has_columns(path: Path) -> bool:
    with path.open("rb") as file:
        columns = {cell.strip(b' "').lower() for cell in file.readline(1 << 16).split(b",")}
    return any(b"image" in cell for cell in columns) and any(b"mask" in cell for cell in columns)
