"""Caffe's ``.caffemodel``: a binary NetParameter (``caffe.proto`` in BVLC/caffe)."""

import math
import pathlib

import numpy as np

from data_prep.errors import UserError
from medxfer.weights import _protobuf
from medxfer.weights._contents import DAMAGED, Contents

SUFFIXES = (".caffemodel",)

# Where the two generations of layers keep name, type and blobs: field of NetParameter -> fields.
_GENERATIONS = {100: (1, 2, 7), 2: (4, 5, 6)}  # LayerParameter, V1LayerParameter
_DENSE = ("InnerProduct", 14)  # type by name, and by number in V1


def read(path: pathlib.Path) -> Contents:
    """Kernels and biases of all convolution and dense layers, in the order of the network.

    Raises
    ------
    UserError
        If the file is not a Caffe network or is damaged.
    """
    try:
        return _read(path)
    except DAMAGED as error:
        raise UserError(f"{path} is not a whole .caffemodel file: {error}.") from error


def _read(path: pathlib.Path) -> Contents:
    net = _protobuf.parse(memoryview(path.read_bytes()))
    layers = {}
    for field, (name_field, type_field, blobs_field) in _GENERATIONS.items():
        for value in net.get(field, []):
            layer = _protobuf.parse(value)
            blobs = [_blob(blob) for blob in layer.get(blobs_field, [])]
            if not blobs:
                continue
            name = _protobuf.text(layer, name_field)
            kind = (
                _protobuf.text(layer, type_field)
                if field == 100
                else _protobuf.integer(layer, type_field)
            )
            kernel = blobs[0]
            if kind in _DENSE:  # (1, 1, out, in) in old files
                kernel = kernel.reshape(kernel.shape[-2:]).T if kernel.ndim >= 2 else kernel
            elif kernel.ndim == 4:
                kernel = kernel.transpose(2, 3, 1, 0)
            layers[name] = (kernel, *(blob.reshape(-1) for blob in blobs[1:]))
    if not layers:
        raise _protobuf.WireError("it holds no layer with weights")
    return Contents(layers, channels_first=True, inputs="caffe")


def _blob(value: _protobuf.Value) -> np.ndarray:
    """Array of one BlobProto, whose shape is a BlobShape or four legacy fields."""
    blob = _protobuf.parse(value)  # 1-4 legacy shape, 5 data, 7 shape, 8 double_data
    data = _protobuf.numbers(blob, 8, "<f8") if 8 in blob else _protobuf.numbers(blob, 5, "<f4")
    if 7 in blob:
        shape = _protobuf.integers(_protobuf.parse(blob[7][-1]), 1)
    else:
        shape = [_protobuf.integer(blob, field) for field in (1, 2, 3, 4)]
    if math.prod(shape) != data.size:
        sides = "x".join(map(str, shape))
        raise _protobuf.WireError(f"a blob of shape {sides} holds {data.size} values")
    return data.reshape(shape)
