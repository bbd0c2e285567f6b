"""Tables that speak of colonoscopy frames: labels, splits, subjects, and lists of images.

``frame_quality_labels.csv`` (or ``labels.csv``) has the columns ``video`` (a video's file or a
folder of frames), ``frame_index`` from 0 and ``label`` (informative, uninformative). ``videos.csv``
has ``video`` and, if wanted, ``subject`` and ``split`` (train, validation, test); both columns may
stand in the table of labels too. Columns may be parted by comma, semicolon or tab.
"""

import csv
import dataclasses
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _points
from data_prep.readers._colonoscopy import SPLITS, Item, Source

LABEL_TABLES = ("frame_quality_labels.csv", "labels.csv")
VIDEO_TABLE = "videos.csv"
SEQUENCE_TABLE = "sequences.csv"
NO_LESION = "none"  # in place of a mask: the frame is known to show no lesion
LABELS = {
    **dict.fromkeys(("informative", "1", "true", "yes"), 1),
    **dict.fromkeys(("uninformative", "noninformative", "notinformative", "0", "false", "no"), 0),
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


def rows(path: pathlib.Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table, keys lower-cased.

    Raises
    ------
    UserError
        If it is unreadable, empty, or lacks a required column.
    """
    try:
        table = _points.rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}.") from error
    missing = [name for name in required if not table or name not in table[0]]
    if missing:
        raise UserError(f"{path} lacks rows or the columns {', '.join(missing)}: add them.")
    return table


def label(text: str, where: object) -> int | None:
    """1 informative, 0 not, None for an empty field.

    Raises
    ------
    UserError
        For any other word.
    """
    word = re.sub(r"[\W_]+", "", text.lower())
    if not word:
        return None
    if word not in LABELS:
        raise UserError(f"{where} holds the label '{text}': use informative or uninformative.")
    return LABELS[word]


def natural_number(text: str, column: str, where: object) -> int:
    """A whole number from 0.

    Raises
    ------
    UserError
        If the text is none.
    """
    if not re.fullmatch(r"\d+(\.0*)?", text):
        raise UserError(f"{where} holds the {column} '{text}': use whole numbers from 0.")
    return int(text.partition(".")[0])


def entries(folder: pathlib.Path) -> dict[str, Entry]:
    """What the tables in ``folder`` say of each video or folder they name.

    Raises
    ------
    UserError
        If a table contradicts itself, above all if it puts a video into two splits.
    """
    labels: dict[str, dict[int, int]] = {}
    told: dict[str, dict[str, str]] = {"subject": {}, "split": {}}
    tables: dict[str, set[pathlib.Path]] = defaultdict(set)
    for name in (*LABEL_TABLES, VIDEO_TABLE):
        path = folder / name
        if not path.is_file():
            continue
        needed = ["video"] if name == VIDEO_TABLE else ["video", "frame_index", "label"]
        for row in rows(path, needed):
            video = row["video"]
            tables[video].add(path)
            for column, values in told.items():
                one_value(values, video, row.get(column, ""), column, path)
            if name == VIDEO_TABLE:
                continue
            found = label(row["label"], path)
            known = labels.setdefault(video, {})
            if found is not None:
                index = natural_number(row["frame_index"], "frame_index", path)
                if known.setdefault(index, found) != found:
                    raise UserError(
                        f"{path} labels frame {index} of {video} in two ways: keep one."
                    )
    return {
        video: Entry(
            labels.get(video),
            told["subject"].get(video, ""),
            told["split"].get(video, ""),
            tuple(sorted(paths)),
        )
        for video, paths in tables.items()
    }


def one_value(
    values: dict[str, str], key: str, value: str, column: str, path: pathlib.Path
) -> None:
    """Note the value that a table gives for ``key``.

    Raises
    ------
    UserError
        If it gave another one before, or the split is none.
    """
    if not value:
        return
    if column == "split":
        value = {"val": "validation", "valid": "validation"}.get(value.lower(), value.lower())
        if value not in SPLITS:
            raise UserError(f"{path} holds the split '{value}': use {', '.join(SPLITS)}.")
    known = values.setdefault(key, value)
    if known != value:
        raise UserError(
            f"{path} gives {key} the {column} {known} and the {column} {value}: a video belongs "
            f"to one {column}."
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
    path = folder / SEQUENCE_TABLE
    if not path.is_file():
        return {}
    case: dict[str, str] = {}
    subject: dict[str, str] = {}
    for row in rows(path, ("image", "sequence")):
        one_value(case, row["image"], row["sequence"], "sequence", path)
        one_value(subject, row["sequence"], row.get("subject", ""), "subject", path)
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
    for row in rows(table, ("image", "mask", column)):
        case = row[column]
        if not case:
            raise UserError(f"{table} gives no {column} for {row['image']}: fill it in.")
        for name, values in told.items():
            one_value(values, case, row.get(name, ""), name, table)
        items[case].append(_item(root, table, row, len(items[case])))
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


def _item(root: pathlib.Path, table: pathlib.Path, row: dict[str, str], place: int) -> Item:
    mask, time_s = row["mask"], row.get("time_s", "")
    try:
        seconds = float(time_s.replace(",", ".")) if time_s else None
    except ValueError as error:
        raise UserError(f"{table} holds the time_s '{time_s}': use seconds.") from error
    frame = row.get("frame", "")
    return Item(
        natural_number(frame, "frame", table) if frame else place,
        root / row["image"],
        root / mask if mask and mask.lower() != NO_LESION else None,
        is_negative=mask.lower() == NO_LESION,
        label=label(row.get("label", ""), table),
        time_s=seconds,
    )
