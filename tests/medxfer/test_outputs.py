"""One class or several an image, and classes of unequal size: losses, weights, orders, heads."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from sklearn import linear_model, metrics
from sklearn.utils import class_weight

from data_prep.errors import UserError
from medxfer import distribution, outputs, steps, training, tuning
from medxfer.tuning import adaptive, head
from medxfer.tuning.stages import HeadSolution
from tests.testing import tiny


def one_class(n=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)), rng.choice(classes, n, p=[0.6, 0.3, 0.1][:classes])


def several(n=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < [0.1, 0.5, 0.8][:classes]).astype(np.int64)
    return rng.normal(size=(n, classes)), labels


class TestLikelihood:
    def test_one_class(self):
        logits, labels = one_class()
        p = special.softmax(logits, axis=1)
        np.testing.assert_allclose(np.exp(outputs.log_probabilities(logits, False)), p)
        assert outputs.mean_loss(logits, labels) == pytest.approx(metrics.log_loss(labels, p))
        weights = outputs.class_weights(labels, 3)
        expected = metrics.log_loss(labels, p, sample_weight=weights[labels])  # weights of mean 1
        assert outputs.mean_loss(logits, labels, weights) == pytest.approx(expected)

    def test_several(self):
        logits, labels = several()
        p = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(np.exp(outputs.log_probabilities(logits, True)), p)
        each = [metrics.log_loss(labels[:, k], p[:, k]) for k in range(3)]
        assert outputs.mean_loss(logits, labels) == pytest.approx(sum(each))
        weights = outputs.class_weights(labels, 3)
        each = [
            metrics.log_loss(labels[:, k], p[:, k], sample_weight=weights[k][labels[:, k]])
            for k in range(3)
        ]
        assert outputs.mean_loss(logits, labels, weights) == pytest.approx(sum(each))

    def test_far_out_it_stays_finite(self):
        assert outputs.mean_loss(np.array([[900.0, -900.0]]), np.array([[0, 1]])) == 1800


class TestClassWeights:
    def test_one_class(self):
        _, labels = one_class()
        found = outputs.class_weights(labels, 3)
        expected = class_weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found[labels].mean() == pytest.approx(1, abs=1e-6)

    def test_a_class_without_examples(self):
        found = outputs.class_weights(np.array([0, 0, 0, 2]), 4)
        np.testing.assert_allclose(found, [4 / 6, 0, 2, 0])

    def test_several(self):
        _, labels = several()
        labels[:, 2] = 1
        found = outputs.class_weights(labels, 3)
        for k in (0, 1):
            expected = class_weight.compute_class_weight(
                "balanced", classes=np.arange(2), y=labels[:, k]
            )
            np.testing.assert_allclose(found[k], expected, rtol=1e-6)
        np.testing.assert_allclose(found[2], [0, 1])


class TestBalancedOrder:
    labels = np.repeat([0, 1, 2], [23, 5, 2])

    def epochs(self, count):
        for number in range(count):
            order = np.random.default_rng(number).permutation(30)
            yield outputs.balanced_order(self.labels, order, number)

    def test_every_epoch_and_batch_has_as_many_of_each(self):
        for rows in self.epochs(4):
            assert np.bincount(self.labels[rows]).tolist() == [10, 10, 10]
            for batch in rows.reshape(5, 6):
                assert np.bincount(self.labels[batch]).tolist() == [2, 2, 2]

    def test_all_examples_of_a_class_have_their_turn(self):
        seen = np.zeros(30, int)
        for rows in self.epochs(23):
            seen += np.bincount(rows, minlength=30)
        assert seen[:23].tolist() == [10] * 23
        assert seen[23:28].tolist() == [46] * 5
        assert seen[28:].tolist() == [115] * 2

    def test_within_an_epoch_repeats_are_rounds(self):
        (rows,) = self.epochs(1)
        own = rows[self.labels[rows] == 1]
        assert sorted(own[:5]) == sorted(own[5:]) == [23, 24, 25, 26, 27]

    def test_epochs_differ_and_repeat(self):
        first, again = list(self.epochs(3)), list(self.epochs(3))
        np.testing.assert_array_equal(first, again)
        assert (first[0] != first[1]).any()

    def test_places_that_do_not_divide(self):
        rows = outputs.balanced_order(np.array([0, 0, 1, 1, 1, 3, 3, 3]), np.arange(8), 0)
        assert np.bincount(np.array([0, 0, 1, 1, 1, 3, 3, 3])[rows]).tolist() == [3, 3, 0, 2]


def descend(labels, weights, rows=None, rate=0.1, width=4):
    """Kernel before and after one compiled step of a dense layer, features, and the loss."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(5).normal(size=(len(labels), width)).astype(np.float32)
    inputs = keras.Input((width,))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(inputs))
    before = model.get_weights()[0]
    optimizer = keras.optimizers.SGD(rate)
    optimizer.build(model.trainable_variables)
    batch = rows or len(labels)
    step = steps.TrainStep(
        distribution.strategy("one"), model, lambda x: x, optimizer, batch, weights
    )
    loss = float(step(tf.constant(x), tf.constant(labels)))
    return before, model.get_weights()[0], x, loss


