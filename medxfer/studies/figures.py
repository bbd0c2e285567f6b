"""Figures of a study: families of curves, amounts of data, the course of training, boxes.

As in Tajbakhsh et al. 2016: Figs. 2, 4 and 6 (curves of all depths, and with less data), Fig. 9
(box plots of boundary errors) and Fig. 10 (validation score against mini-batches).
"""

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medxfer import report
from medxfer.evaluation import curves, froc, roc
from medxfer.evaluation import figures as draw
from medxfer.evaluation.curves import _look
from medxfer.evaluation.family import ALPHA
from medxfer.evaluation.figures import WIDTH, _styled
from medxfer.evaluation.intervals import Interval
from medxfer.evaluation.resampling import Bars
from medxfer.studies import gather as gathering
from medxfer.studies import strategies, tables
from medxfer.studies.gather import Gathered, Share
from medxfer.studies.plan import SCRATCH, StudyFolder

_PANELS = 3  # in a row
_UPRIGHT = 8  # names of methods beside each other before they are written aslant
_GUTTER = 0.035  # share of the axis by which methods at one amount of data stand apart


def figures(app: ModuleType, gathered: Gathered, batches: Mapping[str, int]) -> dict[str, tuple]:
    """Name -> (figure, caption).

    Parameters
    ----------
    app : module
    gathered : Gathered
    batches : mapping
        Run name -> mini-batches of an epoch, where known.
    """
    drawn = {}
    looks = {method: number for number, method in enumerate(gathered.methods)}
    for number, share in enumerate(gathered.shares):
        count = f"{_units(share)} test {app.UNIT}s of {share.measures.clusters} subjects"
        kind = _kind(app, share)
        if kind == "merits":
            figure = merits(share, looks)
            what = f"Figures of merit, {count}, with 95 % intervals by bootstrap over subjects."
        elif kind == "errors":
            figure = _boxes(app, share)
            what = (
                f"Error per interface, {count}: Tukey box plots, mean (standard deviation) above"
                f"{'; of several seeds the mean' if _seeds(share) > 1 else ''}."
            )
        else:
            figure = _curves(app, share, kind, looks)
            over = f" Curves are means over up to {_seeds(share)} seeds at equal rates."
            what = (
                f"{kind.upper()}, {count}; bars: 95 % intervals by bootstrap over subjects."
                f"{over if _seeds(share) > 1 else ''}"
            )
        drawn[f"family_{number}"] = (
            figure,
            f"Training data {tables.amount(share.text, share.subjects)}. {what}",
        )
    if panels := {
        merit: rows
        for merit in gathered.full.measures.shown
        if (rows := tables.learning_rows(gathered, merit))
    }:
        drawn["training_size"] = (
            training_size(panels, looks),
            "Less training data: figures of merit against the number of training subjects (points "
            "of one number stand apart to be legible), with 95 % intervals by bootstrap over "
            f"{gathered.full.measures.clusters} test subjects.",
        )
    if gained := [row for row in strategies.rows(gathered) if row.gain is not None]:
        drawn["strategies"] = (
            gains(gained, gathered.full.measures.primary),
            "Gain of every strategy over full fine-tuning (ft) of the same network, training data "
            f"{gathered.full.text}, with 95 % intervals of the paired difference by bootstrap over "
            f"{gathered.full.measures.clusters} test subjects; filled: told apart by the paired "
            "test, adjusted for the number of comparisons.",
        )
    if course := _course(gathered, batches):
        others = len(gathering.network_methods(gathered)) - len(course)
        drawn["convergence"] = (
            convergence(course),
            "Validation score after every epoch against mini-batches, training data "
            f"{gathered.full.text}, first seed; the dot marks the epoch that was kept."
            + (f" For legibility {others} more networks are not drawn." if others > 0 else ""),
        )
    if scatter := _validation_and_test(gathered):
        drawn["validation_and_test"] = (
            validation_and_test(scatter, gathered.full.measures.primary, looks),
            "Does the validation score tell which method is good? Mean over seeds of each method, "
            f"training data {gathered.full.text}; bars: 95 % intervals by bootstrap over "
            f"{gathered.full.measures.clusters} test subjects.",
        )
    return drawn


def of_runs(app: ModuleType, gathered: Gathered, study: StudyFolder) -> list[report.Drawing]:
    """Figures that single runs have drawn of their results, for the best depths and scratch.

    Which ones an app's ``STUDY_FIGURES`` says: name -> caption.
    """
    scratch = [method for method in gathered.full.results if SCRATCH in method][:1]
    shown = [*(depth.best for depth in gathered.depths), *scratch]
    drawn = []
    for name, caption in getattr(app, "STUDY_FIGURES", {}).items():
        for method in shown:
            run = next(
                run.planned
                for run in gathered.runs
                if (run.planned.method, run.planned.share) == (method, gathered.full.text)
            )
            path = study.run(run.name).path / "figures" / f"{name}.png"
            if path.is_file():
                words = f"{method}, seed {run.config.seed}: {caption}"
                drawn.append(report.Drawing(f"{name}_{run.name}", words, path))
    return drawn


