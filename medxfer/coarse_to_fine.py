"""Confidence maps whose head is evaluated only where an interface may be.

The head is nine tenths of the work of a dense map, and nearly all of a region is background. So the
head is first evaluated on a coarse grid; rows around all that stands out in a column are then
evaluated on finer columns, and the rest is interpolated.
"""

import typing

import numpy as np
from scipy import interpolate, ndimage

if typing.TYPE_CHECKING:
    import tensorflow as tf

    from medxfer.dense import DenseMap


class CoarseToFine(typing.NamedTuple):
    """Map of one region and where the head was evaluated for it.

    Attributes
    ----------
    probabilities : np.ndarray
        float32 (H, W, classes).
    evaluated : np.ndarray
        bool (H, W): pixels whose nearest position was evaluated; elsewhere it is interpolated.
    """

    probabilities: np.ndarray
    evaluated: np.ndarray


def coarse_to_fine(
    dense: "DenseMap",
    roi: np.ndarray,
    *,
    coarse: tuple[int, int] = (2, 8),
    fine_columns: int = 4,
    keep: float = 0.3,
    reach: int = 1,
    features: "tf.Tensor | None" = None,
) -> CoarseToFine:
    """Map one region, evaluating the head at a quarter of its positions or fewer.

    Class 0 is background; every other class is an interface that crosses all columns.

    Parameters
    ----------
    dense
        The network on whole regions, calibrated or not.
    roi
        As :class:`medxfer.dense.DenseMap` takes it.
    coarse
        Distance of rows and of columns of the coarse grid, in positions.
    fine_columns
        Distance of columns on which bands of rows are evaluated.
    keep
        A coarse position stands out if an interface has there at least this share of its highest
        probability in the column. Several peaks of one column are all kept.
    reach
        Rows evaluated on either side of a position that stands out, in its own and in
        neighbouring coarse columns.
    features
        What ``dense.features(roi)`` gives, where it is known already.
    """
    features = dense.features(roi) if features is None else features
    shape = dense.grid(roi)
    rows, columns = (_every(step, count) for step, count in zip(coarse, shape, strict=True))
    values = dense.probabilities(features, _positions(rows, columns))
    values = values.reshape(len(rows), len(columns), -1)

    interfaces = values[..., 1:]
    outstanding = np.zeros(shape, bool)
    outstanding[np.ix_(rows, columns)] = (interfaces >= keep * interfaces.max(0)).any(-1)
    band = ndimage.maximum_filter(outstanding, (2 * reach + 1, 2 * coarse[1] + 1))

    fine = _every(fine_columns, shape[1])
    known = np.zeros(shape, bool)
    known[np.ix_(rows, columns)] = True
    wanted = band & ~known & np.isin(np.arange(shape[1]), fine)
    rough = _linear(rows, _linear(columns, values, shape[1], axis=1), shape[0], axis=0)
    if wanted.any():
        rough[wanted] = dense.probabilities(features, np.argwhere(wanted))
    whole = _linear(fine, rough[:, fine], shape[1], axis=1)
    nearest = (
        np.minimum(np.rint(np.arange(length - 2 * dense.margin) / dense.spacing), count - 1)
        for length, count in zip(roi.shape, shape, strict=True)
    )
    evaluated = (known | wanted)[np.ix_(*(places.astype(int) for places in nearest))]
    return CoarseToFine(dense.to_pixels(whole, roi), evaluated)


def _every(step: int, count: int) -> np.ndarray:
    """Every ``step``-th of ``count`` indices, and the last."""
    return np.unique(np.append(np.arange(0, count, step), count - 1))


def _positions(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def _linear(known: np.ndarray, values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Values at indices ``known`` of an axis, interpolated at all ``count`` indices."""
    if len(known) == count:
        return values
    line = interpolate.make_interp_spline(known, values, k=1, axis=axis)
    return line(np.arange(count)).astype(values.dtype)
