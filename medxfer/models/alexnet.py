"""AlexNet as torchvision has it: one column, no local response normalisation.

Layers of Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
with dropout in front of fc6 and fc7. Its ImageNet weights are the ones still kept and reachable.
"""

import functools

import keras
from keras import layers, ops

from medxfer.models import _layers

INPUT_SIDE = 227
# Tajbakhsh et al. 2016, Table II. On 236 X-rays, validation losses after 4 epochs of ft:
# .42 (AUC .999); at .003 .18; conv5 .05; scratch .39.
RATE = 0.001
INIT = "msra"

LAYER_GROUPS = {
    name: (name,) for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
}

# torchvision's names of the layers with weights, in order.
TORCH_LAYERS = tuple(f"features.{k}" for k in (0, 3, 6, 8, 10)) + tuple(
    f"classifier.{k}" for k in (1, 4, 6)
)

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Caffe's Gaussian is made for inputs of 0..255: here they are smaller by 255 times their deviation.
_FIRST_STD = 0.01 * 255 * sum(_STD) / 3


def preprocess(images):
    """RGB images, 0..255, (N, H, W, 3) -> float32 network input with ImageNet mean 0 and std 1."""
    scale = [1 / (255 * std) for std in _STD]
    offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
    return ops.cast(images, "float32") * ops.array(scale) + ops.array(offset)


def build(classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5) -> keras.Model:
    """Build the network with random weights.

    Parameters
    ----------
    classes
        Number of outputs.
    init
        ``gaussian``, ``xavier`` or ``msra``; see :func:`medxfer.models._layers.weights`.
        Standard deviations and biases are those of Caffe's AlexNet, layer by layer, that of conv1
        in units of this network's inputs.
    seed
        Seed of weights and dropout.
    dropout
        Share of units dropped in front of fc6 and fc7.

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

    def conv(filters, side, bias, name, std=0.01, **kwargs):
        kwargs = {"padding": "same", "activation": "relu"} | kwargs
        return layers.Conv2D(filters, side, **kwargs, **weights(name, std=std, bias=bias))

    inputs = keras.Input((INPUT_SIDE, INPUT_SIDE, 3), name="image")
    x = layers.ZeroPadding2D(2, name="conv1_pad")(inputs)
    x = conv(64, 11, 0.0, "conv1", std=_FIRST_STD, strides=4, padding="valid")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = conv(192, 5, 0.1, "conv2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = conv(384, 3, 0.0, "conv3")(x)
    x = conv(256, 3, 0.1, "conv4")(x)
    x = conv(256, 3, 0.1, "conv5")(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    x = layers.Flatten(name="flatten")(x)
    x = _layers.Dropout(dropout, seed=seed, name="fc6_dropout")(x)
    x = layers.Dense(4096, activation="relu", **weights("fc6", std=0.005, bias=0.1))(x)
    x = _layers.Dropout(dropout, seed=seed + 1, name="fc7_dropout")(x)
    x = layers.Dense(4096, activation="relu", **weights("fc7", std=0.005, bias=0.1))(x)
    logits = layers.Dense(classes, dtype="float32", **weights("fc8", std=0.01, bias=0.0))(x)
    return keras.Model(inputs, logits, name="alexnet")
