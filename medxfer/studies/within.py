"""A plan that fits the time there is: whole amounts of data and seeds of it, in order."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from data_prep.errors import UserError
from medxfer.studies import estimate
from medxfer.studies.plan import Plan, Planned, StudyFolder


def fit(
    study: StudyFolder,
    plan: Plan,
    hours: float,
    records: estimate.Records,
    jobs: int = 1,
    machines: int = 1,
) -> Plan:
    """The part of a plan that so many machines like this one can do in ``hours``.

    A study that was begun with the same whole plan and hours keeps its part: an estimate is never
    quite the same twice, and what was begun is to be ended. Of several machines one chooses, see
    :meth:`StudyFolder.turn`, and the others find its part.

    Parameters
    ----------
    study : StudyFolder
    plan : Plan
    hours : float
        Above 0.
    records : Records
    jobs : int
        Runs at the same time, of each machine.
    machines : int

    Raises
    ------
    UserError
        If the time does not suffice for the first amount of data and seed, or nobody knows.
    """
    names = [run.name for run in plan.runs]
    whole = hashlib.sha256(json.dumps([names, hours * machines]).encode()).hexdigest()[:16]
    begun = study.begun()
    if begun and begun.whole == whole:
        return begun.placed(plan.runs[0].config.data)
    training = [run for run in plan.runs if not run.is_counterpart]
    seconds, _ = estimate.calibrated(study, training, plan.fingerprint, records, jobs)
    if None in seconds.values():
        raise UserError("--hours needs an estimate, which failed: give fewer runs instead.")
    return dataclasses.replace(part(plan, seconds, hours * 3600 * jobs * machines), whole=whole)


def part(plan: Plan, seconds: Mapping[str, float], limit: float) -> Plan:
    """The first blocks of a plan, each one amount of data with one seed, up to a sum of seconds.

    Within a block every method is kept, so that all are compared on the same terms. Runs that
    ``seconds`` does not name cost nothing; the note in the plan says what was left out.

    Raises
    ------
    UserError
        If the first block exceeds the limit.
    """
    blocks: dict[tuple[int, str], list[Planned]] = {}
    for run in plan.runs:
        blocks.setdefault((run.config.seed, run.share), []).append(run)
    kept: list[Planned] = []
    left: dict[tuple[int, str], list[Planned]] = {}
    spent = 0.0
    for block, runs in blocks.items():
        cost = _cost(runs, seconds)
        if left or spent + cost > limit:
            left[block] = runs
        else:
            kept += runs
            spent += cost
    if not kept:
        (seed, share), runs = next(iter(blocks.items()))
        raise UserError(
            f"The {len(runs)} runs with {share} of the training data and seed {seed} alone will "
            f"take {_cost(runs, seconds) / limit:.1f} times the --hours given: give more, or "
            "fewer --depths, --inits, --strategies, --rates, --scratch_rates or --epochs."
        )
    if not left:
        return plan
    which = ", ".join(f"{share} with seed {seed}" for seed, share in left)
    count = sum(map(len, left.values()))
    note = f"To fit the time given, {count} of {len(plan.runs)} runs are left out: {which}."
    return dataclasses.replace(plan, runs=tuple(kept), notes=(*plan.notes, note))


def _cost(runs: Sequence[Planned], seconds: Mapping[str, float]) -> float:
    return sum(seconds.get(run.name, 0.0) for run in runs)
