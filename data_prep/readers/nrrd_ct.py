"""CT volumes in NRRD files (``.nrrd``, ``.nhdr`` with a data file), labels beside them.

CAD-PE keeps ``images/001.nrrd`` and ``rs/001RefStd.nrrd``, one label a clot.
"""

import functools
import io
import pathlib

import numpy as np

from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._grids import Grid
from data_prep.readers._images import Unusable

KIND = "ct"
LAYOUT = "NRRD images/NAME.nrrd, labels as rs/NAMERefStd.nrrd (CAD-PE) or NAME_label.nrrd"
SUFFIXES = (".nrrd", ".nhdr")

MAX_HEADER = 1 << 20
PACKINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# What turns each space into left-posterior-superior.
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
TYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32", "uint32_t"),
    "int64": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "uint64": (
        *("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    ),
    "float32": ("float",),
    "float64": ("double",),
}
AXES = ("domain", "space", "???", "none")  # kinds of an axis of space, or not said
MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???")


detect = functools.partial(_lesions.sources, __name__, SUFFIXES)
read = _volumes.read_file


def open_grid(path: pathlib.Path, root: pathlib.Path) -> Grid:
    """Header of a NRRD file.

    Raises
    ------
    Unusable
        If it is damaged, or no volume of real numbers.
    """
    with _grids.header(path, "NRRD"):
        return _grid(path, root, *_header(path))


def beside(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path | None:
    """The file of voxels that a header names, None where they are in the same file.

    Raises
    ------
    Unusable
        If the header is damaged, or the file cannot be used.
    """
    with _grids.header(path, "NRRD"):
        return _beside(path, root, _header(path)[0])


def _beside(path: pathlib.Path, root: pathlib.Path, header: dict) -> pathlib.Path | None:
    name = header.get("data file", header.get("datafile"))
    return None if name is None else _volumes.data_file(path, root, str(name))


def _header(path: pathlib.Path) -> tuple[dict, int]:
    """Fields by name, and the byte at which the header ends."""
    import nrrd

    with path.open("rb") as file:
        head = file.read(MAX_HEADER)
    if not head.startswith(b"NRRD"):
        raise Unusable("it does not begin as a NRRD file does")
    ends = [head.find(end) + len(end) for end in (b"\n\n", b"\r\n\r\n") if end in head]
    if not ends and len(head) == MAX_HEADER:
        raise Unusable("the NRRD header has no end")
    start = min(ends, default=len(head))
    return nrrd.read_header(io.BytesIO(head[:start])), start


def _grid(path: pathlib.Path, root: pathlib.Path, header: dict, start: int) -> Grid:
    shape = _grids.check_shape(tuple(header["sizes"])[::-1])
    named = [name for name, names in TYPES.items() if header["type"].lower() in names]
    if not named:
        raise Unusable("its voxels are no numbers of a known type")
    dtype = np.dtype(named[0]).newbyteorder("<" if header.get("endian") != "big" else ">")
    packing = PACKINGS.get(header["encoding"].lower())
    if packing is None:
        raise Unusable("its voxels are stored as text: save it with encoding raw or gzip")
    if dtype.itemsize > 1 and header.get("endian") not in ("big", "little"):
        raise Unusable("the field 'endian' is missing")
    if data := _beside(path, root, header):
        path, start = data, 0
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if int(header.get("line skip", header.get("lineskip", 0))) or skip < -1:
        raise Unusable("its voxels begin at an odd place (line skip, byte skip)")
    if skip == -1:  # the voxels are the last bytes of the file
        if packing != "raw":
            raise Unusable("its voxels begin at an odd place (byte skip -1 and compressed)")
        start, skip = -int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 0
    affine, placed = _affine(header)
    return Grid(
        shape,
        affine,
        functools.partial(
            _grids.stored_planes, path, shape, dtype, start=start, packing=packing, skip=skip
        ),
        placed=placed,
    )


def _affine(header: dict) -> tuple[np.ndarray, bool]:
    for name in ("kinds", "space units", "units"):
        known = AXES if name == "kinds" else MILLIMETRES
        if not all(str(value).strip('"').lower() in known for value in header.get(name, ())):
            raise Unusable(f"the field '{name}' names something other than three axes in mm")
    affine = np.eye(4)
    if "space directions" in header:
        flips = SPACES.get(str(header.get("space", "")).lower())
        affine[:3, :3] = np.asarray(header["space directions"], np.float64).T
        origin = header.get("space origin")
        if origin is not None:
            affine[:3, 3] = np.asarray(origin, np.float64)
        if flips is not None:
            affine = np.diag([*flips, 1]) @ affine
        return affine, flips is not None and origin is not None
    if "spacings" not in header:
        raise Unusable("the fields 'space directions' and 'spacings' are both missing")
    affine[:3, :3] = np.diag(np.asarray(header["spacings"], np.float64))
    return affine, False
