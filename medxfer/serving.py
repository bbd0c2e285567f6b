"""Export of a trained network as a TensorFlow SavedModel that needs nothing of this package.

Resizing and preprocessing are inside the graph: a client sends patches as they are. The folder is
what TensorFlow Serving expects, ``FOLDER/APP/VERSION/``. Three signatures:

``serving_default``
    ``image``, float32 (N, H, W, 1 or 3), raw values 0..255, any H and W ->
    ``probabilities``, float32 (N, classes): of classes that exclude each other they sum to 1.
``image_bytes``
    ``image_bytes``, string (N,), each an encoded PNG, JPEG, GIF or BMP -> ``probabilities``. Images
    of one batch may differ in size. Of 16-bit values the high byte counts.
``classify``
    ``inputs``, string (N,), serialized ``tf.train.Example`` with the encoded image in feature
    ``image``, as in the records of `data_prep` -> ``classes``, string (N, classes), and ``scores``,
    float32 (N, classes), in the same order. This is TensorFlow Serving's Classify method.

Bytes that are no image or one of more than :data:`serving_decode.MAX_PIXELS` pixels, numbers that
are not finite or outside 0..255, and another number of channels raise ``InvalidArgumentError``; of
encoded images it names the first bad one. An empty request has an empty answer.
``serving_default`` can be converted to TensorFlow Lite without operations of TensorFlow's own.

Examples
--------
REST bodies for ``POST /v1/models/APP:predict``; the first sends one grey patch of 2 x 2 pixels::

    {"instances": [{"image": [[[12], [40]], [[13], [38]]]}]}
    {"signature_name": "image_bytes", "instances": [{"image_bytes": {"b64": "iVBORw0KGgo..."}}]}

and for ``POST /v1/models/APP:classify``::

    {"signature_name": "classify", "examples": [{"image": {"b64": "iVBORw0KGgo..."}}]}

Beside the graph, ``assets.extra/medxfer.json`` names app, classes, patch, the range of the input,
thresholds, version, date and the run, and
``assets.extra/tf_serving_warmup_requests`` has the server try all signatures before clients do
(:mod:`medxfer.serving_warmup`). Weights may be stored small (:mod:`medxfer.serving_weights`), in a
folder ``APP-float16`` or ``APP-int8`` of its own, since to the server that is another model.
"""

import contextlib
import datetime
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from medxfer import provenance, serving_decode, serving_fit, serving_warmup, serving_weights
from medxfer.data import patch_transform
from medxfer.network import TrainedNetwork, in_float32

CLASSIFY_METHOD = "tensorflow/serving/classify"
INPUT_RANGE = (0, 255)
DESCRIPTION = pathlib.PurePath("assets.extra", "medxfer.json")


