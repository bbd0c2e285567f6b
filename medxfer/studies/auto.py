"""``--tune=auto``: how deep to tune, found on the validation part alone.

Tajbakhsh et al. 2016, section V, recommend incremental fine-tuning: begin with the last layer and
tune one more at a time for as long as it helps. Here "helps" is a test on the validation subjects:

1. Every depth is trained from the same pre-trained weights, the head first; those that are the
   same training, because what is new is trained at any depth, once.
2. A deeper one takes the place of the depth chosen so far if its validation score is higher by
   more than its noise: the interval of the difference, by bootstrap over the validation subjects
   with the same draws for both, lies above 0.
3. The search ends after :data:`PATIENCE` depths in a row that did not, or with the first layer.

The run then has the chosen depth's weights, those of the epoch with the best validation score. No
test example is read. The noise is that of the subjects; another seed would add its own.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence

import keras
import numpy as np
from absl import logging
from numpy.typing import NDArray

from data_prep.errors import UserError
from medxfer import data, distribution, outputs, training, tuning
from medxfer.config import Config
from medxfer.evaluation import family as families
from medxfer.evaluation import resampling
from medxfer.evaluation.intervals import Interval
from medxfer.runs import RunFolder
from medxfer.steps import Inference

AUTO = "auto"
PATIENCE = 2
FEW = 5  # validation subjects: with fewer Student's t is beyond 2.8 standard errors
LEVEL = 0.95
DRAWS = 1000

Monitor = Callable[[NDArray[np.float64], NDArray[np.int64]], float]


@dataclasses.dataclass(frozen=True)
class Step:
    """One depth that was tried.

    Attributes
    ----------
    depth : str
    score : float
        On the validation part.
    gain : Interval or None
        Over the depth chosen before it; None for the first.
    accepted : bool
    """

    depth: str
    score: float
    gain: Interval | None
    accepted: bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the search came to.

    Attributes
    ----------
    depth : str
    path : tuple of Step
        Every depth that was tried, in order.
    reason : str
        Why the search ended.
    """

    depth: str
    path: tuple[Step, ...]
    reason: str

    def to_json(self) -> dict:
        """Plain values for the run card."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping) -> "Choice":
        """Undo :meth:`to_json`."""
        path = [
            Step(**{**step, "gain": step["gain"] and Interval(**step["gain"])})
            for step in content["path"]
        ]
        return cls(content["depth"], tuple(path), content["reason"])


def search(
    depths: Sequence[str],
    probabilities: Callable[[str], NDArray[np.float64]],
    labels: NDArray[np.int64],
    subjects: Sequence[str],
    monitor: Monitor,
    *,
    patience: int = PATIENCE,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Choice:
    """Choose a depth.

    Parameters
    ----------
    depths : sequence of str
        From the head to the first layer.
    probabilities : callable
        Trains a depth and gives the class probabilities (N, classes) of the validation part.
    labels : int64 array of shape (N,)
    subjects : sequence of N str
        Of the validation part.
    monitor : callable
        Score of probabilities and labels, the higher the better.
    patience : int
        Depths in a row without a gain after which the search ends.
    level, draws, seed : float, int, int
        Of the bootstrap.
    """
    chosen, best, steps, waited = "", None, [], 0
    count = len(set(subjects))
    if count < FEW:
        logging.warning(
            "With %d validation subjects a gain must be very large to exceed their noise: data "
            "prepared with more of them (--validation_fraction) let --tune=auto see smaller ones.",
            count,
        )
    reason = "the first layer was reached"
    for depth in depths:
        found = probabilities(depth)
        score = monitor(found, labels)
        if best is None:
            gain, accepted = None, True
        else:
            gain = difference(best, found, labels, subjects, monitor, level, draws, seed)
            accepted = gain.low > 0
        steps.append(Step(depth, float(score), gain, accepted))
        logging.info("%s: validation score %.4f%s.", depth, score, _words(gain, chosen, accepted))
        if accepted:
            chosen, best, waited = depth, found, 0
        else:
            waited += 1
        if waited >= patience:
            reason = (
                f"{waited} deeper settings in a row gained no more than the noise of {count} "
                "validation subjects"
            )
            break
    if cautions := {step.gain.caution for step in steps if step.gain and step.gain.caution}:
        reason += f" ({'; '.join(sorted(cautions))})"
    return Choice(chosen, tuple(steps), reason)


def difference(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    labels: NDArray[np.int64],
    subjects: Sequence[str],
    monitor: Monitor,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Score of ``after`` minus that of ``before``, with its interval by bootstrap over subjects.

    The monitor is a function of examples, not of weights, so drawn subjects are repeated. A draw in
    which it has no value (one class only) is left out. With a single subject there is no noise to
    be known, and the interval is NaN.
    """
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    estimate = monitor(after, labels) - monitor(before, labels)
    values = []
    rows_of = [np.flatnonzero(member == place) for place in range(len(names))]
    classes = np.unique(labels)
    for block in resampling.counts(len(names), draws, seed) if len(names) > 1 else ():
        for counts in block:
            rows = np.concatenate(
                [np.tile(rows_of[place], counts[place]) for place in np.flatnonzero(counts)]
            )
            whole = np.array_equal(np.unique(labels[rows]), classes)
            pair = (
                [monitor(part[rows], labels[rows]) for part in (after, before)]
                if whole
                else [np.nan, np.nan]
            )
            values.append(pair[0] - pair[1])
    drawn = np.array(values, np.float64)[:, None] if values else np.full((1, 1), np.nan)
    sample = resampling.Drawn(np.array([estimate], np.float64), drawn, len(names))
    return families.student(sample.of([(-1.0, 1.0)]), level)[0]  # of two areas


