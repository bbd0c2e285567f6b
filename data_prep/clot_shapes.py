"""Shapes of real emboli, and where in an artery they could lie.

A shape is one connected part of an embolus mask. It is turned so that its long axis follows the
artery, put somewhere in the lumen, and cut off at the artery's border.
"""

import dataclasses
import pathlib

import numpy as np
from scipy import ndimage

from data_prep.errors import UserError
from data_prep.readers import _grids, _volumes, of_kind
from data_prep.readers._images import Unusable

LEAST_MM3 = 20.0  # smaller parts are slips of the pen or a few voxels of a coarser CT
ELONGATED = 1.5  # least ratio of the two largest variances for which a shape has a long axis
DIRECTED = 1.3  # the same for the piece of artery round a place
TRIALS = 60  # places tried for a shape
GOOD = 0.9  # share of a shape inside the artery that ends the trials
FINEST = 0.5  # mm, about the distance of the samples that a voxel's share is measured with


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """One embolus of a set of masks.

    Attributes
    ----------
    source, component : int
        Number of its mask in the order of names, and of the part within it, both from 1.
    mask : numpy.ndarray
        bool (Z, Y, X), cut out, with one empty voxel on all sides.
    to_mm : numpy.ndarray
        float64 (3, 3): steps x, y, z of a voxel to patient mm.
    centre : numpy.ndarray
        float64 (3,): centre of mass as an index x, y, z of ``mask``.
    """

    source: int
    component: int
    mask: np.ndarray
    to_mm: np.ndarray
    centre: np.ndarray

    @property
    def volume_mm3(self) -> float:
        """Volume of the mask."""
        return float(self.mask.sum() * abs(np.linalg.det(self.to_mm)))

    def points(self) -> np.ndarray:
        """Voxel centres in mm about the centre of mass: float64 (n, 3) x, y, z."""
        return (np.argwhere(self.mask)[:, ::-1] - self.centre) @ self.to_mm.T


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where a shape lies.

    Attributes
    ----------
    centre : numpy.ndarray
        float64 (3,): patient mm x, y, z of the shape's centre of mass.
    turn : numpy.ndarray
        float64 (3, 3): rotation from the shape's mm to the patient's.
    along : bool
        Whether its long axis follows the artery; else it is turned at random.
    share : float
        Part of the shape inside the artery.
    """

    centre: np.ndarray
    turn: np.ndarray
    along: bool
    share: float


def read_shapes(folder: pathlib.Path) -> tuple[list[Shape], list[Shape]]:
    """All connected parts (26 neighbours) of the masks in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Holds mask volumes of any format that the CT readers read. Parts of different values are
        different emboli.

    Returns
    -------
    kept, dropped : list of Shape
        Those of ``LEAST_MM3`` or more, and the smaller ones.

    Raises
    ------
    UserError
        If the folder is absent, a mask cannot be read, or none holds a part large enough.
    """
    if not folder.is_dir():
        raise UserError(f"--emboli={folder} is not a folder of embolus masks.")
    root = folder.resolve()
    suffixes = {suffix for reader in of_kind("ct").values() for suffix in _suffixes(reader)}
    paths = [path for path in _volumes.files(root) if _volumes.volume_suffix(path) in suffixes]
    kept, dropped = [], []
    for number, path in enumerate(paths, 1):
        try:
            grid = _volumes.open_grid(path, root)
            _grids.check_affine(grid.affine)
            labels = _grids.labels(grid)
        except Unusable as error:
            raise UserError(f"{path}: no embolus mask: {error}.") from error
        for shape in _parts(labels, grid.affine[:3, :3], number):
            (kept if shape.volume_mm3 >= LEAST_MM3 else dropped).append(shape)
    if not kept:
        raise UserError(
            f"--emboli={folder}: none of its {len(paths)} volumes holds an embolus of "
            f"{LEAST_MM3:g} mm3 or more: give a folder of NIfTI, NRRD or MetaImage masks."
        )
    return kept, dropped


def _suffixes(reader) -> tuple[str, ...]:
    return getattr(reader, "SUFFIXES", ())


def _parts(labels: np.ndarray, to_mm: np.ndarray, source: int) -> list[Shape]:
    found: list[Shape] = []
    for value, outer in enumerate(ndimage.find_objects(labels), 1):
        if outer is None:
            continue
        parts, _ = ndimage.label(labels[outer] == value, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            mask = np.pad(parts[box] == number, 1)
            centre = np.argwhere(mask).mean(axis=0)[::-1]
            found.append(Shape(source, len(found) + 1, mask, to_mm, centre))
    return found


def find_place(
    shape: Shape,
    lumen: np.ndarray,
    free: np.ndarray,
    affine: np.ndarray,
    rng: np.random.Generator,
) -> Place | None:
    """Draw a place that cuts little off a shape: of ``TRIALS`` the first good one, or the best.

    Parameters
    ----------
    shape : Shape
    lumen : numpy.ndarray
        float (Z, Y, X): distance in mm to the border of the artery, 0 outside.
    free : numpy.ndarray
        bool (Z, Y, X): artery where no other embolus is near.
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient mm.
    rng : numpy.random.Generator

    Returns
    -------
    Place or None
        None if all of the artery is taken.
    """
    points = shape.points()
    if len(points) > 2000:
        points = points[rng.choice(len(points), 2000, replace=False)]
    variances, axes = np.linalg.eigh(np.cov(points.T) + 1e-6 * np.eye(3))
    elongated = variances[2] >= ELONGATED * variances[1]
    # The radius of a round bar of these variances across; wide shapes belong in wide arteries.
    radius = float(np.sqrt(2 * (variances[0] + variances[1])))
    wide = free & (lumen >= min(0.7 * radius, 0.7 * float(lumen.max(where=free, initial=0))))
    centres = np.argwhere(wide)
    if not len(centres):
        return None
    inverse = np.linalg.inv(affine)
    best = None
    for _ in range(TRIALS):
        voxel = centres[rng.integers(len(centres))]
        centre = affine[:3, :3] @ voxel[::-1] + affine[:3, 3]
        axis = artery_axis(lumen > 0, voxel, affine, max(6.0, 2 * float(lumen[tuple(voxel)])))
        along = bool(elongated and axis is not None)
        turn = _turn(axes[:, ::-1], axis if along else None, rng)
        voxels = (points @ turn.T + centre) @ inverse[:3, :3].T + inverse[:3, 3]
        index = np.rint(voxels[:, ::-1]).astype(int)
        within = ((index >= 0) & (index < free.shape)).all(axis=1)
        share = float(free[tuple(index[within].T)].sum() / len(index))
        if best is None or share > best.share:
            best = Place(centre, turn, along, share)
        if share >= GOOD:
            break
    return best


def artery_axis(
    artery: np.ndarray, voxel: np.ndarray, affine: np.ndarray, reach: float
) -> np.ndarray | None:
    """Direction of an artery at a voxel: float64 (3,) in patient mm, None where it has none.

    It is the first principal axis of the artery's voxels within ``reach`` mm.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    size = np.ceil(reach / steps).astype(int)
    first = np.maximum(voxel - size, 0)
    box = tuple(map(slice, first, voxel + size + 1))
    places = (np.argwhere(artery[box]) + first - voxel)[:, ::-1] @ affine[:3, :3].T
    places = places[(places**2).sum(axis=1) <= reach**2]
    if len(places) < 8:
        return None
    variances, axes = np.linalg.eigh(np.cov(places.T))
    return axes[:, 2] if variances[2] >= DIRECTED * variances[1] else None


