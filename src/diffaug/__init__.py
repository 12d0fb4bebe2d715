"""Diffusion augmentation for medical image segmentation where annotated lesions are scarce.

cases -> requests -> paint -> gate -> synthetic set -> study -> report

The public names are those of `__init__.pyi`, which type checkers read. Each is imported when it is first used, since
torch takes seconds.
"""

import ast
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOMES = {alias.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}

__all__ = list(_HOMES)
__version__ = importlib.metadata.version("diffaug")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffaug' has no attribute {name!r}")
    return getattr(importlib.import_module(str(_HOMES[name])), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
