"""Images without annotation, for prediction: pixels and, where the file says it, calibration."""

import dataclasses
import math
import pathlib

import numpy as np
import pydicom

from data_prep.readers import (
    _calibration,
    _deflated,
    _images,
    _matlab,
    _pictures,
    dicom_ct,
    dicom_ultrasound,
    tables,
)
from data_prep.readers._calibration import Calibration
from data_prep.readers._images import Unusable
from data_prep.readers._paths import inside

SUFFIXES = (*_pictures.SUFFIXES, ".cri", ".dcm", ".dicom", ".ima")


@dataclasses.dataclass(frozen=True, eq=False)
class Still:
    """One image.

    Attributes
    ----------
    image : numpy.ndarray
        uint8 (H, W).
    calibration : Calibration
        Sizes of its pixels; empty where neither the file nor one beside it says them.
    notes : tuple of str
        What was changed on the way.
    """

    image: np.ndarray
    calibration: Calibration
    notes: tuple[str, ...] = ()


def find(path: pathlib.Path) -> list[pathlib.Path]:
    """The image itself, or the images below a folder, sorted; by suffix alone."""
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return sorted(p for p in found if inside(p, path.resolve()))
    return [path]


def read(path: pathlib.Path) -> Still:
    """Read one image.

    The calibration is that of the DICOM header, of a ``.scl`` file beside the image (MATLAB,
    variable ``scale``), or of ``../CF/NAME_CF.txt`` (CUBS).

    Raises
    ------
    Unusable
        If it cannot be read.
    """
    if not path.is_file():
        raise Unusable("the image file is missing")
    try:
        is_dicom = dicom_ct.is_dicom(path)
    except OSError as error:
        raise Unusable("the image file is unreadable") from error
    if is_dicom:
        return _dicom(path)
    image, notes = _images.load_grey(path)
    return Still(image, _beside(path), notes)


def _dicom(path: pathlib.Path) -> Still:
    try:
        _deflated.require_room(path)
        data = pydicom.dcmread(path, force=True)
        image, notes = dicom_ultrasound.grey(data, 0)
        calibration = _calibration.of_dicom(data)
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error
    return Still(image, calibration, notes)


def _beside(path: pathlib.Path) -> Calibration:
    scale, factor = path.with_suffix(".scl"), path.parent.parent / "CF" / f"{path.stem}_CF.txt"
    try:
        if scale.is_file():
            found = _matlab.read(scale)["scale"].item()
        elif factor.is_file():
            found = tables.number(tables.text(factor).strip()) or 0.0
        else:
            return Calibration()
    except (OSError, ValueError, LookupError) as error:
        raise Unusable("the calibration file beside the image is unreadable") from error
    if not 0 < found < math.inf:
        raise Unusable("the calibration file beside the image holds no size of a pixel")
    return Calibration((found, found))
