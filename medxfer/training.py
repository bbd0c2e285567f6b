"""Stages to trained weights: one loop for one device, several replicas and several processes.

Keras' ``fit`` fails under MultiWorkerMirroredStrategy, so the loop is written out: a step is one
``strategy.run``, and the same global batch gives the same weights however many replicas share it
(batch normalisation apart, whose training statistics are those of a replica's part).
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from scipy import special

from data_prep.errors import UserError
from medxfer import batches, distribution
from medxfer.checkpoints import Checkpoints
from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.models import _groups
from medxfer.steps import Inference, TrainStep
from medxfer.tensorboard import Board
from medxfer.tuning.optimizer import for_stage
from medxfer.tuning.stages import Stage

Groups = Mapping[str, Sequence[keras.Layer]]
Monitor = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    stage: str
    number: int  # over the whole run, from 0
    rate: float  # of a weight with multiplier 1
    loss: float  # training: mean negative log-likelihood over the epoch's batches
    validation_loss: float
    score: float  # monitor(validation probabilities, labels)
    images_per_second: float  # of training alone, over all processes; the first one compiles too
    best: bool  # the best score of its stage so far


@dataclasses.dataclass
class History:
    """Every epoch of a run, in order."""

    epochs: list[Epoch] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has at the end: the last stage's best."""
        return [epoch for epoch in self.epochs if epoch.best][-1]


@dataclasses.dataclass
class _Progress:
    """Where a run stands, for its last checkpoint."""

    stage: int = 0
    epoch: int = 0  # the next one, within the stage
    best: str = ""  # name of the checkpoint with the stage's best weights
    score: float = -math.inf
    waited: int = 0  # epochs since the best one
    history: list[dict] = dataclasses.field(default_factory=list)

    @property
    def frozen(self) -> str:
        """Name of the checkpoint with what is frozen in this stage."""
        return f"stage-{self.stage}"


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same over the stages of a run."""

    model: keras.Model
    groups: Groups
    train: Pipeline
    validation: Pipeline
    monitor: Monitor
    config: Config
    strategy: tf.distribute.Strategy
    checkpoints: Checkpoints
    board: Board
    on_epoch_end: Callable[[Epoch], None]


def fit(
    model: keras.Model,
    groups: Groups,
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

    The loss is the mean negative log-likelihood over the global batch; weight decay is part of the
    update. The rate falls by ``config.gamma`` after every epoch (Tajbakhsh et al. 2016, section
    III), counted from the beginning of the stage, and training ends where the validation score was
    highest. Frozen leading layers are computed once and kept, as ``config.cache`` says.

    An interrupted run goes on from the last checkpoint, written after a whole epoch, to the same
    weights as without the interruption; a run that came to its end is loaded.

    Parameters
    ----------
    model : keras.Model
        float32 (N, side, side, 3) -> logits (N, classes); built under ``strategy.scope()``.
    groups : mapping of str to sequence of keras.Layer
        Layer groups from input to head; ``trainable`` of their layers is set by each stage.
    stages : sequence of Stage
        Trained one after the other.
    train, validation : Pipeline
        Of this process; labels 0 .. classes - 1.
    monitor : callable
        (probabilities float64 (N, classes), labels int64 (N,)) of the whole validation part ->
        score, the higher the better.
    config : Config
        ``batch_size`` (global), ``momentum``, ``weight_decay``, ``gamma`` and ``cache*``.
    run_dir : pathlib.Path
        Checkpoints go to ``checkpoints/`` in it, TensorBoard logs to ``logs/``. With several
        processes a folder that all of them see; the chief writes.
    strategy : tf.distribute.Strategy, optional
        Default: one device.
    on_epoch_end : callable, optional
        Called with every :class:`Epoch`.

    Raises
    ------
    ValueError
        If a stage's rates and the groups do not match.
    UserError
        If training diverges, the score is not a number, the batch cannot be divided among the
        replicas, labels are no classes, or checkpoints belong to another run or are not shared.
    """
    strategy = strategy or distribution.strategy("one")
    for stage in stages:
        stage.check(groups)
    chief = distribution.is_chief(strategy)
    checkpoints = Checkpoints(run_dir / "checkpoints", writes=chief)
    finished = checkpoints.finished(model)
    progress = _resume(checkpoints, stages) if finished is None else _Progress(history=finished)
    _require_same(strategy, progress, run_dir)
    if finished is not None:
        logging.info("Training had come to its end: its weights are loaded from %s.", run_dir)
        return History([Epoch(**epoch) for epoch in finished])
    board = Board(run_dir / "logs" if chief else None)
    run = _Run(
        model,
        groups,
        train,
        validation,
        monitor,
        config,
        strategy,
        checkpoints,
        board,
        on_epoch_end or (lambda epoch: None),
    )
    _check(run)
    while progress.stage < len(stages):
        _StageLoop(run, stages[progress.stage], progress).run()
        progress = _Progress(stage=progress.stage + 1, history=progress.history)
    checkpoints.finish(model, progress.history)
    board.close()
    return History([Epoch(**epoch) for epoch in progress.history])


