"""Weights after every step of the sequence with tensorflow-addons' MultiOptimizer.

Runs in a process of its own, with TF_USE_LEGACY_KERAS=1: python -m ... OUTPUT.npz
"""

import sys

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

from tests.testing.sequences import DECAYS, MOMENTUM, MULTIPLIERS, SHAPES, sequence


class Weights(tf.keras.layers.Layer):
    """One weight, whose name is unique: the optimizer tells weights apart by name."""

    def __init__(self, value, name):
        super().__init__(name=name)
        self.value = self.add_weight(
            name=name, shape=value.shape, initializer=tf.constant_initializer(value)
        )


def main(output: str) -> None:
    start, steps = sequence()
    layers = [Weights(value, name) for name, value in zip(SHAPES, start, strict=True)]
    inner = {path: tf.keras.optimizers.legacy.SGD(0.1, momentum=MOMENTUM) for path in SHAPES}
    optimizer = tfa.optimizers.MultiOptimizer(
        [(inner[path], layer) for path, layer in zip(SHAPES, layers, strict=True)]
    )
    after = {}
    for number, (rate, gradients) in enumerate(steps):
        for path, one in inner.items():
            one.learning_rate = rate * MULTIPLIERS[path]
        pairs = [
            (gradient + DECAYS.get(path, 0.0) * layer.value, layer.value)
            for path, layer, gradient in zip(SHAPES, layers, gradients, strict=True)
        ]
        optimizer.apply_gradients(pairs)
        after |= {f"{number}.{place}": layer.value.numpy() for place, layer in enumerate(layers)}
    np.savez(output, **after)


if __name__ == "__main__":
    main(sys.argv[1])
