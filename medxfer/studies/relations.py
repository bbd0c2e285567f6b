"""What Tajbakhsh et al. 2016 found, beside what a study finds.

Their section IV and tables S1 to S4, as relations of two methods at the figure of merit by which
methods are ranked here; Fig. 9, of the two interfaces; and Fig. 10, of how soon networks learn. A
relation is looked up only where both methods are in the study.

What is asked was fixed before the data, by the paper. So relations of a kind are a family of their
own for Holm's method, smaller than that of all pairs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy import stats

from medxfer.evaluation import compare, resampling
from medxfer.evaluation import family as families
from medxfer.evaluation.intervals import Interval
from medxfer.studies.gather import Gathered, Share, depths_of
from medxfer.studies.plan import COUNTERPART, SCRATCH

BETTER, ALIKE = "better", "alike"

_DEEP_IS_BEST = (("conv1", "fc8", BETTER), ("conv1", "fc6", BETTER))

#: App -> (first method, second method, how the first is beside the second).
PAPER: dict[str, Sequence[tuple[str, str, str]]] = {
    "polyp": (
        *_DEEP_IS_BEST,
        ("conv1", SCRATCH, BETTER),
        ("fc8", COUNTERPART, BETTER),
        ("fc6", COUNTERPART, BETTER),
        ("conv1", COUNTERPART, BETTER),
        (SCRATCH, COUNTERPART, BETTER),
    ),
    "pe": (
        ("conv1", "fc8", BETTER),
        ("conv1", SCRATCH, ALIKE),
        ("conv1", COUNTERPART, ALIKE),
        (SCRATCH, COUNTERPART, ALIKE),
    ),
    "frame": (
        ("conv5", "fc8", BETTER),
        ("conv5", SCRATCH, BETTER),
        (SCRATCH, "fc8", BETTER),
        ("conv5", COUNTERPART, BETTER),
        ("conv1", COUNTERPART, BETTER),
        (SCRATCH, COUNTERPART, BETTER),
    ),
    "cimt": (
        ("conv1", "fc8", BETTER),
        ("fc8", COUNTERPART, ALIKE),
        ("conv1", "fc6", BETTER),
        ("conv1", "conv5", ALIKE),
        ("conv1", "conv3", ALIKE),
        ("conv1", SCRATCH, BETTER),
        ("fc6", COUNTERPART, BETTER),
        ("conv1", COUNTERPART, BETTER),
        (SCRATCH, COUNTERPART, BETTER),
    ),
}

NETWORKS = {"alexnet", "alexnet_caffe"}  # of which the paper speaks

ANY = ""

#: App -> amount of training data -> whether conv1 lost less than scratch with so much of it.
WIDER: dict[str, dict[str, bool]] = {
    "polyp": {"50 %": True, "25 %": True},
    "pe": {"50 %": True, "25 %": True},
    "frame": {"10 %": False, "5 %": True, "1 %": True},
    "cimt": {ANY: False},  # down to one patient
}

SOONER = "share of pairs of runs"


@dataclasses.dataclass(frozen=True)
class Found:
    """One relation.

    Attributes
    ----------
    paper : str
        In words.
    difference : Interval
        First minus second method; or how much that changes with less data; or another measure.
    p : float
        Of the paired test, adjusted by Holm's method over the relations of its kind: two methods,
        two interfaces, the change with less data; NaN where there is no test.
    verdict : str
        What these data say of it.
    measure : str
        What ``difference`` is a difference in.
    """

    paper: str
    difference: Interval
    p: float
    verdict: str
    measure: str


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A relation before it is judged: ``up`` is whether the estimate is on the side of ``more``."""

    paper: str
    difference: Interval
    p: float
    expected: str
    up: bool
    more: str
    less: str


def relations(app: str, gathered: Gathered) -> list[Found]:
    """Every relation of the paper that the study can speak of."""
    if {run.planned.config.model for run in gathered.runs} - NETWORKS - {""}:
        return []
    full = gathered.full
    names = {method: method for method in full.results}
    scratch = [method for method in full.results if method.startswith(f"{SCRATCH} ")]
    if scratch:
        names[SCRATCH] = scratch[0]
    kinds = [
        [
            _between(full, names[first], names[second], expected)
            for first, second, expected in PAPER.get(app, ())
            if first in names and second in names
        ],
        [_interfaces(full, method) for method in full.results] if app == "cimt" else [],
        [],
    ]
    if "conv1" in names and SCRATCH in names:
        said = WIDER.get(app, {})
        for share in gathered.shares[1:]:
            wider = said.get(share.text, said.get(ANY))
            there = names[SCRATCH] in share.results and "conv1" in share.results
            if wider is not None and there:
                kinds[-1].append(_less(full, share, "conv1", names[SCRATCH], wider))
    found = [row for kind in kinds for row in _judged(kind, full.measures.primary)]
    if app in PAPER and (sooner := _sooner(gathered)):
        found.append(sooner)
    return found


