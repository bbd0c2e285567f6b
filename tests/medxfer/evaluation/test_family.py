"""Pairs of a family against plain loops over draws, and the two rules."""

import itertools

import numpy as np
import pytest
from scipy import stats

from medxfer.evaluation import compare, family, intervals, resampling, roc

SUBJECTS = 14


def statistic(values):
    """Mean and mean square of one value per subject."""
    table = np.stack([values, values**2], axis=1)
    return lambda weights: weights @ table / weights.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    common = rng.standard_normal(SUBJECTS)
    return {
        name: [common + shift + 0.3 * rng.standard_normal(SUBJECTS) for _ in range(seeds)]
        for name, shift, seeds in (("a", 0.0, 2), ("b", 0.1, 3), ("c", 3.0, 1))
    }


@pytest.fixture(scope="module")
def found(values):
    methods = {name: [statistic(v) for v in rows] for name, rows in values.items()}

    def tests(first, second, merit):
        means = [np.mean(values[name], axis=0) for name in (first, second)]
        return {"t": compare.paired_t(*means)} if merit == "mean" else {}

    return family.analyse(methods, ("mean", "square"), SUBJECTS, tests=tests, draws=500, seed=3)


def test_differences_are_those_of_a_loop(values, found):
    """Student's t times the bootstrap standard error, from a plain loop over the draws."""
    weights = np.concatenate(list(resampling.counts(SUBJECTS, 500, 3)))
    means = {name: np.mean(rows, axis=0) for name, rows in values.items()}
    for first, second in itertools.combinations(values, 2):
        gap = means[first] - means[second]
        drawn = np.array([np.repeat(gap, row).mean() for row in weights])
        error = np.std(drawn, ddof=1) * np.sqrt(SUBJECTS / (SUBJECTS - 1))
        student = stats.t(SUBJECTS - 1, gap.mean(), error)
        pair = found.pair(first, second, "mean")
        np.testing.assert_allclose(pair.difference.estimate, gap.mean())
        np.testing.assert_allclose(
            [pair.difference.low, pair.difference.high], student.ppf([0.025, 0.975])
        )
        p = 2 * stats.t(SUBJECTS - 1).sf(abs(gap.mean() / error))
        assert pair.p["bootstrap"] == pytest.approx(max(p, 2 * 0.5**SUBJECTS))


def test_for_means_it_is_the_paired_t_test():
    """Which holds what it promises however few the subjects; percentiles do not."""
    rng = np.random.default_rng(4)
    for subjects in (3, 6, 12, 40):
        a, b = rng.standard_normal((2, subjects))
        methods = {"a": [statistic(a)], "b": [statistic(b)]}
        (pair, _) = family.analyse(methods, ("mean", "square"), subjects, draws=40_000).pairs
        expected = stats.ttest_rel(a, b)
        low, high = expected.confidence_interval(0.95)
        width = high - low
        assert pair.difference.low == pytest.approx(low, abs=0.02 * width)
        assert pair.difference.high == pytest.approx(high, abs=0.02 * width)
        assert pair.difference.p == pytest.approx(expected.pvalue, rel=0.05, abs=1e-4)
        assert pair.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1), rel=0.05)


def test_intervals_end_at_the_limits_and_one_subject_has_none():
    values = {"a": [statistic(np.arange(9) > 0.5)]}
    found = family.analyse(values, ("mean", "square"), 9, limits=(0.0, 1.0))
    for interval in found.intervals["a"]:
        assert 0 < interval.low < interval.estimate == pytest.approx(8 / 9) and interval.high == 1
    (alone, _) = family.analyse({"a": [statistic(np.ones(1))]}, ("mean", "square"), 1).intervals[
        "a"
    ]
    assert np.isnan([alone.low, alone.high, alone.p]).all()


