"""Frame quality in colonoscopy: is a frame informative?

Tajbakhsh et al. 2016, sections III-C and IV-C: a CNN classifies random crops of a frame, whose mean
is the frame's score; ROC over frames. Beside it stand histograms of the DCT reconstruction error
with a random forest, and the variance of the Laplacian as the plainest measure of focus.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep import progress
from medxfer.apps import _curves, _phantom
from medxfer.apps._endoscopy import raw_inputs
from medxfer.apps._frame_video import describe, predict
from medxfer.evaluation import roc
from medxfer.evaluation.intervals import Interval
from medxfer.handcrafted import frame as classic

__all__ = ["describe", "predict", "raw_inputs"]

CLASSES = ("uninformative", "informative")
UNIT = "frame"
INPUT = "video"
RATES = (0.1, 0.15, 0.2)  # false positive rates at which the paper compares
MERITS = roc.merits(RATES)  # names and ranges
CROPS = 20  # of a frame when it is scored
SHOWN = 4  # frames of each kind in the figure of examples

#: Example of one frame, as records hold it -> score, higher is more informative.
Scorer = Callable[[Mapping], float]


@dataclasses.dataclass(frozen=True)
class Frame:
    """One scored frame. ``label``: 1 informative, 0 not."""

    unit: str
    case: str
    subject: str
    label: int
    index: int
    score: float


@dataclasses.dataclass(frozen=True, eq=False)
class Frames(Sequence):
    """All frames of a split, and small pictures uint8 of some of them by unit."""

    frames: list[Frame]
    pictures: dict[str, NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,)."""
        return np.array([frame.label for frame in self.frames], np.int64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """float64 (N,)."""
        return np.array([frame.score for frame in self.frames], np.float64)

    @property
    def subjects(self) -> list[str]:
        """N pseudonyms."""
        return [frame.subject for frame in self.frames]


def prepared_phantom(cache: pathlib.Path) -> pathlib.Path:
    """Records of the app's synthetic videos, made once and kept in ``cache``."""
    from data_prep import frame
    from data_prep.phantoms import frame as phantom

    raw = phantom.ensure(cache)
    settings = frame.Settings(crops=2)
    return _phantom.records(raw, frame.prepare, settings)


def monitor(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of the crops: what is watched on the validation part."""
    return roc.auc(labels > 0, probabilities[:, 1])


def crops(image: NDArray[np.uint8], side: int, seed: int, count: int = CROPS) -> NDArray[np.uint8]:
    """Random square parts of a frame, uint8 (count, side, side, 3); one seed gives one choice."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, height - side, count, endpoint=True)
    columns = rng.integers(0, width - side, count, endpoint=True)
    return np.stack([image[y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True)])


def cnn(network) -> Scorer:
    """Mean probability over crops that depend on the frame's pixels alone."""
    side = network.patch

    def scorer(unit: Mapping) -> float:
        image = unit["image"]
        parts = crops(image, side, zlib.crc32(image.tobytes()))
        return float(network.classify(parts)[:, 1].mean(dtype=np.float64))

    return scorer


def counterparts(folder, subjects: Collection[str] | None = None) -> dict[str, Scorer]:
    """The DCT histograms with a forest that learns from training frames; variance of Laplacian.

    ``subjects``: learn from these alone, those that the network saw. Without frames of both kinds
    there is no forest. It has nothing to choose, so it does without the validation part.
    """
    from medxfer import data

    features, labels = [], []
    for unit in data.units(folder, "train_unit"):
        if subjects is None or unit["subject"] in subjects:
            features.append(classic.features(unit["image"][None])[0])
            labels.append(int(unit["label"]))
    plain = {"Laplacian variance": lambda unit: classic.laplacian_variance(unit["image"])}
    if len(set(labels)) < 2:
        return plain
    forest = classic.fit(np.array(features), np.array(labels))

    def handcrafted(unit: Mapping) -> float:
        return float(forest.score(classic.features(unit["image"][None]))[0])

    return {"handcrafted": handcrafted} | plain


def score(folder, split: str, scorer: Scorer) -> Frames:
    """Apply ``scorer`` to every frame of a split."""
    from medxfer import data

    found, pictures = [], {}
    units = data.units(folder, split)
    for unit in progress.track(units, f"{split} part", folder.count(split), "frames"):
        keys = (unit[name] for name in ("unit", "case", "subject"))
        found.append(Frame(*keys, int(unit["label"]), int(unit["frame"]), float(scorer(unit))))
        pictures[unit["unit"]] = unit["image"][::3, ::3].copy()
        if len(pictures) > 20 * SHOWN:
            pictures = _of_note(found, pictures)
    return Frames(found, _of_note(found, pictures))


def _of_note(found: Sequence[Frame], pictures: dict) -> dict:
    """Pictures of the frames of the lowest and of the highest score of each label."""
    order = sorted(found, key=lambda frame: frame.score)
    kept = set()
    for label in (0, 1):
        units = [frame.unit for frame in order if frame.label == label]
        kept |= {*units[:SHOWN], *units[-SHOWN:]}
    return {unit: picture for unit, picture in pictures.items() if unit in kept}


def _analyse(methods: Mapping[str, Frames], seed: int):
    first = next(iter(methods.values()))
    scores = {name: frames.scores for name, frames in methods.items()}
    return roc.analyse(first.labels, scores, first.subjects, rates=RATES, seed=seed)


def metrics(results: Frames, seed: int = 0) -> dict[str, Interval]:
    """AUC and sensitivities with 95 % intervals by bootstrap over subjects."""
    return _curves.intervals_of(_analyse({"": results}, seed), "")


def compare(methods: Mapping[str, Frames], seed: int = 0) -> dict[str, list]:
    """Paired comparison of every two methods on the same frames."""
    return _curves.pairs_of(_analyse(methods, seed), MERITS)


def rows(results: Frames) -> list[dict[str, str | float]]:
    """One row per frame."""
    return [
        {
            "unit": frame.unit,
            "case": frame.case,
            "subject": frame.subject,
            "frame": frame.index,
            "label": frame.label,
            "score": frame.score,
        }
        for frame in results
    ]


def restore(rows: Sequence[Mapping[str, str]], truth: Mapping[str, Mapping]) -> Frames:
    """Results from rows of ``predictions.csv``, of one run or several."""
    frames = [
        Frame(
            row["unit"],
            row["case"],
            row["subject"],
            int(row["label"]),
            int(row["frame"]),
            float(row["score"]),
        )
        for row in rows
    ]
    return Frames(frames, {})


def figures(methods: Mapping[str, Frames], history: Sequence[Mapping]) -> dict[str, tuple]:
    """ROC, frames of note, the course of training."""
    from medxfer.apps import _frame_figures

    return _frame_figures.figures(methods, history)
