"""``--lr_find``: which learning rate? A range test on the training part.

L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3: the
rate grows from step to step, by one factor, while the loss is watched. Where the loss falls fastest
the rate is large enough, and where it has risen again it is too large. Nothing is kept of the
training itself: the network has its first weights afterwards, and no validation or test image has a
part in it.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.progress import track
from medxfer import data, distribution, experiment, runs, tuning
from medxfer.checkpoints import Checkpoints
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
from medxfer.stage_loop import Progress, Run, StageLoop
from medxfer.studies import auto
from medxfer.tensorboard import Board
from medxfer.tuning.stages import Stage

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
MEMORY = 0.9  # of the moving average of the loss
DIVERGED = 4.0  # times the lowest loss, at which the test ends
SETTLED = 10  # first steps that are left out: the moving average has little to go on
NAME = "lr_find"


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    stage : str
        That was tested.
    rates, losses, smoothed : tuple of float
        By step: the rate, the loss before the step, and its moving average.
    diverged : float or None
        Rate at which training diverged; None if it did not.
    steepest, lowest : float or None
        Rates at which the average falls fastest by the logarithm of the rate, and at which it is
        lowest.
    suggestion : float or None
        The smaller of ``steepest`` and a tenth of ``lowest``; None if the loss never fell.
    """

    stage: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: float | None
    steepest: float | None
    lowest: float | None
    suggestion: float | None


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Moving average with weights that fall by :data:`MEMORY` a step, corrected for its start."""
    found, average = [], 0.0
    for count, loss in enumerate(losses, start=1):
        average = MEMORY * average + (1 - MEMORY) * loss
        found.append(average / (1 - MEMORY**count))
    return np.array(found, np.float64)


def judge(stage: str, rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Read a suggestion from losses by rate, the last one being where the test ended."""
    ended = len(losses) < len(rates) or not math.isfinite(losses[-1])
    diverged = rates[len(losses) - 1] if ended else None
    losses = [loss for loss in losses if math.isfinite(loss)]
    rates, smoothed = rates[: len(losses)], smooth(losses)
    steepest = lowest = suggestion = None
    start = min(SETTLED, len(losses) // 4)
    bottom = start + int(np.argmin(smoothed[start:])) if len(losses) > 3 else start
    if bottom > start:
        slope = np.gradient(smoothed, np.log10(rates))[start : bottom + 1]
        steepest, lowest = rates[start + int(np.argmin(slope))], rates[bottom]
        suggestion = min(steepest, lowest / 10)
    return RangeTest(
        stage,
        tuple(rates),
        tuple(losses),
        tuple(smoothed.tolist()),
        diverged,
        steepest,
        lowest,
        suggestion,
    )


class _Climb(StageLoop):
    """A stage whose steps have one rate after the other."""

    def climb(self, rates: Sequence[float]) -> list[float]:
        """Loss of a batch before the step with each rate, until it diverges."""
        if self._stage.adaptive:
            self._adapt(0)
        losses: list[float] = []
        for rate, (x, y) in zip(
            track(rates, "Trying", len(rates), "rates"), self._endless(), strict=False
        ):
            self._optimizer.learning_rate = rate
            losses.append(float(self._step(x, y)))
            smoothed = smooth([loss for loss in losses if math.isfinite(loss)])
            if not math.isfinite(losses[-1]) or smoothed[-1] > DIVERGED * smoothed.min():
                break
        return losses

    def _endless(self):
        return itertools.chain.from_iterable(map(self._train.epoch, itertools.count()))


def find(
    built: experiment.Built,
    stages: Sequence[Stage],
    train: data.Pipeline,
    *,
    config: Config,
    strategy: tf.distribute.Strategy | None = None,
    rates: Sequence[float] | None = None,
) -> RangeTest:
    """Test the rates of the last stage; the network has the same weights afterwards.

    Where the stages begin with a head that is solved for, it is solved for first, its strength
    being the first that is best on the training images. Other stages before the last are left out.

    Parameters
    ----------
    built : Built
        The network with its first weights.
    stages : sequence of Stage
    train : Pipeline
    config : Config
        As for :func:`medxfer.training.fit`.
    strategy : tf.distribute.Strategy, optional
        Default: one device.
    rates : sequence of float, optional
        By default :data:`STEPS` from :data:`LOWEST` to :data:`HIGHEST`.

    Raises
    ------
    UserError
        If the last stage has no rate, its head being solved for.
    """
    *before, last = stages
    if last.head:
        raise UserError(f"--tune={config.tune} solves for the head: it has no learning rate.")
    if skipped := [stage.name for stage in before if not stage.head]:
        logging.info("The range test is of stage %s; without %s.", last.name, ", ".join(skipped))
    rates = np.geomspace(LOWEST, HIGHEST, STEPS).tolist() if rates is None else list(rates)
    strategy = strategy or distribution.strategy("one")
    kept = [variable.numpy() for variable in built.model.variables]

    def accuracy(probabilities: NDArray, labels: NDArray) -> float:
        called = probabilities >= 0.5 if labels.ndim == 2 else probabilities.argmax(axis=1)
        return float(np.mean(called == labels))

    run = Run(
        built.model,
        built.groups,
        train,
        train,
        accuracy,
        dataclasses.replace(config, cache="none"),
        strategy,
        Checkpoints(pathlib.Path(), writes=False),
        Board(None),
        lambda epoch: None,
    )
    try:
        for stage in before:
            if stage.head:
                StageLoop(run, stage, Progress()).run()
        losses = _Climb(run, last, Progress()).climb(rates)
    finally:
        for variable, value in zip(built.model.variables, kept, strict=True):
            variable.assign(value)
    return judge(last.name, rates, losses)


def command(config: Config, output: pathlib.Path) -> RangeTest:
    """Range test of the run that ``config`` describes; writes JSON and figures to ``output``.

    Raises
    ------
    UserError
        If data, weights or ``config.tune`` cannot be used, or the folder holds something else.
    """
    if config.tune == auto.AUTO:
        raise UserError("--lr_find needs a depth or a strategy: --tune=auto tries several.")
    if output.exists() and not (output / f"{NAME}.json").is_file():
        raise UserError(f"{output} holds something else: give --lr_find another name with --run.")
    folder = experiment.open_data(config)
    experiment.start(config)
    strategy = distribution.strategy(config.distribute)
    with strategy.scope():
        built = experiment.build(config, len(folder.classes))
    stages = tuning.stages_for(config.tune, list(built.groups), config, built.weights.new)
    train = experiment.part(config, folder, built, strategy, "train")
    config = experiment.clamped(config, train.num_examples)
    found = find(built, stages, train, config=config, strategy=strategy)
    if distribution.is_chief(strategy):
        _write(found, config, folder, output)
    return found


def _write(found: RangeTest, config: Config, folder: DatasetFolder, output: pathlib.Path) -> None:
    from medxfer.evaluation import figures

    output.mkdir(parents=True, exist_ok=True)
    figures.save(draw(found, config.base_rate), output / NAME)
    content = {
        **dataclasses.asdict(found),
        "config": experiment.without_paths(config),
        "fingerprint": folder.fingerprint,
    }
    runs.RunFolder(output).write_json(f"{NAME}.json", content)


def draw(found: RangeTest, now: float):
    """Figure of the loss by rate; dots are single batches, ``now`` is the rate of the run."""
    from medxfer.evaluation import figures

    @figures._styled
    def figure() -> figures.Figure:
        figure = figures.Figure(figsize=(figures.WIDTH / 2 + 1, 3.0))
        axes = figure.subplots()
        axes.plot(found.rates, found.losses, ".", color=figures.SKY, markersize=3, label="batch")
        axes.plot(found.rates, found.smoothed, color=figures.BLUE, label="moving average")
        marks = ((now, "now", figures.GREY), (found.suggestion, "suggested", figures.VERMILION))
        for rate, label, color in marks:
            if rate is not None:
                axes.axvline(rate, color=color, linestyle=(0, (4, 2)), linewidth=1,
                             label=f"{label}, {rate:.2g}")  # fmt: skip
        # What lies far above is where it diverged; it must not flatten the rest.
        start = found.smoothed[min(SETTLED, len(found.smoothed) - 1)]
        axes.set(xscale="log", xlabel="Learning rate", ylabel="Training loss",
                 ylim=(0, 2 * max(start, min(found.smoothed))))  # fmt: skip
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return figure

    return figure()


def summary(found: RangeTest, config: Config, output: pathlib.Path) -> str:
    """What the terminal says."""
    if found.suggestion is None:
        words = "The loss never fell: no rate is suggested. Look at the figure."
    else:
        words = (
            f"suggested    --base_rate={found.suggestion:.1g}   (the loss falls fastest at "
            f"{found.steepest:.1g} and is lowest at {found.lowest:.1g})"
        )
    return "\n".join(
        [
            "",
            f"  {words}",
            f"  now          --base_rate={config.base_rate:g}",
            f"  figure       {output / NAME}.png",
            f"  numbers      {output / NAME}.json",
        ]
    )
