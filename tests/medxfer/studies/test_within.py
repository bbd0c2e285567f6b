"""A plan that fits the time there is."""

from concurrent import futures

import pytest

from data_prep.errors import UserError
from medxfer.studies import estimate, within
from medxfer.studies import plan as plans
from tests.medxfer.studies import fake

RECORDS = estimate.Records({"train": 40, "validation": 10, "test": 10}, 4)


def whole():
    return fake.plan(seeds=2, shares=["1", "0.5"])


def blocks(plan):
    """Number of runs of each seed and amount of data."""
    found = {}
    for run in plan.runs:
        block = run.config.seed, run.share
        found[block] = found.get(block, 0) + 1
    return found


def costs(plan):
    """As a network takes that learns for a second from each subject."""
    return {run.name: float(run.subjects) for run in plan.runs if not run.is_counterpart}


def test_whole_blocks_are_kept_in_order():
    plan = whole()
    all_of_it = blocks(plan)
    assert list(all_of_it) == [(0, "100 %"), (0, "50 %"), (1, "100 %"), (1, "50 %")]
    networks = sum(run.config.seed == 0 and run.share == "50 %" for run in plan.runs)
    sums = [networks * subjects for subjects in (4, 2, 4, 2)]
    for count in (1, 2, 3, 4):
        for slack in (0, 0.5 * sums[min(count, 3)]):
            found = within.part(plan, costs(plan), sum(sums[:count]) + slack)
            assert blocks(found) == dict(list(all_of_it.items())[:count])
    # A later block that would fit does not go before one that does not.
    assert within.part(plan, costs(plan), sums[0] + sums[1]).runs == plan.runs[: 2 * networks + 1]


def test_the_note_says_what_is_left_out():
    plan = whole()
    found = within.part(plan, costs(plan), 0.8 * sum(costs(plan).values()))
    assert found.notes == (
        *plan.notes,
        f"To fit the time given, {len(plan.runs) - len(found.runs)} of {len(plan.runs)} runs are "
        "left out: 100 % with seed 1, 50 % with seed 1.",
    )
    assert within.part(plan, costs(plan), 1e6) is plan


def test_too_little_time_for_the_first_block():
    plan = whole()
    with pytest.raises(
        UserError, match="100 % of the training data and seed 0 alone will take 2.0"
    ):
        within.part(plan, costs(plan), 0.5 * sum(list(costs(plan).values())[:3]))


def test_what_was_begun_keeps_its_part(tmp_path, monkeypatch):
    plan, study, asked = whole(), plans.StudyFolder(tmp_path / "s"), []

    def calibrated(study, runs, fingerprint, records, jobs):
        asked.append(jobs)
        return {run.name: 3600.0 * len(asked) for run in runs}, {}

    monkeypatch.setattr(estimate, "calibrated", calibrated)
    networks = len(costs(plan))
    first = within.fit(study, plan, networks / 4, RECORDS, jobs=2)
    assert len(blocks(first)) == 2 and asked == [2]
    study.write_plan(first, shared=False)
    assert within.fit(study, plan, networks / 4, RECORDS) == first
    assert plans.Plan.load(study.plan_file) == first and asked == [2]
    # Other hours, or other runs to choose among, are another question.
    assert len(blocks(within.fit(study, plan, networks * 2, RECORDS))) == 4
    more = fake.plan(seeds=3, shares=["1", "0.5"])
    within.fit(study, more, networks, RECORDS)
    assert len(asked) == 3
    study.write_plan(plan, shared=False)
    within.fit(study, plan, networks, RECORDS)
    assert len(asked) == 4


def test_of_several_machines_one_chooses_for_all(tmp_path, monkeypatch):
    plan, study, asked = whole(), plans.StudyFolder(tmp_path / "s"), []

    def calibrated(study, runs, *_):
        asked.append(len(asked))
        return {run.name: 3600.0 + len(asked) for run in runs}, {}

    monkeypatch.setattr(estimate, "calibrated", calibrated)
    hours, found = 1.2 * len(costs(plan)) / 4 / 2, []

    def shard(place):
        with study.turn("plan", poll=0.01):
            part = within.fit(study, plan.placed(place), hours, RECORDS, jobs=2, machines=2)
            study.write_plan(part, shared=True)
        found.append(part)

    with futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(shard, ("/a", "/b", "/c")))
    assert len(asked) == 1 and len(blocks(found[0])) == 2
    assert len({part.placed("") for part in found}) == 1
    assert {part.runs[0].config.data for part in found} == {"/a", "/b", "/c"}
    # The same hours of one machine are another question: half the time there is.
    assert len(blocks(within.fit(study, plan, hours, RECORDS, jobs=2))) == 1


def test_what_was_begun_goes_on_where_the_records_lie_now(tmp_path, monkeypatch):
    monkeypatch.setattr(
        estimate, "calibrated", lambda study, runs, *_: ({run.name: 1.0 for run in runs}, {})
    )
    plan, study = whole(), plans.StudyFolder(tmp_path / "s")
    study.write_plan(within.fit(study, plan, 1.0, RECORDS), shared=False)
    found = within.fit(study, plan.placed("/moved"), 1.0, RECORDS)
    assert {run.config.data for run in found.runs} == {"/moved"}
    assert found.whole == study.begun().whole


def test_without_an_estimate_there_is_no_choice(tmp_path, monkeypatch):
    failed = lambda study, runs, *_: ({run.name: None for run in runs}, {})  # noqa: E731
    monkeypatch.setattr(estimate, "calibrated", failed)
    with pytest.raises(UserError, match="estimate, which failed"):
        within.fit(plans.StudyFolder(tmp_path / "s"), whole(), 1.0, RECORDS)
