"""Killed at random moments, 20 times each, and started again: nothing is lost, nothing differs.

Each process is killed after a time drawn from 0 to what is left of an uninterrupted run, so that
kills fall on its start, its work and its end alike; when a run came to its end before the kill, a
new one is begun. Prints a tally; run with ``-s`` to see it.
"""

import functools
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep import cimt, signals
from data_prep.phantoms import cimt as phantom
from medxfer import runs
from tests.medxfer.conftest import SMALL
from tests.testing import networks

KILLS = 20

# As the command, with a network that trains fast and a checkpoint after every epoch and step.
TRAIN = """
import sys
from data_prep import command
from medxfer import checkpoints, main
from tests.testing import networks
checkpoints.LONG = 0
with networks.installed():
    command.run(main.main)
"""


def contents(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(command: list[str], log: pathlib.Path) -> subprocess.Popen:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def killed(name, tmp_path, command_for, finished, seconds, kills=KILLS, by=signal.SIGKILL):
    """Kill until the tally is full; yields every output that came to its end.

    ``command_for(output)``: the command; ``finished(output)``: whether it is whole; ``seconds``:
    an uninterrupted run takes so long.
    """
    chance = random.Random(0)
    log, tally = tmp_path / f"{name}.log", {"killed": 0, "ended before": 0, "outputs": 0}
    # Asked to end, it leaves by itself, unless it has hardly begun.
    ended = {-by} if by == signal.SIGKILL else {-by, signals.RESUME}
    while tally["killed"] < kills:
        output = tmp_path / f"{name}-{tally['outputs']}"
        tally["outputs"] += 1
        for _ in range(chance.randrange(1, 8)):
            process = start(command_for(output), log)
            try:
                process.wait(chance.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(by)
            if process.wait() in ended:
                tally["killed"] += 1
            else:
                assert process.returncode == 0, log.read_text()[-3000:]
                tally["ended before"] += 1
        process = start(command_for(output), log)
        assert process.wait() == 0, log.read_text()[-3000:]
        assert finished(output)
        yield output
    print(f"\n{name}: {json.dumps(tally)}; all outputs as without a kill")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "raw"
    phantom.generate(folder, seed=1, subjects=6, images_per_subject=1)
    return folder


@pytest.mark.slow
def test_preparation(raw, tmp_path):
    def command_for(output):
        return [
            sys.executable, "-m", "data_prep.cimt", f"--input={raw}", f"--output={output}",
            "--workers=2",
        ]  # fmt: skip

    begun = time.monotonic()
    whole = tmp_path / "whole"
    subprocess.run(command_for(whole), check=True, capture_output=True)
    seconds = time.monotonic() - begun
    for output in killed(
        "preparation", tmp_path, command_for, lambda output: output.is_dir(), seconds
    ):
        assert contents(output) == contents(whole)
        assert not list(tmp_path.glob("*.partial"))


def weights(run):
    import h5py

    found = {}
    with h5py.File(runs.RunFolder(run).weights) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def train_command(records, run, epochs=6):
    return [
        sys.executable, "-c", TRAIN, "--app=cimt", f"--model={networks.NAME}",
        f"--epochs={epochs}", f"--patience={epochs}", "--weights=none", "--tune=scratch",
        "--batch_size=20", "--precision=float32", "--seed=3", f"--data={records}", f"--run={run}",
    ]  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_of_the_terminal(raw, tmp_path):
    """It reaches the whole process group; the same command then ends in the same weights."""
    records = cimt.prepare(raw, raw.with_name("records"), settings=SMALL).output
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run(train_command(records, whole, 40), check=True, capture_output=True)
    process = subprocess.Popen(
        train_command(records, run, 40), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stderr:
        if "scratch 3: loss" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    _, told = process.communicate()
    assert process.returncode == signals.INTERRUPTED
    last = told.splitlines()[-1]
    assert re.search(r"Interrupted\. The same command goes on after epoch (3|4) of scratch", last)
    again = subprocess.run(train_command(records, run, 40), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    print(f"\n{last}\n{re.search('Going on in .*', again.stderr)[0]}")
    expected, found = weights(whole), weights(run)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    board = EventAccumulator(str(run / "logs"), size_guidance={"tensors": 0})
    board.Reload()
    steps = [event.step for event in board.Tensors("loss/training")]
    assert steps == list(range(len(runs.RunFolder(run).card["history"])))


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "by"), [(KILLS, signal.SIGKILL), (5, signal.SIGTERM)])
def test_training(raw, tmp_path, kills, by):
    records = cimt.prepare(raw, raw.with_name("records"), settings=SMALL).output

    command_for = functools.partial(train_command, records)

    def numbers(run):
        card = runs.RunFolder(run).card
        history = [
            {key: value for key, value in epoch.items() if key != "images_per_second"}
            for epoch in card["history"]
        ]
        return card["metrics"], history, card["best_epoch"]

    begun = time.monotonic()
    whole = tmp_path / "whole"
    subprocess.run(command_for(whole), check=True, capture_output=True)
    seconds = time.monotonic() - begun
    expected = weights(whole)
    name = f"training, {by.name}"
    for run in killed(
        name, tmp_path, command_for, lambda run: runs.RunFolder(run).finished, seconds, kills, by
    ):
        found = weights(run)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
        assert numbers(run) == numbers(whole)
        assert not list(run.rglob("*.partial*"))
        assert not (run / "lock").exists()
