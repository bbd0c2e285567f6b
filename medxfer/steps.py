"""What is compiled: a training step, inference, and statistics of gradients.

All take this process' rows of a global batch and divide them among its replicas. Inference pads a
batch that is smaller, so that it is traced once, and leaves out what the padding yields; steps of
training never pad, for a row more would enter the moments of batch normalisation.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from medxfer import distribution
from medxfer.tuning import adaptive

Batch = np.ndarray | tf.Tensor


class Inference:
    """``forward`` on batches, without training.

    Parameters
    ----------
    strategy : tf.distribute.Strategy
    forward : callable
        Network input (rows, ...) -> tensor (rows, ...).
    batch : int
        Number of examples of a full global batch.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        forward: Callable[[tf.Tensor], tf.Tensor],
        batch: int,
    ) -> None:
        def run(x):
            return strategy.run(lambda x: tf.cast(forward(x), tf.float32), args=(x,))

        self.compiled = _compile(run)
        self._strategy = strategy
        self._batch = batch

    def __call__(self, x: Batch) -> np.ndarray:
        """Result for this process' rows, float32 (rows, ...); no other process need take part."""
        rows = -(-self._batch // self._strategy.num_replicas_in_sync)
        missing = rows * distribution.local_replicas(self._strategy) - len(x)
        padding = tf.zeros((missing, *x.shape[1:]), x.dtype)
        parts = distribution.spread(self._strategy, tf.concat([x, padding], axis=0))
        return distribution.collect(self._strategy, self.compiled(parts))[: len(x)]


class TrainStep:
    """Forward, backward, update.

    Parameters
    ----------
    strategy : tf.distribute.Strategy
        Under which network and optimizer were made.
    network : keras.Model
        The layers that may move; logits (rows, classes).
    enter : callable
        What precedes ``network``, outside the gradient: batch -> its input.
    optimizer : keras.optimizers.Optimizer
        Built on the trainable variables of ``network``: what the step moves.
    batch : int
        Number of examples of a global batch.
    weights : ndarray, optional
        Of the classes, (C,), or of absent and present labels, (C, 2).
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        enter: Callable[[tf.Tensor], tf.Tensor],
        optimizer: keras.optimizers.Optimizer,
        batch: int,
        weights: np.ndarray | None = None,
    ) -> None:
        variables = network.trainable_variables
        update = _update(strategy, optimizer, variables)
        moved = [variable.value for variable in variables]

        rows = distribution.spread_rows(strategy, batch)

        def step(x, y):
            x = enter(x)
            with tf.GradientTape() as tape:
                loss = _loss(network(x, training=True), y, weights) / rows
                target = optimizer.scale_loss(loss)
            update(tape.gradient(target, moved))
            return loss

        def run(x, y):
            losses = strategy.run(step, args=(x, y))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

        self.compiled = _compile(run)
        self._strategy = strategy

    def __call__(self, x: Batch, y: Batch) -> tf.Tensor:
        """Move the weights once; the loss of the global batch before that, see :func:`_loss`."""
        return self.compiled(*(distribution.spread(self._strategy, part) for part in (x, y)))


class TensorStatistics:
    """One number for every tensor that may move, from the gradient of one batch.

    Parameters
    ----------
    strategy, network, enter, batch, weights
        As in :class:`TrainStep`; ``network`` runs in training mode.
    rule : str
        As in :func:`medxfer.tuning.adaptive.statistic`.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        enter: Callable[[tf.Tensor], tf.Tensor],
        rule: str,
        batch: int,
        weights: np.ndarray | None = None,
    ) -> None:
        variables = network.trainable_variables
        moved = [variable.value for variable in variables]

        rows = distribution.spread_rows(strategy, batch)

        def step(x, y):
            x = enter(x)
            with tf.GradientTape() as tape:
                loss = _loss(network(x, training=True), y, weights) / rows
            gradients = tape.gradient(loss, moved)
            if strategy.num_replicas_in_sync > 1:
                replica = tf.distribute.get_replica_context()
                gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            pairs = zip(gradients, variables, strict=True)
            return tf.stack([adaptive.statistic(rule, g, v) for g, v in pairs])

        def run(x, y):
            return strategy.run(step, args=(x, y))

        self.paths = [variable.path for variable in variables]
        self.compiled = _compile(run)
        self._strategy = strategy

    def __call__(self, x: Batch, y: Batch) -> np.ndarray:
        """Statistics of the global batch, float32 (tensors,), in the order of ``paths``."""
        found = self.compiled(*(distribution.spread(self._strategy, part) for part in (x, y)))
        # The gradients were summed, so all replicas found the same.
        return np.asarray(self._strategy.experimental_local_results(found)[0])


def _compile(run: Callable) -> Callable:
    # TensorFlow tells functions apart by their code, so it would take those of several stages for
    # one that is traced again and again, and warn; a partial has no code.
    return tf.function(functools.partial(run))


def _loss(logits: tf.Tensor, labels: tf.Tensor, weights: np.ndarray | None = None) -> tf.Tensor:
    """Sum of -ln p(label) over the rows, weighted by class; float32.

    Labels are class indices (rows,), or 0 and 1 for every class (rows, C), then summed over classes
    too; see :mod:`medxfer.outputs`.
    """
    logits = tf.cast(logits, tf.float32)
    if len(labels.shape) == 1:
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        factors = None if weights is None else tf.gather(weights, labels)
    else:
        present = tf.cast(labels, tf.float32)
        values = tf.nn.sigmoid_cross_entropy_with_logits(labels=present, logits=logits)
        factors = None if weights is None else tf.where(labels > 0, weights[:, 1], weights[:, 0])
    if factors is not None:
        values *= factors
    return tf.reduce_sum(values)


def _update(
    strategy: tf.distribute.Strategy,
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
) -> Callable[[list[tf.Tensor]], None]:
    """Function of the gradients that moves ``variables``.

    The update of tens of millions of weights is bound by memory, and XLA makes one pass of it where
    single operations make many. It is used on the CPU, for one replica; other devices are fast
    enough, and the gradients of several replicas are summed on the way.
    """

    def update(gradients):
        optimizer.apply(gradients, variables)

    simple = strategy.num_replicas_in_sync == 1 and not isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    )
    if simple and not tf.config.list_physical_devices("GPU") and _xla_works():
        return tf.function(update, jit_compile=True)
    return update


@functools.cache
def _xla_works() -> bool:
    try:
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    except tf.errors.OpError as error:
        logging.info("Weights are updated without XLA, which is not available here: %s", error)
        return False
    return True
