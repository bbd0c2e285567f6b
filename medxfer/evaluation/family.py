"""A family of methods, each trained with several seeds, compared in pairs by two rules.

The tables S1 to S4 of Tajbakhsh et al. 2016: one says at which operating points the error bars of
two curves are disjoint, the other gives p-values. Here every pair has both the rule of disjoint
bars and a paired test with Holm's correction, which are not the same question:

* *Bars disjoint*: each bar says where one method would lie with other subjects. For independent
  methods disjoint 95 % bars mean p < .0056; on the same subjects the rule is stricter still.
* *Paired test*: the difference of the two on the same subjects, so that what makes a subject hard
  for both cancels out; p-values are raised to allow for the number of pairs.

A method's figure of merit is its mean over seeds, on the same draws of subjects for all methods.
The intervals are about other subjects; how much a seed matters is said beside them.

Subjects are few as a rule, and percentiles of the bootstrap are then too narrow: with 10 subjects
nominal 95 % intervals hold the truth in 90 %, and paired tests find a difference that is not there
in 10 % (``benchmarks/coverage.py``). Here an interval is the estimate and t times its bootstrap
standard error to either side (Efron and Tibshirani 1993, chapter 12), with the error raised by
sqrt(n / (n - 1)) (Hesterberg, The American Statistician 69(4):371-386, 2015), which for a mean is
Student's interval. The p-value follows from the same t.

An area or a sensitivity compares two sides, positives and negatives, and rests on as few subjects
as show the rarer one. Where not every subject shows both, error and degrees of freedom are those of
two means of such samples (Welch, Biometrika 34:28-35, 1947, for equal variances).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medxfer.evaluation import resampling
from medxfer.evaluation.compare import holm
from medxfer.evaluation.intervals import ANY, FEW_CLUSTERS, ROUNDING, Interval, Limits
from medxfer.evaluation.resampling import VectorStatistic, bars_disjoint

ALPHA = 0.05
DRAWS = 2000  # standard errors are then known to 2 %
BARS, PAIRED = "bars", "paired"
RULES = {
    BARS: "the 95 % error bars do not overlap",
    PAIRED: "paired test on the same subjects, Holm-adjusted p < .05",
}

#: What a test subject may show -> number of subjects that do; two of them, or none.
Sides = Mapping[str, int]

#: (first method, second method, figure of merit) -> test -> p
Tests = Callable[[str, str, str], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two methods at one figure of merit, first minus second.

    Attributes
    ----------
    difference : Interval
        On the same draws of subjects.
    p, holm : dict
        By test, plain and adjusted over all pairs at this figure of merit; ``bootstrap`` is there
        always, and never below :func:`least_p`.
    bars_disjoint : bool
    effect : float
        Difference over its standard deviation between subjects, Cohen's d of paired measurements
        for a mean; from the bootstrap error times the root of the number of subjects. NaN without
        an interval.
    """

    first: str
    second: str
    merit: str
    difference: Interval
    p: dict[str, float]
    holm: dict[str, float]
    bars_disjoint: bool
    effect: float

    def differs(self, rule: str) -> bool:
        """Whether the two differ, by a rule of :data:`RULES`."""
        return self.bars_disjoint if rule == BARS else self.holm["bootstrap"] < ALPHA


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods with their intervals, and pairs of them.

    Attributes
    ----------
    merits : tuple of Q str
    intervals : dict
        Method -> Q intervals of the mean over its seeds.
    by_seed : dict
        Method -> float64 (seeds, Q), estimates of single seeds.
    pairs : list of Pair
    clusters : int
        Number of subjects.
    cautions : tuple of str
        What the numbers cannot show.
    """

    merits: tuple[str, ...]
    intervals: dict[str, list[Interval]]
    by_seed: dict[str, NDArray[np.float64]]
    pairs: list[Pair]
    clusters: int
    cautions: tuple[str, ...]

    def interval(self, method: str, merit: str) -> Interval:
        """Interval of a method at a figure of merit."""
        return self.intervals[method][self.merits.index(merit)]

    def spread(self, method: str, merit: str) -> float:
        """Standard deviation over seeds, divisor n - 1; NaN for a single seed."""
        values = self.by_seed[method][:, self.merits.index(merit)]
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def pair(self, first: str, second: str, merit: str) -> Pair:
        """A pair in either order: first minus second.

        Raises
        ------
        KeyError
            If the two were not compared.
        """
        for pair in self.pairs:
            if pair.merit == merit and {pair.first, pair.second} == {first, second}:
                return pair if pair.first == first else _turned(pair)
        raise KeyError((first, second, merit))


def analyse(
    methods: Mapping[str, Sequence[VectorStatistic]],
    merits: Sequence[str],
    clusters: int,
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    tests: Tests | None = None,
    limits: Limits | Sequence[Limits] = ANY,
    sides: Sides | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> Family:
    """Compare methods.

    Parameters
    ----------
    methods : mapping from method to statistics, one a seed
        Functions of weights (B, clusters) of the subjects that give float64 (B, Q).
    merits : sequence of Q str
    clusters : int
        Number of subjects.
    pairs : iterable of (first, second), optional
        Default: every two.
    tests : callable, optional
        Further tests of a pair at a figure of merit.
    limits : (low, high), or one for each figure of merit
        Between which it lies; intervals end there.
    sides : mapping, optional
        Of figures that compare two sides: what a subject may show, such as a positive unit, and
        how many subjects show it.
    draws : int, optional
        Default: :data:`DRAWS`.
    seed : int
        Of the draws.
    """
    pairs = list(itertools.combinations(methods, 2) if pairs is None else pairs)
    least = least_p(fewest(clusters, sides))
    whole = np.ones((1, clusters), np.intp)
    by_seed = {
        name: np.concatenate([statistic(whole) for statistic in statistics])
        for name, statistics in methods.items()
    }
    means = {name: mean_of(statistics) for name, statistics in methods.items()}
    drawn = {
        name: with_limits(sample, limits, sides)
        for name, sample in resampling.resample(
            means, clusters, draws=draws or DRAWS, seed=seed
        ).items()
    }
    intervals = {name: student(sample, sides=sides) for name, sample in drawn.items()}
    samples = {pair: drawn[pair[0]].minus(drawn[pair[1]]) for pair in pairs}
    gaps = {pair: student(sample, sides=sides) for pair, sample in samples.items()}
    found: list[Pair] = []
    for place, merit in enumerate(merits):
        tested = []
        for first, second in pairs:
            difference = gaps[first, second][place]
            p = {
                "bootstrap": max(difference.p, least),
                **(tests(first, second, merit) if tests else {}),
            }
            tested.append((first, second, difference, p))
        names = list(dict.fromkeys(name for *_, p in tested for name in p))
        adjusted = {name: holm([p.get(name, np.nan) for *_, p in tested]) for name in names}
        for number, (first, second, difference, p) in enumerate(tested):
            own = {name: float(adjusted[name][number]) for name in p}
            apart = bars_disjoint(intervals[first][place], intervals[second][place])
            size = _effect(difference, samples[first, second].values[:, place], sides)
            found.append(Pair(first, second, merit, difference, p, own, apart, size))
    return Family(
        tuple(merits), intervals, by_seed, found, clusters, cautions(clusters, len(pairs), sides)
    )


def with_limits(
    sample: resampling.Drawn, limits: Limits | Sequence[Limits], sides: Sides | None = None
) -> resampling.Drawn:
    """A sample with the range of its figures, one for all or one for each."""
    count = len(sample.estimates)
    each = np.broadcast_to(np.asarray(limits, np.float64), (count, 2))
    rests = (fewest(sample.clusters, sides),) * count
    return sample.of([(float(low), float(high)) for low, high in each], rests)


def student(
    sample: resampling.Drawn, level: float = 0.95, sides: Sides | None = None
) -> list[Interval]:
    """Intervals of t times the bootstrap standard error; NaN for a single subject on a side.

    At the ends of a figure's range they are settled by :meth:`resampling.Drawn.settled`.

    Parameters
    ----------
    sample : Drawn
    level : float
        Nominal coverage.
    sides : mapping, optional
        See :func:`analyse`.
    """
    freedom, factor = _small_sample(sample.clusters, sides)
    found = []
    for estimate, values in zip(sample.estimates, sample.values.T, strict=True):
        low = high = p = np.nan
        valid = values[~np.isnan(values)]
        if freedom and valid.size > 1 and not np.isnan(estimate):
            error = valid.std(ddof=1) * factor
            if max(error, abs(estimate)) < ROUNDING:
                error = estimate = 0.0
            reach = special.stdtrit(freedom, (1 + level) / 2) * error
            low, high = estimate - reach, estimate + reach
            # Where no draw differs from another, only a difference of 0 is no difference.
            t = abs(estimate) / error if error else np.inf if estimate else 0.0
            p = 2 * special.stdtr(freedom, -t)
        lost = values.size - valid.size
        caution = f"no value in {lost} of {values.size} draws" if lost else ""
        numbers = map(float, (estimate, low, high, p))
        found.append(Interval(*numbers, level, sample.clusters, caution))
    return sample.settled(found, lambda part: student(part, level, sides))


def fewest(clusters: int, sides: Sides | None) -> int:
    """Subjects that show what the fewest show, of so many in all."""
    return min([clusters, *(sides or {}).values()])


def _small_sample(clusters: int, sides: Sides | None) -> tuple[float, float]:
    """Degrees of freedom, and what a bootstrap standard error is to be multiplied by.

    The bootstrap takes (n - 1) / n of the variance of n subjects, on each side. 0 degrees where
    there is but one subject on a side.
    """
    counts = np.array(list((sides or {}).values()) or [clusters, clusters], np.float64)
    if clusters < 2 or counts.min() < 2:
        return 0.0, np.nan
    variance = (1 / counts).sum()
    welch = variance**2 / (1 / (counts**2 * (counts - 1))).sum()
    factor = np.sqrt(variance / ((counts - 1) / counts**2).sum())
    return float(min(clusters - 1, welch)), float(factor)


def _effect(difference: Interval, drawn: NDArray[np.float64], sides: Sides | None) -> float:
    """The difference over its standard deviation, from the error by drawn differences (B,)."""
    if np.isnan(difference.low):
        return float("nan")
    if difference.estimate == 0:
        return 0.0
    error = np.nanstd(drawn, ddof=1) * _small_sample(difference.clusters, sides)[1]
    if error < ROUNDING:
        return float("nan")
    return float(difference.estimate / error / np.sqrt(difference.clusters))


def least_p(clusters: int) -> float:
    """The smallest two-sided p that so many subjects can support, ``2 / 2**clusters``.

    Without a difference each subject favours either method with probability one half, so that all
    favour the same one this often. The t-test knows no such bound, but takes it from the subjects'
    being alike by a normal distribution, which so few cannot show.
    """
    return min(1.0, 2 * 0.5**clusters)


def mean_of(statistics: Sequence[VectorStatistic]) -> VectorStatistic:
    """The mean of several statistics on the same draws."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def cautions(clusters: int, pairs: int, sides: Sides | None = None) -> tuple[str, ...]:
    """What so few subjects cannot show."""
    shown, few = min((sides or {}).items(), key=lambda side: side[1], default=("", clusters))
    those = _subjects(few) + (f" with {shown}" if few < clusters else "")
    found = []
    if few < 2:
        found.append(f"there is {'one' if few else 'no'} {those[2:]}: no interval can be given")
    elif few < FEW_CLUSTERS:
        found.append(
            f"there are only {those}: intervals hold what they promise only if subjects differ "
            "about as by a normal distribution"
        )
    least = least_p(few)
    if pairs and few > 1 and least * pairs >= ALPHA:
        found.append(
            f"{those} support no p below {least:.2g}, so after Holm's correction over {pairs} "
            "pairs of methods none of these pairs can be told apart, however large the difference"
        )
    return tuple(found)


def _subjects(count: int) -> str:
    return f"{count} test subject{'' if count < 2 else 's'}"


def matrix(
    family: Family, methods: Sequence[str], rule: str, merits: Sequence[str] | None = None
) -> list[list[tuple[str, ...]]]:
    """Where every two methods differ: the layout of tables S1 to S3.

    Returns
    -------
    list of rows
        Row i holds, for every method before the i-th, the figures of merit at which they differ.
    """
    merits = tuple(merits or family.merits)
    return [
        [
            tuple(merit for merit in merits if family.pair(row, column, merit).differs(rule))
            for column in methods[:place]
        ]
        for place, row in enumerate(methods)
    ]


def _turned(pair: Pair) -> Pair:
    old = pair.difference
    turned = dataclasses.replace(old, estimate=-old.estimate, low=-old.high, high=-old.low)
    return dataclasses.replace(
        pair, first=pair.second, second=pair.first, difference=turned, effect=-pair.effect
    )
