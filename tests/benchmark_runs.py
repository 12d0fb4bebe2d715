"""Benchmarks, run as their command line runs them, in this process: torch and diffusers are imported once for all."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run_benchmark(name: str, *words: object) -> str:
    """Run benchmarks/NAME.py with these words, and return what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr(sys, "argv", [str(BENCHMARKS / f"{name}.py"), *map(str, words)])
        importlib.import_module(name).main()
    return printed.getvalue()
