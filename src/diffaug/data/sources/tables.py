"""Tables of images and masks: a CSV file, or the metadata of a Hugging Face imagefolder.

`csv`: SOURCE is a CSV file, or a folder that holds one. Columns, whatever their capitals: image, mask, and where they
are known id, group (or patient), split, prompt and negative (1 = lesion-free). Paths are relative to the file.

`hf`: metadata.csv or metadata.jsonl in SOURCE or in its folders train, validation and test. Columns: file_name (or
image_file_name), mask_file_name, and the others above; text is the prompt. Paths are relative to the metadata.

An empty cell of mask is an image without annotation, or a lesion-free one where `negative` is 1.

Source: https://huggingface.co/docs/datasets/image_dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from diffaug.artifacts import read_csv, read_jsonl
from diffaug.data.sources.layout import Record, SourceRecords
from diffaug.data.sources.names import SPLIT_WORDS, normal, read_folder_name
from diffaug.data.sources.recognise import files_of, not_understood
from diffaug.errors import DataError
from diffaug.names import LONGEST_FILE, fault_of_name, plain_name, shown

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "image_file", "image_file_name", "img", "file_name", "filename", "path"),
    "mask": ("mask", "mask_path", "mask_file", "mask_file_name", "label", "label_path", "label_file_name",
             "annotation", "annotation_file_name", "segmentation", "segmentation_file_name", "groundtruth"),
    "id": ("id", "case", "case_id"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id", "sequence"),
    "split": ("split", "fold", "set"),
    "prompt": ("prompt", "text", "caption", "description"),
    "negative": ("negative", "lesion_free"),
}  # fmt: skip
YES = ("1", "1.0", "true", "yes")
NO = ("", "0", "0.0", "false", "no", "none")


def read_table(source: Path) -> SourceRecords:
    """Read the pairs that a CSV file lists.

    Raises:
        DataError: There is no such file or there are several, or a row breaks a rule.
    """
    table = source
    if source.is_dir():
        tables = [
            path for path in sorted(source.iterdir()) if path.suffix.lower() == ".csv" and path.name != "groups.csv"
        ]
        if not tables:
            raise not_understood("a source is a CSV file with the columns image and mask, or holds one", source, "csv")
        if len(tables) > 1:
            raise DataError(
                f"an import reads one table: {source} holds {tables[0].name} and {tables[1].name}; "
                f"name one of them, such as {tables[0]}"
            )
        table = tables[0]
    return SourceRecords(_records(read_csv(table, ()), table, ""))


def read_imagefolder(source: Path) -> SourceRecords:
    """Read the metadata of an imagefolder.

    Raises:
        DataError: There is none, or a row breaks a rule.
    """
    tables = [path for path in files_of(source) if path.name.lower() in ("metadata.csv", "metadata.jsonl")]
    if not tables:
        other = next((path for path in files_of(source) if path.suffix == ".parquet"), None)
        if other:
            raise DataError(
                f"an imagefolder has metadata.csv or metadata.jsonl: {source} has {other.name}; write the "
                "images and metadata.csv out of it with the library datasets"
            )
        raise not_understood("an imagefolder has metadata.csv or metadata.jsonl", source, "hf")
    records: list[Record] = []
    for table in tables:
        rows: Sequence[Mapping[str, str]] = (
            read_csv(table, ()) if table.suffix.lower() == ".csv"
            else [{key: "" if cell is None else str(cell) for key, cell in row.items()} for row in read_jsonl(table)]
        )  # fmt: skip
        folders = [read_folder_name(part).split for part in table.relative_to(source).parts[:-1]]
        records += _records(rows, table, next((split for split in folders if split), ""))
    return SourceRecords(records)


def _records(rows: Sequence[Mapping[str, str]], table: Path, split: str) -> list[Record]:
    columns = _columns_of(list(rows[0]) if rows else [], table)
    seen: dict[Path, int] = {}
    named = (row.get(columns["image"]) or "" for row in rows)  # each row of JSON lines has keys of its own
    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in named]
    deep = len(set(stems)) < len(stems)
    records = []
    for number, row in enumerate(rows, start=2 if table.suffix.lower() == ".csv" else 1):
        cells = {name: str(row.get(column, "") or "").strip() for name, column in columns.items()}
        where = f"{table.name} row {number}"
        image = _file(cells["image"], table, where, "image")
        if image in seen:
            raise DataError(
                f"an image has one mask: {cells['image']} is in the rows {seen[image]} and {number} of {table.name}; "
                "keep one row, or unite the masks"
            )
        seen[image] = number
        free = _is_free(cells.get("negative", ""), where)
        mask = _file(cells["mask"], table, where, "mask") if cells["mask"] else None
        given = _split_of(cells.get("split", ""), where) or split
        if mask is None and not free:
            if given in ("val", "test"):
                raise DataError(f"every case of {given} needs a mask: {where} ({cells['image']}) has none; add it")
            given = "unannotated"
        records.append(
            Record(
                cells.get("id") or _name(image, table, given, deep),
                image, mask, cells.get("group", ""), given, free, cells.get("prompt", ""),
            )
        )  # fmt: skip
    _check_ids(records, table)
    return records


def _columns_of(header: Sequence[str], table: Path) -> dict[str, str]:
    """Return the column of the table for each name that is known."""
    lower = {column.strip().lower(): column for column in header}
    found = {name: next((lower[known] for known in names if known in lower), "") for name, names in COLUMNS.items()}
    if found["mask"] == lower.get("label") and table.stem.lower() == "metadata":
        found["mask"] = ""  # an imagefolder's label is the class of the whole image
    for name in ("image", "mask"):
        if not found[name]:
            raise DataError(
                f"a table has the columns image and mask (or {', '.join(COLUMNS[name][1:4])}): {table} has "
                f"{', '.join(header) or 'no row'}; rename the column of the {name}s to {name}"
            )
    return {name: column for name, column in found.items() if column}


def _file(cell: str, table: Path, where: str, kind: str) -> Path:
    """Return a file that a table names, which lies in the folder of the table."""
    base = table.parent
    if not cell:
        raise DataError(f"every row names an image: {where} has none; add its path or remove the row")
    path = Path(cell.replace("\\", "/"))
    parts = (part for part in path.parts if part not in ("..", path.anchor))
    if fault := next((fault for part in parts if (fault := fault_of_name(part, LONGEST_FILE))), ""):
        raise DataError(f"paths are made of plain names: {where} has {shown(cell)}, which {fault}; rename the {kind}")
    path = path if path.is_absolute() else base / path
    if not path.resolve().is_relative_to(base.resolve()):
        raise DataError(
            f"paths lie in the folder of the table: {where} has {cell!r}; move {table.name} above its images"
        )
    if not path.is_file():
        raise DataError(f"every path of a table is a file: the {kind} of {where} is missing ({path}); correct the path")
    return path


def _is_free(cell: str, where: str) -> bool:
    if cell.lower() not in (*YES, *NO):
        raise DataError(f"negative is 1 or 0: {where} has {cell!r}; correct it")
    return cell.lower() in YES


def _split_of(cell: str, where: str) -> str:
    if cell and cell.lower() not in SPLIT_WORDS:
        raise DataError(f"a split is train, val or test: {where} has {cell!r}; correct it or clear it")
    return SPLIT_WORDS[cell.lower()] if cell else ""


def _name(image: Path, table: Path, split: str, deep: bool) -> str:
    base = table.parent.resolve()
    folders = image.resolve().relative_to(base).parts[:-1] if deep else ()
    return "-".join([*([split] if split else []), *folders, normal(image.stem)])


def _check_ids(records: Sequence[Record], table: Path) -> None:
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise DataError(f"ids are unique: {table.name} has {record.id} twice; rename one in a column id")
        plain_name(record.id, f"an id in {table.name}")
        seen.add(record.id)