@pytest.mark.parametrize(("positives", "negatives"), [(3, 9), (2, 30), (6, 6)])
def test_two_sides_shown_by_different_subjects_are_as_two_means(positives, negatives):
    """Bootstrap of a difference of means of two groups is Student's test of two samples."""
    rng = np.random.default_rng(5)
    count = positives + negatives
    values, shown = rng.standard_normal(count), np.arange(count) < positives

    def gap(weights):
        weights = weights.astype(float)
        with np.errstate(invalid="ignore"):
            means = [
                (weights[:, side] @ values[side]) / weights[:, side].sum(axis=1)
                for side in (shown, ~shown)
            ]
        return (means[0] - means[1])[:, None]

    sides = {"a positive": positives, "a negative": negatives}
    (found,) = family.student(
        resampling.resample({"a": gap}, count, draws=40_000)["a"], sides=sides
    )
    # With equal variances in the groups Welch's degrees of freedom are those of their sizes.
    v = np.array([1 / positives, 1 / negatives])
    freedom = v.sum() ** 2 / (v**2 / (np.array([positives, negatives]) - 1)).sum()
    reach = stats.t(min(freedom, count - 1)).ppf(0.975)
    one, other = values[shown], values[~shown]
    error = np.sqrt(one.var(ddof=1) / positives + other.var(ddof=1) / negatives)
    # The variance of each group is raised by the same factor, so nearly that of Welch.
    assert (found.high - found.estimate) / reach == pytest.approx(error, rel=0.35)
    assert found.estimate == pytest.approx(one.mean() - other.mean())
    alike = family.student(
        resampling.resample({"a": gap}, count, draws=2000)["a"],
        sides={"a positive": count, "a negative": count},
    )
    plain = family.student(resampling.resample({"a": gap}, count, draws=2000)["a"])
    assert alike[0].high == pytest.approx(plain[0].high)
    (alone,) = family.student(
        resampling.resample({"a": gap}, count, draws=50)["a"], sides={"a": 1, "b": 9}
    )
    assert np.isnan([alone.low, alone.high, alone.p]).all()


def test_rounding_is_no_difference():
    values = {
        "a": [statistic(np.full(9, 0.2))] * 3,
        "b": [statistic(np.full(9, 0.2) + 3e-17)],
    }
    for pair in family.analyse(values, ("mean", "square"), 9).pairs:
        assert pair.p["bootstrap"] == 1 and not pair.differs(family.BARS)
    third = [statistic(np.full(9, 1 / 5))]
    shifted = [lambda weights: statistic(np.full(9, 1 / 5))(weights) + 2.8e-17]
    for pair in family.analyse({"a": third, "b": shifted}, ("mean", "square"), 9).pairs:
        assert pair.p["bootstrap"] == 1


def test_draws_without_a_value_are_left_out_and_told():
    values = np.array([[np.nan, 1.0], [2.0, 1.0], [4.0, 1.0]])
    half, same = family.student(resampling.Drawn(np.array([3.0, 1.0]), values, 9))
    error = np.sqrt(2) * np.sqrt(9 / 8)
    assert half.high == pytest.approx(3 + stats.t(8).ppf(0.975) * error)
    assert half.caution == "no value in 1 of 3 draws" and same.caution == ""
    assert same.low == same.high == 1 and same.p == 0


def test_holm_is_over_the_pairs_of_a_measure_and_a_test(found):
    for merit in found.merits:
        own = [pair for pair in found.pairs if pair.merit == merit]
        for test in own[0].p:
            expected = compare.holm([pair.p[test] for pair in own])
            np.testing.assert_allclose([pair.holm[test] for pair in own], expected)
    assert "t" not in found.pair("a", "b", "square").p


def test_seeds_are_averaged_and_their_spread_is_told(values, found):
    means = [row.mean() for row in values["b"]]
    assert found.interval("b", "mean").estimate == pytest.approx(np.mean(means))
    assert found.spread("b", "mean") == pytest.approx(np.std(means, ddof=1))
    assert np.isnan(found.spread("c", "mean"))


def test_the_rules_are_two(found):
    far = found.pair("a", "c", "mean")
    assert far.differs(family.BARS) and far.differs(family.PAIRED)
    rows = family.matrix(found, ["a", "b", "c"], family.BARS, ["mean"])
    assert rows == [[], [()], [("mean",), ("mean",)]]


