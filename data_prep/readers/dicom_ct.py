"""CT series in DICOM files, in a folder tree of mixed studies.

Files are known by their content, whatever their names, and grouped by SeriesInstanceUID. Window
settings (VOI) and MONOCHROME1 concern how an image is shown, not its Hounsfield units, and are
ignored.
"""

import collections
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pydicom
from absl import logging
from tqdm import tqdm

from data_prep.readers import _deflated, _dicom_pixels, _grids, _lesions, _slices, _volumes
from data_prep.readers._images import Unusable
from data_prep.readers._slices import Slice
from data_prep.readers._volumes import Options, Source, Volume

KIND = "ct"
LAYOUT = "DICOM CT series, in any folders, labels as FOLDER_label.nii.gz or in the series' folder"

SUFFIXES_WITHOUT_PREAMBLE = (".dcm", ".dicom", ".ima")
TAGS = (
    "SOPClassUID",
    "ImageType",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
)
LAST_TAG = 0x00200011  # SeriesNumber; nothing behind it is needed to sort files
CT_CLASSES = (
    "",  # not said
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
)
DIRECTORY = "1.2.840.10008.1.3.10"
MODALITIES = ("MR", "PT", "NM", "US", "CR", "DX", "XA", "SR", "SEG", "RTSTRUCT", "REG", "OT", "PR")
LOCALISERS = ("LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW")


@dataclasses.dataclass
class _Series:
    """Files of one series that are of one nature: a volume, or something to set aside."""

    patient: str
    exam: str
    uid: str
    number: str
    reason: str
    files: list[pathlib.Path] = dataclasses.field(default_factory=list)


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> list[Source]:
    """Find the series below a folder; of each file only the head of the header is read."""
    series: dict[tuple[str, ...], _Series] = {}
    for path, header, reason in _headers(root, files):
        patient, exam, uid, number = (header.get(tag, "") for tag in TAGS[3:])
        reason = reason or _aside(header, options)
        if not uid:
            reason = reason or "SeriesInstanceUID (0020,000E) is missing"
        key = (patient, exam, uid, reason)
        series.setdefault(key, _Series(*key[:3], number, reason)).files.append(path)
    index = _lesions.Index(root, files)
    names: dict[str, _Series] = {}
    for found in series.values():
        names[_unique(_name(found, root), found.uid, names)] = found
    crowd = _crowd(found for found in series.values() if not found.reason)
    return [_source(name, found, root, index, crowd, options) for name, found in names.items()]


def _crowd(series: Iterable[_Series]) -> collections.Counter[pathlib.Path]:
    """In how many of the series files lie in or below a folder, for every folder."""
    crowd: collections.Counter[pathlib.Path] = collections.Counter()
    for found in series:
        folders = {path.parent for path in found.files}
        crowd.update(folders.union(*(folder.parents for folder in folders)))
    return crowd


def read(source: Source) -> Volume:
    """Read one series.

    Raises
    ------
    Unusable
        If a header or pixels are damaged or lack what is needed, or the slices do not fill a grid;
        file and tag are named.
    """
    slices = [piece for path in source.paths("image") for piece in _slices.read_header(path)]
    stack = _slices.stack(slices)
    shape = _grids.check_shape(stack.shape)
    spacing = _grids.check_affine(stack.affine)
    hu = np.empty(shape, np.int16)
    ends: list[tuple[float, float]] = []
    spare = np.empty(shape[1:], np.int16)
    repeated, padded = 0, False
    pixels = _Pixels()
    for number, place in enumerate(stack.places):
        for repeat, piece in enumerate(place):
            out = spare if repeat else hu[number]
            low, high, padding = pixels.hounsfield(piece, out)
            padded |= padding
            ends.append((low, high))
            if repeat and not np.array_equal(out, hu[number]):
                raise Unusable(
                    f"{place[0].path.name} and {piece.path.name} lie at one place and differ: "
                    "several phases or reconstructions in one series"
                )
            repeated += repeat > 0
    notes = source.notes
    if repeated:
        notes += (f"{repeated} slices that repeat another were dropped",)
    if padded:
        notes += (f"padding (PixelPaddingValue) set to {_grids.AIR} HU",)
    notes += _grids.check_levels(min(low for low, _ in ends), max(high for _, high in ends))
    return Volume(hu, spacing, stack.affine, facts=stack.places[0][0].facts, notes=notes)


class _Pixels:
    """Pixels of slices in HU; of a file with many frames the data set is kept open."""

    def __init__(self) -> None:
        self._path: pathlib.Path | None = None
        self._data = pydicom.Dataset()

    def hounsfield(self, piece: Slice, out: np.ndarray) -> tuple[float, float, bool]:
        """Write HU to ``out``, int16 (Y, X); least and greatest value, and whether some is padding.

        The ends are those of the voxels that are no padding.
        """
        try:
            with _slices.quiet():
                if self._path != piece.path:
                    self._data = pydicom.dcmread(piece.path, force=True)
                    self._path = piece.path
                    _dicom_pixels.check(self._data)
                stored, padding = _dicom_pixels.stored_values(self._data, piece.frame)
        except Unusable as error:
            raise Unusable(f"{piece.path.name}: {error}") from error
        except Exception as error:  # damaged pixels raise many kinds
            raise Unusable(f"{piece.path.name}: the pixels are damaged or cut off") from error
        if stored.shape != out.shape:
            raise Unusable(f"{piece.path.name}: the pixels are not those of one grey image")
        if padding is None:
            return *_grids.to_hounsfield(stored, piece.slope, piece.intercept, out), False
        image = ~padding
        if image.any():
            stored[padding] = stored[image].min()
        low, high = _grids.to_hounsfield(stored, piece.slope, piece.intercept, out)
        out[padding] = _grids.AIR
        return low, high, True


