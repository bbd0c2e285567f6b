"""Putting the arrays of a weight file into a network, and saying which groups got theirs."""

from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np

from data_prep.errors import UserError
from medxfer.weights._contents import Contents

Arrays = tuple[np.ndarray, ...]

# Shape of the first kernel of well-known networks, for the message when the file is of another one.
_FIRST_KERNEL = {
    (11, 11, 3, 64): "torchvision's AlexNet (--model=alexnet)",
    (11, 11, 3, 96): "Caffe's AlexNet (--model=alexnet_caffe)",
    (3, 3, 3, 64): "a VGG network",
    (7, 7, 3, 64): "a ResNet, DenseNet or GoogLeNet",
}


def assign(
    model: keras.Model,
    groups: Mapping[str, Sequence[keras.Layer]],
    contents: Contents,
    origin: str,
    head: bool = False,
    foreign: Collection[str] | None = None,
    torch: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load what fits; the model is unchanged if anything does not.

    Layers are matched by name, or by PyTorch's names, or by position if the file has names of its
    own and is in order. The last groups may
    be missing from the file, but every group must be there whole or not at all, and every layer of
    the file must be one of the network.

    Parameters
    ----------
    model
        Built network.
    groups
        Its layer groups, from input to head.
    contents
        What a format's reader gave.
    origin
        The file, for messages.
    head
        True to load the last group too; otherwise it stays new whatever the file holds.
    foreign
        Of networks whose files are known to be whole: layers of the file that the network has not,
        such as another head, also with a number behind an underscore. No group but the head may
        then be missing.
    torch
        Names in PyTorch of the network's layers with weights, in order, as far as they are known.

    Returns
    -------
    loaded, new
        Names of the groups with and without weights from the file.

    Raises
    ------
    UserError
        If the file is of another network, naming the first difference and what the file seems to
        hold.
    """
    layers = {layer.name: layer for group in groups.values() for layer in group if layer.weights}
    found = _match(list(layers), contents, torch)
    used = {source for source, _ in found.values()}
    extra = [
        name
        for name in contents.layers
        if name not in used
        and not any(name == f or name.startswith(f"{f}_") for f in foreign or ())
    ]
    if found and extra:
        raise _mismatch(model, contents, origin, f"the network lacks the file's {extra[0]}")
    fitted: dict[str, Arrays] = {}
    loaded: list[str] = []
    new: list[str] = []
    for group, members in groups.items():
        names = [layer.name for layer in members if layer.name in layers]
        present = [name for name in names if name in found]
        is_head = group == list(groups)[-1]
        if not present or (is_head and not head):
            new.append(group)
            continue
        missing = [name for name in names if name not in found]
        if missing or new:
            lack = missing[0] if missing else new[0]
            raise _mismatch(model, contents, origin, f"the file lacks {lack} but has {present[0]}")
        for name in names:
            source, arrays = found[name]
            fitted[name] = _fit(model, layers[name], arrays, contents)
            expected = [tuple(variable.shape) for variable in layers[name].weights]
            shapes = [array.shape for array in fitted[name]]
            if shapes != expected:
                fault = f"{name} needs {_sides(expected)}, the file's {source} is {_sides(shapes)}"
                raise _mismatch(model, contents, origin, fault)
            if not all(np.isfinite(array).all() for array in fitted[name]):
                raise UserError(f"{origin}: {source} holds numbers that are not finite.")
        loaded.append(group)
    lacking = new if head else new[:-1]
    if not loaded or (lacking and (head or foreign is not None)):
        lack = "no layer of the network" if not loaded else f"no {lacking[0]}"
        raise _mismatch(model, contents, origin, f"the file has {lack}")
    for name, arrays in fitted.items():
        for variable, array in zip(layers[name].weights, arrays, strict=True):
            variable.assign(array)
    return tuple(loaded), tuple(new)


def _match(
    names: Sequence[str], contents: Contents, torch: Sequence[str] = ()
) -> dict[str, tuple[str, Arrays]]:
    """Layer of the network -> name and arrays in the file."""
    sources = dict(zip(names, names, strict=True))
    if not set(names) & set(contents.layers):
        if contents.ordered:
            return dict(zip(names, contents.layers.items(), strict=False))
        # It may be a part of another network ("backbone."), or its convolutions be saved alone.
        alone = [name.removeprefix("features.") for name in torch if name.startswith("features.")]
        for known in filter(None, (torch, alone)):
            prefixes = [n.removesuffix(known[0]) for n in contents.layers if n.endswith(known[0])]
            if prefixes:
                named = zip(names, known, strict=False)
                sources = {ours: prefixes[0] + theirs for ours, theirs in named}
                break
    return {
        ours: (theirs, contents.layers[theirs])
        for ours, theirs in sources.items()
        if theirs in contents.layers
    }


def _fit(model: keras.Model, layer: keras.Layer, arrays: Arrays, contents: Contents) -> Arrays:
    """Arrays as float32, and a dense kernel behind ``Flatten`` in Keras' order of its rows."""
    kernel, *rest = (np.asarray(array, np.float32) for array in arrays)
    if isinstance(layer, keras.layers.Dense):
        rows, units = layer.kernel.shape
        if kernel.ndim == 4 and kernel.size == rows * units:  # dense, written as a convolution
            kernel = kernel.reshape(rows, units)
        elif contents.channels_first and kernel.shape == (rows, units):
            for flatten in model.layers:
                shape = flatten.input.shape[1:] if isinstance(flatten, keras.layers.Flatten) else ()
                if len(shape) == 3 and np.prod(shape) == rows:
                    height, width, channels = shape
                    kernel = kernel.reshape(channels, height, width, units).transpose(1, 2, 0, 3)
                    kernel = kernel.reshape(rows, units)
    return kernel, *rest


def _mismatch(model: keras.Model, contents: Contents, origin: str, fault: str) -> UserError:
    first, *_, last = [(name, arrays[0].shape) for name, arrays in contents.layers.items()] * 2
    guess = _FIRST_KERNEL.get(first[1])
    seems = f", seemingly {guess}" if guess else ""
    return UserError(
        f"{origin} does not fit {model.name}: {fault}. It holds {len(contents.layers)} layers from "
        f"{first[0]} {_sides(first[1:])} to {last[0]} {_sides(last[1:])}{seems}."
    )


def _sides(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)