def test_a_paired_test_sees_what_bars_hide():
    rng = np.random.default_rng(1)
    common = 5 * rng.standard_normal(40)
    methods = {
        name: [statistic(common + shift + 0.1 * rng.standard_normal(40))]
        for name, shift in (("a", 0.0), ("b", 0.5))
    }
    (pair,) = family.analyse(methods, ("mean", "square"), 40, seed=1).pairs[:1]
    assert pair.differs(family.PAIRED) and not pair.differs(family.BARS)


def test_a_pair_can_be_turned(found):
    one, other = found.pair("a", "b", "mean"), found.pair("b", "a", "mean")
    assert other.difference.estimate == -one.difference.estimate
    assert (other.difference.low, other.difference.high) == (
        -one.difference.high,
        -one.difference.low,
    )
    assert other.holm == one.holm
    with pytest.raises(KeyError):
        found.pair("a", "z", "mean")


def test_three_subjects_that_agree_show_nothing():
    methods = {name: [statistic(np.arange(3.0) + shift)] for name, shift in (("a", 0), ("b", 9))}
    (pair, _) = family.analyse(methods, ("mean", "square"), 3).pairs
    assert pair.difference.high < 0 and pair.bars_disjoint
    assert pair.p["bootstrap"] == 0.25 and not pair.differs(family.PAIRED)


def test_chosen_pairs_only(values):
    methods = {name: [statistic(v) for v in rows] for name, rows in values.items()}
    found = family.analyse(methods, ("mean", "square"), SUBJECTS, pairs=[("c", "a")], draws=50)
    assert [(p.first, p.second) for p in found.pairs] == [("c", "a")] * 2
    assert found.pairs[0].holm["bootstrap"] == found.pairs[0].p["bootstrap"]


def test_cautions_say_what_few_subjects_cannot_show():
    assert family.cautions(40, 45) == ()
    few, never = family.cautions(6, 45)
    assert "only 6 test subjects:" in few
    assert "support no p below 0.031" in never and "over 45 pairs" in never
    few, never = family.cautions(40, 45, {"a lesion": 6, "images": 40})
    assert "only 6 test subjects with a lesion:" in few
    assert never.startswith("6 test subjects with a lesion support no p below 0.031")
    assert family.cautions(40, 45, {"a lesion": 1, "images": 40}) == (
        "there is one test subject with a lesion: no interval can be given",
    )
    assert family.cautions(40, 45, {"a lesion": 30, "images": 40}) == ()
    x = np.arange(1.0, 7.0)
    assert compare.wilcoxon(x, 0 * x) == pytest.approx(2 * 0.5**6)  # the least there is
    assert intervals.FEW_CLUSTERS > 6


def test_intervals_and_tests_hold_what_they_promise():
    """In simulated studies of 12 subjects, alike within and hard for both methods alike."""
    studies, subjects, units = 400, 12, 12
    labels = np.tile(np.arange(units) % 3 == 0, subjects)
    members = np.repeat(np.arange(subjects), units)

    def scores(rng, count):
        own = np.sqrt(0.3) * rng.standard_normal((count, 1))
        common = own + np.sqrt(0.35) * rng.standard_normal((count, units))
        both = common + np.sqrt(0.35) * rng.standard_normal((2, count, units))
        return 1.2 * (np.arange(units) % 3 == 0) + both

    many = scores(np.random.default_rng(0), 40_000)[0].reshape(-1)
    true = roc.auc(np.tile(labels[:units], 40_000), many)
    held, found = 0, 0
    for study in range(studies):
        pair = scores(np.random.default_rng([1, study]), subjects)
        methods = {
            name: [roc.weighted(labels, s.ravel(), members)]
            for name, s in zip("ab", pair, strict=True)
        }
        result = family.analyse(methods, ("AUC",), subjects, draws=200, seed=study)
        held += result.intervals["a"][0].low <= true <= result.intervals["a"][0].high
        found += result.pairs[0].p["bootstrap"] < 0.05
    # Nominal 95 % and 5 %; from so many studies a share is known to 1.1 points.
    assert 0.93 <= held / studies <= 0.97
    assert 0.03 <= found / studies <= 0.07
