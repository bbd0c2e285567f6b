import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from data_prep import signals
from data_prep.errors import UserError
from medxfer import checkpoints, distribution
from tests.testing import train_few, train_replicas

SECONDS = 180


def start(name, cache, folder, *options, **environment):
    """Train in a process of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", "tests.testing.train_replicas"]
        + [name, cache, str(folder), *options],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*processes):
    """Require that all end well and in time; what they say is part of the failure."""
    errors = ended(*processes)
    assert not any(p.returncode for p in processes), "\n\n".join(errors)


def ended(*processes):
    """Require that all end in time; what they say on the way."""
    deadline, late = time.monotonic() + SECONDS, False
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            process.send_signal(signal.SIGABRT)  # Python then prints where it stands
    errors = [process.communicate()[1] for process in processes]
    assert not late, "\n\n".join(errors)
    return errors


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights and history of the same training on one device, without kept features."""
    folder = tmp_path_factory.mktemp("alone")
    model, history = train_replicas.train(distribution.strategy("one"), "none", folder)
    return model.get_weights(), history


def assert_same_as_alone(path, alone):
    weights, history = alone
    with np.load(path) as result:
        for place, weight in enumerate(weights):
            np.testing.assert_allclose(result[str(place)], weight, rtol=0, atol=1e-5)
        for name, values in {
            "losses": [epoch.loss for epoch in history.epochs],
            "validation_losses": [epoch.validation_loss for epoch in history.epochs],
            "scores": [epoch.score for epoch in history.epochs],
        }.items():
            np.testing.assert_allclose(result[name], values, atol=1e-5)
        return int(result["replicas"]), int(result["processes"]), result["masks"]


def test_two_replicas_train_like_one_device(tmp_path, alone):
    wait_for(start("mirrored", "none", tmp_path))
    replicas, processes, masks = assert_same_as_alone(tmp_path / "process-0.npz", alone)
    assert (replicas, processes) == (2, 1)
    assert not np.array_equal(*masks)


def few(counts):
    """Steps on so many examples on one device, with the moving means that NumPy finds."""
    found = train_few.all_steps(distribution.strategy("one"), counts)
    for name, mean in train_few.means(counts).items():
        np.testing.assert_allclose(found[name], mean, rtol=1e-5, err_msg=name)
    return found


@pytest.mark.parametrize(
    ("replicas", "counts"),
    [
        (2, (1, 3)),
        *(pytest.param(count, tuple(range(1, 10)), marks=pytest.mark.slow) for count in (2, 3, 4)),
    ],
)
def test_few_examples_on_several_replicas_are_those_of_one(tmp_path, replicas, counts):
    """Of any number of examples up to two batches and one, nothing enters that is none."""
    path = tmp_path / "found.npz"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.testing.train_few", str(replicas),
         ",".join(map(str, counts)), str(path)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        check=True, timeout=SECONDS,
    )  # fmt: skip
    with np.load(path) as found:
        assert found["replicas"] == replicas
        for name, value in few(counts).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


def two_workers(folder, cache, *options):
    """Train in two processes that share a run folder and nothing else."""
    wait_for(*start_two(folder, cache, *options))


