"""How many millimetres a pixel spans, down and along, where something is measured in an image.

An ultrasound screen shows several things side by side: two B-mode images at different depths, a
spectrum, a colour bar. DICOM calibrates each region of it apart (PS3.3, C.8.5.5), so the size of a
pixel is that of the region which holds what is measured, never that of another one.
"""

import dataclasses
import math

import numpy as np
import pydicom

from data_prep.readers._images import Unusable

CENTIMETRES = 3  # code of PhysicalUnitsXDirection and PhysicalUnitsYDirection
TISSUE_2D = 1  # code of RegionSpatialFormat: not a trace, a spectrum or a graphic
LOW_PRIORITY = 1  # bit of RegionFlags: where regions overlap, the pixels are another one's
SQUARE = 0.01  # relative difference of height and width up to which a pixel counts as square
GIVE = "give --mm_per_pixel"

Spacing = tuple[float, float]  # down, along


@dataclasses.dataclass(frozen=True)
class Area:
    """A part of the screen: first and last column and row, and its size of a pixel if it has one.

    ``is_low``: where it overlaps with another area, the pixels belong to that one.
    """

    left: int
    top: int
    right: int
    bottom: int
    spacing: Spacing | None
    is_low: bool = False

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Of each of the points (n, 2), x and y, whether its pixel belongs to the area."""
        low = np.array([self.left, self.top]) - 0.5
        high = np.array([self.right, self.bottom]) + 0.5
        return ((points >= low) & (points <= high)).all(axis=1)

    @property
    def rank(self) -> tuple[bool, int]:
        """The lower, the surer are pixels of several areas those of this one."""
        size = (self.right - self.left + 1) * (self.bottom - self.top + 1)
        return self.is_low, size


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Sizes of the pixels of one image.

    Attributes
    ----------
    everywhere : (float, float) or None
        Of the whole image, where there are no areas: height and width of a pixel in mm.
    areas : tuple of Area
        Empty where none is calibrated in units of length.
    shape : float
        Width of a pixel in heights, where only that is known.
    """

    everywhere: Spacing | None = None
    areas: tuple[Area, ...] = ()
    shape: float = 1.0

    @property
    def calibrated(self) -> tuple[Area, ...]:
        """Areas in which lengths can be measured."""
        return tuple(area for area in self.areas if area.spacing)

    def at(self, points: np.ndarray) -> Spacing:
        """Height and width of a pixel in mm where the points (n, 2), x and y, lie.

        Raises
        ------
        Unusable
            If nothing says it, or the points lie in none of the calibrated areas or in several.
        """
        points = np.asarray(points, np.float64)
        if not self.areas:
            if self.everywhere is None:
                raise Unusable("no calibration: it does not say how large a pixel is")
            return self.everywhere
        owners = [area for area in self.areas if area.holds(points).all()]
        if owners:
            best = min(area.rank for area in owners)
            found = {area.spacing for area in owners if area.rank == best}
            if len(found) > 1:
                raise Unusable(
                    "no calibration: two regions of the same place contradict each other"
                )
            spacing = found.pop()
            if spacing is None:
                raise Unusable("no calibration: what is measured lies in a region without lengths")
            return spacing
        if any(area.holds(points).any() for area in self.calibrated):
            raise Unusable("no calibration: what is measured reaches beyond one calibrated region")
        raise Unusable("no calibration: what is measured lies outside the calibrated regions")


def of_dicom(data: pydicom.Dataset) -> Calibration:
    """Calibration of an image: its ultrasound regions, else PixelSpacing.

    A negative distance of pixels tells a direction and counts by its size.

    Raises
    ------
    Unusable
        If PixelSpacing is no size.
    """
    areas = tuple(filter(None, map(_area, data.get("SequenceOfUltrasoundRegions") or ())))
    if any(area.spacing for area in areas):
        return Calibration(areas=areas)
    spacing = data.get("PixelSpacing")
    if spacing is None:
        high, wide = map(float, data.get("PixelAspectRatio") or (1, 1))
        return Calibration(shape=wide / high if high else 1.0)
    down, along = (float(value) for value in spacing)
    if not (_is_size(down) and _is_size(along)):
        raise Unusable(f"no calibration: its PixelSpacing of {down:g} and {along:g} is no size")
    return Calibration((down, along))


def _area(region: pydicom.Dataset) -> Area | None:
    place = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if None in place or place[0] > place[2] or place[1] > place[3]:
        return None
    axes = "YX"
    units = [region.get(f"PhysicalUnits{axis}Direction") for axis in axes]
    deltas = [abs(float(region.get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in axes]
    is_tissue = region.get("RegionSpatialFormat", TISSUE_2D) == TISSUE_2D
    lengths = units == [CENTIMETRES] * 2 and all(map(_is_size, deltas))
    spacing = tuple(deltas) if is_tissue and lengths else None
    return Area(*map(int, place), spacing, bool((region.get("RegionFlags") or 0) & LOW_PRIORITY))


def _is_size(value: float) -> bool:
    return math.isfinite(value) and value > 0


def given(calibration: Calibration, sizes: tuple[float, ...]) -> Calibration:
    """The calibration that a user gives: height of a pixel, and width if it is another.

    Raises
    ------
    Unusable
        If only one size is given for an image whose pixels are not square.
    """
    own = [area.spacing for area in calibration.calibrated]
    own += [calibration.everywhere or (1, calibration.shape)]
    if len(sizes) == 1 and any(abs(along / down - 1) > SQUARE for down, along in own):
        raise Unusable(f"its pixels are not square: {GIVE}=HEIGHT,WIDTH in mm")
    return Calibration((sizes[0], sizes[-1]))
