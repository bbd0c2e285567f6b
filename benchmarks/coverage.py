"""Do the intervals hold what they promise, and do the paired tests cry wolf?

    python benchmarks/coverage.py --studies=500 --subjects=5,10,22,40

Studies are simulated: subjects differ in how hard they are, the units of a subject are alike, and
two methods see the same units, so their scores go together. For each number of subjects:

* coverage: the share of studies whose nominal 95 % interval holds the true value, for the AUC, for
  sensitivity at a false positive rate and at a rate of false positives per image (FROC), for the
  mean of an error, and for the difference of two methods in each of them; for the AUC also where
  only a quarter of the subjects (two at least) show positives, each more or less clearly; and for
  AUC, sensitivity and FROC of methods that are nearly perfect;
* false positives: the share of studies in which a paired test finds a difference (p < .05) between
  two methods that are equally good.

Each for percentiles of the bootstrap, as runs report them, and for Student's t times its standard
error, as studies do (:mod:`medxfer.evaluation.family`).

True values come from one simulated study of very many subjects.
"""

from collections.abc import Callable

import numpy as np
from absl import app, flags

from medxfer.evaluation import compare, family, froc, resampling, roc
from medxfer.evaluation.marks import Marks

FLAGS = flags.FLAGS
flags.DEFINE_integer("studies", 500, "Simulated studies of each kind.")
flags.DEFINE_list("subjects", ["5", "10", "22", "40"], "Numbers of test subjects.")
flags.DEFINE_integer("units", 24, "Units (frames, candidates, regions) of a subject.")
flags.DEFINE_float("within", 0.3, "Share of a score's variance that is the subject's own.")
flags.DEFINE_integer("draws", 1000, "Draws of the bootstrap.")
flags.DEFINE_integer("truth", 4000, "Subjects of the study that gives the true values.")
flags.DEFINE_integer("seed", 0, "Of the simulation.")

RATE, PER_IMAGE = 0.2, 1.0
TESTS = ("DeLong, units", "paired t, units", "Wilcoxon, units", "Wilcoxon, subject means")

#: Generator and number of subjects -> for each method, a statistic of the subjects' weights.
Simulation = Callable[[np.random.Generator, int, float], list[resampling.VectorStatistic]]


def scores(
    rng: np.random.Generator, subjects: int, gap: float, good: float = 1.2
) -> tuple[np.ndarray, ...]:
    """Labels (S, U), and scores (2, S, U) of two methods that go together; ``gap``: the second is
    so much better at telling the classes apart."""
    units = FLAGS.units
    labels = (np.arange(units) % 3 == 0) * np.ones((subjects, 1), int)
    share = FLAGS.within
    common = rng.normal(0, np.sqrt(share), (subjects, 1)) + rng.normal(
        0, np.sqrt((1 - share) / 2), (subjects, units)
    )
    own = rng.normal(0, np.sqrt((1 - share) / 2), (2, subjects, units))
    quality = np.array([good, good + gap])[:, None, None]
    return labels, common + own + quality * labels


def area(rng: np.random.Generator, subjects: int, gap: float, good: float = 1.2) -> list:
    """AUC, and sensitivity at a false positive rate."""
    labels, both = scores(rng, subjects, gap, good)
    members = np.repeat(np.arange(subjects), labels.shape[1])
    return [roc.weighted(labels.ravel(), s.ravel(), members, (RATE,)) for s in both]


