"""``.safetensors`` files with PyTorch's names and layout; the format has no code in it.

Eight bytes with the length of a JSON header, the header (name -> dtype, shape, place), then the
values, little-endian and in C order (README of huggingface/safetensors, "Format").
"""

import json
import math
import pathlib

import numpy as np

from data_prep.errors import UserError
from medxfer.weights._contents import DAMAGED, Contents, from_torch

SUFFIXES = (".safetensors",)

_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


def read(path: pathlib.Path) -> Contents:
    """Kernels and biases by name; the file is mapped, not read whole.

    The format keeps tensors by type and name, not in the order of the network.

    Raises
    ------
    UserError
        If the file is damaged, or written for another framework than PyTorch.
    """
    try:
        return from_torch(_arrays(path), ordered=False)
    except DAMAGED as error:
        raise UserError(f"{path} is not a usable .safetensors file: {error}.") from error


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_BYTES, path.stat().st_size - 8):
            raise ValueError("its header has an impossible length")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", 8 + length)
    made_for = header.pop("__metadata__", {}).get("format", "pt")
    if made_for != "pt":
        raise ValueError(f"its tensors are laid out for {made_for}, not for PyTorch (pt)")
    arrays = {}
    for name, about in header.items():
        (start, end), shape = about["data_offsets"], tuple(about["shape"])
        if about["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is of type {about['dtype']}, which is not read")
        dtype = np.dtype(_DTYPES[about["dtype"]])
        if not 0 <= start <= end <= data.size or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has not the size that its shape says")
        array = data[start:end].view(dtype).reshape(shape)
        if about["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array
    return arrays
