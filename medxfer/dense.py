"""Confidence maps: the probability of every class at every pixel of a region of interest.

A network that classifies the patch around one pixel gives, patch after patch, a map ("in a
convolutional manner", Tajbakhsh et al. 2016, carotid intima-media thickness). Neighbouring patches
share nearly all their pixels. :class:`DenseMap` therefore runs the convolutions once over the whole
region and only the fully connected head once for each position; :class:`PatchMap` is the plain way
and the measure of the fast one. :func:`mapper` chooses.

A region of interest is a grey uint8 array (H + 2 margin, W + 2 margin): the H x W pixels to be
evaluated and the real image around them.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from medxfer.atrous import AtrousMap, UnsupportedNetworkError
from medxfer.coarse_to_fine import coarse_to_fine
from medxfer.config import MAPS
from medxfer.data import patch_transform

#: Region -> probabilities, float32 (H, W, classes).
Mapper = Callable[[np.ndarray], np.ndarray]


def mapper(
    model: keras.Model,
    model_module: ModuleType,
    *,
    patch: int,
    margin: int | None = None,
    method: str = "dense",
    rois: Sequence[np.ndarray] = (),
    own_samples: int | None = None,
) -> Mapper:
    """How regions are mapped.

    Parameters
    ----------
    model, model_module, patch, margin
        As for :class:`DenseMap`.
    method
        ``dense``, ``coarse_to_fine`` or ``patchwise``. Networks that cannot be run on a whole
        region are run patch by patch, which is logged.
    rois
        Regions for :meth:`DenseMap.calibrated`, once for all maps, for instance those of the
        validation subjects.
    own_samples
        Windows of each region for a calibration of its own. It costs as much as to classify so
        many patches and brings a map closer to the one patch by patch than ``rois`` do. 0: none;
        None: 256 where ``rois`` is empty, else none.

    Raises
    ------
    ValueError
        If ``method`` is unknown.
    """
    if method not in MAPS:
        raise ValueError(f"method must be one of {', '.join(MAPS)}. Received: {method!r}.")
    if method != "patchwise":
        try:
            maps = DenseMap(model, model_module, patch=patch, margin=margin)
        except UnsupportedNetworkError as error:
            logging.warning("%s Every patch is classified by itself, which is slow.", error)
        else:
            if own_samples is None:
                own_samples = 0 if len(rois) else 256
            maps = maps.calibrated(rois) if len(rois) else maps
            return functools.partial(_map, maps, method == "coarse_to_fine", own_samples)
    return PatchMap(model, model_module, patch=patch, margin=margin)


def _map(maps: "DenseMap", coarse: bool, own_samples: int, roi: np.ndarray) -> np.ndarray:
    features = maps.features(roi)
    if own_samples:
        maps = maps.calibrated([roi], own_samples, features=[features])
    if coarse:
        return coarse_to_fine(maps, roi, features=features).probabilities
    return maps(roi, features)


def default_margin(patch: int) -> int:
    """Pixels of context that a region needs on each side for patches of ``patch`` pixels."""
    return patch // 2 + 2


def default_stride(patch: int, side: int) -> int:
    """Largest of 8, 4, 2, 1 enlarged pixels that is at most 1.25 pixels of the image."""
    return next((stride for stride in (8, 4, 2) if stride * patch <= 1.25 * side), 1)


class PatchMap:
    """Confidence maps by classifying the patch around every pixel.

    Parameters
    ----------
    model
        Preprocessed images -> logits.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    patch
        Side of a patch in pixels, odd.
    margin
        Context of a region on each side; ``default_margin(patch)`` where None.
    batch_size
        Patches in one call of the network.

    Raises
    ------
    ValueError
        If ``patch`` is even or reaches beyond the context.
    """

    def __init__(
        self,
        model: keras.Model,
        model_module: ModuleType,
        *,
        patch: int,
        margin: int | None = None,
        batch_size: int = 64,
    ):
        self.patch = patch
        self.margin = _checked_margin(patch, margin, least=patch // 2)
        self.batch_size = batch_size
        transform = patch_transform(model_module)
        self._classify = tf.function(
            lambda patches: tf.nn.softmax(model(transform(patches), training=False)),
            reduce_retracing=True,
        )

    def __call__(self, roi: np.ndarray) -> np.ndarray:
        """Map of one region: float32 (H, W, classes)."""
        shape = [length - 2 * self.margin for length in roi.shape]
        return self.at(roi, np.indices(shape).reshape(2, -1).T).reshape(*shape, -1)

    def at(self, roi: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Probabilities at ``pixels``, int (M, 2) rows and columns: float32 (M, classes)."""
        windows = np.lib.stride_tricks.sliding_window_view(roi, (self.patch, self.patch))
        corners = np.asarray(pixels) + self.margin - self.patch // 2
        batches = np.split(corners, range(self.batch_size, len(corners), self.batch_size))
        return np.concatenate([self._classify(windows[tuple(b.T)][..., None]) for b in batches])


