"""What training code meets: a fitted painter of the phantoms, and items of their data set."""

import pytest

from diffaug.augment.datasets import CaseDataset
from diffaug.data.folder import read_dataset
from diffaug.painting.painter import Painter


@pytest.fixture(scope="session")
def painter(fitted):
    return Painter.load(fitted)


@pytest.fixture(scope="session")
def cases(phantoms):
    return read_dataset(phantoms).annotated("train")


@pytest.fixture(scope="session")
def items(cases):
    return CaseDataset(cases)
