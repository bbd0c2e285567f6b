"""Figures of image classification: confusion, calibration, classes compared, contact sheets.

Style and colours are those of :mod:`medxfer.evaluation.figures`.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.colors
import numpy as np
from matplotlib import font_manager
from numpy.typing import ArrayLike, NDArray

from medxfer.evaluation import figures
from medxfer.evaluation.classification import BINS, Reliability
from medxfer.evaluation.curves import MARKERS
from medxfer.evaluation.figures import BLUE, CYCLE, DASHES, GREY, WIDTH, Figure
from medxfer.evaluation.intervals import Interval

_WHITE_TO_BLUE = matplotlib.colors.LinearSegmentedColormap.from_list("", ["white", BLUE])
WRITTEN, NAMED = 20, 60  # classes up to which a confusion matrix has numbers, and names
_FAINT = "#E4E4E4"


@figures._styled
def confusion(counts: ArrayLike, classes: Sequence[str]) -> Figure:
    """Rows: what an image shows; columns: what it was called. Shades are shares of a row.

    Parameters
    ----------
    counts : int array of shape (C, C)
    classes : sequence of C str
    """
    counts = np.asarray(counts)
    size = len(classes)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = float(np.clip(0.55 * size + 1.6, 3.0, WIDTH))
    figure = Figure(figsize=(side + 0.8, side))
    axes = figure.subplots()
    shown = axes.imshow(share, cmap=_WHITE_TO_BLUE, vmin=0, vmax=1, interpolation="nearest")
    if size <= WRITTEN:
        for row, column in np.ndindex(size, size):
            if counts[row, column]:
                ink = "white" if share[row, column] > 0.5 else "black"
                words = f"{counts[row, column]}\n{share[row, column]:.0%}"
                words = words if size <= 8 else words.split("\n")[0]
                axes.text(column, row, words, ha="center", va="center", color=ink, fontsize=7)
    if size <= NAMED:
        names = short(classes)
        upright = max(map(len, names)) * size > 40
        axes.set_xticks(range(size), names, rotation=90 if upright else 0)
        axes.set_yticks(range(size), names)
    axes.tick_params(length=0, labelsize=8 if size <= WRITTEN else 5)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, aspect=25)
    bar.set_label("share of the images of a class")
    bar.outline.set_visible(False)
    return figure


@figures._styled
def reliability(methods: Mapping[str, Reliability]) -> Figure:
    """Frequency against probability, a curve a method, and below how often each bin was used.

    On the grey diagonal probabilities are frequencies. Bars are intervals over subjects.
    """
    figure = Figure(figsize=(WIDTH / 2 + 1.0, 4.2))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, zorder=0)
    edges = np.linspace(0, 1, BINS + 1)
    for number, (name, found) in enumerate(methods.items()):
        color, dash = CYCLE[number % len(CYCLE)], DASHES[number // len(CYCLE) % len(DASHES)]
        used = found.counts > 0
        x, y = found.probability[used], found.frequency[used]
        # Where no draw had an image the bar has no ends.
        low, high = (np.where(np.isnan(bar[used]), y, bar[used]) for bar in (found.low, found.high))
        axes.errorbar(
            x, y, np.maximum([y - low, high - y], 0), color=color, linestyle=dash, elinewidth=0.7,
            marker=MARKERS[number % len(MARKERS)], markersize=3.5, markeredgewidth=0,
            label=f"{name}, ECE {found.ece:.3f}",
        )  # fmt: skip
        below.stairs(found.counts / found.counts.sum(), edges, color=color, linestyle=dash)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="Share that is right")
    below.set(xlabel="Probability", ylabel="Share of all", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1)
    return figure


@figures._styled
def by_class(
    methods: Mapping[str, Sequence[Interval]], classes: Sequence[str], label: str
) -> Figure:
    """A figure of merit of every class, with its interval, methods side by side.

    Parameters
    ----------
    methods : mapping from method to C intervals
        One without a value is not drawn.
    classes : sequence of C str
    label : str
        What the figure of merit is called.
    """
    size = len(classes)
    figure = Figure(figsize=(WIDTH / 2 + 1.2, 0.9 + 0.3 * size + 0.12 * len(methods)))
    axes = figure.subplots()
    apart = 0.6 / max(len(methods), 2)
    for number, (name, bars) in enumerate(methods.items()):
        middle, low, high = np.array([(b.estimate, b.low, b.high) for b in bars], np.float64).T
        known = ~np.isnan(middle)
        reach = np.nan_to_num(np.maximum([middle - low, high - middle], 0))[:, known]
        place = np.arange(size) + apart * (number - (len(methods) - 1) / 2)
        axes.errorbar(
            middle[known], place[known], xerr=reach, color=CYCLE[number % len(CYCLE)],
            marker=MARKERS[number % len(MARKERS)], markersize=4, markeredgewidth=0, linestyle="",
            elinewidth=1, label=name,
        )  # fmt: skip
    axes.set_yticks(range(size), short(classes, 40))
    axes.set(xlabel=label, ylim=(size - 0.5, -0.5))
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@figures._styled
def contact_sheet(
    table: Mapping[str, Sequence[tuple[NDArray[np.uint8], str]]], columns: int
) -> Figure:
    """A row of small pictures for every class.

    Parameters
    ----------
    table : mapping from class to (picture uint8 (H, W, 3), words) pairs
        At most ``columns`` of each.
    columns : int
    """
    figure = Figure(figsize=(WIDTH, len(table) * (WIDTH / columns + 0.35)))
    rows = np.atleast_1d(figure.subfigures(len(table), 1))
    for part, name, pictures in zip(rows, short(table, 60), table.values(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=9, fontweight="bold")
        for axes, entry in zip(
            part.subplots(1, columns, squeeze=False)[0],
            [*pictures, *[None] * (columns - len(pictures))],
            strict=True,
        ):
            axes.set_axis_off()
            if entry is not None:
                axes.imshow(entry[0])
                axes.set_title(entry[1], loc="center", fontweight="normal", pad=2)
    return figure


def short(names: Iterable[str], most: int = 24) -> list[str]:
    """Names as figures can show them, each another one.

    A long one keeps its beginning and its end. What the font lacks is written as its code point.
    `$`, which would begin a formula, and a leading `_`, which would hide it from a legend, are made
    plain.
    """
    found: dict[str, None] = {}
    for name in names:
        text = "".join(c if ord(c) in _letters() else f"U+{ord(c):04X} " for c in name)
        text = " ".join(text.split())
        count = ""
        while True:
            room = most - len(count)
            half = room // 2
            cut = text if len(text) <= room else f"{text[: room - half]}…{text[1 - half :]}"
            cut = f"{cut}{count}".replace("$", r"\$")
            if cut not in found:
                break
            count = f" ({len(found) + 1})"
        found[f" {cut}" if cut.startswith("_") else cut] = None
    return list(found)


@functools.cache
def _letters() -> frozenset[int]:
    """Code points that the font of the figures has, also in bold."""
    family = figures.STYLE["font.family"]
    properties = [
        font_manager.FontProperties(family=family, weight=weight) for weight in ("normal", "bold")
    ]
    fonts = [font_manager.get_font(font_manager.findfont(each)) for each in properties]
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))
