"""The convolutional part of a network run over a whole image instead of window after window.

A layer whose units lie S pixels apart in one window of the network is computed here at every
g = gcd(stride, S) pixels, so that windows ``stride`` pixels apart share all their units. Its kernel
is spread (dilated) by the ratio of S to g of the layer before: "a trous" (Holschneider et al. 1989;
for networks Giusti et al. 2013).

Inside one window, layers that pad see zeros beyond its border; here they see the image there, and
zeros only beyond the border of the image.
"""

import dataclasses
import functools
import math

import keras
import tensorflow as tf
from keras import layers

from medxfer.models._layers import LocalResponseNormalization

# Layers that act on each unit by itself, whatever lies beside it.
_POINTWISE = (
    layers.Activation,
    layers.BatchNormalization,
    layers.Dropout,
    layers.ReLU,
    LocalResponseNormalization,
)
# Layers at which the map ends and the head, which sees whole windows, begins.
_JUNCTIONS = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_NO_PADS = ((0, 0), (0, 0))


class UnsupportedNetworkError(ValueError):
    """The network has a layer or a branch that cannot be run on a whole region."""


class AtrousMap:
    """Units of a network for all its windows ``stride`` pixels apart in one image.

    Parameters
    ----------
    model
        Functional chain of convolutions (also grouped), max pooling, zero padding and layers that
        act on each unit by itself, up to a layer that flattens or pools the whole map. Runs under
        the model's own precision and reads its weights at each call.
    stride
        Pixels between windows.

    Attributes
    ----------
    output : keras.KerasTensor
        The tensor of ``model`` that is computed: (N, size, size, channels).
    pads : bool
        Whether a layer pads, so that units near the border of a window differ.

    Raises
    ------
    UnsupportedNetworkError
        If ``model`` is no such chain; the message names the layer.
    """

    def __init__(self, model: keras.Model, stride: int):
        self._steps, self.output, spacing, grid = _plan(model, stride)
        self.pads = any(step.pads != _NO_PADS for step in self._steps)
        self._size = self.output.shape[1]
        self._unit_step = spacing // grid
        self._window_step = stride // grid

    def __call__(self, images):
        """Images of fixed size, (N, H, W, 3), preprocessed -> map (N, rows, columns, channels)."""
        for step in self._steps:
            images = step(images)
        return images

    def windows(self, image_map, positions):
        """What the network computes for single windows.

        Parameters
        ----------
        image_map
            Map of one image, (rows, columns, channels).
        positions
            int (M, 2): rows and columns of windows, counted in strides.

        Returns
        -------
        tf.Tensor
            (M, size, size, channels).
        """
        rows, columns = (
            positions[:, axis, None] * self._window_step + tf.range(self._size) * self._unit_step
            for axis in (0, 1)
        )
        units = rows[:, :, None] * tf.shape(image_map)[1] + columns[:, None, :]
        return tf.gather(tf.reshape(image_map, (-1, image_map.shape[-1])), units)


@dataclasses.dataclass(frozen=True)
class _Step:
    """One layer as it runs on the map.

    ``spread`` is the distance of the units of one window in the map the layer reads, ``step`` that
    of the units it computes, ``pads`` what the layer adds to a window (top, bottom), (left, right).
    """

    layer: keras.Layer
    spread: int
    step: int
    pads: tuple[tuple[int, int], tuple[int, int]]

    def __call__(self, x):
        if isinstance(self.layer, layers.MaxPooling2D):
            return self._max_pool(self._padded(x, x.dtype.min))
        x = self._padded(x, 0)
        if isinstance(self.layer, layers.Conv2D):
            return self._convolve(x)
        return x if isinstance(self.layer, layers.ZeroPadding2D) else self.layer(x, training=False)

    def _padded(self, x, value):
        if self.pads == _NO_PADS:
            return x
        pads = [(before * self.spread, after * self.spread) for before, after in self.pads]
        return tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)

    def _max_pool(self, x):
        # The maximum over a window is that of its rows, then of its columns: shifted copies.
        for axis, size in zip((1, 2), self.layer.pool_size, strict=True):
            length = x.shape[axis] - self.spread * (size - 1)
            starts = [self.spread * tap for tap in range(size)]
            taps = [slice(start, start + length, self.step) for start in starts]
            x = functools.reduce(tf.maximum, [x[:, t] if axis == 1 else x[:, :, t] for t in taps])
        return x

    def _convolve(self, x):
        layer = self.layer
        x = tf.cast(x, layer.compute_dtype)
        kernel = tf.cast(layer.kernel, layer.compute_dtype)
        dilations = [self.spread * rate for rate in layer.dilation_rate]
        groups = zip(
            tf.split(x, layer.groups, axis=-1), tf.split(kernel, layer.groups, axis=-1), strict=True
        )
        parts = [
            tf.nn.conv2d(channels, filters, self.step, "VALID", dilations=dilations)
            for channels, filters in groups
        ]
        x = parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)
        if layer.use_bias:
            x = tf.nn.bias_add(x, tf.cast(layer.bias, x.dtype))
        return layer.activation(x)


def _plan(model: keras.Model, stride: int):
    """Steps up to the head, the tensor there, its units' spacing in a window and in the map."""
    x = model.inputs[0]
    spacing = grid = 1
    steps: list[_Step] = []
    for layer in model.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        if [id(tensor) for tensor in keras.tree.flatten(layer.input)] != [id(x)]:
            raise UnsupportedNetworkError(f"{model.name} is no chain: it branches at {layer.name}.")
        if isinstance(layer, _JUNCTIONS):
            return steps, x, spacing, grid
        layer_stride, pads = _stride_and_padding(layer, x.shape[1])
        next_grid = math.gcd(stride, spacing * layer_stride)
        steps.append(_Step(layer, spacing // grid, next_grid // grid, pads))
        spacing, grid, x = spacing * layer_stride, next_grid, layer.output
    raise UnsupportedNetworkError(f"{model.name} has no layer that flattens or pools its map.")


def _stride_and_padding(layer: keras.Layer, size: int):
    """Stride and ((top, bottom), (left, right)) padding of ``layer`` on ``size`` units a side."""
    if isinstance(layer, _POINTWISE):
        return 1, _NO_PADS
    if isinstance(layer, layers.ZeroPadding2D):
        return 1, layer.padding
    if isinstance(layer, layers.Conv2D):
        reach = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    elif isinstance(layer, layers.MaxPooling2D):
        reach = [k - 1 for k in layer.pool_size]
    else:
        raise UnsupportedNetworkError(f"{type(layer).__name__} '{layer.name}' is not supported.")
    if len(set(layer.strides)) > 1 or layer.data_format != "channels_last":
        raise UnsupportedNetworkError(
            f"Layer '{layer.name}' has unequal strides or its channels are not last."
        )
    step = layer.strides[0]
    if layer.padding == "valid":
        return step, _NO_PADS
    # "same" as TensorFlow defines it: the smaller half in front.
    totals = [max(0, ((size - 1) // step) * step + r + 1 - size) for r in reach]
    return step, tuple((total // 2, total - total // 2) for total in totals)
