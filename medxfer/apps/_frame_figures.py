"""Figures of the frame app."""

from collections.abc import Mapping, Sequence

from medxfer.apps import _curves
from medxfer.apps import frame as app
from medxfer.evaluation import curves, roc
from medxfer.evaluation import figures as draw
from medxfer.evaluation.resampling import Bars


def figures(methods: Mapping[str, "app.Frames"], history: Sequence[Mapping]) -> dict[str, tuple]:
    """Name -> (figure, caption): ROC of all methods, frames of note, the course of training."""
    name, results = next(iter(methods.items()))
    scores = {method: frames.scores for method, frames in methods.items()}
    analysis = roc.analyse(results.labels, scores, results.subjects, rates=app.RATES)
    lines = {}
    for method, values in scores.items():
        bars = Bars("bootstrap", tuple(analysis.intervals[method][: len(app.RATES)]))
        lines[method] = curves.roc_line(results.labels, values, app.RATES, bars)
    subjects = len(set(results.subjects))
    drawn = {
        "roc": (
            curves.roc_family(lines),
            f"ROC on the test frames; 95 % intervals by bootstrap over {subjects} subjects.",
        )
    }
    order = sorted(results, key=lambda frame: frame.score)
    for label, title in ((1, "informative"), (0, "uninformative")):
        own = [frame for frame in order if frame.label == label]
        shown = own[: app.SHOWN] + own[-app.SHOWN :]
        pictures = [
            (results.pictures[frame.unit], f"{frame.score:.2f}")
            for frame in shown
            if frame.unit in results.pictures
        ]
        if pictures:
            drawn[f"frames_{title}"] = (
                draw.gallery(pictures, columns=app.SHOWN),
                f"Test frames labelled {title}: those of the lowest and of the highest score "
                f"({name}).",
            )
    return drawn | _curves.course(name, history)
