"""A trained network as the applications see it: patches to probabilities, regions to maps."""

import functools
from collections.abc import Callable, Mapping
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from medxfer import data, dense

BATCH = 64


def in_float32(model: keras.Model) -> keras.Model:
    """Copy of ``model`` that computes in float32, free of any distribution strategy."""

    def converted(layer):
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    twin = keras.models.clone_model(model, clone_function=converted)
    twin.set_weights(model.get_weights())
    return twin


class TrainedNetwork:
    """What a scorer may ask of a network; apps know no more of it.

    It computes in float32, as the export does, whatever the network was trained in.

    Parameters
    ----------
    model : keras.Model
        Preprocessed images -> logits.
    plugin : module
        Of ``medxfer.models``: ``INPUT_SIDE`` and ``preprocess``.
    settings : mapping
        Of the records that the network learnt from; ``patch`` and ``margin`` for maps,
        ``multilabel`` where an image may show several classes.
    maps : str
        ``method`` of :func:`medxfer.dense.mapper`.
    watch : callable, optional
        Is shown the images uint8 (N, height, width, 1 or 3) that the network is given.
    """

    def __init__(
        self,
        model: keras.Model,
        plugin: ModuleType,
        settings: Mapping,
        maps: str = "dense",
        watch: Callable[[NDArray[np.uint8]], None] | None = None,
    ) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if any(layer.compute_dtype != "float32" for layer in model.layers):
            model = in_float32(model)
        self._model, self._plugin, self._method = model, plugin, maps
        self._watch = watch
        self.settings = settings
        transform = data.patch_transform(plugin)
        activation = tf.nn.sigmoid if settings.get("multilabel") else tf.nn.softmax
        self._probabilities = tf.function(
            lambda images: activation(
                tf.cast(model(transform(images), training=False), tf.float32)
            ),
            reduce_retracing=True,
        )

    @property
    def patch(self) -> int:
        """Side of the patches that the network learnt from."""
        return self.settings["patch"]

    def classify(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities float32 (N, classes) of images uint8 (N, height, width, 1 or 3)."""
        found = []
        if self._watch is not None:
            self._watch(images)
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            # Filled up to a power of two: few shapes are traced, and one image costs no batch.
            full = np.zeros((1 << (len(batch) - 1).bit_length(), *images.shape[1:]), np.uint8)
            full[: len(batch)] = batch
            found.append(self._probabilities(tf.constant(full)).numpy()[: len(batch)])
        classes = self._model.output_shape[-1]
        return np.concatenate(found) if found else np.empty((0, classes), np.float32)

    @functools.cached_property
    def maps(self):
        """Region uint8 (H + 2 margin, W + 2 margin) -> probabilities float32 (H, W, classes)."""
        mapper = dense.mapper(
            self._model,
            self._plugin,
            patch=self.settings["patch"],
            margin=self.settings["margin"],
            method=self._method,
        )
        if self._watch is None:
            return mapper

        def watched(region: NDArray[np.uint8]) -> NDArray[np.float32]:
            self._watch(_squares(region, self.patch))
            return mapper(region)

        return watched


def _squares(region: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squares side by side, uint8 (N, side, side, 1), as many as a region (H, W) holds."""
    down, across = (length // side for length in region.shape[:2])
    part = region[: down * side, : across * side].reshape(down, side, across, side)
    return part.swapaxes(1, 2).reshape(-1, side, side, 1)
