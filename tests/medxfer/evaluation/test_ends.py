"""Intervals at the ends of a range, against SciPy's exact binomial limits and by simulation."""

import numpy as np
import pytest
from scipy import stats

from medxfer.evaluation import classification, family, froc, idca, intervals, roc
from medxfer.evaluation.marks import Marks

N = 30


def exact(hits, size, level=0.95):
    found = stats.binomtest(hits, size).proportion_ci(level, method="exact")
    return found.low, found.high


def ends(found):
    return found.low, found.high


@pytest.mark.parametrize(("hits", "size"), [(0, 5), (5, 5), (1, 30), (29, 30), (200, 400)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_clopper_pearson(hits, size, level):
    found = intervals.clopper_pearson(hits, size, level)
    assert found == pytest.approx(exact(hits, size, level), abs=1e-12)


class TestAllFound:
    """30 of 30 subjects: the limit of the binomial, however many units a subject has."""

    @pytest.mark.parametrize("each", [1, 7])
    def test_roc(self, each):
        subjects = np.repeat(np.arange(2 * N), each)
        labels = subjects < N
        found = roc.analyse(labels, {"a": labels + 0.0}, subjects, rates=(0.0, 0.1), draws=50)
        for interval in found.intervals["a"]:
            assert ends(interval) == pytest.approx(exact(N, N))
        turned = roc.analyse(labels, {"a": 0.0 - labels}, subjects, draws=50).intervals["a"][0]
        assert ends(turned) == pytest.approx(exact(0, N))

    def test_partial_area(self):
        labels = np.arange(2 * N) < N
        found = roc.analyse(
            labels, {"a": labels + 0.0}, np.arange(2 * N), area_to=(0.2,), draws=50
        ).intervals["a"][0]
        assert ends(found) == pytest.approx(0.2 * np.array(exact(N, N)))

    @pytest.mark.parametrize("each", [1, 5])
    def test_froc(self, each):
        cases = np.repeat(np.arange(N), each)
        marks = Marks(
            np.ones(N * each), cases, np.tile(np.arange(each), N), np.ones(N, int),
            np.full(N, each), np.arange(N),
        )  # fmt: skip
        merits = froc.Merits((1.0,), area_to=4.0, jafroc=True)
        found = froc.analyse({"a": marks}, merits, draws=50, beyond="hold").intervals["a"]
        for interval, top in zip(found, (1, 4, 1, 1), strict=False):
            assert ends(interval) == pytest.approx(top * np.array(exact(N, N)))

    def test_few_with_a_lesion(self):
        """4 of 40 subjects have a lesion: the sensitivity rests on those 4."""
        lesions = (np.arange(40) < 4).astype(int)
        marks = Marks(np.ones(4), np.arange(4), np.zeros(4, int), np.ones(40, int), lesions,
                      np.arange(40))  # fmt: skip
        found = froc.analyse({"a": marks}, froc.Merits((1.0,)), draws=50, beyond="hold")
        assert ends(found.intervals["a"][0]) == pytest.approx(exact(4, 4))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_classification(self, classes):
        labels = np.arange(N * classes) % classes
        names = [f"c{k}" for k in range(classes)]
        found = classification.analyse(
            labels, {"a": np.eye(classes)[labels]}, np.arange(labels.size), names, draws=50
        )
        for merit, interval in zip(found.merits, found.intervals["a"], strict=True):
            if merit == "accuracy":
                expected = exact(labels.size, labels.size)
            elif merit == "ECE":
                expected = exact(0, labels.size)
            else:
                expected = exact(N, N)
            assert ends(interval) == pytest.approx(expected), merit

    def test_calibration_bins(self):
        labels = np.arange(N) % 2
        found = classification.reliability(labels, np.eye(2)[labels], np.arange(N), draws=50)
        assert (found.low[-1], found.high[-1]) == pytest.approx(exact(N, N))

    def test_delong(self):
        labels = np.arange(2 * N) < N
        area = roc.delong(labels, labels + 0.0)
        assert (area.low, area.high) == pytest.approx(exact(N, N))
        same = roc.delong_test(labels, labels + 0.0, labels + 0.0)
        limit = 1 - exact(N, N)[0]
        assert (same.low, same.high) == pytest.approx((-limit, limit))

    def test_studies(self):
        perfect = [lambda weights: np.ones((len(weights), 2)) * (1, 5)]
        found = family.analyse(
            {"a": perfect, "b": perfect}, ("AUC", "area"), N, limits=[(0, 1), (0, 5)], draws=50
        )
        for name in "ab":
            for place, top in enumerate((1, 5)):
                interval = found.intervals[name][place]
                assert ends(interval) == pytest.approx(top * np.array(exact(N, N)))
        for pair, top in zip(found.pairs, (1, 5), strict=True):
            limit = top * (1 - exact(N, N)[0])
            assert ends(pair.difference) == pytest.approx((-limit, limit))
            assert pair.p["bootstrap"] == 1 and pair.effect == 0


def share_of(values):
    values = np.asarray(values, float)
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def test_one_missed_has_the_exact_limits_too():
    """29 of 30: the bootstrap reaches 1, and is replaced there."""
    (found,) = family.analyse(
        {"a": [share_of(np.arange(N) > 0)]}, ("x",), N, limits=(0, 1), draws=20_000
    ).intervals["a"]
    low, high = exact(N - 1, N)
    # Student's quantile instead of the normal's makes less of 30 subjects, but no less than 30.
    assert found.low == pytest.approx(low, abs=1e-3) and high <= found.high <= 1


def test_subjects_that_are_alike_within_count_as_what_they_show():
    """40 subjects of 5 units, all or nothing: as 40 units, not as 200."""
    values = np.arange(40) > 0
    whole = intervals.bootstrap(
        intervals.mean(np.repeat(values, 5)), np.repeat(np.arange(40), 5), draws=4000,
        limits=(0, 1),
    )  # fmt: skip
    assert whole.low == pytest.approx(exact(39, 40)[0], abs=2e-3)


def test_a_difference_has_the_limits_of_its_parts():
    """Newcombe's square-and-add interval (Statistics in Medicine 17:2635-2650, 1998, method 10).

    One method finds all, the other all but one; without correlation, since the first never varies.
    """
    values = {"a": np.ones(N), "b": np.arange(N) > 0}
    methods = {name: [share_of(v)] for name, v in values.items()}
    (pair,) = family.analyse(methods, ("x",), N, limits=(0, 1), draws=4000).pairs
    all_low, (low, _) = exact(N, N)[0], exact(N - 1, N)
    gap = 1 / N
    below = gap - np.hypot(1 - all_low, 1 - (N - 1) / N)
    above = gap + np.hypot(0, (N - 1) / N - low)
    assert pair.difference.low == pytest.approx(below, abs=2e-3)
    assert pair.difference.high == pytest.approx(above, abs=2e-3)
    assert pair.p["bootstrap"] > 0.05


def test_all_against_nothing_is_a_difference():
    methods = {"a": [share_of(np.ones(N))], "b": [share_of(np.zeros(N))]}
    (pair,) = family.analyse(methods, ("x",), N, limits=(0, 1), draws=50).pairs
    gap = 1 - exact(N, N)[0]
    assert ends(pair.difference) == pytest.approx((1 - 2 * gap, 1))  # others may be turned
    assert pair.p["bootstrap"] == pytest.approx(2 * 0.5**N) and pair.bars_disjoint


def test_where_nothing_is_at_an_end_nothing_changes():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.3, 0.6, (2, 20))
    methods = {"a": [share_of(a)], "b": [share_of(b)]}
    bounded, free = (
        family.analyse(methods, ("x",), 20, limits=each) for each in ((0, 1), (-np.inf, np.inf))
    )
    assert bounded == free or (
        bounded.intervals == free.intervals
        and [p.difference for p in bounded.pairs] == [p.difference for p in free.pairs]
    )


@pytest.mark.parametrize("true", [0.5, 0.9, 0.97, 0.995, 0.03])
@pytest.mark.parametrize("subjects", [8, 30])
@pytest.mark.parametrize("units", [1, 4])
def test_coverage_near_the_ends(true, subjects, units):
    """Sensitivity of subjects whose units are alike: the truth is held as often as promised."""
    runs, held = 300, {"study": 0, "run": 0}
    rng = np.random.default_rng([subjects, units])
    members = np.repeat(np.arange(subjects), units)
    for run in range(runs):
        # Of the variance, a half is the subject's: some are hard in all their units.
        own = rng.random((subjects, 1)) < true
        values = np.where(
            rng.random((subjects, units)) < 0.5, own, rng.random((subjects, units)) < true
        )
        (study,) = family.analyse(
            {"a": [share_of(values.mean(axis=1))]}, ("x",), subjects, limits=(0, 1), draws=100,
            seed=run,
        ).intervals["a"]  # fmt: skip
        single = intervals.bootstrap(
            intervals.mean(values.ravel()), members, draws=100, limits=(0, 1), seed=run
        )
        held["study"] += study.low <= true <= study.high
        held["run"] += single.low <= true <= single.high
    # Percentiles of a single run are too narrow for few subjects away from the ends.
    assert held["study"] / runs >= 0.93
    assert held["run"] / runs >= (0.85 if subjects == 8 else 0.9)


def test_a_fitted_curve_without_error_is_bounded_too():
    fit = idca.Fit(5.0, 1.0, 9.0, 1.0, np.zeros((2, 2)), 40, N, 5, N)
    (found,) = fit.intervals([1.0])
    assert ends(found) == pytest.approx(exact(N, N))
