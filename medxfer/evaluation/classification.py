"""Classification of images: AUC, accuracy, F1 and calibration, with intervals over subjects.

Labels are class indices (N,), of which every image has one, or 0 and 1 for every class (N, C),
where an image may show several things or none (multi-label). Probabilities are (N, C): a softmax
whose rows sum to 1, or one sigmoid a class. The predicted class is the most probable one, the first
of equal ones; of several labels those with a probability of 0.5 or more.

============================ ======================================================================
AUC                          Area under the ROC curve, one class against the rest; mean over
                             classes. Of two classes that of the second, which is also the first's.
balanced accuracy            Mean over classes of the sensitivity; multi-label: of the mean of
                             sensitivity and specificity.
macro F1                     Mean over classes of 2 TP / (2 TP + FP + FN).
accuracy                     Share of images whose class is right; multi-label: share of labels.
ECE                          Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML
                             2017): mean absolute difference between probability and frequency over
                             15 bins of equal width, weighted by their size. Of the predicted class;
                             multi-label: of all labels together.
exact match                  Multi-label: share of images with all labels right.
============================ ======================================================================

A class that has no value (nothing of it, or nothing else, is there) is left out of a mean, in the
whole set and in every draw of the bootstrap alike: a draw has the value that the drawn images would
have. The ECE of few images is too high, since chance parts frequency from probability in small
bins, and that of a bootstrap draw is higher still: read its interval as an upper bound.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from medxfer.evaluation import resampling, roc
from medxfer.evaluation.intervals import SHARE
from medxfer.evaluation.resampling import Analysis, VectorStatistic

AUC, BALANCED, F1, ACCURACY, ECE = "AUC", "balanced accuracy", "macro F1", "accuracy", "ECE"
EXACT = "exact match"
BINS = 15
PER_CLASS = 20  # more classes than these have no figures of merit of their own


def summary(multilabel: bool = False) -> tuple[str, ...]:
    """Names of the figures of merit of all classes together, the first of :func:`merits`."""
    return (AUC, BALANCED, F1, ACCURACY, ECE) + ((EXACT,) if multilabel else ())


def merits(classes: Sequence[str], multilabel: bool = False) -> tuple[str, ...]:
    """Names of the figures of merit of :func:`weighted`, in its order."""
    names = summary(multilabel)
    if len(classes) > PER_CLASS:
        return names
    areas = classes if multilabel or len(classes) > 2 else ()
    return (
        *names,
        *(f"AUC: {name}" for name in areas),
        *(f"sensitivity: {name}" for name in classes),
    )


def called(probabilities: ArrayLike, multilabel: bool = False) -> NDArray[np.bool_]:
    """Which classes are predicted, bool (N, C); see the top of this module."""
    probabilities = np.asarray(probabilities, np.float64)
    if multilabel:
        return probabilities >= 0.5
    return probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])


def confusion(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.int64]:
    """How often which class (row) was taken for which (column), int64 (C, C).

    Multi-label: int64 (C, 2, 2), of every class absent and present against not called and called.
    """
    truth, probabilities, multilabel = _check(labels, probabilities)
    found = called(probabilities, multilabel)
    if not multilabel:
        return truth.T.astype(np.int64) @ found.astype(np.int64)
    return np.array(
        [
            [[np.sum((truth[:, k] == t) & (found[:, k] == f)) for f in (0, 1)] for t in (0, 1)]
            for k in range(truth.shape[1])
        ],
        np.int64,
    )


def macro_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve, one class against the rest, as :data:`AUC`; NaN if none has one."""
    truth, probabilities, multilabel = _check(labels, probabilities)
    return float(_mean(_areas(truth, probabilities, multilabel)[None])[0])


def _areas(truth: NDArray, probabilities: NDArray, multilabel: bool) -> NDArray[np.float64]:
    """Area of every class, of two exclusive ones of the second alone."""
    return np.array(
        [
            roc.auc(truth[:, k], probabilities[:, k]) if _has_area(truth[:, k]) else np.nan
            for k in _columns(truth, multilabel)
        ]
    )


def _columns(truth: NDArray, multilabel: bool) -> range:
    count = truth.shape[1]
    return range(1, 2) if count == 2 and not multilabel else range(count)


def _has_area(truth: NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())


