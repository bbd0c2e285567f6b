"""Networks of ``keras.applications`` with this package's groups, head, first weights and input."""

from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from medxfer.models import _layers

HEAD = "head"

# ImageNet's channel means and standard deviations as keras.applications has them.
_MEAN_BGR = (103.939, 116.779, 123.68)
_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)


def caffe_input(images):
    """RGB images, 0..255, (N, H, W, 3) -> float32 BGR less ImageNet's mean (mode ``caffe``)."""
    return ops.flip(ops.cast(images, "float32"), axis=-1) - ops.array(_MEAN_BGR)


def torch_input(images):
    """RGB images, 0..255, (N, H, W, 3) -> float32 with mean 0 and std 1 (mode ``torch``)."""
    scale = [1 / (255 * std) for std in _STD_RGB]
    offset = [-mean / std for mean, std in zip(_MEAN_RGB, _STD_RGB, strict=True)]
    return ops.cast(images, "float32") * ops.array(scale) + ops.array(offset)


def build(
    backbone: Callable[[keras.KerasTensor], keras.Model],
    name: str,
    side: int,
    classes: int,
    init: str,
    seed: int,
    dropout: float,
) -> keras.Model:
    """Network of convolutions, global average pooling and one dense layer, with random weights.

    Parameters
    ----------
    backbone
        Image tensor -> what ``keras.applications`` makes of it with ``include_top=False`` and
        ``weights=None``.
    name
        Name of the network.
    side
        Side of the input in pixels.
    classes
        Number of outputs.
    init
        ``gaussian``: N(0, sqrt(2 / fan_in)), the start of He et al. 2015, for convolutions and
        N(0, 0.01) for the head, as Caffe's recipe has a new head; ``xavier`` and ``msra`` as in
        :func:`medxfer.models._layers.weights` for all layers. Biases are 0.
    seed
        Seed of weights and dropout.
    dropout
        Share of the pooled features dropped in front of the head.

    Returns
    -------
    keras.Model
        float32 (N, side, side, 3), preprocessed -> logits, float32 (N, ``classes``).

    Raises
    ------
    UserError
        If ``init`` is unknown.
    """
    head = _layers.weights(init, seed, HEAD, std=0.01, bias=0.0)  # before anything is built
    base = backbone(keras.Input((side, side, 3), name="image"))
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Keras' .99 needs some 500 steps until the averages are those of the data: on small
            # sets, validation would see others than training.
            layer.momentum = 0.9
        _start(layer, "msra" if init == "gaussian" else init, seed)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(base.outputs[0])
    x = _layers.Dropout(dropout, seed=seed, name=f"{HEAD}_dropout")(x)
    logits = layers.Dense(classes, dtype="float32", **head)(x)
    return keras.Model(base.inputs[0], logits, name=name)


def _start(layer: keras.Layer, init: str, seed: int) -> None:
    """Give a convolution the first weights of ``init`` instead of its own."""
    if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
        return
    shape = tuple(layer.kernel.shape)
    initializer = _layers.weights(init, seed, layer.name, std=0.01, bias=0.0)["kernel_initializer"]
    if isinstance(layer, layers.DepthwiseConv2D):
        # One unit reads one channel; Keras' initialisers would count all of them.
        fan_in = float(np.prod(shape[:2]))
        start, own_seed = keras.initializers, initializer.seed
        if init == "xavier":
            limit = np.sqrt(3 / fan_in)
            initializer = start.RandomUniform(-limit, limit, seed=own_seed)
        else:
            initializer = start.RandomNormal(stddev=np.sqrt(2 / fan_in), seed=own_seed)
        layer.depthwise_initializer = initializer
    else:
        layer.kernel_initializer = initializer
    layer.kernel.assign(initializer(shape))
