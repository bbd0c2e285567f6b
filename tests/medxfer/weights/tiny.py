"""A network with all that matters to weight files, small enough for hundreds of them."""

import keras
import numpy as np
from keras import layers

from medxfer.models._groups import layer_groups
from medxfer.models._layers import GroupedConv2D
from tests.medxfer.models.numpy_layers import conv, max_pool, relu

NAMES = ("conv1", "conv2", "fc6", "fc7")


def build(classes=3):
    inputs = keras.Input((12, 13, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling2D(3, 2, name="pool")(x)
    x = GroupedConv2D(6, 3, groups=2, activation="relu", name="conv2")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(7, activation="relu", name="fc6")(x)
    return keras.Model(inputs, layers.Dense(classes, name="fc7")(x), name="tiny")


def groups(model):
    return layer_groups(model, {name: (name,) for name in NAMES})


def parameters(classes=3):
    """Random parameters as PyTorch and Caffe hold them."""
    rng = np.random.default_rng(7)
    kernels = {
        "conv1": (4, 3, 3, 3),
        "conv2": (6, 2, 3, 3),
        "fc6": (7, 6 * 2 * 3),
        "fc7": (classes, 7),
    }
    return {
        name: (rng.normal(size=shape).astype("f4"), rng.normal(size=shape[0]).astype("f4"))
        for name, shape in kernels.items()
    }


def forward(image, parameters):
    """Logits of one (C, H, W) image in NumPy, flattening channels first as Caffe does."""
    p = {name: tuple(a.astype("f8") for a in arrays) for name, arrays in parameters.items()}
    x = max_pool(relu(conv(image, *p["conv1"])))
    x = relu(conv(x, *p["conv2"], groups=2)).reshape(-1)
    x = relu(p["fc6"][0] @ x + p["fc6"][1])
    return p["fc7"][0] @ x + p["fc7"][1]