def _check(run: _Run) -> None:
    """Raise UserError for data that this network and these replicas cannot train on."""
    classes = run.model.output_shape[-1]
    for part in (run.train, run.validation):
        if part.labels.min() < 0 or part.labels.max() >= classes:
            raise UserError(
                f"Labels must be 0 to {classes - 1}, for {classes} classes. Received: "
                f"{part.labels.min()} to {part.labels.max()}. Prepare the data again."
            )
    train, config = run.train, run.config
    replicas = run.strategy.num_replicas_in_sync
    if config.batch_size % replicas or train.num_examples < replicas:
        raise UserError(
            f"--batch_size must be a multiple of the number of replicas, {replicas}, and there "
            f"must be as many training examples. Received: --batch_size={config.batch_size}, "
            f"{train.num_examples} examples."
        )


def _resume(checkpoints: Checkpoints, stages: Sequence[Stage]) -> _Progress:
    """Where the last checkpoint stands."""
    if not checkpoints.exists("last"):
        return _Progress()
    progress = _Progress(**checkpoints.meta("last"))
    name = progress.history[-1]["stage"]
    if progress.stage >= len(stages) or stages[progress.stage].name != name:
        raise UserError(
            f"{checkpoints.folder} belongs to a run of other stages (it stands in {name}). "
            "Give this run another name with --run."
        )
    logging.info("Going on after epoch %d of stage %s.", progress.epoch, name)
    return progress


def _require_same(
    strategy: tf.distribute.Strategy, progress: _Progress, run_dir: pathlib.Path
) -> None:
    """Raise UserError unless all processes stand at the same place: they would wait for ever."""
    epochs = len(progress.history)
    total = distribution.sum_over_processes(strategy, np.array([epochs], np.float32))[0]
    if total != epochs * distribution.process(strategy)[1]:
        raise UserError(
            f"The processes find different checkpoints in {run_dir}: give --output a folder that "
            "all machines share."
        )


