import dataclasses

import numpy as np
import pytest
from scipy import optimize
from scipy.stats import norm

from medxfer.evaluation import idca
from medxfer.evaluation.marks import Marks

EXAMPLE = idca.Fit(10, 0.9, 1.5, 0.8, np.array([[0.02, 0.005], [0.005, 0.004]]), 50, 127)


def scores(seed, false=600, true=160, a=1.2, b=0.7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=false), rng.normal(a / b, 1 / b, true)


def marks(seed=0, cases=200, each=4, a=1.2, b=0.7, found=0.9):
    """One lesion and ``each`` false positives a case, one case in two a subject."""
    false, true = scores(seed, cases * each, round(cases * found), a, b)
    of_false = np.repeat(np.arange(cases), each)
    of_true = np.arange(true.size)
    return Marks(
        np.append(false, true), np.append(of_false, of_true),
        np.repeat([-1, 0], [false.size, true.size]),
        np.ones(cases, int), np.ones(cases, int), np.arange(cases) // 2,
    )  # fmt: skip


def log_likelihood(a, b, cuts, counts):
    false, true = counts
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    of_false, of_true = np.diff(norm.cdf(edges)), np.diff(norm.cdf(b * edges - a))
    return false @ np.log(of_false) + true @ np.log(of_true)


class TestErrorBar:
    """Values of the delta method calculated by hand from the formulas of the model."""

    def test_sensitivity_derivatives_and_deviation(self):
        assert EXAMPLE.sensitivity([1.0])[0] == pytest.approx(0.614268, abs=5e-7)
        np.testing.assert_allclose(
            EXAMPLE.gradient([1.0])[0], [0.682521, 0.320781, -0.411097, -0.014623], atol=5e-7
        )
        assert EXAMPLE.sd([1.0])[0] == pytest.approx(0.042287, abs=5e-7)

    def test_derivatives_against_differences(self):
        rates = np.array([0.01, 0.5, 3.0, 9.5])
        step = 1e-6
        for place, name in enumerate(("found", "a", "b", "false_rate")):
            value = getattr(EXAMPLE, name)
            up, down = (
                dataclasses.replace(EXAMPLE, **{name: value + s}).sensitivity(rates)
                for s in (step, -step)
            )
            np.testing.assert_allclose(
                EXAMPLE.gradient(rates)[:, place], (up - down) / (2 * step), rtol=1e-6
            )

    def test_deviation_against_simulation(self):
        """Parameters drawn from their distribution spread the sensitivity as the formula says."""
        rng = np.random.default_rng(0)
        draws, rate = 200_000, 1.0
        a, b = rng.multivariate_normal([1.5, 0.8], EXAMPLE.covariance, draws).T
        found, end = rng.binomial(127, 0.9, draws) / 127, rng.poisson(500, draws) / 50
        values = found * norm.cdf(a + b * norm.ppf(rate / end))
        assert EXAMPLE.sd([rate])[0] == pytest.approx(values.std(), rel=0.02)

    def test_intervals(self):
        (plain,) = EXAMPLE.intervals([1.0])
        sd = EXAMPLE.sd([1.0])[0]
        assert plain.low == pytest.approx(0.614268 - 1.959964 * sd, abs=1e-6)
        assert plain.high == pytest.approx(0.614268 + 1.959964 * sd, abs=1e-6)
        assert "independent" in plain.caution
        (logit,) = EXAMPLE.intervals([1.0], scale="logit")
        ends = np.log([logit.low / (1 - logit.low), logit.high / (1 - logit.high)])
        middle = np.log(logit.estimate / (1 - logit.estimate))
        np.testing.assert_allclose(ends.mean(), middle)
        width = 1.959964 * sd / (logit.estimate * (1 - logit.estimate))
        np.testing.assert_allclose(np.diff(ends) / 2, width, rtol=1e-6)

    def test_bars_stay_inside(self):
        wide = dataclasses.replace(EXAMPLE, covariance=np.eye(2))
        for scale in ("linear", "logit"):
            for bar in wide.intervals([0.01, 1, 9], scale=scale):
                assert 0 <= bar.low <= bar.estimate <= bar.high <= 1

    def test_end_of_the_curve_is_not_reached(self):
        found = EXAMPLE.intervals([9.9, 10.0, 11.0])
        assert np.isfinite([found[0].estimate, found[0].low]).all()
        for bar in found[1:]:
            assert np.isnan([bar.estimate, bar.low, bar.high]).all()
            assert "not reached" in bar.caution
        assert EXAMPLE.sensitivity([10 - 1e-9])[0] == pytest.approx(0.9, abs=1e-3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"rates": [0.0]}, "above 0"), ({"level": 1.0}, "level"), ({"scale": "log"}, "logit")],
    )
    def test_refuses(self, settings, message):
        with pytest.raises(ValueError, match=message):
            EXAMPLE.intervals(**{"rates": [1.0]} | settings)


