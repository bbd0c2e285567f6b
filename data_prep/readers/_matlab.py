"""Numeric arrays of a MATLAB 5 file, and nothing else of it.

SciPy's reader is written for trusted files: some damaged ones end the process. What is needed
here is little, so it is read with every length checked (MathWorks, "MAT-File Format", level 5).
"""

import pathlib
import zlib
from collections.abc import Iterator

import numpy as np

HEADER = 128  # bytes
LARGEST = 64 << 20  # bytes of one variable, after decompression
MATRIX, COMPRESSED = 14, 15
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
NUMERIC_CLASSES = range(6, 16)  # double, single, whole numbers
COMPLEX = 0x08


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Real numeric arrays by name, as float64, in MATLAB's shapes.

    Raises
    ------
    ValueError
        If the file is not of MATLAB 5 or is damaged.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise ValueError("no MATLAB 5 file")
    found = {}
    for kind, body in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            body = _decompressed(body)
            ((kind, body),) = list(_elements(body, order))[:1] or [(0, b"")]
        if kind == MATRIX and (variable := _variable(body, order)):
            found.update([variable])
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of one element after the other."""
    place = 0
    while place + 8 <= len(content):
        kind, length = map(int, np.frombuffer(content, f"{order}u4", 2, place))
        if kind >> 16:  # small: type, length and up to four bytes in eight
            kind, length, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            # Elements begin at multiples of eight bytes, but for what follows a compressed one.
            end = start + length + (-length % 8 if kind != COMPRESSED else 0)
        if start + length > min(end, len(content)):
            raise ValueError(f"an element of {length} bytes goes beyond the end")
        yield kind, content[start : start + length]
        place = end


def _decompressed(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(body, LARGEST)
    except zlib.error as error:
        raise ValueError("a compressed variable is damaged") from error
    if stream.unconsumed_tail:
        raise ValueError("a variable is too large")
    return found


def _variable(body: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Name and values of an array; None for texts, cells, structures, sparse and complex arrays."""
    parts = list(_elements(body, order))
    if len(parts) < 4:
        return None
    (_, flags), (_, sides), (_, name), (kind, values) = parts[:4]
    (flag,) = np.frombuffer(flags, f"{order}u4", 1)
    if int(flag) & 0xFF not in NUMERIC_CLASSES or int(flag) >> 8 & COMPLEX:
        return None
    if kind not in NUMBERS:
        raise ValueError(f"numbers of the unknown type {kind}")
    shape = tuple(map(int, np.frombuffer(sides, f"{order}i4")))
    array = np.frombuffer(values, order + NUMBERS[kind]).astype(np.float64)
    if min(shape, default=-1) < 0:
        raise ValueError(f"the shape {shape}")
    return name.decode("ascii"), array.reshape(shape, order="F")
