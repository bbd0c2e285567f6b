"""ONNX: initialisers of the Conv and Gemm nodes of a graph (``onnx/onnx.proto`` in onnx/onnx)."""

import math
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from data_prep.errors import UserError
from medxfer.weights import _protobuf
from medxfer.weights._contents import DAMAGED, Contents

SUFFIXES = (".onnx",)

_INPUT, _OUTPUT = 1, 2  # fields of NodeProto
_RAW = 9  # field of TensorProto
# Nodes that leave the order of values as it is.
_ELEMENTWISE = ("Flatten", "Reshape", "Dropout", "Identity", "Relu", "Clip")
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
    except DAMAGED as error:
        raise UserError(f"{path} is not a usable .onnx file: {error}.") from error


def _read(path: pathlib.Path) -> Contents:
    model = _protobuf.parse(memoryview(path.read_bytes()))
    if 7 not in model:  # ModelProto.graph
        raise _protobuf.WireError("it holds no graph")
    graph = _protobuf.parse(model[7][-1])
    tensors = {}
    for value in graph.get(5, []):  # GraphProto.initializer
        tensor = _protobuf.parse(value)
        tensors[_protobuf.text(tensor, 8)] = tensor
    nodes = [_protobuf.parse(value) for value in graph.get(1, [])]  # GraphProto.node
    producer = {name: node for node in nodes for name in _names(node, _OUTPUT)}
    layers = {}
    for node in nodes:
        kind = _protobuf.text(node, 4)
        if kind not in ("Conv", "Gemm"):
            continue
        inputs = _names(node, _INPUT)
        missing = [name for name in inputs[1:] if name not in tensors]
        if missing or len(inputs) < 2:
            raise _protobuf.WireError(f"weights {missing} of a {kind} node are not in the file")
        kernel, *rest = (_array(name, tensors[name]) for name in inputs[1:])
        if kind == "Conv" and kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif kind == "Gemm":
            _check_order(inputs[0], producer)
            kernel = kernel.T if _transposed(node) else kernel
        layers[re.sub(r"(\.weight|_w_0|_w)$", "", inputs[1])] = (kernel, *rest)
    if not layers:
        raise _protobuf.WireError("it holds no Conv or Gemm node")
    maker = _protobuf.text(model, 2).lower()  # ModelProto.producer_name
    inputs = next((name for name in ("caffe", "torch") if name in maker), "unknown")
    return Contents(layers, channels_first=True, inputs=inputs)


def _names(node: _protobuf.Message, field: int) -> list[str]:
    return [_protobuf.text({0: [value]}, 0) for value in node.get(field, [])]


def _check_order(tensor: str, producer: Mapping[str, _protobuf.Message]) -> None:
    """Refuse a dense layer that does not read (channel, row, column) as ONNX convolutions give."""
    for _ in range(len(producer)):  # a damaged graph may run in a circle
        node = producer.get(tensor)
        kind = _protobuf.text(node, 4) if node else ""
        if kind == "Transpose":
            raise _protobuf.WireError("a dense layer reads its input in an unknown order")
        if kind not in _ELEMENTWISE or not _names(node, _INPUT):
            return
        tensor = _names(node, _INPUT)[0]


def _transposed(node: _protobuf.Message) -> bool:
    """Attribute transB of a Gemm node; alpha and beta, if given, must be 1."""
    transposed = False
    for value in node.get(5, []):  # NodeProto.attribute
        attribute = _protobuf.parse(value)
        name = _protobuf.text(attribute, 1)
        if name == "transB":
            transposed = bool(_protobuf.integer(attribute, 3))
        elif name in ("alpha", "beta") and _protobuf.numbers(attribute, 2, "<f4").tolist() != [1]:
            raise _protobuf.WireError(f"a Gemm node has an {name} other than 1")
    return transposed


def _array(name: str, tensor: _protobuf.Message) -> np.ndarray:
    if 13 in tensor or _protobuf.integer(tensor, 14):  # external_data, data_location
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
