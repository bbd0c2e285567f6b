"""Stages to trained weights: one loop for one device, several replicas and several processes.

Keras' ``fit`` fails under MultiWorkerMirroredStrategy, so the loop is written out: a step is one
``strategy.run``, and the same global batch gives the same weights however many replicas share it.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data_prep.errors import UserError
from medxfer import distribution, outputs
from medxfer.checkpoints import Checkpoints
from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.stage_loop import Epoch, Groups, Monitor, Progress, Run, StageLoop
from medxfer.tensorboard import Board
from medxfer.tuning.stages import Stage

_PRIOR = 0.98  # of the loss of class frequencies: above, nothing was learnt


@dataclasses.dataclass
class History:
    """Every epoch of a run, in order."""

    epochs: list[Epoch] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has at the end."""
        # Versions before this one kept the best of the last stage.
        marked = [epoch for epoch in self.epochs if epoch.kept]
        return marked[0] if marked else [epoch for epoch in self.epochs if epoch.best][-1]


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
    share: Collection[str] = (),
) -> History:
    """Train ``model`` in place through ``stages``; it ends with the best epoch's weights.

    Every stage begins with the weights of the best epoch of the one before it. The best epoch of
    all stages is kept: the one with the highest score, at equal scores the least validation loss.

    The loss is the mean negative log-likelihood over the global batch (see :mod:`medxfer.outputs`),
    weighted by class if ``config.balance`` says so; weight decay and penalties are part of the
    update. The rate falls as the stage says, by default by ``config.gamma`` after
    every epoch (Tajbakhsh et al. 2016, section III), counted from the beginning of the stage, and
    training ends where the validation score was highest. Every stage has an optimizer of its own
    that remembers nothing of the one before. Frozen leading layers are computed once and kept, as
    ``config.cache`` says. Moments of batch normalisation, where they are those of the batch, are
    taken over the global batch.

    An interrupted run goes on from the last checkpoint to the same weights as without the
    interruption; a run that came to its end is loaded. A process that is asked to end (SIGTERM)
    writes a checkpoint first, with several processes soon after any of them is asked.

    Parameters
    ----------
    model : keras.Model
        float32 (N, side, side, 3) -> logits (N, classes); built under ``strategy.scope()``.
    groups : mapping of str to sequence of keras.Layer
        Layer groups from input to head; ``trainable`` of their layers is set by each stage.
    stages : sequence of Stage
        Trained one after the other.
    train, validation : Pipeline
        Of this process; labels 0 .. classes - 1, or 0 and 1 for every class.
    monitor : callable
        (probabilities float64 (N, classes), labels int64 (N,) or (N, classes)) of the whole
        validation part -> score, the higher the better.
    config : Config
        ``batch_size`` (global), ``momentum``, ``weight_decay``, ``gamma``, ``balance``, ``cache*``.
    run_dir : pathlib.Path
        Checkpoints go to ``checkpoints/`` in it, TensorBoard logs to ``logs/``. With several
        processes a folder that all of them see; the chief writes.
    strategy : tf.distribute.Strategy, optional
        Default: one device.
    on_epoch_end : callable, optional
        Called with every :class:`Epoch`.
    share : collection of str
        Groups from which later runs will tune: with ``config.cache`` on disk, what enters them is
        kept as well if the frozen layers are computed.

    Raises
    ------
    ValueError
        If a stage's rates and the groups do not match, or a head is to be solved for that is more
        than one dense layer.
    UserError
        If training diverges, the score is not a number, labels are no classes, or checkpoints
        belong to another run or are not shared.
    Terminated
        If the process was asked to end.
    """
    strategy = strategy or distribution.strategy("one")
    for stage in stages:
        stage.check(groups)
    chief = distribution.is_chief(strategy)
    checkpoints = Checkpoints(run_dir / "checkpoints", writes=chief)
    finished = checkpoints.finished(model)
    progress = _resume(checkpoints, stages) if finished is None else Progress(history=finished)
    _require_same(strategy, progress, run_dir)
    if finished is not None:
        logging.info("Training had come to its end: its weights are loaded from %s.", run_dir)
        return History([Epoch(**epoch) for epoch in finished])
    board = Board(run_dir / "logs" if chief else None)
    run = Run(
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
        share,
    )
    _check(run)
    while progress.stage < len(stages):
        loop = StageLoop(run, stages[progress.stage], progress)
        loop.run()
        loop.keep(last=progress.stage + 1 == len(stages))
        del loop  # its arrays, before the next one has its own
        progress = Progress(progress.stage + 1, history=progress.history, kept=progress.kept)
    if earlier := progress.kept["file"]:
        checkpoints.load(earlier, model.weights)
    best = progress.history[progress.kept["number"]]
    best["kept"] = True
    logging.info(
        "The weights of epoch %d are kept (%s): score %.4f, validation loss %.4f.",
        best["number"] + 1, best["stage"], best["score"], best["validation_loss"],
    )  # fmt: skip
    checkpoints.finish(model, progress.history)
    board.close()
    return History([Epoch(**epoch) for epoch in progress.history])


