"""What speaks for a candidate, and the probability that follows from it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.candidates import _band

SECTORS = 36
FEATURES = (
    "log of the votes",
    "votes as a share of the frame's most",
    "diameters with an edge in the band",
    "strength of inner normals round the centre",
    "the same by diameter",
    "the same less that of outer normals",
    "log of the expected radius",
)


def evidence(
    points: NDArray,
    normals: NDArray,
    weights: NDArray,
    centre: Sequence[float],
    middle: NDArray,
    factor: float,
    share: float,
    vote: float,
    best: float,
) -> NDArray[np.float64]:
    """The numbers named in ``FEATURES`` of one candidate.

    Parameters
    ----------
    points, normals, weights : numpy.ndarray
        Edges (n, 2), inner normals (n, 2) and their probability (n,).
    centre : x, y
    middle : numpy.ndarray
        float (360,): expected distance of the boundary.
    factor : float
        The band goes from ``middle / factor`` to ``middle * factor``.
    share : float
        Of :func:`_band.probability`.
    vote, best : float
        Votes at the centre and at the frame's highest place.

    Notes
    -----
    The strength of a sector of 10 degrees is the greatest probability times cosine of the angle
    between normal and direction to the centre, among its edges in the band.
    """
    delta = np.asarray(centre) - points
    distance = np.maximum(np.hypot(delta[:, 0], delta[:, 1]), 1e-6)
    angle = np.rad2deg(np.arctan2(-delta[:, 1], -delta[:, 0]))
    degree = np.round(angle).astype(np.int64) % _band.DIRECTIONS
    inside = (distance >= middle[degree] / factor) & (distance <= middle[degree] * factor)
    sector = degree[inside] * SECTORS // _band.DIRECTIONS
    pull = (weights * (delta * normals).sum(axis=1) / distance)[inside]
    inner, outer = np.zeros(SECTORS), np.zeros(SECTORS)
    np.maximum.at(inner, sector, pull)
    np.maximum.at(outer, sector, -pull)
    half = SECTORS // 2
    return np.array(
        [
            np.log(vote + 1e-3),
            vote / best,
            share,
            inner.mean(),
            np.maximum(inner[:half], inner[half:]).mean(),
            inner.mean() - outer.mean(),
            np.log(middle.mean()),
        ]
    )


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