def _judged(asked: Sequence[_Asked], measure: str) -> list[Found]:
    """Relations of one kind, as one family."""
    adjusted = compare.holm([one.p for one in asked])
    return [
        Found(
            one.paper,
            one.difference,
            float(p),
            _verdict(one.expected, p < families.ALPHA, one.up, one.more, one.less),
            measure,
        )
        for one, p in zip(asked, adjusted, strict=True)
    ]


def _between(full: Share, first: str, second: str, expected: str) -> _Asked:
    """Two methods on all data."""
    pair = full.family.pair(first, second, full.measures.primary)
    better = full.measures.better(pair.difference.estimate, 0.0)
    words = (
        f"{first} is better than {second}"
        if expected == BETTER
        else f"{first} and {second} do not differ"
    )
    p = pair.p["bootstrap"]
    return _Asked(words, pair.difference, p, expected, better, "better", "worse")


def _verdict(expected: str, differs: bool, up: bool, more: str, less: str) -> str:
    if not differs:
        return "no contradiction" if expected == ALIKE else "not shown"
    if expected == BETTER and up:
        return "holds"
    return f"does not hold: {more if up else less}"


def _less(full: Share, share: Share, first: str, second: str, wider: bool) -> _Asked:
    """How the advantage of a method changes with less data, on the same draws of subjects."""
    place = full.measures.merits.index(full.measures.primary)
    means = {
        (amount.text, method): families.mean_of(amount.measures.statistics[method])
        for amount in (full, share)
        for method in (first, second)
    }
    drawn = resampling.resample(means, full.measures.clusters, draws=families.DRAWS)
    own = full.measures
    drawn = {name: families.with_limits(s, own.limits, own.sides) for name, s in drawn.items()}
    gaps = [drawn[a.text, first].minus(drawn[a.text, second]) for a in (share, full)]
    change = families.student(gaps[0].minus(gaps[1]), sides=full.measures.sides)[place]
    p = max(change.p, families.least_p(full.measures.fewest))
    larger = full.measures.better(change.estimate, 0.0)
    words = (
        f"With {share.text} instead of {full.text}, the advantage of {first} over {second} is "
        f"{'larger' if wider else 'the same'}"
    )
    return _Asked(words, change, p, BETTER if wider else ALIKE, larger, "larger", "smaller")


def _interfaces(full: Share, method: str) -> _Asked:
    """Errors of the two interfaces by one method, on the same draws of subjects (Fig. 9)."""
    merits = "media_adventitia_error_um", "lumen_intima_error_um"
    mean = families.mean_of(full.measures.statistics[method])
    places = [full.measures.merits.index(merit) for merit in merits]
    parts = {
        merit: lambda weights, place=place: mean(weights)[:, [place]]
        for merit, place in zip(merits, places, strict=True)
    }
    drawn = resampling.resample(parts, full.measures.clusters, draws=families.DRAWS)
    (gap,) = families.student(drawn[merits[0]].minus(drawn[merits[1]]))
    p = max(gap.p, families.least_p(full.measures.fewest))
    words = f"The media-adventitia error of {method} is larger than its lumen-intima error"
    return _Asked(words, gap, p, BETTER, gap.estimate > 0, "larger", "smaller")


def _sooner(gathered: Gathered) -> Found | None:
    """In how many pairs of runs tuning reached the best validation score of scratch sooner.

    Both runs of a pair have the same network, seed and all the training data, and so epochs of as
    many mini-batches (Fig. 10). The interval is Wilson's, as if pairs were independent.
    """
    tuned = {
        method
        for methods in depths_of(r.planned for r in gathered.runs).values()
        for method in methods
    }
    runs = [run for run in gathered.runs if run.planned.share == gathered.full.text]
    sooner = []
    for scratch in (run for run in runs if run.planned.config.tune == SCRATCH):
        scores = _scores(scratch.card)
        for run in runs:
            same = all(
                getattr(run.planned.config, name) == getattr(scratch.planned.config, name)
                for name in ("model", "seed")
            )
            if same and run.planned.method in tuned and scores:
                best = max(scores)
                reached = (e for e, score in enumerate(_scores(run.card)) if score >= best)
                sooner.append(next(reached, math.inf) < scores.index(best))
    if not sooner:
        return None
    test = stats.binomtest(sum(sooner), len(sooner))
    limits = test.proportion_ci(method="wilson")
    caution = "pairs share runs, so the interval is too narrow"
    share = Interval(test.statistic, limits.low, limits.high, math.nan, 0.95, len(sooner), caution)
    words = (
        "Fine-tuned networks reach the best validation score of scratch in fewer mini-batches "
        f"({sum(sooner)} of {len(sooner)} pairs of runs)"
    )
    told = not limits.low <= 0.5 <= limits.high
    verdict = _verdict(BETTER, told, test.statistic > 0.5, "sooner", "later")
    return Found(words, share, math.nan, verdict, SOONER)


def _scores(card: Mapping) -> list[float]:
    """Validation score after every epoch."""
    return [epoch["score"] for epoch in card.get("history", ())]
