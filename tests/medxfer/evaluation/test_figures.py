import ast
import pathlib

import matplotlib
import numpy as np
import pytest
from matplotlib import cbook, pyplot
from matplotlib.colors import to_rgb
from PIL import Image

from medxfer.evaluation import figures
from medxfer.evaluation.boundary import Boundaries

RNG = np.random.default_rng(0)
ERRORS = RNG.gamma(4, 10, 60)


def wall(width=92):
    li = 20 + 3 * np.sin(np.arange(width) / 20)
    return Boundaries(li, li + 12)


def confidence_map(truth=True):
    pair = wall()
    rows = np.arange(60)[:, None]
    p_li, p_ma = (np.exp(-((rows - y) ** 2) / 8) for y in (pair.li, pair.ma))
    roi = RNG.integers(0, 256, (60, 92), dtype=np.uint8)
    return figures.confidence_map(roi, p_li, p_ma, pair, pair, pair if truth else None, 0.06)


def course(loss, auc, kept, stages=None):
    return {
        "loss": loss, "validation_loss": [value + 0.1 for value in loss], "auc": auc,
        "stages": stages or ["s"] * len(loss), "kept": kept,
    }  # fmt: skip


def every_figure():
    subjects = np.repeat(np.arange(12), 5)
    thickness = RNG.normal(0.7, 0.1, 60)
    history = course([0.9, 0.5, 0.4], [0.8, 0.95, 0.9], kept=1)
    return {
        "confidence_map": confidence_map(),
        "error_boxes": figures.error_boxes({"LI": {"fc8": ERRORS}, "MA": {"fc8": ERRORS}}),
        "learning_curves": figures.learning_curves({"fc8": history}),
        "bland_altman": figures.bland_altman(thickness + 0.02, thickness, subjects),
        "agreement": figures.agreement(thickness + 0.02, thickness, subjects),
    }


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_figure_is_written_twice_and_the_same_again(tmp_path):
    for name, figure in every_figure().items():
        first = [path.read_bytes() for path in figures.save(figure, tmp_path / name)]
        assert first[0].startswith(b"\x89PNG")
        assert first[1].startswith(b"%PDF")
        assert [p.read_bytes() for p in figures.save(figure, tmp_path / "again")] == first
        image = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert image.std() > 5, f"{name} is blank"
        # Nothing is cut off: the outermost pixels are paper.
        assert min(image[0].min(), image[-1].min(), image[:, 0].min(), image[:, -1].min()) > 240


def test_a_name_with_a_dot_keeps_it(tmp_path):
    png, pdf = figures.save(confidence_map(), tmp_path / "run.1")
    assert (png.name, pdf.name) == ("run.1.png", "run.1.pdf")


def test_no_state_is_left_behind():
    before = dict(matplotlib.rcParams)
    every_figure()
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


class TestConfidenceMap:
    def test_draws_snakes_maxima_and_truth(self):
        left, right = confidence_map().axes
        drawn = [line.get_ydata() for line in left.lines]
        assert sum(np.array_equal(y, wall().li) for y in drawn) == 2  # snake and expert
        dots = [line for line in right.lines if line.get_marker() == "o"]
        np.testing.assert_array_equal(dots[0].get_ydata(), wall().li)
        np.testing.assert_array_equal(dots[1].get_ydata(), wall().ma)

    def test_row_zero_is_on_top_and_pixels_are_square(self):
        for axes in confidence_map(truth=False).axes:
            assert axes.get_ylim() == (59.5, -0.5)
            assert axes.get_xlim() == (-0.5, 91.5)
            assert axes.get_aspect() == 1

    def test_bar_is_one_millimetre(self):
        bar = confidence_map().axes[0].lines[-1].get_xdata()
        assert bar[1] - bar[0] == pytest.approx(1 / 0.06)

    def test_colours(self):
        p_li = np.array([[0.0, 1.0, 0.0, 0.5]])
        p_ma = np.array([[0.0, 0.0, 1.0, 0.0]])
        blue, orange = np.array(to_rgb(figures.SKY)), np.array(to_rgb(figures.ORANGE))
        expected = [[1, 1, 1], blue, orange, (1 + blue) / 2]
        np.testing.assert_allclose(figures._blend(p_li, p_ma)[0], expected)


