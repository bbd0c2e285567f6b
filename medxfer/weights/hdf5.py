"""Keras files: ``.weights.h5`` and ``.keras`` of Keras 3, and the older ``.h5``.

Only arrays are read. Nothing of a stored model is rebuilt, so code in it (Lambda layers, custom
objects) does not matter.
"""

import io
import math
import mmap
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
        zipped = zipfile.is_zipfile(path)
        source = _embedded(path) if zipped else path
        if zipped:
            _require_sound(source.getbuffer().tobytes())
        else:
            with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as own:
                _require_sound(own)
        with h5py.File(source, "r") as file:
            if elsewhere := file.visititems_links(_leads_out):
                raise ValueError(f"{elsewhere} is a link to another file")
            root = file.get("model_weights", file)
            layers = _legacy(root) if "layer_names" in root.attrs else _current(root)
    except (*DAMAGED, SystemError) as error:  # the latter from h5py's lock, of few damaged files
        raise UserError(f"{path} is not a whole Keras file: {error}.") from error
    if not layers:
        raise UserError(f"{path} holds no layer with weights.")
    return Contents(layers, ordered=False)


def _require_sound(content: bytes | mmap.mmap) -> None:
    """Raise ValueError for a file that would keep HDF5 busy for ever.

    Texts lie in collections (HDF5 file format 3.0, section III.E, global heap) of objects one
    behind the other. HDF5 does not notice one whose length makes the next one itself.
    """
    sizes = content[9:11] if content[8:9] >= b"\x02" else content[13:15]
    if content[:8] != b"\x89HDF\r\n\x1a\n" or sizes != b"\x08\x08":
        raise ValueError("it is no usual HDF5 file")
    start = -1
    while (start := content.find(b"GCOL\x01", start + 1)) >= 0:
        end = start + int.from_bytes(content[start + 8 : start + 16], "little")
        place = start + 16
        while place + 16 <= min(end, len(content)):
            index = int.from_bytes(content[place : place + 2], "little")
            length = int.from_bytes(content[place + 8 : place + 16], "little")
            need = 16 + -(-length // 8) * 8 if index else length
            if need < 16 or place + need > end:
                raise ValueError("a collection of texts in it is damaged")
            place += need


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
