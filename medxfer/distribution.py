"""Where training runs: devices, processes, precision and determinism.

There is one strategy object per process. TensorFlow aborts where a second MirroredStrategy trains
another set of variables ("Shape mismatch in the collective instance", tensorflow/tensorflow#62790).
"""

import functools
import json
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data_prep.errors import UserError

STRATEGIES = ("auto", "one", "mirrored", "multi_worker")

_SEED_STRIDE = 1_000_003  # a prime far above the number of layers


def logical_cpus(count: int) -> None:
    """Split the CPU into ``count`` logical devices, to try replicas without GPUs.

    Must come before TensorFlow's first operation.
    """
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, parts)


@functools.cache
def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy of this process; models are built inside its ``scope()``.

    Parameters
    ----------
    name : str
        ``one``: one device. ``mirrored``: every GPU of this machine or, without GPUs, every logical
        CPU. ``multi_worker``: every process that the environment variable TF_CONFIG lists, started
        alike on each machine; ask for it before TensorFlow's first operation. ``auto``:
        ``multi_worker`` if TF_CONFIG lists several processes, else ``mirrored`` if there are
        several GPUs, else ``one``.

    Raises
    ------
    UserError
        If the name is unknown, or ``multi_worker`` lacks a usable TF_CONFIG.
    """
    if name not in STRATEGIES:
        raise UserError(f"--distribute must be one of {', '.join(STRATEGIES)}. Received: {name}.")
    if name == "auto":
        gpus = len(tf.config.list_physical_devices("GPU"))
        name = "multi_worker" if _listed_processes() > 1 else "mirrored" if gpus > 1 else "one"
        return strategy(name)
    if name == "multi_worker":
        if not _listed_processes():
            raise UserError(
                "--distribute=multi_worker needs the environment variable TF_CONFIG: JSON with "
                "'cluster' (the addresses of all workers) and 'task' (this worker's index)."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices(kind)]
        )
    return tf.distribute.get_strategy()


def _listed_processes() -> int:
    """Number of processes that train, by TF_CONFIG; 0 without one."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        return sum(len(cluster.get(job, [])) for job in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"The environment variable TF_CONFIG is not usable: {error}.") from error


def process(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Index of this process, 0 being the chief, and the number of processes that train."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 0, 1
    cluster = resolver.cluster_spec().as_dict()
    chiefs = len(cluster.get("chief", []))
    index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return index, chiefs + len(cluster.get("worker", []))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what is written once: checkpoints, logs, reports."""
    return process(strategy)[0] == 0


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """Number of replicas that this process drives."""
    return strategy.num_replicas_in_sync // process(strategy)[1]


def spread(strategy: tf.distribute.Strategy, batch: np.ndarray | tf.Tensor, rows: int):
    """Give every local replica ``rows`` consecutive rows of this process' batch.

    Parameters
    ----------
    batch : array or tensor
        Has exactly ``rows * local_replicas(strategy)`` rows.
    rows : int
        Rows of one replica.

    Returns
    -------
    The batch itself, where there is one replica, else a value for ``strategy.run``.
    """
    local = local_replicas(strategy)
    if strategy.num_replicas_in_sync == 1:
        return batch

    def part(context):
        start = context.replica_id_in_sync_group % local * rows
        return tf.convert_to_tensor(batch[start : start + rows])

    return strategy.experimental_distribute_values_from_function(part)


def collect(strategy: tf.distribute.Strategy, value) -> np.ndarray:
    """Undo :func:`spread` for the result of ``strategy.run``: rows of this process in order."""
    parts = [np.asarray(part) for part in strategy.experimental_local_results(value)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def sum_over_processes(strategy: tf.distribute.Strategy, table: np.ndarray) -> np.ndarray:
    """Sum of every process' ``table``, all of one shape; each process receives it.

    With rows filled by one process each and 0 elsewhere, this joins them.
    """
    if process(strategy)[1] == 1:
        return table
    local = local_replicas(strategy)

    def part(context):
        first = context.replica_id_in_sync_group % local == 0
        return tf.convert_to_tensor(table if first else np.zeros_like(table))

    value = strategy.experimental_distribute_values_from_function(part)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None).numpy()


def decorrelate_seeds(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Give every replica random numbers of its own (dropout).

    Keras starts all replicas from one seed, so they would drop the same units. Replica 0 keeps
    its seeds, so one device is not affected.
    """
    states = [v.value for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    if strategy.num_replicas_in_sync == 1 or not states:
        return

    @tf.function
    def shift():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            offset = tf.stack([replica * _SEED_STRIDE, 0])
            state.assign(state + tf.cast(offset, state.dtype))

    strategy.run(shift)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and use only operations that repeat bit by bit."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def resolve_precision(name: str = "auto") -> str:
    """Name of the Keras dtype policy for ``--precision``; set it before the model is built.

    ``auto`` is ``mixed_bfloat16`` where the hardware multiplies bfloat16 matrices (a CPU with AMX,
    GPUs of compute capability 8.0 or more), else ``float32``. Weights, gradients and logits are
    float32 under every policy.

    Raises
    ------
    UserError
        If ``mixed_float16`` is asked for without a GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if name == "mixed_float16" and not gpus:
        raise UserError(
            "--precision=mixed_float16 needs a GPU: use mixed_bfloat16, float32 or auto on a CPU."
        )
    fast = all(_capability(gpu) >= (8, 0) for gpu in gpus) if gpus else _cpu_has_amx()
    if name == "auto":
        return "mixed_bfloat16" if fast else "float32"
    if name == "mixed_bfloat16" and not fast:
        logging.warning("This hardware has no bfloat16 matrix units: float32 is faster on it.")
    return name


def _capability(gpu: tf.config.PhysicalDevice) -> tuple[int, int]:
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))


def _cpu_has_amx() -> bool:
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
