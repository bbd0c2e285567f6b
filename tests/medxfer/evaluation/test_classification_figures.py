"""What the figures of classification show."""

import numpy as np
import pytest

from medxfer.evaluation import classification, curves, figures
from medxfer.evaluation import classification_figures as draw
from medxfer.evaluation.intervals import Interval
from tests.testing.names import NAMES


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_confusion_writes_counts_and_shares():
    figure = draw.confusion([[3, 1], [0, 0]], ("a", "b"))
    axes = figure.axes[0]
    assert texts(axes) == ["3\n75%", "1\n25%"]  # nothing where nothing is
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(("size", "named"), [(30, True), (200, False)])
def test_confusion_of_many_classes(size, named, tmp_path):
    names = [f"class number {number}" for number in range(size)]
    figure = draw.confusion(np.eye(size, dtype=int) * 7, names)
    figure.savefig(tmp_path / "a.png", dpi=40)
    assert not figure.axes[0].texts
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ("class number 3" in shown) == named


def test_reliability_leaves_out_empty_bins():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 60)
    labels = (rng.random(60) < p[:, 1]).astype(int)
    owners = [f"s{n % 11}" for n in range(60)]
    found = classification.reliability(labels, p, owners, draws=50)
    figure = draw.reliability({"net": found, "other": found})
    line = figure.axes[0].containers[0].lines[0]
    used = found.counts > 0
    np.testing.assert_allclose(line.get_xdata(), found.probability[used])
    np.testing.assert_allclose(line.get_ydata(), found.frequency[used])
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == f"net, ECE {found.ece:.3f}"


def test_classes_without_a_value_are_not_drawn():
    bars = [Interval(v, v - 0.1, v + 0.1, 0.5, 0.95, 9) for v in (0.7, np.nan, 0.9)]
    figure = draw.by_class({"net": bars}, ("a", "b", "c"), "AUC")
    (line,) = [container.lines[0] for container in figure.axes[0].containers]
    np.testing.assert_allclose(line.get_xdata(), [0.7, 0.9])
    np.testing.assert_allclose(line.get_ydata(), [0, 2])


def test_a_contact_sheet_has_a_row_for_every_class(tmp_path):
    picture = np.zeros((20, 20, 3), np.uint8)
    table = {"a$b": [(picture, "0.9")], "c" * 99: [(picture, "0.8"), (picture, "0.7")]}
    figure = draw.contact_sheet(table, 3)
    figure.savefig(tmp_path / "a.png", dpi=40)
    assert len(figure.subfigs) == 2
    assert [sum(bool(axes.images) for axes in part.axes) for part in figure.subfigs] == [1, 2]


def test_long_names_are_cut():
    assert draw.short(["x" * 24, "y" * 10 + "0" * 9 + "z" * 11]) == [
        "x" * 24, "y" * 10 + "00…" + "z" * 11,
    ]  # fmt: skip
    long = [f"{'x' * 40}{digit}{'y' * 40}" for digit in range(12)]
    assert draw.short(long)[1] == "xxxxxxxxxx…yyyyyyyyy (2)"
    assert max(map(len, draw.short(long))) <= 24


def test_names_of_any_kind_are_drawn_and_told_apart(tmp_path):
    """Warnings, as of a letter that the font lacks, are errors here."""
    names = draw.short(NAMES)
    assert len(set(names)) == len(NAMES)
    assert names[:3] == ["läsion", "U+6B63 U+5E38", "U+7570 U+5E38"]
    assert names[5:9] == [r"a\$b\$", r"\$\frac{", "x_{1}^", " _benign"]
    picture = np.zeros((20, 20, 3), np.uint8)
    bars = [Interval(0.7, 0.6, 0.8, 0.5, 0.95, 9)] * len(NAMES)
    line = curves.roc_line([0, 1, 0, 1], [0.1, 0.4, 0.35, 0.8])
    drawn = {
        "confusion": draw.confusion(np.eye(len(NAMES), dtype=int), NAMES),
        "classes": draw.by_class({"net": bars}, NAMES, "AUC"),
        "roc": curves.roc_family(dict.fromkeys(names, line)),
        "mistakes": figures.gallery([(picture, f"{name} 0.5") for name in names]),
    }
    for name, figure in drawn.items():
        figures.save(figure, tmp_path / name)
    sheet = draw.contact_sheet({name: [(picture, "0.9")] for name in NAMES}, 3)
    sheet.savefig(tmp_path / "sheet.png", dpi=40)
    (legend,) = drawn["roc"].legends
    assert len(legend.get_texts()) == len(NAMES)
    labels = [label.get_text() for label in drawn["confusion"].axes[0].get_yticklabels()]
    assert len(set(labels)) == len(NAMES)
