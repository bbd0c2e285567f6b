import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer.weights._assign import assign
from medxfer.weights._contents import Contents
from tests.medxfer.weights import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.build(classes=3)


@pytest.fixture(autouse=True)
def start(model):
    """Every test begins with zeros, so that what was loaded can be seen."""
    model.set_weights([np.zeros(v.shape) for v in model.weights])


def arrays(model, classes=3):
    """What a reader gives for the network: ones, with a head of another number of classes."""
    layers = {
        layer.name: tuple(np.ones(v.shape) for v in layer.weights)
        for layer in model.layers
        if layer.weights
    }
    return layers | {"fc7": (np.ones((7, classes)), np.ones(classes))}


def load(model, layers, head=False, **kwargs):
    return assign(model, tiny.groups(model), Contents(layers, **kwargs), "some.file", head)


def is_loaded(model):
    return [bool(model.get_layer(name).get_weights()[0].all()) for name in tiny.NAMES]


def test_head_of_another_task_is_left_new(model):
    assert load(model, arrays(model, 1000)) == (("conv1", "conv2", "fc6"), ("fc7",))
    assert is_loaded(model) == [True, True, True, False]


def test_head_stays_new_even_where_it_would_fit(model):
    load(model, arrays(model, 3))
    assert is_loaded(model) == [True, True, True, False]


def test_head_of_the_same_task(model):
    assert load(model, arrays(model), head=True) == (tiny.NAMES, ())
    with pytest.raises(UserError, match="fc7 needs 7x3 and 3, the file's fc7 is 7x2 and 2"):
        load(model, arrays(model, 2), head=True)


def test_convolutions_only(model):
    layers = arrays(model)
    del layers["fc6"], layers["fc7"]
    assert load(model, layers) == (("conv1", "conv2"), ("fc6", "fc7"))
    assert is_loaded(model) == [True, True, False, False]
    with pytest.raises(UserError, match="has no fc6"):
        load(model, layers, head=True)


def test_names_of_another_library_are_matched_by_position(model):
    layers = {f"features.{i}": parts for i, parts in enumerate(arrays(model, 1000).values())}
    assert load(model, layers) == (("conv1", "conv2", "fc6"), ("fc7",))
    with pytest.raises(UserError, match="no layer of the network"):
        load(model, layers, ordered=False)


def test_order_in_the_file_does_not_matter_to_names(model):
    layers = dict(reversed(arrays(model).items()))
    assert load(model, layers, head=True) == (tiny.NAMES, ())


def test_dense_layer_written_as_convolution(model):
    layers = arrays(model)
    kernel = np.random.default_rng(0).normal(size=(2, 3, 6, 7))  # rows, columns, channels, units
    load(model, layers | {"fc6": (kernel, np.ones(7))})
    found, _ = model.get_layer("fc6").get_weights()
    np.testing.assert_array_equal(found, kernel.astype("f4").reshape(36, 7))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"conv1": (np.ones((11, 11, 3, 96)), np.ones(96))}, "seemingly Caffe's AlexNet"),
        ({"conv1": (np.ones((3, 3, 3, 4)),)}, "conv1 needs 3x3x3x4 and 4, the file's conv1 is"),
        ({"conv2": (np.ones((3, 3, 4, 6)), np.ones(6))}, "conv2 needs 3x3x2x6"),
        ({"conv2": (np.full((3, 3, 2, 6), np.nan), np.ones(6))}, "conv2 holds .* not finite"),
        ({"fc6": (np.ones((35, 7)), np.ones(7))}, "fc6 needs 36x7 and 7, the file's fc6 is 35x7"),
        ({"conv2": None}, "lacks conv2 but has fc6"),
    ],
)
def test_another_network_is_refused_and_nothing_is_loaded(model, change, message):
    layers = arrays(model) | change
    layers = {name: parts for name, parts in layers.items() if parts is not None}
    with pytest.raises(UserError, match=message) as refusal:
        load(model, layers)
    assert str(refusal.value).startswith("some.file")
    assert is_loaded(model) == [False] * 4
