"""Dense maps beside the plain way: every patch through the network."""

import types

import keras
import numpy as np
import pytest
from keras import layers

from medxfer import dense
from medxfer.atrous import AtrousMap, UnsupportedNetworkError
from medxfer.coarse_to_fine import coarse_to_fine
from medxfer.dense import DenseMap, PatchMap
from medxfer.models import _layers, alexnet, alexnet_caffe

SIDE = 41


def network_module(side=SIDE):
    return types.SimpleNamespace(INPUT_SIDE=side, preprocess=lambda images: images / 50.0 - 2.0)


def network(padding, side=SIDE, seed=0):
    """A small network with one layer of every supported kind."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((side, side, 3))
    x = inputs if padding == "valid" else layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(8, 5, strides=2, padding=padding, activation="relu")(x)
    x = _layers.LocalResponseNormalization(alpha=0.1)(x)
    x = layers.MaxPooling2D(3, 2, padding=padding)(x)
    x = _layers.GroupedConv2D(12, 3, groups=2, padding=padding)(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(2, 2, padding=padding)(x)
    x = layers.Conv2D(12, 2, padding=padding, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer="he_normal")(x))


def region(height, width, margin, seed=0):
    """Smooth random texture with context."""
    random = np.random.default_rng(seed)
    shape = (height + 2 * margin, width + 2 * margin)
    coarse = random.uniform(0, 255, (shape[0] // 6 + 2, shape[1] // 6 + 2))
    texture = np.kron(coarse, np.ones((6, 6)))[: shape[0], : shape[1]]
    return np.clip(texture + random.normal(0, 10, shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def unpadded():
    return network("valid")


@pytest.fixture(scope="module")
def padded():
    return network("same")


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 12])
def test_without_padding_every_position_equals_its_patch(unpadded, stride):
    # A patch as large as the network's input: nothing is enlarged, positions are pixels.
    maps = DenseMap(unpadded, network_module(), patch=SIDE, stride=stride)
    roi = region(14, 25, maps.margin)
    rows, columns = maps.grid(roi)
    positions = np.indices((rows, columns)).reshape(2, -1).T
    inside = (positions * stride < (14, 25)).all(1)
    found = maps.probabilities(maps.features(roi), positions)[inside]
    expected = PatchMap(unpadded, network_module(), patch=SIDE).at(roi, positions[inside] * stride)
    assert expected.std(0).min() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_enlarged_region_is_aligned_with_the_patches():
    # z = 5 and stride 5 put a position on every pixel. The network reads only the middle of each
    # pixel, where resizing a patch by itself cannot differ from enlarging the region at once.
    patch, side = 9, 45
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, 3))
    read = layers.Conv2D(3, 5, strides=5, use_bias=False)
    x = layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(read(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    kernel = np.zeros((5, 5, 3, 3), np.float32)
    kernel[2, 2] = np.eye(3)
    read.set_weights([kernel])
    maps = DenseMap(model, network_module(side), patch=patch, stride=5, margin=8)
    roi = region(7, 12, 8)
    expected = PatchMap(model, network_module(side), patch=patch, margin=8)(roi)
    assert expected.shape == (7, 12, 3)
    np.testing.assert_allclose(maps(roi), expected, atol=1e-5)


@pytest.mark.parametrize("module", [alexnet, alexnet_caffe], ids=lambda module: module.__name__)
def test_alexnet_on_one_pixel_is_the_patch(module):
    # With a single position the border of the region is the border of the patch: padding agrees.
    model = module.build(3, init="msra", seed=1)
    roi = region(1, 1, dense.default_margin(227), seed=1)
    found, expected = (kind(model, module, patch=227)(roi) for kind in (DenseMap, PatchMap))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_alexnet_units_beyond_the_reach_of_padding_equal_those_of_the_patch():
    network = alexnet.build(3, init="msra", seed=1)
    units = network.get_layer("conv3").output
    body = keras.Model(network.inputs, layers.Flatten()(units))
    atrous = AtrousMap(body, 8)
    image = np.random.default_rng(0).normal(size=(227 + 24, 227 + 16, 3)).astype(np.float32)
    positions = np.array([[0, 0], [1, 2], [3, 1]])
    found = atrous.windows(atrous(image[None])[0], positions)
    patches = [image[8 * r : 8 * r + 227, 8 * c : 8 * c + 227] for r, c in positions]
    expected = keras.Model(network.inputs, units).predict_on_batch(np.stack(patches))
    # conv1 pads 2 pixels, conv2 2 units, conv3 1 unit: 3 of 13 units on each side at most.
    inner = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(found[inner], expected[inner], rtol=1e-3, atol=1e-4)
    assert np.abs(found - expected).max() > 0.01


@pytest.mark.parametrize(
    ("patch", "stride"), [(9, 8), (29, 8), (35, 8), (37, 4), (69, 4), (71, 2), (143, 1), (227, 1)]
)
def test_default_stride_keeps_positions_within_about_a_pixel(patch, stride):
    assert dense.default_stride(patch, 227) == stride


def test_padding_differs_and_calibration_lessens_it(padded):
    module = network_module()
    rois = [region(9, 12, dense.default_margin(SIDE), seed) for seed in range(4)]
    maps = DenseMap(padded, module, patch=SIDE, stride=1)
    weights = [w.copy() for w in padded.get_weights()]
    expected = PatchMap(padded, module, patch=SIDE)(rois[0])
    raw = np.abs(maps(rois[0]) - expected).mean()
    fitted = [np.abs(maps.calibrated(r, 200)(rois[0]) - expected).mean() for r in (rois[1:], rois)]
    twice = maps.calibrated(rois[1:], 200).calibrated(rois[:1], 100)
    assert raw > 0.01
    assert fitted[0] < 0.8 * raw
    assert fitted[1] < 0.8 * fitted[0]
    assert np.abs(twice(rois[0]) - expected).mean() < 0.8 * fitted[0]
    assert np.abs(maps(rois[0]) - expected).mean() == raw
    for old, new in zip(weights, padded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_calibrated_map_is_that_of_a_network_with_the_changed_layer(padded):
    module, roi = network_module(), region(9, 12, dense.default_margin(SIDE))
    fitted = DenseMap(padded, module, patch=SIDE, stride=1).calibrated([roi], 50)
    changed = keras.models.clone_model(padded)
    changed.set_weights(padded.get_weights())
    first = next(layer for layer in changed.layers if isinstance(layer, layers.Dense))
    basis, dual, bias = fitted._exact
    first.set_weights([first.get_weights()[0] + basis @ dual, bias])
    found, expected = (
        maps(roi) for maps in (fitted, DenseMap(changed, module, patch=SIDE, stride=1))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_calibration_leaves_a_network_without_padding_as_it_is(unpadded):
    maps = DenseMap(unpadded, network_module(), patch=SIDE, stride=2)
    assert maps.calibrated([region(8, 9, maps.margin)]) is maps


def test_calibration_on_a_blank_region_does_no_harm(padded):
    maps = DenseMap(padded, network_module(), patch=SIDE, stride=4)
    blank = np.zeros((60, 60), np.uint8)
    fitted = maps.calibrated([blank[:45, :45]], 8)
    assert np.isfinite(fitted(region(5, 5, maps.margin))).all()


def test_ridge_correction_is_the_least_squares_solution_of_the_augmented_system():
    random = np.random.default_rng(0)
    x, missing = random.normal(size=(12, 30)) + 3, random.normal(size=(12, 4)) + 1
    basis, dual, shift, left = dense.ridge_correction(x, missing, 0.1)

    centred, target = x - x.mean(0), missing - missing.mean(0)
    strength = 0.1 * np.mean(np.sum(centred**2, 1))

    def solve(rows):
        augmented = np.concatenate([centred[rows], np.sqrt(strength) * np.eye(30)])
        right = np.concatenate([target[rows], np.zeros((30, 4))])
        return np.linalg.lstsq(augmented, right)[0]

    np.testing.assert_allclose(basis @ dual, solve(slice(None)), atol=1e-9)
    np.testing.assert_allclose(x.mean(0) @ basis @ dual + shift, missing.mean(0))
    left_out = [target[k] - centred[k] @ solve(np.arange(12) != k) for k in range(len(x))]
    assert left == pytest.approx(np.sum(np.square(left_out)) / np.sum(missing**2))


def test_bfloat16_follows_the_precision_of_the_model():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = network("same")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    reference = network("same")
    roi = region(6, 8, dense.default_margin(SIDE))
    maps = DenseMap(model, network_module(), patch=SIDE, stride=2)
    assert maps.features(roi).dtype == "bfloat16"
    found = maps(roi)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, DenseMap(reference, network_module(), patch=SIDE, stride=2)(roi), atol=0.05
    )
    assert maps.calibrated([roi], 12)(roi).shape == found.shape


class RidgeMap:
    """Stands for a network: one bright, sloping line for each interface, and a false one."""

    spacing = 1.0
    margin = 0

    def __init__(self, shape, false=0.0):
        rows, columns = np.indices(shape)
        self.lines = 18 + 0.2 * np.arange(shape[1]), 32 - 0.1 * np.arange(shape[1])
        peaks = [0.9 * np.exp(-((rows - line) ** 2) / 8) for line in self.lines]
        peaks[0] += false * np.exp(-((rows - 50) ** 2) / 8) * (columns > 20)
        self.values = np.stack([1 - sum(peaks), *peaks], -1).astype(np.float32)
        self.asked = []

    def grid(self, roi):
        return roi.shape

    def features(self, roi):
        return None

    def probabilities(self, features, positions):
        self.asked += map(tuple, positions)
        return self.values[tuple(positions.T)]

    def to_pixels(self, values, roi):
        return values


@pytest.mark.parametrize("false", [0.0, 0.6])
def test_coarse_to_fine_finds_the_lines_and_keeps_several_peaks(false):
    shape = (60, 93)
    maps = RidgeMap(shape, false)
    found, evaluated = coarse_to_fine(maps, np.zeros(shape, np.uint8))
    assert len(set(maps.asked)) == len(maps.asked) == evaluated.sum()
    assert evaluated.mean() < 0.4
    refined = np.s_[:, ::2]
    known = evaluated[refined]
    np.testing.assert_array_equal(found[refined][known], maps.values[refined][known])
    for k in (1, 2):
        rows = found[..., k].argmax(0)
        assert np.abs(rows - maps.values[..., k].argmax(0)).max() <= 1
        assert np.abs(rows - maps.lines[k - 1]).mean() < 0.5
    if false:
        assert found[50, 30:, 1] == pytest.approx(0.6, abs=0.01)


def test_coarse_to_fine_is_the_dense_map_where_it_evaluates(padded):
    maps = DenseMap(padded, network_module(), patch=SIDE, stride=1)
    roi = region(9, 12, maps.margin)
    found, evaluated = coarse_to_fine(maps, roi, keep=0.0, fine_columns=1, reach=2)
    assert evaluated.all()
    np.testing.assert_allclose(found, maps(roi), atol=1e-5)


def test_a_mapper_for_every_method(padded):
    module = network_module()
    rois = [region(5, 6, dense.default_margin(SIDE), seed) for seed in range(2)]
    expected = PatchMap(padded, module, patch=SIDE)(rois[1])
    for method in dense.MAPS:
        errors = []
        for settings in ({"own_samples": 0}, {"rois": rois[:1], "own_samples": 20}, {}):
            mapper = dense.mapper(padded, module, patch=SIDE, method=method, **settings)
            found = mapper(rois[1])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-4)
            errors.append(np.abs(found - expected).mean())
        if method == "patchwise":
            assert errors == [0, 0, 0]
        else:
            assert errors[2] < errors[1] < 0.8 * errors[0]
    with pytest.raises(ValueError, match="one of dense, coarse_to_fine, patchwise"):
        dense.mapper(padded, module, patch=SIDE, method="fast")


def branching():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    x = layers.Add(name="join")([x, inputs])
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def test_a_network_with_branches_is_run_patch_by_patch(caplog):
    model, module = branching(), network_module(9)
    roi = region(3, 4, dense.default_margin(9))
    with pytest.raises(UnsupportedNetworkError, match="no chain: .* join"):
        DenseMap(model, module, patch=9)
    with caplog.at_level("WARNING", logger="absl"):
        found = dense.mapper(model, module, patch=9)(roi)
    assert "classified by itself" in caplog.text
    np.testing.assert_array_equal(found, PatchMap(model, module, patch=9)(roi))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Conv2DTranspose(2, 3, name="up"), "Conv2DTranspose 'up'"),
        (layers.Conv2D(2, 3, strides=(1, 2), name="skew"), "'skew' has unequal strides"),
        (layers.Reshape((-1,)), "Reshape"),
        (layers.Activation("relu"), "no layer that flattens"),
    ],
)
def test_unsupported_layers_are_named(layer, message):
    inputs = keras.Input((9, 9, 3))
    with pytest.raises(UnsupportedNetworkError, match=message):
        AtrousMap(keras.Model(inputs, layer(inputs)), 2)


def test_wrong_patches_and_margins_are_refused(padded):
    with pytest.raises(ValueError, match="odd"):
        DenseMap(padded, network_module(), patch=28)
    with pytest.raises(ValueError, match="margin of 22"):
        DenseMap(padded, network_module(), patch=SIDE, margin=21)
    with pytest.raises(ValueError, match="margin of 20"):
        PatchMap(padded, network_module(), patch=SIDE, margin=19)
    with pytest.raises(ValueError, match="needs a region"):
        DenseMap(padded, network_module(), patch=SIDE).calibrated([])


def test_only_the_regions_drawn_are_computed(padded, monkeypatch):
    maps = DenseMap(padded, network_module(), patch=SIDE, stride=2)
    rois, computed = [region(5, 6, maps.margin, seed) for seed in range(20)], []
    features = maps.features
    monkeypatch.setattr(maps, "features", lambda roi: computed.append(id(roi)) or features(roi))
    maps.calibrated(rois, 32)
    assert len(set(computed)) == len(computed) == 16
