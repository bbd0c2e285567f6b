import dataclasses
import doctest

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import plugins, tuning
from medxfer.config import Config, own_settings, with_strategy_settings
from medxfer.models import resnet50
from tests.testing import tiny, train_strategies
from tests.testing.strategy_test_case import StrategyTestCase

GROUPS = list(resnet50.LAYER_GROUPS)  # conv1 to conv5 and head


def stages(tune, new=("head",), **settings):
    return tuning.stages_for(tune, GROUPS, Config(app="cimt", **settings), new)


def moving(stage):
    return [group for group in GROUPS if not stage.frozen(group)]


class TestFt(StrategyTestCase):
    tune, new = "ft", ("fc4",)


class TestLp(StrategyTestCase):
    tune, new = "lp", ("fc4",)


class TestLpOfTwoNewGroups(StrategyTestCase):
    tune, new = "lp", ("fc3", "fc4")


class TestLpFt(StrategyTestCase):
    tune, new = "lp_ft", ("fc4",)


class TestGradualFromTheLast(StrategyTestCase):
    tune, new = "g_lf", ("fc4",)


class TestGradualFromTheFirst(StrategyTestCase):
    tune, new = "g_fl", ("fc4",)


class TestL1Sp(StrategyTestCase):
    tune, new = "l1_sp", ("fc4",)


class TestL2Sp(StrategyTestCase):
    tune, new = "l2_sp", ("conv2", "fc4")


class TestAutoRgn(StrategyTestCase):
    tune, new = "auto_rgn", ("fc4",)


class TestAutoSnr(StrategyTestCase):
    tune, new = "auto_snr", ("fc4",)
    all_move = False


def test_ft_has_one_rate_for_all():
    (stage,) = stages("ft", base_rate=0.5)
    assert moving(stage) == GROUPS
    assert set(stage.multipliers.values()) == {1.0}
    assert (stage.bias_multiplier, stage.base_rate, stage.optimizer) == (1, 0.5, "sgd")


def test_gradual_unfreezing_shares_the_epochs_out():
    """Epochs E over S stages: floor(E / S) each, the remainder to the last."""
    found = stages("g_lf", epochs=20)
    assert [moving(stage)[0] for stage in found] == ["head", *GROUPS[4::-1]]
    assert [len(moving(stage)) for stage in found] == [1, 2, 3, 4, 5, 6]
    assert [stage.epochs for stage in found] == [3, 3, 3, 3, 3, 5]
    found = stages("g_fl", epochs=20, head_first=False)
    assert [moving(stage) for stage in found] == [
        [*GROUPS[:size], "head"] for size in range(1, 6)
    ]  # fmt: skip
    assert [stage.epochs for stage in found] == [4] * 5
    assert len({stage.name for stage in found}) == 5


def test_gradual_unfreezing_of_few_epochs_has_one_for_each_stage(caplog):
    assert [stage.epochs for stage in stages("g_fl", epochs=2)] == [1] * 6
    assert "6 stages of one epoch, more than --epochs=2" in caplog.text


def test_groups_without_weights_are_never_frozen_or_held_back(caplog):
    new = ("conv5", "head")
    for stage in (*stages("g_lf", new), *stages("g_fl", new), *stages("lp", new)):
        assert {"conv5", "head"} <= set(moving(stage))
        assert stage.head is None
    assert "conv5: without pre-trained weights" in caplog.text
    (stage,) = stages("l2_sp", new)
    assert stage.penalty.groups == tuple(GROUPS[:4])


@pytest.mark.parametrize("norm, setting", [("l1", "l1_sp_alpha"), ("l2", "l2_sp_alpha")])
def test_penalties_take_their_strengths(norm, setting):
    (stage,) = stages(f"{norm}_sp", sp_beta=0.5, **{setting: 0.25})
    assert (stage.penalty.norm, stage.penalty.strength) == (norm, 0.25)
    assert stage.weight_decay == 0.5


def test_optimizers():
    for tune in ("conv3", "scratch", "ft", "lp_ft", "g_lf", "l2_sp"):
        assert {stage.optimizer for stage in stages(tune)} == {"sgd"}
        assert {stage.optimizer for stage in stages(tune, optimizer="adam")} == {"adam"}
    for tune in ("auto_rgn", "auto_snr"):
        assert stages(tune)[0].optimizer == "adam"
        assert stages(tune, optimizer="sgd")[0].optimizer == "sgd"


STRATEGIES = plugins.names(tuning.STRATEGIES)


def ways(tune, new=("head",), **settings):
    """Optimizer, decay and schedule of what is trained by gradients."""
    config = Config("app", tune=tune, weight_decay=0.25, **settings)
    config = with_strategy_settings(config, "common")
    found = tuning.stages_for(tune, GROUPS, config, new)
    decays = [0.25 if s.weight_decay is None else s.weight_decay for s in found]
    return {
        (s.optimizer, decay, s.schedule)
        for s, decay in zip(found, decays, strict=True)
        if s.head is None
    }


@pytest.mark.parametrize("tune", [*STRATEGIES, "scratch", "conv3", "head"])
@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
@pytest.mark.parametrize("schedule", ["staircase", "cosine"])
def test_common_settings_are_those_of_every_strategy(tune, optimizer, schedule):
    one = ("adam" if optimizer == "adam" else "sgd", 0.25, schedule)
    for new in (("head",), ("conv5", "head")):
        found = ways(tune, new, optimizer=optimizer, schedule=schedule)
        assert found == ({one} if tune != "lp" or len(new) > 1 else set())


