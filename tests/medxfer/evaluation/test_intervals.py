import numpy as np
import pytest
from matplotlib import cbook
from scipy import stats

from medxfer.evaluation import intervals


def clustered(seed, subjects=12, each=12):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(subjects), each)
    return rng.normal(size=subjects)[labels] + rng.normal(size=labels.size), labels


class TestBootstrap:
    def test_of_independent_units_against_scipy(self):
        values = np.random.default_rng(0).gamma(2, size=40)
        found = intervals.bootstrap(intervals.mean(values), np.arange(40), draws=20_000)
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        assert found.estimate == pytest.approx(values.mean())
        assert found.low == pytest.approx(expected.low, abs=0.02)
        assert found.high == pytest.approx(expected.high, abs=0.02)

    def test_against_drawing_subjects_one_by_one(self):
        """Unequal subjects: a draw's mean is over all units of the drawn, not over means."""
        rng = np.random.default_rng(2)
        labels = np.repeat(list("abcdefghijkl"), rng.integers(1, 15, 12))
        values = rng.normal(size=labels.size) + (labels == "c") * 4
        groups = [values[labels == name] for name in np.unique(labels)]
        drawn = []
        for _ in range(8000):
            chosen = rng.integers(0, len(groups), len(groups))
            drawn.append(np.concatenate([groups[k] for k in chosen]).mean())
        found = intervals.bootstrap(intervals.mean(values), labels, draws=8000, level=0.9)
        np.testing.assert_allclose(
            [found.low, found.high], np.quantile(drawn, [0.05, 0.95]), atol=0.04
        )
        assert found.clusters == 12

    def test_weights_are_whole_subjects(self):
        seen = []

        def statistic(weights):
            seen.append(weights)
            return weights[:, 0]

        labels = ["x", "y", "x", "z"]
        intervals.bootstrap(statistic, labels, draws=500)
        np.testing.assert_array_equal(seen[0], np.ones((1, 4)))
        weights = np.concatenate(seen[1:])
        assert weights.shape == (500, 4)
        np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
        np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)

    def test_draws_are_the_same_for_the_same_seed_and_in_blocks(self, monkeypatch):
        values, labels = clustered(3)
        whole = intervals.bootstrap(intervals.mean(values), labels)
        monkeypatch.setattr(intervals, "_BLOCK", 1000)
        assert intervals.bootstrap(intervals.mean(values), labels) == whole
        assert intervals.bootstrap(intervals.mean(values), labels, seed=1) != whole

    def test_methods_share_their_draws(self):
        """A constant difference has no spread, however much the methods vary."""
        values, labels = clustered(4)
        worse = intervals.difference(intervals.mean(values + 0.5), intervals.mean(values))
        found = intervals.bootstrap(worse, labels)
        assert found.low == pytest.approx(0.5)
        assert found.high == pytest.approx(0.5)
        assert found.p == pytest.approx(2 / 1001)

    def test_p_value_counts_the_lighter_side(self):
        drawn = np.array([-1.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])  # two at or below zero

        def statistic(weights):
            return drawn[: len(weights)]

        found = intervals.bootstrap(statistic, np.arange(20), draws=9)
        assert found.p == pytest.approx(2 * (1 + 2) / 10)

    def test_no_difference_has_p_one(self):
        values, labels = clustered(5)
        same = intervals.difference(intervals.mean(values), intervals.mean(values))
        assert intervals.bootstrap(same, labels).p == 1.0

    def test_few_subjects_and_draws_without_value_are_said(self):
        def half(weights):
            return np.where(weights[:, 0] > 0, weights[:, 0], np.nan)

        found = intervals.bootstrap(half, np.arange(5), draws=200)
        assert "only 5 subjects" in found.caution
        assert "of 200 draws" in found.caution
        assert np.isfinite(found.low)
        values, labels = clustered(6)
        assert intervals.bootstrap(intervals.mean(values), labels).caution == ""

    def test_no_valid_draw_gives_nan(self):
        found = intervals.bootstrap(lambda w: np.full(len(w), np.nan), np.arange(20), draws=10)
        assert np.isnan([found.estimate, found.low, found.high, found.p]).all()

    def test_coverage_in_simulation(self):
        """Near the nominal level by subjects; far from it by units."""
        runs, by_subject, by_unit = 250, 0, 0
        for seed in range(runs):
            values, labels = clustered(seed)
            for unit, subjects in ((False, labels), (True, np.arange(labels.size))):
                found = intervals.bootstrap(intervals.mean(values), subjects, draws=200, seed=seed)
                covers = found.low <= 0 <= found.high
                by_unit += covers and unit
                by_subject += covers and not unit
        assert 0.84 <= by_subject / runs <= 0.97
        assert by_unit / runs <= 0.65

    @pytest.mark.parametrize(
        ("subjects", "settings"),
        [([], {}), (np.zeros((2, 2)), {}), ([1], {"draws": 0}), ([1], {"level": 1.0})],
    )
    def test_refuses_what_has_no_meaning(self, subjects, settings):
        with pytest.raises(ValueError, match="bootstrap needs|Need draws"):
            intervals.bootstrap(lambda w: w[:, 0], subjects, **settings)

    def test_a_mean_of_nan_is_refused(self):
        with pytest.raises(ValueError, match="finite"):
            intervals.mean([1.0, np.nan])


class TestTukey:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10, 101])
    def test_against_matplotlib(self, size):
        rng = np.random.default_rng(size)
        samples = [rng.normal(size=size), rng.standard_cauchy(size), rng.integers(0, 4, size)]
        for values in samples:
            found, expected = intervals.tukey(values), cbook.boxplot_stats(values)[0]
            for ours, theirs in (
                ("q1", "q1"), ("median", "med"), ("q3", "q3"),
                ("low", "whislo"), ("high", "whishi"), ("mean", "mean"),
            ):  # fmt: skip
                assert getattr(found, ours) == pytest.approx(expected[theirs]), ours
            np.testing.assert_allclose(found.outliers, np.sort(expected["fliers"]))
            assert found.count == size

    def test_standard_deviation(self):
        values = np.random.default_rng(0).random(30)
        assert intervals.tukey(values).sd == pytest.approx(stats.tstd(values))
        assert np.isnan(intervals.tukey([3.0]).sd)

    @pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
    def test_refuses_what_has_no_quartiles(self, values):
        with pytest.raises(ValueError, match="box plot"):
            intervals.tukey(values)


def test_what_is_said_of_few_subjects():
    assert "single subject" in intervals.few(1)[0]
    assert intervals.few(4) == ["only 4 subjects: the interval is likely too narrow"]
    assert intervals.few(intervals.FEW_CLUSTERS) == []
