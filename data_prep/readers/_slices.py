"""Slices of a CT series by their DICOM headers: where each lies, and whether they fill a grid.

Geometry is that of the Image Plane module (DICOM PS3.3, C.7.6.2), for enhanced multi-frame images
that of their functional groups (C.7.6.16). Instance numbers, slice locations and file names say
nothing about order and are not looked at.
"""

import contextlib
import dataclasses
import logging
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom

from data_prep.readers import _deflated, _dicom_pixels
from data_prep.readers._images import Unusable

# Keyword -> what messages call it.
TAGS = {
    "ImagePositionPatient": "ImagePositionPatient (0020,0032)",
    "ImageOrientationPatient": "ImageOrientationPatient (0020,0037)",
    "PixelSpacing": "PixelSpacing (0028,0030)",
    "RescaleSlope": "RescaleSlope (0028,1053)",
    "RescaleIntercept": "RescaleIntercept (0028,1052)",
    "Rows": "Rows (0028,0010)",
    "Columns": "Columns (0028,0011)",
}
OTHER_TAGS = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "RescaleType",
    "ModalityLUTSequence",
    "SliceThickness",
    "KVP",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
)
# Functional group -> what it holds of the tags above.
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
UNITS = ("HU", "US", "")  # of RescaleType: Hounsfield units, or not said

