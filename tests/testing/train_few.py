"""Train on few examples on several logical CPUs: python -m ... REPLICAS COUNTS OUTPUT

Batch normalisation sees them raw, so that a row too many shows in its moving mean.
"""

import sys
from collections.abc import Sequence

import keras
import numpy as np

from medxfer import distribution, steps
from medxfer.tuning import freezing, optimizer
from medxfer.tuning.stages import Stage
from tests.testing import tiny

BATCH, MOMENTUM, EPOCHS = 4, 0.5, 2


def pipeline(count: int) -> tiny.Pipeline:
    """Examples far from 0."""
    rng = np.random.default_rng(count)
    images = 3 + rng.standard_normal((count, 6, 6, 3)).astype(np.float32)
    return tiny.Pipeline(images, np.arange(count) % 3, batch_size=BATCH)


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(momentum=MOMENTUM, name="bn1")(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=MOMENTUM, name="bn2")(x)
    x = keras.layers.MaxPooling2D(2, name="pool")(keras.layers.ReLU(name="relu")(x))
    logits = keras.layers.Dense(3, name="head")(keras.layers.Flatten(name="flat")(x))
    return keras.Model(inputs, logits)


def means(counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Moving means of the raw images, by NumPy."""
    found = {}
    for count in counts:
        part, mean = pipeline(count), np.zeros(3)
        for epoch in range(EPOCHS):
            order = part.shuffled_indices(epoch)
            size = min(BATCH, count)
            for start in range(0, count // size * size, size):
                batch = part.images[order[start : start + size]].astype(np.float64)
                mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean((0, 1, 2))
        found[f"bn1 moving_mean of {count}"] = mean
    return found


def steps_of(strategy, model, part) -> dict[str, np.ndarray]:
    """Losses and weights of all steps, and statistics of the gradients of the first batch."""
    groups = {"all": model.layers}
    stage = Stage("all", {"all": 1.0}, 0.01, epochs=1, batch_norm={"all": "train"})
    with strategy.scope():
        freezing.freeze(groups, stage, synchronized=strategy.num_replicas_in_sync > 1)
        moves = optimizer.for_stage(groups, stage)
    batch = min(BATCH, part.num_examples)
    step = steps.TrainStep(strategy, model, lambda x: x, moves, batch)
    losses = [float(step(x, y)) for epoch in range(EPOCHS) for _, x, y in part.epoch(epoch)]
    weights = {v.path.replace("/", " "): keras.ops.convert_to_numpy(v) for v in model.weights}
    statistics = steps.TensorStatistics(strategy, model, lambda x: x, "rgn", batch)
    _, x, y = next(iter(part.epoch(0)))
    return weights | {"losses": np.array(losses), "statistics": statistics(x, y)}


def all_steps(strategy, counts: Sequence[int]) -> dict[str, np.ndarray]:
    """What :func:`steps_of` gives, by number of examples."""
    with strategy.scope():
        model = network()
    start, found = model.get_weights(), {}
    for count in counts:
        model.set_weights(start)
        for name, value in steps_of(strategy, model, pipeline(count)).items():
            found[f"{name} of {count}"] = value
    return found


def main(replicas: str, counts: str, output: str) -> None:
    distribution.logical_cpus(int(replicas))
    strategy, counts = distribution.strategy("mirrored"), list(map(int, counts.split(",")))
    np.savez(output, replicas=strategy.num_replicas_in_sync, **all_steps(strategy, counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
