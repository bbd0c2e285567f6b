"""Images that a table names: a CSV or TSV file with columns path and label, subject and split.

Several labels of an image are parted by ``|``; in a set with such images an empty field is an image
without any. Paths are relative to the table and may not leave its folder. Of several tables called
train.csv, val.csv and test.csv, the name is the split. A path may be written in another Unicode
form than the file's name.
"""

import pathlib
import posixpath
import re
from collections.abc import Callable

from data_prep.errors import UserError
from data_prep.readers import _pictures, _volumes, tables
from data_prep.readers._classification import SPLITS, Detected, Entry, Options, split_of
from data_prep.readers._paths import speller

KIND = "classification"
LAYOUT = "a CSV or TSV file with the columns path and label (subject, split)"
ORDER = 0

COLUMNS = ("path", "label", "subject", "split")
NEEDED = ("path", "label")
SUFFIXES = (".csv", ".tsv")


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> Detected | None:
    """Read the tables that lie directly in the folder.

    Raises
    ------
    UserError
        If a table cannot be read, is empty or lacks a column, a path is missing, leaves the folder
        or is named twice, or a split is none.
    """
    if unknown := [name for name in options.columns if name not in COLUMNS]:
        raise UserError(f"--columns: '{unknown[0]}' is none of {', '.join(COLUMNS)}.")
    names = {column: tables.heading(options.columns.get(column, column)) for column in COLUMNS}
    read, lacking = {}, {}
    for path in files:
        if path.parent == root and path.suffix.lower() in SUFFIXES:
            read[path] = _table(path)
            found = read[path].headings
            lacking[path] = [column for column in NEEDED if names[column] not in found]
            if not lacking[path]:
                read[path].require()
    whole = [path for path, missing in lacking.items() if not missing]
    # A table that says nothing of images may lie beside others and beside class folders; one that
    # nearly does is meant.
    meant = not whole and (options.layout != "auto" or options.columns or len(files) == 1)
    for path, missing in lacking.items():
        words = re.findall(r"\w+", " ".join(read[path].headings))
        if len(read[path].headings) == 1 and {names[column] for column in NEEDED}.issubset(words):
            raise UserError(
                f"{path}, row 1 has one field that names all columns: part the fields by commas, "
                "semicolons or tabs."
            )
        if meant or missing == ["label"] or (missing == ["path"] and not whole):
            raise UserError(
                f"{path} lacks the column {' and '.join(names[column] for column in missing)}: add "
                "it, say what the table calls it, as in --columns=path:file,label:diagnosis, or "
                "take the table away."
            )
    if not whole:
        sheets = tables.sheets(root, files)
        if sheets and (options.layout != "auto" or options.columns or len(files) == 1):
            raise UserError(f"{sheets[0]} is a spreadsheet, which is not read: {tables.AS_CSV}.")
        return None
    for path in whole:
        if absent := [
            given
            for name, given in options.columns.items()
            if names[name] not in read[path].headings
        ]:
            raise UserError(f"{path} has no column '{absent[0]}', which --columns names.")
    entries: dict[str, Entry] = {}
    spelt = speller(root)
    for path in whole:
        for row in read[path].rows:
            entry = _entry(root, row, names, options.classes, len(whole) > 1, spelt)
            if known := entries.get(entry.name):
                raise UserError(
                    f"{entry.where} names {entry.name}, as {known.where} does: keep one row."
                )
            entries[entry.name] = entry
    subjects = ((entry.subject, entry.where) for entry in entries.values() if entry.subject)
    tables.require_distinct("subject", subjects)
    # Where an image may have several labels, an empty field is one with none.
    multilabel = any(len(entry.labels) > 1 for entry in entries.values())
    named = {entry.path for entry in entries.values()}
    for path in files:
        if path not in named and _pictures.is_image(path):
            name = path.relative_to(root).as_posix()
            if name not in entries:
                entries[name] = Entry(name, path, (), str(path), problem="no row names it")
    return Detected(list(entries.values()), multilabel=multilabel)


def _table(path: pathlib.Path) -> tables.Table:
    try:
        table = tables.read(path)
    except tables.TableError as error:
        raise UserError(f"{error} If it says nothing of the images, take it away.") from error
    if not table.headings:
        raise UserError(f"{path} is empty: fill it in, or take it away.")
    if table.separator == "|":
        raise UserError(
            f"{path} is parted by '|', which parts the labels of one image here: save it with "
            "commas, semicolons or tabs."
        )
    return table


def _entry(
    root: pathlib.Path,
    row: tables.Row,
    names: dict[str, str],
    classes: tuple[str, ...],
    named_by_split: bool,
    spelt: Callable[[str], pathlib.Path],
) -> Entry:
    where = row.where
    text = row[names["path"]].replace("\\", "/")
    if not text:
        raise UserError(f"{where}: no {names['path']}. Fill it in, or take the row out.")
    path = spelt(text)
    if pathlib.PurePosixPath(text).is_absolute() or not _volumes.inside(path, root):
        raise UserError(
            f"{where}: {text} leads out of {root}. Paths are relative to the table and stay below "
            "its folder."
        )
    labels = tuple(dict.fromkeys(filter(None, map(str.strip, row[names["label"]].split("|")))))
    for label in labels:
        if tables.is_missing(label) and label not in classes:
            raise row.error(
                names["label"],
                "may stand for a missing value",
                f"fill it in, or take the row out; if {label} is a class, name all in --classes",
            )
    split = split_of(row.get(names["split"], ""), where)
    if named_by_split and not split:
        split = SPLITS.get(row.table.path.stem.lower(), "")
    subject = row.given(names["subject"])
    as_written = path == root / text
    name = posixpath.normpath(text if as_written else path.relative_to(root).as_posix())
    return Entry(name, path, labels, where, subject, split)
