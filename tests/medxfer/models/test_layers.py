import keras
import numpy as np
import pytest
import tensorflow as tf

from medxfer.models._layers import Dropout, GroupedConv2D, LocalResponseNormalization
from tests.medxfer.models.numpy_layers import lrn


def features(*shape, scale=1.0):
    return (scale * np.random.default_rng(5).normal(size=shape)).astype("float32")


@pytest.mark.parametrize("x", [0.5, 50.0, 300.0])
def test_lrn_of_a_constant(x):
    """The window of a channel at the edge holds three channels, inside it holds five."""
    y = np.asarray(LocalResponseNormalization()(np.full((1, 2, 2, 9), x, "float32")))
    np.testing.assert_allclose(y[..., 2:-2], x / (1 + 1e-4 * x**2) ** 0.75, rtol=2e-6)
    np.testing.assert_allclose(y[..., [0, -1]], x / (1 + 6e-5 * x**2) ** 0.75, rtol=2e-6)


@pytest.mark.parametrize("channels", [1, 3, 96])
def test_lrn_is_caffe_s(channels):
    x = features(2, 5, 4, channels, scale=100)
    expected = [lrn(image.transpose(2, 0, 1).astype("float64")).transpose(1, 2, 0) for image in x]
    np.testing.assert_allclose(LocalResponseNormalization()(x), expected, rtol=5e-6)


def test_lrn_gradient_is_tensorflow_s():
    x, direction = tf.constant(features(2, 5, 4, 24, scale=100)), features(2, 5, 4, 24)
    gradients = []
    for function in (
        LocalResponseNormalization(),
        lambda x: tf.nn.local_response_normalization(x, 2, bias=1.0, alpha=2e-5, beta=0.75),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(function(x) * direction)
        gradients.append(tape.gradient(y, x))
    np.testing.assert_allclose(*gradients, atol=2e-6)


def test_lrn_is_float32_inside():
    x = features(1, 3, 3, 16, scale=2000)  # squares beyond float16
    half = LocalResponseNormalization(dtype="mixed_float16")(x)
    assert half.dtype == "float16"
    np.testing.assert_allclose(half, LocalResponseNormalization()(x), rtol=2e-3)


@pytest.mark.parametrize("arguments", [{}, {"use_bias": False}, {"strides": 2, "padding": "valid"}])
def test_grouped_convolution_is_keras_s(arguments):
    arguments = {"padding": "same", "activation": "relu", "groups": 2} | arguments
    x = features(2, 9, 9, 8)
    ours, theirs = GroupedConv2D(6, 3, **arguments), keras.layers.Conv2D(6, 3, **arguments)
    theirs(x), ours(x)
    assert [v.shape for v in ours.weights] == [v.shape for v in theirs.weights]
    ours.set_weights([features(*v.shape) for v in theirs.weights])
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    gradients = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(x) ** 2)
        gradients.append(tape.gradient(y, layer.weights[0].value))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-3)


def test_frozen_dropout_does_nothing():
    layer, x = Dropout(0.5, seed=1), features(4, 100)
    assert np.mean(np.asarray(layer(x, training=True)) == 0) > 0.3
    np.testing.assert_array_equal(layer(x, training=False), x)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), x)
