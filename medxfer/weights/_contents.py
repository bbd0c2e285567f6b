"""What a reader of a weight file hands on, whatever the format."""

import dataclasses
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

# Larger than any file of weights read here; keeps damaged or hostile sizes from filling memory.
MAX_BYTES = 2**32

# What zipfile, NumPy and h5py raise on damaged or hostile files.
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Contents:
    """Arrays of a weight file, in Keras' layout.

    Parameters
    ----------
    layers
        Layer name in the file -> its arrays in the order of ``keras.layers.Layer.weights``. Kernels
        are (height, width, in, out) or (in, out).
    channels_first
        True if a dense layer behind a convolution reads (channel, row, column); Keras reads
        (row, column, channel).
    ordered
        True if the layers stand in the order of the network, so that names of their own will do.
    inputs
        What images the first layer was made for, see :mod:`medxfer.weights._inputs`: ``network``,
        ``torch``, ``caffe``, or ``unknown``.
    """

    layers: Mapping[str, tuple[np.ndarray, ...]]
    channels_first: bool = False
    ordered: bool = True
    inputs: str = "network"


# Variables of a PyTorch layer in the order of ``keras.layers.Layer.weights``.
_TORCH_VARIABLES = ("weight", "bias", "running_mean", "running_var")


def torch_variable(key: str) -> tuple[str, str] | None:
    """Layer and variable of a key of a state dict; None where it is no weight of a layer."""
    layer, _, variable = key.rpartition(".")
    for wrapper in ("module.", "_orig_mod."):  # DataParallel, torch.compile
        layer = layer.removeprefix(wrapper)
    return (layer, variable) if variable in _TORCH_VARIABLES else None


def from_torch(arrays: Mapping[str, np.ndarray], ordered: bool = True) -> Contents:
    """Contents of a state dict: name in PyTorch -> array in PyTorch's layout.

    ``ordered``: in the order of the network.

    Raises
    ------
    ValueError
        If it holds no weights.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        if named := torch_variable(key):
            if array.ndim == 4:
                array = array.transpose(2, 3, 1, 0)
            elif array.ndim == 2:
                array = array.T
            layers.setdefault(named[0], {})[named[1]] = array
    if not layers:
        raise ValueError("it holds no tensor called LAYER.weight, as those of PyTorch are")
    whole = {
        layer: tuple(found[variable] for variable in _TORCH_VARIABLES if variable in found)
        for layer, found in layers.items()
    }
    return Contents(whole, channels_first=True, ordered=ordered, inputs="torch")


def digest(layers: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """SHA-256 of names, shapes and float32 values, in hexadecimal; independent of the file."""
    sha256 = hashlib.sha256()
    for name in sorted(layers):
        for array in layers[name]:
            sha256.update(f"{name} {array.shape}\n".encode())
            sha256.update(np.ascontiguousarray(array, "<f4"))
    return sha256.hexdigest()