def _words(gain: Interval | None, chosen: str, accepted: bool) -> str:
    if gain is None:
        return ""
    verdict = "deeper is better" if accepted else "no more than noise"
    numbers = f"{gain.estimate:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    return f", {numbers} over {chosen}: {verdict}"


def fit(
    build: Callable[[], object],
    train: data.Pipeline,
    validation: data.Pipeline,
    *,
    monitor: Monitor,
    config: Config,
    run_dir: pathlib.Path,
    strategy=None,
    share: Collection[str] = (),
) -> tuple[object, training.History, Sequence[tuning.Stage], Choice]:
    """Search, and leave the chosen depth's training in ``run_dir`` as if it had been asked for.

    The search of an interrupted run goes on where it stood: depths that were trained are loaded.
    When it has ended, ``search.json`` holds its path, and the other depths' weights are deleted.

    Parameters
    ----------
    build : callable
        Makes the network anew with its first weights: an object with ``model``, ``groups`` and
        ``weights.new``, such as :class:`medxfer.experiment.Built`.
    train, validation : Pipeline
    monitor, config, run_dir, strategy, share
        As for :func:`medxfer.training.fit`; depths are kept in ``run_dir/search``.

    Returns
    -------
    built, history, stages, choice
        The network with the chosen weights, its training, its stages, and the path of the search.

    Raises
    ------
    UserError
        If there are too few validation subjects to know the noise.
    """
    if len(set(validation.subjects)) < 2:
        raise UserError(
            "--tune=auto needs at least 2 validation subjects to tell a gain from noise: prepare "
            "the data with more, or name a depth."
        )
    strategy = strategy or distribution.strategy("one")
    made: dict[str, tuple] = {}

    def trained(depth: str, place: pathlib.Path) -> tuple:
        built = build()
        names = list(built.groups)
        stages = tuning.stages_for(depth, names, config, built.weights.new)
        history = training.fit(
            built.model, built.groups, stages, train, validation, monitor=monitor, config=config,
            run_dir=place, strategy=strategy, share=share,
        )  # fmt: skip
        return built, history, stages

    def probabilities(depth: str) -> NDArray[np.float64]:
        made.clear()  # one network at a time
        made[depth] = trained(depth, run_dir / "search" / depth)
        return predict(made[depth][0].model, validation, config, strategy)

    ended = run_dir / "search.json"
    if ended.is_file():
        choice = Choice.from_json(json.loads(ended.read_text()))
        if distribution.is_chief(strategy):
            shutil.rmtree(run_dir / "search", ignore_errors=True)  # killed before it was gone
        return *trained(choice.depth, run_dir), choice
    first = build()
    depths = list(tuning.distinct(list(first.groups), first.weights.new))
    del first
    choice = search(
        depths, probabilities, validation.labels, validation.subjects, monitor, seed=config.seed
    )
    logging.info("Depth %s is chosen: %s.", choice.depth, choice.reason)
    found = made.get(choice.depth) or trained(choice.depth, run_dir / "search" / choice.depth)
    if distribution.is_chief(strategy):
        for name in ("checkpoints", "logs"):
            source = run_dir / "search" / choice.depth / name
            shutil.copytree(source, run_dir / name, dirs_exist_ok=True)
        RunFolder(run_dir).write_json(ended.name, choice.to_json())
        shutil.rmtree(run_dir / "search")
    return *found, choice


def predict(
    model: keras.Model, pipeline: data.Pipeline, config: Config, strategy
) -> NDArray[np.float64]:
    """Class probabilities of all examples in stream order, float64 (N, classes)."""
    forward = Inference(strategy, lambda x: model(x, training=False), config.batch_size)
    logits = np.zeros((pipeline.num_examples, model.output_shape[-1]), np.float32)
    for rows, x, _ in pipeline.ordered():
        logits[np.asarray(rows)] = forward(x)
    logits = distribution.sum_over_processes(strategy, logits)
    return np.exp(outputs.log_probabilities(logits, pipeline.labels.ndim == 2))


def summary(choice: Mapping) -> list[tuple[str, str, str, str]]:
    """Rows for a report: depth, validation score, gain over the depth before, verdict."""
    rows = []
    for step in choice["path"]:
        gain = step["gain"]
        words = (
            f"{gain['estimate']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" if gain else "–"
        )
        rows.append(
            (step["depth"], f"{step['score']:.4f}", words, "yes" if step["accepted"] else "no")
        )
    return rows
