"""Annotated phantoms in memory, and their encoded windows."""

import pytest


@pytest.fixture(scope="session")
def annotated(phantoms):
    from diffaug.data.folder import read_dataset
    from diffaug.training.windows import Annotated

    return [Annotated.of(case) for case in read_dataset(phantoms).split("train")]


@pytest.fixture(scope="session")
def frames(annotated):
    return [case.image for case in annotated]
