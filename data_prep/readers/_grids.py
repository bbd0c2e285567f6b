"""Arrays of voxels in files: one plane in memory at a time, sizes tested before memory is taken.

All volume formats keep their voxels x fastest, z slowest; a plane is what lies at one z.
"""

import bz2
import contextlib
import dataclasses
import gzip
import io
import pathlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from data_prep.readers._images import Unusable

AIR = -1024  # HU; nothing is darker, so what is stored below it is padding or noise of air
PADDING = -1100  # HU; below it lies padding, not noise
MAX_SIDE = 4096
MAX_VOXELS = 1 << 30  # 2 GiB of HU; a damaged or hostile header asks for more
MAX_WHOLE = 1 << 20  # slopes and intercepts beyond it are damage; computed in float64
SPACING_MM = (0.1, 10.0)  # outside: a length in another unit, or no chest CT
SQUARE = 2e-3  # rad; axes further from a right angle would displace structures by a voxel
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from right-anterior-superior to left-posterior-superior


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """A stored array, opened as far as its header.

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to mm, patient LPS where ``placed``.
    planes : callable
        Gives an iterator of Z arrays (Y, X) of real numbers; raises Unusable where the file is
        damaged.
    placed : bool
        Whether the file says where the patient is; else only the spacing is known.
    slope, intercept : float
        What turns stored numbers into values.
    notes : tuple of str
        What was corrected in the header.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    planes: Callable[[], Iterator[np.ndarray]]
    placed: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def header(path: pathlib.Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong while a header is read becomes Unusable, with the file's name."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{path.name}: {error}") from error
    except Exception as error:  # damaged headers raise many kinds
        raise Unusable(f"{path.name}: the {kind} header is damaged") from error


def check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (Z, Y, X) as plain numbers, if such a volume can be.

    Raises
    ------
    Unusable
        If it has not three dimensions, or is empty or too large.
    """
    text = " x ".join(str(int(side)) for side in shape[:6])
    if len(shape) != 3:
        raise Unusable(f"it has {len(shape)} dimensions ({text}), not the 3 of a volume")
    depth, height, width = (int(side) for side in shape)
    if not (min(depth, height, width) > 1 and max(depth, height, width) <= MAX_SIDE):
        raise Unusable(f"its size of {text} voxels is not that of a volume")
    if depth * height * width > MAX_VOXELS:
        raise Unusable(f"its size of {text} voxels is more than {MAX_VOXELS // 10**6} million")
    return depth, height, width


def check_affine(affine: np.ndarray) -> np.ndarray:
    """Spacing in mm, float64 (3,) z, y, x, of an affine (4, 4) whose axes are at right angles.

    Raises
    ------
    Unusable
        If it is not finite, sheared (as by a tilted gantry), or its spacing cannot be in mm.
    """
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        raise Unusable("its position is not given in finite numbers")
    spacing = np.linalg.norm(axes, axis=0)
    low, high = SPACING_MM
    if spacing.min() < low or spacing.max() > high:
        said = " x ".join(f"{side:g}" for side in spacing)
        raise Unusable(f"its spacing of {said} (x, y, z) is not between {low:g} and {high:g} mm")
    cosines = (axes / spacing).T @ (axes / spacing) - np.eye(3)
    if np.abs(cosines).max() > SQUARE:
        angle = np.degrees(np.arcsin(min(1.0, np.abs(cosines).max())))
        raise Unusable(
            f"its axes are {angle:.1f} degrees off right angles (gantry tilt): resample it first"
        )
    return spacing[::-1].copy()


def to_hounsfield(
    plane: np.ndarray, slope: float, intercept: float, out: np.ndarray
) -> tuple[float, float]:
    """Write one plane of stored numbers as HU, not below ``AIR``.

    Parameters
    ----------
    plane : numpy.ndarray
        (Y, X), any integer or float type.
    slope, intercept : float
    out : numpy.ndarray
        int16 (Y, X), overwritten.

    Returns
    -------
    low, high : float
        Least and greatest value before it was limited.

    Raises
    ------
    Unusable
        If a value is not finite.
    """
    small = max(abs(slope), abs(intercept)) < MAX_WHOLE  # also keeps the product within 64 bits
    if plane.dtype.kind in "iu" and small and slope % 1 == intercept % 1 == 0:
        low, high = (int(end) * slope + intercept for end in (plane.min(), plane.max()))
        # NumPy 2.0 cannot limit numbers to what their type does not hold.
        if (slope, intercept) != (1, 0) or plane.dtype.newbyteorder("=") != np.int16:
            plane = plane.astype(np.int64) * int(slope) + int(intercept)
    else:
        # The 24 bits of float32 hold any HU, but not the product with every slope.
        plane = plane.astype(np.float64) * slope + intercept
        low, high = float(plane.min()), float(plane.max())
        if not np.isfinite(low + high):
            raise Unusable("it holds values that are not numbers")
        np.rint(plane, out=plane)
    np.clip(plane, AIR, np.iinfo(np.int16).max, out=out, casting="unsafe")
    return low, high


