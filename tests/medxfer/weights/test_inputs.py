"""What images a file of weights was made for: the same, refused, or converted."""

import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import plugins, weights
from medxfer.weights import _formats, _inputs
from medxfer.weights._contents import Contents
from tests.medxfer.weights import tiny, writers

# Written out from each framework's own documentation: RGB from 0 to 255 to its input.
MADE_FOR = {
    "torch": lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "caffe": lambda rgb: rgb[..., ::-1] - [103.939, 116.779, 123.68],
}
TAKES = {
    "alexnet": "torch", "densenet121": "torch", "efficientnetb0": "torch",
    "alexnet_caffe": "caffe", "vgg19": "caffe", "resnet50": "caffe",
}  # fmt: skip


def contents(made_for, bias=True):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 3, 8)).astype("f4")
    layer = (kernel, random.normal(size=8).astype("f4")) if bias else (kernel,)
    return Contents({"features.0": layer}, channels_first=True, inputs=made_for)


def convolved(images, layer):
    """3 x 3, without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), (1, 2))
    return np.einsum("nyxchw,hwco->nyxo", windows, layer[0].astype(float)) + sum(layer[1:])


def test_every_network_is_listed():
    assert set(TAKES) == set(plugins.names("medxfer.models"))


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("made_for", MADE_FOR)
def test_first_layer_computes_what_it_did_on_the_images_it_was_made_for(name, made_for):
    preprocess = plugins.load("medxfer.models", name).preprocess
    file = contents(made_for)
    if TAKES[name] == made_for:
        assert _inputs.adapt(file, preprocess, name, "file") is file
    else:
        with pytest.raises(UserError, match=f"--weights_input={made_for} to have .* converted"):
            _inputs.adapt(file, preprocess, name, "file")
    images = np.random.default_rng(1).uniform(0, 255, (2, 6, 7, 3)).astype("f4")
    expected = convolved(MADE_FOR[made_for](images), file.layers["features.0"])
    adapted = _inputs.adapt(file, preprocess, name, "file", made_for).layers["features.0"]
    found = convolved(np.asarray(preprocess(images)).astype(float), adapted)
    if name != "alexnet_caffe":  # its mean is Caffe's older, rounded one: see the edge, below
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_mean_that_differs_stays_in_the_bias():
    preprocess = plugins.load("medxfer.models", "alexnet_caffe").preprocess
    images = np.random.default_rng(1).uniform(0, 255, (2, 6, 7, 3)).astype("f4")
    file = contents("torch")
    adapted = _inputs.adapt(file, preprocess, "alexnet_caffe", "file", "torch")
    found = convolved(np.asarray(preprocess(images)).astype(float), adapted.layers["features.0"])
    expected = convolved(MADE_FOR["torch"](images), file.layers["features.0"])
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_unknown_inputs_and_layers_that_cannot_be_converted_are_refused():
    preprocess = plugins.load("medxfer.models", "vgg19").preprocess
    with pytest.raises(UserError, match="does not name, .* or --weights_input=network if"):
        _inputs.adapt(contents("unknown"), preprocess, "vgg19", "file")
    file = contents("unknown")
    assert _inputs.adapt(file, preprocess, "vgg19", "file", "network") is file
    dense = Contents({"fc": (np.ones((3, 2), "f4"),)}, inputs="torch")
    with pytest.raises(UserError, match="fc cannot be converted"):
        _inputs.adapt(dense, preprocess, "vgg19", "file", "torch")


@pytest.mark.parametrize(
    "name, made_for",
    [
        ("a.pth", "torch"),
        ("a.safetensors", "torch"),
        ("a.caffemodel", "caffe"),
        ("a.onnx", "unknown"),
    ],
)
def test_what_a_kind_of_file_was_made_for(name, made_for, tmp_path):
    write = {
        "a.pth": lambda p, layers: writers.torch_zip(p, *writers.state_dict(layers)),
        "a.safetensors": writers.safetensors,
        "a.caffemodel": writers.caffemodel,
        "a.onnx": writers.onnx_model,
    }[name]
    write(tmp_path / name, tiny.parameters())
    assert _formats.read(tmp_path / name).inputs == made_for


def test_features_of_torchvisions_vgg19(tmp_path):
    """Refused, since Keras' network takes other images; converted and whole when asked for."""
    model = plugins.load("medxfer.models", "vgg19").build(2, side=32)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    random = np.random.default_rng(0)
    layers = {
        f"features.{k}": tuple(
            random.normal(size=np.transpose(np.empty(v.shape), (3, 2, 0, 1)).shape if v.ndim == 4
                          else v.shape).astype("f4") for v in layer.weights
        )
        for k, layer in enumerate(convolutions)
    }  # fmt: skip
    file = tmp_path / "vgg19.pth"
    writers.torch_zip(file, *writers.state_dict(layers))
    before = convolutions[0].get_weights()[0].copy()
    with pytest.raises(UserError, match="vgg19.pth was made for RGB"):
        weights.load(model, "vgg19", str(file))
    np.testing.assert_array_equal(convolutions[0].get_weights()[0], before)
    report = weights.load(model, "vgg19", str(file), inputs="torch")
    assert report.loaded == ("block1", "block2", "block3", "block4", "block5")
    kernel = layers["features.0"][0].transpose(2, 3, 1, 0)[:, :, ::-1]
    expected = kernel / (255 * np.array([0.225, 0.224, 0.229]))[:, None]
    np.testing.assert_allclose(convolutions[0].get_weights()[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name, others", [("alexnet", 0), ("vgg19", 1), ("densenet121", 0)])
def test_pytorchs_names_stand_for_all_layers(name, others):
    """``others``: layers of this package's own head, which torchvision has not."""
    network = plugins.load("medxfer.models", name)
    model = network.build(2) if name == "alexnet" else network.build(2, side=32)
    weighted = [layer for layer in model.layers if layer.weights]
    assert len(set(network.TORCH_LAYERS)) == len(weighted) - others
