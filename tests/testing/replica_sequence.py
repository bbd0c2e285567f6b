"""Weights after every step of the sequence on two logical CPUs: python -m ... OUTPUT.npz

Each replica gives half of the gradient.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from medxfer import distribution
from medxfer.tuning.optimizer import LayerwiseSGD
from tests.testing.sequences import DECAYS, MOMENTUM, MULTIPLIERS, SHAPES, sequence


def main(output: str) -> None:
    distribution.logical_cpus(2)
    strategy = distribution.strategy("mirrored")
    start, steps = sequence()
    with strategy.scope():
        variables = [
            keras.Variable(value, name=name) for name, value in zip(SHAPES, start, strict=True)
        ]
        optimizer = LayerwiseSGD(0.1, MULTIPLIERS, DECAYS, MOMENTUM)
        optimizer.build(variables)

    @tf.function
    def step(gradients):
        strategy.run(lambda g: optimizer.apply([0.5 * one for one in g], variables), [gradients])

    after = {}
    for number, (rate, gradients) in enumerate(steps):
        optimizer.learning_rate = rate
        step(list(map(tf.constant, gradients)))
        for place, variable in enumerate(variables):
            after[f"{number}.{place}"] = keras.ops.convert_to_numpy(variable)
    assert strategy.num_replicas_in_sync == 2
    assert optimizer.get_config()["multipliers"] == MULTIPLIERS
    np.savez(output, **after)


if __name__ == "__main__":
    main(sys.argv[1])
