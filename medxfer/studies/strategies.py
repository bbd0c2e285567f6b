"""Strategies of fine-tuning against full fine-tuning, for every network (Davila et al. 2024).

Their question, by which strategy to tune, as a table: network by strategy, what it gains over full
fine-tuning (``ft``), its rank, and in how many cases it is better at all.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from medxfer import plugins, tuning
from medxfer.evaluation import compare
from medxfer.evaluation import family as families
from medxfer.evaluation.intervals import Interval
from medxfer.studies.gather import Finished, Gathered

FT = "ft"


@dataclasses.dataclass(frozen=True)
class Row:
    """A strategy on a network, on the largest amount of training data.

    Attributes
    ----------
    model, strategy : str
    trained_by : str
        Optimizer, decay and schedule.
    found : Interval
        The primary figure of merit, mean over seeds.
    gain : Interval or None
        Over ``ft`` on the same network: above 0 is better, also where lower merits are better.
    p : float
        Of that gain, paired bootstrap, adjusted by Holm's method over all comparisons with ``ft``
        in the study, which are the question here; NaN for ``ft``.
    rank : int
        Among the strategies of the network, 1 is the best.
    improved, equal, cases : int
        Seeds in which it is better than ``ft`` with the same seed, and exactly as good; seeds that
        both have.
    verdict : str
        ``better``, ``worse`` or ``not told apart``; empty for ``ft``.
    """

    model: str
    strategy: str
    trained_by: str
    found: Interval
    gain: Interval | None
    p: float
    rank: int
    improved: int
    equal: int
    cases: int
    verdict: str


def rows(gathered: Gathered) -> list[Row]:
    """Every strategy of every network that was tuned by ``ft`` and another strategy too."""
    share = gathered.full
    family, primary = share.family, share.measures.primary
    sign = 1.0 if share.measures.higher_is_better else -1.0
    of_seed = _of_seed(gathered)
    found, way = [], ways(gathered)
    for model, methods in _methods(gathered).items():
        if FT not in methods or len(methods) < 2:
            continue
        full = methods[FT]
        values = {m: sign * family.interval(m, primary).estimate for m in methods.values()}
        for strategy, method in methods.items():
            rank = 1 + sum(value > values[method] for value in values.values())
            own = family.interval(method, primary)
            if method == full:
                found.append(
                    Row(model, strategy, way[method], own, None, float("nan"), rank, 0, 0, 0, "")
                )
                continue
            pair = family.pair(*((method, full) if sign > 0 else (full, method)), primary)
            one, two = of_seed[method], of_seed[full]
            both = one.keys() & two.keys()
            ahead = sum(sign * one[seed] > sign * two[seed] for seed in both)
            equal = sum(one[seed] == two[seed] for seed in both)
            found.append(
                Row(
                    model, strategy, way[method], own, pair.difference, pair.p["bootstrap"], rank,
                    ahead, equal, len(both), "",
                )
            )  # fmt: skip
    return _adjusted(found)


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """With p by Holm's method over the comparisons, and verdicts by it."""
    others = [row for row in rows if row.gain is not None]
    adjusted = iter(compare.holm([row.p for row in others]))
    found = []
    for row in rows:
        if row.gain is not None:
            p = float(next(adjusted))
            told = "better" if row.gain.estimate > 0 else "worse"
            verdict = told if p < families.ALPHA else "not told apart"
            row = dataclasses.replace(row, p=p, verdict=verdict)
        found.append(row)
    return found


def improved(found: Sequence[Row]) -> dict[str, tuple[int, int, int]]:
    """Strategy -> cases in which it is better than ``ft``, exactly as good, and all.

    A case is network and seed.
    """
    sums: dict[str, tuple[int, int, int]] = {}
    for row in found:
        if row.strategy != FT:
            better, equal, cases = sums.get(row.strategy, (0, 0, 0))
            sums[row.strategy] = better + row.improved, equal + row.equal, cases + row.cases
    return sums


def mean_rank(found: Sequence[Row]) -> dict[str, float]:
    """Strategy -> mean of its ranks over networks, best first."""
    ranks: dict[str, list[int]] = {}
    for row in found:
        ranks.setdefault(row.strategy, []).append(row.rank)
    means = {strategy: float(np.mean(own)) for strategy, own in ranks.items()}
    return dict(sorted(means.items(), key=lambda pair: pair[1]))


def trained_by(run: Finished) -> str:
    """Optimizer, decay and schedule of a run's last stage, in which most of it is trained."""
    stage, decay = run.card["stages"][-1], run.planned.config.weight_decay
    if stage["head"]:
        return "head solved for"
    decay = decay if stage["weight_decay"] is None else stage["weight_decay"]
    return f"{stage['optimizer']}, L2 {decay:g}, {stage['schedule']}"


def ways(gathered: Gathered) -> dict[str, str]:
    """Method -> :func:`trained_by` of its first run, of methods with a strategy's name."""
    names, found = plugins.names(tuning.STRATEGIES), {}
    for run in gathered.runs:
        if run.planned.config.tune in names:
            found.setdefault(run.planned.method, trained_by(run))
    return found


def means(gathered: Gathered) -> str:
    """Whether all strategies were trained by one optimizer, decay and schedule."""
    found = {way for way in ways(gathered).values() if "," in way}
    if len(found) < 2:
        return (
            f"All were trained by one optimizer, decay and schedule: {''.join(found) or 'none'} "
            "(--strategy_settings=common)."
        )
    return (
        "They were trained by different optimizers, decays or schedules, those of their authors "
        "(--strategy_settings=authors): differences are those of whole recipes."
    )


def _methods(gathered: Gathered) -> dict[str, dict[str, str]]:
    """Network -> strategy -> name of the method, in the order of the plan."""
    names = set(plugins.names(tuning.STRATEGIES))
    found: dict[str, dict[str, str]] = {}
    for run in gathered.runs:
        config = run.planned.config
        if config.tune in names and run.planned.method in gathered.full.results:
            found.setdefault(config.model, {})[config.tune] = run.planned.method
    return found


def _of_seed(gathered: Gathered) -> dict[str, dict[int, float]]:
    """Method -> seed -> primary figure of merit, on the largest amount of data."""
    share = gathered.full
    place = share.family.merits.index(share.measures.primary)
    seeds: dict[str, list[int]] = {}
    for run in gathered.runs:
        if run.planned.share == share.text:
            seeds.setdefault(run.planned.method, []).append(run.planned.config.seed)
    return {
        method: dict(zip(own, share.family.by_seed[method][:, place].tolist(), strict=True))
        for method, own in seeds.items()
        if method in share.family.by_seed
    }
