"""A network plug-in that trains in seconds: what the tests of whole runs use."""

import keras
from keras import layers, ops

INPUT_SIDE = 32
RATE = 0.001
INIT = "gaussian"
LAYER_GROUPS = {name: (name,) for name in ("conv1", "fc2")}


def preprocess(images):
    """RGB images, 0..255, (N, H, W, 3) -> float32 network input around 0."""
    return ops.cast(images, "float32") / 64 - 1


def build(classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5) -> keras.Model:
    """float32 (N, 32, 32, 3) -> logits (N, classes)."""
    start = keras.initializers.HeNormal(seed=seed)
    inputs = keras.Input((INPUT_SIDE, INPUT_SIDE, 3), name="image")
    x = layers.Conv2D(
        8, 5, strides=4, activation="relu", kernel_initializer=start, name="conv1"
    )(inputs)  # fmt: skip
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(classes, kernel_initializer=start, dtype="float32", name="fc2")(x)
    return keras.Model(inputs, logits, name="tiny_network")
