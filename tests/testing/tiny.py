"""A network, data and a configuration small enough to train in a blink."""

import dataclasses
import hashlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from medxfer.config import Config
from medxfer.models import _groups
from medxfer.models._layers import Dropout

SIDE, CLASSES = 9, 3
TABLE = {name: (name,) for name in ("conv1", "conv2", "fc3", "fc4")}


def build(dropout: float = 0.5) -> keras.Model:
    """Four layer groups; about 1000 weights, the same ones at every call."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv1")(inputs)
    x = keras.layers.MaxPooling2D(2, name="pool1")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(8, activation="relu", bias_initializer="ones", name="fc3")(x)
    x = Dropout(dropout, seed=1, name="fc4_dropout")(x)
    logits = keras.layers.Dense(CLASSES, dtype="float32", name="fc4")(x)
    return keras.Model(inputs, logits, name="tiny")


def groups(model: keras.Model) -> dict[str, list[keras.Layer]]:
    return _groups.layer_groups(model, TABLE)


def config(**changes) -> Config:
    defaults = {
        "app": "tiny", "epochs": 3, "patience": 9, "batch_size": 8, "base_rate": 0.01,
        "new_multiplier": 2.0, "cache": "none", "precision": "float32",
    }  # fmt: skip
    return Config(**(defaults | changes))


@dataclasses.dataclass
class Pipeline:
    """What :class:`medxfer.data.Pipeline` offers, over arrays."""

    images: np.ndarray  # float32 (N, side, side, 3)
    labels: np.ndarray  # int64 (N,)
    batch_size: int = 8
    process: tuple[int, int] = (0, 1)
    seed: int = 0
    rows: np.ndarray | None = None  # of the examples, if they are a share of ``images``
    reads: int = 0  # batches of images handed out

    def __post_init__(self) -> None:
        self.whole = _hash(self.images)
        self._all = self.images
        if self.rows is None:
            self.rows = np.arange(len(self.images))
        self.images, self.labels = self.images[self.rows], self.labels[self.rows]

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        return _hash(self.images)

    def sample(self) -> np.ndarray:
        return self._all[:2]

    def shuffled_indices(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)

    def epoch(self, epoch: int):
        size = min(self.batch_size, self.num_examples)
        whole = self.num_examples // size * size
        return self._batches(self.shuffled_indices(epoch)[:whole], size)

    def ordered(self):
        return self._batches(np.arange(self.num_examples), self.batch_size)

    def _batches(self, order, size):
        place, count = self.process
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            rows = rows[len(rows) * place // count : len(rows) * (place + 1) // count]
            self.reads += 1
            yield tuple(map(tf.constant, (rows, self.images[rows], self.labels[rows])))


def _hash(images: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()


@dataclasses.dataclass
class Fateful(Pipeline):
    """Something happens when a batch of this number, over the whole run, is asked for."""

    at: int = 10**9
    happen: Callable[[], None] = int

    def _batches(self, order, size):
        for batch in super()._batches(order, size):
            if self.reads == self.at:
                self.happen()
            yield batch


def pipelines(n: int = 40, process: tuple[int, int] = (0, 1), noise: float = 0.5):
    """Training (n examples) and validation (n // 2 + 3): the class is the brightest channel."""
    rng = np.random.default_rng(3)
    parts = []
    for size in (n, n // 2 + 3):
        labels = np.arange(size) % CLASSES
        images = noise * rng.standard_normal((size, SIDE, SIDE, 3))
        images[np.arange(size), :, :, labels] += 1
        parts.append(Pipeline(images.astype(np.float32), labels.astype(np.int64), process=process))
    return parts


def monitor(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose probable class is right."""
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(1), 1)
    return float(np.mean(probabilities.argmax(1) == labels))
