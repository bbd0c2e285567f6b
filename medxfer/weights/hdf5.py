"""Keras files: ``.weights.h5`` and ``.keras`` of Keras 3, and the older ``.h5``.

Only arrays are read. Nothing of a stored model is rebuilt, so code in it (Lambda layers, custom
objects) does not matter.
"""

import io
import math
import pathlib
import zipfile

import h5py
import numpy as np

from data_prep.errors import UserError
from medxfer.weights._contents import DAMAGED, MAX_BYTES, Contents

SUFFIXES = (".h5", ".hdf5", ".keras")


def read(path: pathlib.Path) -> Contents:
    """Arrays of every layer, under the layer's name.

    Raises
    ------
    UserError
        If the file is no Keras file or is damaged.
    """
    try:
        with h5py.File(_embedded(path) if zipfile.is_zipfile(path) else path, "r") as file:
            if elsewhere := file.visititems_links(_leads_out):
                raise ValueError(f"{elsewhere} is a link to another file")
            root = file.get("model_weights", file)
            layers = _legacy(root) if "layer_names" in root.attrs else _current(root)
    except DAMAGED as error:
        raise UserError(f"{path} is not a whole Keras file: {error}.") from error
    if not layers:
        raise UserError(f"{path} holds no layer with weights.")
    return Contents(layers, ordered=False)


def _leads_out(name: str, link: object) -> str | None:
    return name if isinstance(link, h5py.ExternalLink) else None


def _embedded(path: pathlib.Path) -> io.BytesIO:
    """The weights inside a ``.keras`` archive."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("model.weights.h5")
        if info.file_size > MAX_BYTES:
            raise ValueError("it unpacks to more than 4 GiB")
        return io.BytesIO(archive.read(info))


def _current(root: h5py.Group) -> dict[str, tuple[np.ndarray, ...]]:
    """Keras 3: groups ``.../vars`` with the layer's name as attribute and arrays 0, 1, ..."""
    layers = {}

    def visit(_: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Group) and "name" in item.attrs and "0" in item:
            arrays = (_array(item, key) for key in sorted(item, key=int))
            layers[str(item.attrs["name"])] = tuple(arrays)

    if "layers" in root:
        root["layers"].visititems(visit)
    return layers


def _legacy(root: h5py.Group) -> dict[str, tuple[np.ndarray, ...]]:
    """Keras 1 and 2: names of layers and of their arrays as attributes.

    Keras 2 also named layers like paths (``conv1/bn`` of DenseNet); Keras 3 has ``conv1_bn``.
    """
    layers = {}
    for name in map(_text, root.attrs["layer_names"]):
        arrays = [_array(root[name], _text(key)) for key in root[name].attrs["weight_names"]]
        if arrays:
            layers[name.replace("/", "_")] = tuple(arrays)
    return layers


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _array(group: h5py.Group, key: str) -> np.ndarray:
    dataset = group[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{key} is not an array of numbers")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()  # less than the array only if compressed
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{key} is stored in another file")
    if size > MAX_BYTES or (dataset.chunks is None and stored != size):
        raise ValueError(f"{key} is not stored whole")
    return dataset[()]
