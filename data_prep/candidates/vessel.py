"""Axis of the vessel at a candidate, and planes aligned with it.

The two-channel representation of Tajbakhsh and Liang (MICCAI 2015), used in Tajbakhsh et al. 2016,
section IV-B: a longitudinal plane through the axis and the cross-section, in three widths, at
three places along the axis, in five rotations about it. The first channel is the longitudinal
plane, the second and the third are the cross-section.

Directions are unit vectors in mm along the volume's own axes, in the order z, y, x.
"""

import dataclasses
import itertools
from math import gcd

import numpy as np
from scipy import ndimage

from data_prep.candidates._sampling import sample_planes
from data_prep.candidates.embolus import Candidate

_LUNG_HU, _VESSEL_IN_LUNG_HU = -500, -200
POINTS, HESSIAN, SEEDED = "points", "hessian", "seeded"  # how an axis was found


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the axis is found and the planes are taken.

    Attributes
    ----------
    ball_mm, step_mm : float
        Diameter of the ball whose vessel points give the axis, and distance between points.
    wide_mm : float
        Diameter of the second ball, tried where a vessel as wide as the first one fills it.
    ratio : float
        Least ratio of the first two variances of the points; below it the vessel has no direction.
    widths_mm : tuple of float
        Widths of the planes.
    shifts : tuple of float
        Shifts along the axis, as shares of the width.
    rotations : int
        Rotations about the axis, evenly over half a turn.
    window_hu : (float, float)
        Range shown as 0 to 255.
    side : int
        Pixels along the side of a plane.
    """

    ball_mm: float = 20.0
    step_mm: float = 0.5
    wide_mm: float = 40.0
    ratio: float = 1.3
    widths_mm: tuple[float, ...] = (10.0, 15.0, 20.0)
    shifts: tuple[float, ...] = (-0.2, 0.0, 0.2)
    rotations: int = 5
    window_hu: tuple[float, float] = (-100.0, 500.0)
    side: int = 64


DEFAULTS = Settings()


@dataclasses.dataclass(frozen=True)
class View:
    """Which plane: its width, shift along the axis (a share of the width) and rotation."""

    width_mm: float
    shift: float
    rotation: float  # radians


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Axis of a vessel.

    Attributes
    ----------
    directions : numpy.ndarray
        float64 (3, 3): rows v1, along the vessel, v2, and v3 = v1 x v2. The largest component of
        v1 and that of v2 are positive.
    kind : str
        "points": principal axis of the vessel's points; "hessian": direction of least curvature
        of the grey values; "seeded": pseudo-random, where neither exists.
    variances : numpy.ndarray
        float64 (3,): of the vessel's points in mm^2, falling.
    """

    directions: np.ndarray
    kind: str
    variances: np.ndarray

    @property
    def radius_mm(self) -> float:
        """Of the round cylinder whose cross-section has the same variances."""
        return float(np.sqrt(2 * (self.variances[1] + self.variances[2])))


def axis(
    hu: np.ndarray,
    spacing: np.ndarray,
    candidate: Candidate,
    seed: int = 0,
    settings: Settings = DEFAULTS,
) -> Axis:
    """Axis of the vessel that holds a candidate.

    Principal axis of the contrast-filled blood in a ball round the candidate (of all soft tissue
    where most of the ball is lung), with the candidate itself, as far as it is connected with it.
    Where that has no direction (a round clot that fills
    a wide vessel, a branching) the Hessian of the grey values with the clot filled up; where that
    has none either, a pseudo-random one.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X): Hounsfield units.
    spacing : numpy.ndarray
        float (3,): mm between voxels along z, y, x.
    candidate : Candidate
    seed : int
        Not negative, of the pseudo-random direction; the same seed gives the same one.
    settings : Settings

    Returns
    -------
    Axis
    """
    ball = _Ball(hu, spacing, candidate, settings.ball_mm, settings.step_mm)
    variances, directions = ball.principal()
    found = variances[0] >= settings.ratio * variances[1] > 0
    if not found and ball.filled > 0.5:
        step = settings.step_mm * settings.wide_mm / settings.ball_mm
        wide = _Ball(hu, spacing, candidate, settings.wide_mm, step)
        wider, wide_directions = wide.principal()
        found = wider[0] >= settings.ratio * wider[1] > 0
        if found:
            ball, variances, directions = wide, wider, wide_directions
    if found:
        return Axis(_oriented(directions), POINTS, variances)
    directions = ball.flattest(np.sqrt(2 * variances[1:].sum()))
    if directions is not None:
        return Axis(_oriented(directions), HESSIAN, variances)
    random = np.random.default_rng(seed).normal(size=(3, 3))
    return Axis(_oriented(np.linalg.qr(random)[0].T), SEEDED, variances)


def views(settings: Settings = DEFAULTS) -> list[View]:
    """The planes' parameters in the order of :func:`planes`: widths, shifts, rotations."""
    angles = [number * np.pi / settings.rotations for number in range(settings.rotations)]
    return [View(*each) for each in itertools.product(settings.widths_mm, settings.shifts, angles)]


