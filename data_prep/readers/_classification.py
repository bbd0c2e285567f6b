"""What every source of classified images becomes: a list of images with labels and subjects.

A kind of source is a module beside this one with ``KIND = "classification"``, ``LAYOUT`` and a
function ``detect(root, files, options) -> Detected | None``, which looks at names, tables and
headers only. ``root`` is a resolved folder and ``files`` what of it counts.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _pictures, _volumes, of_kind, tables
from data_prep.readers._images import Unusable
from data_prep.readers._paths import composed, require_inside
from data_prep.readers._pictures import Decoding
from data_prep.runner import Study

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Where it is known from which person an image comes, the surest first.
TABLE, NAME, DICOM, NOTHING = "table", "name", "dicom", "nothing"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says about a source where its files leave a choice.

    Attributes
    ----------
    layout : str
        Name of the reader; "auto": the one that finds images.
    subject_regex : str
        Regular expression whose first group, searched in an image's path below the input folder, is
        its subject.
    columns : mapping
        What a table calls the columns path, label, subject and split, where it calls them
        otherwise.
    classes : tuple of str
        Names in the order of their indices; of labels that are numbers, the names of 0, 1 and so
        on. Empty: all labels found, sorted (numbers by size).
    multilabel : bool or None
        Whether an image may have several labels, or none. None: it is so if one has several.
    own_split : bool
        Whether a split that the source itself gives is kept.
    """

    layout: str = "auto"
    subject_regex: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    multilabel: bool | None = None
    own_split: bool = True


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image as a reader finds it.

    Attributes
    ----------
    name : str
        Unique in the source.
    path : pathlib.Path
    labels : tuple of str
    where : str
        Where its label stands, for messages to the user.
    subject : str
        As a table says; else empty.
    split : str
        "train", "validation", "test", or empty.
    member, index
        Of an npz file: the array, and the row of it.
    problem : str
        Why it is no image to learn from; it needs no label then, and is named.
    """

    name: str
    path: pathlib.Path
    labels: tuple[str, ...]
    where: str
    subject: str = ""
    split: str = ""
    member: str = ""
    index: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Detected:
    """What a reader finds.

    Attributes
    ----------
    entries : sequence of Entry
    classes : tuple of str
        That exist although there may be no image of them (an empty class folder).
    multilabel : bool
        The source says that images may have several labels.
    source : str
        Hash of a file that all entries come from; empty where each has its own file.
    """

    entries: Sequence[Entry]
    classes: tuple[str, ...] = ()
    multilabel: bool = False
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Picture(Study):
    """Handle of one image.

    Attributes
    ----------
    name, files
        See :class:`data_prep.runner.Study`.
    root : pathlib.Path
        Input folder, resolved. No file outside it is read.
    labels : tuple of int
        Indices of its classes, ascending.
    subject : str
        Identifier of the person, for making a pseudonym only.
    known_by : str
        How the subject is known: ``TABLE``, ``NAME``, ``DICOM`` or ``NOTHING``, when the image
        itself counts as one.
    split : str
        Part that the source itself gives it, or empty.
    frame : int
        Of a DICOM file, from 0.
    member, index, source
        See :class:`Entry` and :class:`Detected`; for images inside an npz file.
    problem : str
        Why it cannot be used.
    """

    root: pathlib.Path
    labels: tuple[int, ...]
    subject: str
    known_by: str
    split: str = ""
    frame: int = 0
    member: str = ""
    index: int = 0
    source: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A source as a whole.

    Attributes
    ----------
    pictures : list of Picture
    classes : tuple of str
        Names in the order of the indices.
    multilabel : bool
        An image may have several labels, or none.
    layout : str
        Name of the reader.
    """

    pictures: list[Picture]
    classes: tuple[str, ...]
    multilabel: bool
    layout: str


