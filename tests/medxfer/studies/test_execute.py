"""Runs of a plan: once each, whatever is killed, whoever shares the folder."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from absl.testing import flagsaver

from data_prep import locks, signals
from data_prep.errors import UserError
from medxfer import main, plugins, tuning
from medxfer.config import Config
from medxfer.studies import estimate, times
from medxfer.studies import execute as executes
from medxfer.studies import plan as plans
from tests.medxfer.studies import fake


@pytest.fixture
def study(tmp_path):
    return plans.StudyFolder(tmp_path / "study")


def execute(study, plan, behaviour="", **options):
    study.path.mkdir(exist_ok=True)
    options = {"command": fake.command(behaviour), "poll": 0.02} | options
    return executes.execute(study, plan, **options)


def visits(study, plan):
    return {
        run.config.tune: len((study.run(run.name).path / "visits").read_text().split())
        for run in plan.runs
        if (study.run(run.name).path / "visits").exists()
    }


def script(study, behaviour, *options, **popen):
    """The same in a process of its own, which can be killed."""
    code = f"""
        import sys
        from medxfer.studies import execute, plan
        from tests.medxfer.studies import fake
        found = execute.execute(
            plan.StudyFolder(__import__("pathlib").Path({str(study.path)!r})), fake.plan(),
            command=fake.command({behaviour!r}), poll=0.02, {", ".join(options)}
        )
        print(len(found.done))
    """
    study.path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, **popen
    )


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_every_run_is_done_once_and_then_reused(study):
    plan, reported = fake.plan(), []
    first = execute(study, plan, jobs=2, report=lambda run, seconds: reported.append(run.name))
    assert sorted(first.done) == sorted(run.name for run in plan.runs) == sorted(reported)
    assert first.complete and not first.failed
    again = execute(study, plan)
    assert again.reused == [run.name for run in plan.runs] and not again.done
    assert set(visits(study, plan).values()) == {1}


def test_weights_go_only_where_told_so_and_only_of_finished_runs(study):
    plan = fake.plan()
    execute(study, plan, "fc2=error")
    runs = {run.config.tune: study.run(run.name) for run in plan.runs if not run.is_counterpart}
    assert all(run.weights.exists() for run in runs.values())
    again = execute(study, plan, "fc2=error", keep_weights=False)
    assert again.reused and again.failed
    assert {tune for tune, run in runs.items() if run.weights.exists()} == {"fc2"}
    last = execute(study, plan, keep_weights=False)
    assert len(last.reused) == len(again.reused) and last.done
    assert not any(run.weights.exists() for run in runs.values())


def test_a_failure_is_reported_and_the_others_go_on(study):
    plan = fake.plan()
    found = execute(study, plan, "fc2=error conv1=killed")
    reasons = executes.failures(study, plan.runs)
    by_tune = {run.config.tune: reasons.get(run.name) for run in plan.runs}
    assert by_tune["fc2"] == "the records are damaged."
    assert "signal 9" in by_tune["conv1"]
    assert by_tune["scratch"] is None and len(found.done) == 2 and len(found.failed) == 2
    mended = execute(study, plan)
    assert len(mended.done) == 2 and len(mended.reused) == 2
    assert executes.failures(study, plan.runs) == {}


def reason_of(study, text, **settings):
    """What is kept of a log of a run with such settings."""
    planned = fake.plan().runs[0]
    planned = dataclasses.replace(planned, config=dataclasses.replace(planned.config, **settings))
    log = study.log(planned.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    return executes._reason(2, study, planned)


def test_the_reason_of_a_failure_names_neither_folder_nor_file(study, tmp_path):
    data, weights = f"{tmp_path}/DOE_JOHN", "sub/DOE_JANE.h5"
    found = reason_of(
        study,
        f"Weights: DOE_JANE.h5\nError: {pathlib.Path(weights).absolute()} and "
        f"{data}/train do not agree.\n",
        data=data,
        weights=weights,
    )
    assert "DOE" not in str(found)
    assert found["reason"] == "the file of --weights and the folder of --data/train do not agree."
    assert reason_of(study, "Error: none of imagenet fits.\n")["reason"] == (
        "none of imagenet fits."
    )


@pytest.mark.parametrize(
    "given, said",
    [
        ("./SMITH_John", "SMITH_John"),
        ("SMITH_John", "{cwd}/SMITH_John"),
        ("./SMITH_John/", "{cwd}/SMITH_John"),
        ("../SMITH_John", "{up}/SMITH_John"),
        ("../SMITH_John", "{cwd}/../SMITH_John"),
        ("../SMITH_John", "../SMITH_John"),
        ("link", "{up}/SMITH_John"),
        ("{up}//SMITH_John", "{up}/SMITH_John"),
        ("~/SMITH_John", "{up}/SMITH_John"),
    ],
)
def test_paths_are_masked_in_every_form(study, tmp_path, monkeypatch, given, said):
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "SMITH_John").mkdir()
    (here / "link").symlink_to(tmp_path / "SMITH_John")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"cwd": here, "up": tmp_path}
    said = said.format(**places)
    text = f"Reading '{said}'\nError: {said}/cimt-train.tfrecord is damaged.\n"
    found = reason_of(study, text, data=given.format(**places))
    assert "SMITH" not in str(found)
    assert found["reason"] == "the folder of --data/cimt-train.tfrecord is damaged."


@pytest.mark.parametrize("relative", [True, False])
def test_the_folder_of_the_study_is_masked(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    place = pathlib.Path("smith/study") if relative else tmp_path / "smith" / "study"
    study = plans.StudyFolder(place)
    text = f"Error: {place.absolute()}/runs/x/config.json and {place} are full.\n"
    # The records lie in it: the longer path is meant.
    text = f"{tmp_path}/smith/study/records/a\n{text}"
    found = reason_of(study, text, data=str(tmp_path / "smith/study/records"))
    assert "smith" not in str(found)
    assert found["log"][0] == "the folder of --data/a"
    assert (
        found["reason"] == "the study's folder/runs/x/config.json and the study's folder are full."
    )


def test_what_only_looks_like_a_path_stays(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "Error: a database. See data.py, my-data and data/x.\n"
    assert reason_of(study, text, data="data")["reason"] == (
        "a database. See data.py, my-data and the folder of --data/x."
    )
    for data in (".", "./", ".."):
        found = reason_of(study, f"Error: Stop. {tmp_path}/x ./y ../z 1.5.\n", data=data)
        assert found["reason"].startswith("Stop. ") and found["reason"].endswith("1.5.")
        if data != "..":
            assert found["reason"] == "Stop. the folder of --data/x ./y ../z 1.5."
    assert "Stop/s" in reason_of(study, "Error: Stop/s.\n", data="/")["reason"]


def test_a_killed_study_takes_its_runs_with_it_and_goes_on(study):
    plan = fake.plan()
    place = study.run(plan.runs[0].name).path
    process = script(study, "fc2=slow900")
    wait_for((place / "once").exists)
    child = int((place / "visits").read_text())
    process.send_signal(signal.SIGKILL)
    process.communicate()

    def gone():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 0)
            return locks._began(child) == ""
        return True

    wait_for(gone)
    found = execute(study, plan, "fc2=slow900", age=1e9)  # the holder is known to be dead
    assert len(found.done) == len(plan.runs)
    assert visits(study, plan) == {"fc2": 2, "conv1": 1, "scratch": 1, "handcrafted": 1}


def test_a_study_that_is_asked_to_end_lets_its_runs_save(study, monkeypatch):
    plan = fake.plan()
    place = study.run(plan.runs[0].name).path
    sleep, asked = time.sleep, []

    def sleeping(seconds):
        if (place / "once").exists() and not asked:
            asked.append(True)
            raise signals.Terminated
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleeping)
    with pytest.raises(signals.Terminated):
        execute(study, plan, "fc2=saving")
    assert (place / "saved").exists()
    assert not locks.held(study.path / "claims", plan.runs[0].name)
    assert len(execute(study, plan).done) == len(plan.runs)


def test_ctrl_c_of_the_terminal_lets_the_runs_of_a_study_save(study):
    """It reaches the whole process group; the runs leave it to the study to end them."""
    plan = fake.plan()
    place = study.run(plan.runs[0].name).path
    process = script(study, "fc2=saving", stderr=subprocess.PIPE, start_new_session=True)
    wait_for((place / "once").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    assert (place / "saved").exists()
    assert executes.standing(study, plan).startswith(f"0 of {len(plan.runs)} runs are finished;")
    assert len(execute(study, plan).done) == len(plan.runs)


def test_the_time_of_every_attempt_is_kept(study, monkeypatch):
    plan = fake.plan()
    name = plan.runs[0].name
    monkeypatch.setattr(locks, "BEAT", 0.05)
    process = script(study, "fc2=slow900", "age=0.2")
    wait_for(lambda: times.attempts(study, name))
    process.kill()
    process.communicate()
    wait_for(lambda: not locks.held(study.claims, name, 1e9))
    (killed,) = times.attempts(study, name)
    assert 0 < killed < 900
    execute(study, plan, age=1e9)
    kept, last = times.attempts(study, name)
    assert kept >= killed and last > 0  # one more look, perhaps, before it was killed
    assert all(len(times.attempts(study, run.name)) == 1 for run in plan.runs[1:])
    assert times.attempts(study, "other") == []
    (study.path / "seconds" / f"{name}.json").write_text("{")
    assert times.attempts(study, name) == []


def test_a_run_is_estimated_with_its_start_and_the_attempts_before(study):
    seconds = {"training": 100.0, "evaluation": 10.0}
    one = fake.plan(shares=["1", "0.5"], counterpart_learns=False)
    whole, half = (run for run in one.runs if run.config.tune == "fc2")
    cards = {whole.name: {"seconds": seconds}}

    def estimated():
        return estimate._from_finished(study, half, [whole], cards)

    assert estimated() == 60  # of an earlier version
    study.path.mkdir()
    times.note(study, whole.name, [119.0])
    assert estimated() == 19 + 50
    times.note(study, whole.name, [40.0, 119.0])
    assert estimated() == 19 + 70
    times.note(study, whole.name, [40.0, 5.0])  # killed before the last note
    assert estimated() == 10 + 70


def test_two_shards_do_every_run_once_between_them(study):
    plan = fake.plan()
    shards = [script(study, "", f"shard=({i}, 2)") for i in range(2)]
    done = [int(process.communicate()[0]) for process in shards]
    assert sum(done) == len(plan.runs)
    assert set(visits(study, plan).values()) == {1}


def test_what_another_process_does_is_left_to_it(study):
    plan = fake.plan()
    process = script(study, "fc2=slow900")
    wait_for((study.run(plan.runs[0].name).path / "once").exists)
    found = execute(study, plan, "fc2=slow900")
    assert found.elsewhere == [plan.runs[0].name] and not found.complete
    assert visits(study, plan)["fc2"] == 1
    process.kill()
    process.communicate()


def test_records_that_moved_do_not_stop_an_interrupted_run(study):
    plan = fake.plan()
    planned = plan.runs[0]
    run = study.run(planned.name)
    run.path.mkdir(parents=True)
    moved = json.loads(json.dumps(plans.without_path(planned.config))) | {"data": "old/place"}
    run.write_json("config.json", moved)
    execute(study, plan)
    assert json.loads((run.path / "config.json").read_text())["data"] == planned.config.data


def test_the_command_line_says_every_setting(study):
    planned = fake.plan().runs[0]
    words = executes.command(study, planned)
    assert "medxfer.main" in words and "--noexport" in words and "--tune=fc2" in words
    assert not any(word.startswith("--share") for word in words)
    words = executes.command(study, planned, {"net": ["fc2", "conv1"], "other": ["x"]})
    assert "--share=fc2,conv1" in words
    (counterpart,) = (run for run in fake.plan().runs if run.is_counterpart)
    assert "medxfer.studies.counterpart" in executes.command(study, counterpart)


@pytest.mark.parametrize("settings", ["common", "authors"])
@pytest.mark.parametrize("given", [(), ("weight_decay",), ("optimizer", "schedule")])
def test_a_run_understands_its_command_line_as_it_was_planned(study, settings, given):
    changes = {"weight_decay": 0.25, "optimizer": "adam", "schedule": "cosine"}
    base = Config(app="cimt", model="alexnet", **{name: changes[name] for name in given})
    groups = {"alexnet": list(plugins.load("medxfer.models", "alexnet").LAYER_GROUPS)}
    plan = plans.make(
        base, "f" * 64, 8, groups=groups, strategies=plugins.names(tuning.STRATEGIES),
        strategy_settings=settings, given=given,
    )  # fmt: skip
    for planned in plan.runs:
        words = executes.flags_of(planned.config)
        with flagsaver.flagsaver():
            main.FLAGS(["run", *words])
            assert main.config_from_flags() == planned.config


def test_groups_from_which_the_stages_of_strategies_start():
    groups = {"alexnet": list(plugins.load("medxfer.models", "alexnet").LAYER_GROUPS)}
    base = Config(app="cimt", model="alexnet")
    options = {"groups": groups, "depths": ["fc7"], "strategies": ["lp_ft", "auto"]}
    plan = plans.make(base, "f" * 64, 8, **options)
    assert executes.starts(plan) == {"alexnet": ["fc7", "fc8", "conv1"]}
    untaught = dataclasses.replace(base, weights="none")
    assert executes.starts(plans.make(untaught, "f" * 64, 8, **options)) == {}


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0", ""])
def test_wrong_shards(text):
    with pytest.raises(UserError, match="--shard must be i/n"):
        executes.shard_of(text)