class TestErrorBoxes:
    def test_numbers_are_those_of_the_data(self):
        other = ERRORS * 2
        figure = figures.error_boxes({"LI": {"fc8": ERRORS, "conv1": other}})
        (axes,) = figure.axes
        labels = texts(axes)
        for values in (ERRORS, other):
            assert f"{values.mean():.1f}\n({values.std(ddof=1):.1f})" in labels
        medians = [line.get_ydata()[0] for line in axes.lines if line.get_color() == figures.BLUE]
        np.testing.assert_allclose(medians, [np.median(ERRORS), np.median(other)])
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["fc8", "conv1"]

    def test_far_outliers_are_counted_not_dropped(self):
        failures = np.append(ERRORS, [5000, 6000])
        (axes,) = figures.error_boxes({"LI": {"fc8": failures}}).axes
        assert "▲ 2" in texts(axes)
        whisker = cbook.boxplot_stats(failures)[0]["whishi"]
        assert whisker < axes.get_ylim()[1] < 5000
        (calm,) = figures.error_boxes({"LI": {"fc8": ERRORS}}).axes
        assert not any("▲" in text for text in texts(calm))

    def test_no_error_at_all(self):
        (axes,) = figures.error_boxes({"LI": {"fc8": [0.0, 0.0, 0.0]}}).axes
        assert axes.get_ylim()[1] > 0


class TestLearningCurves:
    def test_dots_mark_the_epoch_that_was_kept(self):
        """Not the one with the highest score: which is kept is said by the run alone."""
        history = course([0.9, 0.5, 0.4], [np.nan, 0.95, 0.96], kept=1)
        for axes, value in zip(
            figures.learning_curves({"fc8": history}).axes, (0.6, 0.95), strict=True
        ):
            (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
            assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (2, pytest.approx(value))

    def test_lines_stand_where_a_stage_begins(self):
        history = course([0.9, 0.5, 0.4], [0.1, 0.2, 0.3], kept=2, stages=["lp", "ft", "ft"])
        for axes in figures.learning_curves({"lp_ft": history}).axes:
            (border,) = [line for line in axes.lines if line.get_linestyle() == ":"]
            assert set(border.get_xdata()) == {1.5}

    def test_many_methods_stay_apart(self):
        history = course([1.0, 0.5], [0.5, 0.6], kept=1)
        axes = figures.learning_curves({str(k): history for k in range(12)}).axes[1]
        lines = [line for line in axes.lines if line.get_marker() != "o"]
        looks = {(line.get_color(), line.get_linestyle()) for line in lines}
        assert len(looks) == 12


class TestAgreement:
    def test_limits_of_agreement(self):
        rng = np.random.default_rng(1)
        true = rng.normal(0.7, 0.1, 40)
        predicted = true + rng.normal(0.03, 0.05, 40)
        (axes,) = figures.bland_altman(predicted, true, np.arange(40)).axes
        difference = predicted - true
        sd = np.sqrt(((difference - difference.mean()) ** 2).sum() / 39)
        levels = sorted(y[0] for y in (line.get_ydata() for line in axes.lines) if len(y) == 2)
        expected = difference.mean() + 1.96 * sd * np.array([-1, 0, 1])
        np.testing.assert_allclose(levels, expected)

    def test_subject_means_are_marked(self):
        true, subjects = np.array([0.5, 0.7, 0.9]), ["a", "b", "b"]
        (axes,) = figures.agreement(true + 0.1, true, subjects).axes
        marks = next(line for line in axes.lines if line.get_marker() == "D")
        np.testing.assert_allclose(marks.get_xdata(), [0.5, 0.8])
        np.testing.assert_allclose(marks.get_ydata(), [0.6, 0.9])
        assert "mean absolute error 0.100 mm" in texts(axes)

    def test_one_unit(self):
        figures.bland_altman([0.7], [0.6], ["a"])
        figures.agreement([0.7], [0.6], ["a"])


def test_evaluation_needs_numpy_scipy_and_matplotlib_only():
    """And matplotlib in modules of figures alone: metrics run where nothing draws."""
    folder = pathlib.Path(figures.__file__).parent
    for path in folder.glob("*.py"):
        roots = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(node.module)
        for root in roots:
            package = root.split(".")[0]
            if package == "medxfer":
                assert root.startswith("medxfer.evaluation"), f"{path.name} imports {root}"
            assert package not in ("keras", "tensorflow", "data_prep"), f"{path.name}: {root}"
            assert package != "matplotlib" or path.stem.endswith("figures"), f"{path.name}: {root}"
