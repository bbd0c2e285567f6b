"""Confidence maps: the probability of every class at every pixel of a region of interest.

A network that classifies the patch around one pixel gives, patch after patch, a map ("in a
convolutional manner", Tajbakhsh et al. 2016, carotid intima-media thickness). Neighbouring patches
share nearly all their pixels. :class:`DenseMap` therefore runs the convolutions once over the whole
region and only the fully connected head once for each position; :func:`patchwise` is the plain way
and the measure of the fast one. :func:`confidence_maps` chooses.

A region of interest is a grey uint8 array (H + 2 margin, W + 2 margin): the H x W pixels to be
evaluated and the real image around them.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from medxfer.atrous import AtrousMap, UnsupportedNetworkError
from medxfer.coarse_to_fine import coarse_to_fine

METHODS = ("coarse_to_fine", "dense", "patchwise")


def confidence_maps(
    model: keras.Model,
    model_module: ModuleType,
    rois: Sequence[np.ndarray],
    *,
    patch: int,
    margin: int | None = None,
    method: str = "dense",
    calibration: int = 512,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """Map after map, float32 (H, W, classes), in the order of ``rois``.

    Parameters
    ----------
    model, model_module, patch, margin
        As for :class:`DenseMap`.
    rois
        Regions of interest, of any sizes.
    method
        ``dense``, ``coarse_to_fine`` or ``patchwise``. Networks that cannot be run on a whole
        region are run patch by patch, which is logged.
    calibration
        Patches of ``rois`` for :meth:`DenseMap.calibrate`; 0: none.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If ``method`` is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}. Received: {method!r}.")
    mapper = functools.partial(patchwise, model, model_module, patch=patch, margin=margin)
    if method != "patchwise":
        try:
            dense = DenseMap(model, model_module, patch=patch, margin=margin)
        except UnsupportedNetworkError as error:
            logging.warning("%s Every patch is classified by itself, which is slow.", error)
        else:
            if calibration:
                dense.calibrate(rois, calibration)
            mapper = dense
            if method == "coarse_to_fine":
                mapper = lambda roi: coarse_to_fine(dense, roi).probabilities  # noqa: E731
    for roi in tqdm(rois, desc="confidence maps", unit="ROI", disable=not progress):
        yield mapper(roi)


def default_margin(patch: int) -> int:
    """Pixels of context that a region needs on each side for patches of ``patch`` pixels."""
    return patch // 2 + 2


