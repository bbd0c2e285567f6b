"""Train the tiny network on several replicas or processes.

    python -m tests.testing.train_replicas STRATEGY CACHE FOLDER [EPOCHS]

Writes the weights, the scores and, where there are replicas, the dropout masks of each. With EPOCHS
it writes checkpoints and is interrupted after so many epochs; the next call goes on. With "asked"
for EPOCHS the second process is asked to end (SIGTERM) in its second epoch, with "killed" it dies
there.
"""

import contextlib
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from data_prep import signals
from medxfer import distribution, stage_loop, training, tuning
from tests.testing import tiny

EXAMPLES = 44  # 5 batches of 8 and a rest; validation 25, the last batch a single example
SETTINGS = {"epochs": 4, "new_multiplier": 2.0, "tune": "conv2"}


def train(
    strategy, cache: str, folder: pathlib.Path, on_epoch_end=None, fate: int | None = None
) -> tuple[keras.Model, training.History]:
    """20 steps without dropout, tuning from conv2; ``fate``: signal to the second process."""
    config = tiny.config(cache=cache, **SETTINGS)
    with strategy.scope():
        model = tiny.build(dropout=0)
    groups = tiny.groups(model)
    process = distribution.process(strategy)
    parts = tiny.pipelines(EXAMPLES, process=process)
    if fate and process[0] == 1:
        parts[0] = tiny.Fateful(
            parts[0].images, parts[0].labels, process=process,
            at=8, happen=lambda: os.kill(os.getpid(), fate),
        )  # fmt: skip
    history = training.fit(
        model,
        groups,
        tuning.stages_for(config.tune, list(groups), config),
        *parts,
        monitor=tiny.monitor,
        config=config,
        run_dir=folder,
        strategy=strategy,
        on_epoch_end=on_epoch_end,
    )
    return model, history


def masks(strategy) -> np.ndarray:
    """What dropout keeps on every replica of this process, (replicas, units)."""
    with strategy.scope():
        layer = keras.layers.Dropout(0.5, seed=1)
        model = keras.Sequential([keras.Input((64,)), layer])
    distribution.decorrelate_seeds(strategy, model)
    kept = strategy.run(tf.function(lambda: layer(tf.ones((1, 64)), training=True)))
    return distribution.collect(strategy, kept)


def main(name: str, cache: str, folder: str, epochs: str = "") -> None:
    def interrupt(epoch):
        if epoch.number + 1 == int(epochs):
            sys.exit()

    if name == "mirrored":
        distribution.logical_cpus(2)
    distribution.make_deterministic(0)
    strategy = distribution.strategy(name)
    index, count = distribution.process(strategy)
    if epochs == "asked":
        stage_loop._AGREE = 2
        with contextlib.suppress(signals.Terminated):
            train(strategy, cache, pathlib.Path(folder), fate=signal.SIGTERM)
            sys.exit("went on")
        return
    if epochs == "killed":
        try:
            with distribution.together(strategy):
                train(strategy, cache, pathlib.Path(folder), fate=signal.SIGKILL)
        except signals.Terminated as ended:
            print(ended, file=sys.stderr)
            sys.exit(signals.RESUME)
        sys.exit("went on")
    stop = interrupt if epochs else None
    model, history = train(strategy, cache, pathlib.Path(folder), stop)
    arrays = {str(i): keras.ops.convert_to_numpy(w) for i, w in enumerate(model.weights)}
    np.savez(
        pathlib.Path(folder) / f"process-{index}.npz",
        replicas=strategy.num_replicas_in_sync,
        processes=count,
        losses=[epoch.loss for epoch in history.epochs],
        scores=[epoch.score for epoch in history.epochs],
        validation_losses=[epoch.validation_loss for epoch in history.epochs],
        masks=masks(strategy),
        **arrays,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