@pytest.mark.parametrize("padded", [None, 50])
@pytest.mark.parametrize("weighted", [False, True])
class TestStep:
    def test_one_class(self, weighted, padded):
        _, labels = one_class()
        weights = outputs.class_weights(labels, 3) if weighted else None
        before, after, x, loss = descend(labels, weights, padded)
        p = special.softmax(x @ before, axis=1)
        own = np.ones(40) if weights is None else weights[labels]
        size = padded or 40
        assert loss == pytest.approx(
            -(own * np.log(p[np.arange(40), labels])).sum() / size, rel=1e-5
        )
        gradient = x.T @ (own[:, None] * (p - np.eye(3)[labels])) / size
        np.testing.assert_allclose(after, before - 0.1 * gradient, atol=1e-6)

    def test_several(self, weighted, padded):
        _, labels = several()
        weights = outputs.class_weights(labels, 3) if weighted else None
        before, after, x, loss = descend(labels, weights, padded)
        p = special.expit(x @ before)
        own = np.ones((40, 3)) if weights is None else weights[np.arange(3), labels]
        size = padded or 40
        logs = np.where(labels, np.log(p), np.log(1 - p))
        assert loss == pytest.approx(-(own * logs).sum() / size, rel=1e-5)
        gradient = x.T @ (own * (p - labels)) / size
        np.testing.assert_allclose(after, before - 0.1 * gradient, atol=1e-6)


def test_statistics_are_of_the_weighted_loss():
    _, labels = one_class()
    weights = outputs.class_weights(labels, 3)
    before, after, x, _ = descend(labels, weights, rate=1.0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(inputs))
    model.set_weights([before])
    found = steps.TensorStatistics(
        distribution.strategy("one"), model, lambda x: x, "rgn", 40, weights
    )(tf.constant(x), tf.constant(labels))
    gradient = tf.constant(before - after)
    np.testing.assert_allclose(found, [adaptive.statistic("rgn", gradient, model.weights[0])],
                               rtol=1e-4)  # fmt: skip


def features(n=80, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < [0.15, 0.5, 0.7]).astype(np.int64)
    return 2 + labels @ rng.normal(size=(classes, 5)) + rng.normal(size=(n, 5)), labels


@pytest.mark.parametrize("balanced", [False, True])
def test_a_head_of_several_labels_is_a_regression_of_each(balanced):
    x, labels = features()
    solved = head.solve((x, labels), (x, labels), 3, HeadSolution((1.0,)), balanced)
    z = (x - x.mean()) / x.std()
    for k in range(3):
        peer = linear_model.LogisticRegression(
            C=1.0, class_weight="balanced" if balanced else None, max_iter=1000, tol=1e-8
        ).fit(z, labels[:, k])
        found = special.expit(solved.logits(x)[:, k])
        np.testing.assert_allclose(found, peer.predict_proba(z)[:, 1], atol=2e-3)


