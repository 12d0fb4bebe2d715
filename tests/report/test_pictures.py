import pytest

from diffaug.report.pictures import spread


@pytest.mark.parametrize(("length", "count"), [(0, 3), (2, 3), (3, 3), (10, 4), (101, 8)])
def test_examples_are_spread_evenly_and_never_repeated(length, count):
    rows = spread(range(length), count)
    assert len(rows) == len(set(rows)) == min(length, count)
    assert rows == sorted(rows)