def _kind(app: ModuleType, share: Share) -> str:
    if hasattr(app, "study_measures"):
        return "merits"
    first = next(iter(share.results.values()))[0]
    if hasattr(first, "marks"):
        return "froc"
    return "roc" if hasattr(first, "labels") else "errors"


def _seeds(share: Share) -> int:
    """Most seeds of a method."""
    return max(len(seeds) for seeds in share.results.values())


def _units(share: Share) -> int:
    """Number of what is scored."""
    return len(next(iter(share.results.values()))[0])


def _curves(app: ModuleType, share: Share, kind: str, looks: Mapping[str, int]) -> Figure:
    rates = app.MERITS.rates if kind == "froc" else app.RATES
    lines = {}
    for method, seeds in share.results.items():
        bars = Bars("bootstrap", tuple(share.family.intervals[method][: len(rates)]))
        if kind == "froc":
            steps = [_step(froc.curve(results.marks())) for results in seeds]
        else:
            steps = [roc.roc_curve(results.labels, results.scores)[:2] for results in seeds]
        lines[method] = curves.Line(*_mean_curve(steps), rates, bars, look=looks[method])
    if kind == "roc":
        return curves.roc_family(lines)
    return curves.froc_family(lines, unit=app.MERITS.unit)


def _step(curve: froc.Curve) -> tuple[NDArray, NDArray]:
    return curve.rates, curve.sensitivity


