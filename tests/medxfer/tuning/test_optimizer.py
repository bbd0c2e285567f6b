import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from medxfer.tuning.optimizer import LayerwiseAdam, LayerwiseSGD, for_stage
from medxfer.tuning.stages import Stage
from tests.testing import tiny
from tests.testing.sequences import DECAYS, MOMENTUM, MULTIPLIERS, SHAPES, caffe, sequence

TF_CONTROL = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def variables(start):
    return [keras.Variable(value, name=name) for name, value in zip(SHAPES, start, strict=True)]


def layerwise():
    return LayerwiseSGD(0.1, MULTIPLIERS, DECAYS, MOMENTUM)


def run(script, *arguments, **environment):
    """Run a module of the tests in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.testing.{script}", *map(str, arguments)],
        env=os.environ | TF_CONTROL | environment,
        check=True,
        timeout=180,
        capture_output=True,
        text=True,
    )


def test_equals_caffes_update_step_by_step():
    start, steps = sequence()
    ours, optimizer = variables(start), layerwise()
    for (rate, gradients), expected in zip(steps, caffe(start, steps), strict=True):
        optimizer.learning_rate = rate
        optimizer.apply(gradients, ours)
        for variable, value in zip(ours, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=2e-6, atol=2e-6)


def test_equals_keras_multi_optimizer_step_by_step():
    start, steps = sequence()
    ours, optimizer = variables(start), layerwise()
    peers = variables(start)
    inner = {path: keras.optimizers.SGD(0.1, momentum=MOMENTUM) for path in SHAPES}
    peer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), inner)
    )
    for rate, gradients in steps:
        optimizer.learning_rate = rate
        optimizer.apply(gradients, ours)
        for path, one in inner.items():
            one.learning_rate = rate * MULTIPLIERS[path]
        decayed = [
            g + np.float32(DECAYS.get(path, 0)) * v.numpy()
            for path, g, v in zip(SHAPES, gradients, peers, strict=True)
        ]
        peer.apply(decayed, peers)
        for a, b in zip(ours, peers, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-6)


def test_equals_the_last_tensorflow_addons(tmp_path):
    for package in ("tensorflow_addons", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'medxfer[addons]' (Python 3.11)")
    start, steps = sequence()
    run("addons_sequence", tmp_path / "peer.npz", TF_USE_LEGACY_KERAS="1")
    ours, optimizer = variables(start), layerwise()
    with np.load(tmp_path / "peer.npz") as peer:
        for number, (rate, gradients) in enumerate(steps):
            optimizer.learning_rate = rate
            optimizer.apply(gradients, ours)
            for place, variable in enumerate(ours):
                expected = peer[f"{number}.{place}"]
                np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_equals_caffes_update_on_two_replicas(tmp_path):
    start, steps = sequence()
    run("replica_sequence", tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as ours:
        for number, expected in enumerate(caffe(start, steps)):
            for place, value in enumerate(expected):
                np.testing.assert_allclose(ours[f"{number}.{place}"], value, rtol=2e-6, atol=2e-6)


def test_rules_must_cover_and_be_covered():
    start, _ = sequence()
    for path in SHAPES:
        rest = {other: m for other, m in MULTIPLIERS.items() if other != path}
        with pytest.raises(ValueError, match=f"No multiplier covers {path}"):
            LayerwiseSGD(0.1, rest).build(variables(start))
    with pytest.raises(ValueError, match="No trainable variable is called elsewhere"):
        LayerwiseSGD(0.1, MULTIPLIERS | {"elsewhere": 1.0}).build(variables(start))
    with pytest.raises(ValueError, match="No trainable variable is called elsewhere"):
        LayerwiseSGD(0.1, MULTIPLIERS, {"elsewhere": 1.0}).build(variables(start))
    with pytest.raises(ValueError, match="Several variables are called"):
        layerwise().build(variables(start) + variables(start)[:1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"multipliers": {"w": 0.0}}, "trainable = False"),
        ({"multipliers": {"w": -1.0}}, "above 0"),
        ({"multipliers": {"w": 1.0}, "decays": {"w": -1.0}}, "at least 0"),
        ({"multipliers": {"w": 1.0}, "momentum": 1.0}, "below 1"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseSGD(0.1, **arguments)


def test_one_visible_rate_for_callbacks_and_schedules():
    model = tiny.build()
    paths = {v.path: 1.0 for v in model.trainable_variables}
    model.compile(LayerwiseSGD(0.1, paths), "mse")
    x, y = np.zeros((4, tiny.SIDE, tiny.SIDE, 3)), np.zeros((4, tiny.CLASSES))
    reduce = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    rates = model.fit(x, y, epochs=4, verbose=0, callbacks=[reduce]).history["learning_rate"]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.025])
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = LayerwiseSGD(decay, {"w": 1.0}, momentum=0.0)
    weight = keras.Variable([0.0], name="w")
    for _ in range(3):
        optimizer.apply([np.ones(1, np.float32)], [weight])
    np.testing.assert_allclose(weight.numpy(), -(0.1 + 0.05 + 0.025), rtol=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def test_saved_and_loaded_with_its_model(tmp_path):
    model = tiny.build(dropout=0)
    groups = tiny.groups(model)
    stage = Stage("all", dict.fromkeys(groups, 1.0) | {"fc4": 10.0}, base_rate=0.01, epochs=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(for_stage(groups, stage, momentum=0.9, weight_decay=0.01), loss)
    train, _ = tiny.pipelines()
    model.train_on_batch(train.images, train.labels)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for _ in range(2):
        model.train_on_batch(train.images, train.labels)
        again.train_on_batch(train.images, train.labels)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def layers_of(*names):
    return [keras.layers.Dense(5, activation="relu", name=name) for name in names]


def sequential(*names, given=True):
    return keras.Sequential([*([keras.Input((6,))] if given else []), *layers_of(*names)])


def functional(*names):
    inputs = x = keras.Input((6,))
    for layer in layers_of(*names):
        x = layer(x)
    return keras.Model(inputs, x)


def around(*inner, head="head"):
    """A functional model of others, which may call their layers alike, and a head."""
    inputs = keras.Input((6,))
    x = keras.layers.concatenate([part(inputs) for part in inner])
    return keras.Model(inputs, keras.layers.Dense(5, name=head)(x))


def normalised():
    model = sequential("a")
    model.add(keras.layers.BatchNormalization(name="bn"))
    model.add(keras.layers.Dense(5, name="b"))
    return model


def partly_frozen():
    model = around(sequential("a", "b"))
    model.layers[1].layers[0].trainable = False
    return model


@keras.saving.register_keras_serializable(package="medxfer_tests")
class Own(keras.Model):
    def __init__(self, **about):
        super().__init__(**about)
        self.body, self.head = sequential("a", "b"), keras.layers.Dense(5, name="head")

    def call(self, x):
        return self.head(self.body(x))


MODELS = {
    "sequential": lambda: sequential("a", "b"),
    "sequential that learns its input": lambda: sequential("a", "b", given=False),
    "sequential of sequential": lambda: keras.Sequential(
        [keras.Input((6,)), sequential("a"), keras.layers.Dense(5, name="a")]
    ),
    "functional": lambda: functional("a", "b"),
    "sequential in functional": lambda: around(sequential("a", "b")),
    "functional in functional": lambda: around(functional("a", "b")),
    "two of equal names": lambda: around(sequential("a"), sequential("a"), functional("a")),
    "three deep": lambda: around(around(sequential("a"), head="b"), functional("a")),
    "with batch normalisation": normalised,
    "partly frozen": partly_frozen,
    "subclass": Own,
}


QUICK = ("sequential", "two of equal names", "subclass")


@pytest.mark.parametrize("kind", [LayerwiseSGD, LayerwiseAdam])
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, build in MODELS.items()
    ],
)
def test_reloads_in_any_model(tmp_path, build, kind):
    """Rules, rates and slots of every variable, and what comes of further steps."""
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    y = np.random.default_rng(1).integers(0, 5, 8)
    model = build()
    model(x)
    paths = [variable.path for variable in model.trainable_variables]
    multipliers = {path: 1.0 + place for place, path in enumerate(paths)}
    decays = {path: 0.01 * place for place, path in enumerate(paths)}
    pulls = {paths[0]: ("l2", 0.1), paths[-1]: ("l1", 0.02)}
    optimizer = kind(0.003, multipliers, decays, pulls=pulls, adaptive=True)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(x, y)
    optimizer.begin_epoch({path: 0.5 + place for place, path in enumerate(paths)})
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == optimizer.get_config()
    assert again.optimizer._rules == optimizer._rules == [
        (multipliers[path], decays[path]) for path in paths
    ]  # fmt: skip
    slots = [each.optimizer.variables for each in (model, again)]
    assert len(slots[0]) >= len(paths) + 5
    for one, other in zip(*slots, strict=True):
        np.testing.assert_array_equal(other.numpy(), one.numpy(), err_msg=one.path)
    for each in (model, again):
        each.train_on_batch(x, y)
        each.optimizer.begin_epoch({path: 2.0 for path in paths})
        each.train_on_batch(x, y)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(other, one)
    twice = tmp_path / "twice.keras"  # under the new names
    again.save(twice)
    assert keras.saving.load_model(twice).optimizer.get_config() == optimizer.get_config()


def test_rules_of_a_saved_optimizer_do_not_fit_another_model():
    optimizer = LayerwiseSGD(0.1, MULTIPLIERS, DECAYS)
    start, _ = sequence()
    optimizer.build(variables(start))
    other = LayerwiseSGD.from_config(optimizer.get_config())
    with pytest.raises(ValueError, match="No multiplier covers"):
        other.build(sequential("a", "b").trainable_variables)
