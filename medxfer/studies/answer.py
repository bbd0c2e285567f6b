"""What a study found, in sentences that say no more than its intervals support."""

import math
from collections.abc import Mapping, Sequence

from medxfer import plugins, report, tuning
from medxfer.evaluation import family as families
from medxfer.evaluation.intervals import Interval
from medxfer.studies import gather as gathering
from medxfer.studies import strategies
from medxfer.studies.gather import Gathered, at_share
from medxfer.studies.plan import SCRATCH, Plan

STRATEGIES = "Davila et al., Image and Vision Computing 146:105012, 2024"
PAPER = "Tajbakhsh et al., IEEE TMI 35(5):1299-1312, 2016"


def sentences(gathered: Gathered) -> list[str]:
    """Scratch; depth; strategies; less data, or the classic method if there is no less."""
    full = gathered.full
    merit = full.measures.primary
    if all(math.isnan(full.family.interval(method, merit).low) for method in full.results):
        return [f"On these test subjects {_words(merit)} has no interval: nothing can be compared."]
    rows = strategies.rows(gathered)
    depths = " ".join(_depth(gathered, depth) for depth in gathered.depths)
    told = [_scratch(gathered), depths, _strategies(rows), _cases(rows)]
    return [text for text in told if text] + [_data(gathered)]


def interval(found: Interval, merit: str, unit: bool = True) -> str:
    """An estimate with its interval, and its unit."""
    kind = report.measure_name(merit)[1]
    numbers = (report.number(getattr(found, part), kind) for part in ("estimate", "low", "high"))
    text = "{} ({} to {})".format(*numbers)
    return f"{text} {report.UNITS[kind]}" if unit and kind else text


def _words(merit: str) -> str:
    return report.measure_name(merit)[0]


def _best(gathered: Gathered, methods: list[str]) -> str:
    full = gathered.full
    sign = 1 if full.measures.higher_is_better else -1
    values = {m: sign * full.family.interval(m, full.measures.primary).estimate for m in methods}
    known = [method for method in methods if not math.isnan(values[method])]
    return max(known or methods, key=values.get)


def _compared(gathered: Gathered, first: str, second: str, family=None) -> tuple[str, str]:
    """``better``, ``worse`` or ``open``, and the numbers behind it."""
    measures = gathered.full.measures
    pair = (family or gathered.full.family).pair(first, second, measures.primary)
    gap, adjusted = pair.difference, pair.holm["bootstrap"]
    numbers = (
        f"difference in {_words(measures.primary)} {interval(gap, measures.primary)}, "
        f"Holm-adjusted p {_p(adjusted)}"
    )
    if not pair.differs(families.PAIRED):
        return "open", numbers
    return ("better" if measures.better(gap.estimate, 0.0) else "worse"), numbers


def _p(value: float) -> str:
    text = report.p_value(value)
    return text if text.startswith(("<", "–")) else f"= {text}"


def _scratch(gathered: Gathered) -> str:
    methods = gathering.network_methods(gathered)
    scratch = [method for method in methods if SCRATCH in method]
    tuned = [method for method in methods if method not in scratch]
    if not scratch or not tuned or not gathering.pretrained(r.planned for r in gathered.runs):
        return ""
    first, second = _best(gathered, tuned), _best(gathered, scratch)
    verdict, numbers = _compared(gathered, first, second)
    for method, rates, chosen in scratch_rates(gathered):
        if method == second and len(rates) > 1:
            tried = _list([f"{rate:g}" for rate in rates])
            numbers += f"; {second} had rate {_list(chosen)}, of {tried} by validation"
    where = f"on these {gathered.full.measures.clusters} test subjects"
    if verdict == "open":
        return (
            "A difference between fine-tuning and training from scratch is not shown: the best "
            f"tuned network, {first}, and the best from scratch, {second}, cannot be told apart "
            f"{where} ({numbers})."
        )
    return (
        f"The best tuned network, {first}, was {verdict} {where} than the best from scratch, "
        f"{second}: {numbers}."
    )


def _depth(gathered: Gathered, depth: gathering.Depth) -> str:
    names = depth.tried
    told = [d for d in names if d != depth.best and _compared(gathered, d, depth.best)[0] != "open"]
    alike = [d for d in names if d != depth.best and d not in told]
    text = f"Of the depths, {depth.best} had the best {_words(gathered.full.measures.primary)}"
    if not told:
        return f"{text}, but no other depth can be told from it."
    if not alike:
        return f"{text}, and every other depth was worse."
    return (
        f"{text}; {_list(told)} {_were(told)} worse, while {_list(alike)} cannot be told from it."
    )