def weighted(
    labels: ArrayLike, probabilities: ArrayLike, subjects: Sequence[str] | ArrayLike
) -> VectorStatistic:
    """All figures of merit as a statistic of subjects' weights.

    The callable takes weights (B, S) of the S subjects in sorted order, as integers where they are
    whole, and gives float64 (B, Q) in the order of :func:`merits`.

    Parameters
    ----------
    labels, probabilities : arrays of shape (N,) or (N, C), and (N, C)
        See the top of this module.
    subjects : sequence of N labels
    """
    truth, probabilities, multilabel = _check(labels, probabilities)
    by_subject = _by_subject(subjects, len(truth))
    classes = truth.shape[1]
    found = called(probabilities, multilabel)
    gaps = _binned(*_confidence(truth, probabilities, multilabel), by_subject.shape[1])[1]
    table = np.hstack(
        [
            by_subject @ np.hstack([truth & found, truth, found]).astype(np.float64),
            by_subject @ (truth == found).all(axis=1, keepdims=True).astype(np.float64),
            by_subject @ np.ones((len(truth), 1)),
            by_subject @ gaps,
        ]
    )
    areas = [_Area(truth[:, k], probabilities[:, k]) for k in _columns(truth, multilabel)]
    member = np.unique(np.asarray(subjects), return_inverse=True)[1]

    def statistic(weights: NDArray) -> NDArray[np.float64]:
        sums = weights.astype(np.float64) @ table
        hits, support, calls = (sums[:, k * classes : (k + 1) * classes] for k in range(3))
        exact, count = sums[:, 3 * classes, None], sums[:, 3 * classes + 1, None]
        sensitivity = _ratio(hits, support)
        of_images = weights.T[member].astype(np.float64)
        area = np.stack([each(of_images) for each in areas], axis=1)
        values = [_mean(area)[:, None]]
        if multilabel:
            rejected = count - support - calls + hits
            balanced = (sensitivity + _ratio(rejected, count - support)) / 2
            accuracy = _ratio((hits + rejected).sum(axis=1, keepdims=True), classes * count)
            values += [_mean(balanced)[:, None]]
        else:
            accuracy = _ratio(exact, count)
            values += [_mean(sensitivity)[:, None]]
        gap = np.abs(sums[:, 3 * classes + 2 :]).sum(axis=1, keepdims=True)
        values += [
            _mean(_ratio(2 * hits, support + calls))[:, None],
            accuracy,
            _ratio(gap, count * (classes if multilabel else 1)),
        ]
        if multilabel:
            values.append(_ratio(exact, count))
        if classes <= PER_CLASS:
            values += ([area] if area.shape[1] > 1 or multilabel else []) + [sensitivity]
        return np.hstack(values)

    return statistic


