"""One frame of a DICOM file as 8-bit RGB: window, MONOCHROME1, palettes, colours (PS3.3, C.7.6.3).

Grey images get the user's window, else the first window or table of the file (VOI LUT module,
C.11.2; in files with functional groups, C.7.6.16.2.10), else their own lowest and highest level.
"""

import dataclasses
import pathlib

import numpy as np
import pydicom
import pydicom.pixels

from data_prep.readers import _deflated, _pictures, _slices, dicom_ct
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding

TAGS = ("PatientID", "StudyInstanceUID", "NumberOfFrames")
# Where a functional group may hold what concerns the levels.
GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
NO_WINDOW = "its window makes no sense: lowest and highest level taken instead"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header says.

    Attributes
    ----------
    subject : str
        PatientID; without it StudyInstanceUID; without either empty.
    frames : int
    """

    subject: str
    frames: int


def header(path: pathlib.Path) -> Header:
    """Read the header, without the pixels.

    Raises
    ------
    Unusable
        If it is damaged.
    """
    try:
        _deflated.require_room(path)
        with _slices.quiet():
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
            patient, exam = (str(data.get(tag) or "").strip() for tag in TAGS[:2])
            return Header(patient or exam, max(1, int(data.get("NumberOfFrames") or 1)))
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error


def read(
    path: pathlib.Path, decoding: Decoding, frame: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one frame.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str

    Raises
    ------
    Unusable
        If there is no such frame, it is too large or too small, or the pixels cannot be decoded.
    """
    try:
        with _slices.quiet():
            data = pydicom.dcmread(path, force=True)
            count = max(1, int(data.get("NumberOfFrames") or 1))
            rows, columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error
    if not 0 <= frame < count:
        raise Unusable(f"there is no frame {frame}: it has {count}, counted from 0")
    if not rows or not columns:
        raise Unusable("the DICOM file holds no image")
    _pictures.check_size(rows, columns)
    try:
        with _slices.quiet():
            stored, padding = dicom_ct.stored_values(data, frame)
            return to_rgb(data, stored, padding, decoding, frame)
    except Unusable:
        raise
    except Exception as error:  # damaged pixels, or tables that do not fit them
        raise Unusable("the pixels of the DICOM file are damaged or cut off") from error


def to_rgb(
    data: pydicom.Dataset,
    stored: np.ndarray,
    padding: np.ndarray | None,
    decoding: Decoding,
    frame: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored values of a frame, whose padding is marked, as they are meant to be seen.

    Parameters
    ----------
    data : pydicom.Dataset
    stored : numpy.ndarray
        (H, W), or RGB (H, W, 3).
    padding : numpy.ndarray or None
        bool (H, W); it becomes black.
    decoding : Decoding
    frame : int
        From 0.
    """
    colours = str(data.get("PhotometricInterpretation") or "")
    if colours == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, data)
    if stored.ndim == 3:
        return _pictures.to_rgb(stored, "type"), ()  # the colours' balance would shift otherwise
    _place_levels(data, frame)
    values = pydicom.pixels.apply_modality_lut(stored, data)
    grey, notes = _windowed(values, padding, decoding, data)
    if colours == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return _pictures.to_rgb(grey), notes


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values as uint8 through a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Parameters
    ----------
    values : numpy.ndarray
    centre, width : float
    function : str
        "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    """
    values = values.astype(np.float64)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # far below the window: exactly 0
            shares = 1 / (1 + np.exp(-4 * (values - centre) / width))
        return np.rint(shares * 255).astype(np.uint8)
    if function == "LINEAR" and width > 1:
        centre, width = centre - 0.5, width - 1
    return _pictures.scale(values, centre - width / 2, centre + width / 2)


def _place_levels(data: pydicom.Dataset, frame: int) -> None:
    """Put what a frame's functional groups say of its levels where files of one frame have it."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        sequence = data.get(name) or []
        place = frame if name.startswith("Per") else 0
        for group in GROUPS if place < len(sequence) else ():
            for item in sequence[place].get(group) or ():
                for element in item:
                    data[element.tag] = element


def _windowed(
    values: np.ndarray, padding: np.ndarray | None, decoding: Decoding, data: pydicom.Dataset
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values in the units of the image as uint8 (H, W), and notes."""
    if given := decoding.centre_and_width:
        return window(values, *given), ()
    notes = ()
    centre = _first(data.get("WindowCenter"))
    if centre is not None:
        width = _first(data.get("WindowWidth")) or 0.0
        function = str(data.get("VOILUTFunction") or "LINEAR").upper()
        if width > 0:
            return window(values, centre, width, function), ()
        notes = (NO_WINDOW,)
    elif data.get("VOILUTSequence"):
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        table = pydicom.pixels.apply_voi_lut(values.astype(np.int64), data)
        return _pictures.scale(table, 0, (1 << bits) - 1), ()
    if decoding.levels == "type" and data.get("BitsStored"):
        bits, signed = int(data.BitsStored), int(data.get("PixelRepresentation") or 0)
        ends = np.array([0, (1 << bits) - 1]) - signed * (1 << bits - 1)
        ends = pydicom.pixels.apply_modality_lut(ends, data)
    else:
        seen = values if padding is None or padding.all() else values[~padding]
        ends = np.array([seen.min(), seen.max()])
    return _pictures.scale(values, float(ends.min()), float(ends.max())), notes


def _first(value: object) -> float | None:
    """The first of one or several numbers; None where there is none."""
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    try:
        return float(values[0])
    except (IndexError, TypeError, ValueError):
        return None
