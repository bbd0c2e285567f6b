"""Classified medical images to records: class folders, tables, npz arrays, DICOM.

    python -m data_prep.classify --input=RAW --output=DATA

RAW is a folder in one of the layouts that the classification readers know (``data_prep.readers``).
Every image becomes one example of its part: train, validation or test.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from absl import flags, logging

from data_prep import (
    classify_report,
    command,
    duplicates,
    locks,
    parts,
    repeats,
    shards,
    split_table,
)
from data_prep.errors import UserError
from data_prep.readers import _classification, _pictures
from data_prep.readers._classification import Found, Options, Picture
from data_prep.readers._pictures import Decoding
from data_prep.records import Example
from data_prep.repeats import Repeats
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

APP = "classify"
PUBLIC_KEY = b"no person"
TEST_FRACTION = 0.2
EXTRAS = {"labels": "int_list", "width": "int", "height": "int"}
SPLITS = {part: (part, "image") for part in ("train", "validation", "test")}
FITS = ("pad", "crop")
REPEATS = ("similar", "identical")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images become examples, and which count as repeated.

    Attributes
    ----------
    side : int
        Of the square images in the records, in pixels.
    fit : str
        "pad": the whole image, black beside it; "crop": the square in its middle. Proportions stay.
    levels, window, frames
        See :class:`data_prep.readers._pictures.Decoding`.
    repeats : str
        What is looked for: "similar" images, or only "identical" ones (to the pixel).
    hamming, correlation
        When images are similar (see :func:`data_prep.duplicates.similar`).
    """

    side: int = 224
    fit: str = "pad"
    levels: str = Decoding.levels
    window: str = Decoding.window
    frames: str = Decoding.frames
    repeats: str = "similar"
    hamming: int = duplicates.HAMMING
    correlation: float = duplicates.CORRELATION

    def __post_init__(self) -> None:
        for name, values in (("fit", FITS), ("repeats", REPEATS)):
            if getattr(self, name) not in values:
                raise UserError(f"--{name} must be {' or '.join(values)}: {getattr(self, name)}.")
        if self.side < 16:
            raise UserError(f"--side must be at least 16: {self.side}.")
        if not (0 <= self.hamming <= 64 and 0 < self.correlation <= 1):
            raise UserError(
                "--hamming must be from 0 to 64 and --correlation above 0 and at most 1: "
                f"{self.hamming} and {self.correlation}."
            )
        Decoding.of(dataclasses.asdict(self))


