"""Image classification of any kind: which class does an image show, or which of several?

The classes are those of the records. Davila et al., Image and Vision Computing 146:105012, 2024,
compare ways of fine-tuning on such sets; nothing here is of one organ or one kind of image. Beside
the network stands a logistic regression on features of shape, texture and grey values.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep import progress
from medxfer import outputs
from medxfer.apps import _curves, _phantom
from medxfer.apps._classification_images import collect, describe, predict, raw_inputs
from medxfer.evaluation import classification as measures
from medxfer.evaluation.intervals import SHARE, Interval

__all__ = ["collect", "describe", "predict", "raw_inputs"]

CLASSES = None  # those of the records
UNIT = "image"
INPUT = "image"
SHOWN = 12  # images in the figure of mistakes
BATCH = 64  # images scored at once

#: Images uint8 (N, side, side, 3) -> probabilities float (N, classes).
Scorer = Callable[[NDArray[np.uint8]], NDArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """One scored image.

    Attributes
    ----------
    unit, case, subject : str
    truth : int64 array of shape (classes,)
        1 for what it shows.
    probabilities : float64 array of shape (classes,)
    """

    unit: str
    case: str
    subject: str
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Sequence):
    """All images of a split.

    Attributes
    ----------
    images : list of Image
    classes : tuple of str
    multilabel : bool
        Whether an image may show several of them, or none.
    pictures : dict
        Unit -> picture uint8 of some images, for figures.
    caution : str
        What is known against the intervals.
    """

    images: list[Image]
    classes: tuple[str, ...]
    multilabel: bool
    pictures: dict[str, NDArray[np.uint8]]
    caution: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices int64 (N,), or 0 and 1 for every class (N, classes)."""
        truth = np.array([image.truth for image in self.images])
        return truth if self.multilabel else truth.argmax(axis=1)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 (N, classes)."""
        return np.array([image.probabilities for image in self.images])

    @property
    def subjects(self) -> list[str]:
        """N pseudonyms."""
        return [image.subject for image in self.images]


def prepared_phantom(cache: pathlib.Path) -> pathlib.Path:
    """Records of the app's synthetic images, made once and kept in ``cache``."""
    from data_prep import classify
    from data_prep.phantoms import classify as phantom

    return _phantom.records(phantom.ensure(cache), classify.prepare, classify.Settings())


