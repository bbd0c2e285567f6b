"""Epochs with the features of frozen layers kept, against plain freezing in Keras.

    PYTHONPATH=. python benchmarks/frozen_prefix.py [--model=alexnet] [--patches=512] [--quick]

For each depth the network is trained twice from the same weights with the same batches in float32:
by Keras (``trainable = False`` below the depth, ``compile``, ``fit``; not compiled by XLA, which is
slower here) and by this project, which computes what lies below the depth once and keeps it in
memory. Both use the same optimizer, rates and dropout seeds. Compared are the training times of the
epochs after the first, in turns, and the final weights. Then once more with the features kept in
float16 (``--cache_dtype=float16``), which halves the memory: what that costs is the difference of
the final weights, beside how far training moved them.

Expected of the ratios: at least 50 for fc8, 3 for fc6, 2 for conv5, 1.3 for conv3; and weights
that differ by no more than float32 rounding.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

import _shared

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TARGETS = {
    "fc8": "at least 50",
    "fc6": "at least 3",
    "conv5": "at least 2",
    "conv3": "at least 1.3",
}
CLASSES = 3


class Patches:
    """Random network input, in memory, in the order of a pipeline of records."""

    def __init__(self, examples: int, side: int, batch: int) -> None:
        import numpy as np

        rng = np.random.default_rng(0)
        self.num_examples = examples
        self.images = 50 * rng.standard_normal((examples, side, side, 3), np.float32)
        self.labels = np.arange(examples) % CLASSES
        self._batch = batch

    def shuffled_indices(self, number: int):
        """Order of an epoch."""
        import numpy as np

        return np.random.default_rng(number).permutation(self.num_examples)

    def _batches(self, order):
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            yield rows, self.images[rows], self.labels[rows]

    def epoch(self, number: int):
        """Batches of an epoch: (indices, images, labels)."""
        whole = self.num_examples // self._batch * self._batch
        return self._batches(self.shuffled_indices(number)[:whole])

    def ordered(self):
        """All in stream order."""
        import numpy as np

        return self._batches(np.arange(self.num_examples))


def network(options, depth: str, cache_dtype: str = "float32"):
    """A fresh network of the same weights, its groups, the stage of ``depth`` and the settings."""
    from medxfer import plugins, tuning
    from medxfer.config import Config
    from medxfer.models import _groups

    module = plugins.load("medxfer.models", options.model)
    model = module.build(CLASSES, seed=1)
    groups = _groups.layer_groups(model, module.LAYER_GROUPS)
    config = Config(
        app="cimt",
        base_rate=1e-4,
        gamma=1.0,
        epochs=options.epochs,
        patience=options.epochs,
        batch_size=options.batch,
        cache="memory",
        cache_dtype=cache_dtype,
    )
    (stage,) = tuning.stages_for(depth, list(groups), config, new=list(groups)[-1:])
    return model, groups, stage, config


def plain(options, depth: str, patches: Patches):
    """Seconds of each epoch of Keras' ``fit``, and the final weights."""
    import keras
    import tensorflow as tf

    from medxfer.tuning.optimizer import for_stage

    model, groups, stage, config = network(options, depth)
    for group, layers in groups.items():
        for layer in layers:
            layer.trainable = not stage.frozen(group)
    optimizer = for_stage(groups, stage, momentum=config.momentum, weight_decay=config.weight_decay)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    side = patches.images.shape[1]
    shapes = (
        tf.TensorSpec((options.batch, side, side, 3), tf.float32),
        tf.TensorSpec((options.batch,), tf.int64),
    )
    steps = patches.num_examples // options.batch
    seconds = []
    for number in range(options.epochs):
        dataset = tf.data.Dataset.from_generator(
            lambda number=number: ((x, y) for _, x, y in patches.epoch(number)),
            output_signature=shapes,
        )
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)
        seconds.append(_shared.seconds(lambda data=dataset: model.fit(data, verbose=0)))
    return seconds, model.get_weights()


def kept(options, depth: str, patches: Patches, validation: Patches, cache_dtype="float32"):
    """Seconds of each training epoch of this project, and the final weights."""
    from medxfer import training

    model, groups, stage, config = network(options, depth, cache_dtype)
    score = iter(range(options.epochs))  # the last epoch is the best one
    with tempfile.TemporaryDirectory() as folder:
        history = training.fit(
            model,
            groups,
            [stage],
            patches,
            validation,
            monitor=lambda probabilities, labels: next(score),
            config=config,
            run_dir=pathlib.Path(folder),
        )
    examples = patches.num_examples // options.batch * options.batch
    return [examples / epoch.images_per_second for epoch in history.epochs], model.get_weights()


def _gap(first, second) -> float:
    """Largest absolute difference of two lists of weights."""
    return max(float(abs(a - b).max()) for a, b in zip(first, second, strict=True))


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", nargs="+", default=list(TARGETS))
    parser.add_argument("--quick", action="store_true", help="few patches, one repeat")
    options = parser.parse_args()
    if options.quick:
        options.patches, options.repeats, options.epochs = 128, 1, 2
    import tensorflow as tf

    from medxfer import plugins

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    side = plugins.load("medxfer.models", options.model).INPUT_SIDE
    patches = Patches(options.patches, side, options.batch)
    validation = Patches(options.batch, side, options.batch)
    print(f"{options.model}, {options.patches} patches, batch {options.batch}, float32,")
    print(f"{options.repeats} x {options.epochs} epochs, the first of each not counted.")
    print(_shared.machine(), flush=True)
    rows, started = [], time.perf_counter()
    for depth in options.depths:
        slow, fast, difference = [], [], 0.0
        for _ in range(options.repeats):
            seconds, expected = plain(options, depth, patches)
            slow += seconds[1:]
            seconds, weights = kept(options, depth, patches, validation)
            fast += seconds[1:]
            difference = max(difference, _gap(weights, expected))
        halved, rounded = kept(options, depth, patches, validation, "float16")
        moved = _gap(expected, network(options, depth)[0].get_weights())
        ratio = statistics.median(slow) / statistics.median(fast)
        rows.append(
            (depth, _shared.spread(slow, 3), _shared.spread(fast, 3), f"{ratio:.1f}")
            + (f"{difference:.1e}", f"{statistics.median(halved[1:]):.3f}")
            + (f"{_gap(rounded, expected):.1e}", f"{moved:.1e}")
        )
        _shared.record(
            f"kept features against freezing, {depth}", ratio, "times", TARGETS.get(depth, "")
        )
        print(f"{depth}: {ratio:.1f} times", flush=True)
    header = ("from", "Keras, s an epoch", "kept, s an epoch", "ratio", "largest difference")
    header += ("in float16, s", "its difference", "moved by training")
    print("\n" + _shared.table(header, rows))
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
