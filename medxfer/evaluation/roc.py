"""ROC curve, its area, and DeLong's variance and paired test, in float64 throughout.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more correlated
receiver operating characteristic curves", Biometrics 44 (1988), by the mid-ranks of X. Sun, W. Xu,
IEEE Signal Processing Letters 21 (2014). The test takes units as independent; where subjects give
several, the cluster bootstrap of :mod:`medxfer.evaluation.intervals` is the honest one.
"""

import dataclasses
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from medxfer.evaluation.intervals import Statistic

Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """False and true positive rate at every distinct score.

    Parameters
    ----------
    labels : array of shape (N,)
        True or 1 for a case, False or 0 for a control.
    scores : array of shape (N,)
        Finite; a unit is called positive when its score reaches the threshold.

    Returns
    -------
    (fpr, tpr, thresholds), float64; the first point is (0, 0) at threshold infinity, the last
    (1, 1). A rate whose class is absent is NaN, with a warning.
    """
    positive, scores = _check(labels, scores)
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.append(0, np.cumsum(positive[order])[last_of_tie]).astype(np.float64)
    called = np.append(0, last_of_tie + 1).astype(np.float64)
    cases, controls = positive.sum(), (~positive).sum()
    if not cases or not controls:
        _warn_one_class()
    fpr = (called - hits) / controls if controls else np.full_like(hits, np.nan)
    tpr = hits / cases if cases else np.full_like(hits, np.nan)
    return fpr, tpr, np.append(np.inf, scores[order][last_of_tie])


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, P(X > Y) + P(X = Y) / 2; NaN with a warning if a class is absent.

    Arguments as for :func:`roc_curve`.
    """
    positive, scores = _check(labels, scores)
    cases = int(positive.sum())
    controls = positive.size - cases
    if not cases or not controls:
        _warn_one_class()
        return float("nan")
    rank_sum = stats.rankdata(scores)[positive].sum()
    return float((rank_sum - cases * (cases + 1) / 2) / (cases * controls))


def weighted_auc(labels: ArrayLike, scores: ArrayLike) -> Statistic:
    """The area as a statistic of weights, for the cluster bootstrap.

    A draw that holds one class only gives NaN.
    """
    positive, scores = _check(labels, scores)
    order = np.argsort(scores, kind="stable")
    positive = positive[order]
    first_of_tie = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = weights[:, order]
        cases = np.add.reduceat(weights * positive, first_of_tie, axis=1)
        controls = np.add.reduceat(weights * ~positive, first_of_tie, axis=1)
        below = np.cumsum(controls, axis=1) - controls / 2
        pairs = cases.sum(axis=1) * controls.sum(axis=1)
        area = (cases * below).sum(axis=1)
        return np.divide(area, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    return statistic


@dataclasses.dataclass(frozen=True)
class Area:
    """Area under one curve: estimate, DeLong variance, and normal interval clipped to [0, 1]."""

    estimate: float
    variance: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class AreaDifference:
    """First minus second area on the same units, with DeLong's paired z test."""

    estimate: float
    z: float
    p: float
    low: float
    high: float


def delong(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Area:
    """Area with DeLong's variance; NaN throughout, with a warning, if a class is absent.

    The variance is NaN where a class has one member.
    """
    areas, covariance = delong_covariance(labels, scores)
    half = _half_width(covariance[0, 0], level)
    low, high = np.clip([areas[0] - half, areas[0] + half], 0, 1)
    return Area(float(areas[0]), float(covariance[0, 0]), float(low), float(high))


def delong_test(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, level: float = 0.95
) -> AreaDifference:
    """Whether two scores of the same units have the same area.

    Where the difference has no variance, z is 0 and p is 1 if the areas agree, else z is infinite
    and p is 0.
    """
    areas, covariance = delong_covariance(labels, first, second)
    estimate = areas[0] - areas[1]
    contrast = np.array([1.0, -1.0])
    # Rounding may leave a tiny negative variance where the two curves are one.
    variance = np.maximum(contrast @ covariance @ contrast, 0.0)
    sd = np.sqrt(variance)
    if sd > 0:
        z = estimate / sd
    else:
        z = np.nan if np.isnan(sd) else np.copysign(np.inf, estimate) if estimate else 0.0
    half = _half_width(variance, level)
    return AreaDifference(
        float(estimate), float(z), float(2 * special.ndtr(-abs(z))),
        float(estimate - half), float(estimate + half),
    )  # fmt: skip


def delong_covariance(
    labels: ArrayLike, *scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas (K,) of K scores of the same units and their covariance (K, K)."""
    checked = [_check(labels, score) for score in scores]
    positive = checked[0][0]
    cases, controls = int(positive.sum()), int((~positive).sum())
    if not cases or not controls:
        _warn_one_class()
        return np.full(len(scores), np.nan), np.full((len(scores), len(scores)), np.nan)
    of_cases = np.empty((len(scores), cases))
    of_controls = np.empty((len(scores), controls))
    for k, (_, score) in enumerate(checked):
        rank = stats.rankdata(score)
        of_cases[k] = (rank[positive] - stats.rankdata(score[positive])) / controls
        of_controls[k] = 1 - (rank[~positive] - stats.rankdata(score[~positive])) / cases
    areas = of_cases.mean(axis=1)
    if min(cases, controls) < 2:
        return areas, np.full((len(scores), len(scores)), np.nan)
    covariance = np.cov(of_cases) / cases + np.cov(of_controls) / controls
    return areas, np.atleast_2d(covariance)


def _half_width(variance: float, level: float) -> float:
    return float(special.ndtri((1 + level) / 2) * np.sqrt(variance))


def _check(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"Need one label per score: {labels.shape}, {scores.shape}.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels must be 0 and 1, or False and True.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores must be finite.")
    return labels.astype(np.bool_), scores


def _warn_one_class() -> None:
    warnings.warn("Only one class is present: the ROC curve is undefined.", stacklevel=3)
