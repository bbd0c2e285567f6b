"""DICOM ultrasound images, each beside a file of its drawn interfaces.

``NAME.dcm`` (or any DICOM file, whatever its suffix) with ``NAME.csv`` (columns interface, x, y) or
``NAME-LI.txt`` and ``NAME-MA.txt`` in the same folder. The calibration is that of the ultrasound
region which holds the points (:mod:`data_prep.readers._calibration`), else the pixel spacing.
"""

import pathlib

import numpy as np
import pydicom
import pydicom.pixels

from data_prep.readers import _calibration, _carotid, _deflated, _points
from data_prep.readers._carotid import CarotidStudy, Options, Source
from data_prep.readers._images import MAX_PIXELS, Unusable, to_grey
from data_prep.readers._paths import inside

KIND = "carotid"
LAYOUT = "DICOM ultrasound NAME.dcm beside NAME.csv or NAME-LI.txt and NAME-MA.txt"

SUFFIXES = (".dcm", ".dicom", ".ima", "")


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the DICOM files below a folder; only their headers are read."""
    options = options or Options()
    paths = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES)
    return [_source(root, path, options) for path in paths if _is_dicom(path, root)]


def read(source: Source) -> CarotidStudy:
    """Read one study; a missing calibration is never assumed.

    Raises
    ------
    Unusable
        With the reason; see also :func:`data_prep.readers._carotid.make_study`.
    """
    _carotid.require(source)
    if "boundaries" in source.parts:
        li, ma = _points.read_table(source.file("boundaries"))
    else:
        li, ma = (
            _points.read_text(source.file(part), source.facts["points"])
            for part in ("lumen-intima", "media-adventitia")
        )
    try:
        data = pydicom.dcmread(source.file("image"))
        down, along = calibration(data, np.concatenate([li, ma]))
        image, notes = grey(data, source.facts["frame"])
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error
    return _carotid.make_study(source, image, down, li, ma, mm_per_pixel_x=along, notes=notes)


def _is_dicom(path: pathlib.Path, root: pathlib.Path) -> bool:
    if not path.is_file():
        return False
    if not inside(path, root):  # a link: named by its suffix, since it is not opened
        return path.suffix != ""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _source(root: pathlib.Path, path: pathlib.Path, options: Options) -> Source:
    files = {"image": path}
    table = path.with_suffix(".csv")
    if table.exists():
        files["boundaries"] = table
    else:
        files["lumen-intima"] = path.with_name(f"{path.stem}-LI.txt")
        files["media-adventitia"] = path.with_name(f"{path.stem}-MA.txt")
    subject, problem, notes = "", "", ()
    if inside(path, root):
        subject, problem, notes = _header(path)
    return _carotid.source(
        __name__,
        root,
        path.relative_to(root).as_posix(),
        subject,
        files,
        facts={"points": options.points, "frame": options.frame},
        problem=problem,
        notes=notes,
    )


def _header(path: pathlib.Path) -> tuple[str, str, tuple[str, ...]]:
    """Subject, problem, and notes that the header alone gives."""
    tags = ["PatientID", "StudyInstanceUID", "Modality"]
    try:
        _deflated.require_room(path)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        patient, exam, modality = (str(header.get(tag) or "").strip() for tag in tags)
    except Unusable as error:
        return "", str(error), ()
    except Exception:  # damaged files raise many kinds
        return "", "the DICOM file is unreadable", ()
    if modality not in ("US", "IVUS"):
        return "", "the DICOM file is not an ultrasound image", ()
    if patient:
        return patient, "", ()
    if exam:
        return exam, "", ("no patient identifier: the exam counts as the subject",)
    return "", "neither patient nor exam is identified, so it cannot be kept in one split", ()


def calibration(data: pydicom.Dataset, points: np.ndarray) -> tuple[float, float]:
    """Millimetres a pixel, down and along, where the points (n, 2) lie.

    Raises
    ------
    Unusable
        See :meth:`data_prep.readers._calibration.Calibration.at`.
    """
    return _calibration.of_dicom(data).at(points)


def grey(data: pydicom.Dataset, frame: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """One frame, from 0, as uint8 (H, W) in which 0 is black, and notes of what was changed.

    Raises
    ------
    Unusable
        If there is no such frame, or its pixels are too many or cannot be decoded.
    """
    frames = int(data.get("NumberOfFrames") or 1)
    if not 0 <= frame < frames:
        raise Unusable(f"there is no frame {frame}: it has {frames}, counted from 0")
    if int(data.get("Rows") or 0) * int(data.get("Columns") or 0) > MAX_PIXELS:
        raise Unusable(f"the image has more than {MAX_PIXELS // 10**6} million pixels")
    colours = str(data.get("PhotometricInterpretation"))
    try:
        pixels = pydicom.pixels.pixel_array(data, index=frame)  # YBR becomes RGB
        if colours == "PALETTE COLOR":
            pixels = pydicom.pixels.apply_color_lut(pixels, data)
            pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    except Exception as error:  # no decoder for this compression, or damaged pixels
        raise Unusable("the pixels of the DICOM file cannot be decoded") from error
    notes = (f"frame {frame} of {frames} used",) if frames > 1 else ()
    if colours == "MONOCHROME1":
        pixels = (255 if pixels.dtype == np.uint8 else pixels.max()) - pixels
        notes += ("inverted: its lowest level is white",)
    image, changed = to_grey(pixels)
    return image, notes + changed
