"""Exports answer the messages of TensorFlow Serving's own API (extra ``serving``)."""

import base64
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from medxfer import serving_warmup
from tests.medxfer import test_serving

pytest.importorskip(
    "tensorflow_serving", reason="messages of TensorFlow Serving: pip install 'medxfer[serving]'"
)

from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    predict_pb2,
    prediction_log_pb2,
)

# What the server does with a request, by the descriptions of the signatures alone, in a process
# that cannot import this package. Statuses are those of gRPC, REST bodies as its API has them.
SERVER = """
import base64, json, pathlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("medxfer", "data_prep"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

export, folder = map(pathlib.Path, sys.argv[1:])
model = tf.saved_model.load(str(export))

def predict(request):
    signature = model.signatures[request.model_spec.signature_name or "serving_default"]
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    response = predict_pb2.PredictResponse()
    response.model_spec.CopyFrom(request.model_spec)
    for name, value in signature(**inputs).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
    return response

def classify(request):
    signature = model.signatures[request.model_spec.signature_name or "serving_default"]
    listed = [one.SerializeToString() for one in request.input.example_list.examples]
    found = signature(inputs=tf.constant(listed))
    response = classification_pb2.ClassificationResponse()
    for names, scores in zip(found["classes"].numpy(), found["scores"].numpy()):
        one = response.result.classifications.add()
        for name, score in zip(names, scores):
            one.classes.add(label=name.decode(), score=score)
    return response

def rest(body):
    rows = body["instances"]
    (name,) = rows[0]
    values = [row[name] for row in rows]
    if isinstance(values[0], dict):
        inputs = tf.constant([base64.b64decode(value["b64"]) for value in values])
    else:
        inputs = tf.constant(values, tf.float32)
    found = model.signatures[body.get("signature_name", "serving_default")](**{name: inputs})
    (output,) = found.values()
    return {"predictions": output.numpy().tolist()}

kinds = {"predict": (predict_pb2.PredictRequest, predict),
         "classify": (classification_pb2.ClassificationRequest, classify)}
statuses = {}
for path in sorted(folder.glob("*.request")):
    message, answer = kinds[path.name.partition("-")[0]]
    try:
        content = answer(message.FromString(path.read_bytes())).SerializeToString()
        path.with_suffix(".response").write_bytes(content)
        statuses[path.stem] = "OK"
    except tf.errors.OpError as error:
        statuses[path.stem] = {3: "INVALID_ARGUMENT"}.get(error.error_code, str(error))
for path in folder.glob("*.rest"):
    path.with_suffix(".answer").write_text(json.dumps(rest(json.loads(path.read_text()))))
replayed = []
log = export / "assets.extra" / "tf_serving_warmup_requests"
for record in tf.data.TFRecordDataset(str(log)):
    entry = prediction_log_pb2.PredictionLog.FromString(record.numpy())
    if entry.HasField("predict_log"):
        request = entry.predict_log.request
        rows = tf.make_ndarray(predict(request).outputs["probabilities"])
    else:
        request = entry.classify_log.request
        rows = [[one.score for one in row.classes]
                for row in classify(request).result.classifications]
    spec = request.model_spec
    replayed.append([spec.name, spec.signature_name, [list(map(float, row)) for row in rows]])
(folder / "found.json").write_text(json.dumps({"statuses": statuses, "replayed": replayed}))
"""


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1), np.uint8)


