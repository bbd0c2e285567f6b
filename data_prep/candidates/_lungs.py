"""Lungs, and the space between them, found from the Hounsfield values alone.

Everything here is coarse, on a grid of about 2 mm: it says where to look for vessels, and its
borders need not be better than that.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage import morphology

AIR = -400  # HU: what is below is lung, airway, bowel gas, or outside the patient
GAS = -950  # HU: mean of a region of nothing but gas lies below, that of a lung above
LEAST_LUNG = 20_000.0  # mm^3
SMALLER_LUNG = 0.1  # of the larger one's volume; less is a bubble


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """A coarse grid over a volume: every ``step``-th voxel along each axis.

    Attributes
    ----------
    shape : (int, int, int)
        Of the whole volume.
    step : (int, int, int)
    spacing : numpy.ndarray
        float64 (3,): mm between its points.
    """

    shape: tuple[int, ...]
    step: tuple[int, ...]
    spacing: np.ndarray

    @classmethod
    def over(cls, shape: tuple[int, ...], spacing: np.ndarray, side: float = 2.0) -> "Grid":
        """The grid of steps nearest to ``side`` mm."""
        step = tuple(max(1, round(side / size)) for size in spacing)
        return cls(tuple(shape), step, np.asarray(spacing, np.float64) * step)

    def take(self, volume: np.ndarray) -> np.ndarray:
        """The volume's voxels on the grid, a view."""
        return volume[tuple(slice(None, None, step) for step in self.step)]

    def spread(self, coarse: np.ndarray, box: tuple[slice, ...] | None = None) -> np.ndarray:
        """The nearest grid point's value at every voxel of the volume, or of a box in it."""
        box = tuple(slice(0, size) for size in self.shape) if box is None else box
        for axis, (part, step) in enumerate(zip(box, self.step, strict=True)):
            nearest = (np.arange(part.start, part.stop) + step // 2) // step
            nearest = np.minimum(nearest, coarse.shape[axis] - 1)
            coarse = coarse.take(nearest, axis=axis)
        return coarse


def find_lungs(hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The lungs with the vessels inside them.

    The two largest regions below -400 HU that are not gas alone (air round the patient, bowel
    gas), closed by 10 mm, holes filled. A region may touch the volume's edge, so that a cropped
    volume can be used.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X): Hounsfield units, slices across the body.
    spacing : numpy.ndarray
        float (3,): mm between voxels along z, y, x; about 2 mm is fine enough.

    Returns
    -------
    numpy.ndarray
        bool (Z, Y, X), nothing true if there is no lung.
    """
    regions, count = ndimage.label(hu < AIR)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    mean = np.bincount(regions.ravel(), hu.ravel(), minlength=count + 1) / np.maximum(sizes, 1)
    sizes[(mean < GAS) | (sizes * np.prod(spacing) < LEAST_LUNG)] = 0
    sizes[0] = 0
    kept = np.argsort(sizes)[::-1][:2]
    kept = kept[(sizes[kept] > 0) & (sizes[kept] >= SMALLER_LUNG * sizes[kept[:1]])]
    if not kept.size:
        return np.zeros(hu.shape, bool)
    lungs = close(np.isin(regions, kept), spacing, 10.0)
    return np.stack([ndimage.binary_fill_holes(each) for each in lungs])


def chest(lungs: np.ndarray) -> np.ndarray:
    """The lungs and what lies between them: the convex hull of the lungs, slice by slice."""
    found = np.zeros_like(lungs)
    for each, whole in zip(lungs, found, strict=True):
        if each.any():
            whole[:] = morphology.convex_hull_image(each, offset_coordinates=False)
    return found


def dilate(mask: np.ndarray, spacing: np.ndarray, radius: float) -> np.ndarray:
    """Grown by a ball of ``radius`` mm."""
    if not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius


def erode(mask: np.ndarray, spacing: np.ndarray, radius: float) -> np.ndarray:
    """Shrunk by a ball of ``radius`` mm; outside the volume everything counts as inside."""
    return mask & ~dilate(~mask, spacing, radius)


def close(mask: np.ndarray, spacing: np.ndarray, radius: float) -> np.ndarray:
    """Closed by a ball of ``radius`` mm."""
    wide = [(int(np.ceil(radius / size)) + 1,) * 2 for size in spacing]
    middle = tuple(slice(before, -after) for before, after in wide)
    return erode(dilate(np.pad(mask, wide), spacing, radius), spacing, radius)[middle]


def depth(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance to the border of a mask in mm, float32: positive inside, negative outside.

    All 0 where the mask is empty or everything.
    """
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    return (inside - outside).astype(np.float32)
