import keras
import numpy as np
import pytest
from keras import layers

from medxfer.models._groups import layer_groups, split_at

TABLE = {"stem": ("stem",), "block": ("block1", "block10"), "head": ("head",)}


def residual():
    """A network with a branch inside a group and none between groups."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem_conv")(inputs)
    x = layers.ReLU(name="act")(x)
    y = layers.Conv2D(4, 3, padding="same", name="block1_conv")(x)
    y = layers.BatchNormalization(name="block1_bn")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(4, 3, padding="same", name="block10_conv")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="head_dropout")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="residual")


def test_names_are_matched_whole_or_up_to_an_underscore():
    groups = layer_groups(residual(), TABLE)
    assert {group: [layer.name for layer in members] for group, members in groups.items()} == {
        "stem": ["stem_conv"],
        "block": ["block1_conv", "block1_bn", "block10_conv"],
        "head": ["head_dropout", "head"],
    }


@pytest.mark.parametrize(
    "table, message",
    [
        ({"stem": ("stem",), "head": ("head",)}, "block1_conv/kernel is in no layer group"),
        (TABLE | {"more": ("block1_bn",)}, "block1_bn/gamma is in more than one .*: block, more"),
        (TABLE | {"more": ("fc6", "fc7")}, "No layer of residual is called fc6, fc7"),
        (TABLE | {"block": ("block",)}, "block1_conv/kernel is in no layer group"),
    ],
)
def test_tables_that_do_not_fit(table, message):
    with pytest.raises(ValueError, match=message):
        layer_groups(residual(), table)


@pytest.mark.parametrize(
    "first, prefix_ends",
    [("stem", None), ("block", "act"), ("head", "pool")],
)
def test_cut_with_branches(first, prefix_ends):
    model = residual()
    prefix, suffix = split_at(model, layer_groups(model, TABLE), first)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(suffix(prefix(x) if prefix else x), model(x), atol=1e-6)
    if prefix_ends is None:
        assert prefix is None and suffix is model
    else:
        assert prefix.layers[-1] is model.get_layer(prefix_ends)


def test_cut_through_a_branch_is_refused():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="block1")(x)
    z = layers.Conv2D(4, 3, padding="same", name="block10")(y)
    outputs = layers.Dense(2, name="head")(layers.Flatten()(layers.Add()([x, z])))
    model = keras.Model(inputs, outputs)
    groups = layer_groups(
        model, {"stem": ("stem",), "a": ("block1",), "b": ("block10",), "head": ("head",)}
    )
    assert split_at(model, groups, "a")[0] is not None
    with pytest.raises(ValueError, match="more than one tensor"):
        split_at(model, groups, "b")


def test_groups_out_of_order_are_refused():
    model = residual()
    groups = layer_groups(model, dict(reversed(TABLE.items())))
    with pytest.raises(ValueError, match="depends on a later group"):
        split_at(model, groups, "block")
