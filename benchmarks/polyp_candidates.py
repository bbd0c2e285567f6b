"""How many polyps the candidate generator finds, how well its own score ranks, and how fast it is.

    python benchmarks/polyp_candidates.py --input=CVC-ClinicDB [--test=KVASIR-SEG]

Without --test: k-fold cross-validation over the sequences that manifest.csv names, or the one fold
given by --fold. With --test: trained on --input, tested on the other folder, which holds images/
and masks/ under the same names. A polyp is a connected component of a mask (above grey level 127)
that fills a thousandth of the frame; it is found if a candidate lies in it. Intervals are over
sequences, or Wilson's where every image counts as one.
"""

import csv
import pathlib
import time
from collections.abc import Iterator

import _shared
import cv2
import numpy as np
from absl import app, flags

from data_prep.candidates import polyp
from medxfer.evaluation import intervals

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Folder of the training set.", required=True)
flags.DEFINE_string("test", None, "Folder of another set to test on.")
flags.DEFINE_integer("folds", 5, "Of the cross-validation.")
flags.DEFINE_integer("fold", None, "Only this fold.")
flags.DEFINE_integer("seed", 0, "Of the detector.")
flags.DEFINE_list("settings", [], "Settings to change: name=value,...")
flags.DEFINE_string("save_marks", None, "Write what was found to this .npz file.")

SPECK = 0.001  # of the frame; smaller components are no polyps
SMALL = 0.01  # of the frame
RATES = (0.1, 0.5, 1.0, 2.0, 4.0)


