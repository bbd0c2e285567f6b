"""Tables of known cells in every separator, encoding, line end and style of quotes."""

import csv
import io
import itertools
import pathlib

from data_prep.readers import tables
from tests.sweep.tally import Tally

HEADINGS = ["path", "label", "report"]
CELLS = [
    ["001.png", "Mass, benign", "two\nlines; a\ttab"],
    ["ä/ö.png", "a|b", 'he said "no", twice'],
    ["2.png", "1,5", "ends\x85are\u2028text\u2029here\x0band\x0cthere"],
    ["1e3.png", "007", "x" * 200],
]
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "shift_jis", "utf-16-le")
ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
QUOTES = {"needed": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL}
FIRST = {"": "", "sep": "sep={}", "quoted sep": '"SEP={}"'}


def content(separator: str, end: str, quotes: int, first: str) -> str:
    """Text of the table."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quotes)
    writer.writerows([HEADINGS, *CELLS])
    line = first.format(separator)
    return f"{line}{end}{out.getvalue()}" if line else out.getvalue()


def sweep(folder: pathlib.Path) -> Tally:
    """Read all variants; the cells they were written from are what is right."""
    tally = Tally("tables")
    path = folder / "table.csv"
    for names in itertools.product(SEPARATORS, ENCODINGS, ENDS, QUOTES, FIRST):
        separator, encoding, end, quotes, first = names
        if (end, quotes) == ("CR", "needed"):  # then csv.writer leaves a line feed unquoted
            continue
        text = content(SEPARATORS[separator], ENDS[end], QUOTES[quotes], FIRST[first])
        if encoding in ("cp1252", "shift_jis"):  # which have no letters for the rest
            text = text.replace("\u2028", "").replace("\u2029", "").replace("\x85", "")
            text = text.replace("ä/ö", "日本" if encoding == "shift_jis" else "ä/ö")
        path.write_bytes(text.encode(encoding))
        try:
            table = tables.read(path)
        except tables.TableError as error:
            tally.refuse(", ".join(names), error.reason)
            continue
        found = [list(row.values()) for row in table.rows]
        same = table.headings == HEADINGS and found == CELLS
        tally.agree(", ".join(names), same, f"{found}")
    return tally


def test_no_silent_difference(tmp_path):
    tally = sweep(tmp_path)
    assert tally.different == []
    # All in Unicode with a mark or as UTF-8 agree; the other three encodings are refused.
    assert tally.agreed == 4 * 4 * 5 * 3
    assert sum(map(len, tally.refused.values())) == 4 * 3 * 5 * 3
