"""Figures of families of FROC and ROC curves, with error bars at chosen operating points.

One curve a method, read at a few rates, as in Tajbakhsh et al. 2016, Figs. 4 to 7. There the bars
of ten methods lie over one another; here the curves have a panel of their own and the bars another,
side by side at each rate. Style and colours are those of :mod:`medxfer.evaluation.figures`; methods
differ in colour and marker and, from the eighth on, in dashes, so that they stay apart in grey.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from medxfer.evaluation import figures, froc, roc
from medxfer.evaluation.figures import CYCLE, DASHES, GREY, WIDTH, Axes, Figure, Line2D
from medxfer.evaluation.idca import Fit
from medxfer.evaluation.marks import Marks
from medxfer.evaluation.resampling import Bars

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p")
_FAINT = "#E4E4E4"
_KINDS = {"bootstrap": "cluster bootstrap", "idca": "fitted curve (IDCA)"}


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """One method's curve.

    Attributes
    ----------
    x, y : float64 arrays of shape (K,)
        Points joined by straight lines; x never falls.
    rates : float64 array of shape (R,)
        Operating points that have a bar.
    bars : Bars or None
        Interval at each of them. One without estimate (not reached) is not drawn.
    band : float64 array of shape (3, P), or None
        Rate, low and high of a pointwise band.
    look : int or None
        Number of its colour and marker; by default its place, so a method that is to look alike in
        figures of other methods needs one.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    rates: Sequence[float] = ()
    bars: Bars | None = None
    band: ArrayLike | None = None
    look: int | None = None


def froc_line(marks: Marks, rates: Sequence[float] = (), bars: Bars | None = None) -> Line:
    """Empirical FROC curve, a staircase as the step rule reads it, with bars at ``rates``."""
    found = froc.curve(marks)
    # Before each point the curve is as high as the one before.
    x = np.repeat(found.rates, 2)[1:]
    y = np.repeat(found.sensitivity, 2)[:-1]
    return Line(*_corners(x, y), rates, bars)


def roc_line(
    labels: ArrayLike, scores: ArrayLike, rates: Sequence[float] = (), bars: Bars | None = None
) -> Line:
    """Empirical ROC curve, points joined by straight lines, with bars at ``rates``."""
    fpr, tpr, _ = roc.roc_curve(labels, scores)
    return Line(*_corners(fpr, tpr), rates, bars)


def fitted_line(fit: Fit, rates: Sequence[float] = (), bars: Bars | None = None) -> Line:
    """Smooth FROC or ROC curve of the IDCA model, from no mark to where it ends."""
    z = np.linspace(-8, 8, 401)
    x, y = fit.false_rate * ndtr(z), fit.found * ndtr(fit.a + fit.b * z)
    return Line(np.append(x, fit.false_rate), np.append(y, fit.found), rates, bars)


