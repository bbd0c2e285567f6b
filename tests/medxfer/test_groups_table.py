"""The table of layer groups, against counts by hand and by TensorFlow's profiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.errors import UserError
from medxfer import groups_table, plugins, tuning
from medxfer.config import Config
from tests.testing import networks, tiny


def profiled(model, side):
    """Multiply-accumulates that TensorFlow counts in a forward pass of one image."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph,
    )

    call = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec((1, side, side, 3))
    )
    _, graph = convert_variables_to_constants_v2_as_graph(call)
    with tf.Graph().as_default() as plain:
        tf.graph_util.import_graph_def(graph, name="")
        meta = tf.compat.v1.RunMetadata()
        option = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        option["output"] = "none"
        node = tf.compat.v1.profiler.profile(plain, run_meta=meta, cmd="op", options=option)
    products, count = ("Conv2D", "MatMul", "DepthwiseConv2dNative"), 0
    while node.children:  # one kind of operation below the other
        (node,) = node.children
        count += node.float_ops if node.name in products else 0
    return count // 2


def mixed():
    """Strides, groups of channels, depthwise, a dense layer on places, normalisation."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="a_conv")(inputs)
    x = keras.layers.BatchNormalization(name="a_bn")(x)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="b_conv")(x)
    x = keras.layers.Conv2D(4, 1, name="b_point")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, keras.layers.Dense(5, name="c")(x))


TABLE = {"a": ("a",), "b": ("b",), "c": ("c",)}


def test_counts_by_hand():
    found = {group.name: group for group in groups_table.groups_of(mixed(), TABLE)}
    a, b, c = found.values()
    assert (a.layers, b.layers, c.layers) == (2, 2, 1)
    assert a.parameters == 3 * 3 * 3 * 8 + 8 + 4 * 8
    assert b.parameters == 9 * 8 + 8 + 8 * 4 + 4
    assert (a.output, b.output, c.output) == ((3, 3, 8), (36,), (5,))  # after pooling, flattening
    assert a.macs == 7 * 7 * 8 * 27
    assert b.macs == 9 * (9 * 8 + 8 * 4)
    assert c.macs == 36 * 5
    assert a.activations == 2 * 7 * 7 * 8 + 3 * 3 * 8
    assert b.activations == 9 * (8 + 4)  # a list of the same numbers takes no room


def test_compute_against_the_profiler():
    for model, table, side in ((mixed(), TABLE, 16), (tiny.build(), tiny.TABLE, tiny.SIDE)):
        found = groups_table.groups_of(model, table)
        assert sum(group.macs for group in found) == profiled(model, side)
        assert sum(group.parameters for group in found) == model.count_params()


# Multiply-accumulates in 1e9: He et al. 2016, table 1; Huang et al. 2017, figure 3; Tan and Le
# 2019, table 2; of VGG-19 those of its convolutions by Simonyan and Zisserman's table 1.
PUBLISHED = {
    "resnet50": 3.8, "densenet121": 2.85, "efficientnetb0": 0.39, "vgg19": 19.5, "alexnet": 0.71,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_whole_networks(name):
    module = plugins.load("medxfer.models", name)
    model = module.build(2)
    found = groups_table.groups_of(model, module.LAYER_GROUPS)
    total = sum(group.macs for group in found)
    assert total / 1e9 == pytest.approx(PUBLISHED[name], rel=0.03)
    assert sum(group.parameters for group in found) == model.count_params()
    assert total == profiled(model, module.INPUT_SIDE)


def moves(tune, new=("fc4",), **changes):
    stages = tuning.stages_for(tune, list(tiny.TABLE), tiny.config(tune=tune, **changes), new)
    return [groups_table.moves(stages, group) for group in tiny.TABLE], stages


def test_what_moves_in_words():
    assert moves("fc3")[0] == ["frozen", "frozen", "0.01", "0.02"]
    assert moves("lp")[0] == ["frozen", "frozen", "frozen", "solved"]
    assert moves("lp_ft")[0] == ["ft 0.01"] * 3 + ["lp solved, ft 0.01"]
    assert moves("g_lf")[0] == [
        "g_lf_3 0.01", "g_lf_2 0.01, g_lf_3 0.01", "g_lf_1 to g_lf_3 0.01", "g_lf_0 to g_lf_3 0.01",
    ]  # fmt: skip


def test_parameters_that_move():
    model = tiny.build()
    groups = tiny.groups(model)
    sizes = {name: sum(int(np.prod(w.shape)) for layer in layers for w in layer.weights)
             for name, layers in groups.items()}  # fmt: skip
    assert groups_table.tuned(model, groups, moves("fc3")[1]) == sizes["fc3"] + sizes["fc4"]
    assert groups_table.tuned(model, groups, moves("g_lf")[1]) == model.count_params()


def test_the_text(tiny_network):
    config = Config("", model=networks.NAME, tune="fc2")
    lines = groups_table.command(config, 4, given=True).splitlines()
    assert lines[0].split()[:3] == ["group", "layers", "parameters"]
    assert [line.split()[0] for line in lines[1:4]] == ["conv1", "fc2", "all"]
    assert len({len(line) for line in lines[1:3]}) <= 2
    assert "frozen" in lines[1] and lines[2].endswith("0.01")
    shares = [float(line.split("%")[0].split()[-1]) for line in lines[1:3]]
    assert sum(shares) == pytest.approx(100, abs=0.11)
    assert "4 classes" in lines[-1]
    assert lines[-1].endswith("Its own base rate: 0.001; its own start of scratch: gaussian.")
    with pytest.raises(UserError, match="--tune=fc9 is unknown"):
        groups_table.command(Config("", model=networks.NAME, tune="fc9"), 4, given=True)
    # The default depth is not one of every network: then only the groups are shown.
    shown = groups_table.command(Config("", model=networks.NAME, tune="fc6"), 4, given=False)
    assert "rate under" not in shown
    assert "by trying" in groups_table.command(
        Config("", model=networks.NAME, tune="auto"), 4, given=True
    )
