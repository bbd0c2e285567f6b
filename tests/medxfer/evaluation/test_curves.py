import dataclasses

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from medxfer.evaluation import curves, figures, froc, idca, roc
from medxfer.evaluation.intervals import Interval
from medxfer.evaluation.marks import Marks
from medxfer.evaluation.resampling import Bars

RATES = (0.5, 1.0, 2.0)


def marks(seed, quality=1.5, cases=40):
    rng = np.random.default_rng(seed)
    false = np.repeat(np.arange(cases), rng.poisson(3, cases))
    scores = np.append(rng.normal(size=false.size), quality + rng.normal(size=cases))
    lesions = np.repeat([-1, 0], [false.size, cases])
    ones = np.ones(cases, int)
    return Marks(scores, np.append(false, np.arange(cases)), lesions, ones, ones, np.arange(cases))


def bars(values, method="bootstrap"):
    ends = [Interval(v, v - 0.1, v + 0.05, np.nan, 0.95, 12) for v in values]
    return Bars(method, tuple(ends))


def family(count=3, method="bootstrap"):
    lines = {}
    for k in range(count):
        given = marks(k, 0.5 + 0.3 * k)
        values = froc.sensitivity(given, RATES)
        lines[f"method {k}"] = curves.froc_line(given, RATES, bars(values, method))
    return lines


def rates_of(count=3):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    lines = {}
    for k in range(count):
        scores = labels * (0.5 + 0.3 * k) + rng.normal(size=120)
        rates = (0.1, 0.2)
        values = roc.sensitivity(labels, scores, rates)
        lines[f"method {k}"] = curves.roc_line(labels, scores, rates, bars(values))
    return lines


def plain(lines):
    return {name: dataclasses.replace(line, bars=None) for name, line in lines.items()}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves.froc_family(family(), unit="frame"),
        lambda: curves.roc_family(rates_of(10), x_range=(0, 0.3)),
    ],
)
def test_written_whole_and_the_same_again(draw, tmp_path):
    first = [path.read_bytes() for path in figures.save(draw(), tmp_path / "figure")]
    assert [p.read_bytes() for p in figures.save(draw(), tmp_path / "again")] == first
    image = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    assert image.std() > 5
    assert min(image[0].min(), image[-1].min(), image[:, 0].min(), image[:, -1].min()) > 240


class TestLines:
    @pytest.mark.parametrize("seed", range(5))
    def test_staircase_is_the_step_rule(self, seed):
        """Read off the drawn path, at rates on and between its corners."""
        given = marks(seed)
        line = curves.froc_line(given)
        assert (np.diff(line.x) * np.diff(line.y) == 0).all()
        assert len(line.x) <= 2 * len(given.hits) + 3
        end = froc.common_rate({"": given})
        rates = np.append(np.random.default_rng(seed).uniform(0, end, 50), [0, end])
        read = line.y[np.searchsorted(line.x, rates, side="right") - 1]
        np.testing.assert_array_equal(read, froc.sensitivity(given, rates))
        assert (line.x[-1], line.y[-1]) == (end, froc.curve(given).sensitivity[-1])

    @pytest.mark.parametrize("grades", [None, 2])
    def test_thinned_roc_curve_has_the_same_area(self, grades):
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 2, 3000)
        scores = labels + rng.normal(size=3000)
        if grades:
            scores = np.round(scores * grades)
        line = curves.roc_line(labels, scores)
        assert np.trapezoid(line.y, line.x) == pytest.approx(roc.auc(labels, scores))
        assert len(line.x) < 1700

    def test_fitted_curve(self):
        fit = idca.Fit(10, 0.9, 1.5, 0.8, np.eye(2), 50, 127)
        line = curves.fitted_line(fit)
        inside = (line.x > 1e-3) & (line.x < 9.99)
        np.testing.assert_allclose(line.y[inside], fit.sensitivity(line.x[inside]), atol=1e-9)
        assert (line.x[-1], line.y[-1]) == (10, 0.9)
        assert line.x[0] < 1e-10
        curves.froc_family({"fitted": line})

    def test_no_mark_is_a_point(self):
        line = curves.froc_line(Marks([], [], [], [1], [1], ["a"]))
        assert (line.x.tolist(), line.y.tolist()) == ([0], [0])
        curves.froc_family({"silent": line})
        curves.froc_family({"silent": line}, log=False)


