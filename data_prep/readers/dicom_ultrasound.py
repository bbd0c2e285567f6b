"""DICOM ultrasound images, each beside a file of its drawn interfaces.

``NAME.dcm`` (or any DICOM file, whatever its suffix) with ``NAME.csv`` (columns interface, x, y) or
``NAME-LI.txt`` and ``NAME-MA.txt`` in the same folder. The calibration is that of the ultrasound
region which holds the points (:mod:`data_prep.readers._calibration`), else the pixel spacing.
"""

import pathlib

import numpy as np
import pydicom

from data_prep.readers import _calibration, _carotid, _deflated, _dicom_image, _points, dicom_ct
from data_prep.readers._carotid import CarotidStudy, Options, Source
from data_prep.readers._images import Unusable, to_grey
from data_prep.readers._paths import inside
from data_prep.readers._pictures import Decoding

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
        data = pydicom.dcmread(source.file("image"), force=True)
        down, along = calibration(data, np.concatenate([li, ma]))
        image, notes = grey(data, source.facts["frame"])
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error
    return _carotid.make_study(source, image, down, li, ma, mm_per_pixel_x=along, notes=notes)


def _is_dicom(path: pathlib.Path, root: pathlib.Path) -> bool:
    if path.is_file() and not inside(path, root):  # a link is not opened: known by its suffix
        return path.suffix != ""
    return dicom_ct.is_dicom(path)


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
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
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
    image, notes = _dicom_image.render(data, Decoding(), frame)
    frames, bits = int(data.get("NumberOfFrames") or 1), int(data.BitsStored)
    if bits > 8:
        notes = (f"levels of {bits} bits scaled to 8", *notes)
    if data.PhotometricInterpretation == "MONOCHROME1":
        notes = ("inverted: its lowest level is white", *notes)
    if frames > 1:
        notes = (f"frame {frame} of {frames} used", *notes)
    image, changed = to_grey(image)
    return image, notes + changed