def default_stride(patch: int, side: int) -> int:
    """Largest of 8, 4, 2, 1 enlarged pixels that is at most 1.1 pixels of the image."""
    return next((stride for stride in (8, 4, 2) if stride * patch <= 1.1 * side), 1)


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
    beyond = _checked_margin(patch, margin, least=patch // 2) - patch // 2
    inner = roi[beyond : roi.shape[0] - beyond, beyond : roi.shape[1] - beyond]
    windows = np.lib.stride_tricks.sliding_window_view(inner, (patch, patch))
    shape = windows.shape[:2]
    if pixels is None:
        pixels = np.indices(shape).reshape(2, -1).T
    else:
        shape = (len(pixels),)

    @tf.function(reduce_retracing=True)
    def classify(patches):
        return tf.nn.softmax(model(network_input(patches, model_module), training=False))

    batches = np.split(pixels, range(batch_size, len(pixels), batch_size))
    found = [classify(windows[tuple(batch.T)][..., None]) for batch in batches]
    return np.concatenate(found).reshape(*shape, -1)


class DenseMap:
    """Confidence maps of whole regions by one run of the convolutions.

    The region is enlarged once by z = side / ``patch``, so that the patch around a pixel becomes a
    window of ``side`` pixels, and all windows ``stride`` enlarged pixels apart are evaluated
    together (:class:`medxfer.atrous.AtrousMap`). These positions form a grid that begins at pixel
    (0, 0) and whose ``spacing`` is stride / z pixels; between them probabilities are interpolated
    linearly.

    On the grid the result would equal :func:`patchwise` but for padding: inside a patch the layers
    see zeros beyond its border, in the map they see the image there. :meth:`calibrate` teaches the
    head the difference.

    Parameters
    ----------
    model
        Preprocessed images -> logits; as :class:`medxfer.atrous.AtrousMap` demands. Runs under its
        own precision.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    patch
        Side of a patch in pixels, odd.
    margin
        Context of a region on each side; ``default_margin(patch)``, the least, where None.
    stride
        Enlarged pixels between positions; where None the largest power of two, 8 at most, that
        keeps ``spacing`` within 1.1 pixels.
    chunk
        Positions given to the head at once: bounds the memory for its input.

    Raises
    ------
    UnsupportedNetworkError
        If ``model`` cannot be run on a whole region; the message names the layer.
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
        self._model = model
        self._preprocess = model_module.preprocess
        self._map = AtrousMap(model, self.stride)
        self._features = tf.function(lambda roi: self._map(self._enlarged(roi))[0])
        self._use_head(keras.Model(self._map.output, model.outputs[0]))

    def grid(self, roi: np.ndarray) -> tuple[int, int]:
        """Rows and columns of positions in ``roi``."""
        return tuple(
            math.ceil((length - 2 * self.margin - 1) / self.spacing) + 1 for length in roi.shape
        )

    def features(self, roi: np.ndarray) -> tf.Tensor:
        """What the head reads, (rows, columns, channels), of the whole region."""
        return self._features(roi)

    def probabilities(self, features: tf.Tensor, positions: np.ndarray) -> np.ndarray:
        """Head at ``positions`` of the grid, int (M, 2) -> float32 (M, classes)."""
        positions = np.asarray(positions, np.int32)
        chunks = np.split(positions, range(self.chunk, len(positions), self.chunk))
        return np.concatenate([self._classify(features, chunk) for chunk in chunks])

    def to_pixels(self, values: np.ndarray, roi: np.ndarray) -> np.ndarray:
        """Interpolate values on the grid, (rows, columns, classes), at the pixels of ``roi``."""
        rows, columns = (
            _interpolation(np.arange(length - 2 * self.margin) / self.spacing, count)
            for length, count in zip(roi.shape, values.shape[:2], strict=True)
        )
        return np.einsum("ya,abk,xb->yxk", rows, values, columns, optimize=True)

    def __call__(self, roi: np.ndarray) -> np.ndarray:
        """Map of one region: float32 (H, W, classes). Regions of one size share one graph."""
        grid = self.grid(roi)
        everywhere = np.indices(grid).reshape(2, -1).T
        values = self.probabilities(self.features(roi), everywhere)
        return self.to_pixels(values.reshape(*grid, -1), roi)

    def calibrate(
        self, rois: Sequence[np.ndarray], samples: int = 512, seed: int = 0, ridge: float = 0.01
    ) -> tuple[float, float]:
        """Refit the head's first dense layer to features that lack the padding of patches.

        Random windows of ``rois`` are computed twice, as the map has them and as patches. Ridge
        regression, shrunk towards the present weights, then finds the weights with which the layer
        answers to the former as it now does to the latter. No labels are used, the model itself is
        left alone, and maps take no longer.

        Parameters
        ----------
        rois
            Regions like those to be mapped; at most 16 of them are used.
        samples
            Number of windows.
        seed
            Seed of their choice.
        ridge
            Strength of the shrinkage, relative to the mean squared length of the features.

        Returns
        -------
        before, after : float
            Share of the variance of the layer's answers to patches that its answers to the map
            leave unexplained; the latter by leaving each window out in turn.

        Raises
        ------
        ValueError
            If ``rois`` is empty or the head has no dense layer.
        """
        operations = self._model.operations
        layer = next((o for o in operations if isinstance(o, keras.layers.Dense)), None)
        if layer is None or not len(rois):
            raise ValueError("Calibration needs a region and a network with a dense layer.")
        random = np.random.default_rng(seed)
        chosen = random.choice(len(rois), min(16, len(rois)), replace=False)
        share = -(-samples // len(chosen))
        read_map = keras.Model(self._map.output, layer.input)
        read_patches = keras.Model(self._model.inputs[0], layer.input)
        pairs = [self._windows(rois[k], share, random, read_map, read_patches) for k in chosen]
        x, patches = (np.concatenate(part).astype(np.float32) for part in zip(*pairs, strict=True))
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else 0.0
        kernel, bias, before, after = ridge_refit(x, patches @ kernel + bias, kernel, bias, ridge)
        self._use_head(self._with_dense(layer, [kernel, bias]))
        logging.info("Head fitted to maps: %.3f of variance unexplained, was %.3f.", after, before)
        return before, after

    def _enlarged(self, roi):
        # Sample u of the enlarged region lies (u - (side - 1) / 2) / z pixels beyond pixel 0, which
        # for the first window gives the half-pixel centres of the resized patch.
        axes = []
        for length, count in zip(roi.shape, self.grid(roi), strict=True):
            samples = np.arange(self.side + (count - 1) * self.stride) - (self.side - 1) / 2
            axes.append(_interpolation(self.margin + samples * self.patch / self.side, length))
        enlarged = axes[0] @ tf.cast(roi, tf.float32) @ axes[1].T
        return self._preprocess(tf.repeat(enlarged[None, :, :, None], 3, axis=-1))

    def _use_head(self, head):
        def classify(features, positions):
            return tf.nn.softmax(head(self._map.windows(features, positions), training=False))

        self._classify = tf.function(classify, reduce_retracing=True)

    def _windows(self, roi, number, random, read_map, read_patches):
        """What the first dense layer reads at random positions: from the map, from patches."""
        positions = np.stack([random.integers(0, count, number) for count in self.grid(roi)], 1)
        image = self._enlarged(roi)[0].numpy()
        cut = np.lib.stride_tricks.sliding_window_view(image, (self.side, self.side), (0, 1))
        patches = np.moveaxis(cut[tuple(positions.T * self.stride)], 1, -1)
        windows = self._map.windows(self.features(roi), positions)
        return read_map.predict_on_batch(windows), read_patches.predict_on_batch(patches)

    def _with_dense(self, layer, weights):
        """The head with a dense layer of other weights in place of ``layer``."""
        other = keras.layers.Dense.from_config(layer.get_config() | {"use_bias": True})
        other.build(layer.input.shape)
        other.set_weights(weights)
        x = keras.Input(batch_shape=self._map.output.shape)
        y = other(keras.Model(self._map.output, layer.input)(x))
        if layer.output is not self._model.outputs[0]:
            y = keras.Model(layer.output, self._model.outputs[0])(y)
        return keras.Model(x, y)


def ridge_refit(x, y, kernel, bias, ridge: float):
    """Weights near ``kernel`` with which ``x @ kernel + bias`` comes closest to ``y``.

    Minimises the squared error plus lambda |change of the kernel|^2, with lambda ``ridge`` times
    the mean squared length of the centred rows of ``x``; the bias is free.

    Parameters
    ----------
    x, y
        Float (N, inputs) and (N, outputs).
    kernel, bias
        Present weights, (inputs, outputs) and (outputs,) or 0.
    ridge
        Above 0.

    Returns
    -------
    kernel, bias : np.ndarray
        New weights.
    before, after : float
        Share of the variance of ``y`` left unexplained by the present weights, and by the new ones
        when each row is left out in turn (in closed form, with the means of all rows).
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    missing = y - y_mean - centred @ kernel
    products = (centred @ centred.T).astype(np.float64)  # N is small beside the inputs
    inverse = np.linalg.inv(products + ridge * np.trace(products) / len(x) * np.eye(len(x)))
    dual = inverse @ missing
    variance = np.sum((y - y_mean) ** 2)
    before = np.sum((y - x @ kernel - bias) ** 2) / variance
    after = np.sum((dual / np.diag(inverse)[:, None]) ** 2) / variance
    kernel = kernel + centred.T @ dual.astype(x.dtype)
    return kernel, y_mean - x_mean @ kernel, float(before), float(after)


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