def fit(image: np.ndarray, side: int, how: str) -> np.ndarray:
    """A square image in which nothing is stretched.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 (H, W, 3).
    side : int
    how : str
        "pad": the whole image, black beside it; "crop": the square in its middle.

    Returns
    -------
    numpy.ndarray
        uint8 (side, side, 3).
    """
    import cv2

    height, width = image.shape[:2]
    if how == "crop":
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        image = np.ascontiguousarray(image[top : top + short, left : left + short])
        height = width = short
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    part = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((side, side, 3), np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = part
    return square


def prepare_picture(
    picture: Picture,
    settings: Settings,
    classes: int,
    multilabel: bool,
    key: bytes,
    arrays: pathlib.Path,
) -> StudyResult:
    """The example of one image; a pure function.

    Parameters
    ----------
    picture : Picture
    settings : Settings
    classes : int
        How many there are.
    multilabel : bool
    key : bytes
        Of the pseudonyms.
    arrays : pathlib.Path
        See :func:`data_prep.readers._classification.read`.
    """
    decoding = Decoding.of(dataclasses.asdict(settings))
    image, notes = _classification.read(picture, decoding, arrays)
    case, subject = pseudonym(picture.name, key), pseudonym(picture.subject, key)
    labels = [int(index in picture.labels) for index in range(classes)]
    label = -1 if multilabel else picture.labels[0]
    example = Example(
        case,
        fit(image, settings.side, settings.fit),
        label,
        subject,
        case,
        case,
        extras={"labels": labels, "width": image.shape[1], "height": image.shape[0]},
    )
    truth = {"images": 1, **({"labels": labels} if multilabel else {"label": label})}
    return StudyResult(case, subject, {"image": [example]}, truth, notes)


def prepare(
    raw: pathlib.Path,
    output: pathlib.Path,
    *,
    settings: Settings | None = None,
    choice: Options | None = None,
    options: command.Options | None = None,
) -> command.Prepared:
    """Raw images to a dataset folder: what the command does, for other code.

    Parameters
    ----------
    raw, output : pathlib.Path
    settings : Settings, optional
    choice : Options, optional
        What the files leave open.
    options : command.Options, optional
        The shared options, except the output. Without them the pseudonyms have a public key, which
        suits phantoms: no person stands behind them.

    Returns
    -------
    command.Prepared
        With ``prep["findings"]``: "identical", "similar" (see :class:`data_prep.Repeats`),
        "conflicts" (cases that are one image with different labels), "leaks" (see
        :class:`data_prep.parts.Assigned`), "known_by" (how many images' subjects are known from
        where), "own_split".

    Raises
    ------
    UserError
        See :func:`data_prep.readers._classification.find`, :func:`data_prep.parts.assign`,
        :func:`data_prep.parts.check` and :func:`data_prep.command.prepare`; what is wrong with the
        input as a whole is said before any image is read.
    """
    settings, choice = settings or Settings(), choice or Options()
    options = options or command.Options(output, key=PUBLIC_KEY, test_fraction=TEST_FRACTION)
    options = dataclasses.replace(options, output=pathlib.Path(output).resolve())
    if choice.own_split and (options.folds is not None or not options.divided):
        # Cross-validation, or all of a second set: the set's own parts have no meaning then.
        choice = dataclasses.replace(choice, own_split=False)
    decoding = Decoding.of(dataclasses.asdict(settings))
    found = _classification.find(pathlib.Path(raw), choice, decoding)
    if options.split_table is not None:
        said = split_table.by_study(found.pictures, options)
        pictures = [dataclasses.replace(p, split=said.get(p.name, "")) for p in found.pictures]
        found = dataclasses.replace(found, pictures=pictures)
    if options.divided:
        parts.require_images(found.pictures, found.classes)
    parts.warn_of_subjects(found.pictures, options.divided)
    work = shards.work_folder(options.output)
    look = work / "look"
    arrays = look / "arrays"
    recorded = _recorded(options.output)
    if recorded is None:
        shards.find_finished(options.output, "")  # what is in the way is said before any work
    instead = "Wait until it has ended, or choose another --output."
    with contextlib.nullcontext() if recorded else locks.hold(look, instead):
        try:
            if recorded:
                left_out, same = recorded
            else:
                _unpack(found.pictures, pathlib.Path(raw), arrays)
                bits = settings.hamming if settings.repeats == "similar" else None
                left_out, same = repeats.find(
                    found.pictures, decoding, options, look, bits, settings.correlation
                )
            return _prepare(found, left_out, same, settings, choice, options, arrays)
        except UserError:
            shutil.rmtree(look, ignore_errors=True)
            with contextlib.suppress(OSError):  # not there, or it holds what can be used again
                work.rmdir()
            raise


def _prepare(
    found: Found,
    left_out: set[str],
    same: Repeats,
    settings: Settings,
    choice: Options,
    options: command.Options,
    arrays: pathlib.Path,
) -> command.Prepared:
    """Join, split, write; ``left_out`` are the cases that cannot be read."""
    key = options.key
    usable = [p for p in found.pictures if pseudonym(p.name, key) not in left_out]
    rest = [p for p in found.pictures if pseudonym(p.name, key) in left_out]
    if not usable:  # the preparation says why
        assigned, whole, contradictions = parts.Assigned({}, False, []), [], []
    else:
        whole = repeats.together(usable, same, key)
        joined = {p.subject: one.subject for p, one in zip(usable, whole, strict=True)}
        rest = [dataclasses.replace(p, subject=joined.get(p.subject, p.subject)) for p in rest]
        contradictions = repeats.conflicts(whole, same, key)
        if contradictions and options.strict:
            names = {pseudonym(p.name, key): p.name for p in whole}
            first = ", ".join(names[case] for case in contradictions[0])
            raise UserError(
                f"{len(contradictions)} images are there twice with different labels, such as "
                f"{first}: correct the labels or take the images out."
            )
        doubt = repeats.doubt(usable, same, key, settings.correlation)
        try:
            assigned = parts.assign(usable, whole, options)
            parts.check(whole, assigned, found.classes, key, options.divided)
        except UserError as error:
            raise UserError(f"{error} {doubt}".rstrip()) from error
        if doubt and len(usable) > parts.FEW:
            logging.warning("%s", doubt)
        logging.info("Making the records of %d images.", len(whole))
    pattern = hashlib.sha256(choice.subject_regex.encode()).hexdigest()[:12]
    return command.prepare(
        shards.Layout(APP, found.classes, EXTRAS, SPLITS, channels=3),
        [*whole, *rest],
        functools.partial(
            prepare_picture,
            settings=settings,
            classes=len(found.classes),
            multilabel=found.multilabel,
            key=key,
            arrays=arrays,
        ),
        {
            **dataclasses.asdict(settings),
            "multilabel": found.multilabel,
            "layout": found.layout,
            "subject_regex": pattern if choice.subject_regex else "",  # it may hold names
            "own_split": assigned.own,
        },
        dataclasses.replace(options, parts=assigned.parts),
        findings={
            **dataclasses.asdict(same),
            "conflicts": contradictions,
            "leaks": assigned.leaks,
            "known_by": dict(collections.Counter(p.known_by for p in found.pictures)),
            "own_split": assigned.own,
        },
    )


def _recorded(output: pathlib.Path) -> tuple[set[str], Repeats] | None:
    """What a finished dataset says of images left out and repeated; None if it is none."""
    left_out, findings = shards.left_out(output), shards.findings(output)
    if left_out is None or not findings:
        return None
    return left_out, Repeats(findings.get("identical", []), findings.get("similar", []))


def _unpack(pictures: Sequence[Picture], raw: pathlib.Path, folder: pathlib.Path) -> None:
    inside = [picture for picture in pictures if picture.member]
    if inside:
        from data_prep.readers import image_npz

        image_npz.unpack(inside, raw.resolve(), folder)


def define_flags() -> None:
    """Define the flags of this command beside the shared ones."""
    default, choice = Settings(), Options()
    command.define_flags(test_fraction=TEST_FRACTION)
    flags.DEFINE_integer(
        "side",
        default.side,
        "Of the square images in the records; networks resize to their own.",
        16,
    )
    flags.DEFINE_enum(
        "fit",
        default.fit,
        FITS,
        "Images become square without being stretched: pad keeps everything and adds black, crop "
        "keeps the middle.",
    )
    flags.DEFINE_enum(
        "levels",
        default.levels,
        _pictures.LEVELS,
        "What becomes black and white where there are more than 8 bits and no window: the image's "
        "own ends, because many devices use 10 or 12 of 16 bits, or those of its type.",
    )
    flags.DEFINE_string(
        "window",
        default.window,
        "DICOM: CENTRE,WIDTH, such as 40,400 (HU), instead of the window in the files.",
    )
    flags.DEFINE_enum(
        "frames", default.frames, _pictures.FRAMES, "DICOM: which frames of a film are images."
    )
    flags.DEFINE_string(
        "layout",
        choice.layout,
        "Reader (class_folders, image_table, image_npz), where a folder could be read in several "
        "ways.",
    )
    flags.DEFINE_string(
        "subject_regex",
        choice.subject_regex,
        r"Regular expression whose first group, found in an image's path, is its subject, such as "
        r"(patient\d+).",
    )
    flags.DEFINE_list(
        "columns",
        [],
        "What a table calls the columns path, label, subject and split, where it calls them "
        "otherwise, such as path:Image Index,label:Finding Labels.",
    )
    flags.DEFINE_list(
        "classes",
        [],
        "Classes in the order of their indices; for numbered labels, the names of 0, 1 and so on. "
        "Default: all labels found, sorted.",
    )
    flags.DEFINE_bool(
        "multilabel",
        choice.multilabel,
        "Images may have several labels, or none. Default: where one has several.",
    )
    flags.DEFINE_bool(
        "own_split",
        choice.own_split,
        "Keep the split that the set itself gives. --folds and --test_fraction=1 draw their own.",
    )
    flags.DEFINE_enum(
        "repeats",
        default.repeats,
        REPEATS,
        "Images that count as one and stay in one part: also those stored again in another size "
        "or quality, or only those identical to the pixel.",
    )
    flags.DEFINE_integer(
        "hamming",
        default.hamming,
        "Similar images differ in at most so many of 64 bits of their hashes.",
    )
    flags.DEFINE_float(
        "correlation",
        default.correlation,
        "Similar images have details that correlate at least so much. On real chest X-rays and "
        "brain MRI, copies had 0.99 and different persons at most 0.83; at 28 pixels 0.91.",
    )


def columns(pairs: Sequence[str]) -> dict[str, str]:
    """``["path:file"]`` as ``{"path": "file"}``.

    Raises
    ------
    UserError
        If a pair has no colon.
    """
    if wrong := [pair for pair in pairs if not all(pair.partition(":"))]:
        raise UserError(f"--columns: '{wrong[0]}' is not like path:Image Index.")
    return {pair.partition(":")[0].strip(): pair.partition(":")[2].strip() for pair in pairs}


def main() -> None:
    """Run the command with the parsed flags."""
    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(Settings)]
    prepared = prepare(
        pathlib.Path(values.input),
        pathlib.Path(values.output),
        settings=Settings(**{name: values[name].value for name in names}),
        choice=Options(
            layout=values.layout,
            subject_regex=values.subject_regex,
            columns=columns(values.columns),
            classes=tuple(name.strip() for name in values.classes),
            multilabel=values.multilabel,
            own_split=values.own_split,
        ),
        options=command.options(),
    )
    print(classify_report.report(prepared))
    print(command.summary(prepared))


if __name__ == "__main__":
    define_flags()
    command.run(main)
