"""Finished runs to numbers: methods compared, learning curves, which depth and why."""

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

import numpy as np

from data_prep.errors import UserError
from medxfer import plugins, tuning
from medxfer.evaluation import family as families
from medxfer.evaluation.family import Family
from medxfer.evaluation.intervals import Interval
from medxfer.studies import measures, times
from medxfer.studies.measures import Measures
from medxfer.studies.plan import (
    AUTO,
    COUNTERPART,
    SCRATCH,
    Plan,
    Planned,
    StudyFolder,
    counterpart_learns,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A finished run.

    Attributes
    ----------
    planned : Planned
    card : dict
    results : dict
        Method -> results on the test part.
    seconds : float
        On the clock, all attempts together; as far as known.
    """

    planned: Planned
    card: dict
    results: dict[str, Sequence]
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """All methods on one amount of training data.

    Attributes
    ----------
    text : str
        ``100 %``.
    subjects : int
        Training subjects.
    results : dict
        Method -> results, one a seed.
    measures : Measures
    family : Family
    """

    text: str
    subjects: int
    results: dict[str, list[Sequence]]
    measures: Measures
    family: Family


@dataclasses.dataclass(frozen=True)
class Depth:
    """Which depth of a network is recommended, and why.

    Attributes
    ----------
    tried : tuple of str
        All depths of the network, head first.
    depth : str
        The shallowest that the paired test does not tell from the best one.
    best : str
        The depth with the best estimate.
    difference : Interval or None
        Recommended minus best; None where they are one.
    by_validation : str
        The depth with the best validation score, which no test subject had a part in.
    reason : str
    """

    tried: tuple[str, ...]
    depth: str
    best: str
    difference: Interval | None
    by_validation: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """All that a study found.

    Attributes
    ----------
    shares : list of Share
        Largest amount of training data first.
    less : Family or None
        All the data against less of it, for every method; its methods are named by
        :func:`at_share`.
    depths : list of Depth
        One for each network of which at least two depths were tried.
    runs : list of Finished
        What is compared: of several learning rates the one chosen on the validation part.
    passed_over : list of Finished
        The other learning rates.
    cautions : list of str
        What the numbers cannot show.
    missing, failed : dict
        Run name -> words; what is not there and why.
    """

    shares: list[Share]
    less: Family | None
    depths: list[Depth]
    runs: list[Finished]
    passed_over: list[Finished]
    cautions: list[str]
    missing: dict[str, str]
    failed: dict[str, str]

    @property
    def full(self) -> Share:
        """The largest amount of training data."""
        return self.shares[0]

    @property
    def methods(self) -> list[str]:
        """Names of all methods, those on the largest amount of data first."""
        return list(dict.fromkeys(method for share in self.shares for method in share.results))


def at_share(method: str, share: str) -> str:
    """Name of a method on an amount of data."""
    return f"{method}, {share}"


def read(study: StudyFolder, planned: Planned, app: ModuleType, truth: Mapping) -> Finished:
    """A finished run.

    Raises
    ------
    UserError
        If its predictions are not what the run should have written.
    """
    run = study.run(planned.name)
    path = run.path / "predictions.csv"
    rows: dict[str, list[dict]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                # The classic methods beside a network are the business of their own runs.
                if planned.is_counterpart or row["method"] == planned.config.tune:
                    name = row["method"] if planned.is_counterpart else planned.method
                    rows.setdefault(name, []).append(row)
        results = {name: app.restore(own, truth) for name, own in rows.items()}
    except (OSError, LookupError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete the folder of the run and start the study "
            "again."
        ) from error
    # Where too little was left to learn from, there is no classic method.
    if not results and not planned.is_counterpart:
        raise UserError(
            f"{path} holds no scores of {planned.config.tune}: delete the run's folder."
        )
    own = sum(run.card["seconds"].values())  # of the last attempt, without its start
    seconds = max(own, sum(times.attempts(study, planned.name)))
    return Finished(planned, run.card, results, seconds)


def gather(
    study: StudyFolder,
    plan: Plan,
    app: ModuleType,
    truth: Mapping,
    failed: Mapping[str, str],
    *,
    caution: str = "",
    draws: int | None = None,
) -> Gathered:
    """Compare all finished runs of a plan.

    Parameters
    ----------
    study : StudyFolder
    plan : Plan
    app : module
    truth : mapping
        Case -> what is true of it, of the test part.
    failed : mapping
        Run -> why it failed.
    caution : str
        What is known against the records.
    draws : int, optional
        Of the bootstrap.

    Raises
    ------
    UserError
        If no run is finished, or one cannot be used.
    """
    finished = [run for run in plan.runs if study.finished(run, plan.fingerprint)]
    if not finished:
        raise UserError(f"No run of {study.path} is finished, so there is nothing to compare.")
    runs, passed_over = _best_rates([read(study, run, app, truth) for run in finished])
    missing = {
        run.name: "not finished"
        for run in plan.runs
        if run not in finished and run.name not in failed
    }
    shares = []
    for text in plan.shares:
        own = _of_share(runs, text)
        if own:
            measured = measures.of(app, own)
            family = families.analyse(
                measured.statistics, measured.merits, measured.clusters,
                tests=measured.tests, limits=measured.limits, sides=measured.sides, draws=draws,
            )  # fmt: skip
            subjects = next(run.subjects for run in plan.runs if run.share == text)
            shares.append(Share(text, subjects, own, measured, family))
    shares.sort(key=lambda share: not _compares(share, runs))
    less, depths = _less(app, runs, plan.shares, draws), _depths(shares[0], plan, runs)
    return Gathered(
        shares,
        less,
        depths,
        runs,
        passed_over,
        [text for text in (*_cautions(plan, app, shares, less, runs), caution) if text],
        missing,
        dict(failed),
    )


def _compares(share: Share, runs: Sequence[Finished]) -> bool:
    """Whether at least two networks were trained on so much."""
    networks = {run.planned.method for run in runs if not run.planned.is_counterpart}
    return len(networks.intersection(share.results)) > 1


def _cautions(
    plan: Plan,
    app: ModuleType,
    shares: Sequence[Share],
    less: Family | None,
    runs: Sequence[Finished],
) -> list[str]:
    """What the numbers cannot show, each thing once."""
    found = [text for share in shares for text in share.family.cautions]
    if shares[0].text != plan.shares[0]:
        found.append(
            f"of {plan.shares[0]} of the training data too little is finished, so the answer is "
            f"about {shares[0].text}"
        )
    if not pretrained(plan.runs):
        found.append(
            "no pre-trained weights were used (--weights=none): what is called a depth here began "
            "at random, and says nothing of fine-tuning"
        )
    learnt = {run.method for run in plan.runs if not run.is_counterpart}
    for share in shares:
        networks = {m: len(seeds) for m, seeds in share.results.items() if m in learnt}
        if len(set(networks.values())) > 1:
            least = min(networks, key=networks.get)
            found.append(
                f"with {share.text} of the training data methods have {min(networks.values())} "
                f"({least}) to {max(networks.values())} seeds: means of fewer vary more"
            )
    if any(
        "validation_subjects_used" not in run.card["data"]
        and (run.planned.config.fraction < 1 or run.planned.is_counterpart)
        for run in runs
        if not run.planned.is_counterpart or counterpart_learns(plan.app)
    ):
        found.append(
            "some runs are of an earlier version, which took all validation subjects for less "
            "training data and fitted the classic methods to them, too: delete these runs to have "
            "them anew"
        )
    if len(shares) > 1 and (before := getattr(app, "LEARNT_BEFORE", "")):
        found.append(
            f"{before} learnt from all training subjects when the data were prepared: only the "
            "networks had less"
        )
    found += [text for share in shares for text in share.measures.cautions]
    shown = shares[0].measures.shown
    for family in (*(share.family for share in shares), *([less] if less else [])):
        for intervals in family.intervals.values():
            for merit, interval in zip(family.merits, intervals, strict=True):
                if interval.caution and merit in shown:
                    found.append(f"{_plain(merit)}: {interval.caution}")
    return list(dict.fromkeys(found))


def _best_rates(runs: Sequence[Finished]) -> tuple[list[Finished], list[Finished]]:
    """Of each method, amount of data and seed the rate that validates best; the others.

    By the score that was watched, and where it ties, as on small sets, by the loss.
    """

    def quality(run: Finished) -> tuple[float, float]:
        history, best = run.card.get("history", ()), run.card.get("best_epoch", -1)
        loss = history[best]["validation_loss"] if 0 <= best < len(history) else np.inf
        return run.card.get("best_validation_auc", -np.inf), -loss

    best: dict[tuple, Finished] = {}
    for run in runs:
        key = run.planned.method, run.planned.share, run.planned.config.seed
        if key not in best or quality(run) > quality(best[key]):
            best[key] = run
    kept = set(map(id, best.values()))
    return [r for r in runs if id(r) in kept], [r for r in runs if id(r) not in kept]


def _of_share(runs: Sequence[Finished], share: str) -> dict[str, list[Sequence]]:
    """Method -> results of its seeds; classic methods that learn nothing serve every share."""
    found: dict[str, list[Sequence]] = {}
    for run in runs:
        if run.planned.share == share:
            for method, results in run.results.items():
                found.setdefault(method, []).append(results)
    trained = any(run.planned.share == share and not run.planned.is_counterpart for run in runs)
    classic = [run for run in runs if run.planned.is_counterpart]
    if trained and classic and not counterpart_learns(classic[0].planned.config.app):
        for method, results in classic[0].results.items():
            found.setdefault(method, [results])
    return found


def _less(
    app: ModuleType, runs: Sequence[Finished], order: Sequence[str], draws: int | None
) -> Family | None:
    """All the data against less, for every method that was trained on both.

    ``order``: amounts of data of the plan, largest first.
    """
    found: dict[str, dict[str, list]] = {}
    for run in runs:
        for method, results in run.results.items():
            by_share = found.setdefault(method, {})
            by_share.setdefault(run.planned.share, []).append(results)
    flat, pairs = {}, []
    for method, by_share in found.items():
        if order[0] in by_share and len(by_share) > 1:
            flat |= {at_share(method, share): by_share[share] for share in by_share}
            first, *rest = (at_share(method, share) for share in order if share in by_share)
            pairs += [(first, other) for other in rest]
    if not pairs:
        return None
    measured = measures.of(app, flat)
    return families.analyse(
        measured.statistics, measured.merits, measured.clusters,
        pairs=pairs, tests=measured.tests, limits=measured.limits, sides=measured.sides,
        draws=draws,
    )  # fmt: skip


def pretrained(runs: Iterable[Planned]) -> bool:
    """Whether what is tuned began with pre-trained weights; also where nothing is tuned."""
    tuned = [run for run in runs if run.config.tune not in (SCRATCH, COUNTERPART)]
    return not tuned or any(run.config.weights != "none" for run in tuned)


def depths_of(runs: Iterable[Planned]) -> dict[str, list[str]]:
    """Network -> methods that tune from a layer group, in the order of the plan: head first."""
    others = {SCRATCH, COUNTERPART, AUTO, *plugins.names(tuning.STRATEGIES)}
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.config.tune not in others:
            own = found.setdefault(run.config.model, [])
            if run.method not in own:
                own.append(run.method)
    return found


def validation_scores(runs: Sequence[Finished], share: str) -> dict[str, list[float]]:
    """Method -> best validation score of each seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.planned.share == share and "best_validation_auc" in run.card:
            found.setdefault(run.planned.method, []).append(run.card["best_validation_auc"])
    return found


def _depths(share: Share, plan: Plan, runs: Sequence[Finished]) -> list[Depth]:
    """What is recommended for each network of which two depths have an interval."""

    def known(method: str) -> bool:
        if method not in share.results:
            return False
        return not np.isnan(share.family.interval(method, share.measures.primary).low)

    # In the order of the plan: a run that failed does not make a shallow depth a deep one.
    tried = [[d for d in own if known(d)] for own in depths_of(plan.runs).values()]
    return [_depth(share, runs, depths) for depths in tried if len(depths) > 1]


def _depth(share: Share, runs: Sequence[Finished], depths: Sequence[str]) -> Depth:
    """The shallowest depth that cannot be told from the best."""
    primary, family = share.measures.primary, share.family
    sign = 1 if share.measures.higher_is_better else -1
    best = max(depths, key=lambda depth: sign * family.interval(depth, primary).estimate)
    chosen = next(
        depth
        for depth in depths
        if depth == best or not family.pair(depth, best, primary).differs(families.PAIRED)
    )
    scores = validation_scores(runs, share.text)
    by_validation = max(
        (depth for depth in depths if depth in scores), key=lambda depth: np.mean(scores[depth])
    )
    if chosen == best:
        difference = None
        reason = (
            f"{best} has the best {_plain(primary)}, and the paired test tells every shallower "
            "depth from it."
            if best != depths[0]
            else f"{best}, the shallowest depth, has the best {_plain(primary)}."
        )
    else:
        difference = family.pair(chosen, best, primary).difference
        reason = (
            f"{best} has the best {_plain(primary)}, but {chosen} is the shallowest depth that the "
            "paired test does not tell from it. That is no proof that they are equal: the interval "
            "of the difference says what the data allow."
        )
    return Depth(tuple(depths), chosen, best, difference, by_validation, reason)


def _plain(merit: str) -> str:
    from medxfer import report

    return report.measure_name(merit)[0]


def network_methods(gathered: Gathered) -> list[str]:
    """Methods of networks on the largest amount of data, in the order of the plan."""
    return [
        method
        for method in gathered.full.results
        if any(not run.planned.is_counterpart and method in run.results for run in gathered.runs)
    ]


def classic_methods(gathered: Gathered) -> list[str]:
    """Names of the classic methods; the app's counterpart first."""
    names = [m for m in gathered.full.results if m not in network_methods(gathered)]
    return sorted(names, key=lambda name: name != COUNTERPART)
