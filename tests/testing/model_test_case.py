"""Checks that every network must pass; a new one subclasses :class:`ModelTestCase`."""

import importlib

import keras
import numpy as np
import pytest
from scipy import ndimage

from medxfer import plugins, weights
from medxfer.models._groups import layer_groups, split_at

CLASSES = 3


class ModelTestCase:
    """Subclasses say what the network should be; the checks are here.

    Attributes
    ----------
    name
        Module in ``medxfer.models``.
    parameters
        Layer group -> number of parameters with three classes, in the order of the groups.
    pixel, network_input
        An RGB pixel, 0..255, and what ``preprocess`` should make of it.
    gaussian
        Layer -> standard deviation of its kernel and value of its biases with ``init="gaussian"``.
    """

    name: str
    parameters: dict[str, int]
    pixel: tuple[float, float, float] = (255.0, 0.0, 100.0)
    network_input: tuple[float, float, float]
    gaussian: dict[str, tuple[float, float]]

    def test_the_default_start_of_scratch_carries_a_signal(self, module):
        """Outputs differ between images of full contrast by a clear part of their size."""
        rng = np.random.default_rng(0)
        side = module.INPUT_SIDE
        noise = [
            ndimage.gaussian_filter(rng.normal(size=(side, side, 3)), (6, 6, 0)) for _ in "abc"
        ]
        images = np.stack([np.interp(one, (one.min(), one.max()), (0, 255)) for one in noise])
        model = module.build(CLASSES, init=module.INIT, seed=0)
        logits = np.asarray(model(module.preprocess(images.astype(np.uint8)), training=False))
        assert logits.std(axis=0).mean() > 0.02 * np.abs(logits).mean()
        assert plugins.constant("medxfer.models", self.name, "INIT") == module.INIT
        assert plugins.constant("medxfer.models", self.name, "RATE") == module.RATE > 0

    def reference(self, image: np.ndarray, parts: dict[str, list[np.ndarray]]) -> np.ndarray | None:
        """Logits of one preprocessed image by an independent computation, or None.

        ``image`` is (H, W, 3); ``parts`` holds the arrays of each layer.
        """
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        return importlib.import_module(f"medxfer.models.{cls.name}")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, module):
        return module.build(CLASSES, init="msra", seed=1)

    @pytest.fixture(scope="class")
    @classmethod
    def groups(cls, module, model):
        return layer_groups(model, module.LAYER_GROUPS)

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, module):
        side = module.INPUT_SIDE
        rgb = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype("float32")
        return module.preprocess(rgb)

    def test_parameters_of_each_group(self, groups):
        counts = {
            group: sum(layer.count_params() for layer in layers) for group, layers in groups.items()
        }
        assert list(counts.items()) == list(self.parameters.items())

    def test_groups_cover_every_variable_once(self, model, groups):
        covered = [v.path for layers in groups.values() for layer in layers for v in layer.weights]
        assert sorted(covered) == sorted(v.path for v in model.weights)

    def test_head_gives_logits(self, model, groups, images):
        (head,) = [layer for layer in list(groups.values())[-1] if layer.weights]
        assert head.activation is keras.activations.linear
        logits = model(images)
        assert tuple(logits.shape) == (2, CLASSES)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"

    def test_forward_pass_is_the_reference(self, model, images):
        image = np.asarray(images[0], "float64")
        parts = {layer.name: layer.get_weights() for layer in model.layers}
        expected = self.reference(image, parts)
        if expected is None:
            pytest.skip(f"no independent forward pass is written for {self.name}")
        np.testing.assert_allclose(model(images)[0], expected, rtol=0, atol=1e-5 * np.ptp(expected))

    def test_cut_anywhere_is_the_whole(self, model, groups, images):
        whole = model(images)
        for first in groups:
            prefix, suffix = split_at(model, groups, first)
            parts = suffix(images if prefix is None else prefix(images))
            np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6, err_msg=first)
            late = list(groups)[list(groups).index(first) :]
            expected = {id(v) for group in late for layer in groups[group] for v in layer.weights}
            assert {id(v) for v in suffix.weights} == expected
            assert prefix is None or not expected & {id(v) for v in prefix.weights}

    def test_frozen_groups_are_fixed_functions(self, model, groups, images):
        members = [layer for layers in groups.values() for layer in layers]
        try:
            for layer in members:
                layer.trainable = False
            np.testing.assert_array_equal(model(images, training=True), model(images))
        finally:
            for layer in members:
                layer.trainable = True
        assert np.any(np.asarray(model(images, training=True)) != np.asarray(model(images)))

    def test_preprocess(self, module):
        image = np.tile(np.float32(self.pixel), (1, 2, 2, 1))
        found = np.asarray(module.preprocess(image))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.tile(self.network_input, (1, 2, 2, 1)), rtol=1e-5)

    def test_gaussian_start(self, module, model):
        gaussian = module.build(CLASSES, init="gaussian", seed=3)
        for name, (std, bias) in self.gaussian.items():
            _, values = self._kernel(gaussian.get_layer(name))
            assert_spread(values, std)
            assert abs(values.mean()) < 5 * std / np.sqrt(values.size), name
            np.testing.assert_array_equal(gaussian.get_layer(name).bias, np.float32(bias))
        again = module.build(CLASSES, init="gaussian", seed=3)
        for mine, same in zip(self._layers(gaussian), self._layers(again), strict=True):
            np.testing.assert_array_equal(self._kernel(mine)[1], self._kernel(same)[1])
        seeds = [layer.kernel_initializer.seed for m in (model, again) for layer in self._layers(m)]
        assert len(set(seeds)) == len(seeds)

    def test_msra_start(self, model):
        for fan_in, values in map(self._kernel, self._layers(model)):
            assert_spread(values, np.sqrt(2 / fan_in))

    def test_xavier_start(self, module):
        for fan_in, values in map(self._kernel, self._layers(module.build(CLASSES, init="xavier"))):
            assert np.abs(values).max() <= np.sqrt(3 / fan_in) * 1.000001
            assert_spread(values, np.sqrt(1 / fan_in))

    def test_unknown_start_is_refused(self, module):
        with pytest.raises(ValueError, match="gaussian, xavier, msra"):
            module.build(CLASSES, init="zeros")

    def test_half_precision_inside_full_precision_outside(self, module, model, images):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            mixed = module.build(CLASSES)
        finally:
            keras.config.set_dtype_policy(policy)
        mixed.set_weights(model.get_weights())
        logits, exact = np.asarray(mixed(images)), np.asarray(model(images))
        assert logits.dtype == np.float32
        assert np.abs(logits - exact).max() < 0.05 * np.ptp(exact)

    def test_weights_and_structure_survive_a_file(self, model, images, tmp_path):
        path = tmp_path / "run.weights.h5"
        model.save_weights(path)
        copy = keras.Model.from_config(model.get_config())
        report = weights.load(copy, self.name, str(path), head=True)
        assert report.loaded == tuple(self.parameters)
        assert report.new == ()
        np.testing.assert_array_equal(copy(images), model(images))

    def test_random_start_is_reported(self, model):
        report = weights.load(model, self.name, "none")
        assert report.loaded == ()
        assert report.new == tuple(self.parameters)

    @staticmethod
    def _layers(model):
        return [layer for layer in model.layers if hasattr(layer, "kernel_initializer")]

    @staticmethod
    def _kernel(layer):
        """Inputs of one unit, and enough values for statistics."""
        kernel = np.asarray(layer.kernel)
        return np.prod(kernel.shape[:-1]), kernel.ravel()[: 2**18]


def assert_spread(values: np.ndarray, std: float) -> None:
    """Standard deviation of a sample, within five of its own standard deviations."""
    assert abs(values.std() - std) < 5 * std / np.sqrt(2 * values.size)
