"""Text files of interface points: two rows, two columns, or a table with headings."""

import pathlib
import re

import numpy as np

from data_prep.readers import tables
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
    try:
        table = _numbers(tables.lines(path))
    except tables.TableError as error:
        raise Unusable(f"an interface file cannot be read: {error.reason}") from error
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
        for row in tables.read(path).require("interface", "x", "y").rows:
            name = INTERFACES.get(row["interface"].lower())
            if name is None:
                raise row.error("interface", "is no interface", "write lumen_intima")
            found[name].append((row.measure("x"), row.measure("y")))
    except tables.TableError as error:
        raise Unusable(
            f"{error.reason} (a boundary table needs the columns interface, x, y; interface is "
            "lumen_intima or media_adventitia, x and y are numbers)"
        ) from error
    return tuple(np.array(found[name], dtype=np.float64).reshape(-1, 2) for name in ("li", "ma"))


def _numbers(content: list[str]) -> np.ndarray:
    text = "\n".join(content)
    # A comma is a decimal comma only where something else parts the numbers.
    if "." not in text and not re.search(r",\s", text) and re.search(r"\d[ \t;]+[-\d]", text):
        text = text.replace(",", ".")
    lines = [re.split(r"[\s;,]+", line.strip(" \t;,")) for line in text.split("\n")]
    table = [list(map(tables.number, line)) for line in lines if line != [""]]
    if len(set(map(len, table))) > 1 or any(None in line for line in table):
        raise Unusable("an interface file holds something other than a table of numbers")
    if not table:
        raise Unusable("an interface file is empty")
    return np.array(table, dtype=np.float64)
