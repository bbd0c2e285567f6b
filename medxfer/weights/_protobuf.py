"""Reading of Protocol Buffers messages without their schema, as far as weight files need it.

Encoding: https://protobuf.dev/programming-guides/encoding. Every length is checked against the
message that holds it.
"""

from collections.abc import Sequence

import numpy as np

Value = int | memoryview  # varints are int; fixed32, fixed64 and length-delimited are bytes
Message = dict[int, list[Value]]  # field number -> values in the order of the file


class WireError(ValueError):
    """The bytes are not a Protocol Buffers message, or a field has another type than expected."""


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number is longer than 64 bits")


def parse(value: Value) -> Message:
    """Fields of a message.

    Raises
    ------
    WireError
        If ``value`` is no message, or is cut off.
    """
    data = _bytes(value)
    fields: Message = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            item, position = _varint(data, position)
        else:
            if kind == 2:
                size, position = _varint(data, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise WireError(f"unknown wire type {kind}")
            if size > len(data) - position:
                raise WireError(f"a field of {size} bytes is cut off")
            item = data[position : position + size]
            position += size
        fields.setdefault(key >> 3, []).append(item)
    return fields


def text(message: Message, field: int) -> str:
    """Value of a string field, empty if absent."""
    return bytes(_bytes(message.get(field, [memoryview(b"")])[-1])).decode("utf-8", "replace")


def integer(message: Message, field: int, default: int = 0) -> int:
    """Value of an integer or enumeration field, ``default`` if absent."""
    value = message.get(field, [default])[-1]
    if not isinstance(value, int):
        raise WireError(f"field {field} is not an integer")
    return value


def integers(message: Message, field: int) -> list[int]:
    """Values of a repeated integer field, packed or not."""
    numbers = []
    for value in message.get(field, []):
        if isinstance(value, int):
            numbers.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            numbers.append(number)
    return numbers


def numbers(message: Message, field: int, dtype: str) -> np.ndarray:
    """Values of a repeated field of fixed width, or of raw bytes, packed or not: 1-D array."""
    parts: Sequence[memoryview] = [_bytes(value) for value in message.get(field, [])]
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(data) % np.dtype(dtype).itemsize:
        raise WireError(f"field {field} does not hold whole {np.dtype(dtype).name} numbers")
    return np.frombuffer(data, dtype)


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise WireError("a number stands where a message should")
    return value
