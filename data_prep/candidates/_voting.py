"""Votes of polyp edges for the inside of a polyp, and what is read from them.

After Tajbakhsh et al., IEEE TMI 2015: every edge votes for places on the inner side of it; votes
are kept apart by the edge's orientation and multiplied, so that parallel edges alone elect nothing.
"""

import functools

import numpy as np
import scipy.fft
from numpy.typing import NDArray

DIRECTIONS = 32  # of the normals


def accumulate(
    points: NDArray, normals: NDArray, weights: NDArray, shape: tuple[int, int],
    step: int, sigmas: tuple[float, ...], groups: int,
) -> NDArray[np.float32]:  # fmt: skip
    """Votes by range and by orientation.

    A voter at p with the normal n gives a receiver r, at distance d in a direction less than 90
    degrees off n, ``weight * exp(-d / sigma) * cos(angle)``. Normals are rounded to one of 32
    directions and places to the grid.

    Parameters
    ----------
    points, normals : numpy.ndarray
        float (n, 2) in pixels; unit vectors.
    weights : numpy.ndarray
        float (n,).
    shape : tuple of int
        Height and width of the frame.
    step : int
        Pixels a cell of the grid.
    sigmas : tuple of float
        Ranges in pixels.
    groups : int
        Divisor of 32: orientation groups modulo 180 degrees.

    Returns
    -------
    numpy.ndarray
        float32 (len(sigmas), groups, rows, columns); the cell (i, j) has its centre at pixel
        ``(i + 0.5) * step - 0.5``.
    """
    rows, columns = -(-shape[0] // step), -(-shape[1] // step)
    turn = np.arctan2(normals[:, 1], normals[:, 0]) / (2 * np.pi) * DIRECTIONS
    direction = np.round(turn).astype(np.int64) % DIRECTIONS
    x, y = (points // step).astype(np.int64).T
    ballots = np.bincount(
        (direction * rows + y) * columns + x, weights, minlength=DIRECTIONS * rows * columns
    ).reshape(DIRECTIONS, rows, columns)
    size = tuple(scipy.fft.next_fast_len(2 * n - 1, real=True) for n in (rows, columns))
    spectra = scipy.fft.rfft2(ballots.astype(np.float32), size)
    kernels = _kernels(rows, columns, size, tuple(s / step for s in sigmas))
    half = DIRECTIONS // 2
    # Group g holds the orientations nearest to g * 180 / groups degrees.
    group = np.round(np.arange(DIRECTIONS) % half * groups / half).astype(int) % groups
    members = np.zeros((groups, DIRECTIONS), np.float32)
    members[group, np.arange(DIRECTIONS)] = 1
    products = np.einsum("gk,kyx,skyx->sgyx", members, spectra, kernels, optimize=True)
    votes = scipy.fft.irfft2(products, size)[..., :rows, :columns]
    return np.maximum(votes, 0).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _kernels(
    rows: int, columns: int, size: tuple[int, int], sigmas: tuple[float, ...]
) -> NDArray[np.complex64]:
    """Spectra (sigmas, 32, ...) of one voter's votes; its own cell gets none."""
    y = np.fft.fftfreq(size[0], 1 / size[0])[:, None]
    x = np.fft.fftfreq(size[1], 1 / size[1])[None, :]
    distance = np.hypot(x, y)
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    cosine = np.maximum(along, 0) / np.maximum(distance, 1)
    fall = np.exp(-distance / np.array(sigmas)[:, None, None])
    kernels = fall[:, None] * cosine
    kernels[..., (np.abs(y[:, 0]) >= rows), :] = 0
    kernels[..., (np.abs(x[0]) >= columns)] = 0
    return scipy.fft.rfft2(kernels.astype(np.float32))


def combine(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square root of the sum of products of all pairs of groups.

    Parameters
    ----------
    votes : numpy.ndarray
        (..., groups, rows, columns).
    """
    total, squares = votes.sum(axis=-3), np.square(votes).sum(axis=-3)
    return np.sqrt(np.maximum(total * total - squares, 0) / 2)


def maxima(
    surface: NDArray[np.float32], allowed: NDArray[np.bool_], radius: float, count: int
) -> NDArray[np.int64]:
    """The highest places, each of which lowers what lies round it.

    Soft non-maximum suppression: after each pick at p the surface is multiplied by
    ``1 - exp(-|r - p|**2 / (2 radius**2))``, so that the picks spread over the frame and a broad
    hill still yields several.

    Parameters
    ----------
    surface : numpy.ndarray
        float (rows, columns), not negative.
    allowed : numpy.ndarray
        bool (rows, columns).
    radius : float
        In cells.
    count : int
        At most so many.

    Returns
    -------
    numpy.ndarray
        int64 (m, 2): x, y of cells, in the order of picking; of equal ones the first by rows.
    """
    left = np.where(allowed, surface, 0).astype(np.float64)
    y, x = np.ogrid[: left.shape[0], : left.shape[1]]
    picked = []
    while len(picked) < count:
        row, column = np.unravel_index(left.argmax(), left.shape)
        if left[row, column] <= 0:
            break
        picked.append((column, row))
        left *= -np.expm1(-((x - column) ** 2 + (y - row) ** 2) / (2 * radius**2))
    return np.array(picked, np.int64).reshape(-1, 2)
