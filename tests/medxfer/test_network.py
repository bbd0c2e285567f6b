"""What apps see of a trained network."""

import types

import keras
import numpy as np
import pytest

from medxfer.network import BATCH, TrainedNetwork

SIDE, CLASSES = 7, 3


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def model(request):
    keras.utils.set_random_seed(1)
    keras.mixed_precision.set_dtype_policy(request.param)
    try:
        inputs = keras.Input((SIDE, SIDE, 3))
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(inputs)))
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_classify_is_the_plain_product_and_softmax(model, count, channels):
    plugin = types.SimpleNamespace(INPUT_SIDE=SIDE, preprocess=lambda images: images / 255)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (count, SIDE, SIDE, channels), np.uint8)
    found = TrainedNetwork(model, plugin, {}).classify(images)
    kernel, bias = (np.float64(w) for w in model.get_weights())
    rgb = np.broadcast_to(images, (count, SIDE, SIDE, 3)).reshape(count, SIDE * SIDE * 3) / 255
    powers = np.exp(rgb @ kernel + bias)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=1e-6)


def test_patches_of_any_size_are_resized(model):
    plugin = types.SimpleNamespace(INPUT_SIDE=SIDE, preprocess=lambda images: images / 255)
    network = TrainedNetwork(model, plugin, {})
    flat = np.full((2, 30, 21, 3), 90, np.uint8)
    expected = network.classify(np.full((2, SIDE, SIDE, 3), 90, np.uint8))
    np.testing.assert_allclose(network.classify(flat), expected, atol=1e-6)