def find(
    raw: pathlib.Path, options: Options | None = None, decoding: Decoding | None = None
) -> Found:
    """Images of a folder (or of one table or npz file) with their labels and subjects.

    Raises
    ------
    UserError
        If the input is absent or holds no classified image, a table or an array is faulty, a label
        is not in the list of classes, there is one class only, or ``subject_regex`` does not fit.
    """
    options, decoding = options or Options(), decoding or Decoding()
    if not raw.exists():
        raise UserError(f"--input={raw} does not exist.")
    path = raw.resolve()
    root, files = (path, _volumes.files(path)) if path.is_dir() else (path.parent, [path])
    if path.is_dir():
        require_inside(root, ".csv", ".tsv", ".npz")
    layout, detected = _detect(root, files, options)
    sheets = tables.sheets(root, files)
    options = dataclasses.replace(options, classes=tuple(map(composed, options.classes)))
    detected = _composed(detected)
    classes, words = _classes(detected, options)
    multilabel = options.multilabel
    if multilabel is None:
        multilabel = detected.multilabel or any(len(e.labels) > 1 for e in detected.entries)
    try:
        _check_labels(detected.entries, classes, words, multilabel)
    except UserError as error:
        if not sheets:
            raise
        raise UserError(f"{error}{_unread(sheets)}") from error
    if sheets:
        logging.warning("%s", _unread(sheets).strip())
    pattern = _pattern(options.subject_regex)
    indices = {word: index for index, word in enumerate(words)}
    pictures = [
        picture
        for entry in detected.entries
        for picture in _pictures_of(entry, detected.source, root, indices, pattern, decoding)
    ]
    if not options.own_split:
        pictures = [dataclasses.replace(picture, split="") for picture in pictures]
    return Found(pictures, classes, multilabel, layout)


