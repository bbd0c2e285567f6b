"""The range test: the curve, what is read from it, and that nothing is kept of the training."""

import types

import numpy as np
import pytest
from scipy import special

from data_prep.errors import UserError
from medxfer import lr_find, tuning
from tests.testing import tiny

RATES = np.geomspace(1e-5, 1, 60).tolist()


def built(model):
    return types.SimpleNamespace(model=model, groups=tiny.groups(model))


def run(tune="scratch", rates=None, train=None, model=None, **changes):
    model = model or tiny.build(0.0)
    config = tiny.config(tune=tune, **changes)
    stages = tuning.stages_for(tune, list(tiny.TABLE), config, ["fc4"])
    train = train or tiny.pipelines(64)[0]
    return lr_find.find(built(model), stages, train, config=config, rates=rates)


def test_the_moving_average_is_a_weighted_mean():
    losses = np.random.default_rng(0).uniform(1, 2, 20)
    found = lr_find.smooth(losses)
    for count in range(1, 21):
        weights = 0.9 ** np.arange(count)[::-1]
        expected = np.average(losses[:count], weights=weights)
        assert found[count - 1] == pytest.approx(expected)


class TestJudge:
    def test_a_valley(self):
        # Falls fastest at 1e-3, lowest at 1e-1.
        x = np.log10(RATES)
        losses = 1 - np.tanh(3 * (x + 3)) / 3 + np.where(x > -1, 2 * (x + 1) ** 2, 0)
        found = lr_find.judge("ft", RATES, losses.tolist())
        # The average of the last ten steps or so lags by half a decade.
        assert 1e-3 < found.steepest < 1e-2
        assert 1e-1 <= found.lowest < 5e-1
        assert found.suggestion == min(found.steepest, found.lowest / 10)
        assert found.diverged is None

    def test_a_loss_that_only_rises_suggests_nothing(self):
        found = lr_find.judge("ft", RATES, np.linspace(1, 2, 60).tolist())
        assert found.steepest is found.lowest is found.suggestion is None

    def test_a_test_that_ended(self):
        found = lr_find.judge("ft", RATES, [2.0, 1.5, 1.2, 1.1, 1.0, 1.0, float("inf")])
        assert found.diverged == RATES[6]
        assert len(found.losses) == len(found.rates) == len(found.smoothed) == 6
        assert found.suggestion is not None

    def test_one_step(self):
        assert lr_find.judge("ft", RATES, [float("nan")]).suggestion is None


def mean_loss(model, images, labels):
    log_p = special.log_softmax(model(images).numpy().astype(np.float64), axis=1)
    return -log_p[np.arange(len(labels)), labels].mean()


def test_without_steps_the_losses_are_those_of_the_first_weights():
    train, model = tiny.pipelines(64)[0], tiny.build(0.0)
    found = run(rates=np.geomspace(1e-30, 1e-29, 12).tolist(), train=train, model=model)
    expected = []
    for epoch in (0, 1):  # 8 batches each: it goes on into the second epoch
        for _, x, y in train.epoch(epoch):
            expected.append(mean_loss(model, x, y.numpy()))
    np.testing.assert_allclose(found.losses, expected[:12], rtol=1e-5)


def test_one_step_is_that_of_the_optimizer():
    """The second loss is that after one step of plain gradient descent."""
    import tensorflow as tf

    train, model = tiny.pipelines(64)[0], tiny.build(0.0)
    batches = list(train.epoch(0))
    found = run(rates=[0.05, 0.1], train=train, model=model, weight_decay=0.0)
    with tf.GradientTape() as tape:
        logits = model(batches[0][1], training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batches[0][2], logits))
    for weight, gradient in zip(
        model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True
    ):
        twice = 2 if weight.name == "bias" else 1  # rate of biases, Tajbakhsh et al. 2016
        weight.assign_sub(0.05 * twice * gradient)
    expected = mean_loss(model, batches[1][1], batches[1][2].numpy())
    assert found.losses[1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("tune", ["lp_ft", "auto_rgn"])
def test_nothing_is_kept_of_the_training(tune):
    model = tiny.build()
    before = [variable.numpy() for variable in model.variables]
    found = run(tune, model=model, rates=RATES[::3])
    assert len(found.rates) > 5
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert found.stage == tune.removeprefix("lp_")


def test_it_ends_where_training_diverges_and_suggests_less(tmp_path):
    found = run("g_lf", rates=np.geomspace(1e-4, 1e6, 100).tolist())
    assert found.stage == "g_lf_3"  # the last of its stages
    assert len(found.rates) < 100 and found.diverged is not None
    assert found.suggestion < found.diverged / 10
    assert found.suggestion in (found.steepest, found.lowest / 10)
    figure = lr_find.draw(found, 0.01)
    figure.savefig(tmp_path / "a.png", dpi=40)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert np.isfinite(axes.get_ylim()).all()


def test_a_head_that_is_solved_for_has_no_rate():
    with pytest.raises(UserError, match="no learning rate"):
        run("lp")
