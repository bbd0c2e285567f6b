"""A small app whose studies are .npy images: what the tests of preparation run on.

``python -m tests.data_prep.fake`` is a command like those of the package.
"""

import dataclasses
import functools
import os
import pathlib
import signal

from absl import flags

from data_prep import command
from data_prep.runner import Study


@dataclasses.dataclass(frozen=True)
class FakeStudy(Study):
    """A study that says whose it is."""

    subject: str


KEY = b"secret"
SETTINGS = {"patch": 5}


def layout():
    from data_prep import shards

    return shards.Layout(
        name="fake",
        classes=("dark", "bright"),
        extras={"x": "float", "li": "float_list"},
        splits={
            "train": ("train", "patch"),
            "validation": ("validation", "patch"),
            "validation_roi": ("validation", "roi"),
            "test": ("test", "roi"),
        },
    )


def write_studies(folder: pathlib.Path, count: int = 8) -> None:
    """Images of ``count`` studies, two a subject."""
    import numpy as np

    folder.mkdir(exist_ok=True)
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (24, 32), np.uint8)
        np.save(folder / f"Anna{number // 2}_visit{number}.npy", image)


def find(folder: pathlib.Path) -> list:
    paths = sorted(folder.glob("*.npy"))
    return [FakeStudy(path.stem, (path,), path.stem.partition("_")[0]) for path in paths]


def work(study, key=KEY, patch=5, log=None, fault=None):
    """Twenty patches and the whole image; does what ``fault`` says at the study it names."""
    import numpy as np

    from data_prep import patches
    from data_prep.errors import UserError
    from data_prep.records import Example
    from data_prep.runner import StudyResult
    from data_prep.splits import pseudonym

    if log is not None:
        with open(log, "a") as file:
            file.write(f"{study.name}\n")
    kind, _, name = (fault or "").partition(":")
    if name == study.name:
        match kind:
            case "user":
                raise UserError(f"{study.files[0]}: no calibration for {study.name}.")
            case "bug":
                raise ZeroDivisionError(f"reading {study.name}")
            case "interrupt":
                raise KeyboardInterrupt
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
    image = np.load(study.files[0])
    case = pseudonym(study.name, key)
    subject = pseudonym(study.name.partition("_")[0], key)
    centres = np.random.default_rng(0).integers(0, 24, (20, 2))

    def patch_examples():
        for index, crop in enumerate(patches.crop(image, centres, patch)):
            yield Example(
                key=f"{case}-{index}",
                image=crop,
                label=int(crop.mean() > 127),
                subject=subject,
                case=case,
                unit=f"{case}-{index}",
                extras={"x": float(centres[index, 0]), "li": []},
            )

    roi = Example(
        key=case,
        image=image,
        label=-1,
        subject=subject,
        case=case,
        unit=f"{case}-0",
        extras={"x": 0.0, "li": [1.5, float("nan"), 3.0]},
    )
    return StudyResult(
        case=case,
        subject=subject,
        examples={"patch": patch_examples(), "roi": [roi]},
        truth={"width": image.shape[1], "height": image.shape[0]},
        mended=(f"first pixel of {study.name} is black",) if image[0, 0] < 128 else (),
    )


def main() -> None:
    options = command.options()
    studies = find(pathlib.Path(flags.FLAGS.input))
    function = functools.partial(work, key=options.key, fault=flags.FLAGS.fault)
    print(command.summary(command.prepare(layout(), studies, function, SETTINGS, options)))


if __name__ == "__main__":
    command.define_flags()
    flags.DEFINE_string("fault", None, "What goes wrong, and at which study.")
    command.run(main)
