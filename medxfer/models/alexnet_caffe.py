"""AlexNet as Caffe has it (``bvlc_alexnet``): the network of Tajbakhsh et al. 2016, Table I.

Two groups in conv2, conv4 and conv5, and local response normalisation after conv1 and conv2, in
front of the pooling. Groups, normalisation, dropout and initial values are not in Table I; they
are those of ``models/bvlc_alexnet/train_val.prototxt`` in BVLC/caffe.
"""

import functools

import keras
from keras import layers, ops

from medxfer.models import _layers

INPUT_SIDE = 227
RATE = 0.001  # Tajbakhsh et al. 2016, Table II
INIT = "gaussian"

# Dropout follows fc6 and fc7 and is named after the group that reads it.
LAYER_GROUPS = {
    name: (name,) for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
}

_MEAN_BGR = (104.0, 117.0, 123.0)


def preprocess(images):
    """RGB images, 0..255, (N, H, W, 3) -> float32 BGR network input less ImageNet's mean."""
    return ops.flip(ops.cast(images, "float32"), axis=-1) - ops.array(_MEAN_BGR)


def build(classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5) -> keras.Model:
    """Build the network with random weights.

    Parameters
    ----------
    classes
        Number of outputs.
    init
        ``gaussian``, ``xavier`` or ``msra``; see :func:`medxfer.models._layers.weights`.
        Standard deviations and biases are Caffe's.
    seed
        Seed of weights and dropout.
    dropout
        Share of the outputs of fc6 and fc7 that is dropped.

    Returns
    -------
    keras.Model
        float32 (N, 227, 227, 3), preprocessed -> logits, float32 (N, ``classes``).

    Raises
    ------
    UserError
        If ``init`` is unknown.
    """

    weights = functools.partial(_layers.weights, init, seed)

    def conv(filters, side, bias, name, groups=1, **kwargs):
        kind = layers.Conv2D if groups == 1 else _layers.GroupedConv2D
        kwargs = {"padding": "same", "activation": "relu", "groups": groups} | kwargs
        return kind(filters, side, **kwargs, **weights(name, std=0.01, bias=bias))

    inputs = keras.Input((INPUT_SIDE, INPUT_SIDE, 3), name="image")
    x = conv(96, 11, 0.0, "conv1", strides=4, padding="valid")(inputs)
    x = _layers.LocalResponseNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = conv(256, 5, 0.1, "conv2", groups=2)(x)
    x = _layers.LocalResponseNormalization(name="norm2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = conv(384, 3, 0.0, "conv3")(x)
    x = conv(384, 3, 0.1, "conv4", groups=2)(x)
    x = conv(256, 3, 0.1, "conv5", groups=2)(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4096, activation="relu", **weights("fc6", std=0.005, bias=0.1))(x)
    x = _layers.Dropout(dropout, seed=seed, name="fc7_dropout")(x)
    x = layers.Dense(4096, activation="relu", **weights("fc7", std=0.005, bias=0.1))(x)
    x = _layers.Dropout(dropout, seed=seed + 1, name="fc8_dropout")(x)
    logits = layers.Dense(classes, dtype="float32", **weights("fc8", std=0.01, bias=0.0))(x)
    return keras.Model(inputs, logits, name="alexnet_caffe")