class DenseMap:
    """Confidence maps of whole regions by one run of the convolutions.

    The region is enlarged once by z = side / ``patch``, so that the patch around a pixel becomes a
    window of ``side`` pixels, and all windows ``stride`` enlarged pixels apart are evaluated
    together (:class:`medxfer.atrous.AtrousMap`). These positions form a grid that begins at pixel
    (0, 0) and whose ``spacing`` is stride / z pixels; between them probabilities are interpolated
    linearly.

    On the grid the result would equal :class:`PatchMap` but for padding: inside a patch the layers
    see zeros beyond its border, in the map they see the image there. :meth:`calibrated` makes up
    for most of the difference.

    Parameters
    ----------
    model
        Preprocessed images -> logits; as :class:`medxfer.atrous.AtrousMap` demands, and with a
        dense layer behind. Runs under its own precision; make a new map when its weights change.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    patch
        Side of a patch in pixels, odd.
    margin
        Context of a region on each side; ``default_margin(patch)``, the least, where None.
    stride
        Enlarged pixels between positions; where None the largest power of two, 8 at most, that
        keeps ``spacing`` within 1.25 pixels.
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
        self._preprocess = model_module.preprocess
        self._map = AtrousMap(model, self.stride)
        self._features = tf.function(lambda roi: self._map(self._enlarged(roi))[0])
        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        if not dense:
            raise UnsupportedNetworkError(f"{model.name} has no dense layer.")
        self._dense, output = dense[0], model.outputs[0]
        body = keras.Model(model.inputs[0], self._dense.input)
        self._read_patches = tf.function(lambda x: body(x, training=False), reduce_retracing=True)
        self._read = keras.Model(self._map.output, self._dense.input)
        last = self._dense.output is output
        self._rest = None if last else keras.Model(self._dense.output, output)
        self._classify = tf.function(self._head, reduce_retracing=True)
        self._kernel = tf.cast(self._dense.kernel, self._dense.compute_dtype)
        inputs, outputs = self._kernel.shape
        self._correct(
            np.zeros((inputs, 0), np.float32),
            np.zeros((0, outputs), np.float32),
            np.float32(self._dense.bias if self._dense.use_bias else np.zeros(outputs)),
        )

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
        return np.concatenate(
            [self._classify(features, chunk, self._kernel, *self._correction) for chunk in chunks]
        )

    def to_pixels(self, values: np.ndarray, roi: np.ndarray) -> np.ndarray:
        """Interpolate values on the grid, (rows, columns, classes), at the pixels of ``roi``."""
        rows, columns = (
            _interpolation(np.arange(length - 2 * self.margin) / self.spacing, count)
            for length, count in zip(roi.shape, values.shape[:2], strict=True)
        )
        return np.einsum("ya,abk,xb->yxk", rows, values, columns, optimize=True)

    def __call__(self, roi: np.ndarray, features: tf.Tensor | None = None) -> np.ndarray:
        """Map of one region: float32 (H, W, classes). Regions of one size share one graph.

        ``features`` are those of :meth:`features`, where they are known already.
        """
        grid = self.grid(roi)
        everywhere = np.indices(grid).reshape(2, -1).T
        features = self.features(roi) if features is None else features
        values = self.probabilities(features, everywhere)
        return self.to_pixels(values.reshape(*grid, -1), roi)

    def calibrated(
        self,
        rois: Sequence[np.ndarray],
        samples: int = 512,
        seed: int = 0,
        ridge: float = 0.01,
        features: Sequence[tf.Tensor] | None = None,
    ) -> "DenseMap":
        """A map whose first dense layer is fitted to features that lack the padding of patches.

        Windows of ``rois`` are computed twice, as the map has them and as patches. Ridge
        regression, shrunk towards the present weights, then finds the weights with which the layer
        answers to the former as it does to the latter. No labels are used and the model itself is
        left alone. The change has the rank of ``samples`` and is kept as two thin matrices, so
        that maps take little longer. The share of the difference that is left is logged. Where
        the network does not pad there is nothing to fit, and the map itself is returned.

        Parameters
        ----------
        rois
            Regions like those to be mapped; at most 16 of them are used.
        samples
            Number of windows, chosen at random, mostly where a class other than 0 is probable.
        seed
            Seed of the choice.
        ridge
            See :func:`ridge_correction`.
        features
            What :meth:`features` gives for each of ``rois``, where it is known already.

        Raises
        ------
        ValueError
            If ``rois`` is empty.
        """
        if not len(rois):
            raise ValueError("Calibration needs a region.")
        if not self._map.pads:
            return self
        random = np.random.default_rng(seed)
        chosen = random.choice(len(rois), min(16, len(rois)), replace=False)
        share = -(-samples // len(chosen))
        pairs = [
            self._windows(
                rois[k], features[k] if features else self.features(rois[k]), share, random
            )
            for k in chosen
        ]
        x, patches = (np.concatenate(part) for part in zip(*pairs, strict=True))
        basis, dual, bias = (keras.ops.convert_to_numpy(part) for part in self._exact)
        own_bias = keras.ops.convert_to_numpy(self._dense.bias) if self._dense.use_bias else 0.0
        # The difference is taken before it is rounded to the precision of the model.
        through = tf.matmul(tf.cast(patches - x, self._kernel.dtype), self._kernel)
        missing = tf.cast(through, tf.float32).numpy() + own_bias - bias - x @ basis @ dual
        more_basis, more_dual, shift, left = ridge_correction(x, missing, ridge)
        logging.vlog(1, "Head fitted to maps: %.3f of the difference left.", left)
        fitted = copy.copy(self)  # shares the compiled graphs, which take the weights as arguments
        fitted._correct(
            np.concatenate([basis, more_basis], 1), np.concatenate([dual, more_dual]), bias + shift
        )
        return fitted

    def _enlarged(self, roi):
        # Sample u of the enlarged region lies (u - (side - 1) / 2) / z pixels beyond pixel 0, which
        # for the first window gives the half-pixel centres of the resized patch.
        axes = []
        for length, count in zip(roi.shape, self.grid(roi), strict=True):
            samples = np.arange(self.side + (count - 1) * self.stride) - (self.side - 1) / 2
            axes.append(_interpolation(self.margin + samples * self.patch / self.side, length))
        enlarged = axes[0] @ tf.cast(roi, tf.float32) @ axes[1].T
        return self._preprocess(tf.repeat(enlarged[None, :, :, None], 3, axis=-1))

    def _correct(self, basis, dual, bias):
        """The first dense layer is x @ (kernel + basis @ dual) + bias from now on."""
        self._exact = basis, dual, bias
        self._correction = tuple(tf.cast(part, self._kernel.dtype) for part in self._exact)

    def _head(self, features, positions, kernel, basis, dual, bias):
        x = self._read(self._map.windows(features, positions), training=False)
        x = tf.cast(x, kernel.dtype)
        x = self._dense.activation(x @ kernel + (x @ basis) @ dual + bias)
        logits = x if self._rest is None else self._rest(x, training=False)
        return tf.nn.softmax(tf.cast(logits, tf.float32))

    def _windows(self, roi, features, number, random):
        """What the first dense layer reads at ``number`` positions: from the map, from patches."""
        grid = np.prod(self.grid(roi))
        candidates = random.choice(grid, min(grid, 4 * number), replace=False)
        candidates = np.stack(np.unravel_index(candidates, self.grid(roi)), 1)
        weights = 1.1 - self.probabilities(features, candidates)[:, 0].astype(np.float64)
        number = min(number, len(candidates))
        positions = random.choice(candidates, number, replace=False, p=weights / weights.sum())
        image = self._enlarged(roi)[0].numpy()
        cut = np.lib.stride_tricks.sliding_window_view(image, (self.side, self.side), (0, 1))
        pairs = []
        for chunk in np.split(positions.astype(np.int32), range(64, number, 64)):
            patches = np.moveaxis(cut[tuple(chunk.T * self.stride)], 1, -1)
            windows = self._map.windows(features, chunk)
            pair = self._read(windows, training=False), self._read_patches(patches)
            pairs.append([tf.cast(part, tf.float32).numpy() for part in pair])
        return [np.concatenate(part) for part in zip(*pairs, strict=True)]


def ridge_correction(x, missing, ridge: float):
    """What a dense layer lacks, by ridge regression for many more inputs than rows.

    Minimises the squared error of ``x @ change + shift`` against ``missing`` plus lambda
    |change|^2, with lambda ``ridge`` times the mean squared length of the centred rows of ``x``;
    the shift is free.

    Parameters
    ----------
    x
        Float (N, inputs).
    missing
        Float (N, outputs): what is wanted less what the layer answers now.
    ridge
        Above 0.

    Returns
    -------
    basis, dual, shift : np.ndarray
        (inputs, N), (N, outputs) and (outputs,): the change of the kernel is ``basis @ dual``, that
        of the bias ``shift``.
    left : float
        Share of the sum of squares of ``missing`` that remains when each row is left out in turn
        (in closed form, with the means of all rows).
    """
    x_mean, missing_mean = x.mean(0), missing.mean(0)
    basis = (x - x_mean).T
    products = (basis.T @ basis).astype(np.float64)  # N is small beside the inputs
    strength = ridge * np.trace(products) / len(x) or 1.0  # rows that are all alike teach nothing
    inverse = np.linalg.inv(products + strength * np.eye(len(x)))
    dual = inverse @ (missing - missing_mean)
    left = np.sum((dual / np.diag(inverse)[:, None]) ** 2) / (np.sum(missing**2) or 1.0)
    dual = dual.astype(x.dtype)
    return basis, dual, missing_mean - (x_mean @ basis) @ dual, float(left)


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