@pytest.fixture(scope="module")
def served(images, tmp_path_factory):
    """A model, what was sent to its export, and what came back."""
    folder = tmp_path_factory.mktemp("served")
    model = test_serving.network()
    export = test_serving.export(model, folder / "export")
    encoded = [tf.io.encode_png(image).numpy() for image in images]

    def predict(name, signature, key, values):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "cimt"
        request.model_spec.signature_name = signature
        request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
        (folder / f"predict-{name}.request").write_bytes(request.SerializeToString())

    def classify(name, contents):
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "cimt"
        request.model_spec.signature_name = "classify"
        for content in contents:
            example = request.input.example_list.examples.add()
            example.features.feature["image"].bytes_list.value.append(content)
        (folder / f"classify-{name}.request").write_bytes(request.SerializeToString())

    predict("tensor", "serving_default", "image", images.astype(np.float32))
    predict("default", "", "image", images[:1].astype(np.float32))
    predict("bytes", "image_bytes", "image_bytes", encoded)
    classify("examples", encoded)
    for name, content in {"empty": b"", "text": b"no image", "cut": encoded[0][:50]}.items():
        predict(name, "image_bytes", "image_bytes", [encoded[1], content])
        classify(name, [content])
    predict("channels", "serving_default", "image", np.zeros((1, 9, 9, 4), np.float32))
    body = {"instances": [{"image": image.tolist()} for image in images]}
    (folder / "tensor.rest").write_text(json.dumps(body))
    listed = [{"image_bytes": {"b64": base64.b64encode(one).decode()}} for one in encoded]
    body = {"signature_name": "image_bytes", "instances": listed}
    (folder / "bytes.rest").write_text(json.dumps(body))
    done = subprocess.run(
        [sys.executable, "-I", "-c", SERVER, str(export), str(folder)],
        cwd=folder, check=False, timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return model, folder, json.loads((folder / "found.json").read_text())


def test_predict_requests(served, images):
    model, folder, found = served
    expected = test_serving.probabilities(model, images)
    for name, rows in {"tensor": expected, "default": expected[:1], "bytes": expected}.items():
        content = (folder / f"predict-{name}.response").read_bytes()
        response = predict_pb2.PredictResponse.FromString(content)
        answer = tf.make_ndarray(response.outputs["probabilities"])
        np.testing.assert_allclose(answer, rows, rtol=0, atol=1e-5)
    assert found["statuses"]["predict-tensor"] == "OK"


def test_classification_requests(served, images):
    model, folder, _ = served
    content = (folder / "classify-examples.response").read_bytes()
    response = classification_pb2.ClassificationResponse.FromString(content)
    rows = response.result.classifications
    assert [[one.label for one in row.classes] for row in rows] == [list(test_serving.CLASSES)] * 3
    scores = [[one.score for one in row.classes] for row in rows]
    expected = test_serving.probabilities(model, images)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_rest_bodies(served, images):
    model, folder, _ = served
    for name in ("tensor", "bytes"):
        answer = json.loads((folder / f"{name}.answer").read_text())["predictions"]
        expected = test_serving.probabilities(model, images)
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_what_is_no_image_is_an_invalid_argument(served):
    bad = [
        f"{kind}-{name}" for kind in ("predict", "classify") for name in ("empty", "text", "cut")
    ]
    statuses = served[2]["statuses"]
    assert {name: statuses[name] for name in [*bad, "predict-channels"]} == dict.fromkeys(
        [*bad, "predict-channels"], "INVALID_ARGUMENT"
    )


def test_the_warm_up_is_replayed_and_tries_every_signature(served):
    model, _, found = served
    seen = [(name, signature, len(rows)) for name, signature, rows in found["replayed"]]
    assert seen == [
        ("cimt", signature, batch)
        for batch in (1, 4)
        for signature in ("serving_default", "image_bytes", "classify")
    ]
    ramp = np.linspace(0, 255, 9, dtype=np.float32)
    image = np.round((ramp[:, None] + ramp) / 2).astype(np.uint8)[None, ..., None]
    expected = test_serving.probabilities(model, image)[0]
    for _, _, rows in found["replayed"]:
        np.testing.assert_allclose(rows, [expected] * len(rows), rtol=0, atol=1e-5)


def test_the_messages_of_the_warm_up_are_those_of_the_api():
    logs = map(prediction_log_pb2.PredictionLog.FromString, serving_warmup.messages("pe", 5))
    for log, batch in zip(logs, (1, 1, 1, 4, 4, 4), strict=True):
        own = prediction_log_pb2.PredictionLog()
        if log.HasField("predict_log"):
            request, spec = own.predict_log.request, log.predict_log.request.model_spec
            ((name, tensor),) = log.predict_log.request.inputs.items()
            values = tf.make_ndarray(tensor)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        else:
            request, spec = own.classify_log.request, log.classify_log.request.model_spec
            examples = log.classify_log.request.input.example_list.examples
            values = [one.features.feature["image"].bytes_list.value[0] for one in examples]
            for value in values:
                example = request.input.example_list.examples.add()
                example.features.feature["image"].bytes_list.value.append(value)
        request.model_spec.name = "pe"
        request.model_spec.signature_name = spec.signature_name
        assert log == own  # with nothing in it that the API does not know
        assert len(values) == batch