def _strategies(rows: Sequence[strategies.Row]) -> str:
    """Which strategies differ from full fine-tuning."""
    others = [row for row in rows if row.gain is not None]
    if not others:
        return ""
    several = len({row.model for row in rows}) > 1
    parts = []
    for verdict in ("better", "worse"):
        names = [
            f"{row.strategy} on {row.model}" if several else row.strategy
            for row in others
            if row.verdict == verdict
        ]
        if names:
            parts.append(f"{_list(names)} {_were(names)} {verdict}")
    if not parts:
        return "No strategy can be told from full fine-tuning (ft) on these test subjects."
    rest = sum(row.verdict not in ("better", "worse") for row in others)
    if rest:
        parts.append(f"the other {rest} comparisons do not tell the two apart")
    return f"Compared with full fine-tuning (ft), {'; '.join(parts)}."


def _cases(rows: Sequence[strategies.Row]) -> str:
    """Counts, which are no test."""
    counts = strategies.improved(rows)
    if not counts:
        return ""
    networks, ranks = len({row.model for row in rows}), strategies.mean_rank(rows)
    best = [name for name, rank in ranks.items() if rank == min(ranks.values())]
    counted = ", ".join(
        f"{name} {better} of {cases}" + (f" ({equal} equal)" if equal else "")
        for name, (better, equal, cases) in counts.items()
    )
    return (
        f"Better than ft with the same seed, counting {'network and ' if networks > 1 else ''}"
        f"seed as a case: {counted}; the best {'mean ' if networks > 1 else ''}rank has "
        f"{_list(best)}. These are counts, not tests."
    )


def _data(gathered: Gathered) -> str:
    measures = gathered.full.measures
    tuned = [m for m in gathering.network_methods(gathered) if SCRATCH not in m]
    pairs = [p for p in gathered.less.pairs if p.merit == measures.primary] if gathered.less else []
    for method in [_best(gathered, tuned)] if tuned else []:
        own = {
            pair.second: pair
            for pair in pairs
            if pair.first == at_share(method, gathered.full.text)
        }
        least = [share for share in gathered.shares if at_share(method, share.text) in own]
        if least:
            share = least[-1]
            name = at_share(method, share.text)
            pair_first = at_share(method, gathered.full.text)
            verdict, numbers = _compared(gathered, pair_first, name, gathered.less)
            amount = f"{share.text} of the training data" if "%" in share.text else share.text
            if verdict == "open":
                return (
                    f"With {amount} instead of {gathered.full.text}, a loss of {method} is not "
                    f"shown ({numbers})."
                )
            change = "worse" if verdict == "better" else "better"
            return (
                f"With {amount} instead of {gathered.full.text}, {method} was {change}: {numbers}."
            )
    classic = gathering.classic_methods(gathered)
    networks = gathering.network_methods(gathered)
    if not classic or not networks:
        return "The study does not compare amounts of training data."
    best = _best(gathered, networks)
    verdict, numbers = _compared(gathered, best, classic[0])
    if verdict == "open":
        return f"The best network ({best}) and {classic[0]} cannot be told apart ({numbers})."
    return f"The best network ({best}) was {verdict} than {classic[0]}: {numbers}."


