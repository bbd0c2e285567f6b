"""The table from pseudonyms back to originals, which stays with the owner of the originals."""

import csv
import pathlib
from collections.abc import Iterable, Sequence

from data_prep.errors import UserError


def require_place(path: pathlib.Path, *outputs: pathlib.Path) -> None:
    """Make sure, before any work, that the table can be written and is not passed on.

    Raises
    ------
    UserError
        If it would lie in an output folder, or its own folder does not exist.
    """
    link = path.resolve()
    if any(link.is_relative_to(folder.resolve()) for folder in outputs):
        raise UserError(
            f"--link_table={path} lies in the output folder, which is passed on: keep it with the "
            "original data."
        )
    if not link.parent.is_dir():
        raise UserError(f"--link_table={path}: its folder does not exist.")


def write(path: pathlib.Path, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the table, whole or not at all, for its owner's eyes only."""
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    # Names that are not UTF-8 keep their bytes in a form that can be read.
    with partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(headings)
        table.writerows(rows)
    partial.replace(path)
