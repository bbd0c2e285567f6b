"""Candidate emboli in a contrast-enhanced CT: dark spots among bright vessels, by tobogganing.

Tajbakhsh et al. 2016, section IV-B, take their candidates from a toboggan algorithm (Liang and Bi,
IPMI 2007) that looks for dark regions in bright surroundings; the numbers are in
:class:`Settings`.

Where is looked. An artery mask, if one is given, is the region, closed so that clots which its
maker left out are in it again. Without one, the region is the lungs, with the vessels inside them,
and the large vessels between the lungs, since central emboli lie in the mediastinum: what is
bright there and lies for the greater part in the convex hull of the lungs, which ribs, sternum and
spine do not, and the largest bright region there, whatever it is connected with. Heart, veins and
aorta are in this region too; that costs false candidates, not emboli.

What counts as surrounded. A clot on a vessel's wall, or one that blocks a vessel, has little blood
in the shell of voxels next to it. Rays in 26 directions that meet blood within a centimetre, and
no air before it, tell such a clot from the tissue outside a vessel.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data_prep.candidates import _lungs, _toboggan
from data_prep.readers._images import Unusable

WATER = 0  # HU: blood, vessels and all other soft tissue lie above
BLOOD = 50.0  # HU: blood without contrast agent, and clots
LEAST_ENHANCEMENT = 120.0  # HU in the vessels of the lungs; without contrast agent it is BLOOD
_PART = 0.5  # of a bright region in the convex hull of the lungs: less is bone
_LEAST_VESSEL = 300.0  # mm^3, of a bright region between the lungs
_MARGIN = 6.0  # mm round bright regions between the lungs, where their clots may lie
_CELL = 1.5  # mm: voxels so close together share their rays


@dataclasses.dataclass(frozen=True)
class Settings:
    """How candidates are found.

    Attributes
    ----------
    vessel_hu : float
        In the lungs, contrast-filled blood lies above.
    blood_hu : (float, float)
        Between the lungs it lies above the mean of blood without and with contrast agent, kept
        within these limits.
    clot_hu : (float, float, float)
        Least HU of a clot, and limits of the greatest. That is ``clot_share`` of the way from
        blood without to blood with contrast agent, since a small clot is blurred with the blood
        round it.
    clot_share : float
    air_hu : float
        Voxels that touch one below are the blurred rim of a vessel in the lung.
    steepest : float
        HU per mm. Where the slope is greater, the voxel lies on the border of a vessel, which
        passes through the HU of clots whatever is in the vessel; clots would drain into it.
    smooth_mm : float
        Standard deviation of the Gaussian before sliding.
    reach_mm : float
        Clots are looked for so far from contrast-filled blood.
    ray_mm : float
        Length of the rays.
    enclosure : (float, float, float)
        Least share of the rays that meet blood: in the lungs, where a clot that blocks its vessel
        has air beside it, in a given artery, and between the lungs.
    enclosure_hu : float
        Voxels slide down to the dark and the enclosed: what full enclosure is worth in HU. Without
        it a clot on the wall drains into the tissue outside.
    floor_hu : float
        In the lungs darker than this is no darker: it is a clot blurred with air. Without it a clot
        that blocks a thin vessel drains into that vessel's rim.
    join_mm : float
        Minima so close to a lower one are the same candidate.
    lowest_hu : float
        Least HU at a candidate's location: below it lies fat.
    volume_mm3 : (float, float)
        Least and greatest volume of a candidate.
    most : int
        At most so many candidates in a volume, those of the greatest merit.
    """

    vessel_hu: float = 100.0
    blood_hu: tuple[float, float] = (150.0, 250.0)
    clot_hu: tuple[float, float, float] = (-50.0, 100.0, 200.0)
    clot_share: float = 0.3
    air_hu: float = -600.0
    steepest: float = 100.0
    smooth_mm: float = 0.5
    reach_mm: float = 2.0
    ray_mm: float = 10.0
    enclosure: tuple[float, float, float] = (0.25, 0.45, 0.75)
    enclosure_hu: float = 100.0
    floor_hu: float = 30.0
    join_mm: float = 3.0
    lowest_hu: float = -10.0
    volume_mm3: tuple[float, float] = (3.0, 2000.0)
    most: int = 1000


DEFAULTS = Settings()


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One candidate embolus.

    Attributes
    ----------
    voxel : (int, int, int)
        z, y, x of the minimum that its voxels slide to: its location.
    voxels : numpy.ndarray
        int32 (n, 3): z, y, x of all its voxels.
    volume_mm3 : float
    lowest_hu : float
        At the location, smoothed.
    enclosure : float
        Share of the rays from its voxels that meet contrast-filled blood, mean over its voxels.
    blood_hu : float
        Contrast-filled blood lies above.
    lung_depth_mm : float
        Distance of the location to the border of the lungs: positive inside them; 0 where the
        volume shows no lung.
    merit : float
        Enclosure above the least, as a share of what full enclosure would be, times the logarithm
        of the volume: where there is a limit, those with the most are kept.
    """

    voxel: tuple[int, int, int]
    voxels: np.ndarray
    volume_mm3: float
    lowest_hu: float
    enclosure: float
    blood_hu: float
    lung_depth_mm: float
    merit: float = 0.0


