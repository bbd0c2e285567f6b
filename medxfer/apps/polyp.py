"""Polyp detection in colonoscopy: candidates by shape and context, classified by a CNN.

Tajbakhsh et al. 2016, sections III-A and IV-A. The counterpart is the detector that proposes the
candidates, with its own score.
"""

import pathlib
from collections.abc import Mapping, Sequence

from medxfer.apps import _detection, _phantom
from medxfer.apps._detection import Detections, Scorer, monitor
from medxfer.apps._endoscopy import raw_inputs
from medxfer.apps._polyp_video import describe, predict
from medxfer.evaluation import froc
from medxfer.evaluation.intervals import Interval

__all__ = ["describe", "monitor", "predict", "raw_inputs"]

CLASSES = ("other", "polyp")
UNIT = "candidate"
INPUT = "video"
MERITS = froc.Merits(rates=(0.01, 0.1, 1.0), area_to=1.0, mean_rates=(), unit="frame")
PLACES = ("frame", "x", "y")
LEARNT_BEFORE = "the detector of candidates, whose score is the handcrafted method,"


def prepared_phantom(cache: pathlib.Path) -> pathlib.Path:
    """Records of the app's synthetic videos, made once and kept in ``cache``.

    Fewer patches a candidate than for real studies, so that a first try takes minutes.
    """
    from data_prep import polyp
    from data_prep.phantoms import polyp as phantom

    raw = phantom.ensure(cache)
    settings = polyp.Settings(patches_per_candidate=6, top_k=5, patch=80, trees=20, samples=10_000)
    return _phantom.records(raw, polyp.prepare, settings)


cnn = _detection.cnn


def counterparts(folder=None, subjects=None) -> dict[str, Scorer]:
    """The detector's own score, which it learnt from the training subjects."""
    return {"handcrafted": lambda unit: float(unit["score"])}


def score(folder, split: str, scorer: Scorer) -> Detections:
    """Apply ``scorer`` to every candidate of a split."""
    return _detection.score(folder, split, scorer, PLACES)


def metrics(results: Detections, seed: int = 0) -> dict[str, Interval]:
    """Sensitivity at .01, .1 and 1 false positives a frame, area to 1, and where the curve ends."""
    return _detection.metrics(results, MERITS, seed)


def compare(methods: Mapping[str, Detections], seed: int = 0) -> dict[str, list]:
    """Paired comparison of every two methods on the same frames."""
    return _detection.compare(methods, MERITS, seed)


rows = _detection.rows
restore = _detection.restore


def figures(methods: Mapping[str, Detections], history: Sequence[Mapping]) -> dict[str, tuple]:
    """FROC, pictures of candidates, the course of training."""
    return _detection.figures(methods, history, MERITS)
