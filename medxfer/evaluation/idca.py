"""Parametric FROC curves by initial detection and candidate analysis (IDCA), with error bars.

D. C. Edwards, M. A. Kupinski, C. E. Metz, R. M. Nishikawa, "Maximum likelihood fitting of FROC
curves under an initial-detection-and-candidate-analysis model", Med Phys 29 (2002), as restated by
D. P. Chakraborty, Acad Radiol 15 (2008). Marks are candidates: the scores of false positives follow
N(0, 1) and those of true positives N(a / b, 1 / b^2) on some rising scale of the score, so that
with z = probit(x / lambda) sensitivity at x false positives per image is nu * Phi(a + b z). lambda
false positives per image and the share nu of lesions are where the curve ends.

Error bars are by the delta method and take candidates as independent. Where subjects give several,
the cluster bootstrap of :mod:`medxfer.evaluation.froc` is the honest one; :func:`bars` offers
either and falls back to it, saying so, where no curve can be fitted.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy.special import log_ndtr, ndtr, ndtri

from medxfer.evaluation import froc
from medxfer.evaluation.intervals import SHARE, Interval, within
from medxfer.evaluation.marks import Marks
from medxfer.evaluation.resampling import Bars

MOST_CLASSES, FEWEST_CLASSES = 20, 4
FEWEST_MARKS = 5  # false and true positives in every class of scores


class NoFit(ValueError):
    """Scores to which the model cannot be fitted; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted curve.

    Attributes
    ----------
    false_rate : float
        lambda, false positives per image where the curve ends.
    found : float
        nu, share of lesions found there.
    a, b : float
        Shape of the curve.
    covariance : float64 array of shape (2, 2)
        Of a and b.
    images, lesions : int, optional
        Numbers that lambda and nu are estimated from; None if they are known, as the 1 and 1 of a
        plain ROC curve.
    classes : int
        Classes of scores in the fit.
    clusters : int
        Subjects, for the record.
    """

    false_rate: float
    found: float
    a: float
    b: float
    covariance: NDArray[np.float64]
    images: int | None
    lesions: int | None
    classes: int = 0
    clusters: int = 0

    def sensitivity(self, rates: ArrayLike) -> NDArray[np.float64]:
        """Sensitivity at false positives per image (R,); NaN at and beyond the end."""
        rates, z = self._probit(rates)
        return np.where(rates < self.false_rate, self.found * ndtr(self.a + self.b * z), np.nan)

    def gradient(self, rates: ArrayLike) -> NDArray[np.float64]:
        """Derivatives of the sensitivity by nu, a, b and lambda: (R,) to (R, 4)."""
        rates, z = self._probit(rates)
        u = self.a + self.b * z
        slope = self.found * _density(u)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            by_end = -slope * self.b * rates / (self.false_rate**2 * _density(z))
        return np.stack([ndtr(u), slope, slope * z, by_end], axis=-1)

    def sd(self, rates: ArrayLike) -> NDArray[np.float64]:
        """Standard deviation of the sensitivity (R,) by the delta method.

        nu has a binomial, lambda a Poisson variance; (a, b), nu and lambda are independent.
        """
        variance = np.zeros((4, 4))
        if self.lesions:
            variance[0, 0] = self.found * (1 - self.found) / self.lesions
        variance[1:3, 1:3] = self.covariance
        if self.images:
            variance[3, 3] = self.false_rate / self.images
        gradient = self.gradient(rates)
        return np.sqrt(np.einsum("ri,ij,rj->r", gradient, variance, gradient))

    def intervals(
        self,
        rates: ArrayLike,
        *,
        level: float = 0.95,
        scale: Literal["linear", "logit"] = "linear",
    ) -> tuple[Interval, ...]:
        """Normal intervals at the rates, clipped to [0, 1], or symmetric on the logit scale.

        Where the curve is so steep that it has no error, :func:`intervals.within` bounds it.
        """
        if not 0 < level < 1:
            raise ValueError(f"Need 0 < level < 1. Received: {level}.")
        if scale not in ("linear", "logit"):
            raise ValueError(f'The scale is "linear" or "logit". Received: {scale!r}.')
        values = np.atleast_1d(self.sensitivity(rates))
        half = ndtri((1 + level) / 2) * np.atleast_1d(self.sd(rates))
        if scale == "linear":
            ends = np.clip([values - half, values + half], 0, 1)
        else:
            width = half / (values * (1 - values))
            centre = np.log(values / (1 - values))
            ends = 1 / (1 + np.exp(-(centre + np.array([[-1], [1]]) * width)))
        caution = "candidates are taken as independent"
        late = f"not reached: the curve ends at {self.false_rate:g}"
        found = [
            Interval(float(value), float(low), float(high), math.nan, level, self.clusters,
                     late if math.isnan(value) else caution)
            for value, low, high in zip(values, *np.where(np.isnan(values), np.nan, ends),
                                        strict=True)
        ]  # fmt: skip
        sure = 1e-6  # far below what any number of lesions can show
        return tuple(
            within(each, 0.0, self.clusters, SHARE) if width < sure else each
            for each, width in zip(found, half, strict=True)
        )

    def _probit(self, rates: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rates = np.asarray(rates, np.float64)
        if not (rates > 0).all():
            raise ValueError("A fitted curve is read at rates above 0.")
        return rates, ndtri(np.where(rates < self.false_rate, rates / self.false_rate, np.nan))


def fit(marks: Marks) -> Fit:
    """Fit the curve of a method by maximum likelihood on classes of scores.

    Of several marks in one lesion the highest is the candidate.

    Raises
    ------
    NoFit
        If there are fewer than 4 classes of scores with 5 false and 5 true positives each, the
        true positives are separated perfectly, or the fit does not converge.
    """
    false, true = marks.scores[marks.alarms], marks.scores[marks.hits]
    a, b, covariance, classes = _binormal(false, true)
    images, lesions = int(marks.images.sum()), int(marks.lesion_counts.sum())
    clusters = len(np.unique(marks.subjects))
    return Fit(
        false.size / images, true.size / lesions, a, b, covariance, images, lesions, classes,
        clusters,
    )  # fmt: skip


def fit_roc(labels: ArrayLike, scores: ArrayLike) -> Fit:
    """Binormal ROC curve: the same with lambda = nu = 1, both known.

    Parameters
    ----------
    labels : array of shape (N,)
        True or 1 for a case, False or 0 for a control.
    scores : array of shape (N,)

    Raises
    ------
    NoFit
        As for :func:`fit`.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    if positive.ndim != 1 or positive.shape != scores.shape or not np.isfinite(scores).all():
        raise ValueError(f"Need one finite score per label: {positive.shape}, {scores.shape}.")
    a, b, covariance, classes = _binormal(scores[~positive], scores[positive])
    return Fit(1.0, 1.0, a, b, covariance, None, None, classes, positive.size)


