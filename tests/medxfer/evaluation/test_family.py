"""Pairs of a family against plain loops over draws, and the two rules."""

import itertools

import numpy as np
import pytest

from medxfer.evaluation import compare, family, intervals, resampling

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
    weights = np.concatenate(list(resampling.counts(SUBJECTS, 500, 3)))
    means = {name: np.mean(rows, axis=0) for name, rows in values.items()}
    for first, second in itertools.combinations(values, 2):
        gap = means[first] - means[second]
        drawn = np.array([np.repeat(gap, row).mean() for row in weights])
        pair = found.pair(first, second, "mean")
        np.testing.assert_allclose(pair.difference.estimate, gap.mean())
        np.testing.assert_allclose(
            [pair.difference.low, pair.difference.high], np.quantile(drawn, [0.025, 0.975])
        )
        fewest = min((drawn <= 0).sum(), (drawn >= 0).sum())
        assert pair.p["bootstrap"] == pytest.approx(min(1, 2 * (1 + fewest) / 501))


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


@pytest.mark.parametrize("pairs", [1, 36, 45, 78, 300])
def test_enough_draws_for_holm(pairs):
    assert pairs * 2 / (family.draws_for(pairs) + 1) < 0.05


def test_chosen_pairs_only(values):
    methods = {name: [statistic(v) for v in rows] for name, rows in values.items()}
    found = family.analyse(methods, ("mean", "square"), SUBJECTS, pairs=[("c", "a")], draws=50)
    assert [(p.first, p.second) for p in found.pairs] == [("c", "a")] * 2
    assert found.pairs[0].holm["bootstrap"] == found.pairs[0].p["bootstrap"]


def test_cautions_say_what_few_subjects_cannot_show():
    assert family.cautions(40, 45) == ()
    few, never = family.cautions(6, 45)
    assert "only 6 test subjects" in few
    assert "support no p below 0.031" in never and "over 45 pairs" in never
    x = np.arange(1.0, 7.0)
    assert compare.wilcoxon(x, 0 * x) == pytest.approx(2 * 0.5**6)  # the least there is
    assert intervals.FEW_CLUSTERS > 6
