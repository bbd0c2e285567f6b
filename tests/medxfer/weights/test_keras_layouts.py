"""Files as keras.applications and Keras write them, read back tensor by tensor."""

import hashlib
import importlib

import h5py
import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import weights

SIDE = 32
PEERS = {
    "densenet121": "DenseNet121",
    "efficientnetb0": "EfficientNetB0",
    "resnet50": "ResNet50",
    "vgg19": "VGG19",
}
SLOW = pytest.mark.slow


def peer(name, top=False):
    """The network of keras.applications with random numbers in every tensor."""
    network = getattr(keras.applications, PEERS[name])
    shape = (SIDE, SIDE, 3)
    model = network(
        include_top=top, weights=None, input_shape=shape, **({"classes": 5} if top else {})
    )
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 1, variable.shape))
    return model


def own(name, monkeypatch):
    module = importlib.import_module(f"medxfer.models.{name}")
    monkeypatch.setattr(module, "INPUT_SIDE", SIDE)
    return module.build(3)


def write(model, folder, layout):
    """Legacy h5 of weights alone, as published, or what Keras 3 writes."""
    path = folder / f"file{layout.removeprefix('weights-only')}"
    if layout == "weights-only.h5":
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
            for layer in model.layers:
                group = file.create_group(layer.name)
                names = [f"{layer.name}/{v.name}:0".encode() for v in layer.weights]
                group.attrs["weight_names"] = names
                for label, variable in zip(names, layer.weights, strict=True):
                    group[label.decode()] = np.asarray(variable)
    elif layout == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    return path


def assert_all_loaded(model, source):
    compared = 0
    for layer in model.layers:
        if layer.weights and layer.name != "head":
            theirs = source.get_layer(layer.name).weights
            for mine, other in zip(layer.weights, theirs, strict=True):
                np.testing.assert_array_equal(mine, other, err_msg=mine.path)
                compared += 1
    ignored = {"head", "predictions", "normalization", "fc1", "fc2"}
    assert compared == sum(
        len(x.weights) for x in source.layers if x.name.split("_")[0] not in ignored
    )


@pytest.mark.parametrize(
    "name, layout, top",
    [
        ("densenet121", "weights-only.h5", False),
        pytest.param("efficientnetb0", ".weights.h5", True, marks=SLOW),
        ("vgg19", "weights-only.h5", False),
        pytest.param("densenet121", ".keras", True, marks=SLOW),
        pytest.param("densenet121", ".h5", True, marks=SLOW),
        pytest.param("efficientnetb0", "weights-only.h5", False, marks=SLOW),
        pytest.param("efficientnetb0", ".h5", False, marks=SLOW),
        pytest.param("resnet50", "weights-only.h5", True, marks=SLOW),
        pytest.param("resnet50", ".weights.h5", False, marks=SLOW),
        pytest.param("resnet50", ".keras", False, marks=SLOW),
        pytest.param("vgg19", ".h5", True, marks=SLOW),
        pytest.param("vgg19", ".weights.h5", True, marks=SLOW),
    ],
)
def test_every_tensor_is_matched(tmp_path, monkeypatch, name, layout, top):
    source, model = peer(name, top), own(name, monkeypatch)
    before = model.get_layer("head").get_weights()
    path = write(source, tmp_path, layout)
    report = weights.load(model, name, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.sha256 == digest
    assert report.source == f"a weights file (sha256 {digest[:16]})"  # a name may be a patient's
    assert report.new == ("head",)
    assert_all_loaded(model, source)
    for mine, old in zip(model.get_layer("head").get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


def test_a_missing_or_a_further_tensor_is_refused(tmp_path, monkeypatch):
    source, model = peer("vgg19"), own("vgg19", monkeypatch)
    path = write(source, tmp_path, "weights-only.h5")
    before = model.get_weights()

    def refused(message, change):
        changed = tmp_path / "changed.h5"
        changed.write_bytes(path.read_bytes())
        with h5py.File(changed, "a") as file:
            change(file)
        with pytest.raises(UserError, match=message):
            weights.load(model, "vgg19", str(changed))
        for mine, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(mine, old)

    def names(file, kept):
        found = [n.decode() if isinstance(n, bytes) else n for n in file.attrs["layer_names"]]
        file.attrs["layer_names"] = [n for n in found if kept(n)]

    def less(file):
        file["block3_conv2"].attrs["weight_names"] = [b"block3_conv2/kernel:0"]

    def more(file):
        extra = list(file["block3_conv2"].attrs["weight_names"])
        file["block3_conv2"].attrs["weight_names"] = [*extra, extra[-1]]

    def further(file):
        file.copy("block5_conv4", "block6_conv1")
        file.attrs["layer_names"] = [*file.attrs["layer_names"], "block6_conv1"]

    refused("block3_conv2 needs 3x3x256x256 and 256, the file's .* is 3x3x256x256", less)
    refused("block3_conv2 needs", more)
    refused("lacks block3_conv2", lambda file: names(file, lambda n: n != "block3_conv2"))
    refused("has no block5", lambda file: names(file, lambda n: not n.startswith("block5")))
    refused("lacks the file's block6_conv1", further)


def test_names_like_paths_are_those_of_keras_2(tmp_path):
    from medxfer.weights import hdf5

    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1/bn"]
        group = file.create_group("conv1/bn")
        group.attrs["weight_names"] = [b"conv1/bn/gamma:0"]
        group["conv1/bn/gamma:0"] = np.ones(3)
    assert set(hdf5.read(tmp_path / "old.h5").layers) == {"conv1_bn"}
