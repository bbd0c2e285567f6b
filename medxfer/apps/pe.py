"""Pulmonary embolism in CT: candidates by tobogganing, seen along and across their vessel.

Tajbakhsh et al. 2016, sections III-B and IV-B: FROC by volume over unique emboli. The counterpart
is a multiple-instance classifier of handcrafted features, in which every embolus is a bag.
"""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from medxfer.apps import _detection, _phantom
from medxfer.apps._ct_volume import describe, predict, raw_inputs
from medxfer.apps._detection import Detections, Scorer, monitor
from medxfer.evaluation import froc
from medxfer.evaluation.intervals import Interval
from medxfer.handcrafted import pe as classic

__all__ = ["describe", "monitor", "predict", "raw_inputs"]

CLASSES = ("other", "embolus")
UNIT = "candidate"
INPUT = "volume"
MERITS = froc.Merits(rates=(1.0, 2.0, 3.0, 4.0, 5.0), area_to=5.0, mean_rates=(), unit="volume")
PLACES = ("x", "y", "z")


def prepared_phantom(cache: pathlib.Path) -> pathlib.Path:
    """Records of the app's synthetic patients, made once and kept in ``cache``.

    Fewer candidates and patches than of real studies, so that a first try takes minutes.
    """
    from data_prep import pe
    from data_prep.phantoms import pe as phantom

    raw = phantom.ensure(cache)
    settings = pe.Settings(top_k=150, patches_per_candidate=10, test_patches=9)
    return _phantom.records(raw, pe.prepare, settings)


cnn = _detection.cnn
restore = _detection.restore
rows = _detection.rows


def counterparts(folder, subjects: Collection[str] | None = None) -> dict[str, Scorer]:
    """The multiple-instance classifier, which learns from the training part as the network does.

    ``subjects``: learn from these alone, those that the network saw. Without candidates of both
    kinds there is none. It has nothing to choose, so it does without the validation part.
    """
    from medxfer import data

    features, bags, labels = [], [], []
    names: dict[tuple[str, int], int] = {}
    for unit in data.units(folder, "train_unit"):
        if subjects is not None and unit["subject"] not in subjects:
            continue
        lesion = unit["case"], int(unit["lesion"])
        features.append(unit["features"])
        labels.append(int(unit["label"]))
        bags.append(names.setdefault(lesion, len(names)) if labels[-1] else -1)
    if len(set(labels)) < 2:
        return {}
    fitted = classic.fit(np.array(features, np.float64), np.array(bags), np.array(labels))
    return {"handcrafted": lambda unit: float(fitted.score(unit["features"][None])[0])}


def score(folder, split: str, scorer: Scorer) -> Detections:
    """Apply ``scorer`` to every candidate of a split."""
    return _detection.score(folder, split, scorer, PLACES)


def metrics(results: Detections, seed: int = 0) -> dict[str, Interval]:
    """Sensitivity at 1 to 5 false positives a volume, area to 5, and where the curve ends."""
    return _detection.metrics(results, MERITS, seed)


def compare(methods: Mapping[str, Detections], seed: int = 0) -> dict[str, list]:
    """Paired comparison of every two methods on the same volumes."""
    return _detection.compare(methods, MERITS, seed)


def figures(methods: Mapping[str, Detections], history: Sequence[Mapping]) -> dict[str, tuple]:
    """FROC, pictures of candidates, the course of training."""
    return _detection.figures(methods, history, MERITS)
