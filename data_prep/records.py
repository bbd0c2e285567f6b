"""The schema of one example: what `data_prep` writes and `medxfer` reads.

An example is a ``tf.train.Example`` with plain feature keys. Six features are common to all apps;
an app declares the others once, as name -> kind (for instance ``{"mm_per_pixel": "float"}``), and
encoding, parsing and the description for other readers all follow from that declaration.
"""

import dataclasses
import io
import typing
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

if typing.TYPE_CHECKING:
    import tensorflow as tf

#: Raised by one whenever the bytes of an unchanged example change.
SCHEMA_VERSION = 1

#: Features of every app. ``label`` is a class index, -1 where a region holds several classes;
#: ``subject``, ``case`` and ``unit`` are pseudonyms; ``lesion`` counts in the case, -1 is none.
COMMON = {
    "image": "image",
    "label": "label",
    "subject": "text",
    "case": "text",
    "unit": "text",
    "lesion": "int",
}

#: Kinds an app may declare for its own features.
EXTRA_KINDS = ("float", "float_list", "int", "int_list", "text")


@dataclasses.dataclass(frozen=True)
class Example:
    """One patch or one region.

    Attributes
    ----------
    key : str
        Unique within a split, without any original name: decides the place in the split.
    image : ndarray of uint8, (height, width) or (height, width, 1 or 3)
        Grey or RGB.
    label : int
        Class index, or -1 for a region.
    subject, case, unit : str
        Pseudonyms of the person (or animal, or exam), of the video, volume or image, and of the
        thing that is scored.
    lesion : int
        Index of the lesion within the case, -1 for none.
    extras : mapping
        Exactly the features that the app declares; ``float_list`` and ``int_list`` take any 1-D
        sequence, which may be empty; floats may be NaN.
    """

    key: str
    image: np.ndarray
    label: int
    subject: str
    case: str
    unit: str
    lesion: int = -1
    extras: Mapping[str, float | int | str | Sequence[float]] = dataclasses.field(
        default_factory=dict
    )


def kinds(extras: Mapping[str, str]) -> dict[str, str]:
    """All features of an app, name -> kind, the common ones included.

    Raises
    ------
    ValueError
        If a declared kind is unknown or a name is that of a common feature or is nested ("a/b").
    """
    for name, kind in extras.items():
        if kind not in EXTRA_KINDS:
            raise ValueError(f"Feature '{name}': kind must be one of {EXTRA_KINDS}, not {kind!r}.")
        if name in COMMON or "/" in name:
            raise ValueError(f"Feature '{name}': the name is taken or holds a slash.")
    return {**COMMON, **extras}


def encode(example: Example, extras: Mapping[str, str]) -> bytes:
    """Serialise to the bytes of a ``tf.train.Example``; the same example gives the same bytes.

    The image becomes a PNG. The message is written here and not by TensorFlow for two reasons:
    worker processes need not import it (seconds each), and features lie in the order of their
    names, whatever the release of protobuf.

    Raises
    ------
    ValueError
        If the image is not uint8 grey or RGB, or the extras are not exactly those declared.
    """
    if set(example.extras) != set(extras):
        raise ValueError(
            f"{example.key}: extras must be {sorted(extras)}. Received: {sorted(example.extras)}."
        )
    values = {
        "image": png(example.image),
        "label": example.label,
        "subject": example.subject,
        "case": example.case,
        "unit": example.unit,
        "lesion": example.lesion,
        **example.extras,
    }
    entries = (
        delimited(1, delimited(1, name.encode()) + delimited(2, _feature(kind, values[name])))
        for name, kind in sorted(kinds(extras).items())
    )
    return delimited(1, b"".join(entries))


def png(image: np.ndarray) -> bytes:
    """Encode a grey (H, W) or (H, W, 1), or RGB (H, W, 3), uint8 image as PNG."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    grey, rgb = image.ndim == 2, image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (grey or rgb) or 0 in image.shape:
        raise ValueError(
            f"An image must be uint8, grey or RGB. Received: {image.dtype} {image.shape}."
        )
    buffer = io.BytesIO()
    # Runs of filtered bytes alone: three times faster than zlib's search for repeats, which photos
    # hardly have, for files 5 % larger.
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_type=Image.RLE)
    return buffer.getvalue()


def parse_spec(
    extras: Mapping[str, str],
) -> "dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]":
    """Specification for ``tf.io.parse_example``; ``image`` stays the bytes of its PNG."""
    import tensorflow as tf

    fixed = {
        "image": tf.string,
        "text": tf.string,
        "label": tf.int64,
        "int": tf.int64,
        "float": tf.float32,
    }
    lists = {"float_list": tf.float32, "int_list": tf.int64}
    return {
        name: tf.io.RaggedFeature(lists[kind])
        if kind in lists
        else tf.io.FixedLenFeature([], fixed[kind])
        for name, kind in kinds(extras).items()
    }


def features_json(classes: Sequence[str], channels: int, extras: Mapping[str, str]) -> dict:
    """Content of ``features.json``, by which TensorFlow Datasets reads the records."""

    def tensor(dtype: str, *dimensions: int) -> dict:
        shape = {"dimensions": [str(size) for size in dimensions]} if dimensions else {}
        return {"tensor": {"shape": shape, "dtype": dtype, "encoding": "none"}}

    shape = {"dimensions": ["-1", "-1", str(channels)]}
    image = {"shape": shape, "dtype": "uint8", "encodingFormat": "png"}
    described = {
        "image": ("image_feature.Image", {"image": image}),
        "label": (
            "class_label_feature.ClassLabel",
            {"classLabel": {"numClasses": str(len(classes))}},
        ),
        "text": ("text_feature.Text", {"text": {}}),
        "int": ("tensor_feature.Tensor", tensor("int64")),
        "float": ("tensor_feature.Tensor", tensor("float32")),
        "float_list": ("tensor_feature.Tensor", tensor("float32", -1)),
        "int_list": ("tensor_feature.Tensor", tensor("int64", -1)),
    }
    module = "tensorflow_datasets.core.features."
    features = {
        name: {"pythonClassName": module + described[kind][0], **described[kind][1]}
        for name, kind in kinds(extras).items()
    }
    return {
        "type": module + "features_dict.FeaturesDict",
        "content": {"features": features},
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }


# tf.train.Example is a map from name to a list of bytes (field 1), float (2) or int64 (3):
# https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto,
# written as https://protobuf.dev/programming-guides/encoding says.


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as two's complement
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def delimited(field: int, payload: bytes) -> bytes:
    """One field of a protocol buffer message: number and bytes (text, or a message in it)."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _feature(kind: str, value: object) -> bytes:
    if kind in ("image", "text"):
        return delimited(1, delimited(1, value if kind == "image" else str(value).encode()))
    if kind in ("label", "int"):
        return delimited(3, delimited(1, _varint(int(value))))
    if kind == "int_list":
        packed = b"".join(_varint(int(number)) for number in value)
        return delimited(3, delimited(1, packed) if packed else b"")
    floats = np.atleast_1d(np.asarray(value, "<f4"))
    return delimited(2, delimited(1, floats.tobytes()) if floats.size else b"")
