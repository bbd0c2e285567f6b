"""Exports that take images of any shape, and those with several labels an image."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, special

from data_prep import classify
from medxfer import serving, serving_fit

SIDE = 24
SHAPES = ((24, 24), (31, 20), (13, 9), (48, 48), (100, 130), (25, 24), (9, 24))
PLUGIN = types.SimpleNamespace(INPUT_SIDE=15, preprocess=lambda images: images / 255 - 0.5)


def picture(height, width, seed=0):
    """Smooth noise, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (1.5, 1.5, 0))
    return np.clip(128 + 90 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["pad", "crop"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_fit_of_the_records(shape, how):
    image = picture(*shape)
    found = serving_fit.square(tf.constant(image[None], tf.float32), SIDE, how)[0].numpy()
    expected = classify.fit(image, SIDE, how)
    # OpenCV rounds differently where a value lies halfway.
    assert np.abs(found - expected).max() <= 1
    if shape == (SIDE, SIDE):
        np.testing.assert_array_equal(found, image)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((15, 15, 3))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))


@pytest.mark.parametrize(("multilabel", "how"), [(False, "pad"), (True, "crop")])
def test_images_as_they_are_have_the_answer_of_their_records(model, tmp_path, multilabel, how):
    path = serving.export(
        model, tmp_path, classes=("a", "b", "c"), patch=SIDE, model_module=PLUGIN, app="classify",
        multilabel=multilabel, fit=how,
    )  # fmt: skip
    images = [picture(*shape, seed) for seed, shape in enumerate(SHAPES)]
    fitted = np.stack([classify.fit(image, SIDE, how) for image in images])
    assert serving.verify(path, model, PLUGIN, fitted) < 1e-5
    inputs = PLUGIN.preprocess(
        tf.image.resize(tf.cast(fitted, tf.float32), (15, 15), antialias=False)
    )
    logits = model(inputs).numpy()
    expected = special.expit(logits) if multilabel else special.softmax(logits, axis=1)
    served = tf.saved_model.load(str(path)).signatures
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    found = served["image_bytes"](image_bytes=encoded)["probabilities"].numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)
    for image, row in zip(images, found, strict=True):
        sent = tf.constant(image[None], tf.float32)
        answer = served["serving_default"](image=sent)["probabilities"].numpy()
        np.testing.assert_allclose(answer[0], row, atol=1e-5)
