from types import SimpleNamespace

import pytest

from diffaug.report import pictures, tables
from diffaug.report.pictures import spread


@pytest.mark.parametrize(("length", "count"), [(0, 3), (2, 3), (3, 3), (10, 4), (101, 8)])
def test_examples_are_spread_evenly_and_never_repeated(length, count):
    rows = spread(range(length), count)
    assert len(rows) == len(set(rows)) == min(length, count)
    assert rows == sorted(rows)


def test_at_most_two_of_the_worst_cases_are_lesion_free(monkeypatch):
    monkeypatch.setattr(pictures, "predicted", lambda *given: "")
    free = [tables.TestedCase("real", f"free-{number}", 0.0, (), "p.png") for number in range(9)]
    others = [tables.TestedCase("real", f"lesion-{number}", 0.1 * number, ("small",), "p.png") for number in range(9)]
    study, known = SimpleNamespace(cases=[*others, *free]), {row.case: None for row in (*free, *others)}
    names = [card.tested.case for card in pictures.worst_cards(study, known, "real")]
    assert len(names) == 8 and set(names) == {"free-0", "free-1", *(f"lesion-{number}" for number in range(6))}
    study.cases = free
    assert len(pictures.worst_cards(study, known, "real")) == 2