def test_a_label_that_all_or_none_have():
    x, labels = features()
    labels[:, 0], labels[:, 2] = 1, 0
    solved = head.solve((x, labels), (x, labels), 3, HeadSolution((1.0,)))
    p = special.expit(solved.logits(x))
    np.testing.assert_allclose(p[:, 0], 80.5 / 81, rtol=1e-5)
    np.testing.assert_allclose(p[:, 2], 0.5 / 81, rtol=1e-5)


def test_a_balanced_head_of_one_class():
    rng = np.random.default_rng(2)
    labels = rng.choice(3, 90, p=[0.7, 0.2, 0.1])
    x = rng.normal(size=(3, 4))[labels] + rng.normal(size=(90, 4))

    solved = head.solve((x, labels), (x, labels), 3, HeadSolution((0.3,)), True)
    z = (x - x.mean()) / x.std()
    peer = linear_model.LogisticRegression(
        C=0.3, class_weight="balanced", max_iter=1000, tol=1e-8
    ).fit(z, labels)
    found = special.softmax(solved.logits(x), axis=1)
    np.testing.assert_allclose(found, peer.predict_proba(z), atol=2e-3)


def parts():
    """The brightest channels, one, several or none, are the labels."""
    made = []
    for size, seed in ((48, 0), (24, 1)):
        rng = np.random.default_rng(seed)
        labels = (rng.random((size, 3)) < 0.4).astype(np.int64)
        images = 0.3 * rng.standard_normal((size, tiny.SIDE, tiny.SIDE, 3))
        images += 1.5 * labels[:, None, None, :]
        made.append(tiny.Pipeline(images.astype(np.float32), labels))
    return made


@pytest.mark.parametrize(("tune", "balance"), [("scratch", "weights"), ("lp_ft", "none")])
def test_training_of_several_labels(tmp_path, tune, balance):
    train, validation = parts()
    config = tiny.config(tune=tune, balance=balance, epochs=6, cache="memory")
    model = tiny.build(0.0)
    seen = []

    def monitor(p, labels):
        assert ((p >= 0) & (p <= 1)).all() and labels.shape == p.shape
        seen.append(p)
        return -metrics.log_loss(labels.ravel(), p.ravel())

    history = training.fit(
        model, tiny.groups(model), tuning.stages_for(tune, list(tiny.TABLE), config, ["fc4"]),
        train, validation, monitor=monitor, config=config, run_dir=tmp_path,
    )  # fmt: skip
    last = history.best
    best = special.expit(model(validation.images).numpy().astype(np.float64))
    assert last.score == pytest.approx(-metrics.log_loss(validation.labels.ravel(), best.ravel()))
    assert last.validation_loss == pytest.approx(-3 * last.score, rel=1e-6)
    assert last.score > history.epochs[0].score or tune == "lp_ft"
    # A softmax would sum to 1 within rounding.
    assert np.abs(seen[0].sum(axis=1) - 1).max() > 1e-3


def test_labels_that_are_no_labels(tmp_path):
    train, validation = parts()
    train.labels[3, 1] = 2
    config = tiny.config(tune="scratch")
    model = tiny.build()
    with pytest.raises(UserError, match="Labels must be 0 to 1"):
        training.fit(
            model, tiny.groups(model), tuning.stages_for("scratch", list(tiny.TABLE), config),
            train, validation, monitor=tiny.monitor, config=config, run_dir=tmp_path,
        )  # fmt: skip


def test_a_network_of_several_labels_has_a_probability_of_each():
    from medxfer.network import TrainedNetwork

    keras.utils.set_random_seed(1)
    inputs = keras.Input((5, 5, 3))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    plugin = types.SimpleNamespace(INPUT_SIDE=5, preprocess=lambda images: images / 255)
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), np.uint8)
    found = TrainedNetwork(model, plugin, {"multilabel": True}).classify(images)
    expected = special.expit(model(images / 255).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-6)
