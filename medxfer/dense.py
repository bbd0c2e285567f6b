"""Confidence maps: the probability of every class at every pixel of a region of interest.

A network that classifies the patch around one pixel gives, patch after patch, a map ("in a
convolutional manner", Tajbakhsh et al. 2016, carotid intima-media thickness). Neighbouring patches
share nearly all their pixels. :class:`DenseMap` therefore runs the convolutions once over the whole
region and only the fully connected head once for each position; :func:`patchwise` is the plain way
and the measure of the fast one.

A region of interest is a grey uint8 array (H + 2 margin, W + 2 margin): the H x W pixels to be
evaluated and the real image around them.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

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


class UnsupportedNetworkError(ValueError):
    """The network has a layer or a branch that cannot be run on a whole region."""


def default_margin(patch: int) -> int:
    """Pixels of context that a region needs on each side for patches of ``patch`` pixels."""
    return patch // 2 + 2


def network_input(images, model_module: ModuleType):
    """Grey or RGB images 0..255, (N, h, w, 1 or 3), of any size -> input of the network.

    Bilinear with half-pixel centres and without antialiasing, as in training.
    """
    side = model_module.INPUT_SIDE
    images = tf.image.resize(tf.cast(images, tf.float32), (side, side))
    if images.shape[-1] == 1:
        images = tf.repeat(images, 3, axis=-1)
    return model_module.preprocess(images)


def patchwise(
    model: keras.Model,
    model_module: ModuleType,
    roi: np.ndarray,
    *,
    patch: int,
    margin: int | None = None,
    pixels: np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Probabilities by classifying the patch around every pixel.

    Parameters
    ----------
    model
        Preprocessed images -> logits.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    roi
        Grey uint8 (H + 2 ``margin``, W + 2 ``margin``).
    patch
        Side of a patch in pixels, odd.
    margin
        Context on each side; ``default_margin(patch)`` where None.
    pixels
        int (M, 2): rows and columns to evaluate instead of all, (0, 0) being the first evaluated.
    batch_size
        Patches in one call of the network.

    Returns
    -------
    np.ndarray
        float32 (H, W, classes), or (M, classes) if ``pixels`` is given.

    Raises
    ------
    ValueError
        If ``patch`` is even or reaches beyond the context.
    """
    margin = _checked_margin(patch, margin, least=patch // 2)
    inner = roi[margin - patch // 2 : roi.shape[0] - margin + patch // 2]
    inner = inner[:, margin - patch // 2 : roi.shape[1] - margin + patch // 2]
    windows = np.lib.stride_tricks.sliding_window_view(inner, (patch, patch))
    if pixels is None:
        chosen = windows.reshape(-1, patch, patch)
    else:
        chosen = windows[tuple(np.asarray(pixels).T)]

    @tf.function(reduce_retracing=True)
    def classify(patches):
        return tf.nn.softmax(model(network_input(patches, model_module), training=False))

    found = [
        classify(chosen[first : first + batch_size, ..., None])
        for first in range(0, len(chosen), batch_size)
    ]
    values = np.concatenate(found)
    return values.reshape(*windows.shape[:2], -1) if pixels is None else values


class DenseMap:
    """Confidence maps of whole regions by one run of the convolutions.

    The region is enlarged once by z = side / ``patch``, so that the patch around a pixel becomes a
    window of ``side`` pixels. Windows ``stride`` enlarged pixels apart are evaluated together: a
    layer whose units lie S pixels apart in one window is computed at every g = gcd(stride, S)
    pixels, its kernel spread (dilated) by the ratio of S to g of the layer before ("a trous"). The
    head then reads, for each position, the units of that window. Probabilities, which lie
    ``spacing`` = ``stride`` / z pixels apart, are interpolated linearly at the pixels.

    The result would equal :func:`patchwise` at the positions but for padding: inside a patch the
    layers see zeros beyond its border, in the map they see the image there.

    Parameters
    ----------
    model
        Functional chain of layers, preprocessed images -> logits: convolutions, max pooling, zero
        padding and layers that act on each unit by itself; then a head that begins with flattening
        or global pooling. Runs under the model's own precision; its weights are read at each call.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    patch
        Side of a patch in pixels, odd.
    margin
        Context of a region on each side; ``default_margin(patch)`` where None.
    stride
        Enlarged pixels between positions; where None the largest power of two, 8 at most, that
        keeps ``spacing`` within 1.1 pixels.
    chunk
        Positions given to the head at once: bounds the memory for its input.

    Raises
    ------
    UnsupportedNetworkError
        If ``model`` is no such chain; the message names the layer.
    ValueError
        If ``patch`` is even or the margin too small.
    """

    def __init__(
        self,
        model: keras.Model,
        model_module: ModuleType,
        *,
        patch: int,
        margin: int | None = None,
        stride: int | None = None,
        chunk: int = 1024,
    ):
        self.side = model_module.INPUT_SIDE
        self.patch = patch
        self.margin = _checked_margin(patch, margin, least=default_margin(patch))
        self.stride = stride or default_stride(patch, self.side)
        self.spacing = self.stride * patch / self.side
        self.chunk = chunk
        self._preprocess = model_module.preprocess
        self._plan, self._window, cut = _plan(model, self.stride)
        self._head = keras.Model(cut, model.outputs[0], name=f"{model.name}_head")
        self._features = tf.function(self._compute_features)
        self._classify = tf.function(self._compute_probabilities, reduce_retracing=True)

    def grid(self, roi: np.ndarray) -> tuple[int, int]:
        """Rows and columns of positions in ``roi``; the first is its pixel (0, 0)."""
        return tuple(
            math.ceil((length - 2 * self.margin - 1) / self.spacing) + 1 for length in roi.shape
        )

    def features(self, roi: np.ndarray) -> tf.Tensor:
        """Last map in front of the head, (rows, columns, channels), of the whole region."""
        return self._features(roi)

    def probabilities(self, features: tf.Tensor, positions: np.ndarray) -> np.ndarray:
        """Head at ``positions`` of the grid, int (M, 2) -> float32 (M, classes)."""
        positions = np.asarray(positions, np.int32)
        parts = range(0, len(positions), self.chunk)
        return np.concatenate(
            [self._classify(features, positions[first : first + self.chunk]) for first in parts]
        )

    def to_pixels(self, values: np.ndarray, roi: np.ndarray) -> np.ndarray:
        """Interpolate values on the grid, (rows, columns, classes), at the pixels of ``roi``."""
        rows, columns = (
            _interpolation(np.arange(length - 2 * self.margin) / self.spacing, count)
            for length, count in zip(roi.shape, values.shape[:2], strict=True)
        )
        return np.einsum("ya,abk,xb->yxk", rows, values, columns, optimize=True)

    def __call__(self, roi: np.ndarray) -> np.ndarray:
        """Map of one region: float32 (H, W, classes)."""
        grid = self.grid(roi)
        everywhere = np.indices(grid).reshape(2, -1).T
        values = self.probabilities(self.features(roi), everywhere)
        return self.to_pixels(values.reshape(*grid, -1), roi)

    def maps(self, rois: Iterable[np.ndarray], progress: bool = False) -> Iterator[np.ndarray]:
        """Map after map, in the order of ``rois``; regions of one size share one compiled graph."""
        for roi in tqdm(rois, desc="confidence maps", unit="ROI", disable=not progress):
            yield self(roi)

    def _compute_features(self, roi):
        # Sample u of the enlarged region lies (u - (side - 1) / 2) / z pixels beyond pixel 0, which
        # for the first window gives the half-pixel centres of the resized patch.
        axes = []
        for length, count in zip(roi.shape, self.grid(roi), strict=True):
            samples = np.arange(self.side + (count - 1) * self.stride) - (self.side - 1) / 2
            axes.append(_interpolation(self.margin + samples * self.patch / self.side, length))
        enlarged = axes[0] @ tf.cast(roi, tf.float32) @ axes[1].T
        x = self._preprocess(tf.repeat(enlarged[None, :, :, None], 3, axis=-1))
        for step in self._plan:
            x = step(x)
        return x[0]

    def _compute_probabilities(self, features, positions):
        size, between_units, between_windows = self._window
        rows, columns = (
            positions[:, axis, None] * between_windows + np.arange(size) * between_units
            for axis in (0, 1)
        )
        units = rows[:, :, None] * tf.shape(features)[1] + columns[:, None, :]
        windows = tf.gather(tf.reshape(features, (-1, features.shape[-1])), units)
        return tf.nn.softmax(self._head(windows, training=False))


def default_stride(patch: int, side: int) -> int:
    """Largest of 8, 4, 2, 1 enlarged pixels that is at most 1.1 pixels of the image."""
    return next((s for s in (8, 4, 2) if s * patch <= 1.1 * side), 1)


def _checked_margin(patch: int, margin: int | None, least: int) -> int:
    if patch % 2 == 0:
        raise ValueError(f"A patch has a centre pixel: its side must be odd. Received: {patch}.")
    margin = default_margin(patch) if margin is None else margin
    if margin < least:
        raise ValueError(f"Patches of {patch} pixels need a margin of {least}. Received: {margin}.")
    return margin


def _interpolation(places: np.ndarray, length: int) -> np.ndarray:
    """Matrix (places, length) of linear interpolation; beyond the ends the end value."""
    places = np.clip(places, 0, length - 1)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(length))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Step:
    """One layer as it runs on the map; ``spread`` is the distance of one window's units there."""

    layer: keras.Layer
    spread: int
    step: int = 1
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    def __call__(self, x):
        if isinstance(self.layer, layers.MaxPooling2D):
            return self._max_pool(self._padded(x, x.dtype.min))
        x = self._padded(x, 0)
        if isinstance(self.layer, layers.Conv2D):
            return self._convolve(x)
        return x if isinstance(self.layer, layers.ZeroPadding2D) else self.layer(x, training=False)

    def _padded(self, x, value):
        if self.pads == ((0, 0), (0, 0)):
            return x
        return tf.pad(x, [(0, 0), *self.pads, (0, 0)], constant_values=value)

    def _max_pool(self, x):
        # The maximum over a window is that of its rows, then of its columns: shifted copies.
        for axis, size in zip((1, 2), self.layer.pool_size, strict=True):
            reach = self.spread * (size - 1)
            ends = [x.shape[axis] - reach + self.spread * tap for tap in range(size)]
            ranges = [slice(end - x.shape[axis] + reach, end, self.step) for end in ends]
            x = functools.reduce(tf.maximum, [x[:, r] if axis == 1 else x[:, :, r] for r in ranges])
        return x

    def _convolve(self, x):
        layer = self.layer
        x = tf.cast(x, layer.compute_dtype)
        kernel = tf.cast(layer.kernel, layer.compute_dtype)
        dilations = [self.spread * rate for rate in layer.dilation_rate]
        x = tf.concat(
            [
                tf.nn.conv2d(part, filters, self.step, "VALID", dilations=dilations)
                for part, filters in zip(
                    tf.split(x, layer.groups, axis=-1),
                    tf.split(kernel, layer.groups, axis=-1),
                    strict=True,
                )
            ],
            axis=-1,
        )
        if layer.use_bias:
            x = tf.nn.bias_add(x, tf.cast(layer.bias, x.dtype))
        return layer.activation(x)


def _plan(model: keras.Model, stride: int):
    """Steps up to the head, the window the head reads, and the tensor at which it begins.

    The window is (units along a side, distance of its units, distance of windows), in map units.
    """
    x = model.inputs[0]
    size, between = x.shape[1], 1  # units along the side of one window, enlarged pixels apart
    grid = 1  # enlarged pixels between the units of the map
    steps: list[_Step] = []
    for layer in model.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        if [id(tensor) for tensor in keras.tree.flatten(layer.input)] != [id(x)]:
            raise UnsupportedNetworkError(f"{model.name} is no chain: it branches at {layer.name}.")
        if isinstance(layer, _JUNCTIONS):
            return steps, (size, between // grid, stride // grid), x
        spread = between // grid
        if isinstance(layer, _POINTWISE):
            steps.append(_Step(layer, spread))
        else:
            step, pads = _stride_and_padding(layer, size)
            between *= step
            finer = math.gcd(stride, between)
            spread_pads = tuple((before * spread, after * spread) for before, after in pads)
            steps.append(_Step(layer, spread, finer // grid, spread_pads))
            grid = finer
        x = layer.output
        size = x.shape[1]
    raise UnsupportedNetworkError(f"{model.name} has no layer that flattens or pools its map.")


def _stride_and_padding(layer: keras.Layer, size: int):
    """Stride and ((top, bottom), (left, right)) padding of ``layer`` on ``size`` units a side."""
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
        return step, ((0, 0), (0, 0))
    # "same" as TensorFlow defines it: the smaller half in front.
    totals = [max(0, ((size - 1) // step) * step + r + 1 - size) for r in reach]
    return step, tuple((total // 2, total - total // 2) for total in totals)
