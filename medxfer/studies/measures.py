"""Figures of merit of an app's results as statistics of the subjects' weights.

An app's own ``metrics`` and ``compare`` are about single runs. A study averages over seeds and
compares many methods on the same draws, so it needs the statistics behind them. They follow from
what the results are: marks (free response), scores of labelled units (ROC), or errors of units.
An app of another kind gives a function ``study_measures(methods)`` that returns :class:`Measures`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy import special

from data_prep.errors import UserError
from medxfer.evaluation import compare, family, froc, roc
from medxfer.evaluation.intervals import SIZE, Limits
from medxfer.evaluation.resampling import VectorStatistic

MEAN_ERROR = "mean_interface_error_um"

#: Method -> results of an app, one for each seed.
Methods = Mapping[str, Sequence]


@dataclasses.dataclass(frozen=True)
class Measures:
    """What a study computes of an app's results.

    Attributes
    ----------
    merits : tuple of Q str
    primary : str
        The one by which methods are ranked.
    higher_is_better : bool
    statistics : dict
        Method -> one statistic a seed, in the form of :mod:`medxfer.evaluation.family`.
    clusters : int
        Number of test subjects.
    tests : callable or None
        Further paired tests.
    limits : tuple of Q (low, high)
        Range of each figure of merit.
    sides : dict
        Of figures that compare two sides: see :func:`medxfer.evaluation.family.analyse`.
    cautions : tuple of str
        What is known against the figures.
    shown : tuple of str
        Figures of merit in figures and short tables: not too many.
    """

    merits: tuple[str, ...]
    primary: str
    higher_is_better: bool
    statistics: dict[str, list[VectorStatistic]]
    clusters: int
    tests: family.Tests | None = None
    shown: tuple[str, ...] = ()
    limits: tuple[Limits, ...] = ()
    sides: family.Sides | None = None
    cautions: tuple[str, ...] = ()

    @property
    def fewest(self) -> int:
        """Subjects that show what the fewest show."""
        return family.fewest(self.clusters, self.sides)

    def better(self, first: float, second: float) -> bool:
        """Whether one value of the primary figure of merit is better than another."""
        return first > second if self.higher_is_better else first < second


def of(app: ModuleType, methods: Methods) -> Measures:
    """Measures of results of an app.

    Raises
    ------
    UserError
        If methods were scored on different units, or the app's results are of no known kind.
    """
    results = [result for seeds in methods.values() for result in seeds]
    units = sorted(_units(results[0]))
    if any(sorted(_units(result)) != units for result in results[1:]):
        raise UserError("The runs were scored on different units: they are not of the same data.")
    if hasattr(app, "study_measures"):
        return app.study_measures(methods)
    if hasattr(results[0], "marks"):
        return _free_response(app, methods)
    if hasattr(results[0], "labels"):
        return _roc(app, methods)
    if hasattr(app, "errors"):
        return _errors(app, methods)
    raise UserError(f"App {app.__name__.rpartition('.')[2]} does not say how to compare methods.")


def _units(results: Sequence) -> list[str]:
    return [result.unit for result in results]


def _free_response(app: ModuleType, methods: Methods) -> Measures:
    merits: froc.Merits = app.MERITS
    statistics, clusters, ends = {}, 0, np.inf
    for name, seeds in methods.items():
        marks = [results.marks().by_subject() for results in seeds]
        ends = min([ends, *(len(m.alarms) / m.images.sum() for m in marks)])
        statistics[name] = [
            _leading(froc.weighted(m, merits), len(merits.names) - 2) for m in marks
        ]
        clusters = len(marks[0].subjects)
    names = merits.names[:-2]  # where a curve ends is a matter of the candidates alone
    area = next((name for name in names if name.startswith("area")), names[0])
    sides = {"a lesion": int(np.count_nonzero(marks[0].lesion_counts)), "images": clusters}
    return Measures(
        names, area, True, statistics, clusters, shown=names,
        limits=merits.limits[: len(names)], sides=sides, cautions=_ends(merits, ends),
    )  # fmt: skip


def _ends(merits: froc.Merits, end: float) -> tuple[str, ...]:
    """What is to be said where the shortest curve ends before a rate that is asked for."""
    furthest = max([*merits.rates, merits.area_to or 0.0])
    if end >= furthest:
        return ()
    return (
        f"with all their marks methods reach {end:.3g} false positives per {merits.unit}, so at "
        f"{furthest:g} the sensitivity is that at the end of the curve",
    )


def _leading(statistic: VectorStatistic, count: int) -> VectorStatistic:
    return lambda weights: statistic(weights)[:, :count]


def _roc(app: ModuleType, methods: Methods) -> Measures:
    statistics, scores = {}, {}
    for name, seeds in methods.items():
        ordered = [sorted(results, key=lambda result: result.unit) for results in seeds]
        scores[name] = [np.array([r.score for r in results]) for results in ordered]
    labels = np.array([r.label for r in ordered[0]])
    subjects = [r.subject for r in ordered[0]]
    for name, seeds in scores.items():
        statistics[name] = [roc.weighted(labels, s, subjects, app.RATES, (1.0,)) for s in seeds]

    def tests(first: str, second: str, merit: str) -> dict[str, float]:
        if merit != "AUC":
            return {}
        return {"delong": delong(labels, scores[first], scores[second])}

    named = roc.merits(app.RATES)
    names, count = tuple(named), len(set(subjects))
    sides = roc.two_sides(labels, subjects, "a positive unit", "a negative unit")
    limits = tuple(named.values())
    return Measures(names, "AUC", True, statistics, count, tests, names, limits, sides)


def delong(labels: NDArray, first: Sequence[NDArray], second: Sequence[NDArray]) -> float:
    """Two-sided p of the difference of two mean areas; DeLong's covariance of all areas."""
    areas, covariance = roc.delong_covariance(labels, *first, *second)
    contrast = np.repeat([1 / len(first), -1 / len(second)], [len(first), len(second)])
    difference, variance = contrast @ areas, max(0.0, contrast @ covariance @ contrast)
    if not variance > 0:
        return float("nan") if np.isnan(variance) else float(abs(difference) < 1e-12)
    return float(2 * special.ndtr(-abs(difference) / np.sqrt(variance)))


