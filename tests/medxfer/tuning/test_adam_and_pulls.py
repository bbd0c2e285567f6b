"""Adam, pulls towards the start, and factors, each against NumPy."""

import keras
import numpy as np
import pytest

from medxfer.tuning import Stage, for_stage, freeze
from medxfer.tuning.optimizer import LayerwiseAdam, LayerwiseSGD
from medxfer.tuning.stages import Adaptive, Penalty
from tests.testing import tiny
from tests.testing.sequences import DECAYS, MOMENTUM, MULTIPLIERS, SHAPES, caffe, sequence


def variables(start):
    return [keras.Variable(value, name=name) for name, value in zip(SHAPES, start, strict=True)]


def assert_close(ours, values, tolerance=2e-6):
    for variable, value in zip(ours, values, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=tolerance, atol=tolerance)


def test_adam_step_by_step():
    start, steps = sequence()
    ours, optimizer = variables(start), LayerwiseAdam(0.1, MULTIPLIERS, DECAYS)
    values = [value.astype(np.float64) for value in start]
    m, s = [0.0] * len(values), [0.0] * len(values)
    for t, (rate, gradients) in enumerate(steps, 1):
        optimizer.learning_rate = rate
        optimizer.apply(gradients, ours)
        for i, (path, g) in enumerate(zip(SHAPES, gradients, strict=True)):
            g = g + DECAYS.get(path, 0) * values[i]
            m[i], s[i] = 0.9 * m[i] + 0.1 * g, 0.999 * s[i] + 0.001 * g**2
            step = m[i] / (1 - 0.9**t) / (np.sqrt(s[i] / (1 - 0.999**t)) + 1e-8)
            values[i] = values[i] - rate * MULTIPLIERS[path] * step
        assert_close(ours, values, 1e-5)


def test_adam_equals_keras_adam_where_epsilon_does_not_matter():
    start, steps = sequence()
    ours, peers = variables(start), variables(start)
    optimizer = LayerwiseAdam(0.01, dict.fromkeys(SHAPES, 1.0), epsilon=1e-12)
    peer = keras.optimizers.Adam(0.01, epsilon=1e-12)
    for _, gradients in steps:
        optimizer.apply(gradients, ours)
        peer.apply(gradients, peers)
        assert_close(ours, [v.numpy() for v in peers], 1e-5)


def test_a_pull_is_a_decay_towards_the_start():
    """With the origin moved to the start, an l2 pull is Caffe's decay."""
    start, steps = sequence()
    pulls = {path: ("l2", value) for path, value in DECAYS.items()}
    ours, optimizer = variables(start), LayerwiseSGD(0.1, MULTIPLIERS, None, MOMENTUM, pulls)
    moved = caffe([np.zeros_like(value) for value in start], steps)
    for (rate, gradients), offsets in zip(steps, moved, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply(gradients, ours)
        assert_close(ours, [a + b for a, b in zip(start, offsets, strict=True)], 5e-6)


def test_the_subgradient_of_a_pull_is_zero_at_the_start():
    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = LayerwiseSGD(0.5, {"w": 1.0}, momentum=0.0, pulls={"w": ("l1", 0.2)})
    optimizer.apply([np.float32([0, 1])], [weight])
    np.testing.assert_allclose(weight.numpy(), [1, 1.5])
    optimizer.apply([np.float32([0, 0])], [weight])
    np.testing.assert_allclose(weight.numpy(), [1, 1.5 + 0.5 * 0.2])


@pytest.mark.parametrize("kind", [LayerwiseSGD, LayerwiseAdam])
def test_factors_scale_the_update_and_memory_begins_anew(kind):
    start, steps = sequence()
    factors = dict(zip(SHAPES, [1.0, 0.0, 0.25, 0.5], strict=True))
    ours, optimizer = variables(start), kind(0.1, MULTIPLIERS, adaptive=True)
    optimizer.build(ours)
    for gradients in [one for _, one in steps[:3]]:
        optimizer.apply(gradients, ours)
    optimizer.begin_epoch(factors)
    fresh = variables([v.numpy() for v in ours])
    peer = kind(0.1, {p: m * (factors[p] or 1e-30) for p, m in MULTIPLIERS.items()})
    for gradients in [one for _, one in steps[3:6]]:
        optimizer.apply(gradients, ours)
        peer.apply(gradients, fresh)
    assert_close(ours, [v.numpy() for v in fresh], 1e-6)
    assert int(optimizer.iterations.numpy()) == 3
    with pytest.raises(ValueError, match="one for each variable"):
        optimizer.begin_epoch({"kernel_a": 1.0})
    with pytest.raises(ValueError, match="adaptive optimizers"):
        peer.begin_epoch(factors)


def test_rules_are_of_the_stage():
    model = tiny.build()
    groups = tiny.groups(model)
    stage = Stage(
        "s", dict.fromkeys(groups, 1.0), 0.1, 1, optimizer="adam", weight_decay=0.5,
        penalty=Penalty("l1", 0.25, ("conv1", "fc3")), adaptive=Adaptive("rgn"),
    )  # fmt: skip
    freeze(groups, stage)
    optimizer = for_stage(groups, stage, weight_decay=0.125)
    assert isinstance(optimizer, LayerwiseAdam) and optimizer.adaptive
    assert optimizer.pulls == dict.fromkeys(("conv1/kernel", "fc3/kernel"), ("l1", 0.25))
    assert optimizer.decays == dict.fromkeys(("conv2/kernel", "fc4/kernel"), 0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pulls": {"w": ("l3", 1.0)}}, "'l1' or 'l2'"),
        ({"pulls": {"w": ("l2", -1.0)}}, "at least 0"),
        ({"beta_1": 1.0}, "beta_1"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseAdam(0.1, {"w": 1.0}, **arguments)


def test_saved_and_loaded_with_its_model_and_its_start(tmp_path):
    model = tiny.build(dropout=0)
    groups = tiny.groups(model)
    stage = Stage(
        "s", dict.fromkeys(groups, 1.0), 0.01, 1, optimizer="adam",
        penalty=Penalty("l2", 0.5, ("conv1", "conv2")),
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(for_stage(groups, stage), loss)
    train, _ = tiny.pipelines()
    model.train_on_batch(train.images, train.labels)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, again):
        one.train_on_batch(train.images, train.labels)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
