"""Tables that speak of colonoscopy frames: labels, splits, subjects, and lists of images.

``frame_quality_labels.csv`` (or ``labels.csv``) has the columns ``video`` (a video's file or a
folder of frames), ``frame_index`` from 0 and ``label`` (informative, uninformative). ``videos.csv``
has ``video`` and, if wanted, ``subject`` and ``split`` (train, validation, test); both columns may
stand in the table of labels too. Columns may be parted by comma, semicolon or tab.
"""

import dataclasses
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _names, tables
from data_prep.readers._colonoscopy import SPLITS, Item, Source

LABEL_TABLES = ("frame_quality_labels.csv", "labels.csv")
VIDEO_TABLE = "videos.csv"
SEQUENCE_TABLE = "sequences.csv"
NO_LESION = "none"  # in place of a mask: the frame is known to show no lesion
LABELS = {
    **dict.fromkeys(("informative", "1", "true"), 1),
    **dict.fromkeys(("uninformative", "noninformative", "notinformative", "0", "false"), 0),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """What tables say of one video or folder.

    ``labels``: frame index -> 1 informative, 0 not; None where no table labels it.
    """

    labels: Mapping[int, int] | None
    subject: str
    split: str
    tables: tuple[pathlib.Path, ...]


def label(row: tables.Row) -> int | None:
    """1 informative, 0 not, None for an empty field or where there is no column ``label``.

    Raises
    ------
    UserError
        For any other word.
    """
    text = row.get("label", "")
    if not text:
        return None
    word = tables.key(text, truth=True)
    found = LABELS.get(word, LABELS.get(re.sub(r"(?<=[a-z])[ _-]+(?=[a-z])", "", word)))
    if found is None:
        raise row.error("label", "is no label", "use informative or uninformative")
    return found


def entries(folder: pathlib.Path) -> dict[str, Entry]:
    """What the tables in ``folder`` say of each video or folder they name.

    Raises
    ------
    UserError
        If a table contradicts itself, above all if it puts a video into two splits.
    """
    labels: dict[str, dict[int, int]] = {}
    told: dict[str, dict[str, str]] = {"subject": {}, "split": {}}
    places: dict[str, set[pathlib.Path]] = defaultdict(set)
    for name in (*LABEL_TABLES, VIDEO_TABLE):
        path = tables.find(folder, name)
        if path is None:
            continue
        needed = ["video"] if name == VIDEO_TABLE else ["video", "frame_index", "label"]
        for row in tables.read(path).require(*needed).rows:
            video = _named(row, "video")
            places[video].add(path)
            for column, values in told.items():
                one_value(values, video, row, column)
            if name == VIDEO_TABLE:
                continue
            found = label(row)
            known = labels.setdefault(video, {})
            if found is not None:
                index = row.count("frame_index")
                if known.setdefault(index, found) != found:
                    raise UserError(
                        f"{row.where} labels frame {index} of {video} in two ways: keep one."
                    )
    _require_distinct(told)
    return {
        video: Entry(
            labels.get(video),
            told["subject"].get(video, ""),
            told["split"].get(video, ""),
            tuple(sorted(paths)),
        )
        for video, paths in places.items()
    }


def _named(row: tables.Row, column: str) -> str:
    """The text of a cell that may not be empty."""
    if text := row.given(column):
        return text
    raise UserError(f"{row.where} gives no {column}{_of(row)}: fill it in.")


def _of(row: tables.Row) -> str:
    return f" for {row['image']}" if row.get("image") else ""


def _require_distinct(told: Mapping[str, Mapping[str, str]]) -> None:
    tables.require_distinct(
        "subject", ((subject, f"of {key}") for key, subject in told["subject"].items())
    )


def one_value(values: dict[str, str], key: str, row: tables.Row, column: str) -> None:
    """Note the value that a row gives for ``key``.

    Raises
    ------
    UserError
        If it gave another one before, or the split is none.
    """
    value = row.given(column)
    if not value:
        return
    if column == "split":
        if not _names.split_of(value):
            raise UserError(f"{row.where} holds the split '{value}': use {', '.join(SPLITS)}.")
        value = _names.split_of(value)
    known = values.setdefault(key, value)
    if known != value:
        raise UserError(
            f"{row.where} gives {key} the {column} {known} and the {column} {value}: a video "
            f"belongs to one {column}."
        )


def assign(
    found: Mapping[str, Entry], names: Iterable[str], folder: pathlib.Path
) -> tuple[dict[str, Entry], list[str]]:
    """Entries by the names they belong to, and the entries that belong to none.

    A table may name a video by its path, its file name, or its file name without suffix.

    Raises
    ------
    UserError
        If an entry fits two names, two entries one name, or none of the entries any.
    """
    fits: dict[str, list[str]] = defaultdict(list)
    names = list(names)
    for name in names:
        path = pathlib.PurePosixPath(name)
        for key in dict.fromkeys((name, path.name, str(path.with_suffix("")), path.stem)):
            fits[key].append(name)
    given: dict[str, Entry] = {}
    absent = []
    for key, entry in found.items():
        owners = [key] if key in names else fits.get(key, [])
        if len(owners) > 1:
            raise UserError(f"{folder}: the tables' video '{key}' may be {' or '.join(owners)}.")
        if not owners:
            absent.append(key)
        elif owners[0] in given:
            raise UserError(f"{folder}: the tables name {owners[0]} in two ways: keep one.")
        else:
            given[owners[0]] = entry
    if absent and not given and names:
        raise UserError(
            f"{folder}: none of the videos that its tables name is there ('{absent[0]}' is the "
            "first): write their file names."
        )
    return given, absent


def sequences(folder: pathlib.Path) -> dict[str, tuple[str, str]]:
    """Image -> (sequence, subject), from a ``sequences.csv`` that a user puts beside a set.

    Raises
    ------
    UserError
        If it lacks the columns image and sequence, or contradicts itself.
    """
    path = tables.find(folder, SEQUENCE_TABLE)
    if path is None:
        return {}
    case: dict[str, str] = {}
    subject: dict[str, str] = {}
    for row in tables.read(path).require("image", "sequence").rows:
        one_value(case, row["image"], row, "sequence")
        one_value(subject, row["sequence"], row, "subject")
    tables.require_distinct("sequence", ((name, image) for image, name in case.items()))
    _require_distinct({"subject": subject})
    return {image: (name, subject.get(name, name)) for image, name in case.items()}


def listed(module: str, root: pathlib.Path, table: pathlib.Path, column: str) -> list[Source]:
    """Cases from a table with a row a frame: ``image``, ``mask`` and the case in ``column``.

    Further columns, if wanted: ``frame`` (else the order of the rows), ``subject`` (else the case),
    ``split``, ``label`` and ``time_s``. An empty mask is an unknown one; "none" says that the frame
    shows no lesion.

    Raises
    ------
    UserError
        If a column is missing or a row contradicts another.
    """
    told: dict[str, dict[str, str]] = {"subject": {}, "split": {}}
    items: dict[str, list[Item]] = defaultdict(list)
    places: dict[tuple[str, str], str] = {}
    for row in tables.read(table).require("image", "mask", column).rows:
        case = _named(row, column)
        known = places.setdefault((case, _named(row, "image")), row.where)
        if known != row.where:
            raise UserError(f"{row.where} names {row['image']}, as {known} does: keep one row.")
        for name, values in told.items():
            one_value(values, case, row, name)
        items[case].append(_item(root, row, len(items[case])))
    tables.require_distinct(column, ((case, f"{table}") for case in items))
    _require_distinct(told)
    found = []
    for case, own in items.items():
        numbers = [item.index for item in own]
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{table} gives {column} {case} two frames of one number: renumber.")
        found.append(
            _colonoscopy.source(
                module,
                root,
                case if column in ("case", "video") else f"{column} {case}",
                subject=told["subject"].get(case, ""),
                items=sorted(own, key=lambda item: item.index),
                tables=[table],
                split=told["split"].get(case, ""),
            )
        )
    return found


def _item(root: pathlib.Path, row: tables.Row, place: int) -> Item:
    mask = row["mask"]
    if mask == "None":  # what Python writes of a value that is missing
        raise row.error("mask", "may stand for a missing value", f"write {NO_LESION}, or nothing")
    is_negative = mask.lower() == NO_LESION
    return Item(
        row.count("frame") if row.get("frame") else place,
        root / row["image"],
        root / row.given("mask") if mask and not is_negative else None,
        is_negative=is_negative,
        label=label(row),
        time_s=row.measure("time_s") if row.get("time_s") else None,
    )
