import numpy as np
import pytest

from data_prep.readers import _points
from data_prep.readers._images import Unusable

POINTS = [[1, 2.5], [3, 4.5], [6, 7.25]]
COLUMNS = {
    "blanks": "1 2.5\n3 4.5\n6 7.25\n",
    "tabs, decimal comma": "1\t2,5\n3\t4,5\n6\t7,25",
    "semicolons, decimal comma": "1;2,5\n3;4,5\n6;7,25\n",
    "commas": "1,2.5\n3,4.5\n6,7.25\n",
    "commas and blanks": "1, 2.5\n3, 4.5\n6, 7.25\n",
    "exponents, blank lines, CRLF": "\r\n1e0  2.5\r\n\r\n 3 4.5e0\r\n6 7.25\r\n\r\n",
    "byte order mark": "\ufeff1 2.5\n3 4.5\n6 7.25\n",
}
ROWS = {
    "blanks": "1 3 6\n2.5 4.5 7.25\n",
    "decimal comma": "1 3 6\n2,5 4,5 7,25\n",
    "commas": "1,3,6\n2.5,4.5,7.25",
}


@pytest.mark.parametrize(
    ("text", "layout"),
    [(text, "columns") for text in COLUMNS.values()] + [(text, "rows") for text in ROWS.values()],
    ids=[*COLUMNS, *(f"rows, {name}" for name in ROWS)],
)
def test_both_orientations_and_all_separators(tmp_path, text, layout):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    for setting in ("auto", layout):
        np.testing.assert_array_equal(_points.read_text(tmp_path / "a.txt", setting), POINTS)


def test_whole_numbers_parted_by_commas(tmp_path):
    (tmp_path / "a.txt").write_text("1,2\n3,4\n6,7\n")
    points = _points.read_text(tmp_path / "a.txt")
    np.testing.assert_array_equal(points, [[1, 2], [3, 4], [6, 7]])


def test_two_by_two_needs_a_setting(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n3 4\n")
    with pytest.raises(Unusable, match="--points"):
        _points.read_text(tmp_path / "a.txt")
    columns = _points.read_text(tmp_path / "a.txt", "columns")
    rows = _points.read_text(tmp_path / "a.txt", "rows")
    np.testing.assert_array_equal(columns, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(rows, columns.T)


@pytest.mark.parametrize("text", ["", "\n \n", "a b\nc d\n", "1 2\n3\n", "1 2 3\n4 5 6\n7 8 9\n"])
def test_what_is_not_two_rows_or_columns(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(Unusable, match="interface file"):
        _points.read_text(tmp_path / "a.txt")


def test_table_with_semicolons_short_names_and_decimal_commas(tmp_path):
    (tmp_path / "a.csv").write_text("Interface;X;Y\nLI;1;2,5\nMA;1,5;20\nLI;3;4\n")
    li, ma = _points.read_table(tmp_path / "a.csv")
    np.testing.assert_array_equal(li, [[1, 2.5], [3, 4]])
    np.testing.assert_array_equal(ma, [[1.5, 20]])


@pytest.mark.parametrize(
    "text", ["x,y\n1,2\n", "interface,x,y\nplaque,1,2\n", "interface,x,y\nli,one,2\n"]
)
def test_tables_that_cannot_be_read(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(Unusable, match="columns interface, x, y"):
        _points.read_table(tmp_path / "a.csv")
