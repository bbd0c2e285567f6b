import dataclasses

import pytest

from data_prep.errors import UserError
from medxfer import tuning
from medxfer.config import Config
from medxfer.models import alexnet_caffe
from medxfer.tuning import depth
from tests.testing import tiny
from tests.testing.strategy_test_case import StrategyTestCase

GROUPS = list(alexnet_caffe.LAYER_GROUPS)

# Tajbakhsh et al. 2016, Table II: rates of conv1 ... fc8.
TABLE_II = {
    "conv1": [0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.01],
    "conv2": [0, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.01],
    "conv3": [0, 0, 0.001, 0.001, 0.001, 0.001, 0.001, 0.01],
    "conv4": [0, 0, 0, 0.001, 0.001, 0.001, 0.001, 0.01],
    "conv5": [0, 0, 0, 0, 0.001, 0.001, 0.001, 0.01],
    "fc6": [0, 0, 0, 0, 0, 0.001, 0.001, 0.01],
    "fc7": [0, 0, 0, 0, 0, 0, 0.001, 0.01],
    "fc8": [0, 0, 0, 0, 0, 0, 0, 0.01],
    "scratch": [0.001] * 8,
}


@pytest.mark.parametrize("row", TABLE_II)
def test_rates_of_the_paper(row):
    (stage,) = depth.stages(GROUPS, Config(app="cimt"), new=("fc8",), depth=row)
    rates = [stage.base_rate * stage.multipliers[group] for group in GROUPS]
    assert rates == pytest.approx(TABLE_II[row], rel=1e-12)
    assert stage.bias_multiplier == 2
    assert stage.name == row


def test_new_groups_take_the_new_rate_and_are_never_frozen(caplog):
    (stage,) = depth.stages(GROUPS, Config(app="cimt"), new=("fc6", "fc7", "fc8"), depth="fc7")
    assert [stage.multipliers[g] for g in GROUPS] == [0] * 5 + [10] * 3
    assert "fc6 has no pre-trained weights" in caplog.text


@pytest.mark.parametrize(
    "new",
    [("fc8",), (), ("fc6", "fc7", "fc8"), ("conv5", "fc6", "fc7", "fc8"), ("fc7", "fc8"), GROUPS],
)
def test_distinct_depths_are_those_with_other_rates(new):
    """By the stages themselves: depths that are put together have the same, all others differ."""

    def rates(name):
        (stage,) = depth.stages(GROUPS, Config(app="cimt"), new=new, depth=name)
        return tuple(stage.multipliers[group] for group in GROUPS)

    found = depth.distinct(GROUPS, new)
    named = [name for kept, others in found.items() for name in (*others, kept)]
    assert named == list(reversed(GROUPS))
    for kept, others in found.items():
        assert all(rates(other) == rates(kept) for other in others)
    assert len({rates(kept) for kept in found}) == len(found)


def test_distinct_depths_of_some():
    new = ("fc6", "fc7", "fc8")
    assert depth.distinct(GROUPS, new, ["conv1", "fc8", "fc7"]) == {"fc7": ["fc8"], "conv1": []}


def test_scratch_has_one_rate_although_everything_is_new():
    (stage,) = depth.stages(GROUPS, Config(app="cimt"), new=GROUPS, depth="scratch")
    assert set(stage.multipliers.values()) == {1}


def test_depth_is_by_default_the_configured_one():
    config = Config(app="cimt", tune="conv5", epochs=4, patience=2, base_rate=0.5)
    (stage,) = depth.stages(GROUPS, config, new=())
    assert (stage.name, stage.epochs, stage.patience, stage.base_rate) == ("conv5", 4, 2, 0.5)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="neither a layer group nor 'scratch'"):
        depth.stages(GROUPS, Config(app="cimt", tune="conv9"), new=())
    with pytest.raises(ValueError, match="New groups that the model lacks: head"):
        depth.stages(GROUPS, Config(app="cimt"), new=("head",))
    with pytest.raises(UserError, match="--tune=fc9 is unknown. Valid names: fc8, fc7.*scratch"):
        tuning.stages_for("fc9", GROUPS, Config(app="cimt"))


def test_stage_rules():
    stage = tuning.Stage("s", {"a": 0, "b": 1}, base_rate=0.1, epochs=1)
    assert stage.frozen("a") and not stage.frozen("b")
    stage.check(["a", "b"])
    with pytest.raises(ValueError, match="gives a rate to b, which the model lacks"):
        stage.check(["a"])
    with pytest.raises(ValueError, match="gives no rate to c"):
        stage.check(["a", "b", "c"])
    assert [stage.rate(epoch, 0.95) for epoch in range(3)] == [0.1, 0.1 * 0.95, 0.1 * 0.95**2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"multipliers": {"a": -1}}, "negative multiplier of a"),
        ({"multipliers": {"a": float("nan")}}, "negative multiplier of a"),
        ({"multipliers": {"a": 0}}, "trains nothing"),
        ({"base_rate": 0}, "must be above 0"),
        ({"bias_multiplier": 0}, "must be above 0"),
        ({"epochs": 0}, "start at 1"),
        ({"patience": 0}, "start at 1"),
    ],
)
def test_impossible_stages(change, message):
    stage = tuning.Stage("s", {"a": 1}, base_rate=0.1, epochs=1, patience=1)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(stage, **change)


class TestConv1(StrategyTestCase):
    tune = "conv1"


class TestConv2(StrategyTestCase):
    tune = "conv2"


class TestFc3(StrategyTestCase):
    tune = "fc3"


class TestFc4(StrategyTestCase):
    tune = "fc4"


class TestNewGroupInFront(StrategyTestCase):
    tune, new = "fc4", ("conv2", "fc4")


class TestScratch(StrategyTestCase):
    tune, new = "scratch", tuple(tiny.TABLE)