def read(
    picture: Picture, decoding: Decoding, arrays: pathlib.Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an image.

    Parameters
    ----------
    picture : Picture
    decoding : Decoding
    arrays : pathlib.Path
        Folder in which :func:`data_prep.readers.image_npz.unpack` put the arrays of an npz file.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str

    Raises
    ------
    Unusable
        With the reason.
    """
    if picture.problem:
        raise Unusable(picture.problem)
    if picture.member:
        from data_prep.readers import image_npz

        pixels = image_npz.pixels(arrays, picture)
        return _pictures.check(_pictures.to_rgb(pixels, decoding.levels)), ()
    (path,) = picture.files
    if not _volumes.inside(path, picture.root):
        raise Unusable("it is a link that leads out of the input folder")
    return _pictures.read(path, decoding, picture.frame)


def split_of(text: str, where: object) -> str:
    """Part that a word names: train, validation or test, or the empty word.

    Raises
    ------
    UserError
        If it names none.
    """
    part = SPLITS.get(text.lower(), "")
    if text and not part:
        raise UserError(f"{where}: the split '{text}' is none of train, validation (val), test.")
    return part


def _detect(
    root: pathlib.Path, files: list[pathlib.Path], options: Options
) -> tuple[str, Detected]:
    kinds = of_kind("classification")
    if options.layout != "auto":
        if options.layout not in kinds:
            raise UserError(f"--layout must be auto, {', '.join(kinds)}: {options.layout}.")
        kinds = {options.layout: kinds[options.layout]}
    # A table says most, so it is asked first; folders are what everything lies in.
    for name, module in sorted(kinds.items(), key=lambda pair: pair[1].ORDER):
        if detected := module.detect(root, files, options):
            if detected.entries:
                return name, detected
    looked = "; ".join(module.LAYOUT for module in kinds.values())
    unread = _unread(tables.sheets(root, files))
    raise UserError(f"{root} holds no classified image. Looked for: {looked}.{unread}")


def _unread(sheets: Sequence[pathlib.Path]) -> str:
    if not sheets:
        return ""
    names = ", ".join(path.name for path in sheets)
    return f" Not read, because it is a spreadsheet: {names}. If it has labels, {tables.AS_CSV}."


def _composed(detected: Detected) -> Detected:
    """Classes and subjects in one Unicode form, so that none is there twice."""
    entries = [
        dataclasses.replace(
            entry,
            labels=tuple(dict.fromkeys(map(composed, entry.labels))),
            subject=composed(entry.subject),
        )
        for entry in detected.entries
    ]
    classes = tuple(dict.fromkeys(map(composed, detected.classes)))
    return dataclasses.replace(detected, entries=entries, classes=classes)


def _classes(detected: Detected, options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and the words that the labels have for them, in one order."""
    words = {label for entry in detected.entries for label in entry.labels} | {*detected.classes}
    if odd := [word for word in sorted(words) if not _is_utf8(word)]:
        raise UserError(f"The name of the class {ascii(odd[0])} is not UTF-8: rename its folder.")
    numbers = bool(words) and all(map(str.isdecimal, words))
    if options.classes:
        if len(set(options.classes)) < len(options.classes):
            raise UserError(f"--classes names one class twice: {', '.join(options.classes)}.")
        if numbers and not words.issubset(options.classes):
            return options.classes, tuple(map(str, range(len(options.classes))))
        return options.classes, options.classes
    found = tuple(sorted(words, key=int)) if numbers else tuple(sorted(words))
    places = {word: entry.where for entry in detected.entries for word in entry.labels}
    tables.require_distinct(
        "class", ((name, places.get(name, "an empty folder")) for name in found)
    )
    for name in found:
        # Numbers that follow one another are classes.
        is_number = numbers and len(found) > int(name)
        if tables.is_missing(name) or (tables.key(name) in tables.DOUBTFUL and not is_number):
            logging.warning(
                "The class '%s' is called like a missing value (%s). If it is none, name all "
                "classes with --classes; else take its images out.",
                name,
                places.get(name, "an empty folder"),
            )
    return found, found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_labels(
    entries: Sequence[Entry], classes: tuple[str, ...], words: tuple[str, ...], multilabel: bool
) -> None:
    for entry in entries:
        if entry.problem:
            continue
        for label in entry.labels:
            if label not in words:
                raise UserError(
                    f"{entry.where}: the label '{label}' is not in the list of classes "
                    f"({', '.join(classes)}): add it to --classes, or take the image out."
                )
        if not multilabel and len(entry.labels) != 1:
            given = "several labels" if entry.labels else "no label"
            raise UserError(
                f"{entry.where}: {given}, but an image has one. If images may have several or "
                "none, say --multilabel."
            )
    if len(classes) < 2:
        only = f", '{classes[0]}'" if classes else ""
        raise UserError(
            f"There is one class only{only}: at least two are needed, each as a folder, or as a "
            "label in the table."
        )


def _pattern(text: str) -> re.Pattern | None:
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"--subject_regex={text} is no regular expression: {error}.") from error
    if not pattern.groups:
        raise UserError(
            f"--subject_regex={text} has no group: put the subject in parentheses, "
            r"as in (patient\d+)."
        )
    return pattern


def _pictures_of(
    entry: Entry,
    source: str,
    root: pathlib.Path,
    indices: Mapping[str, int],
    pattern: re.Pattern | None,
    decoding: Decoding,
) -> list[Picture]:
    """The image, or of a DICOM file the frames that count."""
    frames, patient, problem = (0,), "", entry.problem
    files = () if entry.member or problem else (entry.path,)
    if files and _volumes.inside(entry.path, root) and _pictures.is_dicom(entry.path):
        from data_prep.readers import _dicom_image

        try:
            header = _dicom_image.header(entry.path)
            patient, frames = header.subject, decoding.chosen(header.frames)
        except Unusable as error:
            problem = str(error)
    subject, known_by = entry.subject, TABLE
    if not subject and pattern and not problem:
        match = pattern.search(composed(entry.name))
        subject, known_by = (match[1] or "" if match else ""), NAME
        if not subject:
            raise UserError(f"--subject_regex gives no subject for {entry.name}: make it fit all.")
    if not subject:
        subject, known_by = patient, DICOM
    if not subject:
        subject, known_by = f"image {entry.name}", NOTHING
    return [
        Picture(
            entry.name if frames == (0,) else f"{entry.name}#{frame}",
            files,
            root,
            tuple(sorted({indices[label] for label in entry.labels})),
            subject,
            known_by,
            entry.split,
            frame,
            entry.member,
            entry.index,
            source,
            problem,
        )
        for frame in frames
    ]
