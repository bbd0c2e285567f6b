"""Free-response ROC: sensitivity by lesion against false positives per image.

Matching: a mark inside a lesion is a hit; several marks in one lesion are one true positive with
the highest of their scores, the others are ignored; every mark outside is a false positive; a
lesion that is never marked counts in the denominator only, an image without marks counts too.

Sensitivity at a rate follows the step rule: the highest that is reached with no more false
positives per image. Where a curve ends before the rate, it is *not reached* (NaN) unless
``beyond="hold"`` asks for the last sensitivity. Whether a rate is reached is settled once, on all
the data. In the bootstrap a drawn curve that ends earlier keeps its last sensitivity: leaving such
draws out would keep those with many false positives only. The interval says how many there were.

References: D. P. Chakraborty, "Validation and statistical power comparison of methods for analyzing
free-response observer performance studies", Acad Radiol 15 (2008); mean sensitivity over 1/8 to 8
as in A. A. A. Setio et al., "LUNA16", Med Image Anal 42 (2017).
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medxfer.evaluation import _ladder, resampling, roc
from medxfer.evaluation.intervals import SHARE, SIZE, Limits, few_on_a_side
from medxfer.evaluation.marks import Marks
from medxfer.evaluation.resampling import Analysis, Bars, VectorStatistic

Beyond = Literal["nan", "hold"]
Rule = Literal["step", "linear"]

MEAN_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Empirical FROC curve.

    Attributes
    ----------
    rates : float64 array of shape (K,)
        False positives per image at every distinct score of a mark that counts; 0 first.
    sensitivity : float64 array of shape (K,)
        Share of lesions found; NaN if there is none.
    thresholds : float64 array of shape (K,)
        Falling, infinity first; a mark is called when its score reaches the threshold.
    """

    rates: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def curve(marks: Marks) -> Curve:
    """Empirical curve; sensitivity is NaN, with a warning, if there is no lesion."""
    counted = np.concatenate([marks.hits, marks.alarms])
    thresholds, place = np.unique(-marks.scores[counted], return_inverse=True)
    size, hits = len(thresholds), len(marks.hits)
    found = np.append(0, np.cumsum(np.bincount(place[:hits], minlength=size)))
    false = np.append(0, np.cumsum(np.bincount(place[hits:], minlength=size)))
    lesions = marks.lesion_counts.sum()
    if not lesions:
        warnings.warn("There is no lesion: sensitivity is undefined.", stacklevel=2)
    sensitivity = found / lesions if lesions else np.full(size + 1, np.nan)
    return Curve(false / marks.images.sum(), sensitivity, np.append(np.inf, -thresholds))


def sensitivity(
    marks: Marks, rates: ArrayLike, *, rule: Rule = "step", beyond: Beyond = "nan"
) -> NDArray[np.float64]:
    """Sensitivity at chosen false positives per image.

    Parameters
    ----------
    marks : Marks
    rates : array of shape (R,)
    rule : {"step", "linear"}
        The highest sensitivity with no more false positives, or a straight line between the
        highest sensitivities at neighbouring rates of the curve.
    beyond : {"nan", "hold"}
        Where the curve ends before the rate: not reached, or the last sensitivity.
    """
    rates, found = _rates(rates), curve(marks)
    last_of_rate = np.append(np.diff(found.rates) > 0, True)
    reached, best = found.rates[last_of_rate], found.sensitivity[last_of_rate]
    if rule == "linear":
        values = np.interp(rates, reached, best)
    elif rule == "step":
        values = best[np.searchsorted(reached, rates, side="right") - 1]
    else:
        raise ValueError(f'The rule is "step" or "linear". Received: {rule!r}.')
    return np.where((rates > reached[-1]) & (not _hold(beyond)), np.nan, values)


def area(marks: Marks, to_rate: float, *, beyond: Beyond = "nan") -> float:
    """Area under the empirical curve from 0 to ``to_rate`` false positives per image.

    Operating points are joined by straight lines, which matters only where a true and a false
    positive share a score: it counts half, as in the area under an ROC curve. Divided by
    ``to_rate`` it is a mean sensitivity. Choose ``to_rate`` as large as the shortest curve to be
    compared allows (Chakraborty 2008); see :func:`common_rate`.
    """
    (to_rate,) = _rates([to_rate])
    found = curve(marks)
    x, y = found.rates, found.sensitivity
    if to_rate > x[-1]:
        if not _hold(beyond):
            return float("nan")
        x, y = np.append(x, to_rate), np.append(y, y[-1])
    after = int(np.searchsorted(x, to_rate, side="right"))
    near = slice(after - 1, after + 1)  # the segment that crosses the limit
    end = np.interp(to_rate, x[near], y[near])
    return float(np.trapezoid(np.append(y[:after], end), np.append(x[:after], to_rate)))