def analyse(
    labels: ArrayLike,
    methods: Mapping[str, ArrayLike],
    subjects: Sequence[str] | ArrayLike,
    classes: Sequence[str],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Analysis:
    """Figures of merit with cluster bootstrap intervals, and every pair of methods.

    Parameters
    ----------
    labels : array of shape (N,) or (N, C)
    methods : mapping from name to probabilities of shape (N, C)
        Of the same images.
    subjects : sequence of N labels
    classes : sequence of C str
    draws, level, seed : int, float, int
        Number of draws of subjects, the same for all methods; nominal coverage; seed.
    """
    statistics = {name: weighted(labels, found, subjects) for name, found in methods.items()}
    clusters = len(np.unique(np.asarray(subjects)))
    names, rests = merits(classes, np.ndim(labels) == 2), _rests(labels, subjects, classes)
    drawn = {
        name: sample.of([SHARE] * len(names), rests)
        for name, sample in resampling.resample(
            statistics, clusters, draws=draws, seed=seed
        ).items()
    }
    return resampling.analyse(drawn, names, level=level)


def _rests(
    labels: ArrayLike, subjects: Sequence[str] | ArrayLike, classes: Sequence[str]
) -> list[int]:
    """On how many subjects each of :func:`merits` rests.

    A sensitivity on those that show its class; an area, and a mean over classes, on the fewest that
    show or lack one, of classes that have both.
    """
    labels, subjects = np.asarray(labels), np.asarray(subjects)
    multilabel = labels.ndim == 2
    truth = labels.astype(bool) if multilabel else labels[:, None] == np.arange(len(classes))
    sides = [
        tuple(roc.two_sides(column, subjects, "with", "without").values()) for column in truth.T
    ]
    showing = [max(1, side[0]) for side in sides]
    either = [max(1, min(side)) for side in sides]
    everyone = len(np.unique(subjects))
    mean = min((min(side) for side in sides if min(side)), default=everyone)
    found = [everyone if name in (ACCURACY, ECE, EXACT) else mean for name in summary(multilabel)]
    if len(classes) <= PER_CLASS:
        found += (either if multilabel or len(classes) > 2 else []) + showing
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """How often what is called probable is true, by bins of probability of equal width.

    Attributes
    ----------
    counts : int64 array of shape (15,)
        Probabilities in each bin, its upper edge included.
    probability, frequency : float64 arrays of shape (15,)
        Means of the probabilities and of what was true; NaN for an empty bin.
    low, high : float64 arrays of shape (15,)
        Interval of the frequency by bootstrap over subjects.
    ece : float
        The mean of their absolute difference, weighted by ``counts``.
    """

    counts: NDArray[np.int64]
    probability: NDArray[np.float64]
    frequency: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ece: float


def reliability(
    labels: ArrayLike,
    probabilities: ArrayLike,
    subjects: Sequence[str] | ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Reliability:
    """Calibration of the predicted class; multi-label: of all labels together.

    Arguments as for :func:`weighted` and :func:`analyse`.
    """
    truth, probabilities, multilabel = _check(labels, probabilities)
    by_subject = _by_subject(subjects, len(truth))
    members, gaps, right = _binned(
        *_confidence(truth, probabilities, multilabel), by_subject.shape[1]
    )
    table = np.hstack([by_subject @ right, by_subject @ members])

    def statistic(weights: NDArray) -> NDArray[np.float64]:
        sums = weights.astype(np.float64) @ table
        return _ratio(sums[:, :BINS], sums[:, BINS:])

    drawn = resampling.resample({"": statistic}, len(table), draws=draws, seed=seed)[""]
    shown = np.count_nonzero(by_subject @ members, axis=0)
    bars = drawn.of([SHARE] * BINS, np.maximum(shown, 1).tolist()).intervals()
    counts, right, gap = (part.sum(axis=0) for part in (members, right, gaps))
    return Reliability(
        counts.astype(np.int64),
        _ratio(right - gap, counts),
        _ratio(right, counts),
        np.array([bar.low for bar in bars]),
        np.array([bar.high for bar in bars]),
        float(np.abs(gap).sum() / counts.sum()),
    )


def _confidence(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], multilabel: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities (N, K) whose calibration counts, and whether what they stand for is true."""
    if multilabel:
        return probabilities, truth
    most = probabilities.argmax(axis=1)[:, None]
    return tuple(np.take_along_axis(part, most, axis=1) for part in (probabilities, truth))


def _binned(
    confidence: NDArray[np.float64], true: NDArray[np.bool_], images: int
) -> tuple[NDArray[np.float64], ...]:
    """Of every image and bin (N, 15): probabilities, their true ones less their sum, true ones."""
    place = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    cell = (np.arange(images)[:, None] * BINS + place).ravel()
    return tuple(
        np.bincount(cell, np.ravel(values), images * BINS).reshape(images, BINS)
        for values in (np.ones_like(confidence), true - confidence, true.astype(np.float64))
    )


def _by_subject(subjects: Sequence[str] | ArrayLike, images: int) -> sparse.csr_array:
    """Matrix (S, N) that adds up what belongs to each subject, in sorted order."""
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    if member.shape != (images,):
        raise ValueError(f"Need one subject per image: {member.shape}, {images}.")
    return sparse.csr_array((np.ones(images), (member, np.arange(images))), (len(names), images))


def _ratio(above: NDArray, below: NDArray) -> NDArray[np.float64]:
    """Quotient, NaN where ``below`` is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the columns that have a value, (B, C) to (B,); NaN if none has."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


class _Area:
    """Area under one ROC curve under many weights of its images.

    The kernel of :mod:`medxfer.evaluation.roc` is made for operating points and few cases; here,
    where classes are many and each image is a case of one, sums over the sorted controls are
    several times faster.
    """

    def __init__(self, truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
        self._cases, controls = np.flatnonzero(truth), np.flatnonzero(~truth)
        self._controls = controls[np.argsort(scores[controls], kind="stable")]
        ranked = scores[self._controls]
        self._below, self._up_to = (
            np.searchsorted(ranked, scores[self._cases], side) for side in ("left", "right")
        )

    def __call__(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of weights (N, B), float64 (B,); NaN where a draw holds one class only."""
        sums = np.zeros((len(self._controls) + 1, weights.shape[1]))
        np.cumsum(weights[self._controls], axis=0, out=sums[1:])
        cases = weights[self._cases]
        wins = np.einsum("nb,nb->b", cases, sums[self._below] + sums[self._up_to]) / 2
        return _ratio(wins, cases.sum(axis=0) * sums[-1])


def _check(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64], bool]:
    """Truth bool (N, C), probabilities float64 (N, C), and whether there may be several labels."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not len(probabilities) or probabilities.shape[1] < 1:
        raise ValueError(f"Probabilities must be of shape (N, C). Received: {probabilities.shape}.")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("Probabilities must be from 0 to 1.")
    if labels.shape == probabilities.shape and np.isin(labels, (0, 1)).all():
        return labels.astype(np.bool_), probabilities, True
    classes = np.arange(probabilities.shape[1])
    if labels.shape != (len(probabilities),) or not np.isin(labels, classes).all():
        raise ValueError(
            f"Labels must be class indices, or 0 and 1 for every class: {labels.shape}, "
            f"{probabilities.shape}."
        )
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise ValueError("Probabilities of classes that exclude each other must sum to 1.")
    return labels[:, None] == classes, probabilities, False
