"""Figures of the classify app."""

from collections.abc import Mapping, Sequence

from medxfer.apps import _curves
from medxfer.apps import classify as app
from medxfer.evaluation import classification, curves
from medxfer.evaluation import classification_figures as draw
from medxfer.evaluation import figures as common

CURVES = 10  # classes with a curve of their own


def figures(methods: Mapping[str, "app.Images"], history: Sequence[Mapping]) -> dict[str, tuple]:
    """Name -> (figure, caption); the first of ``methods`` is the network's."""
    name, results = next(iter(methods.items()))
    subjects = len(set(results.subjects))
    bars = f"95 % intervals by bootstrap over {subjects} subjects"
    drawn = _roc(methods, f"({name})")
    if not results.multilabel:
        counts = classification.confusion(results.labels, results.probabilities)
        drawn["confusion"] = (
            draw.confusion(counts, results.classes),
            f"Test images by class and prediction ({name}); shades are shares of the images of a "
            "class.",
        )
    drawn |= _by_class(methods, bars)
    what = "of every label" if results.multilabel else "of the predicted class"
    drawn["reliability"] = (
        draw.reliability(
            {
                method: classification.reliability(
                    images.labels, images.probabilities, images.subjects
                )
                for method, images in methods.items()
            }
        ),
        f"Calibration: how often the probability {what} is right, in {classification.BINS} bins of "
        f"equal width; {bars}. ECE: mean distance from the diagonal, weighted by bin.",
    )
    pictures = [
        (results.pictures[image.unit], _words(image, results))
        for image in app.mistakes(results, results.multilabel)
        if image.unit in results.pictures
    ]
    if pictures:
        drawn["mistakes"] = (
            common.gallery(pictures, columns=4),
            f"Test images of which the network ({name}) is most sure and wrong: what they show, "
            "and what it says with which probability.",
        )
    return drawn | _curves.course(name, history)


def _roc(methods: Mapping[str, "app.Images"], network: str) -> dict[str, tuple]:
    """Methods, where there are two classes, else classes of the network against the rest."""
    results = next(iter(methods.values()))
    truth = {
        cls: [int(image.truth[k]) for image in results] for k, cls in enumerate(results.classes)
    }
    if len(results.classes) == 2 and not results.multilabel:
        positive = results.classes[1]
        if 0 < sum(truth[positive]) < len(results):
            lines = {
                method: curves.roc_line(truth[positive], images.probabilities[:, 1])
                for method, images in methods.items()
            }
            caption = f"ROC on the test images, {positive} against {results.classes[0]}."
            return {"roc": (curves.roc_family(lines), caption)}
        return {}
    names = draw.short(results.classes)
    lines = {
        names[k]: curves.roc_line(truth[cls], results.probabilities[:, k])
        for k, cls in enumerate(results.classes)
        if 0 < sum(truth[cls]) < len(results)
    }
    if not lines:
        return {}
    first = dict(list(lines.items())[:CURVES])
    left = f", the first {CURVES} of {len(lines)}" if len(lines) > CURVES else ""
    caption = f"ROC on the test images, one class against the rest {network}{left}."
    return {"roc": (curves.roc_family(first), caption)}


def _by_class(methods: Mapping[str, "app.Images"], bars: str) -> dict[str, tuple]:
    """AUC of every class, or of two classes their sensitivities."""
    results = next(iter(methods.values()))
    names = classification.merits(results.classes, results.multilabel)
    kind = "AUC" if any(name.startswith("AUC: ") for name in names) else "sensitivity"
    merits = [f"{kind}: {cls}" for cls in results.classes]
    if not set(merits) <= set(names):
        return {}
    found = {method: app.metrics(images) for method, images in methods.items()}
    table = {method: [measures[merit] for merit in merits] for method, measures in found.items()}
    label = "AUC against the rest" if kind == "AUC" else "Sensitivity"
    caption = f"{label} by class on the test images; {bars}."
    return {"classes": (draw.by_class(table, results.classes, label), caption)}


def _words(image: "app.Image", results: "app.Images") -> str:
    """What a wrongly classified image shows, and what was said."""
    if not results.multilabel:
        true, found = image.truth.argmax(), image.probabilities.argmax()
        names = draw.short(results.classes, 14)
        return f"{names[true]} → {names[found]} {image.probabilities[found]:.2f}"
    called = classification.called(image.probabilities[None], True)[0]
    wrong = [k for k in range(len(results.classes)) if called[k] != image.truth[k]]
    k = max(wrong, key=lambda k: abs(image.probabilities[k] - image.truth[k]))
    shown = "" if image.truth[k] else "no "
    return f"{shown}{draw.short(results.classes, 20)[k]}, {image.probabilities[k]:.2f}"
