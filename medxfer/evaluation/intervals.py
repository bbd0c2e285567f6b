"""Intervals that respect subjects: several measurements of one person are not independent.

The cluster bootstrap draws subjects with replacement and keeps all that belongs to a drawn one.
A statistic is a function of weights, because a subject drawn twice counts twice: it takes float64
weights of shape (B, N), one row a draw, and gives B values.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

#: Lowest and highest value that a metric can have.
Limits = tuple[float, float]

ANY: Limits = (-np.inf, np.inf)
SHARE: Limits = (0.0, 1.0)
SIZE: Limits = (0.0, np.inf)

FEW_CLUSTERS = 10
ROUNDING = 1e-12  # differences below are rounding: means of equal numbers are not always equal
_BLOCK = 2**21  # weights computed at once, so that memory does not grow with the draws


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes
    ----------
    estimate, low, high : float
        The statistic of all data; the limits, inside the range of the metric.
    p : float
        Two-sided bootstrap p-value of the statistic being 0, for differences; see
        :func:`bootstrap`.
    level : float
        Nominal coverage.
    clusters : int
        Number of subjects drawn from.
    caution : str
        Why the interval deserves less trust; empty if nothing is known against it.
    """

    estimate: float
    low: float
    high: float
    p: float
    level: float
    clusters: int
    caution: str = ""


def few(clusters: int) -> list[str]:
    """What is to be said beside an interval of so few subjects, if anything."""
    if clusters == 1:
        return ["a single subject: the interval says nothing of others"]
    if clusters < FEW_CLUSTERS:
        return [f"only {clusters} subjects: the interval is likely too narrow"]
    return []


def few_on_a_side(clusters: int, sides: Mapping[str, int]) -> str:
    """What is to be said where few of the subjects show a side of a comparison, else nothing.

    ``sides``: what a subject may show, and how many do.
    """
    shown, count = min(sides.items(), key=lambda side: side[1])
    if count >= min(FEW_CLUSTERS, clusters):
        return ""
    return f"only {count} of {clusters} subjects with {shown}: the interval is likely too narrow"