def _mean_curve(
    seeds: Sequence[tuple[NDArray, NDArray]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over seeds, at equal x, of staircases as the step rule reads them.

    Ends where the shortest curve ends.
    """
    end = min(x[-1] for x, _ in seeds)
    grid = np.unique(np.concatenate([x[x <= end] for x, _ in seeds]))
    mean = np.mean([y[np.searchsorted(x, grid, side="right") - 1] for x, y in seeds], axis=0)
    return curves._corners(np.repeat(grid, 2)[1:], np.repeat(mean, 2)[:-1])


def _boxes(app: ModuleType, share: Share) -> Figure:
    panels: dict[str, dict[str, NDArray]] = {}
    for method, seeds in share.results.items():
        ordered = [sorted(results, key=lambda result: result.unit) for results in seeds]
        errors = [app.errors(results) for results in ordered]
        for title, key in (
            ("Lumen-intima", "lumen_intima_error_um"),
            ("Media-adventitia", "media_adventitia_error_um"),
        ):
            mean = np.mean([error[key] for error in errors], axis=0)
            panels.setdefault(title, {})[method.replace(" (", "\n(")] = mean
    figure = draw.error_boxes(panels)
    if len(share.results) > _UPRIGHT:
        for axis in figure.axes:
            axis.tick_params(axis="x", labelrotation=35)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    return figure


@_styled
def merits(share: Share, looks: Mapping[str, int]) -> Figure:
    """Figures of merit with intervals, one panel each, one row a method."""
    shown, methods = share.measures.shown, list(share.family.intervals)
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH, rows * (0.7 + 0.22 * len(methods))))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in panels[len(shown) :]:
        axis.set_axis_off()
    for axis, merit in zip(panels, shown, strict=False):
        for place, method in enumerate(methods):
            found = share.family.interval(method, merit)
            reach = np.maximum([[found.estimate - found.low], [found.high - found.estimate]], 0)
            look = _look(looks[method]) | {"linestyle": ""}
            axis.errorbar(found.estimate, place, xerr=reach, **look, elinewidth=1)
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(axis="x", color="#E4E4E4", linewidth=0.6)
        axis.set(title=report._titled(merit), ylim=(len(methods) - 0.5, -0.5))
        axis.set_axisbelow(True)
    return figure


@_styled
def gains(rows: Sequence[strategies.Row], merit: str) -> Figure:
    """Gains of strategies over full fine-tuning, one panel a network."""
    models = list(dict.fromkeys(row.model for row in rows))
    names = list(dict.fromkeys(row.strategy for row in rows))
    figure = Figure(figsize=(WIDTH, 0.8 + 0.25 * len(names)))
    panels = figure.subplots(1, len(models), squeeze=False, sharex=True, sharey=True)[0]
    for axis, model in zip(panels, models, strict=True):
        axis.axvline(0, color="#808080", linewidth=0.8)
        for row in (row for row in rows if row.model == model):
            gain, told = row.gain, row.p < ALPHA
            reach = np.maximum([[gain.estimate - gain.low], [gain.high - gain.estimate]], 0)
            axis.errorbar(
                gain.estimate, names.index(row.strategy), xerr=reach, fmt="o", color="#0072B2",
                markerfacecolor="#0072B2" if told else "white", elinewidth=1,
            )  # fmt: skip
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="x", color="#E4E4E4", linewidth=0.6)
        axis.set(title=model, ylim=(len(names) - 0.5, -0.5))
        axis.locator_params(axis="x", nbins=5)
        axis.set_axisbelow(True)
    figure.supxlabel(f"Gain in {report._titled(merit)} over full fine-tuning", fontsize="medium")
    return figure


@_styled
def training_size(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, Interval]]]], looks: Mapping[str, int]
) -> Figure:
    """Figures of merit against training subjects, one panel each.

    Parameters
    ----------
    panels : mapping
        Figure of merit -> method -> (subjects, interval), in rising order of subjects.
    looks : mapping from method to number of its colour and marker
    """
    columns = 2 if len(panels) == 4 else min(_PANELS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (merit, methods) in zip(axes, panels.items(), strict=False):
        axis.set_xscale("log")
        sizes = sorted({size for points in methods.values() for size, _ in points})
        width = np.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 1.0
        for number, (name, points) in enumerate(methods.items()):
            apart = np.exp(_GUTTER * width * (number - (len(methods) - 1) / 2) / len(methods) * 3)
            x = np.array([size for size, _ in points]) * apart
            bars = [(found.estimate, found.low, found.high) for _, found in points]
            middle, low, high = np.array(bars, np.float64).T
            reach = np.maximum([middle - low, high - middle], 0)
            axis.errorbar(x, middle, reach, **_look(looks[name]), elinewidth=0.7, label=name)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="Training subjects", title=report._titled(merit))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


@_styled
def convergence(courses: Mapping[str, tuple[NDArray, NDArray, int]]) -> Figure:
    """Validation score against mini-batches.

    Parameters
    ----------
    courses : mapping from method to (mini-batches (E,), score (E,), epoch that was kept)
        After every epoch.
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    for number, (name, (x, y, kept)) in enumerate(courses.items()):
        look = _look(number) | {"marker": ""}
        axes.plot(x, y, **look, label=name)
        axes.plot(x[kept], y[kept], "o", color=look["color"], markersize=4)
    axes.set(xlabel="Mini-batches", ylabel="Validation score", xlim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


@_styled
def validation_and_test(
    points: Mapping[str, tuple[float, Interval]], merit: str, looks: Mapping[str, int]
) -> Figure:
    """Test figure of merit against validation score, one point a method.

    Parameters
    ----------
    points : mapping from method to (validation score, test interval)
    merit : str
        Of the interval.
    looks : mapping from method to number of its colour and marker
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    for name, (score, found) in points.items():
        reach = np.maximum([[found.estimate - found.low], [found.high - found.estimate]], 0)
        look = _look(looks[name]) | {"linestyle": ""}
        axes.errorbar(score, found.estimate, reach, **look, elinewidth=0.7, label=name)
    axes.set(xlabel="Validation score", ylabel=f"Test: {report._titled(merit)}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _course(gathered: Gathered, batches: Mapping[str, int]) -> dict[str, tuple]:
    """Scores by mini-batches of the first seed: depths and scratch, or one network's strategies."""
    found: dict[str, tuple] = {}
    for run in gathered.runs:
        history = run.card.get("history") or ()
        name, method = run.planned.name, run.planned.method
        here = history and name in batches and run.planned.share == gathered.full.text
        if here and method not in found:
            solved = {stage["name"] for stage in run.card["stages"] if stage["head"]}
            steps = [0 if epoch["stage"] in solved else batches[name] for epoch in history]
            scores = np.array([epoch["score"] for epoch in history], np.float64)
            found[method] = np.cumsum(steps), scores, run.card["best_epoch"]
    scratch = [method for method in found if SCRATCH in method]
    planned = [run.planned for run in gathered.runs]
    depths = [own for own in gathering.depths_of(planned).values() if found.keys() & {*own}]
    if depths:
        tuned = [method for method in depths[0] if method in found]
        if len(tuned) > 3:  # the head, the middle and all layers: more lines hide one another
            tuned = [tuned[0], tuned[len(tuned) // 2], tuned[-1]]
    else:
        first = next((run.config.model for run in planned if run.method in found), "")
        own = {run.method for run in planned if run.config.model == first}
        tuned = [method for method in found if method in own and method not in scratch]
    return {method: found[method] for method in (*tuned, *scratch)}


def _validation_and_test(gathered: Gathered) -> dict[str, tuple[float, Interval]]:
    scores = gathering.validation_scores(gathered.runs, gathered.full.text)
    primary = gathered.full.measures.primary
    return {
        method: (float(np.mean(values)), gathered.full.family.interval(method, primary))
        for method, values in scores.items()
        if method in gathered.full.results
    }