def doubts(
    history: History,
    stages: Sequence[Stage],
    train: np.ndarray,
    validation: np.ndarray,
    config: Config,
    classes: int,
) -> list[str]:
    """What in the course of a training says that its result may not be what it seems.

    Parameters
    ----------
    history : History
    stages : sequence of Stage
    train, validation : int64 arrays of shape (N,) or (N, classes)
        Labels of both parts.
    config : Config
        ``balance`` and ``epochs`` are used.
    classes : int
    """
    found = []
    prior = outputs.prior_loss(train, classes, config.balance != "none")
    unseen = outputs.prior_loss(validation, classes)
    learnt = any(
        epoch.loss < _PRIOR * prior or epoch.validation_loss < _PRIOR * unseen
        for epoch in history.epochs
    )
    if not learnt and prior and unseen:
        found.append(
            f"the loss never fell clearly below {prior:.3f}, that of class frequencies alone: the "
            "network has learnt nothing from the images; try --lr_find, another --base_rate or "
            "another --init"
        )
    best = history.best
    if validation.ndim == 1 and best.called == 1:
        found.append(
            "all validation images are called the same class: thresholds, accuracy and "
            "probabilities of this network are not to be relied on"
        )
    own = [epoch for epoch in history.epochs if epoch.stage == best.stage]
    stage = next(stage for stage in stages if stage.name == best.stage)
    if best.number == history.epochs[-1].number and len(own) == stage.epochs > 1:
        found.append(
            f"the last of {len(history.epochs)} epochs was the best: more --epochs may help"
        )
    return found


def _check(run: Run) -> None:
    """Raise UserError for data that this network cannot train on."""
    classes = run.model.output_shape[-1]
    for part in (run.train, run.validation):
        highest = classes - 1 if part.labels.ndim == 1 else 1
        if part.labels.min() < 0 or part.labels.max() > highest:
            raise UserError(
                f"Labels must be 0 to {highest}, for {classes} classes. Received: "
                f"{part.labels.min()} to {part.labels.max()}. Prepare the data again."
            )
    processes, count = distribution.process(run.strategy)[1], run.train.num_examples
    if processes > 1 and min(count, run.config.batch_size) < run.strategy.num_replicas_in_sync:
        raise UserError(
            f"{count} training examples in batches of {run.config.batch_size} are too few for "
            f"{run.strategy.num_replicas_in_sync} devices of {processes} processes: use fewer."
        )
    counts = outputs.class_counts(run.train.labels, classes)
    if absent := [str(index) for index in np.flatnonzero(counts == 0)]:
        logging.warning(
            "No training image shows class %s (counted from 0): the network cannot learn %s. Is "
            "--fraction too small?",
            ", ".join(absent),
            "it" if len(absent) == 1 else "them",
        )


def _resume(checkpoints: Checkpoints, stages: Sequence[Stage]) -> Progress:
    """Where the last checkpoint stands."""
    if not checkpoints.exists("last"):
        return Progress()
    progress = Progress(**checkpoints.meta("last"))
    if progress.stage >= len(stages) or stages[progress.stage].name != progress.name:
        raise UserError(
            f"{checkpoints.folder} belongs to a run of other stages (it stands in "
            f"{progress.name}). Give this run another name with --run."
        )
    logging.info(
        "Going on in stage %s after epoch %d, step %d.",
        progress.name, progress.epoch, progress.step,
    )  # fmt: skip
    return progress


def _require_same(
    strategy: tf.distribute.Strategy, progress: Progress, run_dir: pathlib.Path
) -> None:
    """Raise UserError unless all processes stand at the same place: they would wait for ever."""
    place = np.array([len(progress.history), progress.step], np.float32)
    total = distribution.sum_over_processes(strategy, place)
    if np.any(total != place * distribution.process(strategy)[1]):
        raise UserError(
            f"The processes find different checkpoints in {run_dir}: give --output a folder that "
            "all machines share."
        )
