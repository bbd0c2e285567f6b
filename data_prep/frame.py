"""Colonoscopy videos to records of frame quality: random crops, and whole frames to be scored.

    python -m data_prep.frame --input=RAW --output=DATA

RAW is a folder of videos with ``frame_quality_labels.csv`` (video, frame_index, label), or of
folders named after the classes. The splits train and validation hold crops; train_unit,
validation_unit and test hold frames.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import flags

from data_prep import colonoscopy, command, shards
from data_prep.errors import UserError
from data_prep.readers._images import Unusable
from data_prep.records import Example
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

APP = "frame"
PUBLIC_KEY = b"no person"
CLASSES = ("uninformative", "informative")
EXTRAS = {"frame": "int", "time_s": "float", "views": "int"}
SPLITS = {
    "train": ("train", "patch"),
    "validation": ("validation", "patch"),
    "train_unit": ("train", "unit"),
    "validation_unit": ("validation", "unit"),
    "test": ("test", "unit"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How frames and crops are taken.

    Attributes
    ----------
    width, height : int
        To which a frame is brought, as in the paper: without its black margins, enlarged or reduced
        in proportion until it fills this size, what stands over being cut off evenly.
    patch : int
        Side of a crop in pixels.
    crops : int
        Training crops of a frame. The paper's "200 sub-images" would give ten times its 40,000
        training images; 20 a frame fit.
    """

    width: int = 500
    height: int = 350
    patch: int = 227
    crops: int = 20

    def __post_init__(self) -> None:
        if not 16 <= self.patch <= min(self.width, self.height):
            raise UserError(
                f"--patch must be from 16 to the smaller side of a frame ({self.width} x "
                f"{self.height}): {self.patch}."
            )


def fill(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Part of a frame inside its black margins, in proportion, that fills ``width`` x ``height``.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)

    Returns
    -------
    ndarray of uint8, (height, width, 3)
    """
    import cv2

    from data_prep.readers._field_of_view import field_of_view

    left, top, wide, high = field_of_view(image)
    scale = max(width / wide, height / high)
    # The part that has the wanted proportions, in the middle.
    part_w, part_h = min(wide, round(width / scale)), min(high, round(height / scale))
    x, y = left + (wide - part_w) // 2, top + (high - part_h) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = np.ascontiguousarray(image[y : y + part_h, x : x + part_w])
    return cv2.resize(part, (width, height), interpolation=how)


def prepare_study(source, settings: Settings, sampling, seed: int, key: bytes) -> StudyResult:
    """Frames and crops of one video; a pure function.

    Parameters
    ----------
    source : Source
        Of :mod:`data_prep.readers._colonoscopy`.
    settings, sampling : Settings, Sampling
    seed : int
    key : bytes
        Of the pseudonyms.

    Returns
    -------
    StudyResult
        With the kinds "unit" (frames) and "patch" (crops); the video is read once for each.
    """
    from data_prep.readers import _colonoscopy

    case, subject = pseudonym(source.name, key), pseudonym(source.subject, key)
    truth = {"images": 0, "informative": 0, "unlabelled": 0, "lesions": []}
    notes: list[str] = []

    def labelled(notes=None) -> Iterator[tuple]:
        for frame in _colonoscopy.frames(source, sampling, notes):
            if frame.label is None:
                if notes is not None:
                    truth["unlabelled"] += 1
                continue
            extras = {"frame": frame.index, "time_s": frame.time_s or 0.0, "views": 1}
            common = {
                "label": frame.label,
                "subject": subject,
                "case": case,
                "unit": f"{case}-{frame.index}",
                "extras": extras,
            }
            yield fill(frame.image, settings.width, settings.height), common

    def units() -> Iterator[Example]:
        for image, common in labelled(notes):
            truth["images"] += 1
            truth["informative"] += common["label"]
            yield Example(common["unit"], image, **common)
        if not truth["images"]:
            raise Unusable("no frame of it is labelled informative or uninformative")

    def crops() -> Iterator[Example]:
        rng = np.random.default_rng([seed, int(case, 16)])
        side = settings.patch
        for image, common in labelled():
            rows = rng.integers(0, settings.height - side, settings.crops, endpoint=True)
            columns = rng.integers(0, settings.width - side, settings.crops, endpoint=True)
            for number, (y, x) in enumerate(zip(rows, columns, strict=True)):
                part = image[y : y + side, x : x + side]
                yield Example(f"{common['unit']}-{number}", part, **common)

    return StudyResult(case, subject, {"unit": units(), "patch": crops()}, truth, notes)


def prepare(
    raw: pathlib.Path,
    output: pathlib.Path,
    *,
    settings: Settings | None = None,
    sampling=None,
    choice=None,
    options: command.Options | None = None,
) -> command.Prepared:
    """Raw studies to a dataset folder: what the command does, for other code.

    Arguments and errors as for :func:`data_prep.polyp.prepare`.
    """
    from data_prep.readers import _colonoscopy, _colonoscopy_tables, frame_folder

    settings = settings or Settings()
    sampling = sampling or _colonoscopy.Sampling(labelled_only=True)
    options = dataclasses.replace(options or command.Options(output, key=PUBLIC_KEY), output=output)
    sources = _colonoscopy.find(raw, choice)
    colonoscopy.require_known(
        sources,
        lambda s: s.facts.get("labels") or any(item.label is not None for item in s.items),
        "has frames labelled informative or uninformative: put images into folders called "
        f"{frame_folder.ACCEPTED}, or give {_colonoscopy_tables.LABEL_TABLES[0]} with the columns "
        "video, frame_index and label",
    )
    colonoscopy.warn_of_unknown_identity(sources)
    if options.split_table is None and any(source.split for source in sources):
        options = dataclasses.replace(options, parts=colonoscopy.assign(sources, options))
    return command.prepare(
        shards.Layout(APP, CLASSES, EXTRAS, SPLITS, channels=3, balanced=("train", "validation")),
        sources,
        functools.partial(
            prepare_study,
            settings=settings,
            sampling=sampling,
            seed=options.seed,
            key=options.key,
        ),
        {
            **dataclasses.asdict(settings),
            **dataclasses.asdict(sampling),
            **colonoscopy.recorded(choice),
        },
        options,
    )


def define_flags() -> None:
    """Define the flags of this command beside the shared ones."""
    default = Settings()
    colonoscopy.define_flags(every_s=None, labelled_only=True)
    flags.DEFINE_integer("width", default.width, "Of a frame as it is kept; the paper's.", 16)
    flags.DEFINE_integer("height", default.height, "Of a frame as it is kept; the paper's.", 16)
    flags.DEFINE_integer("patch", default.patch, "Side of a crop in pixels; the paper's.", 16)
    flags.DEFINE_integer(
        "crops",
        default.crops,
        "Training crops of a frame. 20, because the paper's 40,000 training images need so many.",
        1,
    )


def main() -> None:
    """Run the command with the parsed flags."""
    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(Settings)]
    choice, sampling = colonoscopy.choices()
    prepared = prepare(
        pathlib.Path(values.input),
        pathlib.Path(values.output),
        settings=Settings(**{name: values[name].value for name in names}),
        sampling=sampling,
        choice=choice,
        options=command.options(),
    )
    print(command.summary(prepared))


if __name__ == "__main__":
    define_flags()
    command.run(main)