def _errors(app: ModuleType, methods: Methods) -> Measures:
    values: dict[str, list[dict[str, NDArray]]] = {}
    for name, seeds in methods.items():
        ordered = [sorted(results, key=lambda result: result.unit) for results in seeds]
        values[name] = [_with_mean(app.errors(results)) for results in ordered]
    subjects = np.array([result.subject for result in ordered[0]])
    names, member = np.unique(subjects, return_inverse=True)
    # A measure that an earlier version did not have is left out.
    of_all = [set(value) for seeds in values.values() for value in seeds]
    merits = tuple(merit for merit in values[name][0] if all(merit in own for own in of_all))
    statistics = {
        method: [
            _means(np.stack([v[merit] for merit in merits], axis=1), member, len(names))
            for v in seeds
        ]
        for method, seeds in values.items()
    }

    def tests(first: str, second: str, merit: str) -> dict[str, float]:
        a, b = (np.mean([v[merit] for v in values[name]], axis=0) for name in (first, second))
        means = [compare.subject_means(x, subjects)[1] for x in (a, b)]
        return {
            "paired_t": compare.paired_t(a, b),
            "wilcoxon": compare.wilcoxon(a, b),
            "wilcoxon_subjects": compare.wilcoxon(*means),
        }

    limits = tuple({MEAN_ERROR: SIZE, **app.LIMITS}[merit] for merit in merits)
    return Measures(merits, MEAN_ERROR, False, statistics, len(names), tests, merits[:3], limits)


def _with_mean(errors: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Errors of units, the mean of the two interfaces first."""
    both = [errors[f"{name}_error_um"] for name in ("lumen_intima", "media_adventitia")]
    return {MEAN_ERROR: np.mean(both, axis=0), **errors}


def _means(values: NDArray, member: NDArray, count: int) -> VectorStatistic:
    """Means over units (N, Q) as a statistic of weights of their subjects."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, member, values)
    sizes = np.bincount(member, minlength=count).astype(np.float64)

    def statistic(weights: NDArray) -> NDArray[np.float64]:
        weights = weights.astype(np.float64)
        return (weights @ sums) / (weights @ sizes)[:, None]

    return statistic
