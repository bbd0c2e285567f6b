"""Weights stored small, and what an export makes of them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from medxfer import data, exports, serving, serving_weights
from medxfer.dataset_folder import DatasetFolder
from medxfer.models import alexnet
from tests.medxfer import test_serving
from tests.testing.networks import tiny_network


def by_hand(kernel, kind, channels):
    """What a kernel becomes, one output channel after the other."""
    if kind == "float16":
        return kernel.astype(np.float16).astype(np.float32)
    flat = kernel.reshape(-1, int(np.prod(kernel.shape[kernel.ndim - channels :])))
    columns = []
    for column in flat.T:
        step = np.float32(np.abs(column).max() / np.float32(127)) or np.float32(1)
        columns.append([np.float32(round(float(weight / step))) * step for weight in column])
    return np.array(columns, np.float32).T.reshape(kernel.shape)


@pytest.mark.parametrize(("shape", "channels"), [((3, 3, 4, 5), 1), ((7, 3), 1), ((3, 3, 4, 2), 2)])
def test_int8_has_a_scale_for_every_channel(shape, channels):
    random = np.random.default_rng(0)
    kernel = random.standard_normal(shape).astype(np.float32)
    kernel *= random.uniform(0.01, 10, shape[len(shape) - channels :]).astype(np.float32)
    kernel[..., 0] = 0
    stored, scale = serving_weights.small(kernel, "int8", channels)
    assert stored.dtype == np.int8 and np.abs(stored).max() <= 127
    np.testing.assert_array_equal(stored * scale, by_hand(kernel, "int8", channels))
    assert np.all(np.abs(stored * scale - kernel) <= scale * 0.500001)


def test_float16_is_rounded_and_must_fit():
    kernel = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    stored, scale = serving_weights.small(kernel, "float16")
    assert scale is None
    np.testing.assert_array_equal(stored, kernel.astype(np.float16))
    with pytest.raises(ValueError, match="beyond 65504"):
        serving_weights.small(kernel * 1e6, "float16")


@pytest.fixture(scope="module")
def model():
    """With every kind of layer that has kernels of its own shape."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((test_serving.SIDE, test_serving.SIDE, 3))
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu")(inputs)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(("kind", "share"), [("float16", 2), ("int8", 4)])
def test_an_export_computes_with_the_rounded_weights(model, tmp_path, kind, share):
    plain = test_serving.export(model, tmp_path)
    path = test_serving.export(model, tmp_path, weights=kind, version=7)
    assert path == tmp_path / f"cimt-{kind}" / "7"
    rounded = keras.models.clone_model(model)
    rounded.set_weights(
        [
            by_hand(value, kind, 2 if "depthwise" in variable.path else 1)
            if value.ndim > 1
            else value
            for variable, value in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8)
    expected = test_serving.probabilities(rounded, images)
    assert np.abs(expected - test_serving.probabilities(model, images)).max() > 1e-5
    answer = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = answer(image=tf.constant(images, tf.float32))["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert serving.verify(path, model, test_serving.MODULE, images) < 1e-5
    assert json.loads((path / serving.DESCRIPTION).read_text())["weights"] == kind

    def stored(export):
        reader = tf.train.load_checkpoint(str(export / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        types = reader.get_variable_to_dtype_map()
        return sum(int(np.prod(shapes[n])) * t.size for n, t in types.items() if t.size)

    kernels = sum(value.size for value in model.get_weights() if value.ndim > 1)
    saved = stored(plain) - stored(path)
    scales = 4 * (16 + 16 * 2 + 3) if kind == "int8" else 0
    assert saved == kernels * 4 - kernels * 4 // share - scales


def test_the_exports_of_a_run_are_compared(carotid_records, tmp_path):
    folder = DatasetFolder.open(carotid_records)
    model = tiny_network.build(len(folder.classes))
    settings = {"patch": 17, "app": "cimt", "run_card_hash": "abc"}

    def monitor(probabilities, labels):
        return float(np.mean(probabilities[np.arange(len(labels)), labels]))

    def write(**options):
        return exports.write(
            tmp_path, model, tiny_network, folder, monitor=monitor, **settings,
            **options,
        )  # fmt: skip

    assert write() == tmp_path / "cimt" / "1"
    assert not (tmp_path / "variants.json").exists()
    (tmp_path / "cimt" / ".partial-killed").mkdir()
    assert write(variants=("float16", "int8")) == tmp_path / "cimt" / "1"
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert names == {"cimt/1", "cimt-float16/1", "cimt-int8/1"}
    content = json.loads((tmp_path / "variants.json").read_text())
    units = list(data.units(folder, "validation"))
    images = np.stack([unit["image"] for unit in units])
    labels = np.array([unit["label"] for unit in units])
    assert (content["version"], content["examples"]) == (1, len(units))
    found = {}
    for kind in ("float32", "float16", "int8"):
        twin = serving_weights.restored(model, kind)
        resized = tf.image.resize(np.repeat(images, 3, -1).astype(np.float32), (32, 32))
        logits = twin.predict(tiny_network.preprocess(resized), verbose=0)
        found[kind] = tf.nn.softmax(logits).numpy().astype(np.float64)
    for row in content["variants"]:
        own, reference = found[row["weights"]], found["float32"]
        difference = np.abs(own - reference)
        assert row["largest"] == pytest.approx(difference.max(), abs=1e-6)
        assert row["mean"] == pytest.approx(difference.mean(), abs=1e-6)
        assert row["score"] == pytest.approx(monitor(own, labels), abs=1e-6)
        assert row["decisions"] == np.mean(own.argmax(1) != reference.argmax(1))
        name = "cimt" if row["weights"] == "float32" else f"cimt-{row['weights']}"
        files = [path for path in (tmp_path / name / "1").rglob("*") if path.is_file()]
        assert row["bytes"] == sum(len(path.read_bytes()) for path in files)
    lines = exports.table(content["variants"]).splitlines()
    assert [line.split()[0] for line in lines] == ["weights", "float32", "float16", "int8"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_alexnet_shrinks_to_a_half_and_a_quarter(tmp_path):
    model = alexnet.build(3, init="gaussian", seed=1)
    images = np.random.default_rng(0).integers(0, 256, (4, 33, 33, 1), np.uint8)
    sizes = {}
    for kind in serving_weights.KINDS:
        path = serving.export(
            model, tmp_path, classes=test_serving.CLASSES, patch=33, model_module=alexnet,
            app="cimt", weights=kind,
        )  # fmt: skip
        assert serving.verify(path, model, alexnet, images) < 1e-5
        sizes[kind] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert sizes["float16"] / sizes["float32"] == pytest.approx(0.5, abs=0.01)
    assert sizes["int8"] / sizes["float32"] == pytest.approx(0.25, abs=0.01)
