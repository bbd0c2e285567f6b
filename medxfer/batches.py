"""Where a stage's batches come from: the pipeline, or features kept of its frozen layers."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data_prep.progress import track
from medxfer import distribution, runs
from medxfer.config import Config
from medxfer.data import Pipeline
from medxfer.steps import Inference
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
        Stands in for the pipeline's images: (num_examples, ...) in stream order, or (M, ...) of
        which ``rows`` are the examples.
    rows : ndarray of int, optional
        (num_examples,).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batch_size: int,
        process: tuple[int, int],
        features: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.labels = pipeline.labels
        self.batch = min(batch_size, pipeline.num_examples)
        self.steps = pipeline.num_examples // self.batch
        self.kept = features is not None
        self._features = features
        self._rows = np.arange(len(self.labels)) if rows is None else rows
        self._pipeline = pipeline
        self._process = process

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, y) of every training step, in the pipeline's order of this epoch."""
        if not self.kept:
            return ((x, y) for _, x, y in self._pipeline.epoch(number))
        order = self._pipeline.shuffled_indices(number)[: self.steps * self.batch]
        return _ahead((self.features(rows), self.labels[rows]) for rows in self._own(order))

    def ordered(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, x) of all examples of this process, the last batch possibly smaller."""
        if not self.kept:
            return ((np.asarray(rows), x) for rows, x, _ in self._pipeline.ordered())
        order = np.arange(len(self.labels))
        return _ahead((rows, self.features(rows)) for rows in self._own(order))

    def features(self, examples: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Kept features of some or all examples, (B, ...)."""
        return np.asarray(self._features[self._rows[examples]])

    def _own(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """This process' contiguous slice of every global batch."""
        place, count = self._process
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            yield rows[len(rows) * place // count : len(rows) * (place + 1) // count]


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
    shorter: Sequence[keras.Model] = (),
) -> dict[str, Source]:
    """Sources of a stage: all with features of its frozen layers, or none.

    With several processes each computes its share of the features and gets all of them, since
    every epoch deals the examples out anew; bounds are for each process. On disk, features of all
    subjects serve a run on a fraction of them as well.

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
    shorter : sequence of keras.Model
        Beginnings of ``prefix`` with which later runs will start. What they make is had on the way:
        if ``prefix`` is computed now, and to the disk, it is kept as well.
    """
    process = distribution.process(strategy)
    plain = {name: Source(part, config.batch_size, process) for name, part in parts.items()}
    if prefix is None:
        return plain
    examples = sum(part.num_examples for part in parts.values())
    need, bound = examples * _bytes(prefix, config), int(config.cache_gib * 2**30)
    where = frozen.place(config.cache, need, bound)
    if where == "none":
        return plain
    models, room = [prefix], bound - need
    # One process; and float16 might be too narrow for features that are of no use now.
    if where == "disk" and process[1] == 1 and config.cache_dtype == "float32":
        for model in sorted(shorter, key=lambda model: -len(model.layers)):
            if (more := examples * _bytes(model, config)) <= room:
                models.append(model)
                room -= more
    maker = _Maker(strategy, config, models, features)
    found = {}
    for name, part in parts.items():
        if where == "memory":
            table, rows = maker.in_memory(name, part), None
        else:
            table, rows = maker.on_disk(name, part, list(parts.values()), bound)
        if table is None:
            return plain
        found[name] = Source(part, config.batch_size, process, table, rows)
    logging.info("Frozen layers computed once: %.2f GiB of features (%s).", need / 2**30, where)
    return found


class _Maker:
    """Computes what the first of ``models`` makes of a part, and on the way what the others do."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        config: Config,
        models: Sequence[keras.Model],
        features: Features,
    ) -> None:
        self._strategy, self._config = strategy, config
        self._models, self._features = models, features
        self._join = None
        if distribution.process(strategy)[1] > 1:
            self._join = functools.partial(distribution.sum_over_processes, strategy)

    def in_memory(self, name: str, part: Pipeline) -> np.ndarray:
        """Features of all examples of a part."""
        rows = functools.partial(self._rows, name, part, self._models[:1])
        shape = (part.num_examples, *self._models[0].output_shape[1:])
        return frozen.in_memory(rows, shape, self._config.cache_dtype, self._join)

    def on_disk(
        self, name: str, part: Pipeline, parts: Sequence[Pipeline], bound: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Features and, if they are those of more examples than the part has, their rows.

        Parameters
        ----------
        name, part
        parts : sequence of Pipeline
            All whose features this run needs at the same time.
        bound : int
            Bytes on disk.
        """
        folder = runs.cache_folder() / "features"
        whole = self._key(self._models[0], part, part.whole)
        if self._join is None and (folder / f"{whole}.npy").is_file():
            return frozen.read(folder, whole), part.rows
        models = {self._key(model, part, part.fingerprint): model for model in self._models}
        keep = [self._key(model, p, p.fingerprint) for p in parts for model in self._models]
        table = frozen.on_disk(
            lambda keys: self._rows(name, part, [models[key] for key in keys]),
            {key: (part.num_examples, *m.output_shape[1:]) for key, m in models.items()},
            self._config.cache_dtype,
            folder=folder,
            bound=bound,
            keep=keep,
            join=self._join,
        )
        return table, None

    def _rows(self, name: str, part: Pipeline, models: Sequence[keras.Model]) -> frozen.Rows:
        size = self._config.batch_size
        compute = self._features if len(models) == 1 else self._together(models)
        steps = -(-part.num_examples // size)
        for rows, x, _ in track(part.ordered(), f"frozen layers, {name}", steps, "batches"):
            made = compute(x)
            yield np.asarray(rows), *(made if isinstance(made, list) else [made])

    def _together(self, models: Sequence[keras.Model]) -> Callable[..., list[np.ndarray]]:
        """One pass for several models, each of which begins like the first."""
        shapes = [model.output_shape[1:] for model in models]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        joined = keras.Model(models[0].inputs[0], [model.outputs[0] for model in models])

        def flat(x: tf.Tensor) -> tf.Tensor:
            outputs = joined(x, training=False)
            rows = [tf.cast(tf.reshape(y, (tf.shape(y)[0], -1)), tf.float32) for y in outputs]
            return tf.concat(rows, axis=1)

        forward = Inference(self._strategy, flat, self._config.batch_size)

        def parts(x: np.ndarray | tf.Tensor) -> list[np.ndarray]:
            found = np.split(forward(x), ends, axis=1)
            return [y.reshape(-1, *shape) for y, shape in zip(found, shapes, strict=True)]

        return parts

    def _key(self, model: keras.Model, part: Pipeline, examples: str) -> str:
        """Name of the features of some examples of a part: all that they depend on."""
        return frozen.fingerprint(model, examples, part.sample(), self._config.cache_dtype)


def _bytes(model: keras.Model, config: Config) -> int:
    """Of the features of one example."""
    return math.prod(model.output_shape[1:]) * np.dtype(config.cache_dtype).itemsize
