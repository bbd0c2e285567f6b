"""Paired comparisons of methods on the same units.

The p-values printed by Tajbakhsh et al. 2016 (supplement, Table S4) fit a paired t-test. Errors are
skewed, so the signed-rank test stands beside it; units of one subject are not independent, so do
the same test on subject means and the cluster bootstrap.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medxfer.evaluation import intervals
from medxfer.evaluation.intervals import Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two methods, first against second.

    Attributes
    ----------
    first, second : str
    difference : Interval
        Mean of first minus second, with cluster bootstrap interval.
    rank_biserial : float
        Matched-pairs effect size, from -1 (first always lower) to 1; see :func:`rank_biserial`.
    p, holm : dict
        P-values by test, ``paired_t``, ``wilcoxon``, ``wilcoxon_subjects`` (on subject means) and
        ``bootstrap``, plain and adjusted over all the pairs compared.
    """

    first: str
    second: str
    difference: Interval
    rank_biserial: float
    p: dict[str, float]
    holm: dict[str, float]


def compare(
    errors: Mapping[str, ArrayLike],
    subjects: Sequence[str] | ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every pair of methods.

    Parameters
    ----------
    errors : mapping from method to array of shape (N,)
        One finite error per unit; the same units in the same order for all methods.
    subjects : sequence of N labels
    draws, seed : int
        Of the bootstrap; the same draws serve all pairs.
    """
    values = {name: np.asarray(error, np.float64) for name, error in errors.items()}
    if any(v.shape != np.shape(subjects) or not np.isfinite(v).all() for v in values.values()):
        raise ValueError("Every method needs one finite error per unit.")
    means = {name: subject_means(v, subjects)[1] for name, v in values.items()}
    found = []
    for a, b in itertools.combinations(values, 2):
        statistic = intervals.difference(intervals.mean(values[a]), intervals.mean(values[b]))
        interval = intervals.bootstrap(statistic, subjects, draws=draws, seed=seed)
        p = {
            "paired_t": paired_t(values[a], values[b]),
            "wilcoxon": wilcoxon(values[a], values[b]),
            "wilcoxon_subjects": wilcoxon(means[a], means[b]),
            "bootstrap": interval.p,
        }
        found.append(Comparison(a, b, interval, rank_biserial(values[a], values[b]), p, {}))
    for test in found[0].p if found else ():
        for comparison, adjusted in zip(found, holm([c.p[test] for c in found]), strict=True):
            comparison.holm[test] = float(adjusted)
    return found


def subject_means(
    values: ArrayLike, subjects: Sequence[str] | ArrayLike
) -> tuple[NDArray, NDArray[np.float64]]:
    """Subjects, sorted, and the mean of each one's values."""
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    counts = np.bincount(member)
    return names, np.bincount(member, weights=np.asarray(values, np.float64)) / counts


def wilcoxon(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p of the signed-rank test; zero differences dropped, ties by mid-ranks.

    1 if no difference is left. Exact where SciPy can, else the normal approximation.
    """
    differences = _differences(first, second)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if differences.size else 1.0


def paired_t(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p of the paired t-test.

    NaN for fewer than two pairs; if all differences are one value, 1 for zero and 0 otherwise.
    """
    differences = _differences(first, second)
    if differences.size < 2:
        return float("nan")
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(differences.size))
    return float(2 * stats.t.sf(abs(t), differences.size - 1))


def rank_biserial(first: ArrayLike, second: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014).

    The share of the signed-rank sum where first is larger minus the share where it is smaller; 0
    if nothing differs.
    """
    differences = _differences(first, second)
    differences = differences[differences != 0]
    ranks = stats.rankdata(np.abs(differences))
    return float(ranks @ np.sign(differences) / ranks.sum()) if differences.size else 0.0


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted by Holm's step-down method, in the order given.

    NaN stays NaN and does not count as a test.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def _differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"Pairs need arrays of one shape (N,): {first.shape}, {second.shape}.")
    return first - second
