"""The table from pseudonyms back to originals, which stays with the owner of the originals."""

import csv
import pathlib
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence

from data_prep.errors import UserError
from data_prep.options import Options
from data_prep.splits import pseudonym

if typing.TYPE_CHECKING:
    from data_prep.runner import Study


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


def originals(path: pathlib.Path, subjects: Collection[str]) -> list[tuple[str, str]]:
    """Original names of these subjects' studies in a table of :func:`write_studies`, and subjects.

    Raises
    ------
    UserError
        If it cannot be read, or is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                (row["original"], row["subject"])
                for row in csv.DictReader(file)
                if row["subject"] in subjects
            ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        reason = getattr(error, "strerror", None) or "it has no columns original and subject"
        raise UserError(
            f"--link_table={path} cannot be read ({reason}): give the one that data_prep wrote."
        ) from error


def write_studies(
    options: Options, studies: Sequence["Study"], prep: Mapping, details: Mapping[str, str]
) -> None:
    """Write every study of a prepared dataset: why it was skipped, and which it repeats, if any.

    ``prep`` is the content of ``prep.json``; ``details`` has reasons that may name originals, by
    case. Of studies that repeat each other, the first by name is the one that the others repeat.
    """
    skipped = {entry["case"]: entry["reason"] for entry in prep["skipped"]} | dict(details)
    names = {pseudonym(study.name, options.key): study.name for study in studies}
    repeats = {study.name: getattr(study, "repeats", "") for study in studies}
    similar = (pair["cases"] for pair in prep["findings"].get("similar", ()))
    for group in (*prep["findings"].get("identical", ()), *similar):
        first, *others = sorted(names[case] for case in group)
        for name in others:
            repeats[name] = repeats[name] or first
    write(
        options.link_table,
        ["original", "case", "subject", "skipped", "repeats"],
        (
            [
                name,
                case,
                pseudonym(study.subject, options.key),
                skipped.get(case, ""),
                repeats[name],
            ]
            for study, (case, name) in zip(studies, names.items(), strict=True)
        ),
    )
