"""Batch normalisation's policies on a small network, told by class."""

import keras
import numpy as np
import pytest

from medxfer.tuning import Stage, freeze, stages
from tests.testing import train_strategies
from tests.testing.train_strategies import TABLE, layer_groups

#        statistics move, gamma and beta move, moments of the batch in training
POLICIES = {
    "frozen": (False, False, False),
    "affine": (False, True, False),
    "stats_only": (True, False, True),
    "train": (True, True, True),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_moves_in_training(tmp_path, policy):
    statistics, scales, _ = POLICIES[policy]
    model = train_strategies.normalised()
    before = train_strategies.weights_of(model)
    seen, *_ = train_strategies.train("ft", tmp_path, model=model, freeze_bn=policy, epochs=1)
    changed = {path for path, value in seen[0].items() if not np.array_equal(value, before[path])}
    for layer in ("body1_x", "body2_y"):
        for names, moves in (
            (("moving_mean", "moving_variance"), statistics),
            (("gamma", "beta"), scales),
        ):
            for name in names:
                assert (f"{layer}/{name}" in changed) == moves, f"{layer}/{name}"
    assert {"body1/kernel", "body2/bias", "head/kernel"} <= changed


@pytest.mark.parametrize("policy", POLICIES)
def test_which_moments_count(policy):
    model = train_strategies.normalised()
    groups = layer_groups(model, TABLE)
    x = train_strategies.pipelines()[0].images
    stage = Stage("s", dict.fromkeys(groups, 1.0), 0.1, 1, batch_norm=dict.fromkeys(groups, policy))
    freeze(groups, stage)
    still = np.asarray(model(x))
    assert np.array_equal(np.asarray(model(x, training=True)), still) != POLICIES[policy][2]
    # A stage takes back what the one before it set.
    freeze(groups, Stage("t", stage.multipliers, 0.1, 1, batch_norm=dict.fromkeys(groups, "train")))
    assert len(model.trainable_variables) == 10
    assert not np.array_equal(np.asarray(model(x, training=True)), still)


def test_a_frozen_group_rests_whatever_the_policy(tmp_path):
    model = train_strategies.normalised()
    before = train_strategies.weights_of(model)
    seen, *_ = train_strategies.train(
        "body2", tmp_path, model=model, freeze_bn="train", epochs=2, cache="memory"
    )
    for path, value in seen[-1].items():
        assert np.array_equal(value, before[path]) == path.startswith("body1"), path


def test_normalisation_inside_a_layer_of_a_group():
    inner = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()])
    inner.build((None, 3))
    freeze({"a": [inner]}, Stage("s", {"a": 1.0}, 0.1, 1))
    assert [v.name for v in inner.trainable_variables] == ["kernel", "bias"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": "rmsprop"}, "unknown optimizer"),
        ({"schedule": "linear"}, "unknown optimizer or schedule"),
        ({"weight_decay": -1.0}, "weight decay"),
        ({"batch_norm": {"a": "off"}}, "frozen, affine, stats_only, train"),
        ({"head": stages.HeadSolution(), "epochs": 2}, "one group, one epoch"),
    ],
)
def test_impossible_stages(change, message):
    with pytest.raises(ValueError, match=message):
        Stage(**({"name": "s", "multipliers": {"a": 1}, "base_rate": 1, "epochs": 1} | change))


def test_impossible_rules():
    with pytest.raises(ValueError, match="l1 or l2"):
        stages.Penalty("l3", 1.0, ())
    with pytest.raises(ValueError, match="rgn or snr"):
        stages.Adaptive("loss")
    stage = Stage("s", {"a": 1}, 1.0, 1, penalty=stages.Penalty("l1", 1.0, ("b",)))
    with pytest.raises(ValueError, match="to b, which the model lacks"):
        stage.check(["a"])
    stage = Stage("s", {"a": 1, "b": 0}, 1.0, 1, head=stages.HeadSolution())
    with pytest.raises(ValueError, match="solves for the head, b, but it rests"):
        stage.check(["a", "b"])


def test_the_cosine_falls_from_the_base_rate():
    stage = Stage("s", {"a": 1}, 0.5, epochs=4, schedule="cosine")
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose([stage.rate(epoch, 0.1) for epoch in range(4)], expected)
