"""Stages to trained weights: one loop for one device, several replicas and several processes."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.tuning.stages import Stage

Monitor = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to; numbers start at 0."""

    stage: str
    number: int  # over the whole run
    rate: float  # of a weight with multiplier 1
    loss: float  # training: mean negative log-likelihood over the epoch's batches
    validation_loss: float
    score: float  # monitor(validation probabilities, labels)
    images_per_second: float  # of training alone
    best: bool  # the best score of its stage so far


@dataclasses.dataclass
class History:
    """Every epoch of a run, in order."""

    epochs: list[Epoch] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has at the end: the last stage's best."""
        return [epoch for epoch in self.epochs if epoch.best][-1]


def fit(
    model: keras.Model,
    groups: Mapping[str, Sequence[keras.Layer]],
    stages: Sequence[Stage],
    train: Pipeline,
    validation: Pipeline,
    *,
    monitor: Monitor,
    config: Config,
    run_dir: pathlib.Path,
    strategy: tf.distribute.Strategy | None = None,
    on_epoch_end: Callable[[Epoch], None] | None = None,
) -> History:
    """Train ``model`` in place through ``stages``; each ends with its best epoch's weights.

    ``model`` returns logits and was built under ``strategy.scope()``. Checkpoints go to
    ``run_dir/checkpoints``, TensorBoard logs to ``run_dir/logs``; a run that was interrupted
    resumes after its last whole epoch.
    """
    raise NotImplementedError
