"""NumPy's ``.npz``: arrays ``LAYER/0`` (kernel), ``LAYER/1`` (bias) and so on, in Keras' layout."""

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from data_prep.errors import UserError
from medxfer.weights._contents import DAMAGED, MAX_BYTES, Contents

SUFFIXES = (".npz",)


def read(path: pathlib.Path) -> Contents:
    """Arrays of every layer.

    Raises
    ------
    UserError
        If the file is no .npz file, is damaged, or holds anything but such arrays.
    """
    layers: dict[str, dict[int, np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to more than 4 GiB")
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                layer, _, position = key.rpartition("/")
                layers.setdefault(layer, {})[int(position)] = arrays[key]
        if not layers:
            raise ValueError("it is empty")
    except DAMAGED as error:
        raise UserError(f"{path} is not a .npz file of LAYER/0, LAYER/1, ...: {error}.") from error
    ordered = {
        layer: tuple(array for _, array in sorted(arrays.items()))
        for layer, arrays in layers.items()
    }
    return Contents(ordered, ordered=False)


def write(path: pathlib.Path, layers: Mapping[str, tuple[np.ndarray, ...]]) -> None:
    """Write what :func:`read` reads."""
    arrays = {
        f"{layer}/{position}": array
        for layer, parts in layers.items()
        for position, array in enumerate(parts)
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)
