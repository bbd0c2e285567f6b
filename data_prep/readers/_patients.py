"""A table beside class folders that says which image is of which patient."""

import pathlib
from collections import defaultdict
from collections.abc import Sequence

from absl import logging

from data_prep.errors import UserError
from data_prep.readers import tables
from data_prep.readers._classification import Entry

SUFFIXES = (".csv", ".tsv")
COLUMNS = tuple(
    word + ending
    for word in ("subject", "patient", "person", "participant", "case")
    for ending in ("", "_id", "id", " id", "-id", "_name", "_number")
)


def subjects(
    root: pathlib.Path, top: pathlib.Path, files: Sequence[pathlib.Path], entries: Sequence[Entry]
) -> dict[str, str]:
    """Name of an image -> its subject, by the tables in the input folder and in ``top``.

    What a table says is used where it is certain: one column is called by a word for subjects and
    another holds names of images. Tables that are not used are named, with the reason.

    Raises
    ------
    UserError
        If a table cannot be read, gives one image two subjects, or a name that two images have.
    """
    found: dict[str, tuple[str, str]] = {}
    for path in files:
        if path.parent not in (root, top) or path.suffix.lower() not in SUFFIXES:
            continue
        table = tables.read(path)
        persons = [name for name in table.headings if name in COLUMNS]
        images, names = _column_of_images(table, root, path.parent, entries)
        if not persons or not images:
            lack = "column of subjects or patients" if not persons else "column of image names"
            logging.warning("%s is not used: it has no %s.", path, lack)
            continue
        if len(persons) > 1:
            raise UserError(
                f"{path} has several columns of subjects ({', '.join(persons)}): keep one."
            )
        absent = 0
        for row in table.rows:
            known = names.get(_key(row[images]), [])
            absent += not known
            if len(known) > 1:
                raise UserError(
                    f"{row.where}: {row[images]} is the name of {len(known)} images, such as "
                    f"{known[0]} and {known[1]}: give their paths below {path.parent}."
                )
            for name in known:
                person = row.given(persons[0])
                before, where = found.setdefault(name, (person, row.where))
                if before != person:
                    raise UserError(
                        f"{row.where}: {name} is of subject {person}, but of {before} by {where}: "
                        "keep one row."
                    )
        if absent:
            logging.warning("%d rows of %s name no image that is there.", absent, path)
    lacking = [entry.name for entry in entries if entry.name not in found]
    if found and lacking:
        logging.warning(
            "%d of %d images are named by no row of a table of subjects, such as %s.",
            len(lacking),
            len(entries),
            lacking[0],
        )
    tables.require_distinct("subject", found.values())
    return {name: person for name, (person, _) in found.items()}


def _column_of_images(
    table: tables.Table, root: pathlib.Path, folder: pathlib.Path, entries: Sequence[Entry]
) -> tuple[str, dict[str, list[str]]]:
    """Heading of the column that names most images, and what its cells may say of each image."""
    names: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        place = entry.path.relative_to(folder) if entry.path.is_relative_to(folder) else entry.path
        forms = (entry.name, place.as_posix(), place.with_suffix("").as_posix(), place.name)
        for form in {_key(form) for form in (*forms, place.stem)}:
            names[form].append(entry.name)
    counts = {name: sum(_key(row[name]) in names for row in table.rows) for name in table.headings}
    best = max(counts, key=counts.get, default="")
    return (best if counts.get(best) else ""), names


def _key(text: str) -> str:
    return text.strip().replace("\\", "/").removeprefix("./")