class TestFit:
    @pytest.mark.parametrize("seed", range(3))
    def test_is_the_maximum_of_the_likelihood(self, seed):
        """Against a search that knows no derivative, with the model written out anew."""
        false, true = scores(seed, 80, 60)
        counts = idca.classes(false, true)
        found = idca.fit_roc(np.repeat([0, 1], [80, 60]), np.append(false, true))
        share = np.cumsum(counts[0])[:-1] / 80

        def negative(theta):
            cuts = theta[2:]
            if theta[1] <= 0 or (np.diff(cuts) <= 0).any():
                return np.inf
            return -log_likelihood(theta[0], theta[1], cuts, counts)

        start = np.concatenate([[1.0, 1.0], norm.ppf(share)])
        options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 40_000, "maxfev": 40_000}
        for _ in range(3):
            best = optimize.minimize(negative, start, method="Nelder-Mead", options=options)
            start = best.x
        assert negative(np.concatenate([[found.a, found.b], best.x[2:]])) <= best.fun + 1e-6
        np.testing.assert_allclose([found.a, found.b], best.x[:2], atol=2e-4)

    def test_covariance_against_differences(self):
        """The inverse of the observed information, by second differences."""
        false, true = scores(5)
        counts = idca.classes(false, true)
        found = idca.fit_roc(np.repeat([0, 1], [600, 160]), np.append(false, true))
        # With a and b held, the cuts follow from the likelihood: its profile in a and b has the
        # curvature that belongs to the block of the inverse information.
        cuts = norm.ppf(np.cumsum(counts[0])[:-1] / 600)
        start = np.append(cuts[0], np.log(np.diff(cuts)))

        def profile(a, b):
            def negative(free):
                rising = free[0] + np.append(0, np.cumsum(np.exp(free[1:])))
                return -log_likelihood(a, b, rising, counts)

            return -optimize.minimize(negative, start, method="BFGS", options={"gtol": 1e-3}).fun

        h = 0.02
        a, b = found.a, found.b
        middle = profile(a, b)
        aa = (profile(a + h, b) - 2 * middle + profile(a - h, b)) / h**2
        bb = (profile(a, b + h) - 2 * middle + profile(a, b - h)) / h**2
        ab = (
            profile(a + h, b + h) - profile(a + h, b - h)
            - profile(a - h, b + h) + profile(a - h, b - h)
        ) / (4 * h**2)  # fmt: skip
        expected = np.linalg.inv(-np.array([[aa, ab], [ab, bb]]))
        np.testing.assert_allclose(found.covariance, expected, rtol=0.02)

    def test_derivatives_of_the_likelihood(self):
        false, true = scores(6)
        counts = idca.classes(false, true)
        theta = np.concatenate([[1.0, 0.8], norm.ppf(np.cumsum(counts[0])[:-1] / 600) + 0.05])
        value, gradient, curvature = idca._likelihood(theta, counts)
        assert value == pytest.approx(log_likelihood(*theta[:2], theta[2:], counts))
        step = 1e-5 * np.eye(len(theta))
        for k, move in enumerate(step):
            up, down = (idca._likelihood(theta + m, counts) for m in (move, -move))
            assert gradient[k] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-5, abs=1e-4)
            np.testing.assert_allclose(curvature[k], (up[1] - down[1]) / 2e-5, rtol=1e-5, atol=1e-3)

    def test_recovers_the_truth_whatever_the_scale(self):
        given = marks(1, cases=3000)
        found = idca.fit(given)
        sd = np.sqrt(np.diag(found.covariance))
        assert abs(found.a - 1.2) < 3 * sd[0]
        assert abs(found.b - 0.7) < 3 * sd[1]
        assert (found.false_rate, found.found) == (4.0, 0.9)
        assert (found.images, found.lesions, found.clusters) == (3000, 3000, 1500)
        other = idca.fit(dataclasses.replace(given, scores=np.exp(given.scores)))
        assert (other.a, other.b) == (found.a, found.b)
        rates = np.array([0.1, 1.0, 3.0])
        truth = 0.9 * norm.cdf(1.2 + 0.7 * norm.ppf(rates / 4))
        np.testing.assert_allclose(found.sensitivity(rates), truth, atol=0.03)

    def test_highest_mark_of_a_lesion_is_the_candidate(self):
        given = marks(2)
        again = Marks(
            np.append(given.scores, given.scores[given.hits] - 1),
            np.append(given.cases, given.cases[given.hits]),
            np.append(given.lesions, given.lesions[given.hits]),
            given.images, given.lesion_counts, given.subjects,
        )  # fmt: skip
        assert idca.fit(again).a == idca.fit(given).a
        assert idca.fit(again).found == idca.fit(given).found

    def test_roc_ends_at_one(self):
        false, true = scores(3)
        found = idca.fit_roc(np.repeat([0, 1], [600, 160]), np.append(false, true))
        assert (found.false_rate, found.found) == (1, 1)
        gradient = found.gradient([0.1])[0, 1:3]
        assert found.sd([0.1])[0] == pytest.approx(np.sqrt(gradient @ found.covariance @ gradient))

    @pytest.mark.parametrize(
        ("false", "true", "reason"),
        [
            (np.arange(50.0), 100 + np.arange(50.0), "perfectly separated"),
            (100 + np.arange(50.0), np.arange(50.0), "perfectly separated"),
            (np.arange(8.0), np.arange(8.0), "classes of scores"),
            (np.ones(50), np.ones(50), "classes of scores"),
            (np.zeros(0), np.arange(9.0), "classes of scores"),
            (np.arange(9.0), np.zeros(0), "classes of scores"),
        ],
    )
    def test_says_why_there_is_no_fit(self, false, true, reason):
        labels = np.repeat([0, 1], [len(false), len(true)])
        with pytest.raises(idca.NoFit, match=reason):
            idca.fit_roc(labels, np.append(false, true))

    def test_refuses_unequal_arrays(self):
        with pytest.raises(ValueError, match="one finite score"):
            idca.fit_roc([0, 1], [0.5])


