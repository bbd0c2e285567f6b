"""Where a stage's batches come from: the pipeline, or features kept of its frozen layers."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from medxfer import distribution, runs
from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.tuning import frozen

Features = Callable[[np.ndarray | tf.Tensor], np.ndarray]


class Source:
    """Batches of one part of the data for this process.

    Parameters
    ----------
    pipeline : Pipeline
        This process' view of the part.
    batch_size : int
        Global, as in the pipeline.
    process : index, count
        As in the pipeline.
    features : ndarray, optional
        (num_examples, ...) in stream order: stands in for the pipeline's images.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batch_size: int,
        process: tuple[int, int],
        features: np.ndarray | None = None,
    ) -> None:
        self.labels = pipeline.labels
        self.batch = min(batch_size, pipeline.num_examples)
        self.steps = pipeline.num_examples // self.batch
        self.features = features
        self._pipeline = pipeline
        self._process = process

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, y) of every training step, in the pipeline's order of this epoch."""
        if self.features is None:
            return ((x, y) for _, x, y in self._pipeline.epoch(number))
        order = self._pipeline.shuffled_indices(number)[: self.steps * self.batch]
        return _ahead((self.features[rows], self.labels[rows]) for rows in self._own(order))

    def ordered(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, x) of all examples of this process, the last batch possibly smaller."""
        if self.features is None:
            return ((np.asarray(rows), x) for rows, x, _ in self._pipeline.ordered())
        order = np.arange(len(self.labels))
        return _ahead((rows, self.features[rows]) for rows in self._own(order))

    def _own(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """This process' contiguous slice of every global batch."""
        place, count = self._process
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            yield rows[len(rows) * place // count : len(rows) * (place + 1) // count]


def bar(steps: Iterable, what: str, total: int) -> Iterable:
    """The same, with a progress bar on a terminal if it takes more than two seconds."""
    return tqdm(steps, what, total, leave=False, disable=None, delay=2)


def _ahead(batches: Iterator) -> Iterator:
    """The same, the next one being fetched meanwhile: from a disk that takes time."""
    with futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = pool.submit(next, batches, None)
            yield batch


def sources(
    parts: dict[str, Pipeline],
    strategy: tf.distribute.Strategy,
    config: Config,
    prefix: keras.Model | None = None,
    features: Features | None = None,
) -> dict[str, Source]:
    """Sources of a stage: all with features of its frozen layers, or none.

    With several processes each computes its share of the features and gets all of them, since
    every epoch deals the examples out anew; bounds are for each process.

    Parameters
    ----------
    parts : dict of str to Pipeline
        Name of the part (for the log) -> pipeline.
    strategy, config
        ``cache``, ``cache_dtype`` and ``cache_gib`` decide; see :mod:`medxfer.tuning.frozen`.
    prefix : keras.Model, optional
        The leading frozen layers, if there are any.
    features : callable, optional
        What they make of a batch.
    """
    process = distribution.process(strategy)
    plain = {name: Source(part, config.batch_size, process) for name, part in parts.items()}
    if prefix is None:
        return plain
    shape = prefix.output_shape[1:]
    examples = sum(part.num_examples for part in parts.values())
    need = examples * math.prod(shape) * np.dtype(config.cache_dtype).itemsize
    bound = int(config.cache_gib * 2**30)
    where = frozen.place(config.cache, need, bound)
    if where == "none":
        return plain
    keys = {name: _key(part, prefix, config) for name, part in parts.items() if where == "disk"}
    join = functools.partial(distribution.sum_over_processes, strategy)
    found = {}
    for name, part in parts.items():
        settings = {
            "rows": functools.partial(_features, name, part, features, config.batch_size),
            "shape": (part.num_examples, *shape),
            "dtype": config.cache_dtype,
            "join": join if process[1] > 1 else None,
        }
        if where == "memory":
            table = frozen.in_memory(**settings)
        else:
            table = frozen.on_disk(
                **settings,
                folder=runs.cache_folder() / "features",
                key=keys[name],
                bound=bound,
                keep=list(keys.values()),
            )
        if table is None:
            return plain
        found[name] = Source(part, config.batch_size, process, table)
    logging.info("Frozen layers computed once: %.2f GiB of features (%s).", need / 2**30, where)
    return found


def _features(name: str, part: Pipeline, features: Features, batch_size: int) -> frozen.Rows:
    steps = -(-part.num_examples // batch_size)
    for rows, x, _ in bar(part.ordered(), f"frozen layers, {name}", steps):
        yield np.asarray(rows), features(x)


def _key(part: Pipeline, prefix: keras.Model, config: Config) -> str:
    """Name of the features of one part: all that they depend on."""
    _, sample, _ = next(iter(part.ordered()))
    return frozen.fingerprint(prefix, part.fingerprint, np.asarray(sample), config.cache_dtype)
