"""Where training runs: devices, processes, precision and determinism.

There is one strategy object per process. TensorFlow aborts where a second MirroredStrategy trains
another set of variables ("Shape mismatch in the collective instance", tensorflow/tensorflow#62790).
"""

import contextlib
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

from data_prep import signals
from data_prep.errors import UserError

STRATEGIES = ("auto", "one", "mirrored", "multi_worker")

#: What a collective operation of several processes fails with where one of them is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

#: What names the traffic between processes in TensorFlow's messages.
_BETWEEN = re.compile("collective|nccl|grpc", re.IGNORECASE)

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
        alike on each machine, or every task of SLURM's ``srun``; ask for it before TensorFlow's
        first operation; of one process alone ``mirrored``. ``auto``: ``multi_worker`` if either
        names several processes, else ``mirrored`` if there are several GPUs, else ``one``. Of one
        device alone each is ``one``.

    Raises
    ------
    UserError
        If the name is unknown, or ``multi_worker`` lacks a usable TF_CONFIG.
    """
    if name not in STRATEGIES:
        raise UserError(f"--distribute must be one of {', '.join(STRATEGIES)}. Received: {name}.")
    listed = _listed_processes()
    processes = listed if listed > 1 else max(listed, _slurm_tasks())
    if name == "auto":
        if processes > 1:
            return strategy("multi_worker")
        gpus = len(tf.config.list_physical_devices("GPU"))
        return strategy("mirrored" if gpus > 1 else "one")
    if name == "multi_worker" and not processes:
        raise UserError(
            "--distribute=multi_worker needs the environment variable TF_CONFIG: JSON with "
            "'cluster' (the addresses of all workers) and 'task' (this worker's index), or "
            "several tasks of SLURM's srun."
        )
    if name == "multi_worker" and processes > 1:
        return tf.distribute.MultiWorkerMirroredStrategy(None if listed > 1 else _slurm_cluster())
    if name != "one":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy(devices)
        logging.info("--distribute=%s: there is one device, and training is as on one.", name)
    return tf.distribute.get_strategy()


def _listed_processes() -> int:
    """Number of processes that train, by TF_CONFIG; 0 without one."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        return sum(len(cluster.get(job, [])) for job in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"The environment variable TF_CONFIG is not usable: {error}.") from error


def _slurm_tasks() -> int:
    """Number of tasks that SLURM's ``srun`` started; 0 without it."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(tasks) if tasks.isdigit() and "SLURM_PROCID" in os.environ else 0


def _slurm_cluster() -> slurm.SlurmClusterResolver:
    """Their addresses. The GPUs of a task are those that ``srun`` lets it see (--gpus-per-task)."""
    try:
        # Left to itself the resolver asks nvidia-smi and fails where there is none.
        return slurm.SlurmClusterResolver(
            gpus_per_node=_slurm_tasks(), gpus_per_task=1, auto_set_gpu=False
        )
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"SLURM's variables (SLURM_STEP_...) are not usable: {error}.") from error


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Work of several processes: where one of them dies, the others end, too.

    Raises
    ------
    Terminated
        If another process ended before the block did or cannot be reached: the same command, given
        to all of them, goes on from the last checkpoint.
    """
    try:
        yield
    except _LOST as error:
        if process(strategy)[1] == 1:
            raise
        # A fault of this process' own, as of a graphics library, can have the same type.
        if isinstance(error, tf.errors.InternalError) and not _BETWEEN.search(str(error)):
            raise
        logging.warning("%s", error)
        raise signals.Terminated(
            "Another worker ended or cannot be reached, so this one ends, too; start all of them "
            "again"
        ) from error


@contextlib.contextmanager
def agreed(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """A block that ends well in every process or fails in all; every process waits for all.

    Where one found something for the user to mend, the others must not ask to be started again.

    Raises
    ------
    UserError
        If the block of this or of another process raised one.
    """
    own = None
    try:
        yield
    except UserError as error:
        own = error
    failed = sum_over_processes(strategy, np.array([own is not None], np.float32))
    if own is not None:
        raise own
    if failed.any():
        raise UserError("Another worker cannot take part; what it says itself tells what to mend.")


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


def spread(strategy: tf.distribute.Strategy, batch: np.ndarray | tf.Tensor):
    """Give every local replica its share of this process' batch, rows in order.

    Where the rows cannot be divided, some replicas have one more. Of fewer rows than replicas each
    has all, which leaves every mean as it is: convolutions of no row at all fail in oneDNN.

    Returns
    -------
    The batch itself, where there is one replica, else a value for ``strategy.run``.
    """
    local = local_replicas(strategy)
    if strategy.num_replicas_in_sync == 1:
        return batch

    def part(context):
        place, rows = context.replica_id_in_sync_group % local, len(batch)
        if rows < local:
            return tf.convert_to_tensor(batch)
        return tf.convert_to_tensor(batch[rows * place // local : rows * (place + 1) // local])

    return strategy.experimental_distribute_values_from_function(part)


def spread_rows(strategy: tf.distribute.Strategy, batch: int) -> int:
    """Number of rows that all replicas together have of a global batch, see :func:`spread`."""
    replicas = strategy.num_replicas_in_sync
    return batch * replicas if batch < replicas else batch


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