def export(
    model: keras.Model,
    folder: pathlib.Path,
    *,
    classes: Sequence[str],
    patch: int,
    model_module: ModuleType,
    app: str,
    run_card_hash: str = "",
    multilabel: bool = False,
    fit: str = "",
    weights: str = "float32",
    version: int | None = None,
) -> pathlib.Path:
    """Write ``model`` as the next version in ``folder/app``; whole or not at all.

    A version that holds the same weights and answers stays the newest one and is returned.

    The graph computes in float32 whatever the model's precision, and in inference mode.

    Parameters
    ----------
    model
        Preprocessed images -> logits.
    folder
        Parent of the app's folder; made if absent.
    classes
        Name of every output, in order.
    patch
        Side in pixels of the patches the model was trained on (0: any); for information.
    model_module
        Module of the network: ``INPUT_SIDE`` and ``preprocess``.
    app
        Name under which the model is served.
    run_card_hash
        ``run_card_hash`` of the run card, so that an export can be traced to its run.
    multilabel
        Whether an image may show several classes, so that each has a probability of its own.
    fit
        How an image of any shape becomes a square of ``patch`` pixels, "pad" or "crop"; see
        :func:`medxfer.serving_fit.square`. Empty: patches are square, or stretched.
    weights
        How they are stored, one of :data:`medxfer.serving_weights.KINDS`; other than float32 the
        model is called ``app-weights``.
    version
        By default one more than the highest present.

    Returns
    -------
    pathlib.Path
        ``folder/app/VERSION``.

    Raises
    ------
    ValueError
        If ``classes`` do not match the outputs of the model, or a weight is too large for float16.
    FileExistsError
        If the version is there.
    """
    if len(classes) != model.output_shape[-1]:
        raise ValueError(f"{len(classes)} classes for {model.output_shape[-1]} outputs.")
    name = app if weights == "float32" else f"{app}-{weights}"
    home = pathlib.Path(folder) / name
    home.mkdir(parents=True, exist_ok=True)
    twin = in_float32(model)
    description = {
        "app": app,
        "network": model.name,
        "classes": list(classes),
        "patch": patch,
        "input_side": model_module.INPUT_SIDE,
        "multilabel": multilabel,
        "fit": fit,
        "input_range": list(INPUT_RANGE),
        "decision": "every class at its threshold" if multilabel else "the most probable class",
        "thresholds": [0.5] * len(classes) if multilabel else None,
        "weights": weights,
        "weights_sha256": _digest(twin.get_weights()),
        "medxfer_version": provenance.versions()["medxfer"],
    }
    if (newest := _newest(home)) and version in (None, newest):
        with contextlib.suppress(OSError, ValueError):
            there = json.loads((home / str(newest) / DESCRIPTION).read_text())
            if description.items() <= there.items():
                logging.info("Version %d of %s holds these weights already.", newest, name)
                return home / str(newest)
    now = datetime.datetime.now(datetime.UTC)
    description |= {"date": now.isoformat(timespec="seconds"), "run_card_hash": run_card_hash}
    # A name that is no integer: a server that watches the folder passes over it.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as partial:
        written = pathlib.Path(partial) / "export"
        logits = serving_weights.forward(twin, weights)
        transform = _transform(model_module, patch, fit)
        _write(logits, transform, classes, written, _activation(multilabel))
        serving_warmup.write(written, name, patch or model_module.INPUT_SIDE)
        (written / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        return _as_version(written, home, version)


def verify(
    path: pathlib.Path,
    model: keras.Model,
    model_module: ModuleType,
    images: np.ndarray,
    tolerance: float = 1e-5,
) -> float:
    """Load an export and compare its three signatures with what evaluations say of ``model``.

    Where the export stores the weights small, the model is given the same rounded ones.

    Batches of one and of all images are sent twice: an export that computes in training mode
    differs from itself.

    Parameters
    ----------
    path
        What :func:`export` returned.
    model, model_module
        What was exported.
    images
        uint8 (N, H, W, 1 or 3).
    tolerance
        Largest difference of a probability that passes.

    Returns
    -------
    float
        Largest difference found.

    Raises
    ------
    RuntimeError
        If it exceeds ``tolerance``, or the class names are not those described beside the graph.
    """
    signatures = tf.saved_model.load(str(path)).signatures
    description = json.loads((path / DESCRIPTION).read_text())
    twin = serving_weights.restored(in_float32(model), description["weights"])
    expected = TrainedNetwork(twin, model_module, description).classify(images)
    classes = description["classes"]
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    examples = tf.stack([serving_warmup.example(content) for content in encoded.numpy()])
    worst = 0.0
    for batch in (1, len(images)) * 2:
        sent = tf.cast(images[:batch], tf.float32)
        classified = signatures["classify"](inputs=examples[:batch])
        for answer in (
            signatures["serving_default"](image=sent)["probabilities"],
            signatures["image_bytes"](image_bytes=encoded[:batch])["probabilities"],
            classified["scores"],
        ):
            worst = max(worst, float(np.max(np.abs(answer.numpy() - expected[:batch]))))
        names = [[name.decode() for name in row] for row in classified["classes"].numpy()]
        if names != [classes] * batch:
            raise RuntimeError(f"The export {path} answers with other classes: {names[0]}.")
    if not worst <= tolerance:
        raise RuntimeError(f"The export {path} differs from the model by {worst:.2g}.")
    return worst


def _activation(multilabel: bool):
    return tf.nn.sigmoid if multilabel else tf.nn.softmax


def _transform(model_module: ModuleType, side: int, fit: str):
    """Images float32 (N, H, W, 3) to the input of the network."""
    transform = patch_transform(model_module)
    if not fit:
        return transform
    return lambda images: transform(serving_fit.square(images, side, fit))


def _write(logits, transform, classes, path, activation):
    def probabilities(images):
        shape = tf.shape(images)
        low, high = tf.reduce_min(images), tf.reduce_max(images)  # NaN where one is
        usable = (low >= INPUT_RANGE[0]) & (high <= INPUT_RANGE[1]) & (tf.size(images) > 0)
        usable &= (shape[3] == 1) | (shape[3] == 3)
        message = tf.strings.format(
            "image must have shape (N, H, W, 1 or 3) and numbers from 0 to 255. Received: shape "
            "{}, numbers from {} to {}",
            (shape, low, high),
            summarize=-1,
        )
        known = tf.debugging.Assert(usable | (shape[0] == 0), [message])
        with tf.control_dependencies([known]):
            # No network computes nothing: an empty request becomes one black pixel for it.
            images = tf.pad(
                images, [[0, tf.cast(side == 0, tf.int32)] for side in tf.unstack(shape)]
            )
        # Of known channels by construction: converters to other formats look for them.
        images = tf.broadcast_to(images, tf.concat([tf.shape(images)[:3], [3]], axis=0))
        return activation(logits(transform(images)))[: shape[0]]

    def decoded(contents):
        inputs = serving_decode.decoded(contents, transform)
        return activation(logits(inputs))[: tf.size(contents)]

    def classify(inputs):
        feature = {"image": tf.io.FixedLenFeature((), tf.string)}
        scores = decoded(tf.io.parse_example(inputs, feature)["image"])
        names = tf.tile(tf.constant([list(classes)]), [tf.shape(scores)[0], 1])
        return {"classes": names, "scores": scores}

    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "serving_default",
        lambda image: {"probabilities": probabilities(image)},
        [tf.TensorSpec((None, None, None, None), tf.float32, "image")],
    )
    archive.add_endpoint(
        "image_bytes",
        lambda image_bytes: {"probabilities": decoded(image_bytes)},
        [tf.TensorSpec((None,), tf.string, "image_bytes")],
    )
    archive.add_endpoint("classify", classify, [tf.TensorSpec((None,), tf.string, "inputs")])
    archive.write_out(str(path), verbose=False)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
    updater.replace_method_name("classify", CLASSIFY_METHOD, tags="serve")
    updater.save()


def _as_version(
    written: pathlib.Path, home: pathlib.Path, version: int | None = None
) -> pathlib.Path:
    if version is not None:
        path = home / str(version)
        if path.exists():
            raise FileExistsError(f"{path} exists.")
        return written.rename(path)
    while True:
        path = home / str(_newest(home) + 1)
        try:
            return written.rename(path)
        except OSError:
            # Another process may have taken the number in between.
            if not path.exists():
                raise


def _newest(home: pathlib.Path) -> int:
    """Number of the newest version; 0 if there is none."""
    return max((int(path.name) for path in home.iterdir() if path.name.isdecimal()), default=0)


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of shapes and values, in hexadecimal."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array))
    return sha256.hexdigest()
