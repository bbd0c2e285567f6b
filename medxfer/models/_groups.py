"""Layer groups: the units in which a network is tuned or frozen, ordered from input to head.

A network module declares them as data, ``LAYER_GROUPS``: group name -> layer names. An entry covers
the layer of that name and every layer whose name continues it after an underscore, so ``fc6``
covers ``fc6`` and ``fc6_dropout``, and ``conv2_block1`` does not cover ``conv2_block10_conv``.
"""

from collections.abc import Mapping, Sequence

import keras


def layer_groups(
    model: keras.Model, table: Mapping[str, Sequence[str]]
) -> dict[str, list[keras.Layer]]:
    """Layers of every group, in the order of ``table``; within a group in the model's order.

    Layers without variables belong to a group only if their name says so.

    Raises
    ------
    ValueError
        If a variable is in no group or in two, or if an entry of ``table`` covers no layer.
    """
    owner: dict[str, str] = {}
    used = set()
    for layer in model.layers:
        hits = [
            (group, entry)
            for group, entries in table.items()
            for entry in entries
            if layer.name == entry or layer.name.startswith(entry + "_")
        ]
        groups = sorted({group for group, _ in hits})
        if layer.weights and not groups:
            raise ValueError(f"Variable {layer.weights[0].path} is in no layer group.")
        if len(groups) > 1:
            what = f"Variable {layer.weights[0].path}" if layer.weights else f"Layer {layer.name}"
            raise ValueError(f"{what} is in more than one layer group: {', '.join(groups)}.")
        if groups:
            owner[layer.name] = groups[0]
        used.update(hits)
    unused = [e for group, entries in table.items() for e in entries if (group, e) not in used]
    if unused:
        raise ValueError(f"No layer of {model.name} is called {', '.join(unused)}.")
    return {
        group: [layer for layer in model.layers if owner.get(layer.name) == group]
        for group in table
    }


def split_at(
    model: keras.Model, groups: Mapping[str, Sequence[keras.Layer]], first: str
) -> tuple[keras.Model | None, keras.Model]:
    """Cut ``model`` in front of group ``first``; ``suffix(prefix(x))`` equals ``model(x)``.

    Parameters
    ----------
    model
        Functional model with one input and one output whose layers are called once each.
    groups
        What :func:`layer_groups` gives for ``model``.
    first
        The group with which the second part begins.

    Returns
    -------
    prefix, suffix
        Models that share the layers of ``model``. The suffix holds the groups from ``first`` on and
        all that depends on them, so pooling and flattening end the prefix. The prefix is None where
        nothing precedes ``first``; the suffix is then ``model`` itself.

    Raises
    ------
    ValueError
        If the parts are joined by more than one tensor, or a group before ``first`` depends on it.
    """
    order = list(groups)
    late = {id(layer) for group in order[order.index(first) :] for layer in groups[group]}
    early = {id(layer) for group in order[: order.index(first)] for layer in groups[group]}
    # The model lists operations in the order in which they can run, so one pass finds all that
    # depends on the late groups.
    suffix_tensors: set[int] = set()
    boundary: dict[int, keras.KerasTensor] = {}
    for operation in model.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        from_suffix = [tensor for tensor in inputs if id(tensor) in suffix_tensors]
        if id(operation) not in late and not from_suffix:
            continue
        if id(operation) in early:
            raise ValueError(f"Layer {operation.name} depends on a later group than its own.")
        suffix_tensors.update(id(tensor) for tensor in keras.tree.flatten(operation.output))
        boundary |= {id(t): t for t in inputs if id(t) not in suffix_tensors}
    if len(boundary) != 1:
        names = ", ".join(tensor.name for tensor in boundary.values())
        raise ValueError(f"{model.name} cannot be cut at {first}: more than one tensor ({names}).")
    (cut,) = boundary.values()
    if cut is model.inputs[0]:
        return None, model
    prefix = keras.Model(model.inputs[0], cut, name=f"{model.name}_before_{first}")
    suffix = keras.Model(cut, model.outputs[0], name=f"{model.name}_from_{first}")
    return prefix, suffix
