import pytest

from diffaug.errors import DataError
from diffaug.report.tables import MOST_ARMS, read_cases, results_from, understood


@pytest.mark.parametrize("text", ["case,dice\na,b\n", "", "\0" * 40])
def test_a_damaged_table_is_refused(tmp_path, text):
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="a table that a study wrote"):
        read_cases(tmp_path / "cases.csv")


@pytest.mark.parametrize("count", [0, MOST_ARMS + 1])
def test_a_page_of_no_arms_or_of_hundreds_is_refused(count):
    with pytest.raises(DataError, match=f"these tables have {count}"):
        results_from({"arms": {f"arm-{number}": {"n": 1} for number in range(count)}})


@pytest.mark.parametrize("error", [KeyError("a"), StopIteration(), TypeError("b"), ZeroDivisionError()])
def test_what_tables_lack_is_one_line(tmp_path, error):
    with pytest.raises(DataError, match="are damaged"), understood(tmp_path):
        raise error
