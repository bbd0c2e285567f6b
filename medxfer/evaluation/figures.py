"""Figures of a run, from arrays alone: no state, no window, colours of Okabe and Ito (2008).

Every function returns a new :class:`matplotlib.figure.Figure`; :func:`save` writes it.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from medxfer.evaluation.boundary import Boundaries
from medxfer.evaluation.compare import subject_means
from medxfer.evaluation.intervals import tukey

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#000000", "#808080"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK)
DASHES = ("-", (0, (5, 1.5)))  # the second turn through the cycle
_TWO = matplotlib.colors.ListedColormap(["#e6e6e6", BLUE])
WIDTH = 7.2  # inches: two columns of a journal

STYLE = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # letters stay letters
    "figure.constrained_layout.use": True,
}

_P = ParamSpec("_P")


def _styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    @functools.wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write PATH.png (300 dpi) and PATH.pdf.

    Neither holds a date: the same figure gives the same bytes. The layout is settled by the first
    call.
    """
    png, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf"))
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(png, dpi=300, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf


@_styled
def confidence_map(
    roi: NDArray[np.uint8],
    p_li: ArrayLike,
    p_ma: ArrayLike,
    arg_max: Boundaries,
    snake: Boundaries,
    truth: Boundaries | None = None,
    mm_per_pixel_x: float | None = None,
) -> Figure:
    """A region beside its probability maps (as Tajbakhsh et al. 2016, Fig. 8).

    Parameters
    ----------
    roi : uint8 array of shape (H, W)
        Evaluated region, without margin. Its grey scale is stretched to its brightest pixel.
    p_li, p_ma : arrays of shape (H, W)
        Probabilities of the interfaces, 0 to 1.
    arg_max, snake, truth : Boundaries of W columns
        Highest probability per column, final rows and, if known, the expert's rows.
    mm_per_pixel_x : float, optional
        Width of a pixel, for a bar of one millimetre.
    """
    height, width = np.shape(roi)
    panel = (WIDTH - 0.2) / 2
    figure = Figure(figsize=(WIDTH, panel * height / width + 0.6))
    left, right = figure.subplots(1, 2)
    left.imshow(roi, cmap="gray", vmin=0, vmax=max(int(np.max(roi)), 1), interpolation="nearest")
    right.imshow(_blend(p_li, p_ma), interpolation="nearest")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    x = np.arange(width)
    if truth is not None:
        for rows in (truth.li, truth.ma):
            left.plot(x, rows, color="white", linewidth=0.9, linestyle=(0, (4, 2)))
    for rows, bright, dark in ((snake.li, SKY, BLUE), (snake.ma, ORANGE, VERMILION)):
        left.plot(x, rows, color=bright)
        right.plot(x, rows, color=dark)
    for rows in (arg_max.li, arg_max.ma):
        right.plot(x, rows, linestyle="", marker="o", markersize=1.6, color=BLACK, mew=0)
    if mm_per_pixel_x:
        ends = np.array([3, 3 + 1 / mm_per_pixel_x])
        left.plot(ends, [height - 4] * 2, color="white", linewidth=2, solid_capstyle="butt")
        left.text(ends.mean(), height - 5.5, "1 mm", color="white", ha="center", fontsize=7)
    for axes in (left, right):  # after plotting: lines must not move the limits
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    left.set_title("Region of interest" + (", expert dashed" if truth is not None else ""))
    right.set_title("Probability of each interface")
    li, ma = (
        tuple(Line2D([], [], color=c) for c in pair) for pair in ((SKY, BLUE), (ORANGE, VERMILION))
    )
    dot = Line2D([], [], linestyle="", marker="o", markersize=2, color=BLACK)
    figure.legend(
        [li, ma, dot],
        ["lumen-intima", "media-adventitia", "highest probability in the column"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
    )
    return figure


@_styled
def error_boxes(errors: Mapping[str, Mapping[str, ArrayLike]], unit: str = "µm") -> Figure:
    """Tukey box plots, mean (standard deviation) above each (as Tajbakhsh et al. 2016, Fig. 9).

    A triangle with a number counts outliers above the axis.

    Parameters
    ----------
    errors : mapping from panel, for instance the interface, to mapping from method to errors
        Every panel has the same methods in the same order.
    unit : str
        Of the errors.
    """
    figure = Figure(figsize=(WIDTH, 2.3 * len(errors) + 0.2))
    for axes, (panel, methods) in zip(_stacked(figure, len(errors)), errors.items(), strict=True):
        numbers = [tukey(values) for values in methods.values()]
        # A few failures must not flatten the boxes: outliers far above are counted at the edge.
        farthest = max(max(n.high, n.outliers.max(initial=0)) for n in numbers)
        shown = min(farthest, 1.5 * max(max(n.high, n.mean) for n in numbers))
        boxes = [
            {"label": name, "q1": n.q1, "med": n.median, "q3": n.q3, "mean": n.mean,
             "whislo": n.low, "whishi": n.high, "fliers": n.outliers[n.outliers <= shown]}
            for name, n in zip(methods, numbers, strict=True)
        ]  # fmt: skip
        axes.bxp(
            boxes,
            showmeans=True,
            patch_artist=True,
            widths=0.55,
            boxprops={"facecolor": "#CFE4F1", "linewidth": 0.7},
            medianprops={"color": BLUE, "linewidth": 1.4},
            meanprops={"marker": "D", "markersize": 3, "mfc": VERMILION, "mec": VERMILION},
            whiskerprops={"linewidth": 0.7},
            capprops={"linewidth": 0.7},
            flierprops={"marker": "o", "markersize": 2, "mfc": "none", "mec": GREY, "mew": 0.5},
        )
        for place, n in enumerate(numbers, start=1):
            _above(axes, place, f"{n.mean:.1f}\n({n.sd:.1f})", "bottom", 2)
            if beyond := int((n.outliers > shown).sum()):
                _above(axes, place, f"▲ {beyond}", "top", 0, color=GREY)
        axes.set(ylabel=f"Error ({unit})", ylim=(0, 1.1 * max(shown, np.finfo(np.float32).eps)))
        axes.set_title(panel, pad=24)
    return figure


@_styled
def learning_curves(histories: Mapping[str, Mapping[str, object]]) -> Figure:
    """Losses and validation AUC by epoch; a dot marks the epoch that each method kept.

    Parameters
    ----------
    histories : mapping from method to mapping
        ``loss``, ``validation_loss`` and ``auc`` (E,) after epochs 1 to E, ``stages`` (E,), the
        name of the stage of each, and ``kept``, the index of the epoch that was kept.
    """
    figure = Figure(figsize=(WIDTH, 2.6))
    left, right = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        color, dash = CYCLE[number % len(CYCLE)], DASHES[number // len(CYCLE) % len(DASHES)]
        epochs, kept = np.arange(1, len(history["auc"]) + 1), history["kept"]
        several = len(histories) > 1
        for axes, key, label, style, alpha in (
            (left, "loss", name if several else "training", dash, 0.4),
            (left, "validation_loss", "" if several else "validation", dash, 1.0),
            (right, "auc", name, dash, 1.0),
        ):
            values = np.asarray(history[key], np.float64)
            axes.plot(epochs, values, color=color, linestyle=style, label=label, alpha=alpha)
            if key != "loss":
                axes.plot(epochs[kept], values[kept], "o", color=color, markersize=4)
        stages = history["stages"]
        for start in np.flatnonzero([a != b for a, b in zip(stages, stages[1:], strict=False)]):
            for axes in (left, right):
                axes.axvline(start + 1.5, color=GREY, linewidth=0.8, linestyle=":")
    for axes, label in ((left, "Loss"), (right, "Validation AUC")):
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.03)
    if len(histories) == 1:
        left.legend(loc="best")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center")
    return figure


@_styled
def gallery(pictures: Sequence[tuple[NDArray[np.uint8], str]], columns: int = 6) -> Figure:
    """Small pictures uint8 (H, W, 3), each with a few words above, row by row."""
    columns = min(columns, len(pictures))
    down = -(-len(pictures) // columns)
    height, width = pictures[0][0].shape[:2]
    side = WIDTH / columns
    figure = Figure(figsize=(WIDTH, down * (side * height / width + 0.18)))
    axes = figure.subplots(down, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (picture, words) in zip(axes, pictures, strict=False):
        axis.imshow(picture)
        axis.set_title(words, loc="center", fontweight="normal", pad=2)
    return figure


@_styled
def timeline(places: ArrayLike, scores: ArrayLike, label: str, threshold: float = 0.5) -> Figure:
    """Score of every frame over time; a strip above shows which reach the threshold.

    Parameters
    ----------
    places, scores : arrays of shape (N,)
        Time or number of each frame, rising, and its score from 0 to 1.
    label : str
        Of the x axis.
    """
    places, scores = np.asarray(places, np.float64), np.asarray(scores, np.float64)
    figure = Figure(figsize=(WIDTH, 2.2))
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 9))
    reached = scores >= threshold
    middles = (places[1:] + places[:-1]) / 2
    half = np.median(np.diff(places)) / 2 if len(places) > 1 else 0.5
    edges = np.concatenate([[places[0] - half], middles, [places[-1] + half]])
    strip.pcolormesh(
        edges, [0, 1], reached[None].astype(float), cmap=_TWO, vmin=0, vmax=1, rasterized=True
    )
    strip.set_axis_off()
    strip.set_title(
        f"{reached.sum()} of {len(scores)} frames at {threshold:g} or more ({reached.mean():.0%})"
    )
    axes.plot(places, scores, color=BLUE, linewidth=0.8, marker=".", markersize=2)
    axes.axhline(threshold, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set(xlabel=label, ylabel="probability", ylim=(-0.02, 1.02), xlim=(edges[0], edges[-1]))
    return figure


@_styled
def bland_altman(
    predicted: ArrayLike, true: ArrayLike, subjects: Sequence[str] | ArrayLike, unit: str = "mm"
) -> Figure:
    """Difference against mean of two measurements, limits of agreement, and subject means.

    Parameters
    ----------
    predicted, true : arrays of shape (N,)
        Thickness per unit.
    subjects : sequence of N labels
    unit : str

    Notes
    -----
    Limits are mean ± 1.96 standard deviations of the differences of all units. Repeated
    measurements of a subject are alike, so they are a description, not an interval for new ones.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    middle, difference = (predicted + true) / 2, predicted - true
    figure = Figure(figsize=(WIDTH / 2, 2.8))
    axes = figure.subplots()
    _units_and_subjects(axes, middle, difference, subjects)
    bias, reach = difference.mean(), 1.96 * difference.std(ddof=1) if difference.size > 1 else 0.0
    for value, dash, label in (
        (bias + reach, (0, (4, 2)), "+1.96 SD"),
        (bias, "-", "mean"),
        (bias - reach, (0, (4, 2)), "−1.96 SD"),
    ):
        axes.axhline(value, color=BLACK, linewidth=0.8, linestyle=dash, zorder=0)
        axes.annotate(
            f"{label}\n{value:+.3f}".replace("-", "−"),
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            annotation_clip=False,
        )
    lowest, highest = min(difference.min(), bias - reach), max(difference.max(), bias + reach)
    room = 0.08 * max(highest - lowest, np.finfo(np.float32).eps)
    axes.set(
        ylim=(lowest - room, highest + room),
        xlabel=f"Mean of predicted and true ({unit})",
        ylabel=f"Predicted − true ({unit})",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@_styled
def agreement(
    predicted: ArrayLike, true: ArrayLike, subjects: Sequence[str] | ArrayLike, unit: str = "mm"
) -> Figure:
    """Predicted against true value with the line of identity; arguments as :func:`bland_altman`."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    figure = Figure(figsize=(WIDTH / 2, WIDTH / 2 + 0.2))
    axes = figure.subplots()
    _units_and_subjects(axes, true, predicted, subjects)
    both = np.concatenate([predicted, true])
    room = 0.06 * max(np.ptp(both), np.finfo(np.float32).eps)
    limits = both.min() - room, both.max() + room
    axes.plot(limits, limits, color=BLACK, linewidth=0.8, zorder=0)
    error = np.abs(predicted - true).mean()
    axes.annotate(
        f"mean absolute error {error:.3f} {unit}", (0.97, 0.04),
        xycoords="axes fraction", ha="right", fontsize=7,
    )  # fmt: skip
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel=f"True ({unit})",
        ylabel=f"Predicted ({unit})",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def _blend(p_li: ArrayLike, p_ma: ArrayLike) -> NDArray[np.float64]:
    """White where neither interface is likely, blue and orange where one is: (H, W, 3)."""
    image = np.ones((*np.shape(p_li), 3))
    for probability, color in ((p_li, SKY), (p_ma, ORANGE)):
        strength = np.clip(np.asarray(probability, np.float64), 0, 1)[..., None]
        image *= 1 - strength * (1 - np.array(to_rgb(color)))
    return image


def _above(axes: Axes, place: float, text: str, va: str, gap: float, **style: str) -> None:
    axes.annotate(
        text, (place, 1), (0, gap), ("data", "axes fraction"), "offset points",
        ha="center", va=va, fontsize=7, **style,
    )  # fmt: skip


def _stacked(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _units_and_subjects(
    axes: Axes, x: ArrayLike, y: ArrayLike, subjects: Sequence[str] | ArrayLike
) -> None:
    axes.plot(x, y, "o", markersize=2.5, color=BLUE, alpha=0.5, mew=0, label="region")
    means = [subject_means(values, subjects)[1] for values in (x, y)]
    axes.plot(
        *means, "D", markersize=4, mfc="none", mec=VERMILION, mew=0.9, label="mean of a subject"
    )
