"""The outline and the probability of a candidate."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SECTORS = 36
RADII = 24
NEAREST = 6.0  # pixels; no polyp is smaller
WIDTH = np.log(1.2)  # an edge speaks for radii up to this ratio from its own
NEIGHBOUR = 0.75  # what an edge is worth in the next sector
PRIOR = 0.2  # edge strength that one squared standard deviation from the expectation costs, twice
SMOOTH = 2  # sectors on either side of which the median is taken
FEATURES = (
    "log of the votes",
    "votes as a share of the frame's most",
    "diameters with an edge in the band",
)


def outline(
    points: NDArray,
    normals: NDArray,
    weights: NDArray,
    centre: Sequence[float],
    expected: NDArray,
    sd: float,
    farthest: float,
) -> NDArray[np.float64]:
    """Where the boundary is: the strongest inner edges, near the expected distance if in doubt.

    Parameters
    ----------
    points, normals, weights : numpy.ndarray
        Edges (n, 2), inner normals (n, 2) and their probability (n,).
    centre : x, y
    expected : numpy.ndarray
        float (360,): expected distance of the boundary by degree.
    sd : float
        Standard deviation of its logarithm.
    farthest : float
        Greatest radius.

    Returns
    -------
    numpy.ndarray
        float64 (36,): a radius for each sector of 10 degrees, the first from 0 to 9.

    Notes
    -----
    The strength of a radius in a sector is the greatest probability times cosine of the angle
    between normal and direction to the centre, among the edges there.
    """
    radii = np.geomspace(NEAREST, farthest, RADII)
    delta = np.asarray(centre) - points
    distance = np.maximum(np.hypot(delta[:, 0], delta[:, 1]), 1e-6)
    pull = np.maximum(weights * (delta * normals).sum(axis=1) / distance, 0)
    degree = np.round(np.rad2deg(np.arctan2(-delta[:, 1], -delta[:, 0]))).astype(np.int64) % 360
    edge, place = np.nonzero(np.abs(np.log(distance[:, None] / radii)) < WIDTH)
    strength = np.zeros((SECTORS, RADII))
    np.maximum.at(strength, (degree[edge] * SECTORS // 360, place), pull[edge])
    beside = np.maximum(np.roll(strength, 1, axis=0), np.roll(strength, -1, axis=0))
    strength = np.maximum(strength, NEIGHBOUR * beside)
    middle = np.log(expected).reshape(SECTORS, -1).mean(axis=1)
    doubt = (np.log(radii) - middle[:, None]) / sd
    found = radii[(strength - PRIOR * np.square(doubt) / 2).argmax(axis=1)]
    near = [np.roll(found, shift) for shift in range(-SMOOTH, SMOOTH + 1)]
    return np.median(near, axis=0)


def corners(centre: Sequence[float], radii: NDArray) -> NDArray[np.float64]:
    """Points of an outline, float64 (36, 2), in the middle of the sectors."""
    angles = np.deg2rad((np.arange(SECTORS) + 0.5) * (360 / SECTORS) - 0.5)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(centre) + radii[:, None] * unit


def evidence(vote: float, best: float, band: float) -> NDArray[np.float64]:
    """The numbers named in ``FEATURES``: votes here, at the frame's highest place, the band."""
    return np.array([np.log(vote + 1e-3), vote / best, band])


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Logistic regression on the evidence.

    Attributes
    ----------
    weights : numpy.ndarray
        float64 (len(FEATURES),).
    intercept : float
    """

    weights: NDArray[np.float64]
    intercept: float

    def probability(self, rows: NDArray) -> NDArray[np.float64]:
        """Probability that a candidate lies in a polyp, float64 (...), of rows (..., features)."""
        return 1 / (1 + np.exp(-(rows @ self.weights + self.intercept)))


def learn(rows: NDArray[np.float64], positive: NDArray[np.bool_]) -> Judge:
    """Fit a judge to candidates of training frames, float64 (n, features) and bool (n,).

    Raises
    ------
    ValueError
        If either class is absent.
    """
    from sklearn.linear_model import LogisticRegression

    if positive.all() or not positive.any():
        raise ValueError("A judge needs candidates of both kinds.")
    mean, sd = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    fitted = LogisticRegression(C=0.3, max_iter=1000).fit((rows - mean) / sd, positive)
    weights = fitted.coef_[0] / sd
    return Judge(weights, float(fitted.intercept_[0] - weights @ mean))
