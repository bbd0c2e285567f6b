"""The export, loaded by a process that knows TensorFlow and nothing of this package."""

import datetime
import io
import json
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from medxfer import provenance, serving, serving_warmup
from medxfer.models import _layers
from tests.testing.names import NAMES

CLASSES = ("background", "lumen-intima", "media-adventitia")
SIDE = 31
DAY = datetime.timedelta(days=1)
MODULE = types.SimpleNamespace(INPUT_SIDE=SIDE, preprocess=lambda images: images / 50.0 - 2.0)

# Runs with -I in another folder: neither the working tree nor PYTHONPATH can be imported. Where the
# package is installed beside TensorFlow, its import is refused.
CLIENT = """
import json, pathlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("medxfer", "data_prep"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
import tensorflow as tf

export, folder = map(pathlib.Path, sys.argv[1:])
try:
    import medxfer
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("medxfer can be imported")
signatures = tf.saved_model.load(str(export)).signatures
patches = np.load(folder / "patches.npz")
answers = {}
for repeat in range(2):
    for name in ("grey", "colour"):
        for batch in (1, 4):
            images = patches[name][:batch]
            key = f"{name}-{batch}-{repeat}"
            found = signatures["serving_default"](image=tf.constant(images, tf.float32))
            answers[key + "-tensor"] = found["probabilities"]
            encoded = [(folder / f"{name}{k}.png").read_bytes() for k in range(batch)]
            found = signatures["image_bytes"](image_bytes=tf.constant(encoded))
            answers[key + "-bytes"] = found["probabilities"]
            examples = [
                tf.train.Example(features=tf.train.Features(feature={
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
                })).SerializeToString()
                for content in encoded
            ]
            found = signatures["classify"](inputs=tf.constant(examples))
            answers[key + "-examples"] = found["scores"]
            answers[key + "-classes"] = np.asarray(found["classes"]).astype(str)
sizes = [(folder / name).read_bytes() for name in ("grey0.png", "wide.jpg")]
answers["sizes"] = signatures["image_bytes"](image_bytes=tf.constant(sizes))["probabilities"]
deep = (folder / "deep.png").read_bytes()
answers["deep"] = signatures["image_bytes"](image_bytes=tf.constant([deep]))["probabilities"]
errors = {}
for name, content in {"empty": b"", "text": b"no image", "cut": sizes[0][:40]}.items():
    try:
        signatures["image_bytes"](image_bytes=tf.constant([content]))
    except Exception as error:
        errors[name] = type(error).__name__
try:
    signatures["serving_default"](image=tf.zeros((1, 9, 9, 4)))
except Exception as error:
    errors["channels"] = type(error).__name__
(folder / "errors.json").write_text(json.dumps(errors))
np.savez(folder / "answers.npz", **answers)
"""


def network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 5, strides=2, activation="relu")(inputs)
    x = _layers.LocalResponseNormalization()(x)
    x = layers.BatchNormalization(momentum=0.5)(layers.MaxPooling2D(3, 2)(x))
    x = _layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(x))


def export(model, folder, **kwargs):
    kwargs = {"classes": CLASSES, "patch": 9, "app": "cimt", "run_card_hash": "abc"} | kwargs
    return serving.export(model, folder, model_module=MODULE, **kwargs)


