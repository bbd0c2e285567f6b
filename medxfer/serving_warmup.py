"""Requests that TensorFlow Serving sends to a model itself before it takes any from clients.

The first request to a model is slow, since much is set up only then. The server therefore replays
``assets.extra/tf_serving_warmup_requests``, a TFRecord of ``PredictionLog`` messages, for every
signature that clients use. The images in it are synthetic.

The messages are written here and not by the package ``tensorflow-serving-api``, so that an export
does not need it; a test compares them with that package's own. They are these, with the numbers of
their fields (tensorflow/serving, ``tensorflow_serving/apis/``: ``prediction_log.proto``,
``predict.proto``, ``classification.proto``, ``input.proto``, ``model.proto``)::

    PredictionLog          2: ClassifyLog, 6: PredictLog
    PredictLog             1: PredictRequest
    PredictRequest         1: ModelSpec, 2: map from name (1) to TensorProto (2)
    ClassifyLog            1: ClassificationRequest
    ClassificationRequest  1: ModelSpec, 2: Input
    Input                  1: ExampleList
    ExampleList            1: Example, repeated
    ModelSpec              1: name, 3: signature
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from data_prep.records import delimited, png

FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")

#: Images of the requests: one, as most clients send, and several.
BATCHES = (1, 4)


def write(export: pathlib.Path, app: str, side: int) -> None:
    """Write the requests of an export.

    Parameters
    ----------
    export : path
        Folder of the SavedModel.
    app : str
        Name under which it is served.
    side : int
        Of the images, in pixels: that of the patches that clients will send.
    """
    path = export / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for message in messages(app, side):
            writer.write(message)


def messages(app: str, side: int) -> Iterator[bytes]:
    """Serialized ``PredictionLog`` messages for all signatures and :data:`BATCHES`."""
    ramp = np.linspace(0, 255, side, dtype=np.float32)
    image = np.round((ramp[:, None] + ramp) / 2).astype(np.uint8)[..., None]
    encoded = png(image)
    for batch in BATCHES:
        tensor = np.stack([image] * batch).astype(np.float32)
        yield _predict(app, "serving_default", "image", tensor)
        yield _predict(app, "image_bytes", "image_bytes", np.array([encoded] * batch, object))
        yield _classify(app, "classify", [example(encoded)] * batch)


def example(image: bytes) -> bytes:
    """The serialized ``tf.train.Example`` that the signature ``classify`` takes."""
    content = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(
        features=tf.train.Features(feature={"image": content})
    ).SerializeToString()


def _predict(app: str, signature: str, name: str, values: np.ndarray) -> bytes:
    tensor = tf.make_tensor_proto(values).SerializeToString()
    inputs = delimited(2, delimited(1, name.encode()) + delimited(2, tensor))
    return delimited(6, delimited(1, _model(app, signature) + inputs))


def _classify(app: str, signature: str, examples: list[bytes]) -> bytes:
    listed = b"".join(delimited(1, content) for content in examples)
    return delimited(2, delimited(1, _model(app, signature) + delimited(2, delimited(1, listed))))


def _model(app: str, signature: str) -> bytes:
    return delimited(1, delimited(1, app.encode()) + delimited(3, signature.encode()))