def find(
    hu: np.ndarray,
    spacing: np.ndarray,
    lung: np.ndarray | None = None,
    vessels: np.ndarray | None = None,
    settings: Settings = DEFAULTS,
) -> list[Candidate]:
    """Candidate emboli of a volume.

    Parameters
    ----------
    hu : numpy.ndarray
        int16 (Z, Y, X): Hounsfield units, slices across the body.
    spacing : numpy.ndarray
        float (3,): mm between voxels along z, y, x.
    lung : numpy.ndarray, optional
        bool (Z, Y, X): the lungs with the vessels inside them. Default: found.
    vessels : numpy.ndarray, optional
        bool (Z, Y, X): pulmonary arteries; candidates are looked for there only. Default: found.
    settings : Settings

    Returns
    -------
    list of Candidate
        In the order of their location's linear index.

    Raises
    ------
    Unusable
        If the volume shows neither lungs nor a given artery, or no contrast agent.
    """
    spacing = np.asarray(spacing, np.float64)
    for mask in (lung, vessels):
        if mask is not None and mask.shape != hu.shape:
            raise ValueError(f"A mask of {mask.shape} does not fit a volume of {hu.shape}.")
    grid = _lungs.Grid.over(hu.shape, spacing)
    coarse = grid.take(hu)
    lungs = _lungs.find_lungs(coarse, grid.spacing) if lung is None else grid.take(lung)
    level = enhancement(hu, spacing, lungs, grid, vessels)
    if not level >= LEAST_ENHANCEMENT:
        raise Unusable(
            f"the vessels show no contrast agent ({level:.0f} HU, need {LEAST_ENHANCEMENT:.0f}), "
            "and without it an embolus is as bright as blood: use a contrast-enhanced CT"
        )
    blood = float(np.clip((BLOOD + level) / 2, *settings.blood_hu))
    if vessels is None:
        inner, outer = lungs, _mediastinal_vessels(coarse, lungs, grid, blood)
    else:
        arteries = _lungs.close(_shrunk(vessels, grid), grid.spacing, 5.0)
        inner, outer = _lungs.dilate(arteries, grid.spacing, 2.0), np.zeros_like(arteries)
    region = inner | outer
    if not region.any():
        return []

    # From here on only the box that holds the region.
    box = _box(region, grid, hu.shape)
    smooth = ndimage.gaussian_filter(hu[box], settings.smooth_mm / spacing, output=np.float32)
    inner, outer = grid.spread(inner, box), grid.spread(outer, box)
    lower = settings.vessel_hu if vessels is None else blood
    filled = (inner & (smooth > lower)) | (outer & (smooth > blood))
    air = smooth < settings.air_hu
    clot = _clot_voxels(smooth, filled, air, inner | outer, level, spacing, settings)
    enclosed = _enclosure(clot, filled, air, spacing, settings.ray_mm)
    in_lungs, in_artery, between = settings.enclosure
    least = in_lungs if vessels is None else in_artery
    clot &= enclosed >= min(least, between)
    height = smooth - np.float32(settings.enclosure_hu) * enclosed
    if vessels is None:
        height += inner * np.maximum(np.float32(settings.floor_hu) - smooth, 0)
    label, minima, voxels = _clusters(height, clot, spacing, settings.join_mm)
    if not minima.size:
        return []

    # Everything below is one number a candidate.
    size = np.bincount(label)
    mean = np.bincount(label, enclosed.ravel()[voxels]) / size
    volume = size * np.prod(spacing)
    least = np.where(inner.ravel()[minima], least, between)
    lowest = smooth.ravel()[minima]
    kept = (mean >= least) & (lowest >= settings.lowest_hu)
    kept &= (volume >= settings.volume_mm3[0]) & (volume <= settings.volume_mm3[1])
    kept = np.flatnonzero(kept)
    # The share, since the least is a third as high in the lungs. A few voxels of noise can be
    # enclosed from all sides; clots are larger.
    merit = (mean - least) / (1 - least) * np.log(volume)
    kept = np.sort(kept[np.argsort(-merit[kept], kind="stable")][: settings.most])
    order = np.argsort(label, kind="stable")
    groups = np.split(voxels[order], np.cumsum(size)[:-1])
    corner = np.array([part.start for part in box])
    depth = _lungs.depth(lungs, grid.spacing)
    found = []
    for number in kept:
        place = np.array(np.unravel_index(minima[number], smooth.shape)) + corner
        nearest = (place + np.array(grid.step) // 2) // grid.step
        nearest = np.minimum(nearest, np.array(depth.shape) - 1)
        members = np.stack(np.unravel_index(groups[number], smooth.shape), axis=1) + corner
        found.append(
            Candidate(
                voxel=tuple(int(each) for each in place),
                voxels=members.astype(np.int32),
                volume_mm3=float(volume[number]),
                lowest_hu=float(lowest[number]),
                enclosure=float(mean[number]),
                blood_hu=lower if inner.ravel()[minima[number]] else blood,
                lung_depth_mm=float(depth[tuple(nearest)]),
                merit=float(merit[number]),
            )
        )
    return found


def enhancement(
    hu: np.ndarray,
    spacing: np.ndarray,
    lungs: np.ndarray,
    grid: _lungs.Grid,
    vessels: np.ndarray | None = None,
) -> float:
    """How bright the blood is in HU.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X).
    spacing : numpy.ndarray
        float (3,): mm, z, y, x.
    lungs : numpy.ndarray
        bool, on the grid.
    grid : Grid
        Over the volume.
    vessels : numpy.ndarray, optional
        bool (Z, Y, X).

    Returns
    -------
    float
        The 90th percentile of what is denser than water at least 5 mm inside the lungs, where
        there is no bone, or the 75th in the vessels, if they are given. Most vessels of the lungs
        are so thin that they are blurred with air.

    Raises
    ------
    Unusable
        If there are neither lungs nor vessels.
    """
    if vessels is not None:
        blood, share = hu[vessels], 75
    elif lungs.any():
        blood, share = grid.take(hu)[_lungs.erode(lungs, grid.spacing, 5.0)], 90
    else:
        raise Unusable("no lung is found in the volume: use a CT of the chest")
    blood = blood[blood > WATER]
    return float(np.percentile(blood, share)) if blood.size else BLOOD


def _mediastinal_vessels(
    coarse: np.ndarray, lungs: np.ndarray, grid: _lungs.Grid, blood: float
) -> np.ndarray:
    """Bright regions between the lungs that are not bone, with a margin; bool, on the grid."""
    hull = _lungs.chest(lungs)
    regions, count = ndimage.label(coarse > blood)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    inside = np.bincount(regions[hull], minlength=count + 1)
    inside[0] = 0
    kept = (inside >= _PART * sizes) & (sizes * np.prod(grid.spacing) >= _LEAST_VESSEL)
    kept[np.argmax(inside)] = True  # heart and great vessels, even where noise ties them to a rib
    kept[0] = False
    return _lungs.dilate(kept[regions] & hull, grid.spacing, _MARGIN) & hull & ~lungs


def _clot_voxels(
    smooth: np.ndarray,
    filled: np.ndarray,
    air: np.ndarray,
    region: np.ndarray,
    level: float,
    spacing: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """Voxels as dark as a clot, close to contrast-filled blood, not on the border of a vessel."""
    least, *limits = settings.clot_hu
    greatest = np.clip(BLOOD + settings.clot_share * (level - BLOOD), *limits)
    clot = (smooth > least) & (smooth < greatest)
    clot &= region
    reach = [2 * max(1, round(settings.reach_mm / size)) + 1 for size in spacing]
    clot &= ndimage.maximum_filter(filled.view(np.uint8), reach).view(bool)
    clot &= ~ndimage.maximum_filter(air.view(np.uint8), 3).view(bool)
    places = np.argwhere(clot)
    steep = _slope(smooth, places, spacing) > settings.steepest
    clot[tuple(places[steep].T)] = False
    return clot


def _slope(values: np.ndarray, places: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Length of the gradient per mm at voxels (n, 3), by central differences."""
    squares = np.zeros(len(places))
    for axis, (size, side) in enumerate(zip(values.shape, spacing, strict=True)):
        before, after = places.copy(), places.copy()
        before[:, axis] = np.maximum(places[:, axis] - 1, 0)
        after[:, axis] = np.minimum(places[:, axis] + 1, size - 1)
        run = (after - before)[:, axis] * side
        rise = values[tuple(after.T)] - values[tuple(before.T)]
        squares += (rise / np.maximum(run, side)) ** 2
    return np.sqrt(squares)


def _enclosure(
    clot: np.ndarray, filled: np.ndarray, air: np.ndarray, spacing: np.ndarray, length: float
) -> np.ndarray:
    """Share of 26 rays that meet blood before air; float32 (Z, Y, X), 0 outside ``clot``."""
    shape = np.array(clot.shape)
    places = np.argwhere(clot)
    cells = places // np.maximum(1, np.floor(_CELL / spacing)).astype(np.int64)
    _, first, cell = np.unique(
        np.ravel_multi_index(tuple(cells.T), clot.shape), return_index=True, return_inverse=True
    )
    origins = places[first]
    step = max(1.0, float(spacing.min()))
    hits = np.zeros(len(origins), np.float32)
    for neighbour in _toboggan.NEIGHBOURS:
        direction = np.array(neighbour, np.float64)
        if not direction.any():
            continue
        direction /= np.linalg.norm(direction)
        running = np.arange(len(origins))
        for distance in np.arange(step, length + step / 2, step):
            reached = origins[running] + np.rint(distance * direction / spacing).astype(np.int64)
            within = ((reached >= 0) & (reached < shape)).all(axis=1)
            running, reached = running[within], tuple(reached[within].T)
            met = filled[reached]
            hits[running[met]] += 1
            running = running[~met & ~air[reached]]
    shares = np.zeros(clot.shape, np.float32)
    shares[clot] = (hits / (len(_toboggan.NEIGHBOURS) - 1))[cell]
    return shares


def _clusters(
    height: np.ndarray, clot: np.ndarray, spacing: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of each voxel's cluster, linear index of each cluster's minimum, and the voxels'."""
    voxels, rest = _toboggan.slide(height, clot)
    minima, basin = np.unique(rest, return_inverse=True)
    minima = voxels[minima]
    points = np.stack(np.unravel_index(minima, height.shape), axis=1) * spacing
    lowest, group = np.unique(
        _toboggan.join(points, height.ravel()[minima], reach), return_inverse=True
    )
    return group[basin], minima[lowest], voxels


def _shrunk(mask: np.ndarray, grid: _lungs.Grid) -> np.ndarray:
    """A mask on the grid: true where any voxel of the cell is, so that thin vessels survive."""
    around = [2 * (step // 2) + 1 for step in grid.step]
    return grid.take(ndimage.maximum_filter(mask.view(np.uint8), around).view(bool))


def _box(region: np.ndarray, grid: _lungs.Grid, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of the volume that holds a region of the grid, with some room for rays."""
    box = []
    for (low, high), step, size in zip(_toboggan.extent(region), grid.step, shape, strict=True):
        box.append(slice(max(0, (low - 2) * step), min(size, (high + 2) * step)))
    return tuple(box)
