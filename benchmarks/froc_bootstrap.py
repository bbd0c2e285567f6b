"""Paired cluster bootstrap of FROC curves, against loops over the draws.

    PYTHONPATH=. python benchmarks/froc_bootstrap.py [--quick]

Two methods, 10,000 candidates each in 1,000 frames, 2,000 draws, sensitivity at seven rates with
intervals, paired differences and p-values: ``medxfer.evaluation.froc.analyse``. The peers get the
same draws and, for each, the sensitivities of both methods: plain Python over lists of marks
(timed on a part of the draws and scaled), NumPy on the marks of the drawn frames written out and
sorted, and NumPy on marks sorted once. Every process has one thread, and they take turns; seconds
are of processor time, so of one core, and the least of the rounds counts. The values of all draws
must be equal to the last bit.

Expected: at most 1 s, and at least 100 times as fast as the loop in plain Python.
"""

import argparse
import bisect
import sys
import time
from collections.abc import Callable

import _shared
import numpy as np

from medxfer.evaluation import froc, resampling

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SEED = 7


def candidates(seed: int, quality: float, frames: int, total: int, subjects: int) -> froc.Marks:
    """Marks with about one lesion in two frames, two marks on some lesions, and tied scores."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    lesions = world.integers(0, 2, frames)
    true = np.repeat(np.flatnonzero(lesions), rng.integers(0, 3, lesions.sum()))
    false = rng.integers(0, frames, total - true.size)
    scores = np.append(rng.normal(size=false.size), quality + rng.normal(size=true.size))
    return froc.Marks(
        scores.round(3),
        np.append(false, true),
        np.repeat([-1, 0], [false.size, true.size]),
        np.ones(frames, int),
        lesions,
        np.arange(frames) % subjects,
    )


def vectorised(methods: dict[str, froc.Marks], draws: int) -> None:
    """All the work: draws, values, intervals, differences and p-values."""
    merits = froc.Merits(RATES, mean_rates=())
    froc.analyse(methods, merits, draws=draws, seed=SEED)


def values(methods: dict[str, froc.Marks], draws: int) -> np.ndarray:
    """Values of all draws by the project, (methods, draws, rates)."""
    merits = froc.Merits(RATES, mean_rates=())
    statistics = {name: froc.weighted(m.by_subject(), merits) for name, m in methods.items()}
    clusters = len(np.unique(next(iter(methods.values())).subjects))
    drawn = resampling.resample(statistics, clusters, draws=draws, seed=SEED)
    return np.stack([sample.values[:, : len(RATES)] for sample in drawn.values()])


def per_frame(methods: dict[str, froc.Marks], draws: int) -> np.ndarray:
    """How often each frame is drawn, (draws, frames)."""
    subjects = next(iter(methods.values())).subjects
    names, member = np.unique(subjects, return_inverse=True)
    return np.concatenate(list(resampling.counts(len(names), draws, SEED)))[:, member]


def plain_python(methods: dict[str, froc.Marks], times: np.ndarray) -> np.ndarray:
    """A loop over draws, frames and marks."""
    found = np.empty((len(methods), len(times), len(RATES)))
    for m, marks in enumerate(methods.values()):
        frames: list[list[tuple[float, int]]] = [[] for _ in marks.images]
        for score, case, lesion in zip(
            marks.scores.tolist(), marks.cases.tolist(), marks.lesions.tolist(), strict=True
        ):
            frames[case].append((score, lesion))
        lesions = marks.lesion_counts.tolist()
        for d, row in enumerate(times.tolist()):
            drawn, images, to_find = [], 0, 0
            for case, number in enumerate(row):
                for copy in range(number):
                    images += 1
                    to_find += lesions[case]
                    drawn += [(score, case, copy, lesion) for score, lesion in frames[case]]
            drawn.sort(key=lambda mark: -mark[0])
            rate, height = [0.0], [0.0]
            false, hit, place = 0, set(), 0
            while place < len(drawn):
                score = drawn[place][0]
                while place < len(drawn) and drawn[place][0] == score:
                    _, case, copy, lesion = drawn[place]
                    if lesion < 0:
                        false += 1
                    else:
                        hit.add((case, copy, lesion))
                    place += 1
                rate.append(false / images)
                height.append(len(hit) / to_find)
            for r, x in enumerate(RATES):
                found[m, d, r] = height[bisect.bisect_right(rate, x) - 1]
    return found


def numpy_written_out(methods: dict[str, froc.Marks], times: np.ndarray) -> np.ndarray:
    """A loop over draws; each is written out as a set of marks and gets its curve by sorting."""
    found = np.empty((len(methods), len(times), len(RATES)))
    for m, marks in enumerate(methods.values()):
        kept = np.concatenate([marks.hits, marks.alarms])
        kept = kept[np.argsort(marks.cases[kept], kind="stable")]
        scores, true = marks.scores[kept], marks.lesions[kept] >= 0
        cases = np.arange(len(marks.images))
        ends = np.searchsorted(marks.cases[kept], [cases, cases + 1])
        of_case = [np.arange(*pair) for pair in ends.T]
        for d, row in enumerate(times):
            drawn = np.concatenate([of_case[case] for case in np.repeat(cases, row)])
            order = drawn[np.argsort(-scores[drawn], kind="stable")]
            last = np.append(np.diff(scores[order]) != 0, True)
            hits = np.append(0, np.cumsum(true[order])[last])
            false = np.append(0, np.cumsum(~true[order])[last])
            rate, height = false / row.sum(), hits / (row @ marks.lesion_counts)
            found[m, d] = height[np.searchsorted(rate, RATES, side="right") - 1]
    return found


def numpy_sorted_once(methods: dict[str, froc.Marks], times: np.ndarray) -> np.ndarray:
    """A loop over draws; the marks are sorted once and get weights."""
    found = np.empty((len(methods), len(times), len(RATES)))
    for m, marks in enumerate(methods.values()):
        kept = np.concatenate([marks.hits, marks.alarms])
        kept = kept[np.argsort(-marks.scores[kept], kind="stable")]
        cases, true = marks.cases[kept], marks.lesions[kept] >= 0
        last = np.flatnonzero(np.append(np.diff(marks.scores[kept]) != 0, True))
        for d, row in enumerate(times):
            weights = row[cases]
            hits = np.append(0, np.cumsum(weights * true)[last])
            false = np.append(0, np.cumsum(weights * ~true)[last])
            rate, height = false / row.sum(), hits / (row @ marks.lesion_counts)
            found[m, d] = height[np.searchsorted(rate, RATES, side="right") - 1]
    return found


PEERS = {
    "plain Python": plain_python,
    "NumPy, written out": numpy_written_out,
    "NumPy, sorted once": numpy_sorted_once,
}


def on_one_core(function: Callable[[], object]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def work(name: str, options: argparse.Namespace) -> Callable[[], float]:
    """One round of a worker: seconds for all draws."""
    methods = problem(options)
    if name == "medxfer":
        return lambda: on_one_core(lambda: vectorised(methods, options.draws))
    draws = max(1, options.draws // 50) if name == "plain Python" else options.draws
    times = per_frame(methods, draws)
    scale = options.draws / draws
    return lambda: scale * on_one_core(lambda: PEERS[name](methods, times))


def problem(options: argparse.Namespace) -> dict[str, froc.Marks]:
    """Two methods on the same frames."""
    shape = (options.frames, options.candidates, options.subjects)
    return {"first": candidates(1, 1.5, *shape), "second": candidates(2, 1.2, *shape)}


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--subjects", type=int, default=1000, help="drawn as wholes")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer draws, one round")
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.quick:
        options.draws, options.rounds = 200, 1
    if options.worker:
        _shared.serve(work(options.worker, options))
        return 0
    print(f"2 methods, {options.candidates} candidates, {options.frames} frames of")
    print(f"{options.subjects} subjects, {options.draws} draws, {len(RATES)} rates.")
    print(_shared.machine(), flush=True)
    methods = problem(options)
    ours = values(methods, options.draws)
    equal = {}
    for name, peer in PEERS.items():
        draws = max(1, options.draws // 50) if name == "plain Python" else options.draws
        theirs = peer(methods, per_frame(methods, options.draws)[:draws])
        equal[name] = f"{(theirs == ours[:, :draws]).all()}, {draws} draws"
    arguments = [f"--{key}={getattr(options, key)}" for key in
                 ("frames", "candidates", "subjects", "draws")]  # fmt: skip
    workers = [_shared.Turns(__file__, name, 1, arguments) for name in ("medxfer", *PEERS)]
    seconds = _shared.alternate(workers, options.rounds)
    for worker in workers:
        worker.close()
    best = {name: min(taken) for name, taken in seconds.items()}
    rows = [
        (name, _shared.spread(taken, 3), f"{best[name] / best['medxfer']:.0f}")
        + (equal.get(name, ""),)
        for name, taken in seconds.items()
    ]
    print("\n" + _shared.table(("", "seconds", "times ours", "equal"), rows))
    _shared.record("2,000 paired FROC draws", best["medxfer"], "s", "at most 1")
    ratio = best["plain Python"] / best["medxfer"]
    _shared.record("FROC draws against a plain loop", ratio, "times", "at least 100")
    print(f"at most 1 s: {best['medxfer'] <= 1}; at least 100 times plain Python: "
          f"{best['plain Python'] >= 100 * best['medxfer']}")  # fmt: skip
    return 0 if all(text.startswith("True") for text in equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