def middle(settings: Settings = DEFAULTS) -> View:
    """The view of the middle width, neither shifted nor turned."""
    return View(settings.widths_mm[len(settings.widths_mm) // 2], 0.0, 0.0)


def spread(count: int, settings: Settings = DEFAULTS) -> list[View]:
    """So many of the :func:`views`, in their order, spread over widths, shifts and rotations alike.

    Of one it is the view in the middle. More follow in steps of about the golden section, which
    come back to no view before all were met.
    """
    every = views(settings)
    total = len(every)
    if not 1 <= count <= total:
        raise ValueError(f"There are {total} views; {count} cannot be taken.")
    step = next(step for step in range(round(0.382 * total), 2 * total) if gcd(step, total) == 1)
    return [every[place] for place in sorted((total // 2 + k * step) % total for k in range(count))]


def planes(
    hu: np.ndarray,
    spacing: np.ndarray,
    voxel: tuple[float, float, float],
    directions: np.ndarray,
    settings: Settings = DEFAULTS,
    wanted: list[View] | None = None,
) -> np.ndarray:
    """Planes aligned with a vessel, as images.

    With e2 = cos(t) v2 + sin(t) v3 and e3 = -sin(t) v2 + cos(t) v3 at rotation t, and the centre
    c shifted by s: the longitudinal plane is c + (s + u) v1 + v e2, the cross-section
    c + s v1 + u e2 + v e3; u runs down, v to the right, both from -width / 2 to width / 2 between
    the outer edges of the outer pixels. Both are sampled trilinearly in mm, so that a pixel is
    square whatever the spacing.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X): Hounsfield units; the nearest voxel counts outside.
    spacing : numpy.ndarray
        float (3,): mm between voxels along z, y, x.
    voxel : (float, float, float)
        z, y, x of the centre.
    directions : numpy.ndarray
        float (3, 3): of an :class:`Axis`.
    settings : Settings
    wanted : list of View, optional
        Default: all of :func:`views`.

    Returns
    -------
    numpy.ndarray
        uint8 (n, side, side, 3).
    """
    low, high = settings.window_hu
    gain = 255 / (high - low)
    # The conversion to whole levels cuts off, hence the half.
    longitudinal, cross = _sample(
        hu, spacing, voxel, directions, settings, wanted, gain, 0.5 - gain * low
    )
    images = np.empty((*cross.shape, 3), np.uint8)
    images[..., 0] = np.clip(longitudinal, 0, 255, out=longitudinal)
    cross = np.clip(cross, 0, 255, out=cross).astype(np.uint8)
    images[..., 1] = cross
    images[..., 2] = cross
    return images


def sections(
    hu: np.ndarray,
    spacing: np.ndarray,
    voxel: tuple[float, float, float],
    directions: np.ndarray,
    settings: Settings = DEFAULTS,
    wanted: list[View] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The planes of :func:`planes` in HU.

    Returns
    -------
    longitudinal, cross : numpy.ndarray
        float32 (n, side, side).
    """
    return _sample(hu, spacing, voxel, directions, settings, wanted)


def _sample(
    hu: np.ndarray,
    spacing: np.ndarray,
    voxel: tuple[float, float, float],
    directions: np.ndarray,
    settings: Settings,
    wanted: list[View] | None,
    gain: float = 1.0,
    offset: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The sections of ``gain * hu + offset``."""
    wanted = views(settings) if wanted is None else wanted
    width, shift, angle = np.array([dataclasses.astuple(view) for view in wanted]).T[..., None]
    first, second, third = np.asarray(directions, np.float64)
    e2 = np.cos(angle) * second + np.sin(angle) * third
    e3 = np.cos(angle) * third - np.sin(angle) * second
    # In mm: longitudinal planes first, then cross-sections.
    down = np.concatenate([np.broadcast_to(first, e2.shape), e2])
    right = np.concatenate([e2, e3])
    centre = np.tile(shift * width * first, (2, 1))
    pixel = np.tile(width / settings.side, (2, 1))
    origin = centre - (settings.side - 1) / 2 * pixel * (down + right)
    spacing = np.asarray(spacing, np.float64)
    values = sample_planes(
        hu,
        np.asarray(voxel, np.float64) + origin / spacing,
        pixel * down / spacing,
        pixel * right / spacing,
        (settings.side, settings.side),
        gain,
        offset,
    )
    return values[: len(wanted)], values[len(wanted) :]


class _Ball:
    """The surroundings of a candidate, on a grid of its own.

    Attributes
    ----------
    filled : float
        Share of the ball that is vessel.
    """

    def __init__(
        self,
        hu: np.ndarray,
        spacing: np.ndarray,
        candidate: Candidate,
        diameter: float,
        step: float,
    ) -> None:
        spacing = np.asarray(spacing, np.float64)
        half = round(diameter / 2 / step)
        steps = np.arange(-half, half + 1)
        count = len(steps)
        voxel = np.asarray(candidate.voxel, np.float64)
        origins = np.repeat((voxel - half * step / spacing)[None], count, axis=0)
        origins[:, 0] += np.arange(count) * step / spacing[0]
        rows, columns = np.zeros((2, count, 3))
        rows[:, 1], columns[:, 2] = step / spacing[1], step / spacing[2]
        self._hu = sample_planes(hu, origins, rows, columns, (count, count))
        self._step, self._half = step, half
        squares = (steps * step) ** 2.0
        inside = squares[:, None, None] + squares[:, None] + squares <= (diameter / 2) ** 2
        # A point outside the volume only repeats the volume's edge.
        for number, (size, distance) in enumerate(zip(hu.shape, spacing, strict=True)):
            place = voxel[number] + steps * step / distance
            shape = [1, 1, 1]
            shape[number] = count
            inside &= ((place >= -0.5) & (place <= size - 0.5)).reshape(shape)
        self._clot = self._nearest(candidate.voxels, voxel, spacing, steps * step)
        # Among air a vessel is what is nearer to blood than to air: less is lost of thin vessels.
        among_air = np.median(self._hu[inside]) < _LUNG_HU
        threshold = _VESSEL_IN_LUNG_HU if among_air else candidate.blood_hu
        vessel = ((self._hu > threshold) | self._clot) & inside
        # Between clot and blood lies a rim that is neither.
        touching = ndimage.binary_dilation(self._clot, iterations=max(1, round(1.5 / step)))
        parts, number = ndimage.label(vessel, np.ones((3, 3, 3)))
        kept = np.zeros(number + 1, bool)
        kept[parts[touching]] = True
        kept[0] = False
        self._vessel = kept[parts]
        self.filled = float(self._vessel.sum() / inside.sum())

    @staticmethod
    def _nearest(
        voxels: np.ndarray, centre: np.ndarray, spacing: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """Which points have their nearest voxel among ``voxels``; the centre's always has."""
        lowest = np.floor(centre + offsets[0] / spacing).astype(np.int64)
        highest = np.ceil(centre + offsets[-1] / spacing).astype(np.int64)
        mask = np.zeros(highest - lowest + 1, bool)
        near = voxels[((voxels >= lowest) & (voxels <= highest)).all(axis=1)] - lowest
        mask[tuple(near.T)] = True
        mask[tuple(np.rint(centre).astype(np.int64) - lowest)] = True
        places = [
            np.rint(centre[k] + offsets / spacing[k]).astype(np.int64) - lowest[k] for k in range(3)
        ]
        return mask[np.ix_(*places)]

    def principal(self) -> tuple[np.ndarray, np.ndarray]:
        """Variances in mm^2, falling, and directions, of the vessel's points."""
        points = (np.argwhere(self._vessel) - self._half) * self._step
        if len(points) < 4:
            return np.zeros(3), np.eye(3)
        variances, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
        return np.maximum(variances[::-1], 0), vectors.T[::-1]

    def flattest(self, radius: float) -> np.ndarray | None:
        """Directions of rising curvature of the grey values; None unless like a tube's."""
        blood = self._hu[self._vessel & ~self._clot]
        level = np.median(blood) if blood.size else _VESSEL_IN_LUNG_HU
        if level <= _VESSEL_IN_LUNG_HU:
            return None
        filled = np.where(self._clot, level, np.clip(self._hu, _VESSEL_IN_LUNG_HU, level))
        sigma = np.clip(radius / np.sqrt(2), 1.0, 5.0) / self._step
        curvature = np.empty((3, 3))
        for a, b in itertools.combinations_with_replacement(range(3), 2):
            order = [0, 0, 0]
            order[a] += 1
            order[b] += 1
            value = filled
            for number in range(3):  # only the centre is wanted, so each axis leaves the array
                kernel = _derivative(sigma, order[number], self._half)
                value = np.tensordot(kernel, value, axes=(0, 0))
            curvature[a, b] = curvature[b, a] = value
        strengths, vectors = np.linalg.eigh(curvature)
        order = np.argsort(np.abs(strengths))
        strengths, vectors = strengths[order], vectors.T[order]
        tube = strengths[1] < 0 and strengths[2] < 0
        return vectors if tube and abs(strengths[0]) < 0.5 * abs(strengths[1]) else None


def _derivative(sigma: float, order: int, half: int) -> np.ndarray:
    """Samples of a Gaussian or of its first or second derivative, 2 half + 1 of them."""
    x = np.arange(-half, half + 1, dtype=np.float64)
    bell = np.exp(-(x**2) / (2 * sigma**2))
    bell /= bell.sum()
    if order == 0:
        return bell
    kernel = -x / sigma**2 * bell if order == 1 else (x**2 / sigma**4 - 1 / sigma**2) * bell
    # Cut off, a second derivative would answer to a constant.
    return kernel - kernel.mean()


def _oriented(directions: np.ndarray) -> np.ndarray:
    """Signs fixed, so that the same vessel always gives the same planes."""
    first, second = (each * np.sign(each[np.argmax(np.abs(each))]) for each in directions[:2])
    return np.stack([first, second, np.cross(first, second)])
