"""What a study runs, and the file that says so."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import textwrap
import time
from concurrent import futures

import pytest

from data_prep.errors import UserError
from medxfer.config import Config
from medxfer.runs import LATER, RunFolder
from medxfer.studies import amounts
from medxfer.studies import plan as plans

GROUPS = {"net": ("conv1", "conv2", "fc3")}
BASE = Config(app="cimt", model="net", data="records")


def make(**changes):
    arguments = {
        "groups": GROUPS, "shares": ["1", "0.5", "one"], "seeds": 2, "scratch_rates": [0.001],
    }  # fmt: skip
    return plans.make(BASE, "f" * 64, 8, **(arguments | changes))


def test_every_depth_from_the_head_on_scratch_and_handcrafted():
    plan = make()
    assert plan.methods == (
        "fc3", "conv2", "conv1", "scratch (gaussian)", "scratch (xavier)", "scratch (msra)",
        "handcrafted",
    )  # fmt: skip
    assert plan.shares == ("100 %", "50 %", "one subject")
    # Three depths and one scratch thrice, two further initialisers on all data; each with two
    # seeds; the classic methods once for each amount of data.
    assert len(plan.runs) == 2 * (3 * 4 + 2) + 3
    assert {run.config.init for run in plan.runs if run.share == "50 %"} == {"gaussian"}
    assert [run.subjects for run in plan.runs if run.is_counterpart] == [8, 4, 1]
    assert len({run.name for run in plan.runs}) == len(plan.runs)


def test_every_network_has_a_rate_of_its_own_unless_rates_are_given():
    groups = {"a": ("conv", "head"), "b": ("block", "head")}
    own = {"a": 0.01, "b": 0.0002}
    plan = make(groups=groups, own_rates=own, seeds=1, inits=[])
    rates = {(r.config.model, r.config.base_rate) for r in plan.runs if not r.is_counterpart}
    assert rates == set(own.items())
    plan = make(groups=groups, own_rates=own, rates=[0.1, 0.3], seeds=1, inits=[])
    rates = {(r.config.model, r.config.base_rate) for r in plan.runs if not r.is_counterpart}
    assert rates == {(model, rate) for model in own for rate in (0.1, 0.3)}


def test_less_data_is_trained_from_the_own_start_of_a_network():
    groups = {"a": ("conv", "head"), "b": ("block", "head"), "c": ("block", "head")}
    plan = make(groups=groups, own_inits={"a": "xavier", "b": "gaussian"}, seeds=1)
    starts = {}
    for run in plan.runs:
        if run.config.tune == "scratch":
            starts.setdefault((run.config.model, run.config.fraction), set()).add(run.config.init)
    less = {model: found for (model, part), found in starts.items() if part < 1}
    assert less == {"a": {"xavier"}, "b": {"gaussian"}, "c": {"gaussian"}}  # c: the first written
    assert all(len(found) == 3 for (_, part), found in starts.items() if part == 1)


def test_classic_methods_that_learn_nothing_are_run_once():
    assert sum(run.is_counterpart for run in make(counterpart_learns=False).runs) == 1


def test_depths_that_are_the_same_training_are_done_once():
    plan = make(new={"net": ["conv2", "fc3"]}, inits=[])
    assert plan.methods == ("conv2", "conv1", "handcrafted")
    assert len(plan.notes) == 1 and "fc3 would be the same training as conv2" in plan.notes[0]
    assert make(new={"net": ["fc3"]}).notes == make().notes == ()


def test_several_networks_and_strategies():
    groups = {"a": ("conv", "head"), "b": ("block", "head")}
    plan = make(groups=groups, strategies=["lp_ft"], inits=[], shares=["1"], seeds=1)
    assert plan.methods == (
        "a head", "a conv", "a lp_ft", "b head", "b block", "b lp_ft", "handcrafted",
    )  # fmt: skip
    assert {run.config.model for run in plan.runs} == {"a", "b", ""}


def rates_of(plan, tune):
    """Rates of each method, amount of data and seed."""
    found = {}
    for run in plan.runs:
        if run.config.tune == tune:
            key = run.method, run.share, run.config.seed
            found.setdefault(key, []).append(run.config.base_rate)
    return found


def test_scratch_chooses_its_rate_on_as_many_steps():
    plan = make(own_rates={"net": 0.0003}, scratch_rates=[])
    assert set(map(tuple, rates_of(plan, "scratch").values())) == {(0.0003, 0.0009, 0.003)}
    assert set(map(tuple, rates_of(plan, "conv1").values())) == {(0.0003,)}
    several = make(rates=[0.1, 0.3], scratch_rates=[])
    assert set(map(tuple, rates_of(several, "scratch").values())) == {(0.1, 0.3)}
    own = make(rates=[0.1, 0.3], scratch_rates=[0.5])
    assert set(map(tuple, rates_of(own, "scratch").values())) == {(0.5,)}
    budgets = {
        (run.config.epochs, run.config.patience, run.config.batch_size)
        for run in plan.runs
        if not run.is_counterpart
    }
    assert len(budgets) == 1
    # What tunes keeps its names, and so does scratch at the rate that it always had.
    names = {run.name for run in make(own_rates={"net": 0.0003}, scratch_rates=[0.0003]).runs}
    assert names < {run.name for run in plan.runs}


def test_strategies_are_compared_under_one_optimizer_unless_the_authors_are_asked_for():
    arguments = {"strategies": ["ft", "lp_ft", "auto_rgn"], "depths": ["none"], "inits": []}
    common, authors = (make(**arguments, strategy_settings=each) for each in ("common", "authors"))
    settings = {
        plan: {run.config.tune: run.config.strategy_settings for run in plan.runs}
        for plan in (common, authors)
    }
    assert settings[common] == {
        "ft": "authors", "lp_ft": "common", "auto_rgn": "common", plans.COUNTERPART: "authors",
    }  # fmt: skip
    assert set(settings[authors].values()) == {"authors"}
    # Names change where settings do.
    names = [{run.name for run in plan.runs} for plan in (common, authors)]
    same = {run.name for run in common.runs if run.config.tune in ("ft", plans.COUNTERPART)}
    assert names[0] & names[1] == same
    given = plans.make(
        dataclasses.replace(BASE, weight_decay=0.25), "f" * 64, 8, groups=GROUPS, **arguments,
        strategy_settings="authors", given=["weight_decay"],
    )  # fmt: skip
    (lp_ft,) = (run.config for run in given.runs if run.config.tune == "lp_ft")
    assert (lp_ft.weight_decay, lp_ft.schedule, lp_ft.strategy_settings) == (
        0.25, "cosine", "common",
    )  # fmt: skip


def test_amounts_that_mean_the_same_subjects_are_tried_once():
    kept, dropped = amounts.fractions(["0.01", "0.05", "one", "0.5", "1.0"], 8)
    assert [(text, count) for text, _, count in kept] == [
        ("100 %", 8),
        ("50 %", 4),
        ("one subject", 1),
    ]
    assert (
        len(dropped) == 2 and "1 % of 8 training subjects is the same as one subject" in dropped[1]
    )


@pytest.mark.parametrize("subjects", [1, 2, 3, 7, 40, 1000])
def test_one_is_one_subject(subjects):
    kept, _ = amounts.fractions(["one"], subjects)
    assert kept[0][2] == 1


@pytest.mark.parametrize("word", ["0", "1.5", "half", "-1", "nan"])
def test_wrong_shares(word):
    with pytest.raises(UserError, match="--fractions are shares"):
        amounts.fractions([word], 8)


def test_unknown_depth_names_the_valid_ones():
    with pytest.raises(UserError, match="net has no layer group fc9. Valid: fc3, conv2, conv1"):
        make(depths=["fc9"])


def test_names_follow_settings_and_data_but_not_the_place_of_the_records():
    base = make().runs[0]
    moved = plans.make(dataclasses.replace(BASE, data="elsewhere"), "f" * 64, 8, groups=GROUPS)
    assert moved.runs[0].name == base.name
    for other in (
        plans.make(BASE, "e" * 64, 8, groups=GROUPS),
        plans.make(dataclasses.replace(BASE, epochs=7), "f" * 64, 8, groups=GROUPS),
    ):
        assert other.runs[0].name != base.name
    assert base.name.startswith("fc3-100-s0-")


def test_names_are_those_of_versions_without_later_settings():
    run = make().runs[0]
    earlier = dataclasses.asdict(run.config) | {"data": ""}
    for later in LATER:
        del earlier[later]
    digest = hashlib.sha256(json.dumps([earlier, "f" * 64], sort_keys=True).encode()).hexdigest()
    assert run.name == f"fc3-100-s0-{digest[:8]}"
    other = plans.make(
        dataclasses.replace(BASE, maps="patchwise"), "f" * 64, 8, groups=GROUPS, seeds=2
    )
    assert not {each.name for each in other.runs} & {each.name for each in make().runs}


def test_what_is_asked_for_twice_is_planned_once():
    once = {"depths": ["fc3"], "strategies": ["lp_ft"], "inits": ["msra"], "rates": [0.1, 0.01]}
    twice = {name: [*words, words[0]] for name, words in once.items()}
    assert make(**twice) == make(**once)
    assert make(depths=["fc3"], strategies=["fc3"]).runs == make(depths=["fc3"]).runs


def test_the_file_gives_the_plan_back(tmp_path):
    study, plan = plans.StudyFolder(tmp_path / "study"), make()
    study.write_plan(plan, shared=False)
    assert plans.Plan.load(study.plan_file) == plan
    written = study.plan_file.stat().st_mtime_ns
    study.write_plan(plan, shared=True)
    assert study.plan_file.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="another plan"):
        study.write_plan(make(seeds=1), shared=True)
    study.write_plan(make(seeds=1), shared=False)
    assert len(plans.Plan.load(study.plan_file).runs) < len(plan.runs)


def test_records_may_lie_elsewhere_on_another_machine(tmp_path):
    study, plan = plans.StudyFolder(tmp_path / "study"), make()
    study.write_plan(plan, shared=True)
    moved = plan.placed("elsewhere")
    assert {run.config.data for run in moved.runs} == {"elsewhere"}
    assert [run.name for run in moved.runs] == [run.name for run in plan.runs]
    study.write_plan(moved, shared=True)
    assert study.begun() == plan  # machines that share it do not write it in turns
    study.write_plan(moved, shared=False)
    assert study.begun() == moved


def test_a_plan_of_an_earlier_version_is_the_same(tmp_path):
    study, plan = plans.StudyFolder(tmp_path / "study"), make()
    content = plan.to_json()
    for run in content["runs"]:
        del run["config"]["maps"]
    study.path.mkdir()
    study.plan_file.write_text(json.dumps(content))
    before = study.plan_file.stat().st_mtime_ns
    study.write_plan(plan, shared=True)
    assert study.plan_file.stat().st_mtime_ns == before


def test_shards_that_begin_at_the_same_time(tmp_path):
    code = """
        import pathlib, sys
        from medxfer.studies import plan as plans
        from tests.medxfer.studies import fake
        print("ready", flush=True)
        sys.stdin.read()
        for number in range(40):
            study = plans.StudyFolder(pathlib.Path(sys.argv[1], str(number)))
            study.check_place()
            with study.turn("plan", poll=0.001):
                study.write_plan(fake.plan(), shared=True)
    """
    shards = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), tmp_path],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for shard in shards:
        assert shard.stdout.readline() == "ready\n"
    for shard in shards:
        shard.stdin.close()
        shard.stdin = None
    for shard in shards:
        _, said = shard.communicate()
        assert shard.returncode == 0, said
    for place in tmp_path.iterdir():
        assert sorted(path.name for path in place.iterdir()) == ["claims", "plan.json"]
        assert plans.StudyFolder(place).begun() is not None


def test_one_at_a_time_has_its_turn(tmp_path):
    study, inside, most = plans.StudyFolder(tmp_path), [], []

    def take(number):
        with study.turn("conclusion", poll=0.001):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(12)))
    assert most == [1] * 12


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    for name in ("claims", "plan.json.0a.partial"):  # of a shard that begins
        (tmp_path / name).mkdir()
    plans.StudyFolder(tmp_path).check_place()
    (tmp_path / "data.partial").write_text("x")
    with pytest.raises(UserError, match="holds no study"):
        plans.StudyFolder(tmp_path).write_plan(make(), shared=False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.update(format=9),
        lambda content: content.pop("runs"),
        lambda content: content["runs"][0]["config"].update(nonsense=1),
        lambda content: content["runs"][0]["config"].update(epochs=0),
        lambda content: content["runs"][0]["config"].update(epochs=12),
    ],
)
def test_a_spoilt_plan_is_refused(tmp_path, spoil):
    content = make().to_json()
    spoil(content)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"plan\.json"):
        plans.Plan.load(tmp_path / "plan.json")


def test_finished_means_these_settings_and_these_records(tmp_path):
    study, planned = plans.StudyFolder(tmp_path), make().runs[0]
    assert not study.finished(planned, "f" * 64)
    run = study.run(planned.name)
    run.path.mkdir(parents=True)
    assert isinstance(run, RunFolder)
    run.write_json("run_card.json", {"data": {"fingerprint": "f" * 64}})
    assert not study.finished(planned, "f" * 64)
    planned.config.save(run.path / "config.json")
    assert study.finished(planned, "f" * 64)
    assert not study.finished(planned, "e" * 64)
    dataclasses.replace(planned.config, data="moved").save(run.path / "config.json")
    assert study.finished(planned, "f" * 64)
    dataclasses.replace(planned.config, epochs=1).save(run.path / "config.json")
    assert not study.finished(planned, "f" * 64)
    planned.config.save(run.path / "config.json")
    (run.path / "run_card.json").write_text("{")
    assert not study.finished(planned, "f" * 64)


def test_which_classic_methods_learn():
    assert plans.counterpart_learns("frame") and plans.counterpart_learns("pe")
    assert not plans.counterpart_learns("cimt") and not plans.counterpart_learns("polyp")
