"""What the detection apps share: candidates of a case, scored, to FROC.

Tajbakhsh et al. 2016, sections III-A, III-B: the score of a candidate is the mean over all its
patches; a lesion is found by any candidate in it; FROC over the images or volumes of the cases.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep import patches, progress
from medxfer.apps import _curves
from medxfer.evaluation import froc, roc
from medxfer.evaluation.intervals import Interval
from medxfer.evaluation.marks import Marks
from medxfer.evaluation.resampling import Bars

SHOWN = 12  # candidates in a figure
GROUP = 32  # candidates scored at once

#: Example of one candidate, as records hold it -> score, higher is more suspicious.
Scorer = Callable[[Mapping], float]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One scored candidate.

    Attributes
    ----------
    lesion : int
        Index within the case; -1: a false positive.
    places : dict
        Where it lies: the app's own features of the record.
    """

    unit: str
    case: str
    subject: str
    lesion: int
    score: float
    places: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Detections(Sequence):
    """All candidates of a split beside what is true of its cases.

    Attributes
    ----------
    candidates : list of Candidate
    truth : mapping
        Case -> ``subject``, ``images``, ``lesions``: every case and lesion, found or not.
    pictures : dict
        Unit -> picture uint8 (side, side, 3) of some candidates, for figures.
    """

    candidates: list[Candidate]
    truth: Mapping[str, Mapping]
    pictures: dict[str, NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index):
        return self.candidates[index]

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def marks(self) -> Marks:
        """The input of free-response analysis."""
        cases = {case: number for number, case in enumerate(sorted(self.truth))}
        facts = [self.truth[case] for case in cases]
        return Marks(
            np.array([found.score for found in self.candidates], np.float64),
            np.array([cases[found.case] for found in self.candidates], np.intp),
            np.array([found.lesion for found in self.candidates], np.intp),
            np.array([fact["images"] for fact in facts], np.intp),
            np.array([len(fact["lesions"]) for fact in facts], np.intp),
            np.array([fact["subject"] for fact in facts]),
        )