@figures._styled
def froc_family(
    lines: Mapping[str, Line],
    *,
    unit: str = "image",
    log: bool = True,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Sensitivity against false positives per image, one curve a method.

    Markers sit on the curves at the rates that have bars; a dot ends each curve, since beyond it
    sensitivity is not reached. The lower panel has the bars; a gap in it is a rate not reached.

    Parameters
    ----------
    lines : mapping from method to Line
        In the order of the legend.
    unit : str
        What an image is called: image, frame, volume.
    log : bool
        Logarithmic axis of rates.
    x_range, y_range : pair of float, optional
        By default up to the end of the longest curve.
    """
    barred = any(line.bars for line in lines.values())
    figure = Figure(figsize=(WIDTH, 5.2 if barred else 3.4))
    axes, *rest = np.ravel(
        figure.subplots(2, 1, height_ratios=(1.7, 1)) if barred else figure.subplots()
    )
    low, high = x_range or _range(lines, log)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlim=(low, high), ylim=y_range)
    _draw(axes, lines, lowest=low / 10 if log else 0.0, ends=True)
    axes.set(xlabel=f"False positives per {unit}", ylabel="Sensitivity")
    for panel in rest:
        _operating_points(panel, lines)
        panel.set(xlabel=f"False positives per {unit}", ylabel="Sensitivity")
    figure.legend(*_entries(lines), loc="outside right upper", handlelength=3)
    return figure


@figures._styled
def roc_family(
    lines: Mapping[str, Line],
    *,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """True against false positive rate, one curve a method; the grey diagonal is chance.

    Arguments and panels as for :func:`froc_family`.
    """
    barred = any(line.bars for line in lines.values())
    figure = Figure(figsize=(WIDTH if barred else WIDTH / 2, 4.1))
    axes, *rest = np.ravel(
        figure.subplots(1, 2, width_ratios=(1, 0.95)) if barred else figure.subplots()
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, zorder=0)
    axes.set(xlim=x_range, ylim=y_range)
    _draw(axes, lines, lowest=0.0, ends=False)
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    for panel in rest:
        _operating_points(panel, lines)
        panel.set(xlabel="False positive rate", ylabel="True positive rate")
    columns = min(len(lines), 6 if barred else 3)
    figure.legend(*_entries(lines), loc="outside lower center", ncols=columns, handlelength=3)
    return figure


def _corners(x: NDArray, y: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points at which a path turns: a hundred thousand marks need few of them."""
    moves = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    x, y = x[moves], y[moves]
    level, upright = np.diff(y) == 0, np.diff(x) == 0
    straight = (level[1:] & level[:-1]) | (upright[1:] & upright[:-1])
    turns = np.concatenate([[True], ~straight, [True]])[-x.size :]
    return x[turns], y[turns]


def _range(lines: Mapping[str, Line], log: bool) -> tuple[float, float]:
    """From below the lowest rate of interest to the end of the longest curve."""
    rates = [rate for line in lines.values() for rate in line.rates if rate > 0]
    positive = [line.x[line.x > 0] for line in lines.values()]
    first = [x[0] for x in positive if x.size]
    high = max([float(line.x[-1]) for line in lines.values()] + rates, default=0.0) or 1.0
    if not log:
        return 0.0, 1.03 * high
    low = min(rates) / 3 if rates else min(first, default=high / 10)
    return min(low, high / 10), 1.15 * high


def _look(number: int) -> dict[str, object]:
    return {
        "color": CYCLE[number % len(CYCLE)],
        "linestyle": DASHES[number // len(CYCLE) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "markeredgewidth": 0,
    }


def _looks(lines: Mapping[str, Line]) -> list[dict[str, object]]:
    """How each line looks."""
    return [
        _look(place if line.look is None else line.look)
        for place, line in enumerate(lines.values())
    ]


def _rates(lines: Mapping[str, Line]) -> list[float]:
    return sorted({float(rate) for line in lines.values() if line.bars for rate in line.rates})


def _draw(axes: Axes, lines: Mapping[str, Line], lowest: float, ends: bool) -> None:
    """Curves, with markers at the rates; x below ``lowest`` is drawn there."""
    low, high = axes.get_xlim()
    rates = np.array(_rates(lines))
    for rate in rates:
        axes.axvline(rate, color=_FAINT, linewidth=0.6, zorder=0)
    for look, (name, line) in zip(_looks(lines), lines.items(), strict=True):
        # A logarithmic axis has no place for 0: what lies there begins left of the edge.
        x = np.maximum(line.x, lowest)
        axes.plot(x, line.y, **look | {"marker": ""}, solid_joinstyle="miter", label=name)
        if line.band is not None:
            axes.fill_between(*np.asarray(line.band), color=look["color"], alpha=0.15, linewidth=0)
        at = rates[(rates <= line.x[-1]) & (rates >= line.x[0])]
        read = line.y[np.searchsorted(line.x, at, side="right") - 1]
        axes.plot(at, read, **look | {"linestyle": ""})
        if ends and low <= line.x[-1] <= high:
            axes.plot(
                line.x[-1], line.y[-1], "o", color=look["color"], markersize=2.2, clip_on=False
            )


def _operating_points(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Bars of all methods side by side, one group a rate."""
    rates = _rates(lines)
    apart = 1 / (len(lines) + 1.5)
    for number, (look, line) in enumerate(zip(_looks(lines), lines.values(), strict=True)):
        if not line.bars:
            continue
        look = look | {"linestyle": ""}
        place = np.searchsorted(rates, line.rates) + apart * (number - (len(lines) - 1) / 2)
        bars = [(bar.estimate, bar.low, bar.high) for bar in line.bars.intervals]
        middle, low, high = np.array(bars, np.float64).T
        reached = ~np.isnan(middle)
        reach = np.maximum([middle - low, high - middle], 0)[:, reached]
        axes.errorbar(place[reached], middle[reached], reach, **look, elinewidth=1, capsize=0)
    for edge in range(1, len(rates)):
        axes.axvline(edge - 0.5, color=_FAINT, linewidth=0.6, zorder=0)
    axes.set(xlim=(-0.5, len(rates) - 0.5), xticks=range(len(rates)))
    axes.set_xticklabels([f"{rate:g}" for rate in rates])
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(_caption(lines), fontweight="normal", fontsize=7)


def _caption(lines: Mapping[str, Line]) -> str:
    """What the bars are, said once for each kind."""
    kinds: dict[str, list[str]] = {}
    for name, line in lines.items():
        if line.bars and line.bars.intervals:
            bar = line.bars.intervals[0]
            kind = f"{100 * bar.level:g} %, {_KINDS.get(line.bars.method, line.bars.method)}"
            if line.bars.method == "bootstrap":
                kind += f" of {bar.clusters} subjects"
            kinds.setdefault(kind, []).append(name)
    if len(kinds) < 2:
        return "".join(f"Bars: {kind}" for kind in kinds)
    return "Bars: " + "; ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())


def _entries(lines: Mapping[str, Line]) -> tuple[list[Line2D], list[str]]:
    handles = [
        Line2D([], [], **look | ({} if line.bars else {"marker": ""}))
        for look, line in zip(_looks(lines), lines.values(), strict=True)
    ]
    return handles, list(lines)