def check_levels(low: float, high: float) -> tuple[str, ...]:
    """Notes on a volume with such least and greatest values.

    Raises
    ------
    Unusable
        If they are not those of a CT in HU.
    """
    if high > np.iinfo(np.int16).max:
        raise Unusable(f"its levels reach {high:g}: not Hounsfield units")
    if low > -300:
        what = "a mask" if low >= 0 and high <= 1 else "a label volume, windowed or shifted"
        raise Unusable(
            f"its levels run from {low:g} to {high:g}: without air they are not Hounsfield units "
            f"({what}?)"
        )
    if low < PADDING:
        return (f"padding (levels down to {low:g}) set to {AIR} HU",)
    return ()


def hounsfield(grid: Grid) -> tuple[np.ndarray, float, float]:
    """All of a grid: int16 (Z, Y, X) in HU, and its least and greatest value before limiting."""
    hu = np.empty(grid.shape, np.int16)
    ends = [
        to_hounsfield(plane, grid.slope, grid.intercept, out)
        for plane, out in zip(grid.planes(), hu, strict=True)
    ]
    return hu, min(low for low, _ in ends), max(high for _, high in ends)


def labels(grid: Grid) -> np.ndarray:
    """All of a grid of labels: int16 (Z, Y, X).

    Raises
    ------
    Unusable
        If a label is no whole number from 0 to 32767.
    """
    found = np.empty(grid.shape, np.int16)
    top = np.iinfo(np.int16).max
    for plane, out in zip(grid.planes(), found, strict=True):
        if (grid.slope, grid.intercept) != (1, 0):
            plane = plane.astype(np.float64) * grid.slope + grid.intercept
        if not (plane.min() >= 0 and plane.max() <= top):  # NaN is neither
            raise Unusable(f"the label volume holds values outside 0 to {top}")
        if plane.dtype.kind == "f":
            whole = np.rint(plane)
            if np.abs(whole - plane).max() > 1e-3:
                raise Unusable("the label volume holds values that are no whole numbers")
            plane = whole
        out[...] = plane
    return found


def stored_planes(
    path: pathlib.Path,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    *,
    start: int = 0,
    packing: str = "raw",
    skip: int = 0,
) -> Iterator[np.ndarray]:
    """Planes of a file, read one after another.

    Parameters
    ----------
    path : pathlib.Path
    shape : tuple of int
        (Z, Y, X).
    dtype : numpy.dtype
        With byte order.
    start : int
        Byte of the file at which the (packed) voxels begin; negative: counted from its end.
    packing : str
        "raw", "gzip", "bzip2" or "zlib".
    skip : int
        Unpacked bytes before the first voxel.

    Raises
    ------
    Unusable
        If the file cannot be read, is damaged, or ends too early.
    """
    depth, height, width = shape
    done = 0
    try:
        with path.open("rb") as file, contextlib.ExitStack() as stack:
            file.seek(start, io.SEEK_END if start < 0 else io.SEEK_SET)
            stream = stack.enter_context(_OPENERS[packing](file))
            _skip(stream, skip)
            while done < depth:
                block = _exactly(stream, height * width * dtype.itemsize)
                done += 1
                yield np.frombuffer(block, dtype).reshape(height, width)
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable(
            f"the volume file is damaged or cut off: {done} of its {depth} slices can be read"
        ) from error


class _Inflated(io.RawIOBase):
    """Bytes of a zlib stream."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none at the end."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                return b""
            if found := self._inflate.decompress(packed, size):
                return found
        return b""


_OPENERS = {
    "raw": contextlib.nullcontext,
    "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bzip2": bz2.BZ2File,
    "zlib": _Inflated,
}


def _exactly(stream: io.BufferedIOBase, size: int) -> bytes:
    block = stream.read(size)
    while len(block) < size:
        piece = stream.read(size - len(block))
        if not piece:
            raise EOFError
        block += piece
    return block


def _skip(stream: io.BufferedIOBase, size: int) -> None:
    while size > 0:
        piece = stream.read(min(size, 1 << 20))
        if not piece:
            raise EOFError
        size -= len(piece)