def _turn(axes: np.ndarray, onto: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Rotation that takes the first of three axes (columns) onto a direction, or at random."""
    if onto is None:
        onto = rng.normal(size=3)
    first = onto / np.linalg.norm(onto) * rng.choice([-1, 1])
    second = np.cross(first, rng.normal(size=3))
    second /= np.linalg.norm(second)
    target = np.column_stack([first, second, np.cross(first, second)])
    own = np.column_stack([axes[:, 0], axes[:, 1], np.cross(axes[:, 0], axes[:, 1])])
    return target @ own.T


def occupancy(
    shape: Shape, place: Place, size: tuple[int, ...], affine: np.ndarray
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Share of each voxel of a grid that a placed shape fills, measured at many points of it.

    Parameters
    ----------
    shape : Shape
    place : Place
    size : tuple of int
        Z, Y, X of the grid.
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient mm.

    Returns
    -------
    box : tuple of slice
        The part of the grid that can be filled; may be empty.
    share : numpy.ndarray
        float32, the shape of the box: 0 to 1.
    """
    inverse = np.linalg.inv(affine)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    corners = shape.points() @ place.turn.T + place.centre
    corners = corners @ inverse[:3, :3].T + inverse[:3, 3]
    low = np.clip(np.floor(corners.min(axis=0) - 1).astype(int), 0, size[::-1])
    high = np.clip(np.ceil(corners.max(axis=0) + 2).astype(int), low, size[::-1])
    counts = np.maximum(1, np.rint(steps / FINEST).astype(int))
    lines = [
        np.arange(a, b)[:, None] - 0.5 + (np.arange(n) + 0.5) / n
        for a, b, n in zip(low, high, counts, strict=True)
    ]
    # From the grid's index to that of the shape's mask, one axis after the other.
    matrix = np.linalg.inv(shape.to_mm) @ place.turn.T @ affine[:3, :3]
    offset = np.linalg.inv(shape.to_mm) @ place.turn.T @ (affine[:3, 3] - place.centre)
    offset = offset + shape.centre
    x, y, z = (line.ravel() for line in lines)
    found = []
    for row, limit, start in zip(matrix, shape.mask.shape[::-1], offset, strict=True):
        index = row[2] * z[:, None, None] + row[1] * y[:, None] + row[0] * x + start
        found.append(np.clip(np.rint(index).astype(np.int32), 0, limit - 1))
    inside = shape.mask[found[2], found[1], found[0]]
    depth, height, width = (high - low)[::-1]
    parts = inside.reshape(depth, counts[2], height, counts[1], width, counts[0])
    box = tuple(map(slice, low[::-1], high[::-1]))
    return box, parts.mean(axis=(1, 3, 5), dtype=np.float32)