def probabilities(model, images):
    """Resized, repeated and preprocessed step by step, through ``predict``."""
    images = np.repeat(images, 3 // images.shape[-1], -1).astype(np.float32)
    resized = tf.image.resize(images, (SIDE, SIDE)).numpy()
    logits = model.predict(MODULE.preprocess(resized), verbose=0).astype(np.float64)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def patches():
    random = np.random.default_rng(0)
    return {
        "grey": random.integers(0, 256, (4, 9, 9, 1), np.uint8),
        "colour": random.integers(0, 256, (4, 12, 9, 3), np.uint8),
    }


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    path = export(model, folder)
    assert path == folder / "cimt" / "1"
    return path


def test_a_fresh_process_agrees_with_predict(model, exported, tmp_path, patches):
    np.savez(tmp_path / "patches.npz", **patches)
    for name, images in patches.items():
        for k, image in enumerate(images):
            (tmp_path / f"{name}{k}.png").write_bytes(tf.io.encode_png(image).numpy())
    wide = np.random.default_rng(1).integers(0, 256, (20, 33, 3), np.uint8)
    jpeg = tf.io.encode_jpeg(wide)
    (tmp_path / "wide.jpg").write_bytes(jpeg.numpy())
    deep = np.random.default_rng(2).integers(0, 65536, (9, 9, 1), np.uint16)
    (tmp_path / "deep.png").write_bytes(tf.io.encode_png(deep).numpy())

    subprocess.run(
        [sys.executable, "-I", "-c", CLIENT, str(exported), str(tmp_path)],
        cwd=tmp_path,
        check=True,
        timeout=120,
        capture_output=True,
    )
    answers = np.load(tmp_path / "answers.npz")
    for name, images in patches.items():
        expected = probabilities(model, images)
        assert expected.std(0).min() > 0.01
        for batch in (1, 4):
            for repeat in range(2):
                key = f"{name}-{batch}-{repeat}"
                for kind in ("tensor", "bytes", "examples"):
                    np.testing.assert_allclose(
                        answers[f"{key}-{kind}"], expected[:batch], atol=1e-5
                    )
                assert answers[f"{key}-classes"].tolist() == [list(CLASSES)] * batch
    decoded = tf.io.decode_jpeg(jpeg).numpy()
    expected = [probabilities(model, image[None])[0] for image in (patches["grey"][0], decoded)]
    np.testing.assert_allclose(answers["sizes"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["deep"], probabilities(model, (deep >> 8)[None]), atol=1e-5)
    assert json.loads((tmp_path / "errors.json").read_text()) == dict.fromkeys(
        ("empty", "text", "cut", "channels"), "InvalidArgumentError"
    )


def test_signatures_are_those_tensorflow_serving_expects(exported):
    content = (exported / "saved_model.pb").read_bytes()
    (meta,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    assert list(meta.meta_info_def.tags) == ["serve"]
    found = {
        key: (
            definition.method_name,
            {name: tf.dtypes.as_dtype(i.dtype).name for name, i in definition.inputs.items()},
            {name: tf.dtypes.as_dtype(o.dtype).name for name, o in definition.outputs.items()},
        )
        for key, definition in meta.signature_def.items()
        if not key.startswith("__")
    }
    predict = "tensorflow/serving/predict"
    assert found == {
        "serving_default": (predict, {"image": "float32"}, {"probabilities": "float32"}),
        "image_bytes": (predict, {"image_bytes": "string"}, {"probabilities": "float32"}),
        "classify": (
            "tensorflow/serving/classify",
            {"inputs": "string"},
            {"classes": "string", "scores": "float32"},
        ),
    }
    description = json.loads((exported / serving.DESCRIPTION).read_text())
    date = datetime.datetime.fromisoformat(description.pop("date"))
    assert datetime.timedelta() <= datetime.datetime.now(datetime.UTC) - date < DAY
    assert len(description.pop("weights_sha256")) == 64
    assert description.pop("network").startswith("functional")  # of the test's own
    assert description == {
        "app": "cimt",
        "classes": list(CLASSES),
        "patch": 9,
        "input_side": SIDE,
        "multilabel": False,
        "fit": "",
        "input_range": [0, 255],
        "decision": "the most probable class",
        "thresholds": None,
        "weights": "float32",
        "medxfer_version": provenance.versions()["medxfer"],
        "run_card_hash": "abc",
    }


def test_exports_are_numbered_and_never_half_written(model, tmp_path, monkeypatch):
    (tmp_path / "cimt" / "7").mkdir(parents=True)
    (tmp_path / "cimt" / "notes").mkdir()

    def write(logits, model_module, classes, path, activation):
        (path / "variables").mkdir(parents=True)
        if full:
            raise OSError("disk full")

    monkeypatch.setattr(serving, "_write", write)
    full = False
    assert export(model, tmp_path).name == "8"
    assert export(network(7), tmp_path).name == "9"
    assert export(model, tmp_path, version=12).name == "12"
    with pytest.raises(FileExistsError, match="12 exists"):
        export(network(7), tmp_path, version=12)
    full = True
    with pytest.raises(OSError, match="disk full"):
        export(network(7), tmp_path)
    assert {entry.name for entry in (tmp_path / "cimt").iterdir()} == {"7", "8", "9", "12", "notes"}


def test_the_same_weights_are_no_new_version(model, tmp_path):
    first = export(model, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert export(model, tmp_path, run_card_hash="of another card") == first
    assert export(model, tmp_path, version=1) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    for changed in ({"classes": ("a", "b", "c")}, {"patch": 12}, {"multilabel": True}):
        newest = int(export(model, tmp_path, **changed).name)
    assert newest == 4
    (tmp_path / "cimt" / "4" / serving.DESCRIPTION).write_text("{")  # damaged: nothing is known
    assert export(model, tmp_path, multilabel=True).name == "5"


def bitmap(kind, side=9, **header):
    """An encoded image; of PNG and GIF the size in the header may be changed."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side), 7, np.uint8)).save(file, kind)
    content = bytearray(file.getvalue())
    for size in header.values():
        place, length, order = {"PNG": (16, 4, "big"), "GIF": (6, 2, "little")}[kind]
        for k in range(2):
            start = place + k * length
            content[start : start + length] = size.to_bytes(length, order)
    return bytes(content)


def large(kind):
    file = io.BytesIO()
    Image.new("L", (8000, 5001)).save(file, kind)
    return file.getvalue()


def test_a_bad_image_is_named_by_its_number(exported):
    answer = tf.saved_model.load(str(exported)).signatures["image_bytes"]
    classify = tf.saved_model.load(str(exported)).signatures["classify"]
    good = [bitmap(kind) for kind in ("PNG", "JPEG", "GIF", "BMP")]
    assert answer(image_bytes=tf.constant(good))["probabilities"].shape == (4, 3)
    damaged = bytearray(good[0])
    damaged[45] ^= 255  # within the compressed values: found only while decoding
    bad = [b"", b"no image", b"BM", b"GIF89a", good[0][:30], good[1][:60], bytes(damaged),
           bitmap("PNG", size=2**31 - 1), bitmap("GIF", size=65535),
           *map(large, ("PNG", "JPEG", "GIF", "BMP"))]  # fmt: skip
    said = "of the request, counted from 0, is no readable PNG, JPEG, GIF or BMP file of at most "
    for content in bad:
        for number in (0, 2):
            sent = good[:2]
            sent.insert(number, content)
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"image {number} {said}40000"):
                answer(image_bytes=tf.constant(sent))
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"image 1 {said}"):
            classify(
                inputs=tf.constant([serving_warmup.example(one) for one in (good[0], content)])
            )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 255.5, 65535.0])
def test_numbers_outside_the_range_are_refused(exported, value):
    answer = tf.saved_model.load(str(exported)).signatures["serving_default"]
    images = np.full((2, 9, 9, 1), 7, np.float32)
    images[1, 4, 4, 0] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="numbers from 0 to 255. Received: sh"):
        answer(image=tf.constant(images))


def test_an_empty_request_has_an_empty_answer(exported):
    served = tf.saved_model.load(str(exported)).signatures
    none = tf.constant([], tf.string)
    for shape in ((0, 9, 9, 1), (0, 9, 9, 3), (0, 0, 0, 0)):
        assert served["serving_default"](image=tf.zeros(shape))["probabilities"].shape == (0, 3)
    assert served["image_bytes"](image_bytes=none)["probabilities"].shape == (0, 3)
    assert {v.shape[0] for v in served["classify"](inputs=none).values()} == {0}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"shape \[2 0 9 1\]"):
        served["serving_default"](image=tf.zeros((2, 0, 9, 1)))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("fit", ["", "pad", "crop"])
def test_tensorflow_lite_needs_no_operations_of_tensorflow(model, tmp_path, fit):
    path = export(model, tmp_path, fit=fit)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(path), signature_keys=["serving_default"]
    )
    lite = tf.lite.Interpreter(model_content=converter.convert())
    answer = lite.get_signature_runner("serving_default")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    for shape in ((2, 9, 9, 1), (1, 31, 20, 3), (1, 7, 12, 1)):
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
        expected = served(image=tf.constant(images))["probabilities"]
        np.testing.assert_allclose(answer(image=images)["probabilities"], expected, atol=1e-4)


def test_a_model_of_low_precision_is_exported_in_float32(tmp_path, patches):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(1)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    reference = network(1)
    path = export(model, tmp_path)
    assert serving.verify(path, reference, MODULE, patches["colour"]) < 1e-5
    assert serving.verify(path, model, MODULE, patches["grey"]) < 1e-5


def test_verify_notices_other_weights_and_other_classes(model, exported, tmp_path, patches):
    with pytest.raises(RuntimeError, match="differs from the model"):
        serving.verify(exported, network(5), MODULE, patches["grey"])
    path = shutil.copytree(exported, tmp_path / "1")
    description = path / serving.DESCRIPTION
    description.write_text(description.read_text().replace("lumen", "luminal"))
    with pytest.raises(RuntimeError, match="other classes"):
        serving.verify(path, model, MODULE, patches["grey"])


@pytest.mark.parametrize("first", (0, 5))
def test_classes_of_any_name_are_answered(model, tmp_path, patches, first):
    path = export(model, tmp_path, classes=NAMES[first : first + 3])
    assert serving.verify(path, model, MODULE, patches["grey"]) < 1e-5


def test_class_names_must_match_the_outputs(model, tmp_path):
    with pytest.raises(ValueError, match="2 classes for 3 outputs"):
        export(model, tmp_path, classes=("no", "yes"))
