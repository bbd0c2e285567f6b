"""Weights that are stored small and computed with in float32.

A served network is as large as its weights. Here kernels are kept as float16 or int8 and turned
back into float32 in the graph, by every request, so that files, transfers and memory shrink to
about a half or a quarter while all arithmetic stays what it was. A request costs the conversion in
addition. Biases and the statistics of normalisation, which are few, stay float32.

``float16``
    Rounded to the nearest half-precision number.
``int8``
    Symmetric, one scale for every output channel (Krishnamoorthi 2018, arXiv:1806.08342, section
    2.2): ``w ~ scale * q`` with q in -127..127 and scale = max|w| / 127 over the channel, so that
    an error is at most half a scale.
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

#: How weights may be stored.
KINDS = ("float32", "float16", "int8")

Forward = Callable[[tf.Tensor], tf.Tensor]


def small(
    kernel: NDArray[np.float32], kind: str, channels: int = 1
) -> tuple[NDArray, NDArray[np.float32] | None]:
    """Store a kernel small.

    Parameters
    ----------
    kernel : float32 array
    kind : str
        ``float16`` or ``int8``.
    channels : int
        Number of the last axes that count output channels: of a depthwise kernel two, else one.

    Returns
    -------
    stored, scale : float16 array and None, or int8 array and float32 array
        ``scale`` has the shape of the channels, with ones before.

    Raises
    ------
    ValueError
        If a weight is beyond what float16 can hold.
    """
    if kind == "float16":
        with np.errstate(over="ignore"):
            stored = kernel.astype(np.float16)
        if not np.all(np.isfinite(stored)):
            raise ValueError("A weight is beyond 65504, the largest number of float16: use int8.")
        return stored, None
    axes = tuple(range(kernel.ndim - channels))
    scale = np.max(np.abs(kernel), axis=axes, keepdims=True).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    return np.round(kernel / scale).astype(np.int8), scale


def restored(model: keras.Model, kind: str) -> keras.Model:
    """Copy of a float32 model with the weights that an export of this kind computes with."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    if kind != "float32":
        kernels = _kernels(twin)
        for variable in (one for one in twin.variables if one.path in kernels):
            stored, scale = small(variable.numpy(), kind, kernels[variable.path])
            value = stored.astype(np.float32)
            variable.assign(value if scale is None else value * scale)
    return twin


def forward(model: keras.Model, kind: str) -> Forward:
    """Function of network inputs that computes the model's logits from small weights.

    Parameters
    ----------
    model : keras.Model
        In float32.
    kind : str
        One of :data:`KINDS`.
    """
    if kind == "float32":
        return lambda images: model(images, training=False)
    kernels = _kernels(model)
    trainable, others = (
        [_reader(variable, kind, kernels.get(variable.path, 0)) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    def run(images: tf.Tensor) -> tf.Tensor:
        values = ([read() for read in readers] for readers in (trainable, others))
        logits, _ = model.stateless_call(*values, images, training=False)
        return logits

    return run


def _kernels(model: keras.Model) -> dict[str, int]:
    """Path of every kernel -> number of its last axes that count output channels."""
    depthwise = {
        layer.kernel.path
        for layer in _layers(model)
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    }
    return {
        variable.path: 2 if variable.path in depthwise else 1
        for variable in model.variables
        if len(variable.shape) > 1 and "float" in variable.dtype
    }


def _layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """The layer, or those of a network that is used as one."""
    for inner in getattr(layer, "layers", ()):
        yield from _layers(inner)
    yield layer


def _reader(variable: keras.Variable, kind: str, channels: int) -> Callable[[], tf.Tensor]:
    """Function that gives the variable's value from what is stored in its place."""
    if "float" not in variable.dtype:  # states of random numbers, which nothing draws here
        state = tf.constant(variable.numpy())
        return lambda: state
    if not channels:
        kept = tf.Variable(variable.numpy(), trainable=False)
        return lambda: tf.convert_to_tensor(kept)
    stored, scale = small(variable.numpy(), kind, channels)
    packed = tf.Variable(stored, trainable=False)
    if scale is None:
        return lambda: tf.cast(packed, tf.float32)
    factor = tf.Variable(scale, trainable=False)
    return lambda: tf.cast(packed, tf.float32) * factor