def clopper_pearson(hits: float, size: float, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a share, ``hits`` of ``size``; both may be fractions."""
    tail, misses = (1 - level) / 2, size - hits
    low = special.betaincinv(hits, misses + 1, tail) if hits > 0 else 0.0
    high = special.betaincinv(hits + 1, misses, 1 - tail) if misses > 0 else 1.0
    return float(low), float(high)


def touches(found: Interval, limits: Limits) -> bool:
    """Whether an interval reaches an end of the range of a metric that has two ends."""
    return bool(np.isfinite(limits).all() and (found.low <= limits[0] or found.high >= limits[1]))


def within(found: Interval, error: float, subjects: int, limits: Limits) -> Interval:
    """An interval inside the range of its metric, around its estimate.

    Where an interval of the bootstrap comes nearer to an end of the range than half of its width it
    is too short: 30 of 30 found do not vary, whatever is drawn. It is then widened to Clopper and
    Pearson's limits for a share of so many subjects as would vary as much (Korn and Graubard,
    Survey Methodology 24:193-201, 1998), ``subjects`` at least; if those are more than there
    are subjects, no shorter than Student's interval on the logit scale.

    Where nothing varies among n subjects, at most ``1 - ((1 - level) / 2)**(1 / n)`` of the others
    can differ from them, at most as far as the range goes. For all of n found this is Clopper and
    Pearson's limit for n subjects, as if all units of a subject were one.

    Parameters
    ----------
    found : Interval
    error : float
        Standard error by the bootstrap.
    subjects : int
        Number of those on which the metric rests, such as subjects with a lesion.
    limits : (low, high)
        Of the metric.
    """
    floor, ceiling = limits
    low, high = found.low, found.high
    if np.isnan(low) or subjects < 1:
        return found
    if np.isfinite(ceiling - floor):
        share = min(max((found.estimate - floor) / (ceiling - floor), 0.0), 1.0)
        inner, outer = share, share
        if error < ROUNDING:
            alike = ((1 - found.level) / 2) ** (1 / subjects)
            inner, outer = share * alike, 1 - (1 - share) * alike
        elif low - (found.estimate - low) <= floor or high + (high - found.estimate) >= ceiling:
            # Few subjects know their own variation badly: less by the ratio of the quantiles of
            # the normal and of Student's distribution.
            upper = (1 + found.level) / 2
            student = special.stdtrit(max(1, subjects - 1), upper)
            known, part = special.ndtri(upper) / student, error / (ceiling - floor)
            size = share * (1 - share) * (known / part) ** 2
            inner, outer = clopper_pearson(
                share * max(size, subjects), max(size, subjects), found.level
            )
            if size > subjects:  # so sure a figure that its error goes with its distance to the end
                reach = student * part / (share * (1 - share))
                logit = special.logit(share)
                inner = min(inner, special.expit(logit - reach))
                outer = max(outer, special.expit(logit + reach))
        low = min(low, floor + inner * (ceiling - floor))
        high = max(high, floor + outer * (ceiling - floor))
    return widened(found, max(low, floor), min(high, ceiling))


def widened(found: Interval, low: float, high: float) -> Interval:
    """The interval with other limits around its estimate; its p says no more than they do."""
    low, high = min(low, found.estimate), max(high, found.estimate)
    p, reach = found.p, found.estimate - low if found.estimate > 0 else high - found.estimate
    if reach > 0 and (
        low < min(found.low, found.estimate) or high > max(found.high, found.estimate)
    ):
        z = special.ndtri((1 + found.level) / 2) * abs(found.estimate) / reach
        p = max(p, float(2 * special.ndtr(-z)))
    return dataclasses.replace(found, low=float(low), high=float(high), p=p)


def bootstrap(
    statistic: Statistic,
    subjects: Sequence[str] | ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    limits: Limits = ANY,
) -> Interval:
    """Percentile interval of ``statistic`` by resampling subjects; see :func:`within`.

    The draws depend on the number of subjects and ``seed`` alone, so two methods on the same units
    are compared by a statistic that subtracts one from the other (see :func:`difference`).

    Parameters
    ----------
    statistic : callable
        Function of weights (B, N) that gives B values. NaN marks a draw in which the statistic has
        no value; such draws are left out, and the caution says how many.
    subjects : sequence of N labels
        The subject of every unit.
    draws, level, seed : int, float, int
        Number of draws B, nominal coverage and the seed.
    limits : (low, high)
        Between which the statistic lies.

    Notes
    -----
    ``p = min(1, 2 (1 + min(#(d <= 0), #(d >= 0))) / (B + 1))`` over the drawn statistics d.

    Percentile intervals are too narrow when subjects are few. In simulations of normal errors,
    twelve units a subject, half of the variance between subjects, the nominal 95 % interval of a
    mean held it in 83 % of the cases for 5 subjects, 89 % for 10, 92 % for 22 and 93 % for 40.
    Drawing units in place of subjects held it in 51 % for 12 subjects.
    """
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    if not member.size or member.ndim != 1:
        raise ValueError("The bootstrap needs one subject per unit and at least one unit.")
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"Need draws >= 1 and 0 < level < 1. Received: {draws}, {level}.")
    estimate = float(statistic(np.ones((1, member.size)))[0])
    drawn = np.concatenate([statistic(w) for w in _weights(member, len(names), draws, seed)])
    found = percentiles(estimate, drawn, level, len(names), few(len(names)))
    return within(found, spread(drawn, len(names)), len(names), limits)


def percentiles(
    estimate: float,
    drawn: NDArray[np.float64],
    level: float,
    clusters: int,
    cautions: Sequence[str] = (),
) -> Interval:
    """Interval of B drawn values, of which NaN are left out; a caution says how many."""
    if not 0 < level < 1:
        raise ValueError(f"Need 0 < level < 1. Received: {level}.")
    valid = drawn[~np.isnan(drawn)]
    if valid.size < drawn.size:
        cautions = [*cautions, f"no value in {drawn.size - valid.size} of {drawn.size} draws"]
    low = high = p = float("nan")
    if valid.size and not np.isnan(estimate):
        tail = (1 - level) / 2
        low, high = (float(q) for q in np.quantile(valid, [tail, 1 - tail]))
        fewest = min((valid <= 0).sum(), (valid >= 0).sum())
        p = min(1.0, float(2 * (1 + fewest) / (valid.size + 1)))
    return Interval(float(estimate), low, high, p, level, clusters, "; ".join(cautions))


def spread(drawn: NDArray[np.float64], subjects: int) -> float:
    """Standard error by drawn values (B,), raised by sqrt(n / (n - 1)) of n subjects."""
    valid = drawn[~np.isnan(drawn)]
    if valid.size < 2 or subjects < 2:
        return 0.0
    return float(valid.std(ddof=1) * np.sqrt(subjects / (subjects - 1)))


def mean(values: ArrayLike) -> Statistic:
    """The mean of N values as a statistic of weights."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("A mean needs finite values of shape (N,).")
    return lambda weights: weights @ values / weights.sum(axis=1)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """First minus second, on the same draws."""
    return lambda weights: first(weights) - second(weights)


def _weights(
    member: NDArray[np.intp], clusters: int, draws: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """How often each unit is drawn: blocks of rows, ``draws`` in all."""
    counts = np.random.default_rng(seed).multinomial(
        clusters, np.full(clusters, 1 / clusters), size=draws
    )
    rows = max(1, _BLOCK // member.size)
    for first in range(0, draws, rows):
        yield counts[first : first + rows, member].astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Tukey:
    """Numbers of a Tukey box plot, beside mean and standard deviation.

    Attributes
    ----------
    q1, median, q3 : float
        Quartiles, by linear interpolation.
    low, high : float
        Ends of the whiskers: the most extreme data within 1.5 interquartile ranges of the box.
    outliers : float64 array
        Data beyond the whiskers, ascending.
    mean, sd : float
        ``sd`` with divisor n - 1; NaN for a single value.
    count : int
    """

    q1: float
    median: float
    q3: float
    low: float
    high: float
    outliers: NDArray[np.float64]
    mean: float
    sd: float
    count: int


def tukey(values: ArrayLike) -> Tukey:
    """Box plot numbers of finite ``values``."""
    values = np.sort(np.asarray(values, np.float64), axis=None)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("A box plot needs at least one value, and finite ones.")
    q1, median, q3 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    reach = 1.5 * (q3 - q1)
    # With few values the fence may hold none beyond the quartile: the whisker then has no length.
    low = min(q1, float(values[values >= q1 - reach][0]))
    high = max(q3, float(values[values <= q3 + reach][-1]))
    outliers = values[(values < low) | (values > high)]
    sd = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    return Tukey(q1, median, q3, low, high, outliers, float(values.mean()), sd, values.size)
