import numpy as np
import pytest
from sklearn import metrics

from medxfer.evaluation import intervals, resampling, roc
from tests.medxfer.evaluation.test_froc import check_percentiles


def psi(labels, scores):
    """Kernel of cases against controls."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    cases, controls = scores[labels == 1][:, None], scores[labels == 0]
    return (cases > controls) + 0.5 * (cases == controls)


def brute_covariance(labels, *scores):
    kernels = [psi(labels, s) for s in scores]
    rows = [k.mean(axis=1) for k in kernels]
    columns = [k.mean(axis=0) for k in kernels]
    size = len(scores)
    covariance = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            covariance[i, j] = np.cov(rows[i], rows[j])[0, 1] / len(rows[i]) + np.cov(
                columns[i], columns[j]
            )[0, 1] / len(columns[i])
    return covariance


def sample(seed, size=200, grades=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    first = labels + rng.normal(size=size)
    second = 0.5 * first + rng.normal(size=size)
    if grades:
        first, second = np.round(first * grades), np.round(second * grades)
    return labels, first, second


# Cases and controls per grade of the World Federation of Neurosurgical Societies: the aSAH data
# of pROC; its published area, variance and interval follow.
WFNS = ((2, 37), (12, 20), (1, 3), (8, 8), (18, 4))


def wfns():
    labels = np.concatenate([[1] * cases + [0] * controls for cases, controls in WFNS])
    grades = np.repeat(np.arange(5), [sum(pair) for pair in WFNS])
    return labels, grades


class TestCurve:
    @pytest.mark.parametrize("grades", [None, 2])
    def test_against_scikit_learn(self, grades):
        labels, scores, _ = sample(0, grades=grades)
        for ours, theirs in zip(
            roc.roc_curve(labels, scores),
            metrics.roc_curve(labels, scores, drop_intermediate=False),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs)

    def test_its_trapezoids_are_the_area(self):
        labels, scores, _ = sample(1, grades=1)
        fpr, tpr, _ = roc.roc_curve(labels, scores)
        assert np.trapezoid(tpr, fpr) == pytest.approx(roc.auc(labels, scores))

    def test_one_class(self):
        with pytest.warns(UserWarning, match="one class"):
            fpr, tpr, _ = roc.roc_curve([1, 1], [0.2, 0.3])
        assert np.isnan(fpr).all()
        np.testing.assert_allclose(tpr, [0, 0.5, 1])


class TestAuc:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("grades", [None, 1, 3])
    def test_against_the_kernel_and_scikit_learn(self, seed, grades):
        labels, scores, _ = sample(seed, grades=grades)
        assert roc.auc(labels, scores) == pytest.approx(psi(labels, scores).mean(), abs=1e-14)
        assert roc.auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))

    def test_ties_count_half(self):
        assert roc.auc([0, 1, 0, 1], [0.5, 0.5, 0.2, 8.3]) == 0.875

    def test_is_exact_for_many_units(self):
        """float32 mid-ranks would give an area above 1."""
        labels = np.repeat([0, 1], 200_000)
        assert roc.auc(labels, np.arange(400_000)) == 1.0

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class_is_nan_with_a_warning(self, label):
        with pytest.warns(UserWarning, match="one class"):
            assert np.isnan(roc.auc([label] * 3, [1, 2, 3]))

    @pytest.mark.parametrize(
        ("labels", "scores", "message"),
        [
            ([0, 1], [1.0], "one label per score"),
            ([0, 2], [1.0, 2.0], "Labels must be 0 and 1"),
            ([0, 1], [1.0, np.nan], "finite"),
        ],
    )
    def test_refuses_what_is_no_score(self, labels, scores, message):
        with pytest.raises(ValueError, match=message):
            roc.auc(labels, scores)


class TestWeightedAuc:
    def test_is_the_area_of_repeated_units(self):
        labels, scores, _ = sample(2, size=60, grades=2)
        weights = np.random.default_rng(3).integers(0, 4, (30, 60))
        found = roc.weighted_auc(labels, scores)(weights.astype(float))
        expected = [roc.auc(np.repeat(labels, w), np.repeat(scores, w)) for w in weights]
        np.testing.assert_allclose(found, expected)

    def test_a_draw_of_one_class_is_nan(self):
        statistic = roc.weighted_auc([0, 1, 1], [0.1, 0.2, 0.3])
        found = statistic(np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
        assert np.isnan(found[0])
        assert found[1] == 1.0

    def test_bootstraps(self):
        labels, scores, _ = sample(4)
        found = intervals.bootstrap(roc.weighted_auc(labels, scores), np.arange(200))
        area = roc.delong(labels, scores)
        assert found.estimate == pytest.approx(area.estimate)
        assert found.low == pytest.approx(area.low, abs=0.02)
        assert found.high == pytest.approx(area.high, abs=0.02)


RATES = (0.0, 0.05, 0.1, 0.15, 1 / 3, 0.2, 0.5, 1.0)


def brute_sensitivity(labels, scores, rate):
    """Best true positive rate over all thresholds whose false positive rate fits."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        if called[labels == 0].sum() / (labels == 0).sum() <= rate:
            best = max(best, called[labels == 1].sum() / (labels == 1).sum())
    return best