class _StageLoop:
    """One stage: its optimizer, its compiled steps and its epochs."""

    def __init__(self, run: _Run, stage: Stage, progress: _Progress) -> None:
        config, strategy = run.config, run.strategy
        self._run, self._stage, self._progress = run, stage, progress
        for group, layers in run.groups.items():
            for layer in layers:
                layer.trainable = not stage.frozen(group)
        first = next(group for group in run.groups if not stage.frozen(group))
        prefix, suffix = _groups.split_at(run.model, run.groups, first)
        with strategy.scope():
            self._sgd = optimizer = for_stage(
                run.groups, stage, momentum=config.momentum, weight_decay=config.weight_decay
            )
            if any(layer.compute_dtype == "float16" for layer in suffix.layers):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
                optimizer.build(suffix.trainable_variables)
        self._frozen = [] if prefix is None else prefix.variables
        self._moving = [*suffix.variables, *optimizer.variables]
        self._weights = suffix.weights
        self._best: list[np.ndarray] = []
        if progress.epoch:
            run.checkpoints.load(progress.frozen, self._frozen)
            run.checkpoints.load("last", self._moving)
            self._best = run.checkpoints.read(progress.best)
        if progress.epoch or not progress.history:
            distribution.decorrelate_seeds(strategy, run.model)

        def before(x):
            return x if prefix is None else prefix(x, training=False)

        features = Inference(strategy, before, config.batch_size)
        parts = {"training": run.train, "validation": run.validation}
        found = batches.sources(parts, strategy, config, prefix, features)
        self._train, self._validation = found["training"], found["validation"]

        kept = self._train.features is not None

        def enter(x):
            return tf.cast(x, suffix.inputs[0].dtype) if kept else before(x)

        def logits(x):
            return suffix(enter(x), training=False)

        self._step = TrainStep(strategy, suffix, enter, optimizer, self._train.batch)
        self._logits = Inference(strategy, logits, config.batch_size)

    def run(self) -> None:
        """Train until the epochs or the patience end; the model then has the best weights."""
        stage, progress = self._stage, self._progress
        while progress.epoch < stage.epochs and progress.waited < (stage.patience or math.inf):
            epoch = self._epoch()
            progress.epoch += 1
            progress.waited += 1
            progress.history.append(dataclasses.asdict(epoch))
            if epoch.best:
                progress.waited, progress.score = 0, epoch.score
                progress.best = f"best-{epoch.number}"
                self._best = [keras.ops.convert_to_numpy(weight) for weight in self._weights]
            if self._run.checkpoints.due:
                self._save()
            self._report(epoch)
            self._run.on_epoch_end(epoch)
        for weight, value in zip(self._weights, self._best, strict=True):
            weight.assign(value)

    def _save(self) -> None:
        """Write a checkpoint. The last file completes it and names the others."""
        progress, checkpoints = self._progress, self._run.checkpoints
        for name, arrays in ((progress.frozen, self._frozen), (progress.best, self._best)):
            if not checkpoints.exists(name):
                checkpoints.save(name, arrays)
        checkpoints.save("last", self._moving, dataclasses.asdict(progress))
        checkpoints.keep_only("last", progress.frozen, progress.best)

    @property
    def _where(self) -> str:
        return f"{self._stage.name} {self._progress.epoch + 1}/{self._stage.epochs}"

    def _epoch(self) -> Epoch:
        """Train and validate once."""
        number, train = len(self._progress.history), self._train
        rate = self._stage.rate(self._progress.epoch, self._run.config.gamma)
        self._sgd.learning_rate = rate
        losses, started = [], time.perf_counter()
        for x, y in batches.bar(train.epoch(number), self._where, train.steps):
            losses.append(self._step(x, y))
            # One step late, so that a GPU has the next one to work on meanwhile.
            self._require_finite(losses[-2:][0], rate)
        loss = float(np.mean([float(value) for value in losses]))
        self._require_finite(loss, rate)
        seconds = time.perf_counter() - started
        labels, log_p = self._validation.labels, self._log_probabilities()
        validation_loss = -float(np.mean(log_p[np.arange(len(labels)), labels]))
        self._require_finite(validation_loss, rate)
        score = float(self._run.monitor(np.exp(log_p), labels))
        if math.isnan(score):
            raise UserError(
                "The validation score is not a number: the validation part needs examples of "
                "every class. Prepare the data with more subjects in it."
            )
        return Epoch(
            stage=self._stage.name,
            number=number,
            rate=rate,
            loss=loss,
            validation_loss=validation_loss,
            score=score,
            images_per_second=train.steps * train.batch / seconds,
            best=score > self._progress.score,
        )

    def _log_probabilities(self) -> np.ndarray:
        """Logarithms of the validation probabilities, float64 (examples, classes)."""
        shape = len(self._validation.labels), self._run.model.output_shape[-1]
        logits = np.zeros(shape, np.float32)
        steps = -(-len(self._validation.labels) // self._run.config.batch_size)
        for rows, x in batches.bar(self._validation.ordered(), "validation", steps):
            logits[rows] = self._logits(x)
        logits = distribution.sum_over_processes(self._run.strategy, logits)
        return special.log_softmax(logits.astype(np.float64), axis=1)

    def _require_finite(self, loss: float | tf.Tensor, rate: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"Training diverged in epoch {self._where}: the loss is {float(loss)} at a base "
                f"rate of {rate:.2g}. Try --base_rate={rate / 10:.1g} or --precision=float32."
            )

    def _report(self, epoch: Epoch) -> None:
        """One line for people, and the curves."""
        logging.info(
            "%s %d: loss %.4f, validation loss %.4f, score %.4f%s, rate %.2g, %.0f images/s",
            epoch.stage,
            self._progress.epoch,
            epoch.loss,
            epoch.validation_loss,
            epoch.score,
            " (best)" if epoch.best else "",
            epoch.rate,
            epoch.images_per_second,
        )
        values = {
            "loss/training": epoch.loss,
            "loss/validation": epoch.validation_loss,
            "score/validation": epoch.score,
            "images_per_second": epoch.images_per_second,
        }
        for group, multiplier in self._stage.multipliers.items():
            values[f"rate/{group}"] = epoch.rate * multiplier
        self._run.board.scalars(values, epoch.number)
