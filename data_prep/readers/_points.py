"""Text files of interface points: two rows, two columns, or a table with headings."""

import csv
import pathlib
import re

import numpy as np

from data_prep.readers._images import Unusable

INTERFACES = {
    "lumen_intima": "li",
    "li": "li",
    "media_adventitia": "ma",
    "ma": "ma",
}
LAYOUTS = ("auto", "rows", "columns")


def read_text(path: pathlib.Path, layout: str = "auto") -> np.ndarray:
    """Points of one interface from plain numbers.

    Parameters
    ----------
    path : pathlib.Path
        Numbers parted by blanks, tabs, semicolons or commas; decimal point or comma.
    layout : str
        "rows": x above y; "columns": x beside y; "auto": whichever the shape allows.

    Returns
    -------
    numpy.ndarray
        float64 (n, 2): x, y in pixels.

    Raises
    ------
    Unusable
        If the content is not two rows or two columns of numbers, or is 2 x 2 with "auto".
    """
    table = _numbers(path.read_text(encoding="utf-8-sig", errors="replace"))
    height, width = table.shape
    if layout == "auto":
        if (height, width) == (2, 2):
            raise Unusable(
                "two points in two lines: rows or columns? Say which with --points=rows or columns"
            )
        layout = "rows" if height == 2 else "columns"
    if (height if layout == "rows" else width) != 2:
        raise Unusable(f"an interface file holds {height} x {width} numbers, not two {layout}")
    return table.T if layout == "rows" else table


def read_table(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Both interfaces from a table with the columns interface, x and y.

    Parameters
    ----------
    path : pathlib.Path
        CSV; ``interface`` is lumen_intima or media_adventitia (or li, ma).

    Returns
    -------
    lumen_intima, media_adventitia : numpy.ndarray
        float64 (n, 2) and (m, 2): x, y in pixels.

    Raises
    ------
    Unusable
        If a column is missing, an interface is unknown, or a coordinate is not a number.
    """
    found: dict[str, list[tuple[float, float]]] = {"li": [], "ma": []}
    try:
        for row in rows(path):
            name = INTERFACES[row["interface"].lower()]
            found[name].append(tuple(float(row[axis].replace(",", ".")) for axis in "xy"))
    except (KeyError, ValueError, csv.Error) as error:
        raise Unusable(
            "the boundary table needs the columns interface, x, y; interface is lumen_intima or "
            "media_adventitia, x and y are numbers"
        ) from error
    return tuple(np.array(found[name], dtype=np.float64).reshape(-1, 2) for name in ("li", "ma"))


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of a CSV with headings (lower-cased), parted by comma, semicolon or tab."""
    return table(path)[1]


def table(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """Headings (lower-cased) and rows of a CSV, parted by comma, semicolon or tab."""
    text = path.read_text(encoding="utf-8-sig")
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    found = [
        {str(key).strip().lower(): (value or "").strip() for key, value in row.items() if key}
        for row in reader
    ]
    return [str(name).strip().lower() for name in reader.fieldnames or ()], found


def _numbers(text: str) -> np.ndarray:
    # A comma is a decimal comma only where something else parts the numbers.
    if "." not in text and not re.search(r",\s", text) and re.search(r"\d[ \t;]+[-\d]", text):
        text = text.replace(",", ".")
    lines = [re.split(r"[\s;,]+", line.strip(" \t;,\r")) for line in text.splitlines()]
    lines = [line for line in lines if line != [""]]
    try:
        table = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise Unusable("an interface file holds something other than a table of numbers") from error
    if table.ndim != 2:
        raise Unusable("an interface file is empty")
    return table
