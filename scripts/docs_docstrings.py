"""An extension of griffe, which reads docstrings for the site: examples, and what comments say of settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Completes docstrings in the form that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Call the section `Example:` by the name under which griffe takes doctests for code."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """List the fields of a class that comments describe, as `--help` does."""
        fields = [f"    {name}: {text}" for name, text in _described(cls)]
        if cls.docstring and fields and "\nAttributes:\n" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(fields) + "\n"


def _described(cls: griffe.Class) -> Iterator[tuple[str, str]]:
    """Yield the fields of a class with the comment behind them or above them, and their default."""
    lines = Path(str(cls.filepath)).read_text(encoding="utf-8").splitlines()
    for name, field in cls.attributes.items():
        if name.startswith("_") or not field.lineno or not field.endlineno or field.endlineno > len(lines):
            continue
        if not re.match(rf"    {name}: ", lines[field.lineno - 1]):  # not a field, or of another file
            continue
        behind = re.search(r"  # (.*)", lines[field.endlineno - 1])
        above: list[str] = []
        while not behind and (line := lines[field.lineno - 2 - len(above)].strip()).startswith("# "):
            above = [line[2:], *above]
        text = behind[1] if behind else " ".join(above)
        if text:
            default = "" if field.value is None else f" Default: `{field.value}`."
            yield name, text.rstrip(".") + "." + default
