"""A split that its user gives: a table of subjects, or of studies, and their parts."""

import collections
import pathlib
import re
import typing
from collections.abc import Mapping, Sequence

from absl import logging

from data_prep.errors import UserError
from data_prep.options import Options
from data_prep.readers import tables
from data_prep.readers._paths import composed
from data_prep.splits import PARTS, pseudonym

if typing.TYPE_CHECKING:
    from data_prep.runner import Study

#: How a column may be called that names studies.
STUDY_COLUMNS = ("path", "case", "study", "video", "image")


def parts(studies: Sequence["Study"], options: Options) -> dict[str, str]:
    """Subject pseudonym -> part, as the table says; see :func:`by_study`."""
    said = by_study(studies, options)
    known = (study for study in studies if study.name in said)
    return options.complete({pseudonym(s.subject, options.key): said[s.name] for s in known})


def by_study(studies: Sequence["Study"], options: Options) -> dict[str, str]:
    """Name of a study -> "train", "validation" or "test", as ``options.split_table`` says.

    Studies that are already known to be unusable need no row. The table has a column ``split``, and
    ``subject`` or one of :data:`STUDY_COLUMNS`. A study may be called by its whole name, or by the
    last part of it, with or without its ending.

    Raises
    ------
    UserError
        If folds are asked for too, the table is faulty, a subject is in two parts, a name means
        several subjects, a study has no row, or nothing is for training or testing.
    """
    path = options.split_table
    if not path.is_file():
        raise UserError(f"--split_table={path} is no file: give a table of subjects and parts.")
    if not options.divided or options.folds is not None:
        raise UserError(
            f"--split_table={path} says who is in which part, so --folds and --test_fraction=1 "
            "have no meaning: take one of them away."
        )
    table = tables.read(path).require("split")
    column = next((name for name in (*STUDY_COLUMNS, "subject") if name in table.headings), None)
    if column is None:
        raise UserError(
            f"{path} has no column subject or {' or '.join(STUDY_COLUMNS)}: add one beside split."
        )
    said = _said(table, column)
    known = _known(studies, column == "subject")
    found: dict[str, str] = {}
    places: dict[str, str] = {}
    absent = []
    for name, (part, where) in said.items():
        owners = known.get(name) or known.get(name.replace("\\", "/").removeprefix("./"), [])
        if len({study.subject for study in owners}) > 1:
            several = ", ".join(study.name for study in owners[:3])
            raise UserError(f"{where}: '{name}' may be {several}: write its whole name.")
        for study in owners:
            if found.setdefault(study.name, part) != part:
                raise UserError(
                    f"{where} puts {study.name} into {part}, but {places[study.name]} into "
                    f"{found[study.name]}: keep one."
                )
            places[study.name] = where
        absent += [] if owners else [name]
    usable = [study for study in studies if not getattr(study, "problem", "")]
    lacking = [study for study in usable if study.name not in found]
    unknown = f"{len(absent)} names of it are those of no {_what(column)} ({', '.join(absent[:3])})"
    if lacking:
        named = ", ".join(_name(study, column) for study in lacking[:3])
        raise UserError(
            f"{path} has no row for {len(lacking)} of {len(usable)} studies ({named})"
            f"{'; ' + unknown if absent else ''}: add a row for each."
        )
    if absent:
        logging.warning("%s: %s and have no effect.", path, unknown)
    _require_whole([study for study in studies if study.name in found], found, path)
    _require_parts(found, path, options)
    return found


def _said(table: tables.Table, column: str) -> dict[str, tuple[str, str]]:
    """Name -> part and place of its row; no subject that the table gives has two parts."""
    from data_prep.readers._classification import split_of

    said: dict[str, tuple[str, str]] = {}
    subjects: dict[str, str] = {}
    for row in table.rows:
        name, part = composed(row.given(column)), split_of(row.given("split"), row.where)
        if not name or not part:
            raise UserError(f"{row.where} has no {column if part else 'split'}: fill it in.")
        known, before = said.setdefault(name, (part, row.where))
        if known != part:
            raise UserError(
                f"{row.where} puts {name} into {part}, but {before} into {known}: keep one."
            )
        if column != "subject" and row.given("subject"):
            subjects[name] = row["subject"]
    tables.require_distinct("subject", ((word, str(table.path)) for word in subjects.values()))
    owner: dict[str, str] = {}
    for name, subject in subjects.items():
        if said[owner.setdefault(subject, name)][0] != said[name][0]:
            raise UserError(
                f"{said[name][1]} puts subject {subject} into {said[name][0]}, but "
                f"{said[owner[subject]][1]} into {said[owner[subject]][0]}: a subject is in one "
                "part."
            )
    return said


def _known(studies: Sequence["Study"], by_subject: bool) -> Mapping[str, list["Study"]]:
    """What a row may call studies -> these studies; a whole name means its study alone."""
    known: dict[str, list] = collections.defaultdict(list)
    for study in studies:
        known[composed(study.subject if by_subject else study.name)].append(study)
    if by_subject:
        return known
    shorter: dict[str, list] = collections.defaultdict(list)
    for study in studies:
        name = pathlib.PurePosixPath(re.sub(r"#\d+$", "", composed(study.name)))  # of a frame
        for each in {str(name), str(name.with_suffix("")), name.name, name.stem} - known.keys():
            shorter[each].append(study)
    return {**shorter, **known}


def _require_whole(
    studies: Sequence["Study"], found: Mapping[str, str], path: pathlib.Path
) -> None:
    """Raise UserError if two studies of one subject are in two parts."""
    first: dict[str, Study] = {}
    for study in studies:
        other = first.setdefault(study.subject, study)
        if found[other.name] != found[study.name]:
            raise UserError(
                f"{path}: {other.name} and {study.name} are of one subject, but the table puts "
                f"them into {found[other.name]} and {found[study.name]}: a subject is in one part."
            )


def _require_parts(found: Mapping[str, str], path: pathlib.Path, options: Options) -> None:
    """Raise UserError if there is nothing to train with, or to test."""
    wanted = {"train": "--test_fraction=1 where all is for testing"}
    if options.test_fraction > 0:
        wanted["test"] = "--test_fraction=0 to train without a test"
    for part, instead in wanted.items():
        if part not in found.values():
            raise UserError(
                f"{path} puts no study of the input into {part} (of {', '.join(PARTS)}): add some, "
                f"or give {instead} and no table."
            )


def _name(study: "Study", column: str) -> str:
    return f"subject {study.subject} of {study.name}" if column == "subject" else study.name


def _what(column: str) -> str:
    return "subject" if column == "subject" else "study"