SAME_MM = 0.01  # slices closer than this lie at one place
SAME_DIRECTION = 1e-3
UNEVEN = 0.2  # of the spacing: a distance that is off by more is not rounding
DRIFT = 0.1  # of the spacing: how far a slice may be from its place on the even grid


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """One slice as its header gives it.

    Attributes
    ----------
    path : pathlib.Path
    frame : int
        Frame of the file, from 0.
    position : numpy.ndarray
        float64 (3,): centre of the first pixel, patient LPS mm.
    orientation : numpy.ndarray
        float64 (2, 3): unit vectors along a row and down a column.
    pixel : tuple of float
        Distance of rows and of columns in mm.
    shape : tuple of int
        Rows, columns.
    slope, intercept : float
    facts : dict
        See :class:`data_prep.readers._volumes.Volume`.
    """

    path: pathlib.Path
    frame: int
    position: np.ndarray
    orientation: np.ndarray
    pixel: tuple[float, float]
    shape: tuple[int, int]
    slope: float
    intercept: float
    facts: dict[str, float | bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Slices in order along their normal.

    Attributes
    ----------
    places : list of list of Slice
        For each place its slices: more than one if the series repeats it.
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient LPS mm.
    """

    places: list[list[Slice]]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return len(self.places), *self.places[0][0].shape


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let pydicom read values that do not keep to their type without a word: they are tested.

    Nor does it log what a decoder raises, a screen long: it becomes one line.
    """
    logger = logging.getLogger("pydicom")
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        propagate, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = propagate


def read_header(path: pathlib.Path) -> list[Slice]:
    """The slices of one file, without their pixels.

    Raises
    ------
    Unusable
        If the file is damaged, or a tag is missing or makes no sense; both are named.
    """
    try:
        _deflated.require_room(path)
        with quiet():
            tags = [*TAGS, *OTHER_TAGS]
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
            if "ModalityLUTSequence" in header:
                raise Unusable("its levels go through a table, ModalityLUTSequence (0028,3000)")
            count = _dicom_pixels.frame_count(header)
            per_frame = header.get("PerFrameFunctionalGroupsSequence")
            if per_frame is None:
                if count != 1:
                    raise Unusable("it has several frames and does not say where each lies")
                return [_slice(path, 0, header, header)]
            shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
            return [
                _slice(path, number, _of_frame(frame, shared[0]), header)
                for number, frame in enumerate(per_frame)
            ]
    except Unusable as error:
        raise Unusable(f"{path.name}: {error}") from error
    except Exception as error:  # damaged files raise many kinds
        raise Unusable(f"{path.name}: the DICOM header is damaged") from error


def stack(slices: list[Slice]) -> Stack:
    """Put slices in order and test that they fill a rectangular grid.

    Raises
    ------
    Unusable
        If they differ in size, pixel spacing or direction, lie askew (gantry tilt) or sideways, or
        their distances are uneven because some are missing or several stacks are mixed.
    """
    first = slices[0]
    for other in slices[1:]:
        _check_alike(first, other)
    along, down = first.orientation
    normal = np.cross(along, down)
    heights = np.array([piece.position for piece in slices]) @ normal
    order = np.argsort(heights, kind="stable")
    places: list[list[Slice]] = []
    levels: list[float] = []
    for index in order:
        if levels and heights[index] - levels[-1] <= SAME_MM:
            places[-1].append(slices[index])
        else:
            places.append([slices[index]])
            levels.append(float(heights[index]))
    if len(places) < 2:
        raise Unusable(
            "it is a single slice, not a volume"
            if len(slices) == 1
            else f"its {len(slices)} slices lie at one place: a series over time, not a volume"
        )
    pieces = [place[0] for place in places]
    step = _even_step(np.array(levels), pieces, normal)
    _check_sideways(pieces, normal, first)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along * first.pixel[1], down * first.pixel[0]
    affine[:3, 2], affine[:3, 3] = normal * step, pieces[0].position
    return Stack(places, affine)


def _of_frame(frame: pydicom.Dataset, shared: pydicom.Dataset) -> pydicom.Dataset:
    """What the functional groups say of one frame, as a plain image would."""
    found = pydicom.Dataset()
    for group, keywords in GROUPS.items():
        items = frame.get(group) or shared.get(group)
        for keyword in keywords if items else ():
            if keyword in items[0]:
                found[keyword] = items[0][keyword]
    return found


def _slice(
    path: pathlib.Path, frame: int, plane: pydicom.Dataset, header: pydicom.Dataset
) -> Slice:
    position = _numbers(plane, "ImagePositionPatient", 3)
    orientation = _numbers(plane, "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(orientation @ orientation.T, np.eye(2), atol=SAME_DIRECTION):
        raise Unusable(f"{TAGS['ImageOrientationPatient']} holds no directions at right angles")
    pixel = _numbers(plane, "PixelSpacing", 2)
    if not (pixel > 0).all():
        raise Unusable(f"{TAGS['PixelSpacing']} is not positive")
    slope = _numbers(plane, "RescaleSlope", 1).item()
    intercept = _numbers(plane, "RescaleIntercept", 1).item()
    if slope <= 0:
        raise Unusable(f"{TAGS['RescaleSlope']} is not positive")
    if str(plane.get("RescaleType") or "").strip().upper() not in UNITS:
        raise Unusable("RescaleType (0028,1054) is another unit than HU")
    facts: dict[str, float | bool] = {}
    for name, value in (
        ("slice_thickness_mm", plane.get("SliceThickness")),
        ("kvp", header.get("KVP")),
    ):
        if value not in (None, ""):
            facts[name] = float(value)
    if "ContrastBolusAgent" in header or "ContrastBolusAgentSequence" in header:
        agent = header.get("ContrastBolusAgent") or header.get("ContrastBolusAgentSequence")
        facts["contrast"] = bool(agent)
    rows, columns = (_numbers(header, keyword, 1).item() for keyword in ("Rows", "Columns"))
    orientation /= np.linalg.norm(orientation, axis=1, keepdims=True)
    pair = float(pixel[0]), float(pixel[1])
    shape = int(rows), int(columns)
    return Slice(path, frame, position, orientation, pair, shape, slope, intercept, facts)


def _numbers(data: pydicom.Dataset, keyword: str, count: int) -> np.ndarray:
    value = data.get(keyword)
    if value is None or value == "":
        raise Unusable(f"{TAGS[keyword]} is missing")
    found = np.atleast_1d(np.array(value, np.float64))
    if found.shape != (count,) or not np.isfinite(found).all():
        raise Unusable(f"{TAGS[keyword]} does not hold {count} finite numbers")
    return found


def _check_alike(one: Slice, other: Slice) -> None:
    for keyword, here, there, tolerance in (
        ("Rows", one.shape[0], other.shape[0], 0),
        ("Columns", one.shape[1], other.shape[1], 0),
        ("PixelSpacing", one.pixel, other.pixel, 1e-4 * min(one.pixel)),
        ("ImageOrientationPatient", one.orientation, other.orientation, SAME_DIRECTION),
    ):
        if np.abs(np.subtract(here, there)).max() > tolerance:
            raise Unusable(
                f"{TAGS[keyword]} is not the same in {_name(one)} and {_name(other)}: "
                "several stacks in one series"
            )


def _even_step(levels: np.ndarray, pieces: list[Slice], normal: np.ndarray) -> float:
    """Distance of neighbouring slices in mm, if it is the same everywhere."""
    distances = np.diff(levels)
    usual = float(np.median(distances))
    uneven = np.abs(distances - usual) > UNEVEN * usual
    if uneven.any():
        multiples = distances / usual
        wide = uneven & (multiples > 1.5) & (np.abs(multiples - np.rint(multiples)) < UNEVEN)
        if np.array_equal(wide, uneven) and wide.mean() <= 0.2:
            raise Unusable(_gaps(np.flatnonzero(wide), distances, usual, pieces, normal))
        at = int(np.flatnonzero(uneven)[0])
        raise Unusable(
            f"the distance of its slices is not even: {distances[at]:g} mm from "
            f"{_name(pieces[at])} to {_name(pieces[at + 1])} {_where(pieces, at, normal)}, "
            f"elsewhere {usual:g} mm (from {distances.min():g} to {distances.max():g} mm)"
        )
    step = float(levels[-1] - levels[0]) / (len(levels) - 1)
    drift = np.abs(levels - levels[0] - step * np.arange(len(levels)))
    if drift.max() > DRIFT * step + SAME_MM:
        at = int(drift.argmax())
        raise Unusable(
            f"the distance of its slices is not even: {_name(pieces[at])} is {drift[at]:.2f} mm "
            f"off its place {_where(pieces, at, normal)}"
        )
    return step


def _gaps(
    gaps: np.ndarray,
    distances: np.ndarray,
    usual: float,
    pieces: list[Slice],
    normal: np.ndarray,
) -> str:
    missing = int(np.rint(distances[gaps] / usual).sum()) - len(gaps)
    said = "; ".join(
        f"{distances[at]:g} mm {_where(pieces, at, normal)}, "
        f"between {_name(pieces[at])} and {_name(pieces[at + 1])}"
        for at in gaps[:3]
    )
    more = f"; {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
    plural = "slices are" if missing > 1 else "slice is"
    return f"{missing} {plural} missing (distance otherwise {usual:g} mm): a gap of {said}{more}"


def _where(pieces: list[Slice], at: int, normal: np.ndarray) -> str:
    """The span from a slice to the next along the axis that the normal follows most."""
    axis = int(np.abs(normal).argmax())
    ends = [float(piece.position[axis]) for piece in pieces[at : at + 2]]
    return f"at {'xyz'[axis]} = " + " to ".join(f"{end:g}" for end in ends) + " mm"


def _check_sideways(pieces: list[Slice], normal: np.ndarray, first: Slice) -> None:
    """Refuse stacks whose slices do not lie straight above one another."""
    positions = np.array([piece.position for piece in pieces])
    positions -= positions[0]
    heights = positions @ normal
    sideways = positions - heights[:, None] * normal
    if np.linalg.norm(sideways, axis=1).max() <= 0.5 * min(first.pixel):
        return
    lean = heights @ sideways / (heights @ heights)  # least squares, per mm of height
    rest = np.linalg.norm(sideways - heights[:, None] * lean, axis=1).max()
    if rest <= 0.5 * min(first.pixel):
        angle = float(np.degrees(np.arctan(np.linalg.norm(lean))))
        raise Unusable(
            f"its slices are stacked {angle:.1f} degrees askew (gantry tilt): resample it first, "
            "for instance with dcm2niix"
        )
    at = int(np.linalg.norm(sideways, axis=1).argmax())
    raise Unusable(
        f"its slices do not lie above one another: {_name(pieces[at])} is displaced sideways by "
        f"{np.linalg.norm(sideways[at]):.1f} mm (several fields of view in one series?)"
    )


def _name(piece: Slice) -> str:
    return f"{piece.path.name} frame {piece.frame}" if piece.frame else piece.path.name