def monitor(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of the patches: what is watched on the validation part."""
    return roc.auc(labels > 0, probabilities[:, 1])


def views(unit: Mapping) -> NDArray[np.uint8]:
    """The stored patches of a candidate, uint8 (views, side, side, 3)."""
    image = unit["image"]
    return image.reshape(int(unit["views"]), -1, *image.shape[1:])


def cnn(network) -> Scorer:
    """Mean probability over the patches of a candidate, and their mirrors if the records say so."""
    mirrors = network.settings.get("test_mirrors", 1) > 1

    def seen(unit: Mapping) -> NDArray[np.uint8]:
        stack = views(unit)
        return patches.dihedral(stack).reshape(-1, *stack.shape[1:]) if mirrors else stack

    def together(units: Sequence[Mapping]) -> list[float]:
        stacks = [seen(unit) for unit in units]
        found = network.classify(np.concatenate(stacks))[:, 1].astype(np.float64)
        ends = np.cumsum([len(stack) for stack in stacks])
        return [float(part.mean()) for part in np.split(found, ends[:-1])]

    def scorer(unit: Mapping) -> float:
        return together([unit])[0]

    scorer.together = together  # few patches alone would leave most of a batch empty
    return scorer


def score(folder, split: str, scorer: Scorer, places: Sequence[str] = ()) -> Detections:
    """Apply ``scorer`` to every candidate of a split.

    ``places`` are the features of a record that say where the candidate lies.
    """
    from medxfer import data

    found, pictures = [], {}
    units = data.units(folder, split)
    each = progress.track(units, f"{split} part", folder.count(split), "candidates")
    together = getattr(scorer, "together", lambda units: [scorer(unit) for unit in units])
    while group := list(itertools.islice(each, GROUP)):
        for unit, value in zip(group, together(group), strict=True):
            where = {name: float(unit[name]) for name in places}
            keys = (unit[name] for name in ("unit", "case", "subject"))
            found.append(Candidate(*keys, int(unit["lesion"]), float(value), where))
            pictures[unit["unit"]] = views(unit)[0, ::2, ::2].copy()
        if len(pictures) > 20 * SHOWN:
            pictures = _of_note(found, pictures)
    return Detections(found, folder.truth[split], _of_note(found, pictures))


def _of_note(candidates: Sequence[Candidate], pictures: dict) -> dict:
    """Pictures of the surest candidates in and outside lesions, and of the least sure in them."""
    order = sorted(candidates, key=lambda found: -found.score)
    inside = [found.unit for found in order if found.lesion >= 0]
    outside = [found.unit for found in order if found.lesion < 0]
    kept = {*inside[:SHOWN], *inside[-SHOWN:], *outside[:SHOWN]}
    return {unit: picture for unit, picture in pictures.items() if unit in kept}


def analyse(methods: Mapping[str, Detections], merits: froc.Merits, seed: int) -> froc.Analysis:
    """Figures of merit of every method and their differences, by bootstrap over subjects.

    A generator proposes a fixed number of candidates: beyond the end of its curve nothing more can
    be found, so the last sensitivity holds there.
    """
    marks = {name: found.marks() for name, found in methods.items()}
    return froc.analyse(marks, merits, seed=seed, beyond="hold")


def metrics(results: Detections, merits: froc.Merits, seed: int = 0) -> dict[str, Interval]:
    """Figure of merit -> value with its 95 % interval."""
    return _curves.intervals_of(analyse({"": results}, merits, seed), "")


def compare(
    methods: Mapping[str, Detections], merits: froc.Merits, seed: int = 0
) -> dict[str, list[_curves.Pair]]:
    """Paired comparison of every two methods; where all curves end is one for all, and left out."""
    return _curves.pairs_of(analyse(methods, merits, seed), merits.names[:-2])


def rows(results: Detections) -> list[dict[str, str | float]]:
    """One row per candidate."""
    return [
        {
            "unit": found.unit,
            "case": found.case,
            "subject": found.subject,
            "lesion": found.lesion,
            "score": found.score,
            **found.places,
        }
        for found in results
    ]


def restore(rows: Sequence[Mapping[str, str]], truth: Mapping[str, Mapping]) -> Detections:
    """Results from rows of ``predictions.csv`` (of one run or several) and what is true."""
    known = ("unit", "case", "subject", "lesion", "score", "method")
    found = [
        Candidate(
            row["unit"],
            row["case"],
            row["subject"],
            int(row["lesion"]),
            float(row["score"]),
            {name: float(value) for name, value in row.items() if name not in known},
        )
        for row in rows
    ]
    return Detections(found, truth, {})


def figures(
    methods: Mapping[str, Detections], history: Sequence[Mapping], merits: froc.Merits
) -> dict[str, tuple]:
    """Name -> (figure, caption): FROC of all methods, pictures of candidates, training."""
    from medxfer.evaluation import curves
    from medxfer.evaluation import figures as draw

    name, results = next(iter(methods.items()))
    analysis = analyse(methods, merits, seed=0)
    count = len(merits.rates)
    lines = {}
    for method, found in methods.items():
        bars = Bars("bootstrap", tuple(analysis.intervals[method][:count]))
        lines[method] = curves.froc_line(found.marks(), merits.rates, bars)
    subjects = len({fact["subject"] for fact in results.truth.values()})
    drawn = {
        "froc": (
            curves.froc_family(lines, unit=merits.unit),
            f"FROC on the test part; 95 % intervals by bootstrap over {subjects} subjects.",
        )
    }
    order = sorted(results, key=lambda found: -found.score)
    inside = [found for found in order if found.lesion >= 0]
    kinds = {
        "found": (inside[:SHOWN], "The surest candidates in lesions"),
        "false": ([f for f in order if f.lesion < 0][:SHOWN], "The surest candidates outside"),
        "missed": (inside[::-1][:SHOWN], "The least sure candidates in lesions"),
    }
    for kind, (shown, title) in kinds.items():
        pictures = [
            (results.pictures[f.unit], f"{f.score:.2f}")
            for f in shown
            if f.unit in results.pictures
        ]
        if pictures:
            caption = f"{title} of the test part ({name}), with their scores."
            drawn[f"candidates_{kind}"] = (draw.gallery(pictures), caption)
    return drawn | _curves.course(name, history)