def common_rate(methods: Mapping[str, Marks]) -> float:
    """False positives per image at which the shortest of the curves ends."""
    return min(len(marks.alarms) / int(marks.images.sum()) for marks in methods.values())


def mean_sensitivity(
    marks: Marks, rates: Sequence[float] = MEAN_RATES, *, rule: Rule = "step"
) -> float:
    """Mean sensitivity at 1/8, 1/4, ... 8 false positives per image.

    Beyond its end a curve keeps its last sensitivity, as in LUNA16.
    """
    return float(sensitivity(marks, rates, rule=rule, beyond="hold").mean())


def jafroc1(marks: Marks) -> float:
    """JAFROC-1: how often a lesion scores above the highest false positive of an image.

    The mean over all pairs of an image and a lesion of 1, 1/2 or 0 for higher, equal, lower
    (Chakraborty 2008). An image without false positive and a lesion without mark score minus
    infinity. NaN without lesions.
    """
    return float(_jafroc(marks)(np.ones((1, len(marks.images))))[0])


@dataclasses.dataclass(frozen=True)
class Merits:
    """Which figures of merit to compute.

    Attributes
    ----------
    rates : tuple of float
        False positives per image at which sensitivity is read.
    area_to : float, optional
        Rate up to which the area is taken.
    mean_rates : tuple of float
        Rates of the mean sensitivity; empty: none.
    jafroc : bool
        Whether to compute JAFROC-1.
    rule : {"step", "linear"}
    unit : str
        What an image is called: image, frame, volume.
    """

    rates: tuple[float, ...] = ()
    area_to: float | None = None
    mean_rates: tuple[float, ...] = MEAN_RATES
    jafroc: bool = False
    rule: Rule = "step"
    unit: str = "image"

    @property
    def names(self) -> tuple[str, ...]:
        """One for each figure of merit; where the curve ends comes last."""
        per = f"FP per {self.unit}"
        return (
            *(f"sensitivity at {rate:g} {per}" for rate in self.rates),
            *([] if self.area_to is None else [f"area to {self.area_to:g} {per}"]),
            *(["mean sensitivity"] if self.mean_rates else []),
            *(["JAFROC-1"] if self.jafroc else []),
            f"{per} in all",
            "sensitivity in all",
        )

    @property
    def limits(self) -> tuple[Limits, ...]:
        """Range of each figure of merit, in the order of :attr:`names`."""
        return (
            *(SHARE for _ in self.rates),
            *([] if self.area_to is None else [(0.0, self.area_to)]),
            *([SHARE] if self.mean_rates else []),
            *([SHARE] if self.jafroc else []),
            SIZE,
            SHARE,
        )


def weighted(marks: Marks, merits: Merits) -> VectorStatistic:
    """Figures of merit as a statistic of weights of the cases, in the order of ``merits.names``.

    The callable takes weights (B, C), as integers where they are whole, and gives float64 (B, Q).
    A curve that ends before a rate keeps its last sensitivity; without lesions, NaN.
    """
    hits, alarms = marks.hits, marks.alarms
    kernel = _ladder.Weighted(
        marks.scores[hits], marks.cases[hits], marks.scores[alarms], marks.cases[alarms],
        len(marks.images),
    )  # fmt: skip
    rates = _rates([*merits.rates, *merits.mean_rates])
    images, lesions = marks.images.astype(float), marks.lesion_counts.astype(float)
    jafroc = _jafroc(marks) if merits.jafroc else None

    def statistic(weights: NDArray) -> NDArray[np.float64]:
        curves, as_float = kernel.over(weights), weights.astype(np.float64)
        shown, to_find = as_float @ images, as_float @ lesions
        read = curves.step if merits.rule == "step" else curves.linear
        found = read(_ladder.limits(rates, shown))
        columns = list(_share(found, to_find[:, None]).T)
        columns, for_mean = columns[: len(merits.rates)], columns[len(merits.rates) :]
        if merits.area_to is not None:
            columns.append(_share(curves.area(merits.area_to * shown), shown * to_find))
        if for_mean:
            columns.append(np.mean(for_mean, axis=0))
        if jafroc:
            columns.append(jafroc(as_float))
        columns += [curves.alarms / shown, _share(curves.hits, to_find)]
        return np.stack(columns, axis=1)

    return statistic


