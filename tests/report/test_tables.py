import pytest

from diffaug.errors import DataError
from diffaug.report.tables import read_cases


def test_a_damaged_table_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_text("case,dice\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="a table that a study wrote"):
        read_cases(tmp_path / "cases.csv")
