"""Two interfaces of an artery wall: from scores to rows, from rows to errors and thickness.

Rows count downwards from 0 at the centre of the first pixel row and may be fractional.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Rows = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Boundaries:
    """Rows of the lumen-intima (``li``) and media-adventitia (``ma``) interface per column.

    Both are float64 of shape (W,); NaN where an interface is not known.
    """

    li: Rows
    ma: Rows

    def __post_init__(self) -> None:
        li, ma = (np.asarray(rows, np.float64) for rows in (self.li, self.ma))
        if li.ndim != 1 or li.shape != ma.shape:
            raise ValueError(f"Both interfaces need one row per column: {li.shape}, {ma.shape}.")
        object.__setattr__(self, "li", li)
        object.__setattr__(self, "ma", ma)


def arg_max_rows(score: ArrayLike, refine: bool = False) -> Rows:
    """Row of the highest score in every column (Tajbakhsh et al. 2016, section IV-D).

    Parameters
    ----------
    score : array of shape (H, W)
        Finite scores, for instance the probability of one interface.
    refine : bool
        Move the row to the vertex of the parabola through the maximum and its two neighbours, by
        less than one half of a row. Ties and maxima in the first or last row stay as they are.

    Returns
    -------
    float64 array of shape (W,); tied rows give their mean.
    """
    score = _maps(score)[0]
    highest = score.max(axis=0)
    tied = score == highest
    rows = np.arange(len(score)) @ tied / tied.sum(axis=0)
    if not refine or len(score) < 3:
        return rows
    peak = score.argmax(axis=0)
    inner = np.clip(peak, 1, len(score) - 2)
    columns = np.arange(score.shape[1])
    above, below = score[inner - 1, columns], score[inner + 1, columns]
    bend = above - 2 * highest + below
    sharp = (inner == peak) & (tied.sum(axis=0) == 1) & (bend < 0)
    return rows + np.where(sharp, (above - below) / (2 * np.where(sharp, bend, -1)), 0)


def joint_rows(
    score_li: ArrayLike,
    score_ma: ArrayLike,
    min_gap: int,
    max_gap: int | None = None,
    max_step: int | None = None,
) -> Boundaries:
    """The ordered pair of interfaces with the highest total score.

    Maximises the sum over columns of ``score_li[y_li] + score_ma[y_ma]`` exactly, by dynamic
    programming over pairs of rows, subject to ``min_gap <= y_ma - y_li <= max_gap`` and, between
    neighbouring columns, to ``|dy| <= max_step`` for either interface.

    Parameters
    ----------
    score_li, score_ma : arrays of shape (H, W)
        Finite scores; pass log-probabilities to maximise a likelihood.
    min_gap, max_gap, max_step : int
        In rows. Without ``max_gap`` the pair may be any distance apart, without ``max_step`` the
        columns are independent.

    Raises
    ------
    ValueError
        If no pair of rows satisfies the limits.
    """
    score_li, score_ma = _maps(score_li, score_ma)
    height, width = score_li.shape
    max_gap = height - 1 if max_gap is None else min(max_gap, height - 1)
    if not 0 <= min_gap <= max_gap:
        raise ValueError(f"No pair of {height} rows is {min_gap} to {max_gap} rows apart.")
    if max_step is None:
        return _independent_pairs(score_li, score_ma, min_gap, max_gap)
    if max_step < 0:
        raise ValueError(f"max_step must not be negative. Received: {max_step}.")

    # total[x][y_li, y_ma]: best sum of columns 0..x among the paths that end in that pair.
    gap = np.arange(height) - np.arange(height)[:, None]
    allowed = np.where((gap >= min_gap) & (gap <= max_gap), 0.0, -np.inf)
    total = np.empty((width, height, height))
    total[0] = allowed + score_li[:, 0, None] + score_ma[:, 0]
    for x in range(1, width):
        best = ndimage.maximum_filter(total[x - 1], 2 * max_step + 1, mode="constant", cval=-np.inf)
        total[x] = allowed + best + score_li[:, x, None] + score_ma[:, x]

    pairs = np.empty((2, width), np.int64)
    low, high = np.zeros(2, np.int64), np.full(2, height)
    for x in range(width - 1, -1, -1):
        near = total[x, low[0] : high[0], low[1] : high[1]]
        pairs[:, x] = low + np.unravel_index(near.argmax(), near.shape)
        low = np.maximum(pairs[:, x] - max_step, 0)
        high = pairs[:, x] + max_step + 1
    return Boundaries(*pairs)


def error_um(predicted: ArrayLike, true: ArrayLike, mm_per_pixel: float) -> float:
    """Mean distance of one predicted interface from the true one, in micrometres.

    The distance is vertical, |y_pred - y_true|, and averaged over the scored columns: those with a
    true row. A missing prediction (NaN) in a scored column makes the error NaN, so that leaving
    out hard columns never looks like accuracy; no scored column at all gives NaN too.

    Parameters
    ----------
    predicted, true : arrays of shape (W,)
        Rows of one interface.
    mm_per_pixel : float
        Vertical size of a pixel.
    """
    predicted, true = _same_columns(predicted, true)
    scored = ~np.isnan(true)
    if not scored.any():
        return float("nan")
    return float(np.abs(predicted - true)[scored].mean() * mm_per_pixel * 1000)


def thickness_mm(boundaries: Boundaries, mm_per_pixel: float) -> float:
    """Intima-media thickness: mean vertical distance of the interfaces, in millimetres.

    Over the columns in which both are known; NaN if there is none (Tajbakhsh et al. 2016,
    section IV-D).
    """
    gap = boundaries.ma - boundaries.li
    gap = gap[~np.isnan(gap)]
    return float(gap.mean() * mm_per_pixel) if gap.size else float("nan")


def polyline_distances_mm(
    boundaries: Boundaries, mm_per_pixel: float, mm_per_pixel_x: float
) -> Rows:
    """Distance of each column's two points from the other interface, their mean in millimetres.

    The other interface is a chain of line segments between the columns in which both are known; a
    gap between such columns is bridged.

    Parameters
    ----------
    boundaries : Boundaries
    mm_per_pixel, mm_per_pixel_x : float
        Height and width of a pixel.

    Returns
    -------
    float64 array of shape (W,); NaN in columns in which either is not known.
    """
    known = ~np.isnan(boundaries.li + boundaries.ma)
    distances = np.full(known.shape, np.nan)
    if known.any():
        x = np.flatnonzero(known) * mm_per_pixel_x
        li = np.stack([x, boundaries.li[known] * mm_per_pixel], axis=1)
        ma = np.stack([x, boundaries.ma[known] * mm_per_pixel], axis=1)
        distances[known] = (_distance_to_chain(li, ma) + _distance_to_chain(ma, li)) / 2
    return distances


def polyline_thickness_mm(
    boundaries: Boundaries, mm_per_pixel: float, mm_per_pixel_x: float
) -> float:
    """Intima-media thickness as the polyline distance of the interfaces, in millimetres.

    Mean over the points of both interfaces of the distance to the nearest point of the other
    interface: the polyline distance metric, by which the CUBS benchmark (Meiburger et al. 2021)
    and most of the field measure. NaN if no column knows both interfaces.

    Parameters
    ----------
    boundaries, mm_per_pixel, mm_per_pixel_x
        As in :func:`polyline_distances_mm`.
    """
    distances = polyline_distances_mm(boundaries, mm_per_pixel, mm_per_pixel_x)
    known = ~np.isnan(distances)
    return float(distances[known].mean()) if known.any() else float("nan")


def _distance_to_chain(points: Rows, chain: Rows) -> Rows:
    """Distance of each of (P, 2) points to the nearest point on the chain of (C, 2) corners."""
    start = chain[:-1] if len(chain) > 1 else chain
    along = (chain[1:] if len(chain) > 1 else chain) - start
    squared = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    offset = points[:, None] - start
    share = np.clip((offset * along).sum(axis=2) / squared, 0, 1)
    return np.hypot(*np.moveaxis(offset - share[..., None] * along, 2, 0)).min(axis=1)


def _independent_pairs(score_li: Rows, score_ma: Rows, min_gap: int, max_gap: int) -> Boundaries:
    padded = np.pad(score_ma, ((0, max_gap), (0, 0)), constant_values=-np.inf)
    shifts = [padded[gap : gap + len(score_li)] for gap in range(min_gap, max_gap + 1)]
    partner = np.stack(shifts)
    li = (score_li + partner.max(axis=0)).argmax(axis=0)
    gap = min_gap + partner[:, li, np.arange(len(li))].argmax(axis=0)
    return Boundaries(li, li + gap)


def _maps(*scores: ArrayLike) -> list[Rows]:
    maps = [np.asarray(score, np.float64) for score in scores]
    if maps[0].ndim != 2 or not maps[0].size or any(m.shape != maps[0].shape for m in maps):
        shapes = ", ".join(str(m.shape) for m in maps)
        raise ValueError(f"Scores must be maps of one shape (H, W). Received: {shapes}.")
    if not all(np.isfinite(m).all() for m in maps):
        raise ValueError("Scores must be finite.")
    return maps


def _same_columns(*rows: ArrayLike) -> list[Rows]:
    arrays = [np.asarray(r, np.float64) for r in rows]
    if arrays[0].ndim != 1 or any(r.shape != arrays[0].shape for r in arrays):
        shapes = ", ".join(str(r.shape) for r in arrays)
        raise ValueError(f"Rows must have one shape (W,). Received: {shapes}.")
    return arrays
