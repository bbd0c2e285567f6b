"""ROC curve, its area, and DeLong's variance and paired test, in float64 throughout.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more correlated
receiver operating characteristic curves", Biometrics 44 (1988), by the mid-ranks of X. Sun, W. Xu,
IEEE Signal Processing Letters 21 (2014). The test takes units as independent; where subjects give
several, the cluster bootstrap of :mod:`medxfer.evaluation.intervals` is the honest one.

Sensitivity at a false positive rate follows the step rule: the highest that is reached with no
higher rate. :func:`analyse` gives it with cluster bootstrap intervals and compares methods in
pairs.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from medxfer.evaluation import _ladder, resampling
from medxfer.evaluation.intervals import (
    ROUNDING,
    SHARE,
    Interval,
    Limits,
    Statistic,
    few_on_a_side,
    within,
)
from medxfer.evaluation.resampling import Analysis, Bars, VectorStatistic

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


def sensitivity(labels: ArrayLike, scores: ArrayLike, rates: ArrayLike) -> NDArray[np.float64]:
    """Highest true positive rate at chosen false positive rates (step rule).

    Parameters
    ----------
    labels, scores : arrays of shape (N,)
        As for :func:`roc_curve`.
    rates : array of shape (R,)
        0 to 1.
    """
    rates = _rates(rates)
    fpr, tpr, _ = roc_curve(labels, scores)
    if np.isnan(fpr[0]):
        return np.full(rates.shape, np.nan)
    return tpr[np.searchsorted(fpr, rates, side="right") - 1]


def partial_auc(labels: ArrayLike, scores: ArrayLike, to_rate: float) -> float:
    """Area under the ROC curve from 0 to the false positive rate ``to_rate``; at most ``to_rate``.

    Straight lines join the points of the curve, as for :func:`auc`.
    """
    (to_rate,) = _rates([to_rate])
    fpr, tpr, _ = roc_curve(labels, scores)
    if np.isnan(fpr[0]) or np.isnan(tpr[0]):
        return float("nan")
    after = int(np.searchsorted(fpr, to_rate, side="right"))
    near = slice(after - 1, after + 1)  # the segment that crosses the limit
    end = np.interp(to_rate, fpr[near], tpr[near])
    return float(np.trapezoid(np.append(tpr[:after], end), np.append(fpr[:after], to_rate)))


def weighted(
    labels: ArrayLike,
    scores: ArrayLike,
    subjects: Sequence[str] | ArrayLike,
    rates: Sequence[float] = (),
    area_to: Sequence[float] = (1.0,),
) -> VectorStatistic:
    """Sensitivities at ``rates``, then areas to ``area_to``, as a statistic of subjects' weights.

    The callable takes weights (B, S) of the S subjects in sorted order, as integers where they are
    whole, and gives float64 (B, Q). A draw that holds one class only gives NaN.
    """
    positive, scores = _check(labels, scores)
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    if member.shape != positive.shape:
        raise ValueError(f"Need one subject per score: {member.shape}, {scores.shape}.")
    kernel = _ladder.Weighted(
        scores[positive], member[positive], scores[~positive], member[~positive], len(names)
    )
    rates, area_to = _rates(rates), _rates(area_to)

    def statistic(weights: NDArray) -> NDArray[np.float64]:
        curves = kernel.over(weights)
        limits = _ladder.limits(rates, curves.alarms)
        areas = [curves.area(rate * curves.alarms) for rate in area_to]
        hits = curves.hits[:, None]
        pairs = hits * np.tile(curves.alarms[:, None], len(areas))
        whole = np.hstack([np.tile(hits, len(rates)), pairs])
        both = (hits > 0) & (curves.alarms[:, None] > 0)
        values = np.hstack([curves.step(limits), np.array(areas).T.reshape(len(weights), -1)])
        return np.divide(values, whole, out=np.full(values.shape, np.nan), where=both)

    return statistic


def merits(rates: Sequence[float], area_to: Sequence[float] = (1.0,)) -> dict[str, Limits]:
    """Names of the figures of merit of :func:`weighted`, in its order, and their ranges."""
    return {f"sensitivity at FPR {rate:g}": SHARE for rate in rates} | {
        "AUC" if rate == 1 else f"partial AUC to FPR {rate:g}": (0.0, float(rate))
        for rate in area_to
    }


def two_sides(
    labels: ArrayLike, subjects: Sequence[str] | ArrayLike, shown: str, other: str
) -> dict[str, int]:
    """How many subjects show a positive and a negative unit, by the names given."""
    member, positive = np.asarray(subjects), np.asarray(labels).astype(bool)
    return {
        shown: len(np.unique(member[positive])),
        other: len(np.unique(member[~positive])),
    }


def analyse(
    labels: ArrayLike,
    methods: Mapping[str, ArrayLike],
    subjects: Sequence[str] | ArrayLike,
    *,
    rates: Sequence[float] = (),
    area_to: Sequence[float] = (1.0,),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    bars: Mapping[str, Bars] | None = None,
) -> Analysis:
    """Sensitivities and areas with cluster bootstrap intervals, and every pair of methods.

    Parameters
    ----------
    labels : array of shape (N,)
    methods : mapping from name to scores of shape (N,)
        Of the same units.
    subjects : sequence of N labels
    rates, area_to : sequences of float
        False positive rates at which sensitivity is read and to which the area is taken.
    draws, level, seed : int, float, int
        Number of draws of subjects, the same for all methods; nominal coverage; seed.
    bars : mapping from method to Bars, optional
        Other error bars at ``rates`` for the rule of disjoint bars.
    """
    statistics = {
        name: weighted(labels, scores, subjects, rates, area_to) for name, scores in methods.items()
    }
    clusters = len(np.unique(np.asarray(subjects)))
    drawn = resampling.resample(statistics, clusters, draws=draws, seed=seed)
    named = merits(rates, area_to)
    sides = two_sides(labels, subjects, "a positive", "a negative")
    rests = [min(sides.values())] * len(named)
    drawn = {name: sample.of(named.values(), rests) for name, sample in drawn.items()}
    caution = few_on_a_side(clusters, sides)
    return resampling.analyse(drawn, list(named), level=level, bars=bars, caution=caution)


@dataclasses.dataclass(frozen=True)
class Area:
    """Area under one curve: estimate, DeLong variance, and normal interval inside [0, 1].

    Without variance the interval is :func:`medxfer.evaluation.intervals.within`'s.
    """

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
    found = _normal(labels, areas[0], covariance[0, 0], level, SHARE)
    return Area(found.estimate, float(covariance[0, 0]), found.low, found.high)


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
    found = _normal(labels, estimate, variance, level, (-1.0, 1.0))
    p = float(2 * special.ndtr(-abs(z)))
    return AreaDifference(found.estimate, float(z), p, found.low, found.high)


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


def _normal(
    labels: ArrayLike, estimate: float, variance: float, level: float, limits: Limits
) -> Interval:
    """Normal interval that ends at its range; units are taken as independent."""
    half = special.ndtri((1 + level) / 2) * np.sqrt(variance)
    low, high = np.clip([estimate - half, estimate + half], *limits)
    units = min(np.count_nonzero(labels), np.count_nonzero(np.logical_not(labels)))
    found = Interval(float(estimate), float(low), float(high), np.nan, level, int(units))
    return within(found, 0.0, units, limits) if half < ROUNDING else found


def _check(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"Need one label per score: {labels.shape}, {scores.shape}.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels must be 0 and 1, or False and True.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores must be finite.")
    return labels.astype(np.bool_), scores


def _rates(rates: ArrayLike) -> NDArray[np.float64]:
    rates = np.asarray(rates, np.float64)
    if rates.ndim != 1 or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError("False positive rates must be 0 to 1, of shape (R,).")
    return rates


def _warn_one_class() -> None:
    warnings.warn("Only one class is present: the ROC curve is undefined.", stacklevel=3)
