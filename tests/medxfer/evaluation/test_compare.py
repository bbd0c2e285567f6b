import itertools

import numpy as np
import pytest
from scipy import stats

from medxfer.evaluation import compare, intervals

# Differences in height of cross- and self-fertilised plants (Darwin 1876).
PLANTS = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]


class TestWilcoxon:
    def test_darwins_plants(self):
        found = compare.wilcoxon(PLANTS, np.zeros(15))
        assert found == pytest.approx(0.041259765625, abs=1e-10)

    def test_against_all_signs(self):
        """Exact distribution of the rank sum, by trying every assignment of signs."""
        differences = np.array([0.3, -1.2, 2.5, 0.7, 1.9, -0.1, 3.3])
        ranks = stats.rankdata(np.abs(differences))
        observed = ranks[differences > 0].sum()
        sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=7)]
        expected = min(1, 2 * min(np.mean(np.array(sums) >= observed),
                                  np.mean(np.array(sums) <= observed)))  # fmt: skip
        assert compare.wilcoxon(differences, np.zeros(7)) == pytest.approx(expected)

    def test_zero_differences_do_not_count(self):
        first = np.append(PLANTS, [5, 5, 5])
        second = np.append(np.zeros(15), [5, 5, 5])
        assert compare.wilcoxon(first, second) == compare.wilcoxon(PLANTS, np.zeros(15))
        assert compare.wilcoxon([1, 2], [1, 2]) == 1.0


class TestPairedT:
    def test_against_scipy(self):
        first, second = np.random.default_rng(0).normal([[0.0], [0.3]], size=(2, 40))
        expected = stats.ttest_rel(first, second).pvalue
        assert compare.paired_t(first, second) == pytest.approx(expected)

    def test_without_spread(self):
        assert compare.paired_t([1, 2, 3], [1, 2, 3]) == 1.0
        assert compare.paired_t([2, 3, 4], [1, 2, 3]) == 0.0
        assert np.isnan(compare.paired_t([1], [2]))


class TestRankBiserial:
    def test_against_its_definition(self):
        rng = np.random.default_rng(1)
        first, second = rng.integers(0, 9, (2, 60)).astype(float)
        differences = (first - second)[first != second]
        ranks = stats.rankdata(np.abs(differences))
        up, down = ranks[differences > 0].sum(), ranks[differences < 0].sum()
        assert compare.rank_biserial(first, second) == pytest.approx((up - down) / (up + down))

    def test_extremes(self):
        assert compare.rank_biserial([2, 3], [1, 1]) == 1.0
        assert compare.rank_biserial([1, 1], [2, 3]) == -1.0
        assert compare.rank_biserial([1, 1], [1, 1]) == 0.0


class TestHolm:
    def test_textbook_case(self):
        adjusted = compare.holm([0.01, 0.04, 0.03, 0.005])
        np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])

    def test_rejects_as_the_step_down_procedure(self):
        rng = np.random.default_rng(2)
        for _ in range(50):
            p = rng.beta(0.3, 3, 8)
            rejected = set()
            for step, index in enumerate(np.argsort(p)):
                if p[index] > 0.05 / (len(p) - step):
                    break
                rejected.add(index)
            assert set(np.flatnonzero(compare.holm(p) <= 0.05)) == rejected

    def test_nan_is_no_test(self):
        np.testing.assert_allclose(compare.holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])
        assert compare.holm([]).size == 0


def test_subject_means():
    names, means = compare.subject_means([1, 2, 3, 10], ["b", "a", "b", "a"])
    assert list(names) == ["a", "b"]
    np.testing.assert_allclose(means, [6, 2])


class TestCompare:
    def test_every_pair_with_every_test(self):
        rng = np.random.default_rng(3)
        subjects = np.repeat([f"s{k}" for k in range(11)], 12)
        base = rng.gamma(4, 10, 132)
        errors = {"fc8": base + 40, "fc6": base + rng.normal(0, 9, 132), "conv5": base}
        found = compare.compare(errors, subjects)
        assert [(c.first, c.second) for c in found] == list(itertools.combinations(errors, 2))
        for c in found:
            first, second = errors[c.first], errors[c.second]
            means = [[e[subjects == s].mean() for s in np.unique(subjects)]
                     for e in (first, second)]  # fmt: skip
            assert c.difference.estimate == pytest.approx((first - second).mean())
            assert c.p["paired_t"] == compare.paired_t(first, second)
            assert c.p["wilcoxon"] == pytest.approx(stats.wilcoxon(first, second).pvalue)
            assert c.p["wilcoxon_subjects"] == pytest.approx(stats.wilcoxon(*means).pvalue)
            assert c.p["bootstrap"] == c.difference.p
            assert c.rank_biserial == compare.rank_biserial(first, second)
        for test in ("paired_t", "wilcoxon", "wilcoxon_subjects", "bootstrap"):
            expected = compare.holm([c.p[test] for c in found])
            np.testing.assert_allclose([c.holm[test] for c in found], expected)

    def test_intervals_are_paired(self):
        base = np.random.default_rng(4).gamma(4, 10, 60)
        (found,) = compare.compare({"a": base + 3, "b": base}, np.repeat(np.arange(12), 5))
        assert found.difference.low == pytest.approx(3)
        assert found.difference.high == pytest.approx(3)
        assert isinstance(found.difference, intervals.Interval)

    def test_one_method_has_no_pair(self):
        assert compare.compare({"a": [1.0, 2.0]}, ["x", "y"]) == []

    @pytest.mark.parametrize("bad", [[1.0], [1.0, np.nan]])
    def test_refuses_missing_errors(self, bad):
        with pytest.raises(ValueError, match="one finite error per unit"):
            compare.compare({"a": [1.0, 2.0], "b": bad}, ["x", "y"])

    def test_refuses_unequal_pairs(self):
        with pytest.raises(ValueError, match="one shape"):
            compare.paired_t([1, 2], [1])