def showing(subjects: int) -> int:
    """Subjects with positives where they are few."""
    return max(2, subjects // 4)


def rare(rng: np.random.Generator, subjects: int, gap: float) -> list:
    """AUC where few subjects show positives, and one method shows those of a subject better."""
    labels, both = scores(rng, subjects, gap)
    clear = rng.normal(0, 0.5, (2, subjects, 1))
    both += clear * labels
    labels[showing(subjects) :] = 0
    members = np.repeat(np.arange(subjects), labels.shape[1])
    # Nobody's positives are taken for negatives: those units are not there.
    shown = (labels > 0) | (np.arange(labels.shape[1]) % 3 != 0)
    return [roc.weighted(labels[shown], s[shown], members[shown.ravel()], (), (1.0,)) for s in both]


def near_one(rng: np.random.Generator, subjects: int, gap: float) -> list:
    """AUC and sensitivity of nearly perfect methods."""
    return area(rng, subjects, gap, 3.5)


def nearly_all(rng: np.random.Generator, subjects: int, gap: float) -> list:
    """Share of units that are right, in subjects whose units are often alike."""
    shares = np.array([0.97, 0.97 + gap / 30])[:, None, None]
    subject, unit = rng.random((subjects, 1)), rng.random((subjects, 4))
    right = np.where(rng.random((2, subjects, 4)) < 0.7, subject, unit) < shares
    values = right.mean(axis=2)
    return [lambda weights, v=v: (weights @ v / weights.sum(axis=1))[:, None] for v in values]


def free_response(rng: np.random.Generator, subjects: int, gap: float) -> list:
    """Sensitivity at a rate of false positives per image, and the area to it."""
    labels, both = scores(rng, subjects, gap)
    units = labels.shape[1]
    cases = np.repeat(np.arange(subjects), units)
    lesions = np.where(labels > 0, np.cumsum(labels, axis=1) // 2, -1)  # some have two marks
    counts = lesions.max(axis=1) + 2  # one is never marked
    images = np.full(subjects, 4)
    merits = froc.Merits((PER_IMAGE,), area_to=PER_IMAGE, mean_rates=())
    found = []
    for s in both:
        marks = Marks(s.ravel(), cases, lesions.ravel(), images, counts, np.arange(subjects))
        statistic = froc.weighted(marks, merits)
        found.append(lambda weights, statistic=statistic: statistic(weights)[:, :2])
    return found


def error(rng: np.random.Generator, subjects: int, gap: float) -> list:
    """Mean of a skewed error, as of a boundary."""
    _, both = scores(rng, subjects, 0.0)
    values = np.exp(0.4 * both).mean(axis=2)
    values[1] *= 1 - gap / 3
    return [lambda weights, v=v: (weights @ v / weights.sum(axis=1))[:, None] for v in values]


#: Simulation, names of the figures of merit, and between what they lie.
KINDS: dict[str, tuple[Simulation, tuple[str, ...], tuple[float, float]]] = {
    "rare": (rare, ("AUC, positives in a quarter",), (0.0, 1.0)),
    "ROC": (area, (f"sensitivity at FPR {RATE:g}", "AUC"), (0.0, 1.0)),
    "FROC": (
        free_response,
        (f"sensitivity at {PER_IMAGE:g} FP", f"area to {PER_IMAGE:g} FP"),
        (0.0, 1.0),
    ),
    "near one": (
        near_one,
        (f"sensitivity at FPR {RATE:g}, near 1", "AUC, near 1"),
        (0.0, 1.0),
    ),
    "nearly all": (nearly_all, ("share, near 1",), (0.0, 1.0)),
    "error": (error, ("mean error",), (0.0, np.inf)),
}


def true_values(simulate: Simulation, gap: float) -> np.ndarray:
    """Figures of merit (2, Q) of both methods, from very many subjects."""
    size = FLAGS.truth
    parts = []
    for block in range(4):
        statistics = simulate(np.random.default_rng([FLAGS.seed, 9, block]), size, gap)
        parts.append([statistic(np.ones((1, size), np.intp))[0] for statistic in statistics])
    return np.mean(parts, axis=0)


def coverage(
    simulate: Simulation, limits: tuple[float, float], subjects: int, gap: float
) -> np.ndarray:
    """Shares of studies, (2 ways, 3, Q): interval of one method and of the difference hold the
    truth; the paired test finds a difference. Ways: percentiles, Student's t."""
    truth = true_values(simulate, gap)
    counts = np.zeros((2, 3, truth.shape[1]))
    for study in range(FLAGS.studies):
        rng = np.random.default_rng([FLAGS.seed, study])
        statistics = dict(enumerate(simulate(rng, subjects, gap)))
        drawn = resampling.resample(statistics, subjects, draws=FLAGS.draws, seed=study)
        few = showing(subjects) if simulate is rare else subjects
        sides = {"positives": few, "negatives": subjects}
        drawn = {name: family.with_limits(each, limits, sides) for name, each in drawn.items()}
        gaps = drawn[0].minus(drawn[1])
        ways = (
            (drawn[0].intervals(), gaps.intervals(), 0.0),
            (
                family.student(drawn[0], sides=sides),
                family.student(gaps, sides=sides),
                family.least_p(few),
            ),
        )
        for way, (single, paired, least) in enumerate(ways):
            for place, (one, two) in enumerate(zip(single, paired, strict=True)):
                apart = truth[0, place] - truth[1, place]
                counts[way, 0, place] += one.low <= truth[0, place] <= one.high
                counts[way, 1, place] += two.low <= apart <= two.high
                counts[way, 2, place] += max(two.p, least) < family.ALPHA
    return counts / FLAGS.studies


def tests(subjects: int) -> dict[str, float]:
    """False positives of the other paired tests where two methods are equally good."""
    found = dict.fromkeys(TESTS, 0)
    for study in range(FLAGS.studies):
        rng = np.random.default_rng([FLAGS.seed, 7, study])
        labels, both = scores(rng, subjects, 0.0)
        flat = [s.ravel() for s in both]
        members = np.repeat(np.arange(subjects), labels.shape[1])
        means = [compare.subject_means(s, members)[1] for s in flat]
        p = (
            roc.delong_test(labels.ravel(), *flat).p,
            compare.paired_t(*flat),
            compare.wilcoxon(*flat),
            compare.wilcoxon(*means),
        )
        for name, value in zip(found, p, strict=True):
            found[name] += value < family.ALPHA
    return {name: count / FLAGS.studies for name, count in found.items()}


def main(_: list[str]) -> None:
    """Print the tables."""
    error_of = 1.96 * np.sqrt(0.05 * 0.95 / FLAGS.studies)
    print(
        f"{FLAGS.studies} simulated studies of {FLAGS.units} units a subject, {FLAGS.draws} draws; "
        f"a share near .95 or .05 is known to ± {error_of:.3f}.\n"
    )
    print(
        "| subjects | figure of merit | one method | difference | found, none | found, some "
        "| one method, t | difference, t | found, none, t | found, some, t |"
    )
    print("|---" * 10 + "|")
    for subjects in map(int, FLAGS.subjects):
        for simulate, merits, limits in KINDS.values():
            equal = coverage(simulate, limits, subjects, 0.0)
            apart = coverage(simulate, limits, subjects, 0.3)
            for place, merit in enumerate(merits):
                shares = [
                    share
                    for way in (0, 1)
                    for share in (
                        *apart[way, :2, place], equal[way, 2, place], apart[way, 2, place]
                    )
                ]  # fmt: skip
                cells = " | ".join(f"{share:.3f}" for share in shares)
                print(f"| {subjects} | {merit} | {cells} |", flush=True)
    print(
        "\nColumns: coverage of the nominal 95 % interval of one method and of a difference that "
        "is not 0;\nshare of paired bootstrap tests with p < .05 where there is no difference, and "
        "where there is;\nfirst by percentiles, then by Student's t times the standard error.\n\n"
        "Other paired tests where there is no difference:\n"
    )
    print("| subjects |", " | ".join(TESTS), "|")
    print("|---" * (len(TESTS) + 1) + "|")
    for subjects in map(int, FLAGS.subjects):
        found = tests(subjects)
        print(f"| {subjects} |", " | ".join(f"{found[name]:.3f}" for name in TESTS), "|")


if __name__ == "__main__":
    app.run(main)
