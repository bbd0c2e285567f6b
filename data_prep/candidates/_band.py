"""The band in which a candidate's boundary is expected, and how much of it has edges.

After Tajbakhsh et al., IEEE TMI 2015: how far the votes reach from their maximum says how far the
boundary is; the share of directions with an edge at that distance is the candidate's probability.
"""

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 360  # one a degree: 180 diameters
STEP = 2.0  # pixels along a ray
NEAREST = 2.0  # distances below it count as it, so that their logarithm exists


@dataclasses.dataclass(frozen=True)
class Regression:
    """Distance of a boundary from how far the votes reach.

    ``log(distance) = intercept + own * log(reach) + mean * mean(log(reach))``, the mean over all
    directions of the candidate, with normal errors.

    Attributes
    ----------
    intercept, own, mean : float
    sd : float
        Standard deviation of the errors, of the logarithm.
    """

    intercept: float
    own: float
    mean: float
    sd: float

    def distances(self, reach: NDArray) -> NDArray[np.float64]:
        """Expected distance in every direction, float64 (..., 360) as ``reach``."""
        log = np.log(np.maximum(reach, NEAREST))
        return np.exp(
            self.intercept + self.own * log + self.mean * log.mean(axis=-1, keepdims=True)
        )


@functools.lru_cache(maxsize=8)
def _rays(limit: float) -> NDArray[np.float32]:
    """Places along the 360 directions up to ``limit``, float32 (360, steps, 2), from (0, 0)."""
    lengths = np.arange(0, limit + STEP, STEP)
    angles = np.deg2rad(np.arange(DIRECTIONS))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (directions[:, None] * lengths[None, :, None]).astype(np.float32)


def reach(
    surface: NDArray[np.float32], centre: Sequence[float], share: float, step: int, limit: float
) -> NDArray[np.float64]:
    """How far the votes stay above a share of those at the centre.

    Parameters
    ----------
    surface : numpy.ndarray
        float32 (rows, columns) of votes; a cell is ``step`` pixels.
    centre : x, y in pixels
    share : float
    step : int
    limit : float
        Greatest distance in pixels.

    Returns
    -------
    numpy.ndarray
        float64 (360,) in pixels: where the share is first passed, at most ``limit``. Beyond the
        surface there are no votes.
    """
    origin = (np.asarray(centre, np.float32) + np.float32(0.5)) / np.float32(step) - np.float32(0.5)
    places = _rays(limit) / np.float32(step) + origin
    values = cv2.remap(surface, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return _first(values <= share * values[:, :1], limit)


def boundary(
    mask: NDArray[np.bool_], field: NDArray[np.bool_], centre: Sequence[float], limit: float
) -> NDArray[np.float64]:
    """Distance at which rays from inside a polyp leave it.

    Returns
    -------
    numpy.ndarray
        float64 (360,) in pixels; NaN where a ray leaves the field with the polyp, whose boundary
        is not seen there, or stays in it beyond ``limit``.
    """
    places = _rays(limit) + np.asarray(centre, np.float32)
    look = {"interpolation": cv2.INTER_NEAREST, "borderMode": cv2.BORDER_CONSTANT}
    inside, seen = (cv2.remap(m.astype(np.uint8), places, None, **look) > 0 for m in (mask, field))
    left = _first(~inside, np.inf)
    return np.where(left < np.minimum(_first(~seen, np.inf) - STEP, limit), left, np.nan)


def _first(passed: NDArray[np.bool_], otherwise: float) -> NDArray[np.float64]:
    return np.where(passed.any(axis=1), passed.argmax(axis=1) * STEP, otherwise)


def fit(reaches: Sequence[NDArray], distances: Sequence[NDArray]) -> Regression:
    """Least squares over the directions of training polyps.

    Parameters
    ----------
    reaches, distances : sequence of numpy.ndarray
        Of every polyp, float64 (360,), as of :func:`reach` and :func:`boundary`.

    Raises
    ------
    ValueError
        If no direction has a distance.
    """
    rows, targets = [np.zeros((0, 3))], [np.zeros(0)]
    for near, far in zip(reaches, distances, strict=True):
        log = np.log(np.maximum(near, NEAREST))
        known = np.isfinite(far)
        columns = np.stack([np.ones(DIRECTIONS), log, np.full(DIRECTIONS, log.mean())], axis=1)
        rows.append(columns[known])
        targets.append(np.log(np.maximum(far[known], NEAREST)))
    design, target = np.concatenate(rows), np.concatenate(targets)
    if not len(target):
        raise ValueError("No boundary to learn from.")
    # A touch of ridge: with few polyps both regressors may be one and the same.
    found = np.linalg.solve(design.T @ design + 1e-6 * np.eye(3), design.T @ target)
    sd = float(np.sqrt(np.mean(np.square(target - design @ found))))
    return Regression(*map(float, found), sd)


def probability(
    points: NDArray,
    normals: NDArray,
    centre: Sequence[float],
    inner: NDArray,
    outer: NDArray,
    spacing: float,
) -> float:
    """Share of the 180 diameters of which an end has an edge in the band.

    Parameters
    ----------
    points, normals : numpy.ndarray
        float (n, 2): edges in pixels and their inner normals. Only edges whose inner side is the
        centre's count.
    centre : x, y
    inner, outer : numpy.ndarray
        float (360,): the band.
    spacing : float
        An edge also stands for its neighbours along the boundary up to this many pixels away.
    """
    delta = np.asarray(points, np.float64) - np.asarray(centre)
    distance = np.hypot(delta[:, 0], delta[:, 1])
    angle = np.rad2deg(np.arctan2(delta[:, 1], delta[:, 0]))
    degree = np.round(angle).astype(np.int64) % DIRECTIONS
    counted = (distance >= inner[degree]) & (distance <= outer[degree])
    counted &= (delta * normals).sum(axis=1) < 0
    width = np.rad2deg(np.arctan2(spacing, np.maximum(distance[counted], 1)))
    first = np.ceil(angle[counted] - width).astype(np.int64)
    last = np.floor(angle[counted] + width).astype(np.int64)
    # Three turns in a row hold any arc; arcs are opened and closed, a running sum covers them.
    change = np.zeros(3 * DIRECTIONS + 1, np.int64)
    np.add.at(change, first + DIRECTIONS, 1)
    np.add.at(change, last + DIRECTIONS + 1, -1)
    covered = (np.cumsum(change)[:-1] > 0).reshape(3, DIRECTIONS).any(axis=0)
    half = DIRECTIONS // 2
    return float((covered[:half] | covered[half:]).mean())
