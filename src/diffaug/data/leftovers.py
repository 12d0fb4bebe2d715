"""What an import passed over: files and links that no record names, and rows of groups.csv that name no case.

Knows paths and records; decodes nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffaug.artifacts import read_csv
from diffaug.data.examine import counted
from diffaug.data.sources.layout import Record
from diffaug.data.sources.names import normal
from diffaug.data.sources.recognise import paths_of
from diffaug.errors import DataError

GROUPS = "groups.csv"
# Tables, texts and programs beside the pictures of a source: they are no cases.
BESIDE = (
    "", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".txt", ".md", ".rst", ".pdf", ".html", ".log",
    ".ini", ".cfg", ".toml", ".py", ".ipynb", ".m", ".doc", ".docx", ".xls", ".xlsx", ".db", ".zip", ".gz", ".tar",
    ".npz", ".parquet", ".cache",
)  # fmt: skip


def notices_of_leftovers(source: Path, records: Sequence[Record]) -> list[str]:
    """Return a sentence for what lies in a source and no record names: pictures, files of other formats, dead links.

    Where a record is no file of its own, such as a slice of a volume, nothing can be said.
    """
    used: set[Path] = set()
    for record in records:
        if not isinstance(record.image, Path):
            return []
        masks = record.mask if isinstance(record.mask, tuple) else (record.mask,)
        used.update(path.resolve() for path in (record.image, *masks) if isinstance(path, Path))
    unread, dead = [], []
    for path in paths_of(source):
        inside = path.relative_to(source)
        if path.is_symlink() and not path.exists():
            dead.append(inside.as_posix())
        elif path.is_file() and path.suffix.lower() not in BESIDE and path.resolve() not in used:
            unread.append(inside.as_posix())
    sentences = {"files were not read, since nothing says what they are": unread, "links lead nowhere": dead}
    return [f"{counted(len(paths), text)}, such as {paths[0]}" for text, paths in sentences.items() if paths]


def groups_table(folder: Path) -> Path | None:
    """Return the file that names groups, whatever its capitals; None without one.

    Raises:
        DataError: There are several.
    """
    found = sorted(path for path in folder.iterdir() if path.name.lower() == GROUPS and path.is_file())
    if len(found) > 1:
        raise DataError(f"groups stand in one file: {folder} has {found[0].name} and {found[1].name}; remove one")
    return found[0] if found else None


def read_groups(folder: Path, records: Sequence[Record]) -> tuple[dict[str, str], list[str]]:
    """Return the group of each record that has one, and what is to be said of the table.

    Groups come from `groups.csv` in the source, where there is one. Blanks around a name do not count: one patient is
    one group.

    Raises:
        DataError: Two rows name different groups for one case, or a case is not named.
    """
    table = groups_table(folder)
    if table is None:
        named = {record.id: normal(record.group).strip() for record in records}
        return {name: group for name, group in named.items() if group}, []
    groups: dict[str, str] = {}
    for row in read_csv(table, ("id", "group")):
        name, group = normal(row["id"]).strip(), normal(row["group"]).strip()
        if group and groups.setdefault(name, group) != group:
            raise DataError(
                f"a case has one group: {table} names {groups[name]!r} and {group!r} for case {name}; remove one row"
            )
    lacking = [record.id for record in records if record.id not in groups and record.split != "unannotated"]
    if lacking:
        raise DataError(f"{GROUPS} must name the group of every case: {table} has none for case {lacking[0]}; add it")
    return {record.id: groups[record.id] for record in records if record.id in groups}, _unknown(groups, records)


def _unknown(groups: Mapping[str, str], records: Sequence[Record]) -> list[str]:
    """Return a sentence for the rows of a table of groups that name no case."""
    known = {record.id for record in records}
    unknown = [name for name in groups if name not in known]
    if not unknown:
        return []
    rows = "1 row" if len(unknown) == 1 else f"{len(unknown)} rows"
    return [f"{rows} of {GROUPS} {'names' if len(unknown) == 1 else 'name'} no case, such as {unknown[0]}"]
