"""Train a network of dense layers by every strategy and note its weights after every epoch.

    python -m tests.testing.train_strategies FILE TUNE ...

does it on two replicas and writes ``TUNE/EPOCH/PATH`` to a .npz file; also ``bn/PATH``, of the
network with batch normalisation that moves.
"""

import pathlib
import sys
import tempfile

import keras
import numpy as np

from medxfer import distribution, training, tuning
from medxfer.models._groups import layer_groups
from tests.testing import numpy_training as reference
from tests.testing import tiny

EPOCHS, CLASSES, WIDTH = 5, 3, 6
TABLE = {layer: (layer,) for layer in reference.LAYERS}


def build() -> keras.Model:
    """Dense layers of 5, 4 and 3 units; the first bias is not 0, the others are."""
    keras.utils.set_random_seed(11)
    inputs = keras.Input((WIDTH,))
    x = keras.layers.Dense(5, "relu", bias_initializer="ones", name="body1")(inputs)
    x = keras.layers.Dense(4, "relu", name="body2")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x))


def normalised() -> keras.Model:
    """The same with batch normalisation, under names that do not say so."""
    keras.utils.set_random_seed(12)
    inputs = keras.Input((WIDTH,))
    x = keras.layers.Dense(5, name="body1")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5, name="body1_x")(x)
    x = keras.layers.Dense(4, "relu", name="body2")(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(momentum=0.5, name="body2_y")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x))


def pipelines() -> list[tiny.Pipeline]:
    rng = np.random.default_rng(5)
    parts = []
    for size in (reference.EXAMPLES, 9):
        labels = np.arange(size) % CLASSES
        x = rng.standard_normal((size, WIDTH)).astype(np.float32)
        x[np.arange(size), labels] += 1.5
        parts.append(tiny.Pipeline(x, labels.astype(np.int64), reference.BATCH))
    return parts


def config(**changes):
    settings = {
        "epochs": EPOCHS, "patience": 99, "base_rate": reference.BASE, "gamma": reference.GAMMA,
        "momentum": reference.MOMENTUM, "weight_decay": reference.DECAY,
        "l2_sp_alpha": reference.ALPHA, "l1_sp_alpha": reference.ALPHA, "sp_beta": reference.BETA,
    }  # fmt: skip
    return tiny.config(**(settings | changes))


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def train(tune, folder, strategy=None, scores=None, model=None, interrupt=None, **changes):
    """Weights after every epoch, the model, and the history; ``interrupt`` ends it by raising."""
    settings = config(tune=tune, **changes)
    strategy = strategy or distribution.strategy("one")
    if model is None:
        with strategy.scope():
            model = build()
    groups = layer_groups(model, TABLE)
    seen = []

    def note(epoch):
        seen.append(weights_of(model))
        if interrupt is not None and epoch.number + 1 == interrupt:
            raise InterruptedError

    def likelihood(probabilities, labels):
        return float(np.mean(np.log(probabilities[np.arange(len(labels)), labels])))

    script = iter(scores or ())
    history = training.fit(
        model, groups, tuning.stages_for(tune, list(groups), settings), *pipelines(),
        monitor=(lambda p, y: next(script)) if scores else likelihood,
        config=settings, run_dir=pathlib.Path(folder), strategy=strategy, on_epoch_end=note,
    )  # fmt: skip
    return seen, model, history


def main(path: str, *names: str) -> None:
    distribution.logical_cpus(2)
    distribution.make_deterministic(0)
    strategy = distribution.strategy("mirrored")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for tune in names:
            seen, *_ = train(tune, f"{folder}/{tune}", strategy)
            for epoch, weights in enumerate(seen):
                found |= {f"{tune}/{epoch}/{path}": value for path, value in weights.items()}
        with strategy.scope():
            model = normalised()
        seen, *_ = train("ft", f"{folder}/bn", strategy, model=model, freeze_bn="train")
        found |= {f"bn/{path}": value for path, value in seen[-1].items()}
    np.savez(path, replicas=strategy.num_replicas_in_sync, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
