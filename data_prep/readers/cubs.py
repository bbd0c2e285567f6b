"""CUBS, the carotid ultrasound boundary study (Meiburger et al. 2021, 2022).

``IMAGES/ID.tiff``, ``CF/ID_CF.txt`` (one number, mm/pixel) and
``LIMA-Profiles/ANNOTATOR/ID-LI.txt`` and ``ID-MA.txt``. The two copies in circulation hold an
interface either as two rows (x above y) or as two columns; both are read. Left and right of one
person (``clin_0001_L``, ``clin_0001_R``) are one subject.
"""

import pathlib
import re

from data_prep.errors import UserError
from data_prep.readers import _carotid, _points, tables
from data_prep.readers._carotid import CarotidStudy, Options, Source
from data_prep.readers._images import Unusable, load_grey

KIND = "carotid"
LAYOUT = "IMAGES/ID.tiff with CF/ID_CF.txt and LIMA-Profiles/ANNOTATOR/ID-LI.txt, ID-MA.txt (CUBS)"

SUFFIXES = (".tif", ".tiff", ".png")
PROFILES = ("LIMA-Profiles", "LIMA-Profiles-interpolated")


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the images of a CUBS folder.

    Raises
    ------
    UserError
        If the annotator asked for has no folder; the message lists those that have.
    """
    options = options or Options()
    images = sorted(path for path in root.glob("IMAGES/[!.]*") if path.suffix.lower() in SUFFIXES)
    profiles = next((root / name for name in PROFILES if (root / name).is_dir()), None)
    if not images or profiles is None:
        return []
    annotators = sorted(path.name for path in profiles.iterdir() if path.is_dir())
    if options.annotator not in annotators:
        raise UserError(
            f"{profiles} holds no folder '{options.annotator}'. Choose one of its annotators with "
            f"--reader: {', '.join(annotators) or 'there are none'}."
        )
    drawn = profiles / options.annotator
    return [
        _carotid.source(
            __name__,
            root,
            image.stem,
            re.sub(r"_[LR]$", "", image.stem),
            {
                "image": image,
                "calibration": root / "CF" / f"{image.stem}_CF.txt",
                "lumen-intima": drawn / f"{image.stem}-LI.txt",
                "media-adventitia": drawn / f"{image.stem}-MA.txt",
            },
            facts={"points": options.points},
        )
        for image in images
    ]


def read(source: Source) -> CarotidStudy:
    """Read one study; a missing calibration is never assumed.

    Raises
    ------
    Unusable
        With the reason; see also :func:`data_prep.readers._carotid.make_study`.
    """
    _carotid.require(source)
    li, ma = (
        _points.read_text(source.file(part), source.facts["points"])
        for part in ("lumen-intima", "media-adventitia")
    )
    image, notes = load_grey(source.file("image"), is_drawn_on=True)
    scale = _calibration(source)
    return _carotid.make_study(source, image, scale, li, ma, mm_per_pixel_x=scale, notes=notes)


def _calibration(source: Source) -> float:
    try:
        value = _carotid.number(tables.text(source.file("calibration")))
    except tables.TableError:
        value = None
    if value is None:
        raise Unusable("the calibration file does not hold one positive number")
    return value