def bars(
    methods: Mapping[str, Marks],
    rates: Sequence[float],
    *,
    kind: Literal["idca", "bootstrap"] = "idca",
    level: float = 0.95,
    scale: Literal["linear", "logit"] = "linear",
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Bars]:
    """Error bars of the sensitivity at chosen rates, of the kind asked for.

    A method that cannot be fitted gets the empirical curve with bootstrap bars; ``Bars.method``
    says what was done and ``Bars.note`` why.

    Parameters
    ----------
    methods : mapping from name to Marks
        On the same cases.
    rates : sequence of float
        False positives per image, above 0.
    kind : {"idca", "bootstrap"}
    level : float
    scale : {"linear", "logit"}
        Of the bars of fitted curves.
    draws, seed : int
        Of the bootstrap.
    """
    if kind not in ("idca", "bootstrap"):
        raise ValueError(f'Bars are "idca" or "bootstrap". Received: {kind!r}.')
    merits = froc.Merits(tuple(rates), mean_rates=())
    found: dict[str, Bars] = {}
    for name, marks in methods.items():
        note = ""
        if kind == "idca":
            try:
                ends = fit(marks).intervals(rates, level=level, scale=scale)
            except NoFit as reason:
                note = f"empirical curve with bootstrap bars, as {reason}"
            else:
                found[name] = Bars("idca", ends)
                continue
        drawn = froc.analyse({name: marks}, merits, draws=draws, level=level, seed=seed)
        found[name] = Bars("bootstrap", tuple(drawn.intervals[name][: len(rates)]), note)
    return found


