"""Training that is asked to end, or dies within a long epoch, goes on to the same weights."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep import signals
from medxfer import checkpoints
from tests.medxfer.test_training import STAGES, assert_same_weights, fit
from tests.testing import tiny


class Died(Exception):
    pass


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def interrupt():
    ask(signal.SIGINT)


def interrupt_twice():
    interrupt()
    interrupt()


def die():
    raise Died


def parts(happen=None, train=10**9, validation=10**9):
    """The usual parts; five steps an epoch, three batches of validation."""
    return [
        tiny.Fateful(part.images, part.labels, at=at, happen=happen)
        for part, at in zip(tiny.pipelines(), (train, validation), strict=True)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, by their settings."""
    made = {}

    def run(**how):
        name = how.get("tune", "stages")
        if name not in made:
            made[name] = fit(tmp_path_factory.mktemp(name), parts=parts(), **how)
        return made[name]

    return run


def same(found, expected):
    assert_same_weights(found[0], expected[0])
    timeless = [
        [dataclasses.replace(epoch, images_per_second=0) for epoch in history.epochs]
        for _, history in (found, expected)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("tune", "where"),
    [
        ("conv1", {"train": 3}),  # in the first epoch
        pytest.param("conv1", {"train": 5}, marks=pytest.mark.slow),  # in its last step
        pytest.param("conv1", {"train": 9}, marks=pytest.mark.slow),  # in the second one
        pytest.param("conv1", {"validation": 5}, marks=pytest.mark.slow),  # in its validation
        ("two stages", {"train": 17}),  # in the first epoch of the second stage
        ("auto_rgn", {"train": 10}),  # with factors and momenta that the epoch began with
    ],
)
def test_who_is_asked_to_end_saves_and_goes_on(tmp_path, whole, tune, where):
    how = {"stages": STAGES} if tune == "two stages" else {"tune": tune}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(signals.Terminated):
        fit(tmp_path / "run", parts=parts(ask, **where), **how)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run" / "checkpoints" / "last.npz").is_file()
    same(fit(tmp_path / "run", parts=parts(), **how), whole(**how))


def steps_told(run_dir):
    board = EventAccumulator(str(run_dir / "logs"))
    board.Reload()
    return [event.step for event in board.Tensors("loss/training")]


@pytest.mark.parametrize(
    ("happen", "at", "standing"),
    [
        (interrupt, 14, "after epoch 2 of conv1 and 4 steps of the next one."),
        (interrupt_twice, 14, "after epoch 2 of conv1."),  # ends at once: the epoch's end is kept
        (interrupt, 3, "after epoch 0 of conv1 and 3 steps of the next one."),
    ],
)
def test_ctrl_c_saves_and_goes_on(tmp_path, whole, happen, at, standing, capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", parts=parts(happen, train=at))
    assert signal.getsignal(signal.SIGINT) is before
    assert (
        "Ctrl-C: what is done is being saved. A second one ends at once." in capfd.readouterr()[1]
    )
    assert checkpoints.standing(tmp_path / "run") == f"The same command goes on {standing}"
    same(fit(tmp_path / "run", parts=parts()), whole(tune="conv1"))
    assert checkpoints.standing(tmp_path / "run").startswith("Training is complete;")
    assert steps_told(tmp_path / "run") == [0, 1, 2]


def test_who_dies_without_a_word_loses_what_came_after_the_last_epoch(tmp_path, whole):
    assert "No epoch was saved" in checkpoints.standing(tmp_path / "run")
    with pytest.raises(Died):
        fit(tmp_path / "run", parts=parts(die, train=14))
    assert checkpoints.standing(tmp_path / "run").endswith("after epoch 2 of conv1.")
    same(fit(tmp_path / "run", parts=parts()), whole(tune="conv1"))
    assert steps_told(tmp_path / "run") == [0, 1, 2]


def test_where_a_search_for_the_depth_goes_on(tmp_path):
    place = tmp_path / "search" / "fc4" / "checkpoints"
    checkpoints.Checkpoints(place).save("last", [], {"name": "fc4", "epoch": 3, "step": 0})
    assert checkpoints.standing(tmp_path) == "The same command goes on after epoch 3 of fc4."
    (place / "last.npz").unlink()
    (place / "history.json").write_text("[]")
    assert checkpoints.standing(tmp_path) == "The same command goes on with the next depth."


def test_in_the_background_of_a_shell_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.terminable(), signals.deferred() as asked:
            interrupt()
            assert asked() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_does_not_reach_processes_that_are_shielded():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with signals.shielded():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stdout == b"went on\n"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_long_epoch_is_saved_on_the_way(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(checkpoints, "LONG", 0)
    with pytest.raises(Died):
        fit(tmp_path / "run", parts=parts(die, train=14))
    kept = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").meta("last")
    assert (kept["epoch"], kept["step"]) == (2, 3)
    same(fit(tmp_path / "run", parts=parts()), whole(tune="conv1"))


def test_a_signal_at_the_end_is_obeyed_when_the_block_ends():
    with pytest.raises(signals.Terminated), signals.deferred() as asked:
        assert asked() is None
        ask()
        assert asked()
    with signals.deferred() as asked:
        pass


def test_within_a_command_a_signal_is_obeyed_at_once():
    reached = []
    with pytest.raises(signals.Terminated), signals.terminable():
        ask()
        reached.append("more")
    assert not reached


@pytest.mark.parametrize(("status", "requeued"), [(75, True), (0, False), (2, False)])
def test_the_job_of_the_readme_waits_for_the_checkpoint_and_is_queued_again(
    tmp_path, status, requeued
):
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    (script,) = re.findall(r"```\n(#SBATCH --signal=B:TERM@60.*?)```", readme, re.DOTALL)
    training = f"""
        import pathlib, signal, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), exit({status})))
        pathlib.Path("begun").touch()
        time.sleep(60)
    """
    commands = {
        "python": f"exec {sys.executable} -c '{textwrap.dedent(training)}'",
        "scontrol": 'echo "$@" > queued',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    around = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=os.environ | around)
    while not (tmp_path / "begun").exists():
        assert job.poll() is None
        time.sleep(0.02)
    job.terminate()
    job.wait(60)
    assert (tmp_path / "queued").exists() == requeued
    if requeued:
        assert (tmp_path / "queued").read_text() == "requeue 17\n"