def frames(folder: pathlib.Path) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Images, masks and sequences; an image without a manifest is a sequence of its own."""
    manifest = folder / "manifest.csv"
    if manifest.exists():
        with open(manifest, newline="") as file:
            rows = [(row["image"], row["mask"], row["sequence"]) for row in csv.DictReader(file)]
    else:
        images = sorted((folder / "images").iterdir())
        masks = {path.stem: path for path in (folder / "masks").iterdir()}
        rows = [(path, masks[path.stem], path.stem) for path in images]
    for image, mask, sequence in rows:
        pixels = cv2.imread(str(folder / image), cv2.IMREAD_COLOR)
        truth = cv2.imread(str(folder / mask), cv2.IMREAD_GRAYSCALE) > 127
        yield np.ascontiguousarray(pixels[..., ::-1]), truth, sequence


def changed() -> polyp.Settings:
    """Default settings with --settings."""
    default = polyp.Settings()
    given = dict(text.split("=", 1) for text in FLAGS.settings)
    typed = {name: type(getattr(default, name))(float(value)) for name, value in given.items()}
    return polyp.Settings(**typed)


class Found:
    """What was found in test frames: one entry a lesion, one a mark."""

    def __init__(self) -> None:
        self.lesion_sequence: list[str] = []
        self.rank: list[int] = []  # of the first candidate inside, -1: none
        self.area: list[float] = []  # share of the frame
        self.marks: list[tuple] = []  # score, vote, band, lesion or -1, frame
        self.per_frame: list[int] = []
        self.overlap: list[float] = []
        self.seconds: list[float] = []

    def add(self, detector: polyp.Detector, image: np.ndarray, mask: np.ndarray, name: str) -> None:
        """Detect and compare."""
        started = time.process_time()
        candidates = detector.detect(image)
        self.seconds.append(time.process_time() - started)
        number = len(self.per_frame)
        self.per_frame.append(len(candidates))
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= SPECK * mask.size]
        at = [parts[round(c.y), round(c.x)] for c in candidates]
        for c, part in zip(candidates, at, strict=True):
            if part and part not in large:
                continue  # a mark on a speck is neither
            lesion = len(self.rank) + large.index(part) if part else -1
            self.marks.append((c.score, c.vote, c.band, lesion, number))
        for part in large:
            hits = [i for i, where in enumerate(at) if where == part]
            self.rank.append(hits[0] if hits else -1)
            self.area.append(stats[part, cv2.CC_STAT_AREA] / mask.size)
            self.lesion_sequence.append(name)
            if hits:
                truth = stats[part, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH,
                                     cv2.CC_STAT_HEIGHT]]  # fmt: skip
                self.overlap.append(overlap(candidates[hits[0]].box, truth))

    def recall(self, chosen: np.ndarray) -> str:
        """Share of the chosen polyps with a candidate, with its interval."""
        hit = np.array(self.rank)[chosen] >= 0
        names = np.array(self.lesion_sequence)[chosen]
        if not hit.size:
            return "-"
        if len(set(self.lesion_sequence)) == len(self.per_frame):
            low, high = _shared.wilson(int(hit.sum()), hit.size)
            return f"{hit.mean():.3f} [{low:.3f}, {high:.3f}] of {hit.size} (Wilson)"
        found = intervals.bootstrap(
            intervals.mean(hit.astype(float)), names, limits=intervals.SHARE
        )
        return (
            f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}] of {hit.size} "
            f"({found.clusters} sequences)"
        )


def overlap(first: tuple, second: np.ndarray) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    a, b = np.array(first, float), np.array(second, float)
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    common = np.prod(np.maximum(high - low, 0))
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def sensitivities(found: Found, column: int) -> list[float]:
    """Sensitivity at RATES false positives a frame; of several marks on a polyp the best counts."""
    marks = np.array(found.marks)
    order = np.argsort(-marks[:, column], kind="stable")
    scores, lesions = marks[order, column], marks[order, 3]
    false = np.cumsum(lesions < 0) / len(found.per_frame)
    first = np.zeros(len(order), bool)
    first[np.unique(lesions, return_index=True)[1]] = True
    true = np.cumsum(first & (lesions >= 0)) / len(found.rank)
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return [float(max([0.0, *true[ends][false[ends] <= rate]])) for rate in RATES]


def report(found: Found) -> None:
    """Print everything about the test frames."""
    rank, small = np.array(found.rank), np.array(found.area) < SMALL
    tops = ", ".join(f"{(rank[rank >= 0] < k).sum() / rank.size:.3f}" for k in (1, 3, 5))
    print(
        f"recall {found.recall(np.ones(rank.size, bool))}; of the first 1, 3, 5 candidates: {tops}"
    )
    print(f"  smaller than {SMALL:.0%} of the frame  {found.recall(small)}")
    print(f"  larger                      {found.recall(~small)}")
    for name, column in (("score", 0), ("vote", 1), ("band", 2)):
        values = ", ".join(
            f"{r:g}: {s:.3f}" for r, s in zip(RATES, sensitivities(found, column), strict=True)
        )
        print(f"sensitivity by {name} at false positives a frame  {values}")
    per_frame, seconds = np.array(found.per_frame), np.array(found.seconds)
    print(
        f"{per_frame.mean():.1f} candidates a frame; box overlap of hits, median "
        f"{np.median(found.overlap):.2f}; {np.median(seconds) * 1e3:.0f} ms of processor time a "
        f"frame, {per_frame.sum() / seconds.sum():.0f} candidates/s"
    )


def main(arguments: list[str]) -> None:
    """Train, test, print."""
    del arguments
    cv2.setNumThreads(1)
    source = pathlib.Path(FLAGS.input)
    found, settings = Found(), changed()
    if FLAGS.test:
        runs = [(None, source, pathlib.Path(FLAGS.test))]
    else:
        chosen = range(FLAGS.folds) if FLAGS.fold is None else [FLAGS.fold]
        runs = [(fold, source, source) for fold in chosen]
        names = list(dict.fromkeys(name for *_, name in frames(source)))
        fold_of = {name: number % FLAGS.folds for number, name in enumerate(names)}
    for fold, train, test in runs:
        started, first = time.perf_counter(), len(found.rank)
        learnt = (f for f in frames(train) if fold is None or fold_of[f[2]] != fold)
        detector = polyp.fit(learnt, settings, FLAGS.seed)
        trained = time.perf_counter() - started
        for image, mask, name in frames(test):
            if fold is None or fold_of[name] == fold:
                found.add(detector, image, mask, name)
        rank = np.array(found.rank[first:])
        print(
            f"{'test' if fold is None else f'fold {fold}'}: recall {(rank >= 0).mean():.3f} of "
            f"{rank.size} polyps, trained in {trained:.0f} s",
            flush=True,
        )
    report(found)
    if FLAGS.save_marks:
        np.savez(
            FLAGS.save_marks,
            marks=np.array(found.marks),
            rank=np.array(found.rank),
            area=np.array(found.area),
            overlap=np.array(found.overlap),
            seconds=np.array(found.seconds),
            sequence=np.array(found.lesion_sequence),
            per_frame=np.array(found.per_frame),
        )


if __name__ == "__main__":
    app.run(main)