def monitor(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve, one class against the rest, mean over classes.

    It is watched on the validation part, as in Tajbakhsh et al. 2016; unlike the accuracy it moves
    with every image and asks for no threshold.
    """
    return measures.macro_auc(labels, probabilities)


def cnn(network) -> Scorer:
    """Probabilities of a :class:`medxfer.network.TrainedNetwork`."""
    return network.classify


def counterparts(folder, subjects: Collection[str] | None = None) -> dict[str, Scorer]:
    """Logistic regression on classic features, which learns from the training images.

    Its strength is chosen on the validation images, as the network's epoch is. ``subjects``: those
    that the network saw, others take no part. Where training images show one class only there is
    nothing to learn.
    """
    from medxfer import data
    from medxfer.handcrafted import classify as classic

    def part(split: str) -> tuple[NDArray, NDArray[np.int64]]:
        features, truth = [], []
        for unit in data.units(folder, split):
            if subjects is None or unit["subject"] in subjects:
                features.append(classic.features(unit["image"]))
                truth.append(unit["labels"])
        labels = np.array(truth, np.int64).reshape(len(truth), len(folder.classes))
        return np.array(features), labels if folder.multilabel else labels.argmax(axis=1)

    features, labels = part("train")
    if len(np.unique(labels)) < 2:
        return {}
    held = part("validation") if "validation" in folder.splits else None
    fitted = classic.fit(features, labels, len(folder.classes), held)

    def handcrafted(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return fitted.probabilities(np.array([classic.features(image) for image in images]))

    return {"handcrafted": handcrafted}


def score(folder, split: str, scorer: Scorer) -> Images:
    """Apply ``scorer`` to every image of a split."""
    from medxfer import data

    found: list[Image] = []
    noted: list[Image] = []
    pictures: dict[str, NDArray[np.uint8]] = {}
    units = data.units(folder, split)
    rest = progress.track(units, f"{split} part", folder.count(split), "images")
    for units in iter(lambda: list(itertools.islice(rest, BATCH)), []):
        probabilities = np.asarray(scorer(np.stack([unit["image"] for unit in units])), np.float64)
        for unit, row in zip(units, probabilities, strict=True):
            truth = np.asarray(unit["labels"], np.int64)
            keys = (unit[name] for name in ("unit", "case", "subject"))
            found.append(Image(*keys, truth, row))
            pictures[unit["unit"]] = unit["image"][::2, ::2].copy()
        noted = mistakes([*noted, *found[-len(units) :]], folder.multilabel)
        pictures = {image.unit: pictures[image.unit] for image in noted}
    return Images(found, folder.classes, folder.multilabel, pictures, caution(folder))


def caution(folder) -> str:
    """What has to be said where it is not known which images are of one person."""
    unknown = folder.findings.get("known_by", {}).get("nothing", 0)
    return (
        f"of {unknown} images the subject is not known: each counts as one, so intervals may be "
        "too narrow and one person may have been learnt from and tested on"
        if unknown
        else ""
    )


def mistakes(images: Sequence[Image], multilabel: bool) -> list[Image]:
    """Images of which the network is sure and wrong, the surest first; at most :data:`SHOWN`."""

    def sureness(image: Image) -> float:
        """Highest probability of a class that is called and not there, or the other way round."""
        called = measures.called(image.probabilities[None], multilabel)[0]
        wrong = called & (image.truth == 0)
        sure = image.probabilities[wrong]
        if multilabel:
            sure = np.append(sure, 1 - image.probabilities[~called & (image.truth == 1)])
        return float(sure.max(initial=0))

    order = sorted(((sureness(image), image) for image in images), key=lambda pair: -pair[0])
    return [image for value, image in order[:SHOWN] if value > 0]


def _analyse(methods: Mapping[str, Images], seed: int):
    first = next(iter(methods.values()))
    found = {name: images.probabilities for name, images in methods.items()}
    return measures.analyse(first.labels, found, first.subjects, first.classes, seed=seed)


def metrics(results: Images, seed: int = 0) -> dict[str, Interval]:
    """Figures of merit with 95 % intervals by bootstrap over subjects."""
    found = _curves.intervals_of(_analyse({"": results}, seed), "")
    return {
        name: dataclasses.replace(
            each, caution="; ".join(filter(None, (each.caution, results.caution)))
        )
        for name, each in found.items()
    }


def compare(methods: Mapping[str, Images], seed: int = 0) -> dict[str, list]:
    """Paired comparison of every two methods on the same images, not class by class."""
    multilabel = next(iter(methods.values())).multilabel
    return _curves.pairs_of(_analyse(methods, seed), measures.summary(multilabel))


def rows(results: Images) -> list[dict[str, str | float]]:
    """One row per image: what it shows, what was predicted, the probability of every class."""
    table = []
    for image in results:
        row: dict[str, str | float] = {
            "unit": image.unit,
            "case": image.case,
            "subject": image.subject,
        }
        if results.multilabel:
            row |= zip(outputs.columns("label", results.classes), image.truth.tolist(), strict=True)
        else:
            row["label"] = results.classes[image.truth.argmax()]
            row["predicted"] = results.classes[image.probabilities.argmax()]
        heads = outputs.columns("p", results.classes)
        table.append(row | dict(zip(heads, image.probabilities.tolist(), strict=True)))
    return table


def restore(rows: Sequence[Mapping[str, str]], truth: Mapping[str, Mapping]) -> Images:
    """Results from rows of ``predictions.csv``, of one run or several.

    Headings of earlier versions have a blank after ``p`` and ``label``. Classes whose names hold
    blanks have their names back where a row has them as label or as prediction.
    """
    heads = [key for key in rows[0] if key.startswith(("p_", "p "))]
    multilabel = "label" not in rows[0]
    named = {row[key] for row in rows for key in ("label", "predicted") if key in row}
    spelt = dict(zip(outputs.columns("p", sorted(named)), sorted(named), strict=True))
    classes = tuple(spelt.get(head, head[2:]) for head in heads)
    images = []
    for row in rows:
        if multilabel:
            shown = [int(row[f"label{head[1:]}"]) for head in heads]
        else:
            shown = [int(row["label"] == name) for name in classes]
        probabilities = np.array([float(row[head]) for head in heads])
        keys = (row[name] for name in ("unit", "case", "subject"))
        images.append(Image(*keys, np.array(shown, np.int64), probabilities))
    return Images(images, classes, multilabel, {})


def study_measures(methods: Mapping[str, Sequence[Images]]):
    """What a study compares methods by: the figures of merit of all classes together."""
    from medxfer.evaluation import roc
    from medxfer.studies.measures import Measures, delong

    statistics, scores = {}, {}
    for name, seeds in methods.items():
        statistics[name], scores[name] = [], []
        for results in seeds:
            ordered = sorted(results, key=lambda image: image.unit)
            images = dataclasses.replace(results, images=ordered)
            scores[name].append(images.probabilities[:, -1])
            statistics[name].append(
                _leading(
                    measures.weighted(images.labels, images.probabilities, images.subjects),
                    len(measures.summary(images.multilabel)),
                )
            )
    names = measures.summary(images.multilabel)
    shown = images.labels if images.multilabel else np.eye(len(images.classes))[images.labels]
    # The figures are means over classes: as sure as the class that the fewest subjects show.
    sides = min(
        (
            roc.two_sides(column, images.subjects, f"an image of {name}", f"one without {name}")
            for name, column in zip(images.classes, shown.T, strict=True)
        ),
        key=lambda counts: min(counts.values()),
    )

    def tests(first: str, second: str, merit: str) -> dict[str, float]:
        if merit != measures.AUC or images.multilabel or len(images.classes) > 2:
            return {}
        return {"delong": delong(images.labels, scores[first], scores[second])}

    return Measures(
        names, measures.AUC, True, statistics, len(set(images.subjects)), tests, names[:4],
        (SHARE,) * len(names), sides,
    )  # fmt: skip


def _leading(statistic, count: int):
    return lambda weights: statistic(weights)[:, :count]


def figures(methods: Mapping[str, Images], history: Sequence[Mapping]) -> dict[str, tuple]:
    """ROC, confusion, calibration, mistakes, the course of training."""
    from medxfer.apps import _classification_figures

    return _classification_figures.figures(methods, history)