def classes(false: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """False and true positives in at most 20 ordered classes of scores, lowest first: (K,), (K,).

    Twenty classes of equal mean share of the two kinds are merged from the highest score down until
    each holds five of either; what is left at the bottom joins the last one. Cutting wherever the
    fifth member is reached would give more classes, and a bias of the cuts: each would lie at a
    member of the rarer kind.
    """
    scores, place = np.unique(np.concatenate([false, true]), return_inverse=True)
    is_true = np.repeat([False, True], [len(false), len(true)])
    false_counts, true_counts = (
        np.bincount(place[is_true == kind], minlength=len(scores))[::-1] for kind in (False, True)
    )
    share = false_counts / max(1, len(false)) + true_counts / max(1, len(true))
    cuts = np.searchsorted(np.cumsum(share), 2 * np.arange(1, MOST_CLASSES) / MOST_CLASSES) + 1
    ends = [0]
    for end in np.unique(np.minimum([*cuts, len(scores)], len(scores))):
        members = (c[ends[-1] : end].sum() for c in (false_counts, true_counts))
        if min(members) >= FEWEST_MARKS:
            ends.append(int(end))
    if len(ends) == 1:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    return tuple(np.add.reduceat(c, ends[:-1])[::-1] for c in (false_counts, true_counts))


def _binormal(
    false: NDArray[np.float64], true: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64], int]:
    """a, b, their covariance and the number of classes."""
    counts = classes(false, true)
    size = len(counts[0])
    if false.size and true.size and (true.min() > false.max() or true.max() < false.min()):
        raise NoFit("true and false positives are perfectly separated")
    if size < FEWEST_CLASSES:
        raise NoFit(
            f"only {size} classes of scores hold {FEWEST_MARKS} false and {FEWEST_MARKS} true "
            f"positives; {FEWEST_CLASSES} are needed"
        )
    # Start: a line through the probits of the points of the empirical curve.
    x, y = (ndtri(np.cumsum(c[::-1])[:-1] / c.sum()) for c in counts)
    b, a = np.polyfit(x, y, 1)
    cuts = -x[::-1]
    start = np.concatenate([[a, np.log(max(b, 0.05)), cuts[0]], np.log(np.diff(cuts))])

    def objective(free: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        steps = np.exp(np.clip(free[3:], -50, 50))
        theta = np.concatenate(
            [[free[0], np.exp(np.clip(free[1], -50, 50))], free[2] + np.append(0, np.cumsum(steps))]
        )
        value, gradient, _ = _likelihood(theta, counts)
        later = np.cumsum(gradient[:2:-1])[::-1]  # a step moves every cut beyond it
        free_gradient = [gradient[0], gradient[1] * theta[1], gradient[2:].sum(), *(later * steps)]
        return -value, -np.array(free_gradient)

    result = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-4})
    cuts = result.x[2] + np.append(0, np.cumsum(np.exp(np.clip(result.x[3:], -50, 50))))
    theta = np.concatenate([[result.x[0], np.exp(np.clip(result.x[1], -50, 50))], cuts])
    for _ in range(3):  # Newton's steps settle the last digits
        _, gradient, curvature = _likelihood(theta, counts)
        if not (np.isfinite(curvature).all() and np.linalg.eigvalsh(curvature).max() < 0):
            raise NoFit("the fit did not converge")
        theta = theta - np.linalg.solve(curvature, gradient)
    value, gradient, curvature = _likelihood(theta, counts)
    settled = np.isfinite(value) and np.abs(gradient).max() < 1e-6 * sum(c.sum() for c in counts)
    if not settled or theta[1] <= 0 or np.linalg.eigvalsh(curvature).max() >= 0:
        raise NoFit("the fit did not converge")
    return float(theta[0]), float(theta[1]), np.linalg.inv(-curvature)[:2, :2], size


def _likelihood(
    theta: NDArray[np.float64], counts: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihood, gradient and Hessian at (a, b, cuts); cuts rise."""
    a, b, cuts = theta[0], theta[1], theta[2:]
    size = len(theta)
    of_false = np.zeros((len(cuts), size))
    of_false[:, 2:] = np.eye(len(cuts))
    of_true = np.hstack([np.full((len(cuts), 1), -1.0), cuts[:, None], b * np.eye(len(cuts))])
    total, gradient, curvature = 0.0, np.zeros(size), np.zeros((size, size))
    for kind, points, jacobian in zip(counts, (cuts, b * cuts - a), (of_false, of_true),
                                      strict=True):  # fmt: skip
        value, slope, bend = _cells(points, kind)
        total += value
        gradient += jacobian.T @ slope
        curvature += jacobian.T @ bend @ jacobian
    # The points of the true positives are bilinear in b and the cuts.
    cross = np.arange(2, size)
    curvature[1, cross] += slope
    curvature[cross, 1] += slope
    return total, gradient, curvature


def _cells(
    points: NDArray[np.float64], counts: NDArray[np.intp]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """``sum counts ln(Phi(next point) - Phi(point))``, gradient and Hessian by the points."""
    edges = np.concatenate([[-np.inf], points, [np.inf]])
    # In the upper tail differences of 1 - Phi keep their digits.
    low, high = np.where(edges[:-1] > 0, -edges[1:], edges[:-1]), np.where(
        edges[:-1] > 0, -edges[:-1], edges[1:]
    )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        log_cells = log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
        inverse = np.exp(-log_cells)
    density = _density(points)
    first = counts * inverse
    slope = density * (first[:-1] - first[1:])
    second = counts * inverse**2
    bend = np.diag(-points * slope - density**2 * (second[:-1] + second[1:]))
    beside = density[:-1] * density[1:] * second[1:-1]
    bend += np.diag(beside, 1) + np.diag(beside, -1)
    return float(counts @ log_cells), slope, bend


def _density(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