def _tuned(gathered: Gathered) -> list[gathering.Finished]:
    """Runs that began with pre-trained weights."""
    return [
        run for run in gathered.runs if run.planned.config.tune != SCRATCH and "weights" in run.card
    ]


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _were(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"


def methods(plan: Plan, gathered: Gathered, data: Mapping) -> str:
    """A paragraph ready for a manuscript."""
    full, base = gathered.full, plan.runs[0].config
    networks = [run for run in plan.runs if not run.is_counterpart]
    models = sorted({run.config.model for run in networks})
    seeds = len({run.config.seed for run in networks})
    pairs = len({(pair.first, pair.second) for pair in full.family.pairs})
    shares = ", ".join(share.text for share in gathered.shares)
    lacking = {tuple(run.card["weights"].get("new", ())[:-1]) for run in _tuned(gathered)}
    lacking = "; ".join(_list(list(groups)) for groups in sorted(lacking) if groups)
    sources = sorted({run.card["weights"]["source"] for run in _tuned(gathered)})
    start = f" Pre-trained weights: {'; '.join(sources)}." if sources else ""
    if lacking:
        start += f" They hold nothing for {lacking}, which began at random at every depth."
    by_gradient = [
        run.planned
        for run in (*gathered.runs, *gathered.passed_over)
        if run.planned.config.tune != SCRATCH
        and any(not stage["head"] for stage in run.card.get("stages", ()))
    ]
    tried = sorted({run.config.base_rate for run in by_gradient or networks})
    rate = f"{tried[0]:g}"
    if len(tried) > 1:
        rate = f"{_list([f'{value:g}' for value in tried])}, whichever validated best"
    scratch = " ".join(
        f"Of {_list([f'{value:g}' for value in rates])} for {method}, {_list(chosen)} validated "
        "best."
        for method, rates, chosen in scratch_rates(gathered)
    )
    chosen = ""
    if gathered.depths:
        chosen = (
            " The recommended depth was found on the test part, as the shallowest that cannot be "
            "told from the best; its own test result is therefore slightly optimistic."
        )
    return (
        f"{' and '.join(models)} {'were' if len(models) > 1 else 'was'} trained with batches of "
        f"{base.batch_size}, rate {rate}, dropout {base.dropout}, for at most {base.epochs} "
        f"epochs, ended after {base.patience} without a better validation score, from scratch as "
        f"when tuned.{' ' if scratch else ''}{scratch}{_how(gathered)}{start} Training used "
        f"{shares} of the {data['subjects']['train']} training subjects, the smaller parts within "
        "the larger, with as large a part of the validation subjects (at least one, and every "
        f"class), and {seeds} seed{'s' if seeds > 1 else ''}. The epoch with the best validation "
        f"score was kept; test subjects took no part in training or in that choice. Figures of "
        f"merit are means over seeds on {data['examples']['test']} test units of "
        f"{full.measures.clusters} subjects, with 95 % intervals of Student's t times the "
        f"standard error by bootstrap over subjects ({families.DRAWS} draws, the same for all "
        "methods), near an end of a measure's range by Clopper and Pearson's limits with the "
        "effective number of subjects. Methods were compared in pairs on the same draws, with "
        "p-values adjusted by Holm's method over "
        f"{pairs} pairs"
        f"{', for strategies over the comparisons with ft' if _by_strategy(gathered) else ''}."
        f"{chosen}"
    )


def scratch_rates(gathered: Gathered) -> list[tuple[str, list[float], list[str]]]:
    """Of training from scratch on all data: method, rates tried, those chosen and how often."""
    found = []
    full = gathered.full.text
    for method in gathering.network_methods(gathered):
        chosen, others = (
            [
                run.planned.config.base_rate
                for run in runs
                if run.planned.method == method
                and run.planned.share == full
                and run.planned.config.tune == SCRATCH
            ]
            for runs in (gathered.runs, gathered.passed_over)
        )
        if tried := sorted({*chosen, *others}) if chosen else []:
            times = [f"{rate:g} ({chosen.count(rate)} of {len(chosen)} seeds)" for rate in tried
                     if rate in chosen]  # fmt: skip
            found.append((method, tried, times))
    return found


def _by_strategy(gathered: Gathered) -> list[gathering.Finished]:
    """The first run of every strategy of every network."""
    names, found = plugins.names(tuning.STRATEGIES), {}
    for run in gathered.runs:
        config = run.planned.config
        if config.tune in names:
            found.setdefault((config.model, config.tune), run)
    return list(found.values())


def _how(gathered: Gathered) -> str:
    """How depths, and how strategies, were trained, from the cards of the runs."""
    by_strategy = _by_strategy(gathered)
    named = {run.planned.method for run in by_strategy}
    others = [
        run
        for run in gathered.runs
        if not run.planned.is_counterpart and run.planned.method not in named
    ]
    text = ""
    if others:
        config, names = others[0].planned.config, dict.fromkeys(r.planned.method for r in others)
        adam = others[0].card["stages"][0]["optimizer"] == "adam"
        how = "Adam" if adam else f"stochastic gradient descent with momentum {config.momentum}"
        cosine = config.schedule == "cosine"
        course = "along half a cosine" if cosine else f"times {config.gamma} per epoch"
        text += (
            f" {', '.join(names)}: {how}, the rate {config.new_multiplier} times as much for "
            f"layers without pre-trained weights, {course}, L2 "
            f"{config.weight_decay}, following {PAPER}; a depth names the first layer group that "
            "was tuned."
        )
    if by_strategy:
        ways = "; ".join(f"{run.planned.method}: {_stages(run)}" for run in by_strategy)
        text += f" By the strategies compared in {STRATEGIES}: {ways}. {strategies.means(gathered)}"
    return text


def _stages(run: gathering.Finished) -> str:
    """Stages of a run in words."""
    parts = []
    for stage in run.card["stages"]:
        if stage["head"]:
            parts.append("the head solved for by logistic regression")
            continue
        decay, penalty = stage["weight_decay"], stage["penalty"]
        words = [
            "Adam" if stage["optimizer"] == "adam" else "stochastic gradient descent",
            f"{stage['epochs']} epoch{'s' if stage['epochs'] > 1 else ''}",
            f"{stage['schedule']} schedule",
            f"L2 {run.planned.config.weight_decay if decay is None else decay:g}",
        ]
        if penalty:
            words.append(f"{penalty['norm'].upper()}-SP {penalty['strength']:g}")
        moved = [name for name, factor in stage["multipliers"].items() if factor]
        if len(moved) < len(stage["multipliers"]):
            words.append(f"only {_list(moved)}")
        parts.append(", ".join(words))
    return ", then ".join(parts)
