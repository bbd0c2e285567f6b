"""Open snakes: a smooth row per column that follows a score map (United Snakes: Liang et al. 2006).

One node per column moves up and down only. With first and second differences D1, D2 of the rows y,

    E(y) = a/2 |D1 y|^2 + b/2 |D2 y|^2 + sum_x P(y_x, x),    P = -kappa G_sigma * score,

whose ends are free. Between rows, P is the mean of the linearly interpolated map over one row's
height: a quadratic spline, whose exact derivative is the central difference P(y + 1/2) - P(y - 1/2)
of the linear interpolation. So the force that moves the snake belongs to the energy that is
watched, and a step of any damping g >= max P'' can only lower it.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, ndimage

from medxfer.evaluation.boundary import Boundaries, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Snake:
    """A snake that came to rest.

    Attributes
    ----------
    rows : float64 array of shape (W,)
    energies : float64 array of shape (iterations + 1,)
        Energy before the first and after every accepted step; never rises.
    converged : bool
        Whether the last step moved every node by less than the tolerance.
    """

    rows: Rows
    energies: NDArray[np.float64]
    converged: bool

    @property
    def iterations(self) -> int:
        """Number of accepted steps."""
        return len(self.energies) - 1


def open_snake(
    score: ArrayLike,
    start: ArrayLike,
    *,
    a: float = 0.01,
    b: float = 0.5,
    g: float = 1.0,
    kappa: float = 1.0,
    sigma: float = 1.0,
    max_iterations: int = 200,
    tolerance: float = 0.01,
) -> Snake:
    """Let a snake slide from ``start`` into the ridges of ``score``.

    Every step solves ``(A + g I) y_new = g y - P'(y)`` with ``A = a D1'D1 + b D2'D2``
    (pentadiagonal, factorised once) and clips the rows to the map. Where the energy would rise,
    ``g`` is doubled and the step repeated.

    Parameters
    ----------
    score : array of shape (H, W)
        High where the interface is, for instance its probability. Continued beyond the first and
        last row by their values.
    start : array of shape (W,)
        Rows to start from, all finite.
    a, b : float
        Resistance to stretching and to bending, not negative.
    g : float
        Damping, above 0. Larger is slower and safer.
    kappa, sigma : float
        Weight of the score and the standard deviation in pixels of the Gaussian it is smoothed by.
    max_iterations, tolerance : int, float
        Ends after so many steps, or when no node moves by ``tolerance`` pixels.
    """
    score = np.asarray(score, np.float64)
    rows = np.array(start, np.float64)
    if score.ndim != 2 or rows.shape != score.shape[1:]:
        raise ValueError(f"Need a row per column of the map: {rows.shape}, {score.shape}.")
    if not (np.isfinite(score).all() and np.isfinite(rows).all()):
        raise ValueError("Scores and rows must be finite.")
    if min(a, b) < 0 or g <= 0:
        raise ValueError(f"Need a, b >= 0 and g > 0. Received: {a}, {b}, {g}.")

    potential = -kappa * ndimage.gaussian_filter(score, sigma, mode="nearest")
    bands = stiffness_bands(len(rows), a, b)
    last_row = len(score) - 1
    rows = np.clip(rows, 0, last_row)

    energies = [_energy(potential, rows, a, b)]
    factor = _factorise(bands, g)
    force = _force(potential, rows)
    converged = False
    while len(energies) <= max_iterations and not converged:
        moved = np.clip(linalg.cho_solve_banded(factor, g * rows - force), 0, last_row)
        converged = bool(np.abs(moved - rows).max() < tolerance)
        energy = _energy(potential, moved, a, b)
        if energy <= energies[-1]:
            rows, force = moved, _force(potential, moved)
            energies.append(energy)
        elif not converged:
            g *= 2
            factor = _factorise(bands, g)
    return Snake(rows, np.array(energies), converged)


def open_snakes(
    score_li: ArrayLike, score_ma: ArrayLike, start: Boundaries, **settings
) -> Boundaries:
    """One :func:`open_snake` per interface, from ``start``; settings as there."""
    return Boundaries(
        open_snake(score_li, start.li, **settings).rows,
        open_snake(score_ma, start.ma, **settings).rows,
    )


def stiffness_bands(size: int, a: float, b: float) -> NDArray[np.float64]:
    """``a D1'D1 + b D2'D2`` of ``size`` free nodes: its diagonals 0 to 2 from the last row up.

    float64 of shape (3, size), the upper form of :func:`scipy.linalg.solveh_banded`.
    """
    bands = np.zeros((3, size))
    for weight, stencil in ((a, (-1.0, 1.0)), (b, (1.0, -2.0, 1.0))):
        differences = size - len(stencil) + 1
        for i, left in enumerate(stencil):
            for j in range(i, len(stencil) if differences > 0 else i):
                # Difference k adds stencil[i] * stencil[j] at row k + i, column k + j.
                bands[2 - (j - i), j : j + differences] += weight * left * stencil[j]
    return bands


def _factorise(bands: NDArray[np.float64], g: float) -> tuple[NDArray[np.float64], bool]:
    damped = bands.copy()
    damped[2] += g
    return linalg.cholesky_banded(damped), False


def _energy(potential: Rows, rows: Rows, a: float, b: float) -> float:
    stretch = (np.diff(rows) ** 2).sum()
    bend = (np.diff(rows, n=2) ** 2).sum()
    return float(a / 2 * stretch + b / 2 * bend + _between_rows(potential, rows).sum())


def _between_rows(potential: Rows, rows: Rows) -> NDArray[np.float64]:
    """Quadratic spline of each column's potential, at its row."""
    centre = np.rint(rows).astype(np.int64)
    t = rows - centre
    above, here, below = _neighbours(potential, centre)
    return ((0.5 - t) ** 2 * above + (1.5 - 2 * t**2) * here + (0.5 + t) ** 2 * below) / 2


def _force(potential: Rows, rows: Rows) -> NDArray[np.float64]:
    """Derivative of the spline: linear interpolation half a row below minus half a row above."""
    centre = np.rint(rows).astype(np.int64)
    t = rows - centre
    above, here, below = _neighbours(potential, centre)
    return (0.5 - t) * (here - above) + (0.5 + t) * (below - here)


def _neighbours(potential: Rows, centre: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    columns = np.arange(len(centre))
    last = len(potential) - 1
    return [potential[np.clip(centre + step, 0, last), columns] for step in (-1, 0, 1)]