class TestClasses:
    @pytest.mark.parametrize("grades", [None, 1, 5])
    @pytest.mark.parametrize("size", [(30, 30), (4000, 100), (100, 4000), (20_000, 20_000)])
    def test_ordered_full_and_few(self, size, grades):
        false, true = scores(4, *size)
        if grades:
            false, true = np.round(false * grades), np.round(true * grades)
        found = idca.classes(false, true)
        assert len(found[0]) == len(found[1]) <= 20
        assert min(map(min, found)) >= 5
        assert (found[0].sum(), found[1].sum()) == size
        # Some cut of the scores gives each class, and equal scores share one.
        for values, counts in ((false, found[0]), (true, found[1])):
            rising = np.sort(values)
            for end in np.cumsum(counts)[:-1]:
                assert rising[end - 1] < rising[end]


class TestBars:
    RATES = (0.5, 1.0, 2.0)

    def test_of_either_kind(self):
        methods = {"a": marks(7), "b": marks(8, a=0.6)}
        fitted = idca.bars(methods, self.RATES)
        drawn = idca.bars(methods, self.RATES, kind="bootstrap", draws=400)
        for name in methods:
            assert (fitted[name].method, drawn[name].method) == ("idca", "bootstrap")
            assert fitted[name].note == drawn[name].note == ""
            for one, two in zip(fitted[name].intervals, drawn[name].intervals, strict=True):
                assert one.estimate == pytest.approx(two.estimate, abs=0.06)
                assert one.high - one.low == pytest.approx(two.high - two.low, abs=0.08)

    def test_falls_back_and_says_so(self):
        few = marks(9, cases=12)
        found = idca.bars({"a": few}, self.RATES, draws=50)["a"]
        assert found.method == "bootstrap"
        assert "bootstrap bars, as only" in found.note
        assert len(found.intervals) == 3

    def test_refuses_another_kind(self):
        with pytest.raises(ValueError, match="idca"):
            idca.bars({"a": marks()}, self.RATES, kind="exact")


@pytest.mark.slow
def test_coverage_in_simulation():
    """Independent candidates: the bars hold the true sensitivity about as often as they say."""
    truth = 0.9 * norm.cdf(1.2 + 0.7 * norm.ppf(1.0 / 4))
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        cases = 150
        of_false = np.repeat(np.arange(cases), rng.poisson(4, cases))
        of_true = np.flatnonzero(rng.random(cases) < 0.9)
        values = np.append(
            rng.normal(size=of_false.size), rng.normal(1.2 / 0.7, 1 / 0.7, of_true.size)
        )
        ones = np.ones(cases, int)
        given = Marks(
            values, np.append(of_false, of_true),
            np.repeat([-1, 0], [of_false.size, of_true.size]), ones, ones, np.arange(cases),
        )  # fmt: skip
        (bar,) = idca.fit(given).intervals([1.0])
        held += bar.low <= truth <= bar.high
    assert 0.91 <= held / 400 <= 0.98
