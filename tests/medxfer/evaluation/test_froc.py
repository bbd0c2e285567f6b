import warnings

import numpy as np
import pytest

from medxfer.evaluation import _ladder, compare, froc, intervals, resampling
from medxfer.evaluation.froc import Marks, Merits

# Three images with four lesions; (image, score, lesion of the image or -1).
EXAMPLE = [
    (0, 0.95, 0), (0, 0.90, -1), (1, 0.80, 0), (1, 0.80, -1),
    (2, 0.60, 0), (2, 0.55, -1), (0, 0.50, 0), (1, 0.30, -1),
]  # fmt: skip


def example():
    cases, scores, lesions = zip(*EXAMPLE, strict=True)
    return Marks(scores, cases, lesions, [1, 1, 1], [1, 1, 2], ["a", "b", "c"])


def rates_only(false, true, images, targets):
    """Marks of one case from scores of false positives and of lesions."""
    scores = [*false, *true]
    lesions = [-1] * len(false) + list(range(len(true)))
    return Marks(scores, [0] * len(scores), lesions, [images], [targets], ["a"])


def random_marks(seed, cases=8, subjects=5, grades=4, quality=1.0):
    """Cases of several images and lesions, repeated hits, tied scores, cases without anything."""
    world = np.random.default_rng(1000 + seed // 10)  # seeds of one decade share their cases
    images, counts = world.integers(1, 4, cases), world.integers(0, 4, cases)
    names = np.array([f"s{k}" for k in world.integers(0, subjects, cases)])
    rng = np.random.default_rng(seed)
    rows = []
    for case in range(cases):
        for _ in range(rng.poisson(3)):
            rows.append((rng.normal(), case, -1, rng.integers(images[case])))
        for lesion in range(counts[case]):
            for _ in range(rng.integers(0, 3)):
                rows.append((quality + rng.normal(), case, lesion, rng.integers(images[case])))
    rng.shuffle(rows)
    scores, of, lesions, frames = np.array(rows).T
    if grades:
        scores = np.round(scores * grades)
    of, lesions, frames = (values.astype(int) for values in (of, lesions, frames))
    return Marks(scores, of, lesions, images, counts, names, frames)


def repeated(marks, times):
    """The marks of cases drawn ``times`` each, written out one by one."""
    rows, images, counts, names = [], [], [], []
    for case, number in enumerate(times):
        for _ in range(number):
            for k in np.flatnonzero(marks.cases == case):
                rows.append((marks.scores[k], len(images), marks.lesions[k], marks.frames[k]))
            images.append(marks.images[case])
            counts.append(marks.lesion_counts[case])
            names.append(str(len(images)))
    scores, of, lesions, frames = np.array(rows or np.zeros((0, 4))).reshape(-1, 4).T
    of, lesions, frames = (values.astype(int) for values in (of, lesions, frames))
    return Marks(scores, of, lesions, images, counts, names, frames)


def oracle_points(marks):
    """False positives per image and sensitivity at every threshold, counted by plain loops."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(marks.scores.tolist()), reverse=True):
        false, found = 0, set()
        for score, case, lesion in zip(marks.scores, marks.cases, marks.lesions, strict=True):
            if score >= threshold:
                if lesion < 0:
                    false += 1
                else:
                    found.add((case, lesion))
        points.append((false / marks.images.sum(), len(found) / marks.lesion_counts.sum()))
    return points


def oracle_step(marks, rate):
    points = oracle_points(marks)
    return max(y for x, y in points if x <= rate), points[-1][0] >= rate


def oracle_linear(marks, rate):
    best = {}
    for x, y in oracle_points(marks):
        best[x] = max(y, best.get(x, 0))
    return np.interp(rate, list(best), list(best.values()))


def oracle_area(marks, to):
    """Trapezoids, cut at ``to``; the curve goes on level beyond its end."""
    points = oracle_points(marks)
    points.append((max(to, points[-1][0]), points[-1][1]))
    total = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x1 > to and x1 > x0:
            y1 = y0 + (y1 - y0) * (to - x0) / (x1 - x0)
            x1 = to
        if x1 > x0:
            total += (x1 - x0) * (y0 + y1) / 2
    return total


def oracle_jafroc(marks):
    highest = []
    for case, images in enumerate(marks.images):
        for frame in range(images):
            mine = (marks.cases == case) & (marks.frames == frame) & (marks.lesions < 0)
            highest.append(max(marks.scores[mine], default=-np.inf))
    total, pairs = 0.0, 0
    for case, count in enumerate(marks.lesion_counts):
        for lesion in range(count):
            mine = (marks.cases == case) & (marks.lesions == lesion)
            rating = max(marks.scores[mine], default=-np.inf)
            for other in highest:
                total += (rating > other) + (rating == other) / 2
                pairs += 1
    return total / pairs


class TestExample:
    def test_curve(self):
        found = froc.curve(example())
        np.testing.assert_array_equal(
            found.thresholds, [np.inf, 0.95, 0.90, 0.80, 0.60, 0.55, 0.30]
        )
        np.testing.assert_allclose(found.rates, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1, 4 / 3], atol=1e-10)
        np.testing.assert_allclose(
            found.sensitivity, [0, 0.25, 0.25, 0.5, 0.75, 0.75, 0.75], atol=1e-10
        )

    def test_mean_sensitivity_by_either_rule(self):
        assert froc.mean_sensitivity(example()) == pytest.approx(0.535714285714, abs=1e-10)
        assert froc.mean_sensitivity(example(), rule="linear") == pytest.approx(4 / 7, abs=1e-10)
        found = froc.curve(example())
        raw = np.interp(froc.MEAN_RATES, found.rates, found.sensitivity).mean()
        assert raw == pytest.approx(0.5535714286, abs=1e-10)

    def test_rates_beyond_the_end_are_not_reached(self):
        rates = [0, 1 / 3, 2 / 3, 1, 4 / 3, 1.34]
        expected = [0.25, 0.25, 0.75, 0.75, 0.75]
        np.testing.assert_array_equal(froc.sensitivity(example(), rates), [*expected, np.nan])
        np.testing.assert_array_equal(
            froc.sensitivity(example(), rates, beyond="hold"), [*expected, 0.75]
        )

    def test_repeated_hit_counts_neither_way(self):
        marks = example()
        assert marks.hits.tolist() == [0, 2, 4]
        keep = [k for k in range(8) if k != 6]
        other = Marks(
            marks.scores[keep], marks.cases[keep], marks.lesions[keep],
            marks.images, marks.lesion_counts, marks.subjects,
        )  # fmt: skip
        for one, two in zip(*(vars_of(froc.curve(m)) for m in (marks, other)), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_published_case_of_linear_interpolation(self):
        """Test case of MONAI's FROC; a score of 0 there is a lesion without mark."""
        marks = rates_only([0.8, 0.6], [1, 1, 0.8, 0.8], images=2, targets=4)
        found = froc.mean_sensitivity(marks, (0.25, 0.5, 1, 2, 4, 8), rule="linear")
        assert found == pytest.approx(0.9583333333333334, abs=1e-10)
        assert froc.sensitivity(marks, [0.25], rule="linear")[0] == pytest.approx(0.75, abs=1e-10)

    def test_lowest_threshold_is_part_of_the_curve(self):
        found = froc.curve(rates_only([0.7, 0.3], [0.9, 0.5], images=2, targets=2))
        assert (found.rates[-1], found.sensitivity[-1]) == (1, 1)


def vars_of(curve):
    return curve.rates, curve.sensitivity, curve.thresholds


@pytest.mark.parametrize("grades", [None, 1, 4])
@pytest.mark.parametrize("seed", range(0, 40, 10))
class TestAgainstPlainLoops:
    RATES = (0.0, 0.05, 0.3, 1 / 3, 0.5, 1.0, 1.5, 4.0)

    def test_curve(self, seed, grades):
        marks = random_marks(seed, grades=grades)
        found = froc.curve(marks)
        counted = {marks.scores[k] for k in (*marks.hits, *marks.alarms)}
        thresholds = sorted(set(marks.scores.tolist()), reverse=True)
        points = [p for t, p in zip([np.inf, *thresholds], oracle_points(marks), strict=True)
                  if t in counted or t == np.inf]  # fmt: skip
        np.testing.assert_array_equal(np.column_stack([found.rates, found.sensitivity]), points)

    def test_sensitivity(self, seed, grades):
        marks = random_marks(seed, grades=grades)
        for rate in self.RATES:
            value, reached = oracle_step(marks, rate)
            for rule, expected in (("step", value), ("linear", oracle_linear(marks, rate))):
                held = froc.sensitivity(marks, [rate], rule=rule, beyond="hold")[0]
                assert held == pytest.approx(expected, abs=1e-12)
                plain = froc.sensitivity(marks, [rate], rule=rule)[0]
                assert plain == pytest.approx(expected if reached else np.nan, nan_ok=True)

    def test_area(self, seed, grades):
        marks = random_marks(seed, grades=grades)
        end = froc.common_rate({"a": marks})
        assert end == oracle_points(marks)[-1][0]
        for to in self.RATES:
            expected = oracle_area(marks, to)
            assert froc.area(marks, to, beyond="hold") == pytest.approx(expected, abs=1e-12)
            assert np.isnan(froc.area(marks, to)) == (to > end)

    def test_jafroc(self, seed, grades):
        marks = random_marks(seed, grades=grades)
        assert froc.jafroc1(marks) == pytest.approx(oracle_jafroc(marks), abs=1e-12)

    def test_merging_the_cases_of_a_subject_changes_nothing(self, seed, grades):
        marks = random_marks(seed, grades=grades)
        merged = marks.by_subject()
        assert merged.subjects.tolist() == sorted(set(marks.subjects))
        assert merged.images.sum() == marks.images.sum()
        for one, two in zip(vars_of(froc.curve(marks)), vars_of(froc.curve(merged)), strict=True):
            np.testing.assert_array_equal(one, two)
        assert froc.jafroc1(merged) == pytest.approx(froc.jafroc1(marks), abs=1e-12)

    @pytest.mark.parametrize("rule", ["step", "linear"])
    def test_weights_are_repeated_cases(self, seed, grades, rule, monkeypatch):
        monkeypatch.setattr(_ladder, "BLOCK", 4)  # several blocks
        monkeypatch.setattr(_ladder, "_CELLS", 24)  # several parts
        marks = random_marks(seed, grades=grades)
        merits = Merits(self.RATES, area_to=0.8, jafroc=True, rule=rule)
        weights = np.random.default_rng(seed).integers(0, 3, (7, len(marks.images)))
        weights[:, 0] += weights @ marks.lesion_counts == 0
        for kind in (int, float):
            found = froc.weighted(marks, merits)(weights.astype(kind))
            assert found.shape == (7, len(merits.names))
            for row, times in zip(found, weights, strict=True):
                drawn = repeated(marks, times)
                if not drawn.lesion_counts.sum():
                    assert np.isnan(row[:-2]).all()
                    continue
                read = oracle_linear if rule == "linear" else lambda m, x: oracle_step(m, x)[0]
                end = oracle_points(drawn)[-1]
                mean = np.mean([read(drawn, rate) for rate in froc.MEAN_RATES])
                expected = [read(drawn, rate) for rate in self.RATES]
                expected += [oracle_area(drawn, 0.8), mean, oracle_jafroc(drawn), *end]
                np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
                if rule == "step":
                    np.testing.assert_array_equal(row[: len(self.RATES)], expected[:8])


class TestEdges:
    def test_no_lesion(self):
        marks = Marks([0.5], [0], [-1], [2], [0], ["a"], [1])
        with pytest.warns(UserWarning, match="no lesion"):
            found = froc.curve(marks)
        assert np.isnan(found.sensitivity).all()
        assert found.rates.tolist() == [0, 0.5]
        assert np.isnan(froc.jafroc1(marks))
        row = froc.weighted(marks, Merits((0.1,), area_to=0.2))(np.ones((1, 1), int))[0]
        np.testing.assert_array_equal(row, [np.nan, np.nan, np.nan, 0.5, np.nan])

    def test_no_mark(self):
        marks = Marks([], [], [], [3, 1], [1, 0], ["a", "b"])
        found = froc.curve(marks)
        assert (found.rates.tolist(), found.sensitivity.tolist()) == ([0], [0])
        assert np.isnan(froc.sensitivity(marks, [0.5])[0])
        assert froc.sensitivity(marks, [0.0, 0.5], beyond="hold").tolist() == [0, 0]
        assert froc.mean_sensitivity(marks) == 0
        assert froc.area(marks, 0.0) == 0
        assert froc.area(marks, 1.0, beyond="hold") == 0
        row = froc.weighted(marks, Merits((0.1,), area_to=0.2))(np.ones((1, 2), int))[0]
        np.testing.assert_array_equal(row, np.zeros(5))

    def test_no_mark_and_silent_images_tie(self):
        assert froc.jafroc1(Marks([], [], [], [1, 1], [1, 0], ["a", "b"])) == 0.5

    def test_no_false_positive(self):
        marks = Marks([0.9, 0.4], [0, 1], [0, 0], [1, 1], [1, 2], ["a", "b"])
        assert froc.sensitivity(marks, [0.0])[0] == pytest.approx(2 / 3)
        assert np.isnan(froc.sensitivity(marks, [0.1])[0])
        assert froc.area(marks, 2.0, beyond="hold") == pytest.approx(4 / 3)
        row = froc.weighted(marks, Merits((0.1,), area_to=2.0))(np.ones((1, 2), int))[0]
        np.testing.assert_allclose(row, [2 / 3, 4 / 3, 2 / 3, 0, 2 / 3])

    def test_no_hit(self):
        marks = Marks([0.9, 0.4], [0, 1], [-1, -1], [1, 1], [1, 2], ["a", "b"])
        assert froc.sensitivity(marks, [0.0, 1.0]).tolist() == [0, 0]
        row = froc.weighted(marks, Merits((1.0,), area_to=1.0))(np.ones((1, 2), int))[0]
        np.testing.assert_array_equal(row, [0, 0, 0, 1, 0])

    def test_all_scores_tied(self):
        marks = Marks([1, 1, 1], [0, 0, 1], [0, -1, -1], [1, 1], [1, 1], ["a", "b"])
        np.testing.assert_array_equal(froc.sensitivity(marks, [0.5, 1.0]), [0, 0.5])
        assert froc.area(marks, 1.0) == pytest.approx(0.25)
        assert froc.sensitivity(marks, [0.5], rule="linear")[0] == pytest.approx(0.25)

    def test_negative_images_lower_the_rate_only(self):
        marks = example()
        more = Marks(
            marks.scores, marks.cases, marks.lesions, [1, 1, 4], marks.lesion_counts, marks.subjects
        )
        one, two = froc.curve(marks), froc.curve(more)
        np.testing.assert_allclose(two.rates, one.rates / 2)
        np.testing.assert_array_equal(two.sensitivity, one.sensitivity)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": [1, 0, 1]}, "Case 1 has no image"),
            ({"scores": [0.1] * 7}, "one entry per mark"),
            ({"frames": [0]}, "one entry per mark"),
            ({"lesion_counts": [1, 1]}, "one entry per case"),
            ({"scores": [np.nan] * 8}, "finite"),
            ({"lesion_counts": [1, -1, 2]}, "negative"),
            ({"cases": [3] * 8}, "case must be 0 to 2"),
            ({"cases": [-1] * 8}, "case must be 0 to 2"),
            ({"lesions": [2] * 8}, "one of the lesions"),
            ({"lesions": [-2] * 8}, "one of the lesions"),
            ({"frames": [1] * 8}, "one of the images"),
            ({"cases": [0.5] * 8}, "integers"),
            ({"scores": [[0.5]]}, "shape"),
        ],
    )
    def test_refuses_what_cannot_be(self, change, message):
        marks = example()
        fields = ("scores", "cases", "lesions", "images", "lesion_counts", "subjects", "frames")
        given = {name: getattr(marks, name) for name in fields} | change
        with pytest.raises(ValueError, match=message):
            Marks(**given)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m: froc.sensitivity(m, [-1.0]), "not negative"),
            (lambda m: froc.sensitivity(m, [np.nan]), "not negative"),
            (lambda m: froc.sensitivity(m, [1.0], rule="spline"), "step"),
            (lambda m: froc.sensitivity(m, [1.0], beyond="guess"), "hold"),
            (lambda m: froc.analyse({}, Merits()), "at least one method"),
        ],
    )
    def test_refuses_other_questions(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(example())

    def test_jafroc_needs_frames(self):
        marks = Marks([0.5], [0], [-1], [2], [1], ["a"])
        with pytest.raises(ValueError, match="frame of every mark"):
            froc.jafroc1(marks)

    def test_rates_at_whole_numbers_of_false_positives(self):
        """A product of rate and images may round across the count that it stands for."""
        totals = np.arange(1.0, 400)
        for rate in (0.07, 0.1, 0.29, 1 / 3, 0.57, 1.1, 2.3):
            limits = _ladder.limits(np.array([rate]), totals)[:, 0]
            for total, limit in zip(totals, limits, strict=True):
                whole = np.arange(np.floor(rate * total) - 1, np.ceil(rate * total) + 2)
                np.testing.assert_array_equal(whole <= limit, whole / total <= rate)


class TestLadder:
    def test_sums_against_cumulative_sums(self, monkeypatch):
        monkeypatch.setattr(_ladder, "BLOCK", 5)
        rng = np.random.default_rng(0)
        for size in (0, 1, 4, 5, 6, 23):
            units, weights = rng.integers(0, 7, size), rng.integers(0, 3, (9, 7))
            sums = _ladder.Ladder(units, 7).over(_ladder.pad(weights, size))
            plain = np.concatenate([np.zeros((9, 1)), np.cumsum(weights[:, units], axis=1)], axis=1)
            np.testing.assert_array_equal(sums.total, plain[:, -1])
            leading = np.tile(np.arange(size + 1), (9, 1))
            np.testing.assert_array_equal(sums.at(leading), plain)
            np.testing.assert_array_equal(sums.at_all(np.arange(size + 1)), plain)
            limits = rng.uniform(0, 20, (9, 6)).round(1)
            expected = [[max(np.flatnonzero(row <= limit)) for limit in limit_row]
                        for row, limit_row in zip(plain, limits, strict=True)]  # fmt: skip
            np.testing.assert_array_equal(sums.within(limits), expected)

    def test_large_sums_leave_float32(self):
        assert _ladder.pad(np.full((1, 2), 3), most=10).dtype == np.float32
        assert _ladder.pad(np.full((1, 2), 3), most=10**7).dtype == np.float64
        assert _ladder.pad(np.full((1, 2), 0.5), most=1).dtype == np.float64


class TestAnalyse:
    MERITS = Merits((0.2, 0.5, 1.0), area_to=0.9, jafroc=True)

    def methods(self, decade=0):
        return {
            name: random_marks(decade * 10 + k, cases=30, subjects=12, grades=None, quality=q)
            for k, (name, q) in enumerate({"a": 2.0, "b": 1.0, "c": 0.5}.items())
        }

    def test_equals_a_loop_over_draws(self):
        """The same draws, each written out as a set of marks."""
        methods = self.methods()
        names = np.unique(methods["a"].subjects)
        (times,) = resampling.counts(len(names), 12, 3)
        found = froc.analyse(methods, self.MERITS, draws=12, seed=3)
        values = {}
        for name, marks in methods.items():
            member = np.searchsorted(names, marks.subjects)
            rows = []
            for row in times[:, member]:
                drawn = repeated(marks, row)
                rows.append([oracle_step(drawn, rate)[0] for rate in self.MERITS.rates]
                            + [oracle_area(drawn, 0.9)])  # fmt: skip
            values[name] = np.array(rows)
            low, high = np.quantile(rows, [0.025, 0.975], axis=0)
            for k, interval in enumerate(found.intervals[name][:4]):
                check_percentiles(interval, low[k], high[k], self.MERITS.limits[k])
                assert interval.clusters == len(names)
        for item in found.differences:
            place = found.merits.index(item.merit)
            if place < 4:
                d = values[item.first][:, place] - values[item.second][:, place]
                p = min(1, 2 * (1 + min((d <= 0).sum(), (d >= 0).sum())) / 13)
                low, high = np.quantile(d, [0.025, 0.975])
                ends = self.MERITS.limits[place]
                if any(
                    intervals.touches(found.intervals[name][place], ends)
                    for name in (item.first, item.second)
                ):
                    assert item.difference.low <= low and item.difference.high >= high
                    assert item.difference.p >= p - 1e-12
                else:
                    assert item.difference.p == pytest.approx(p)
                    np.testing.assert_allclose(
                        [item.difference.low, item.difference.high], [low, high]
                    )

    def test_estimates_are_those_of_the_curve(self):
        methods = self.methods(1)
        found = froc.analyse(methods, self.MERITS, draws=20)
        for name, marks in methods.items():
            expected = [
                *froc.sensitivity(marks, self.MERITS.rates), froc.area(marks, 0.9),
                froc.mean_sensitivity(marks), froc.jafroc1(marks), froc.common_rate({"": marks}),
                len(marks.hits) / marks.lesion_counts.sum(),
            ]  # fmt: skip
            np.testing.assert_allclose(
                [i.estimate for i in found.intervals[name]], expected, atol=1e-12
            )

    def test_holm_within_a_figure_of_merit(self):
        found = froc.analyse(self.methods(2), self.MERITS, draws=200)
        assert len(found.differences) == 3 * len(found.merits)
        for merit in found.merits:
            mine = [d for d in found.differences if d.merit == merit]
            expected = compare.holm([d.difference.p for d in mine])
            np.testing.assert_allclose([d.holm for d in mine], expected)
            assert [(d.first, d.second) for d in mine] == [("a", "b"), ("a", "c"), ("b", "c")]

    def test_draws_do_not_depend_on_blocks(self, monkeypatch):
        whole = froc.analyse(self.methods(), self.MERITS, draws=50, seed=1)
        monkeypatch.setattr(resampling, "_ROWS", 7)
        assert froc.analyse(self.methods(), self.MERITS, draws=50, seed=1) == whole
        assert froc.analyse(self.methods(), self.MERITS, draws=50, seed=2) != whole

    def test_a_method_against_itself(self):
        marks = self.methods()["a"]
        found = froc.analyse({"a": marks, "same": marks}, self.MERITS, draws=50)
        for item in found.differences:
            interval = item.difference
            assert (interval.estimate, interval.p) == (0, 1)
            # Other subjects may be those in whom the two differ, unless the range has no end.
            reach = 0 if "FP" in item.merit and "in all" in item.merit else 0.1
            assert interval.low <= -reach <= reach <= interval.high
            assert not item.bars_disjoint

    def test_not_reached_is_said(self):
        methods = self.methods()
        end = froc.common_rate({"a": methods["a"]})
        merits = Merits((0.1, end, end + 0.01), mean_rates=())
        found = froc.analyse({"a": methods["a"]}, merits, draws=300).intervals["a"]
        assert "ends before in" not in found[0].caution
        assert "ends before in" in found[1].caution
        assert np.isfinite([found[1].estimate, found[1].low, found[1].high]).all()
        assert "not reached" in found[2].caution
        assert np.isnan([found[2].estimate, found[2].low, found[2].p]).all()
        held = froc.analyse({"a": methods["a"]}, merits, draws=300, beyond="hold").intervals["a"]
        assert held[2].estimate == held[1].estimate
        assert "ends before in" in held[2].caution

    def test_few_subjects_with_lesions_are_told(self):
        lesions = np.array([2, 1, *[0] * 13])
        cases = np.repeat(np.arange(15), 3)
        hit = np.where(np.arange(45) % 3 < lesions[cases], np.arange(45) % 3, -1)
        scores = np.random.default_rng(0).uniform(size=45)
        marks = Marks(scores, cases, hit, np.ones(15, int), lesions, np.arange(15))
        (first, *_) = froc.analyse({"a": marks}, self.MERITS, draws=30).intervals["a"]
        assert "only 2 of 15 subjects with a lesion: the interval is likely" in first.caution

    def test_a_pair_needs_both_curves(self):
        methods = self.methods()
        silent = Marks(
            [], [], [], *(getattr(methods["a"], n) for n in ("images", "lesion_counts", "subjects"))
        )
        (item, *_) = froc.analyse({"a": methods["a"], "silent": silent}, Merits((0.5,)),
                                  draws=20).differences  # fmt: skip
        assert np.isnan([item.difference.estimate, item.difference.p, item.holm]).all()
        assert not item.bars_disjoint

    def test_few_subjects_are_said(self):
        marks = random_marks(0, subjects=4)
        found = froc.analyse({"a": marks}, Merits((0.2,)), draws=50).intervals["a"]
        assert all("only" in i.caution and "too narrow" in i.caution for i in found)

    def test_draws_without_lesions_are_left_out(self):
        marks = Marks([0.9, 0.2], [0, 1], [0, -1], [1] * 12, [1] + [0] * 11, list("abcdefghijkl"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = froc.analyse({"a": marks}, Merits((0.0,)), draws=400).intervals["a"][0]
        assert "of 400 draws" in found.caution
        assert (found.estimate, found.low, found.high) == (1, pytest.approx(0.025), 1)

    def test_methods_must_share_their_cases(self):
        methods = {"a": random_marks(0), "b": random_marks(10)}
        with pytest.raises(ValueError, match="same cases"):
            froc.analyse(methods, Merits())

    def test_agrees_with_the_bootstrap_of_one_statistic(self):
        """Other draws of the same kind: intervals agree but for chance."""
        marks = self.methods(3)["a"]
        statistic = froc.weighted(marks, Merits((0.5,), mean_rates=()))
        one = intervals.bootstrap(lambda w: statistic(w)[:, 0], marks.subjects, draws=4000)
        (other, *_) = froc.analyse({"a": marks}, Merits((0.5,)), draws=4000).intervals["a"]
        assert one.estimate == other.estimate
        np.testing.assert_allclose([one.low, one.high], [other.low, other.high], atol=0.03)


def check_percentiles(interval, low, high, limits):
    """Those of the draws; near an end of the range limits that lie farther out."""
    near = low - (interval.estimate - low), high + (high - interval.estimate)
    if limits[0] < near[0] and near[1] < limits[1]:
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    else:
        assert limits[0] <= interval.low <= low + 1e-12 and high - 1e-12 <= interval.high
        assert interval.high <= limits[1]


class TestDraws:
    def test_rows_draw_as_many_as_there_are(self):
        rows = np.concatenate(list(resampling.counts(13, 1100, 0)))
        assert rows.shape == (1100, 13)
        assert (rows.sum(axis=1) == 13).all()
        # Multinomial: mean 1, variance 12/13, covariance -1/13.
        np.testing.assert_allclose(rows.mean(axis=0), 1, atol=0.12)
        covariance = np.cov(rows.T)
        np.testing.assert_allclose(covariance, np.eye(13) - 1 / 13, atol=0.2)

    @pytest.mark.parametrize("bad", [(0, 5), (5, 0)])
    def test_refuses_nothing(self, bad):
        with pytest.raises(ValueError, match="at least one"):
            next(resampling.counts(*bad, 0))


class TestDisjointBars:
    def bar(self, low, high):
        return intervals.Interval((low + high) / 2, low, high, np.nan, 0.95, 20)

    def test_disjoint_touching_and_missing(self):
        assert resampling.bars_disjoint(self.bar(0.1, 0.2), self.bar(0.3, 0.4))
        assert resampling.bars_disjoint(self.bar(0.3, 0.4), self.bar(0.1, 0.2))
        assert not resampling.bars_disjoint(self.bar(0.1, 0.3), self.bar(0.3, 0.4))
        assert not resampling.bars_disjoint(self.bar(np.nan, np.nan), self.bar(0.3, 0.4))

    def test_goes_by_the_bars_given(self):
        methods = {name: random_marks(k, cases=30, subjects=12) for k, name in enumerate("ab")}
        apart = {"a": (0.0, 0.1), "b": (0.2, 0.3)}
        bars = {name: resampling.Bars("idca", (self.bar(*ends),)) for name, ends in apart.items()}
        found = froc.analyse(methods, Merits((0.3,)), draws=50, bars=bars)
        assert found.differences[0].bars_disjoint
        assert found.bars["a"].method == "idca"
        plain = froc.analyse(methods, Merits((0.3,)), draws=50)
        assert plain.bars["a"].method == "bootstrap"
        assert plain.differences[0].bars_disjoint == resampling.bars_disjoint(
            plain.intervals["a"][0], plain.intervals["b"][0]
        )


@pytest.mark.slow
def test_coverage_in_simulation():
    """Sensitivity at one false positive per image: intervals of subjects hold the truth.

    False positives score N(0, 1), 2 an image on average; lesions N(1.5, 1) plus a shift of their
    subject of variance 0.5, found with probability 0.9. The truth at rate 1, where half of the
    false positives are called, is 0.9 P(N(1.5, 1.5) > 0).
    """
    truth = 0.9 * 0.8896643
    held, runs = 0, 400
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        subjects, each = 40, 5
        shift = np.repeat(rng.normal(scale=np.sqrt(0.5), size=subjects), each)
        cases = np.arange(subjects * each)
        false = np.repeat(cases, rng.poisson(2, cases.size))
        marked = cases[rng.random(cases.size) < 0.9]
        scores = np.append(
            rng.normal(size=false.size), 1.5 + shift[marked] + rng.normal(size=marked.size)
        )
        lesions = np.repeat([-1, 0], [false.size, marked.size])
        ones = np.ones(cases.size, int)
        marks = Marks(scores, np.append(false, marked), lesions, ones, ones, cases // each)
        merits = Merits((1.0,), mean_rates=())
        found = froc.analyse({"a": marks}, merits, draws=500, seed=seed, beyond="hold")
        interval = found.intervals["a"][0]
        held += interval.low <= truth <= interval.high
    assert 0.90 <= held / runs <= 0.98
