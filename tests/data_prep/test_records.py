import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import records

EXTRAS = {
    "mm_per_pixel": "float",
    "margin": "int",
    "note": "text",
    "li": "float_list",
    "counts": "int_list",
}


def random_example(rng: np.random.Generator) -> records.Example:
    channels = rng.choice([0, 1, 3])
    shape = (*rng.integers(1, 40, 2), channels) if channels else tuple(rng.integers(1, 40, 2))
    rows = rng.normal(size=rng.integers(0, 200)).astype(np.float32)
    rows[rng.random(rows.size) < 0.2] = np.nan
    number = int(rng.integers(-(2**62), 2**62))
    return records.Example(
        key=f"key {number}",
        image=rng.integers(0, 256, shape, np.uint8),
        label=int(rng.integers(-1, 3)),
        subject="a" * int(rng.integers(0, 300)),
        case="Fallübung",
        unit="c-0",
        lesion=int(rng.integers(-1, 3)),
        extras={
            "mm_per_pixel": float(np.float32(rng.normal())),
            "margin": number,
            "note": "é",
            "li": rows,
            "counts": rng.integers(-(2**62), 2**62, rng.integers(0, 20)),
        },
    )


def by_tensorflow(example: records.Example) -> tf.train.Example:
    """The same message, made by TensorFlow's own classes."""
    message = tf.train.Example()
    feature = message.features.feature
    feature["image"].bytes_list.value.append(records.png(example.image))
    for name in ("subject", "case", "unit"):
        feature[name].bytes_list.value.append(getattr(example, name).encode())
    feature["note"].bytes_list.value.append(example.extras["note"].encode())
    feature["label"].int64_list.value.append(example.label)
    feature["lesion"].int64_list.value.append(example.lesion)
    feature["margin"].int64_list.value.append(example.extras["margin"])
    feature["mm_per_pixel"].float_list.value.append(example.extras["mm_per_pixel"])
    feature["li"].float_list.SetInParent()
    feature["li"].float_list.value.extend(example.extras["li"])
    feature["counts"].int64_list.SetInParent()
    feature["counts"].int64_list.value.extend(example.extras["counts"])
    return message


@pytest.mark.parametrize("seed", range(30))
def test_encode_is_what_tensorflow_writes(seed):
    example = random_example(np.random.default_rng(seed))
    expected = by_tensorflow(example).SerializeToString(deterministic=True)
    assert records.encode(example, EXTRAS) == expected


def test_parsing_gives_back_what_was_encoded():
    rng = np.random.default_rng(1)
    examples = [random_example(rng) for _ in range(20)]
    parsed = tf.io.parse_example(
        [records.encode(example, EXTRAS) for example in examples], records.parse_spec(EXTRAS)
    )
    assert set(parsed) == set(records.COMMON) | set(EXTRAS)
    for place, example in enumerate(examples):
        values = {name: feature[place].numpy() for name, feature in parsed.items()}
        image = np.asarray(Image.open(io.BytesIO(values["image"])))
        np.testing.assert_array_equal(
            image,
            np.squeeze(example.image, -1) if example.image.shape[2:] == (1,) else example.image,
        )
        assert values["label"] == example.label
        assert values["lesion"] == example.lesion
        assert [values[name].decode() for name in ("subject", "case", "unit")] == [
            example.subject,
            example.case,
            example.unit,
        ]
        assert values["mm_per_pixel"] == np.float32(example.extras["mm_per_pixel"])
        assert values["margin"] == example.extras["margin"]
        for name in ("li", "counts"):
            np.testing.assert_array_equal(values[name], example.extras[name])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_images_that_are_neither_grey_nor_rgb_are_refused(image):
    with pytest.raises(ValueError, match="must be uint8, grey or RGB"):
        records.png(image)


@pytest.mark.parametrize("extras", [{"x": 1.0}, {"x": 1.0, "y": 2.0, "z": 3.0}])
def test_undeclared_or_missing_features_are_refused(extras):
    example = records.Example("k", np.zeros((2, 2), np.uint8), 0, "s", "c", "u", extras=extras)
    with pytest.raises(ValueError, match="extras must be"):
        records.encode(example, {"x": "float", "y": "float"})


@pytest.mark.parametrize("extras", [{"x": "double"}, {"label": "int"}, {"a/b": "int"}])
def test_wrong_declarations_are_refused(extras):
    with pytest.raises(ValueError, match="Feature"):
        records.kinds(extras)


def test_features_json_is_what_tfds_writes():
    tfds = pytest.importorskip("tensorflow_datasets")
    feature = tfds.features
    by_tfds = feature.FeaturesDict(
        {
            "image": feature.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png"),
            "label": feature.ClassLabel(num_classes=3),
            "subject": feature.Text(),
            "case": feature.Text(),
            "unit": feature.Text(),
            "lesion": feature.Scalar(np.int64),
            "mm_per_pixel": feature.Tensor(shape=(), dtype=np.float32),
            "margin": feature.Tensor(shape=(), dtype=np.int64),
            "note": feature.Text(),
            "li": feature.Tensor(shape=(None,), dtype=np.float32),
            "counts": feature.Tensor(shape=(None,), dtype=np.int64),
        }
    )
    described = records.features_json(("a", "b", "c"), 1, EXTRAS)
    read = feature.FeaturesDict.from_json(json.loads(json.dumps(described)))
    assert read.get_tensor_info() == by_tfds.get_tensor_info()
    assert read.get_serialized_info() == by_tfds.get_serialized_info()