def brute_partial_area(labels, scores, to_rate):
    """From scikit-learn's, which standardises the partial area by McClish's formula."""
    if to_rate == 1:
        return metrics.roc_auc_score(labels, scores)
    standard = metrics.roc_auc_score(labels, scores, max_fpr=to_rate)
    low, high = to_rate**2 / 2, to_rate
    return low + (2 * standard - 1) * (high - low)


class TestOperatingPoints:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("grades", [None, 1, 3])
    def test_sensitivity_by_the_step_rule(self, seed, grades):
        labels, scores, _ = sample(seed, size=70, grades=grades)
        expected = [brute_sensitivity(labels, scores, rate) for rate in RATES]
        np.testing.assert_array_equal(roc.sensitivity(labels, scores, RATES), expected)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("grades", [None, 1, 3])
    def test_partial_area(self, seed, grades):
        labels, scores, _ = sample(seed, size=70, grades=grades)
        for to_rate in (0.05, 0.2, 1 / 3, 1.0):
            expected = brute_partial_area(labels, scores, to_rate)
            assert roc.partial_auc(labels, scores, to_rate) == pytest.approx(expected, abs=1e-12)
        assert roc.partial_auc(labels, scores, 0.0) == 0

    @pytest.mark.parametrize("grades", [None, 2])
    def test_weights_are_repeated_subjects(self, grades):
        labels, scores, _ = sample(5, size=90, grades=grades)
        subjects = np.random.default_rng(5).integers(0, 25, 90)
        names, member = np.unique(subjects, return_inverse=True)
        weights = np.random.default_rng(6).integers(0, 4, (20, len(names)))
        for kind in (int, float):
            areas = (0.2, 1.0)
            found = roc.weighted(labels, scores, subjects, RATES, areas)(weights.astype(kind))
            for row, drawn in zip(found, weights[:, member], strict=True):
                y, s = np.repeat(labels, drawn), np.repeat(scores, drawn)
                expected = [brute_sensitivity(y, s, rate) for rate in RATES]
                np.testing.assert_array_equal(row[: len(RATES)], expected)
                expected = [brute_partial_area(y, s, to_rate) for to_rate in areas]
                np.testing.assert_allclose(row[len(RATES) :], expected, rtol=0, atol=1e-12)

    def test_one_class(self):
        with pytest.warns(UserWarning, match="one class"):
            assert np.isnan(roc.sensitivity([1, 1], [0.2, 0.3], [0.1])).all()
        for labels in ([0, 0], [1, 1]):
            with pytest.warns(UserWarning, match="one class"):
                assert np.isnan(roc.partial_auc(labels, [0.2, 0.3], 0.1))
        statistic = roc.weighted([0, 1, 1], [0.1, 0.2, 0.3], list("abc"), (0.1,))
        found = statistic(np.array([[0, 1, 2], [3, 0, 0], [1, 1, 1]]))
        assert np.isnan(found[:2]).all()
        assert (found[2] == 1).all()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: roc.sensitivity([0, 1], [1, 2], [1.5]), "0 to 1"),
            (lambda: roc.partial_auc([0, 1], [1, 2], -0.5), "0 to 1"),
            (lambda: roc.weighted([0, 1], [1, 2], ["a"]), "one subject per score"),
        ],
    )
    def test_refuses(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestAnalyse:
    def test_against_a_loop_over_draws(self):
        labels, first, second = sample(7, size=120)
        subjects = np.random.default_rng(7).integers(0, 20, 120)
        names, member = np.unique(subjects, return_inverse=True)
        rates = (0.1, 0.3)
        found = roc.analyse(
            labels, {"first": first, "second": second}, subjects, rates=rates, draws=60, seed=4
        )
        assert found.merits == ("sensitivity at FPR 0.1", "sensitivity at FPR 0.3", "AUC")
        values = {}
        for name, scores in (("first", first), ("second", second)):
            rows = []
            for (row,) in zip(*resampling.counts(len(names), 60, 4), strict=True):
                y, s = (np.repeat(array, row[member]) for array in (labels, scores))
                rows.append([*(brute_sensitivity(y, s, rate) for rate in rates),
                             psi(y, s).mean()])  # fmt: skip
            values[name] = np.array(rows)
            low, high = np.quantile(rows, [0.025, 0.975], axis=0)
            bars = found.intervals[name]
            for bar, *ends in zip(bars, low, high, strict=True):
                check_percentiles(bar, *ends, (0.0, 1.0))
            assert bars[2].estimate == pytest.approx(roc.auc(labels, scores))
        for k, item in enumerate(found.differences):
            d = values["first"][:, k] - values["second"][:, k]
            p = min(1, 2 * (1 + min((d <= 0).sum(), (d >= 0).sum())) / 61)
            assert item.difference.p == pytest.approx(p)
            assert item.holm == item.difference.p

    def test_few_subjects_with_positives_are_told(self):
        subjects = np.repeat(np.arange(15), 4)
        scores = {"a": np.arange(60.0), "b": np.arange(60.0)[::-1]}
        labels = (np.arange(60) % 4 == 0) & (subjects < 4)
        found = roc.analyse(labels, scores, subjects, rates=(0.1,), draws=30)
        said = "only 4 of 15 subjects with a positive: the interval is likely too narrow"
        everything = [*found.intervals["a"], *(item.difference for item in found.differences)]
        assert all(said in interval.caution for interval in everything)
        spread = roc.analyse(np.arange(60) % 4 == 0, scores, subjects, draws=30)
        assert not any(interval.caution for interval in spread.intervals["a"])


class TestDeLong:
    @pytest.mark.parametrize(
        ("labels", "scores", "area", "variance"),
        [
            ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75, 0.125),
            ([0, 0, 1, 1, 1, 0, 1, 0, 1, 0],
             [0.1, 0.4, 0.35, 0.8, 0.7, 0.2, 0.9, 0.6, 0.6, 0.3], 0.9, 0.01),
            (*wfns(), 0.8236788617886179, 0.00146991470882363),
        ],
    )  # fmt: skip
    def test_published_values(self, labels, scores, area, variance):
        found = roc.delong(labels, scores)
        assert found.estimate == pytest.approx(area, rel=1e-13)
        assert found.variance == pytest.approx(variance, rel=1e-12)

    def test_published_intervals_are_clipped(self):
        found = roc.delong(*wfns())
        np.testing.assert_allclose(
            [found.low, found.high], [0.7485348878194529, 0.898822835757783], rtol=1e-12
        )
        labels = [0, 0, 1, 1, 1, 0, 1, 0, 1, 0]
        found = roc.delong(labels, [0.1, 0.4, 0.35, 0.8, 0.7, 0.2, 0.9, 0.6, 0.6, 0.3])
        assert found.low == pytest.approx(0.9 - 0.1 * 1.959963984540054, abs=1e-10)
        assert found.high == 1.0

    @pytest.mark.parametrize("grades", [None, 1, 4])
    def test_covariance_against_the_kernel(self, grades):
        labels, first, second = sample(5, grades=grades)
        areas, covariance = roc.delong_covariance(labels, first, second)
        np.testing.assert_allclose(areas, [psi(labels, s).mean() for s in (first, second)])
        np.testing.assert_allclose(covariance, brute_covariance(labels, first, second))

    def test_paired_test_against_its_formula(self):
        labels, first, second = sample(6)
        found = roc.delong_test(labels, first, second)
        covariance = brute_covariance(labels, first, second)
        sd = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        estimate = psi(labels, first).mean() - psi(labels, second).mean()
        assert found.estimate == pytest.approx(estimate)
        assert found.z == pytest.approx(estimate / sd)
        assert found.high - found.low == pytest.approx(2 * 1.959963984540054 * sd)

    def test_paired_test_holds_its_level(self):
        """Two equally informative scores: p below 0.1 in about a tenth of the samples."""
        rng = np.random.default_rng(7)
        small = 0
        for _ in range(400):
            labels = np.repeat([0, 1], 40)
            shared = labels + rng.normal(size=80)
            first, second = shared + rng.normal(size=(2, 80))
            small += roc.delong_test(labels, first, second).p < 0.1
        assert 0.05 < small / 400 < 0.16

    def test_a_curve_against_itself(self):
        found = roc.delong_test(*wfns(), wfns()[1])
        assert (found.estimate, found.z, found.p) == (0, 0, 1)

    def test_perfect_against_useless_has_no_variance(self):
        found = roc.delong_test([0, 0, 1, 1], [1, 2, 3, 4], [0, 0, 0, 0])
        assert (found.estimate, found.z, found.p) == (0.5, np.inf, 0.0)

    def test_one_class_is_nan_with_a_warning(self):
        with pytest.warns(UserWarning, match="one class"):
            found = roc.delong([1, 1, 1], [1, 2, 3])
        assert np.isnan([found.estimate, found.variance, found.low, found.high]).all()
        with pytest.warns(UserWarning, match="one class"):
            test = roc.delong_test([0, 0], [1, 2], [2, 1])
        assert np.isnan([test.estimate, test.z, test.p]).all()

    def test_one_case_has_an_area_but_no_variance(self):
        found = roc.delong([0, 0, 1], [1, 2, 3])
        assert found.estimate == 1.0
        assert np.isnan(found.variance)
