"""Images that a table names: a CSV file with columns path and label, subject and split if known.

Several labels of an image are parted by ``|``; in a set with such images an empty field is an image
without any. Paths are relative to the table and may not leave its folder. Of several tables called
train.csv, val.csv and test.csv, the name is the split.
"""

import csv
import pathlib

from data_prep.errors import UserError
from data_prep.readers import _points, _volumes
from data_prep.readers._classification import SPLITS, Detected, Entry, Options, split_of

KIND = "classification"
LAYOUT = "a CSV file with the columns path and label (subject, split)"
ORDER = 0

COLUMNS = ("path", "label", "subject", "split")
NEEDED = ("path", "label")


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> Detected | None:
    """Read the tables that lie directly in the folder.

    Raises
    ------
    UserError
        If a table cannot be read or lacks a column, a path is missing, leaves the folder or is
        named twice, or a split is none.
    """
    if unknown := [name for name in options.columns if name not in COLUMNS]:
        raise UserError(f"--columns: '{unknown[0]}' is none of {', '.join(COLUMNS)}.")
    tables = {}
    for path in files:
        if path.parent == root and path.suffix.lower() == ".csv":
            tables[path] = _rows(path)
    names = {column: options.columns.get(column, column).lower() for column in COLUMNS}
    lacking = {
        path: [names[column] for column in NEEDED if not rows or names[column] not in rows[0]]
        for path, rows in tables.items()
    }
    whole = [path for path, missing in lacking.items() if not missing]
    if not whole:
        # A table that says nothing of images may lie beside class folders; one that nearly does is
        # meant.
        meant = options.layout != "auto" or options.columns or len(files) == 1
        for path, missing in lacking.items():
            if meant or len(missing) < len(NEEDED):
                raise UserError(
                    f"{path} lacks the column {' and '.join(missing)}: add it, or say what the "
                    "table calls it, as in --columns=path:file,label:diagnosis."
                )
        return None
    entries: dict[str, Entry] = {}
    for path in whole:
        for number, row in enumerate(tables[path], 2):
            entry = _entry(root, path, number, row, names, len(whole) > 1)
            if known := entries.get(entry.name):
                raise UserError(
                    f"{entry.where} names {entry.name}, as {known.where} does: keep one row."
                )
            entries[entry.name] = entry
    # Where an image may have several labels, an empty field is one with none.
    multilabel = any(len(entry.labels) > 1 for entry in entries.values())
    return Detected(list(entries.values()), multilabel=multilabel)


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        return _points.rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}.") from error


def _entry(
    root: pathlib.Path,
    table: pathlib.Path,
    number: int,
    row: dict[str, str],
    names: dict[str, str],
    named_by_split: bool,
) -> Entry:
    where = f"{table}, row {number}"
    text = row[names["path"]].replace("\\", "/")
    if not text:
        raise UserError(f"{where}: no {names['path']}. Fill it in, or take the row out.")
    path = root / text
    if pathlib.PurePosixPath(text).is_absolute() or not _volumes.inside(path, root):
        raise UserError(
            f"{where}: {text} leads out of {root}. Paths are relative to the table and stay below "
            "its folder."
        )
    labels = tuple(dict.fromkeys(filter(None, map(str.strip, row[names["label"]].split("|")))))
    split = split_of(row.get(names["split"], ""), where)
    if named_by_split and not split:
        split = SPLITS.get(table.stem.lower(), "")
    subject = row.get(names["subject"], "")
    name = pathlib.PurePosixPath(text).as_posix()
    return Entry(name, path, labels, where, subject, split)
