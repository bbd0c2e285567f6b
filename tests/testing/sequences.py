"""Weights, and gradients and rates of 25 steps, on which optimizers are compared."""

from collections.abc import Iterator

import numpy as np

SHAPES = {"kernel_a": (3, 4), "bias_a": (4,), "kernel_b": (2, 2, 3, 2), "bias_b": (2,)}
MULTIPLIERS = {"kernel_a": 1.0, "bias_a": 2.0, "kernel_b": 10.0, "bias_b": 20.0}
DECAYS = {"kernel_a": 0.05, "kernel_b": 0.05}
MOMENTUM = 0.9

Steps = list[tuple[float, list[np.ndarray]]]


def sequence() -> tuple[list[np.ndarray], Steps]:
    """Start weights, and (learning rate, gradients) of every step."""
    rng = np.random.default_rng(0)

    def draw():
        return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES.values()]

    return draw(), [(0.01 * 0.95 ** (step // 5), draw()) for step in range(25)]


def caffe(start: list[np.ndarray], steps: Steps) -> Iterator[list[np.ndarray]]:
    """Weights after every step as ``sgd_solver.cpp`` of Caffe computes them, in float64.

    ``history = momentum * history + local_rate * (diff + local_decay * data)``, then
    ``data -= history``.
    """
    weights = [value.astype(np.float64) for value in start]
    history = [np.zeros_like(value) for value in weights]
    for rate, gradients in steps:
        for place, (path, gradient) in enumerate(zip(SHAPES, gradients, strict=True)):
            diff = gradient + DECAYS.get(path, 0.0) * weights[place]
            history[place] = MOMENTUM * history[place] + rate * MULTIPLIERS[path] * diff
            weights[place] = weights[place] - history[place]
        yield list(weights)
