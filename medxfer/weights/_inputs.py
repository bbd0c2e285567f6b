"""What images the first layer of a weight file was made for, and making it fit another network.

Networks of the same shapes differ in their input: torchvision's take RGB of mean 0 and standard
deviation 1, Caffe's and some of keras.applications' BGR less the mean. Weights of the one compute
nonsense on the other's images, and training hides it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError
from medxfer.weights._contents import Contents

_ABOUT = {
    "torch": "RGB with ImageNet's mean 0 and standard deviation 1 (PyTorch)",
    "caffe": "BGR from 0 to 255 less ImageNet's mean (Caffe)",
    "unknown": "inputs that the file does not name",
}
_EDGE = 0.01  # of the range from black to white: by so much padding may stand for another grey


@dataclasses.dataclass(frozen=True)
class _Input:
    """Channels of an input: of every colour (R, G, B from 0 to 255) ``scale * colour + offset``.

    ``channels``: which channel a colour is in.
    """

    channels: tuple[int, ...]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def same(self, other: "_Input") -> bool:
        return (
            self.channels == other.channels
            and np.allclose(self.scale, other.scale, rtol=1e-3)
            and np.allclose(self.offset, other.offset, rtol=0.02)
        )


_STD = np.array([0.229, 0.224, 0.225])
_MEAN = np.array([0.485, 0.456, 0.406])
_FILES = {
    "torch": _Input((0, 1, 2), 1 / (255 * _STD), -_MEAN / _STD),
    "caffe": _Input((2, 1, 0), np.ones(3), -np.array([123.68, 116.779, 103.939])),
}


def adapt(
    contents: Contents, preprocess: Callable, name: str, origin: str, kind: str = "auto"
) -> Contents:
    """Weights for the inputs of a network.

    Parameters
    ----------
    contents : Contents
    preprocess : callable
        Of the network: RGB images from 0 to 255, (N, H, W, 3), to its input.
    name, origin : str
        Of network and file, for messages.
    kind : str
        One of ``medxfer.config.WEIGHTS_INPUTS``. ``auto`` refuses what was made for other inputs;
        ``torch`` and ``caffe`` convert the first kernel and bias, exactly but for the edge that
        padding makes.

    Raises
    ------
    UserError
        If the inputs are others or unknown, or the first layer cannot be converted.
    """
    made_for = contents.inputs if kind == "auto" else kind
    if made_for == "network":
        return contents
    own = _probe(preprocess)
    given = _FILES.get(made_for)
    if given and given.same(own):
        return contents
    if kind == "auto":
        remedy = " or ".join(f"--weights_input={one}" for one in _FILES)
        raise UserError(
            f"{origin} was made for {_ABOUT[made_for]}, but {name} takes other images. Use "
            f"{f'--weights_input={made_for}' if given else remedy} to have the first layer "
            f"converted, or --weights_input=network if the file was made for {name}'s inputs."
        )
    scale = given.scale / own.scale
    offset = given.offset - scale * own.offset  # of a colour: given = scale * own + offset
    first = next(iter(contents.layers))
    kernel, *rest = contents.layers[first]
    if kernel.ndim != 4 or kernel.shape[2] != 3 or (len(rest) != 1 and np.any(abs(offset) > 1e-3)):
        raise UserError(
            f"{origin}: {first} cannot be converted from {_ABOUT[made_for]}: it has to be a "
            "convolution of three channels with a bias."
        )
    if np.any(abs(offset) > _EDGE * given.scale * 255):
        raise UserError(f"{origin} cannot be converted: padding would stand for other colours.")
    by_colour = np.asarray(kernel, np.float64)[:, :, list(given.channels)]
    adapted = np.empty(kernel.shape, np.float32)
    adapted[:, :, list(own.channels)] = by_colour * scale[:, None]
    bias = [value + np.einsum("hwco,c->o", by_colour, offset).astype(np.float32) for value in rest]
    layers = {**contents.layers, first: (adapted, *bias)}
    return dataclasses.replace(contents, layers=layers, inputs="network")


def _probe(preprocess: Callable) -> _Input:
    """The input of a network, read off black and the pure colours."""
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).reshape(4, 1, 1, 3)
    seen = np.asarray(preprocess(colours.astype(np.float32)), np.float64).reshape(4, 3)
    slopes = (seen[1:] - seen[0]) / 255  # colour -> channel
    channels = np.abs(slopes).argmax(axis=1)
    return _Input(tuple(channels.tolist()), slopes[range(3), channels], seen[0][channels])