def start_two(folder, cache, *options):
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    return [
        start(
            "multi_worker",
            cache,
            folder / "run",
            *options,
            MEDXFER_CACHE=str(folder / f"cache-{index}"),
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(2)
    ]


def assert_two_workers_same_as_alone(folder, alone):
    seen = []
    for index in range(2):
        path = folder / "run" / f"process-{index}.npz"
        replicas, processes, masks = assert_same_as_alone(path, alone)
        assert (replicas, processes) == (2, 2)
        seen.append(masks[0])
    assert not np.array_equal(*seen)
    written = {path.name for path in (folder / "run" / "checkpoints").iterdir()}
    assert written == {"best.weights.h5", "history.json"}


def test_two_processes_train_like_one(tmp_path, alone):
    two_workers(tmp_path, "none")
    assert_two_workers_same_as_alone(tmp_path, alone)


@pytest.mark.slow
def test_two_processes_keep_features_and_resume(tmp_path, alone):
    two_workers(tmp_path, "disk", "2")
    assert {path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()} >= {"last"}
    two_workers(tmp_path, "disk")
    assert_two_workers_same_as_alone(tmp_path, alone)


@pytest.mark.slow
def test_where_one_process_is_asked_to_end_both_do_and_go_on(tmp_path, alone):
    two_workers(tmp_path, "none", "asked")
    assert not list((tmp_path / "run").glob("process-*"))
    kept = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").meta("last")
    assert (kept["epoch"], kept["step"]) == (1, 4)  # asked in step 3; they agree every second one
    two_workers(tmp_path, "none")
    assert_two_workers_same_as_alone(tmp_path, alone)


@pytest.mark.slow
def test_where_one_process_dies_the_other_ends_and_both_go_on(tmp_path, alone):
    other, killed = start_two(tmp_path, "none", "killed")
    words, _ = ended(other, killed)
    assert killed.returncode == -signal.SIGKILL
    assert other.returncode == signals.RESUME, words
    assert "Another worker ended" in words.splitlines()[-1]
    assert not list((tmp_path / "run").glob("process-*"))
    kept = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").meta("last")
    assert (kept["epoch"], kept["step"]) == (1, 0)
    two_workers(tmp_path, "none")
    assert_two_workers_same_as_alone(tmp_path, alone)


AGREE = """
import sys
from data_prep.errors import UserError
from medxfer import distribution

strategy = distribution.strategy("multi_worker")
for refused in (None, 0, 1):
    try:
        with distribution.agreed(strategy):
            if distribution.process(strategy)[0] == refused:
                raise UserError("The folder is in use.")
        print("agreed")
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse():
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    cluster = {"cluster": {"worker": addresses}}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", AGREE],
            env=os.environ | {
                "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "",
                "TF_CONFIG": json.dumps(cluster | {"task": {"type": "worker", "index": index}}),
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=SECONDS) for process in processes]
    own = "The folder is in use."
    other = "Another worker cannot take part; what it says itself tells what to mend."
    assert said[0][0].splitlines() == ["agreed", own, other], said[0][1]
    assert said[1][0].splitlines() == ["agreed", other, own], said[1][1]


def test_only_what_fails_between_processes_asks_for_another_start(monkeypatch, caplog):
    monkeypatch.setattr(distribution, "process", lambda strategy: (1, 2))
    own = tf.errors.InternalError(None, None, "cuDNN launch failure: input shape [50,96,27,27]")
    with pytest.raises(tf.errors.InternalError), distribution.together(None):
        raise own
    for lost in (
        tf.errors.InternalError(None, None, "NCCL: unhandled system error"),
        tf.errors.UnavailableError(None, None, "Connection reset by peer"),
    ):
        caplog.clear()
        with pytest.raises(signals.Terminated, match="Another worker"), distribution.together(None):
            raise lost
        (record,) = caplog.records  # the cause is said
        assert record.levelname == "WARNING" and lost.message in record.getMessage()


def test_tasks_of_slurm_are_workers(monkeypatch):
    step = {
        "SLURM_PROCID": "4",
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_STEP_NODELIST": "node[1-3]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    resolver = distribution._slurm_cluster()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node1:8888", "node1:8889", "node2:8888", "node2:8889", "node3:8888"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 4)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "")
    with pytest.raises(UserError, match="SLURM's variables .* are not usable"):
        distribution._slurm_cluster()
    monkeypatch.delenv("SLURM_PROCID")  # of a batch script itself
    assert distribution._slurm_tasks() == 0


@pytest.mark.slow
def test_two_tasks_of_slurm_train_like_one(tmp_path, alone):
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    wait_for(
        *(
            start("auto", "none", tmp_path / "run", SLURM_PROCID=str(index), **step)
            for index in range(2)
        )
    )
    assert_two_workers_same_as_alone(tmp_path, alone)


def test_one_strategy_a_process():
    assert distribution.strategy("one") is distribution.strategy("one")
    assert distribution.process(distribution.strategy("one")) == (0, 1)
    assert distribution.is_chief(distribution.strategy("one"))


def test_strategies_that_cannot_be(monkeypatch):
    with pytest.raises(UserError, match="--distribute must be one of auto, one"):
        distribution.strategy("horovod")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs the environment variable TF_CONFIG"):
        distribution.strategy("multi_worker")
    for broken in ("{", "[]", '{"cluster": 1}', '{"cluster": {"worker": 2}}'):
        monkeypatch.setenv("TF_CONFIG", broken)
        with pytest.raises(UserError, match="TF_CONFIG is not usable"):
            distribution.strategy("multi_worker")


def gpu(monkeypatch, *capabilities):
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind=None: list(capabilities) if kind == "GPU" else ["cpu"],
    )
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda one: {"compute_capability": one}
    )


@pytest.mark.parametrize(
    "capabilities, amx, name, resolved",
    [
        ([], True, "auto", "mixed_bfloat16"),
        ([], False, "auto", "float32"),
        ([(7, 5)], True, "auto", "float32"),
        ([(8, 0)], False, "auto", "mixed_bfloat16"),
        ([(9, 0), (7, 0)], False, "auto", "float32"),
        ([(7, 0)], False, "mixed_float16", "mixed_float16"),
        ([], True, "float32", "float32"),
        ([], False, "mixed_bfloat16", "mixed_bfloat16"),
    ],
)
def test_precision(monkeypatch, capabilities, amx, name, resolved):
    gpu(monkeypatch, *capabilities)
    monkeypatch.setattr(distribution, "_cpu_has_amx", lambda: amx)
    assert distribution.resolve_precision(name) == resolved


def test_float16_on_a_cpu_is_refused(monkeypatch):
    gpu(monkeypatch)
    with pytest.raises(UserError, match="mixed_float16 needs a GPU"):
        distribution.resolve_precision("mixed_float16")


@pytest.mark.parametrize("name", ["auto", "one", "mirrored", "multi_worker"])
@pytest.mark.parametrize("listed", ["", "TF_CONFIG", "SLURM"])
def test_one_device_is_the_plain_way(monkeypatch, name, listed):
    cluster = {"worker": ["localhost:4000"]}
    if listed == "TF_CONFIG":
        task = {"type": "worker", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    if listed == "SLURM":
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    anew = distribution.strategy.__wrapped__
    if name == "multi_worker" and not listed:
        with pytest.raises(UserError, match="TF_CONFIG"):
            anew(name)
    else:
        assert anew(name) is tf.distribute.get_strategy()
