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

Bytes that are no image, and another number of channels, raise ``InvalidArgumentError``.

Examples
--------
REST bodies for ``POST /v1/models/APP:predict``; the first sends one grey patch of 2 x 2 pixels::

    {"instances": [{"image": [[[12], [40]], [[13], [38]]]}]}
    {"signature_name": "image_bytes", "instances": [{"image_bytes": {"b64": "iVBORw0KGgo..."}}]}

and for ``POST /v1/models/APP:classify``::

    {"signature_name": "classify", "examples": [{"image": {"b64": "iVBORw0KGgo..."}}]}

Beside the graph, ``assets.extra/medxfer.json`` names app, classes, patch and the run, and
``assets.extra/tf_serving_warmup_requests`` has the server try all signatures before clients do
(:mod:`medxfer.serving_warmup`). Weights may be stored small (:mod:`medxfer.serving_weights`), in a
folder ``APP-float16`` or ``APP-int8`` of its own, since to the server that is another model.
"""

import json
import pathlib
import tempfile
from collections.abc import Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf

from medxfer import serving_fit, serving_warmup, serving_weights
from medxfer.data import patch_transform

CLASSIFY_METHOD = "tensorflow/serving/classify"
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
    description = {
        "app": app,
        "classes": list(classes),
        "patch": patch,
        "input_side": model_module.INPUT_SIDE,
        "multilabel": multilabel,
        "fit": fit,
        "weights": weights,
        "run_card_hash": run_card_hash,
    }
    # A name that is no integer: a server that watches the folder passes over it.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as partial:
        written = pathlib.Path(partial) / "export"
        logits = serving_weights.forward(_float32_twin(model), weights)
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
    """Load an export and compare its three signatures with ``model`` in float32.

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
    inputs = patch_transform(model_module)(images)
    description = json.loads((path / DESCRIPTION).read_text())
    twin = serving_weights.restored(_float32_twin(model), description["weights"])
    logits = twin(inputs, training=False)
    expected = _activation(description["multilabel"])(logits).numpy()
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
        names = classified["classes"].numpy().astype(str).tolist()
        if names != [classes] * batch:
            raise RuntimeError(f"The export {path} answers with other classes: {names[0]}.")
    if not worst <= tolerance:
        raise RuntimeError(f"The export {path} differs from the model by {worst:.2g}.")
    return worst


def _float32_twin(model: keras.Model) -> keras.Model:
    """Copy of ``model`` that computes in float32, free of any distribution strategy."""

    def in_float32(layer):
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    twin = keras.models.clone_model(model, clone_function=in_float32)
    twin.set_weights(model.get_weights())
    return twin


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
        images = tf.tile(images, [1, 1, 1, 3 // tf.shape(images)[-1]])
        images = tf.ensure_shape(images, (None, None, None, 3))
        return activation(logits(transform(images)))

    def read(content):
        # Each image is resized as it is decoded, since those of a batch may differ in size.
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
        image = tf.ensure_shape(image, (None, None, 3))
        return transform(tf.cast(image, tf.float32)[None])[0]

    def decoded(contents):
        inputs = tf.map_fn(read, contents, fn_output_signature=tf.float32)
        return activation(logits(inputs))

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
        taken = [int(entry.name) for entry in home.iterdir() if entry.name.isdecimal()]
        path = home / str(max(taken, default=0) + 1)
        try:
            return written.rename(path)
        except OSError:
            # Another process may have taken the number in between.
            if not path.exists():
                raise