@pytest.mark.parametrize("tune", STRATEGIES)
def test_authors_settings_are_named_and_what_is_given_goes_before(tune):
    own = own_settings(tune)
    plain = Config("app", tune=tune)
    assert with_strategy_settings(plain, "authors") == plain
    found = with_strategy_settings(plain, "authors", ("epochs", "seed"))
    assert found == plain  # which have nothing to do with it
    by_authors = tuning.stages_for(tune, GROUPS, plain, ("head",))
    for name, value in own.items():
        assert getattr(by_authors[-1], name) == value
        other = {"optimizer": "sgd", "weight_decay": 0.125, "schedule": "staircase"}[name]
        given = dataclasses.replace(plain, **{name: other})
        given = with_strategy_settings(given, "authors", (name,))
        last = tuning.stages_for(tune, GROUPS, given, ("head",))[-1]
        assert (last.weight_decay if name != "weight_decay" else given.weight_decay) in (
            None, given.weight_decay
        )  # fmt: skip
        for each in own:
            expected = other if each == name else own[each]
            assert getattr(given, each) == expected
            assert getattr(last, each) in (
                (None, expected) if each == "weight_decay" else (expected,)
            )
    assert bool(own) == (tune in ("lp_ft", "auto_rgn", "auto_snr", "l1_sp", "l2_sp"))


def test_a_decay_of_the_authors_is_not_taken_in_silence():
    config = Config("app", tune="l2_sp", sp_beta=0.5)
    with pytest.raises(UserError, match="--sp_beta is the decay that the authors of l2_sp have"):
        with_strategy_settings(config, "common")
    assert with_strategy_settings(config, "authors") == config


def test_batch_normalisation_follows_its_switch_but_is_trained_where_nothing_was_learnt():
    for tune in ("conv1", "ft", "lp_ft", "g_lf", "l2_sp"):
        policy = stages(tune, freeze_bn="affine")[-1].batch_norm
        assert [policy[group] for group in GROUPS] == ["affine"] * 5 + ["train"]
    assert set(stages("scratch", GROUPS)[0].batch_norm.values()) == {"train"}
    assert stages("auto_rgn", freeze_bn="affine")[0].batch_norm["conv1"] == "frozen"
    assert stages("auto_rgn", freeze_bn="train")[0].batch_norm["conv1"] == "stats_only"


def test_no_units_are_dropped_behind_a_head_that_was_solved_for():
    assert [stage.dropout for stage in stages("lp_ft")] == [True, False]
    assert [stage.dropout for stage in stages("lp_ft", GROUPS)] == [True, True]  # none is solved
    assert [stage.dropout for stage in stages("g_lf", head_init="lp")[1:]] == [False] * 6
    assert all(stage.dropout for stage in stages("ft"))


def test_a_stage_without_dropout_drops_nothing():
    model = tiny.build(dropout=0.9)
    groups, image = tiny.groups(model), np.ones((4, tiny.SIDE, tiny.SIDE, 3), "f4")
    stage = tuning.Stage("s", dict.fromkeys(groups, 1.0), 0.1, epochs=1)
    tuning.freeze(groups, stage)
    assert np.ptp(np.asarray(model(image, training=True)), axis=0).max() > 0
    tuning.freeze(groups, dataclasses.replace(stage, dropout=False))
    np.testing.assert_array_equal(model(image, training=True), model(image, training=False))
    assert all(layer.trainable for layer in model.layers if layer.weights)


def test_a_head_by_linear_probe_before_any_strategy():
    found = stages("auto_rgn", head_init="lp", exclude_head=True)
    assert [stage.name for stage in found] == ["lp", "auto_rgn"]
    assert found[1].adaptive.leave == ("head",)
    assert [stage.name for stage in stages("lp_ft", head_init="lp")] == ["lp", "ft"]
    assert [stage.name for stage in stages("ft", GROUPS, head_init="lp")] == ["ft"]


@pytest.mark.parametrize(
    "tune, epochs", [("lp_ft", 1), ("lp_ft", 3), ("auto_rgn", 2), ("l1_sp", 2)]
)
def test_interrupted_and_resumed_is_as_uninterrupted(tmp_path, tune, epochs):
    """Also across a change of stages: the start of a penalty and all else is that of before."""
    whole, *_ = train_strategies.train(tune, tmp_path / "whole", epochs=3)
    with pytest.raises(InterruptedError):
        train_strategies.train(tune, tmp_path / "run", epochs=3, interrupt=epochs)
    rest, *_ = train_strategies.train(tune, tmp_path / "run", epochs=3)
    for mine, theirs in zip(rest, whole[epochs:], strict=True):
        for path, value in theirs.items():
            np.testing.assert_array_equal(mine[path], value, err_msg=path)


@pytest.mark.parametrize("tune", ["lp_ft", "g_lf"])
def test_kept_features_change_nothing(tmp_path, tune):
    plain, *_ = train_strategies.train(tune, tmp_path / "plain", epochs=3)
    kept, *_ = train_strategies.train(tune, tmp_path / "kept", epochs=3, cache="memory")
    for mine, theirs in zip(kept, plain, strict=True):
        for path, value in theirs.items():
            np.testing.assert_allclose(mine[path], value, atol=1e-6, err_msg=path)


def test_the_example_of_the_docstring():
    failed, run = doctest.testmod(tuning)
    assert run and not failed


def test_names_are_found():
    with pytest.raises(ValueError, match="auto_rgn, auto_snr, ft, g_fl, g_lf, l1_sp, l2_sp, lp"):
        stages("elsewhere")
