"""Many figures of merit of many methods on the same bootstrap draws of subjects.

The cluster bootstrap of :mod:`medxfer.evaluation.intervals` for curves: a statistic gives several
values at once (operating points, areas), and all methods see the same draws, so that any two are
compared in pairs. Beside the paired test stands the rule of Tajbakhsh et al. 2016, by which two
curves differ where their error bars are disjoint.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medxfer.evaluation import intervals
from medxfer.evaluation.compare import holm
from medxfer.evaluation.intervals import ANY, Interval, Limits, few

VectorStatistic = Callable[[NDArray[np.integer]], NDArray[np.float64]]

_WEIGHTS = 2**18  # at once: a block and what is formed from it stay in the cache
_ROWS = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Q figures of merit of one method, on all data and on B draws.

    Attributes
    ----------
    estimates : float64 array of shape (Q,)
        NaN where a figure has no value; it then has no interval either.
    values : float64 array of shape (B, Q)
        NaN where a draw gives no value; such draws are left out of the interval.
    clusters : int
        Number of subjects drawn from.
    cautions : tuple of Q str
        What is known against each interval from the start.
    limits : tuple of Q (low, high)
        Range of each figure; empty: they have none.
    rests : tuple of Q int
        Number of subjects on which each figure rests; empty: on all.
    parts : (Drawn, Drawn) or None
        Of a difference: what it is the difference of.
    """

    estimates: NDArray[np.float64]
    values: NDArray[np.float64]
    clusters: int
    cautions: tuple[str, ...] = ()
    limits: tuple[Limits, ...] = ()
    rests: tuple[int, ...] = ()
    parts: "tuple[Drawn, Drawn] | None" = None

    def of(self, limits: Sequence[Limits], rests: Sequence[int] = ()) -> "Drawn":
        """The same, with the ranges of its figures and the subjects on which they rest."""
        return dataclasses.replace(self, limits=tuple(limits), rests=tuple(rests))

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """Percentile interval of every figure of merit, settled at the ends of its range."""
        cautions = self.cautions or ("",) * len(self.estimates)
        columns = zip(self.estimates, self.values.T, cautions, strict=True)
        found = [
            intervals.percentiles(
                e, v, level, self.clusters, [*([own] if own else []), *few(self.clusters)]
            )
            for e, v, own in columns
        ]
        return self.settled(found, lambda part: part.intervals(level))

    def settled(
        self, found: Sequence[Interval], of: "Callable[[Drawn], Sequence[Interval]]"
    ) -> list[Interval]:
        """Intervals inside the ranges of their figures, see :func:`intervals.within`.

        Where a part of a difference reaches an end of its range, the interval is widened to that
        of the limits of both parts, which go together as the draws do (Zou and Donner, Statistics
        in Medicine 27:1693-1702, 2008).

        Parameters
        ----------
        found : Q intervals by the bootstrap
        of : callable
            Intervals of a part by the same rule.
        """
        size = len(self.estimates)
        rests = self.rests or (self.clusters,) * size
        limits = self.limits or (ANY,) * size
        settled = [
            intervals.within(each, intervals.spread(drawn, count), count, ends)
            for each, drawn, count, ends in zip(found, self.values.T, rests, limits, strict=True)
        ]
        if not self.parts or not np.isfinite(limits).any():
            return settled
        first, second = self.parts
        rows = zip(settled, of(first), of(second), limits, strict=True)
        for place, (each, one, other, ends) in enumerate(rows):
            if np.isnan([each.low, one.low, other.low]).any():
                continue
            if any(
                intervals.touches(part, drawn.limits[place])
                for part, drawn in ((one, first), (other, second))
            ):
                alike = _correlation(first.values[:, place], second.values[:, place])
                low, high = (
                    each.estimate + sign * np.sqrt(max(0.0, a * a - 2 * alike * a * b + b * b))
                    for sign, a, b in (
                        (-1, one.estimate - one.low, other.high - other.estimate),
                        (1, one.high - one.estimate, other.estimate - other.low),
                    )
                )
                low, high = max(min(low, each.low), ends[0]), min(max(high, each.high), ends[1])
                settled[place] = intervals.widened(each, low, high)
        return settled

    def with_caution(self, caution: str) -> "Drawn":
        """The same with a caution more beside every interval."""
        own = self.cautions or ("",) * len(self.estimates)
        both = tuple("; ".join(filter(None, (text, caution))) for text in own)
        return dataclasses.replace(self, cautions=both)

    def minus(self, other: "Drawn") -> "Drawn":
        """Differences on the same draws."""
        limits = tuple(
            (low - ceiling, high - floor)
            for (low, high), (floor, ceiling) in zip(self.limits, other.limits, strict=True)
        )
        return Drawn(
            self.estimates - other.estimates, self.values - other.values, self.clusters,
            limits=limits, rests=self.rests, parts=(self, other),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two methods at one figure of merit, first against second.

    Attributes
    ----------
    first, second, merit : str
    difference : Interval
        First minus second on the same draws; its p is that of the paired bootstrap test.
    holm : float
        That p adjusted over all pairs of methods at this figure of merit.
    bars_disjoint : bool
        Another rule, not a paired test: see :func:`bars_disjoint`.
    """

    first: str
    second: str
    merit: str
    difference: Interval
    holm: float
    bars_disjoint: bool


@dataclasses.dataclass(frozen=True)
class Bars:
    """Error bars of one method and how they were found.

    Attributes
    ----------
    method : str
        ``bootstrap``, or ``idca`` for those of a fitted curve; what was done, not what was asked.
    intervals : tuple of Interval
    note : str
        Why the bars are not of the kind asked for; empty if they are.
    """

    method: str
    intervals: tuple[Interval, ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Figures of merit of every method and every pair of methods.

    Attributes
    ----------
    merits : tuple of str
        Names of the Q figures of merit.
    intervals : dict
        Method to its Q bootstrap intervals.
    bars : dict
        Method to the bars that the rule of disjoint bars went by: as given for the first figures
        of merit, else the bootstrap intervals.
    differences : list of Difference
        Every pair of methods at every figure of merit.
    """

    merits: tuple[str, ...]
    intervals: dict[str, list[Interval]]
    bars: dict[str, Bars]
    differences: list[Difference]


def counts(clusters: int, draws: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """How often each of ``clusters`` is drawn: blocks of rows (b, clusters), ``draws`` in all.

    Every row sums to ``clusters``. The draws depend on the arguments alone, not on the blocks. For
    one seed they are not those of :func:`medxfer.evaluation.intervals.bootstrap`, though of the
    same distribution: counting drawn subjects is faster than drawing multinomial numbers.
    """
    if clusters < 1 or draws < 1:
        raise ValueError(f"Need at least one subject and one draw. Received: {clusters}, {draws}.")
    generator = np.random.default_rng(seed)
    rows = min(_ROWS, max(16, _WEIGHTS // clusters))
    for first in range(0, draws, rows):
        size = min(rows, draws - first)
        drawn = generator.integers(clusters, size=(size, clusters))
        drawn += clusters * np.arange(size)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=size * clusters)
        yield flat.reshape(size, clusters)


def resample(
    statistics: Mapping[str, VectorStatistic], clusters: int, *, draws: int = 1000, seed: int = 0
) -> dict[str, Drawn]:
    """Statistics of every method on all data and on the same draws.

    Parameters
    ----------
    statistics : mapping from method to callable
        Function of integer weights (B, clusters) that gives float64 (B, Q).
    clusters : int
        Number of subjects.
    draws, seed : int
    """
    whole = np.ones((1, clusters), np.intp)
    estimates = {name: statistic(whole)[0] for name, statistic in statistics.items()}
    values = {name: np.empty((draws, len(row))) for name, row in estimates.items()}
    done = 0
    for weights in counts(clusters, draws, seed):
        for name, statistic in statistics.items():
            values[name][done : done + len(weights)] = statistic(weights)
        done += len(weights)
    return {name: Drawn(estimates[name], values[name], clusters) for name in statistics}


def analyse(
    drawn: Mapping[str, Drawn],
    merits: Sequence[str],
    *,
    level: float = 0.95,
    bars: Mapping[str, Bars] | None = None,
    caution: str = "",
) -> Analysis:
    """Intervals of every method, and every pair of methods compared.

    Parameters
    ----------
    drawn : mapping from method to Drawn
        On the same draws; see :func:`resample`.
    merits : sequence of Q str
    level : float
        Nominal coverage.
    bars : mapping from method to Bars, optional
        Error bars for the rule of disjoint bars at the first figures of merit, for instance those
        of a fitted curve. Elsewhere the bootstrap intervals serve.
    caution : str
        What is known against all intervals.
    """
    drawn = {name: sample.with_caution(caution) for name, sample in drawn.items()}
    found = {name: sample.intervals(level) for name, sample in drawn.items()}
    bars = dict(bars or {name: Bars("bootstrap", tuple(row)) for name, row in found.items()})
    shown = {
        name: [*bars[name].intervals, *row[len(bars[name].intervals) :]]
        for name, row in found.items()
    }
    pairs = list(itertools.combinations(drawn, 2))
    tested = [drawn[a].minus(drawn[b]).with_caution(caution).intervals(level) for a, b in pairs]
    adjusted = [holm([row[place].p for row in tested]) for place in range(len(merits))]
    differences = [
        Difference(
            a, b, merit, tested[pair][place], float(adjusted[place][pair]),
            bars_disjoint(shown[a][place], shown[b][place]),
        )
        for pair, (a, b) in enumerate(pairs)
        for place, merit in enumerate(merits)
    ]  # fmt: skip
    return Analysis(tuple(merits), found, bars, differences)


def bars_disjoint(first: Interval, second: Interval) -> bool:
    """Whether two error bars do not overlap, the rule of Tajbakhsh et al. 2016, section IV.

    There two curves are called different (p < .05) where their 95 % bars are disjoint. For equal,
    independent errors disjoint bars mean a difference of more than 2.77 standard errors, p < .0056,
    and on the same cases, where errors go together, the rule is stricter still. Overlapping bars do
    *not* mean that p > .05: the paired test answers that. A bar without a value is not disjoint
    from any.
    """
    # Bars of a point each may differ by rounding.
    apart = max(second.low - first.high, first.low - second.high)
    return bool(apart > 1e-12)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of two figures over the draws; 0 where either does not vary."""
    known = ~np.isnan(first + second)
    first, second = first[known], second[known]
    if first.size < 2 or min(first.std(), second.std()) < intervals.ROUNDING:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