def analyse(
    methods: Mapping[str, Marks],
    merits: Merits,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    beyond: Beyond = "nan",
    bars: Mapping[str, Bars] | None = None,
) -> Analysis:
    """Figures of merit with cluster bootstrap intervals, and every pair of methods compared.

    Parameters
    ----------
    methods : mapping from name to Marks
        On the same cases: images, lesion counts and subjects must be equal.
    merits : Merits
    draws, level, seed : int, float, int
        Number of draws of subjects, the same for all methods; nominal coverage; seed.
    beyond : {"nan", "hold"}
        Whether a rate beyond the end of a curve is not reached, or has the last sensitivity.
    bars : mapping from method to Bars, optional
        Other error bars at ``merits.rates`` for the rule of disjoint bars, for instance of
        :func:`medxfer.evaluation.idca.bars`.

    Raises
    ------
    ValueError
        If the methods saw different cases.
    """
    merged = {name: marks.by_subject() for name, marks in _paired(methods).items()}
    statistics = {name: weighted(marks, merits) for name, marks in merged.items()}
    clusters = len(next(iter(merged.values())).subjects)
    drawn = resampling.resample(statistics, clusters, draws=draws, seed=seed)
    settle = functools.partial(_settle, merits=merits, hold=_hold(beyond))
    lesions = int(np.count_nonzero(next(iter(merged.values())).lesion_counts))
    rests = [lesions] * len(merits.names)
    rests[-2] = clusters  # false positives need no lesion
    drawn = {name: settle(sample).of(merits.limits, rests) for name, sample in drawn.items()}
    caution = few_on_a_side(clusters, {"a lesion": lesions})
    return resampling.analyse(drawn, merits.names, level=level, bars=bars, caution=caution)


def _settle(sample: resampling.Drawn, merits: Merits, hold: bool) -> resampling.Drawn:
    """Say which rates the curve does not reach, and how often drawn curves end early."""
    ends, end = sample.values[:, -2], sample.estimates[-2]
    estimates, cautions = sample.estimates.copy(), [""] * len(sample.estimates)
    rates = [*merits.rates, *([] if merits.area_to is None else [merits.area_to])]
    for place, rate in enumerate(rates):
        if rate > end and not hold:
            estimates[place] = np.nan
            cautions[place] = f"not reached: the curve ends at {end:g} FP per {merits.unit}"
        elif early := int((ends < rate).sum()):
            cautions[place] = f"the curve ends before in {early} of {len(ends)} draws"
    return dataclasses.replace(sample, estimates=estimates, cautions=tuple(cautions))


def _paired(methods: Mapping[str, Marks]) -> Mapping[str, Marks]:
    if not methods:
        raise ValueError("Need at least one method.")
    first, *others = methods.values()
    for marks in others:
        for name in ("images", "lesion_counts", "subjects"):
            if not np.array_equal(getattr(marks, name), getattr(first, name)):
                raise ValueError(f"The methods must have seen the same cases; {name} differ.")
    return methods


def _jafroc(marks: Marks) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """JAFROC-1 as a statistic of weights (B, C)."""
    alarms, hits = marks.alarms, marks.hits
    frames = np.zeros_like(marks.cases) if marks.frames is None else marks.frames
    if marks.frames is None and (marks.images > 1).any():
        raise ValueError("JAFROC-1 of cases with several images needs the frame of every mark.")
    # Highest false positive of each image that has one.
    first = np.cumsum(marks.images) - marks.images
    image = first[marks.cases[alarms]] + frames[alarms]
    order = np.lexsort((-marks.scores[alarms], image))
    highest = alarms[order[np.unique(image[order], return_index=True)[1]]]
    # All that is silent in a case scores alike and stands in one entry with its number.
    cases = np.arange(len(marks.images))
    silent = marks.images - np.bincount(marks.cases[highest], minlength=cases.size)
    missed = marks.lesion_counts - np.bincount(marks.cases[hits], minlength=cases.size)
    low = np.full(cases.size, -np.inf)
    scores = np.concatenate([marks.scores[highest], low, marks.scores[hits], low])
    unit = np.concatenate([marks.cases[highest], cases, marks.cases[hits], cases])
    number = np.concatenate([np.ones(highest.size), silent, np.ones(hits.size), missed])
    labels = np.repeat([0, 1], [highest.size + cases.size, hits.size + cases.size])
    ranks = np.unique(scores, return_inverse=True)[1]
    area_under = roc.weighted_auc(labels, ranks)
    return lambda weights: area_under(weights[:, unit] * number)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _hold(beyond: str) -> bool:
    if beyond not in ("nan", "hold"):
        raise ValueError(f'Beyond the end is "nan" or "hold". Received: {beyond!r}.')
    return beyond == "hold"


def _rates(rates: ArrayLike) -> NDArray[np.float64]:
    rates = np.asarray(rates, np.float64)
    if rates.ndim != 1 or not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("Rates must be finite, not negative, and of shape (R,).")
    return rates
