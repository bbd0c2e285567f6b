"""CT volumes in MetaImage files (``.mha``, or ``.mhd`` with ``.raw`` or ``.zraw``), with labels.

The format is that of MetaIO: lines ``Key = Value``, the last of which names the data. Its world is
left-posterior-superior; ``TransformMatrix`` holds the direction of one axis after the other.
"""

import functools
import pathlib

import numpy as np

from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._grids import Grid
from data_prep.readers._images import Unusable

KIND = "ct"
LAYOUT = "MetaImage NAME.mha or NAME.mhd, labels in labels/ beside images/ or as NAME_label.mha"
SUFFIXES = (".mha", ".mhd")

MAX_LINES, MAX_LINE = 1000, 1 << 16
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


detect = functools.partial(_lesions.sources, __name__, SUFFIXES)
read = _volumes.read_file


def open_grid(path: pathlib.Path, root: pathlib.Path) -> Grid:
    """Header of a MetaImage file.

    Raises
    ------
    Unusable
        If it is damaged, or no volume of real numbers.
    """
    with _grids.header(path, "MetaImage"):
        return _grid(path, root, *_header(path))


def beside(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path | None:
    """The file of voxels that a header names, None where they are in the same file.

    Raises
    ------
    Unusable
        If the header is damaged, or the file cannot be used.
    """
    with _grids.header(path, "MetaImage"):
        return _beside(path, root, _header(path)[0])


def _beside(path: pathlib.Path, root: pathlib.Path, header: dict[str, str]) -> pathlib.Path | None:
    name = header["ElementDataFile"]
    return None if name.upper() == "LOCAL" else _volumes.data_file(path, root, name)


def _header(path: pathlib.Path) -> tuple[dict[str, str], int]:
    """Fields by name, and the byte at which the header ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for _ in range(MAX_LINES):
            line = file.readline(MAX_LINE)
            key, equals, value = line.partition(b"=")
            if not equals:
                break
            fields[key.strip().decode("ascii")] = value.strip().decode("utf-8", "replace")
            if key.strip() == b"ElementDataFile":
                return fields, file.tell()
    raise Unusable("the MetaImage header has no ElementDataFile")


def _grid(path: pathlib.Path, root: pathlib.Path, header: dict[str, str], start: int) -> Grid:
    shape = _grids.check_shape(tuple(int(side) for side in header["DimSize"].split())[::-1])
    kind = TYPES.get(header["ElementType"])
    if kind is None or int(header.get("ElementNumberOfChannels", 1)) != 1:
        raise Unusable("its voxels are no plain numbers (ElementType)")
    if not _is_true(header.get("BinaryData", "True")):
        raise Unusable("its voxels are stored as text: save it with BinaryData = True")
    order = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype(kind).newbyteorder(">" if _is_true(order) else "<")
    packing = "zlib" if _is_true(header.get("CompressedData", "False")) else "raw"
    if data := _beside(path, root, header):
        path, start = data, 0
    skip = int(header.get("HeaderSize", 0))
    if skip == -1 and packing == "raw":  # the voxels are the last bytes of the file
        start = -int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    elif skip > 0:
        start += skip
    spacing = _numbers(header, ("ElementSpacing", "ElementSize"))
    if spacing is None:
        raise Unusable("the field ElementSpacing is missing")
    if (spacing < 0).any():
        raise Unusable("the field ElementSpacing is negative")
    if header.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise Unusable("the field DistanceUnits names another unit than mm")
    function = (f"ElementToIntensityFunction{name}" for name in ("Slope", "Offset"))
    if [float(header.get(name, 1 - place)) for place, name in enumerate(function)] != [1, 0]:
        raise Unusable("its levels are scaled (ElementToIntensityFunction): save it without that")
    axes = _numbers(header, ("TransformMatrix", "Rotation", "Orientation"))
    origin = _numbers(header, ("Offset", "Position", "Origin"))
    if axes is not None and not np.allclose(np.linalg.norm(axes.reshape(3, 3), axis=1), 1, 0.01):
        raise Unusable("the field TransformMatrix holds no directions of length 1")
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if axes is None else axes.reshape(3, 3).T) * spacing
    affine[:3, 3] = 0.0 if origin is None else origin
    return Grid(
        shape,
        affine,
        functools.partial(_grids.stored_planes, path, shape, dtype, start=start, packing=packing),
        placed=axes is not None and origin is not None,
    )


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")


def _numbers(header: dict[str, str], names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        if name in header:
            return np.array(header[name].split(), np.float64)
    return None