class TestFroc:
    def test_markers_sit_on_the_curves(self):
        lines = family()
        axes = curves.froc_family(lines).axes[0]
        drawn = [line for line in axes.lines if line.get_linestyle() == "None"]
        points = [line for line in drawn if len(line.get_xdata()) == len(RATES)]
        for point, seed in zip(points, range(3), strict=True):
            np.testing.assert_array_equal(point.get_xdata(), RATES)
            expected = froc.sensitivity(marks(seed, 0.5 + 0.3 * seed), RATES)
            np.testing.assert_array_equal(point.get_ydata(), expected)

    def test_bars_are_the_intervals(self):
        lines = family()
        panel = curves.froc_family(lines).axes[1]
        drawn = [c for c in panel.collections if isinstance(c, LineCollection)]
        for found, line in zip(drawn, lines.values(), strict=True):
            ends = np.array([segment[:, 1] for segment in found.get_segments()])
            expected = [(bar.low, bar.high) for bar in line.bars.intervals]
            np.testing.assert_allclose(ends, expected)
            middle = np.array([segment[0, 0] for segment in found.get_segments()])
            np.testing.assert_allclose(middle, np.arange(3), atol=0.5)
        assert [t.get_text() for t in panel.get_xticklabels()] == ["0.5", "1", "2"]

    def test_bars_of_a_rate_stand_apart(self):
        panel = curves.froc_family(family(10)).axes[1]
        places = [c.get_segments()[0][0, 0] for c in panel.collections]
        assert np.diff(places).min() > 0.05
        assert -0.5 < places[0] < places[-1] < 0.5

    def test_what_is_not_reached_is_not_drawn(self):
        lines = family(2)
        lines["method 0"] = dataclasses.replace(lines["method 0"], bars=bars([0.4, np.nan, np.nan]))
        panel = curves.froc_family(lines).axes[1]
        assert [len(c.get_segments()) for c in panel.collections] == [1, 3]

    def test_kinds_of_bars_are_said(self):
        title = curves.froc_family(family()).axes[1].get_title(loc="left")
        assert title == "Bars: 95 %, cluster bootstrap of 12 subjects"
        mixed = family(2) | {"fitted": family(1, "idca")["method 0"]}
        title = curves.froc_family(mixed).axes[1].get_title(loc="left")
        assert "cluster bootstrap of 12 subjects (method 0, method 1)" in title
        assert "fitted curve (IDCA) (fitted)" in title

    def test_axis_of_rates(self):
        lines = family()
        log, linear = (curves.froc_family(lines, log=log).axes[0] for log in (True, False))
        end = max(line.x[-1] for line in lines.values())
        assert (log.get_xscale(), linear.get_xscale()) == ("log", "linear")
        assert 0 < log.get_xlim()[0] < RATES[0] < end < log.get_xlim()[1]
        assert linear.get_xlim()[0] == 0
        given = curves.froc_family(lines, x_range=(1e-4, 10), y_range=(0, 0.8)).axes[0]
        assert (given.get_xlim(), given.get_ylim()) == ((1e-4, 10), (0, 0.8))
        for line in log.lines:
            assert np.all(np.asarray(line.get_xdata()) > 0)

    def test_band(self):
        lines = family(1)
        grid = np.linspace(0.1, 2, 9)
        (name,) = lines
        lines[name] = dataclasses.replace(lines[name], band=(grid, grid / 4, grid / 3))
        path = curves.froc_family(lines).axes[0].collections[0].get_paths()[0]
        assert path.vertices[:, 1].max() == pytest.approx(2 / 3)

    def test_methods_stay_apart_and_in_order(self):
        figure = curves.froc_family(family(12))
        (legend,) = figure.legends
        assert [t.get_text() for t in legend.get_texts()] == list(family(12))
        looks = {(h.get_color(), h.get_linestyle()) for h in legend.get_lines()}
        assert len(looks) == 12


class TestRoc:
    def test_panels(self):
        axes, panel = curves.roc_family(rates_of()).axes
        assert axes.get_xlim() == axes.get_ylim() == (0, 1)
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 1])
        assert len(panel.collections) == 3
        assert len(curves.roc_family(plain(rates_of())).axes) == 1
