"""Tables of a study as CSV and JSON, for people and for other programs."""

import dataclasses
from collections.abc import Mapping, Sequence

from medxfer.evaluation import family as families
from medxfer.runs import RunFolder
from medxfer.studies import gather as gathering
from medxfer.studies import relations, strategies
from medxfer.studies.gather import Gathered, Share
from medxfer.studies.plan import Plan, StudyFolder


def write(study: StudyFolder, plan: Plan, gathered: Gathered) -> dict[str, list[dict]]:
    """Write ``tables/NAME.csv`` for every table and ``study.json`` with all of them.

    Returns
    -------
    dict
        Name of the table -> rows: ``methods`` (figures of merit with intervals), ``pairs`` (every
        two methods on the same data), ``less_data`` (all the data against less), ``strategies``
        (see :mod:`medxfer.studies.strategies`), ``runs``.
    """
    tables = {
        "methods": [row for share in gathered.shares for row in method_rows(share)],
        "pairs": [
            {"training_data": share.text, **row}
            for share in gathered.shares
            for row in pair_rows(share.family.pairs)
        ],
        "less_data": pair_rows(gathered.less.pairs) if gathered.less else [],
        "strategies": strategy_rows(strategies.rows(gathered)),
        "runs": run_rows(plan, gathered),
    }
    place = RunFolder(study.path / "tables")
    place.path.mkdir(exist_ok=True)
    for name, rows in tables.items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        place.write_table(f"{name}.csv", [{key: row.get(key, "") for key in keys} for row in rows])
    content = {
        "app": plan.app,
        "fingerprint": plan.fingerprint,
        "primary": gathered.full.measures.primary,
        "higher_is_better": gathered.full.measures.higher_is_better,
        "test_subjects": gathered.full.measures.clusters,
        "depths": [dataclasses.asdict(depth) for depth in gathered.depths],
        "cautions": gathered.cautions,
        "rules": families.RULES,
        "paper": [dataclasses.asdict(row) for row in relations.relations(plan.app, gathered)],
        "missing": gathered.missing,
        "failed": gathered.failed,
        **tables,
    }
    RunFolder(study.path).write_json("study.json", content)
    return tables


def method_rows(share: Share) -> list[dict]:
    """One row per method and figure of merit."""
    family = share.family
    return [
        {
            "training_data": share.text,
            "training_subjects": share.subjects,
            "method": method,
            "measure": merit,
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "seeds": len(share.results[method]),
            "sd_over_seeds": family.spread(method, merit),
            "test_subjects": found.clusters,
            "caution": found.caution,
        }
        for method in family.intervals
        for merit, found in zip(family.merits, family.intervals[method], strict=True)
    ]


def strategy_rows(rows: Sequence[strategies.Row]) -> list[dict]:
    """One row per network and strategy, what it gains over full fine-tuning."""
    found = []
    for row in rows:
        gain = row.gain and {"gain": row.gain.estimate, "low": row.gain.low, "high": row.gain.high}
        found.append(
            {
                "network": row.model,
                "strategy": row.strategy,
                "trained_by": row.trained_by,
                "estimate": row.found.estimate,
                "estimate_low": row.found.low,
                "estimate_high": row.found.high,
                "rank": row.rank,
                **(gain or {"gain": "", "low": "", "high": ""}),
                "holm_bootstrap": row.p if row.gain else "",
                "improved": row.improved,
                "equal": row.equal,
                "cases": row.cases,
                "verdict": row.verdict,
            }
        )
    return found


def pair_rows(pairs: Sequence[families.Pair]) -> list[dict]:
    """One row per pair and figure of merit, both rules side by side."""
    return [
        {
            "measure": pair.merit,
            "first": pair.first,
            "second": pair.second,
            "difference": pair.difference.estimate,
            "low": pair.difference.low,
            "high": pair.difference.high,
            "effect_size_d": pair.effect,
            **{f"p_{test}": p for test, p in pair.p.items()},
            **{f"holm_{test}": p for test, p in pair.holm.items()},
            "bars_disjoint": pair.bars_disjoint,
            "paired_differs": pair.differs(families.PAIRED),
            "caution": pair.difference.caution,
        }
        for pair in pairs
    ]


def run_rows(plan: Plan, gathered: Gathered) -> list[dict]:
    """One row per planned run: what became of it."""
    done = [*gathered.runs, *gathered.passed_over]
    cards: Mapping[str, dict] = {run.planned.name: run.card for run in done}
    seconds = {run.planned.name: run.seconds for run in done}
    trained = {run.planned.name: run for run in done}
    passed_over = {run.planned.name for run in gathered.passed_over}
    rows = []
    for run in plan.runs:
        card = cards.get(run.name, {})
        state = "another rate validated better" if run.name in passed_over else "finished"
        rows.append(
            {
                "run": run.name,
                "method": run.method,
                "training_data": run.share,
                "seed": run.config.seed,
                "base_rate": "" if run.is_counterpart else f"{run.config.base_rate:g}",
                "trained_by": strategies.trained_by(trained[run.name])
                if run.name in trained and card.get("stages")
                else "",
                "state": state if card else gathered.failed.get(run.name, "not finished"),
                "epochs": len(card.get("history", ())) or "",
                "best_epoch": card["best_epoch"] + 1 if "best_epoch" in card else "",
                "validation_score": card.get("best_validation_auc", ""),
                "minutes": seconds[run.name] / 60 if card else "",
            }
        )
    return rows


def matrices(share: Share, methods: Sequence[str]) -> dict[str, list[list[tuple[str, ...]]]]:
    """Rule -> where every two methods differ; see :func:`medxfer.evaluation.family.matrix`."""
    return {
        rule: families.matrix(share.family, methods, rule, share.measures.shown)
        for rule in families.RULES
    }


def learning_rows(gathered: Gathered, merit: str) -> dict[str, list[tuple[int, object]]]:
    """Method -> (training subjects, interval), more subjects last; only methods with several."""
    found: dict[str, list[tuple[int, object]]] = {}
    learnt = gathering.network_methods(gathered)
    for share in reversed(gathered.shares):
        for method in share.results:
            if method in learnt:
                entry = share.subjects, share.family.interval(method, merit)
                found.setdefault(method, []).append(entry)
    return {method: rows for method, rows in found.items() if len(rows) > 1}


def amount(text: str, subjects: int) -> str:
    """Training data in words, with the number of subjects."""
    return text if subjects == 1 else f"{text} ({subjects} subjects)"
