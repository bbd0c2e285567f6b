"""ONNX: initialisers of the Conv and Gemm nodes of a graph (``onnx/onnx.proto`` in onnx/onnx)."""

import math
import pathlib
import re

import numpy as np

from data_prep.errors import UserError
from medxfer.weights import _protobuf
from medxfer.weights._contents import Contents

SUFFIXES = (".onnx",)

_RAW = 9
# TensorProto.data_type -> dtype in raw_data, and the typed field that may hold the values instead.
_TYPES = {1: ("<f4", 4), 10: ("<f2", _RAW), 11: ("<f8", 10)}


def read(path: pathlib.Path) -> Contents:
    """Kernels and biases of all Conv and Gemm nodes, in the order of the graph.

    A layer takes the name of its kernel without ``.weight`` or Caffe2's ``_w_0``.

    Raises
    ------
    UserError
        If the file is not an ONNX model, is damaged, or keeps its weights elsewhere.
    """
    try:
        return _read(path)
    except _protobuf.WireError as error:
        raise UserError(f"{path} is not a usable .onnx file: {error}.") from error


def _read(path: pathlib.Path) -> Contents:
    model = _protobuf.parse(memoryview(path.read_bytes()))
    if 7 not in model:
        raise _protobuf.WireError("it holds no graph")
    graph = _protobuf.parse(model[7][-1])
    tensors = {}
    for value in graph.get(5, []):
        tensor = _protobuf.parse(value)
        tensors[_protobuf.text(tensor, 8)] = tensor
    layers = {}
    for value in graph.get(1, []):
        node = _protobuf.parse(value)
        kind = _protobuf.text(node, 4)
        if kind == "Transpose":
            raise _protobuf.WireError("it reorders channels, so a dense layer's order is not known")
        if kind not in ("Conv", "Gemm"):
            continue
        inputs = [bytes(name).decode("utf-8", "replace") for name in node[1]]
        missing = [name for name in inputs[1:] if name not in tensors]
        if missing or len(inputs) < 2:
            raise _protobuf.WireError(f"weights {missing} of a {kind} node are not in the file")
        kernel, *rest = (_array(name, tensors[name]) for name in inputs[1:])
        if kind == "Conv" and kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif kind == "Gemm" and _transposed(node):
            kernel = kernel.T
        layers[re.sub(r"(\.weight|_w_0|_w)$", "", inputs[1])] = (kernel, *rest)
    if not layers:
        raise _protobuf.WireError("it holds no Conv or Gemm node")
    return Contents(layers, channels_first=True)


def _transposed(node: _protobuf.Message) -> bool:
    """Attribute transB of a Gemm node; alpha and beta, if given, must be 1."""
    transposed = False
    for value in node.get(5, []):
        attribute = _protobuf.parse(value)
        name = _protobuf.text(attribute, 1)
        if name == "transB":
            transposed = bool(_protobuf.integer(attribute, 3))
        elif name in ("alpha", "beta") and _protobuf.numbers(attribute, 2, "<f4").tolist() != [1]:
            raise _protobuf.WireError(f"a Gemm node has an {name} other than 1")
    return transposed


def _array(name: str, tensor: _protobuf.Message) -> np.ndarray:
    if 13 in tensor or _protobuf.integer(tensor, 14):
        raise _protobuf.WireError(f"the values of {name} are in another file")
    kind = _protobuf.integer(tensor, 2)
    if kind not in _TYPES:
        raise _protobuf.WireError(f"{name} is not of float16, float32 or float64 (type {kind})")
    dtype, field = _TYPES[kind]
    data = _protobuf.numbers(tensor, _RAW if _RAW in tensor else field, dtype)
    shape = _protobuf.integers(tensor, 1)
    if math.prod(shape) != data.size:
        sides = "x".join(map(str, shape))
        raise _protobuf.WireError(f"{name} of shape {sides} holds {data.size} values")
    return data.reshape(shape)
