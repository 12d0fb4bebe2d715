import numpy as np
import pytest

from diffaug.data.distributions import QUANTITIES, compare, table_of
from diffaug.data.phantom import make_phantoms


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("cells") / "data", 6, 1, 1, 0, kind="cells", size=128)


def test_every_quantity_has_a_mean_and_a_deviation_inside_its_own_interval(cells):
    found = compare(cells)
    assert [each.quantity for each in found[::2]] == list(QUANTITIES)
    assert all(each.low <= each.real <= each.high for each in found if each.statistic == "mean")
    assert all(each.painted is None and not each.outside for each in found)


def test_positions_and_sizes_are_shares_of_the_image(cells):
    means = {each.quantity: each.real for each in compare(cells) if each.statistic == "mean"}
    assert 0.3 < means["across"] < 0.7 and 0.3 < means["down"] < 0.7 and 0 < means["edge"] < 0.5
    assert means["number"] > 10
    assert means["size"] == pytest.approx(np.sqrt(0.008), abs=0.03)


def test_the_table_says_what_lies_outside(cells):
    from dataclasses import replace

    found = compare(cells)
    text = table_of([replace(found[0], painted=2.0), *found[1:]])
    assert text.splitlines()[2].split() == ["painted", "2", "outside"]
    assert text.splitlines()[-1].startswith("outside: ") and text.count("outside") == 2
    assert "outside" not in table_of(found) and len(table_of(found).splitlines()) == 1 + len(QUANTITIES)
