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
    """

    layers: Mapping[str, tuple[np.ndarray, ...]]
    channels_first: bool = False
    ordered: bool = True


def digest(layers: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """SHA-256 of names, shapes and float32 values, in hexadecimal; independent of the file."""
    sha256 = hashlib.sha256()
    for name in sorted(layers):
        for array in layers[name]:
            sha256.update(f"{name} {array.shape}\n".encode())
            sha256.update(np.ascontiguousarray(array, "<f4"))
    return sha256.hexdigest()
