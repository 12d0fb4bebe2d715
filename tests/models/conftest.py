"""Precision that is the same everywhere, for comparisons with other libraries."""

from contextlib import nullcontext

import pytest


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32 where a device would be faster in bfloat16."""
    monkeypatch.setattr("diffaug.models.base.autocast", lambda device: nullcontext())