def _headers(
    root: pathlib.Path, files: list[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, dict[str, str], str]]:
    """Of each DICOM file some tags as text, and why it is set aside ("" if it is not)."""
    with tqdm(total=len(files), unit="file", disable=not sys.stderr.isatty(), leave=False) as bar:
        for count, path in enumerate(files, 1):
            bar.update()
            if bar.disable and count % 500 == 0:
                logging.log_every_n_seconds(
                    logging.INFO, "%d of %d files looked at.", 30, count, len(files)
                )
            if path.is_symlink() and not _volumes.inside(path, root):
                if path.suffix.lower() in SUFFIXES_WITHOUT_PREAMBLE:
                    yield path, {}, "it is a link that leads out of the input folder"
                continue
            try:
                if not is_dicom(path):
                    continue
                header = _head(path)
            except Exception:  # damaged files raise many kinds
                yield path, {}, "the DICOM header is damaged"
                continue
            if header["SOPClassUID"] != DIRECTORY and path.name != "DICOMDIR":
                yield path, header, ""


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file is DICOM, by its suffix or its first bytes."""
    if not path.is_file():  # a pipe would be waited for
        return False
    if path.suffix.lower() in SUFFIXES_WITHOUT_PREAMBLE:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _head(path: pathlib.Path) -> dict[str, str]:
    """Keyword of ``TAGS`` -> its value as text; several values are parted by a backslash."""
    with _deflated.open_head(path) as file, _slices.quiet():
        data = pydicom.filereader.read_partial(
            file,
            stop_when=lambda tag, vr, length: tag > LAST_TAG,
            specific_tags=[pydicom.tag.Tag(name) for name in TAGS],
            force=True,
        )
        values = {name: data.get(name) for name in TAGS}
    return {
        name: "\\".join(map(str, value))
        if isinstance(value, pydicom.multival.MultiValue)
        else str("" if value is None else value).strip()
        for name, value in values.items()
    }


def _aside(header: dict[str, str], options: Options) -> str:
    """Why a file is no slice of a CT volume, "" if it is one; quotes no free text."""
    modality = header["Modality"].upper()
    if modality != "CT":
        said = modality if modality in MODALITIES else "another or none"
        return f"not a CT: Modality (0008,0060) is {said}"
    words = header["ImageType"].upper().split("\\")
    if any(word.startswith(LOCALISERS) for word in words):
        return "a localiser, by its ImageType (0008,0008)"
    if header["SOPClassUID"] not in CT_CLASSES:
        return "no CT image but made of one, by its SOPClassUID (0008,0016)"
    for place, word in enumerate(("DERIVED", "SECONDARY")):
        if words[place : place + 1] == [word] and not options.derived:
            return f"its ImageType (0008,0008) says {word}; data_prep.pe reads such with --derived"
    return ""


def _name(found: _Series, root: pathlib.Path) -> str:
    folder = _folder(found)
    place = folder.relative_to(root).as_posix() if folder != root else root.name
    if not found.uid:
        alone = found.files[0].relative_to(root).as_posix()
        return alone if len(found.files) == 1 else f"{len(found.files)} files in {place}"
    return f"{place} series {found.number}" if found.number else f"{place} series"


def _folder(found: _Series) -> pathlib.Path:
    return pathlib.Path(os.path.commonpath([path.parent for path in found.files]))


def _unique(name: str, uid: str, taken: dict[str, _Series]) -> str:
    if name in taken:
        name = f"{name} ({uid})"
    copies, plain = 1, name
    while name in taken:
        copies += 1
        name = f"{plain} {copies}"
    return name


def _source(
    name: str,
    found: _Series,
    root: pathlib.Path,
    index: _lesions.Index,
    crowd: Mapping[pathlib.Path, int],
    options: Options,
) -> Source:
    folder = _folder(found)
    parts: list[tuple[str, pathlib.Path]] = []
    problem, notes = found.reason, ()
    if not found.reason:
        around = folder.parent
        alone = crowd[around] == 1 and not index.images[around]
        inner = folder if crowd[folder] == 1 else None
        parts, problem = index.references(folder.name, around, alone, inner)
        if inner is None and not parts and index.ownerless(folder):
            problem = (
                "several series lie in its folder, and its label volume does not say whose it is"
            )
        if not found.patient and not found.exam:
            problem = problem or "neither PatientID (0010,0020) nor StudyInstanceUID is given"
        elif not found.patient:
            notes = ("no PatientID (0010,0020): the exam counts as the subject",)
    return Source(
        name,
        (*found.files, *(path for _, path in parts)),
        ("image",) * len(found.files) + tuple(part for part, _ in parts),
        __name__.rpartition(".")[2],
        root,
        found.patient or found.exam,
        facts={"stem": folder.name, "lesions": options.lesions},
        problem=problem,
        notes=notes,
        aside=bool(found.reason),
    )
