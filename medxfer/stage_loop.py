"""One stage of training: its optimizer, its compiled steps, its epochs and its checkpoints."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data_prep import signals
from data_prep.errors import UserError
from data_prep.progress import track
from medxfer import batches, distribution, outputs
from medxfer.checkpoints import Checkpoints
from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.models import _groups
from medxfer.steps import Inference, TensorStatistics, TrainStep
from medxfer.tensorboard import Board
from medxfer.tuning import adaptive, frozen, head
from medxfer.tuning.freezing import freeze
from medxfer.tuning.optimizer import for_stage
from medxfer.tuning.stages import Stage

#: With several processes: steps from one exchange of who was asked to end to the next.
_AGREE = 16

Groups = Mapping[str, Sequence[keras.Layer]]
Monitor = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    stage: str
    number: int  # over the whole run, from 0
    rate: float  # of a weight with multiplier 1
    loss: float  # training: mean over the epoch's batches of what is minimised
    validation_loss: float  # mean negative log-likelihood
    score: float  # monitor(validation probabilities, labels)
    images_per_second: float  # of training alone, over all processes; the first one compiles too
    best: bool  # the best of its stage so far: by score, at equal scores by validation loss
    called: int = 0  # classes that are the most probable one of some validation image
    kept: bool = False  # the best of all stages, whose weights the model has at the end


@dataclasses.dataclass
class Progress:
    """Where a run stands, for its last checkpoint."""

    stage: int = 0
    name: str = ""  # of the stage
    begun: bool = False  # the stage has a checkpoint
    epoch: int = 0  # the next one, within the stage
    step: int = 0  # the next one, within that epoch
    losses: list[float] = dataclasses.field(default_factory=list)  # of its steps so far
    factors: dict[str, float] = dataclasses.field(default_factory=dict)  # of an adaptive stage
    best: str = ""  # name of the checkpoint with the stage's best weights
    score: float = -math.inf  # of the stage's best epoch, and its validation loss
    loss: float = math.inf
    kept: dict = dataclasses.field(default_factory=dict)  # of the stages before: see keep
    waited: int = 0  # epochs since the best one
    history: list[dict] = dataclasses.field(default_factory=list)

    @property
    def frozen(self) -> str:
        """Name of the checkpoint with what is frozen in this stage."""
        return f"stage-{self.stage}"


@dataclasses.dataclass(frozen=True)
class Run:
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
    share: Collection[str] = ()


class StageLoop:
    """One stage: its optimizer, its compiled steps and its epochs."""

    def __init__(self, run: Run, stage: Stage, progress: Progress) -> None:
        config, strategy = run.config, run.strategy
        self._run, self._stage, self._progress = run, stage, progress
        progress.name = stage.name
        freeze(run.groups, stage, synchronized=strategy.num_replicas_in_sync > 1)
        first = next(group for group in run.groups if not stage.frozen(group))
        prefix, suffix = _groups.split_at(run.model, run.groups, first)
        self._solved = self._head_to_solve(prefix) if stage.head else None
        with strategy.scope():
            self._optimizer = optimizer = for_stage(
                run.groups, stage, momentum=config.momentum, weight_decay=config.weight_decay
            )
            if any(layer.compute_dtype == "float16" for layer in suffix.layers):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
                optimizer.build(suffix.trainable_variables)
        self._frozen = [] if prefix is None else prefix.variables
        self._moving = [*suffix.variables, *optimizer.variables]
        self._weights = suffix.weights
        self._best: list[np.ndarray] = []
        self._losses: list[float | tf.Tensor] = []  # of the steps of this epoch
        if progress.begun:
            run.checkpoints.load(progress.frozen, self._frozen)
            run.checkpoints.load("last", self._moving)
            self._best = run.checkpoints.read(progress.best) if progress.best else []
        if progress.begun or not progress.history:
            distribution.decorrelate_seeds(strategy, run.model)

        def before(x):
            return x if prefix is None else prefix(x, training=False)

        self._prefix = prefix
        self._features = features = Inference(strategy, before, config.batch_size)
        parts = {"training": run.train, "validation": run.validation}
        before_first = list(run.groups)[: list(run.groups).index(first)]
        cuts = (_groups.split_at(run.model, run.groups, g) for g in before_first if g in run.share)
        shorter = [part for part, _ in cuts if part is not None]
        found = batches.sources(parts, strategy, config, prefix, features, shorter)
        self._train, self._validation = found["training"], found["validation"]

        kept = self._train.kept

        def enter(x):
            return tf.cast(x, suffix.inputs[0].dtype) if kept else before(x)

        def logits(x):
            return suffix(enter(x), training=False)

        weights = None
        if config.balance == "weights":
            weights = outputs.class_weights(run.train.labels, run.model.output_shape[-1])
        self._step = TrainStep(strategy, suffix, enter, optimizer, self._train.batch, weights)
        if stage.adaptive:
            self._statistics = TensorStatistics(
                strategy, suffix, enter, stage.adaptive.rule, self._train.batch, weights
            )
        self._logits = Inference(strategy, logits, config.batch_size)

    def run(self) -> None:
        """Train until the epochs or the patience end; the model then has the best weights.

        Raises
        ------
        Terminated, KeyboardInterrupt
            If the process was asked to end; a checkpoint then says where to go on.
        """
        stage, progress = self._stage, self._progress
        while progress.epoch < stage.epochs and progress.waited < (stage.patience or math.inf):
            with signals.deferred() as self._asked:
                epoch = self._epoch()
                progress.epoch += 1
                progress.step, progress.losses, self._losses = 0, [], []
                progress.waited += 1
                progress.history.append(dataclasses.asdict(epoch))
                if epoch.best:
                    progress.waited = 0
                    progress.score, progress.loss = epoch.score, epoch.validation_loss
                    progress.best = f"best-{epoch.number}"
                    self._best = [keras.ops.convert_to_numpy(weight) for weight in self._weights]
                self._save()  # before it is told: what is told twice confuses TensorBoard
                self._report(epoch)
                self._run.on_epoch_end(epoch)
                self._end_if_asked()
        for weight, value in zip(self._weights, self._best, strict=True):
            weight.assign(value)

    def keep(self, last: bool) -> None:
        """Keep the weights of the stage, which has ended, if none before it validated better.

        ``last``: no stage follows, so that the model has them anyway.
        """
        progress = self._progress
        before = progress.kept
        if before and (progress.score, -progress.loss) <= (before["score"], -before["loss"]):
            return
        progress.kept = {
            "file": "" if last else f"kept-{progress.stage}",
            "number": int(progress.best.removeprefix("best-")),
            "score": progress.score,
            "loss": progress.loss,
        }
        if not last and not self._run.checkpoints.exists(progress.kept["file"]):
            self._run.checkpoints.save(progress.kept["file"], self._run.model.weights)

    def _end_if_asked(self, count: int = 0) -> None:
        """Save and end if a process was asked to; all processes call this after the same step.

        ``count``: of the step; with several processes, which have to agree, only some are used.
        """
        strategy = self._run.strategy
        ended = self._asked()
        if distribution.process(strategy)[1] > 1:
            if count % _AGREE:
                return
            mine = np.array([ended is not None], np.float32)
            if distribution.sum_over_processes(strategy, mine)[0] and ended is None:
                ended = signals.Terminated()
        if ended is not None:
            self._save()
            raise ended

    def _save(self) -> None:
        """Write a checkpoint. The last file completes it and names the others."""
        progress, checkpoints = self._progress, self._run.checkpoints
        progress.begun, progress.losses = True, [float(value) for value in self._losses]
        for name, arrays in ((progress.frozen, self._frozen), (progress.best, self._best)):
            if name and not checkpoints.exists(name):
                checkpoints.save(name, arrays)
        checkpoints.save("last", self._moving, dataclasses.asdict(progress))
        kept = progress.kept.get("file", "")
        checkpoints.keep_only("last", progress.frozen, progress.best, kept)

    @property
    def _where(self) -> str:
        return f"{self._stage.name} {self._progress.epoch + 1}/{self._stage.epochs}"

    def _epoch(self) -> Epoch:
        """Train and validate once."""
        number, train, progress = len(self._progress.history), self._train, self._progress
        rate, started = 0.0, time.perf_counter()
        if self._solved:
            loss, images = self._solve()
        else:
            rate = self._stage.rate(progress.epoch, self._run.config.gamma)
            self._optimizer.learning_rate = rate
            if not progress.step:
                progress.factors = self._adapt(number) if self._stage.adaptive else {}
            images = (train.steps - progress.step) * train.batch
            loss = self._descend(number, rate)
        seconds = time.perf_counter() - started
        labels, logits = self._validation.labels, self._validation_logits()
        validation_loss = outputs.mean_loss(logits, labels)
        self._require_finite(validation_loss, rate)
        probabilities = np.exp(outputs.log_probabilities(logits, labels.ndim == 2))
        score = float(self._run.monitor(probabilities, labels))
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
            images_per_second=images / seconds,
            best=(score, -validation_loss) > (progress.score, -progress.loss),
            called=len(np.unique(probabilities.argmax(axis=1))),
        )

    def _descend(self, number: int, rate: float) -> float:
        """One pass of gradient steps, or what is left of it; the mean loss."""
        train, progress = self._train, self._progress
        self._losses = list(progress.losses)
        steps = itertools.islice(train.epoch(number), progress.step, None)
        for x, y in track(steps, self._where, train.steps - progress.step, "batches"):
            self._losses.append(self._step(x, y))
            # One step late, so that a GPU has the next one to work on meanwhile.
            self._require_finite(self._losses[-2:][0], rate)
            progress.step += 1
            if self._run.checkpoints.overdue:
                self._save()
            self._end_if_asked(progress.step)
        loss = float(np.mean([float(value) for value in self._losses]))
        self._require_finite(loss, rate)
        return loss

    def _adapt(self, number: int) -> dict[str, float]:
        """Factors of an adaptive stage, from the first batches of the coming epoch."""
        rule, statistics = self._stage.adaptive, self._statistics
        found = [
            statistics(x, y) for x, y in itertools.islice(self._train.epoch(number), rule.batches)
        ]
        leave = adaptive.left(self._run.groups, rule.leave)
        factors = adaptive.factors(rule.rule, statistics.paths, np.stack(found), leave)
        self._optimizer.begin_epoch(factors)
        low, high = min(factors, key=factors.get), max(factors, key=factors.get)
        logging.info(
            "Factors on the rates: %.2g (%s) to %.2g (%s).",
            factors[low], low, factors[high], high,
        )  # fmt: skip
        return factors

    def _head_to_solve(self, prefix: keras.Model | None) -> keras.layers.Dense:
        layer = head.layer_of(list(self._run.groups.values())[-1])
        if prefix is None or len(prefix.output_shape) != 2:
            raise ValueError(f"What precedes {layer.name} is no list of features to solve it for.")
        return layer

    def _solve(self) -> tuple[float, int]:
        """Solve for the head; its training loss, and the number of examples."""
        run = self._run
        train, validation = (
            (self._table(source), source.labels) for source in (self._train, self._validation)
        )
        classes = run.model.output_shape[-1]
        solved = head.solve(
            train, validation, classes, self._stage.head, run.config.balance != "none"
        )
        for variable, value in zip(
            (self._solved.kernel, self._solved.bias), (solved.kernel, solved.bias), strict=True
        ):
            # Every process has solved; all take what the chief found, to the last bit.
            mine = value if distribution.is_chief(run.strategy) else np.zeros_like(value)
            variable.assign(distribution.sum_over_processes(run.strategy, mine))
        logging.info("Head solved by logistic regression, C = %.2g.", solved.strength)
        features, labels = train
        return outputs.mean_loss(solved.logits(features), labels), len(labels)

    def _table(self, source: batches.Source) -> np.ndarray:
        """Features of all examples in front of the head, (N, D)."""
        if source.kept:
            return source.features()
        steps = -(-len(source.labels) // self._run.config.batch_size)

        def rows():
            for indices, x in track(source.ordered(), "features", steps, "batches"):
                yield indices, self._features(x)

        return frozen.in_memory(
            rows,
            (len(source.labels), *self._prefix.output_shape[1:]),
            "float32",
            functools.partial(distribution.sum_over_processes, self._run.strategy),
        )

    def _validation_logits(self) -> np.ndarray:
        """Logits of the validation part, float32 (examples, classes)."""
        shape = len(self._validation.labels), self._run.model.output_shape[-1]
        logits = np.zeros(shape, np.float32)
        steps = -(-len(self._validation.labels) // self._run.config.batch_size)
        ordered = track(self._validation.ordered(), "validation", steps, "batches")
        for count, (rows, x) in enumerate(ordered, 1):
            logits[rows] = self._logits(x)
            self._end_if_asked(count)
        return distribution.sum_over_processes(self._run.strategy, logits)

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
        values |= {f"factor/{path}": value for path, value in self._progress.factors.items()}
        self._run.board.scalars(values, epoch.number)
