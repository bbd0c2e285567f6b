"""Weight files of every format, written without the code under test.

Parameters are given as PyTorch and Caffe have them: {layer: (kernel, bias)} with kernels
(out, in, height, width) or (out, in), dense ones reading (channel, row, column).
"""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# --- PyTorch: what torch.save writes, with stand-ins for the classes that the pickle names.


def _stand_in(module, name, bases=(), **members):
    return type(name, bases, {"__module__": module, "__qualname__": name, **members})


_TORCH = types.ModuleType("torch")
_UTILS = types.ModuleType("torch._utils")
_TORCH._utils = _UTILS
for _name in ("FloatStorage", "HalfStorage", "BFloat16Storage"):
    setattr(_TORCH, _name, _stand_in("torch", _name))


def _rebuild_tensor_v2(*_):
    raise NotImplementedError


_rebuild_tensor_v2.__module__ = "torch._utils"
_UTILS._rebuild_tensor_v2 = _rebuild_tensor_v2


class _Storage:
    def __init__(self, key, values, kind="FloatStorage"):
        self.key, self.values, self.kind = key, values, kind


class _Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, item):
        if isinstance(item, _Storage):
            pid = ("storage", getattr(_TORCH, item.kind), item.key, "cpu", item.values.size)
            return (*pid, None) if self.legacy else pid


def _pickled(item, legacy=False):
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": _TORCH, "torch._utils": _UTILS}
    try:
        file = io.BytesIO()
        pickler = _Pickler(file, protocol=2)
        pickler.legacy = legacy
        pickler.dump(item)
    finally:
        for name, module in saved.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    return file.getvalue()


def state_dict(layers, kind="FloatStorage"):
    """Tensors of a state dict and their storages."""
    dtype = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<f4"}[kind]
    state, storages = OrderedDict(), []
    for layer, arrays in layers.items():
        for variable, array in zip(("weight", "bias"), arrays, strict=True):
            values = np.ascontiguousarray(array, dtype).reshape(-1)
            if kind == "BFloat16Storage":
                values = (values.view("<u4") >> 16).astype("<u2")
            storages.append(_Storage(str(len(storages)), values, kind))
            strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
            state[f"{layer}.{variable}"] = _Tensor(storages[-1], 0, array.shape, strides)
    state._metadata = OrderedDict(version=1)  # torch keeps such an attribute on the dictionary
    return state, storages


def torch_zip(path, state, storages, pickled=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("weights/data.pkl", pickled or _pickled(state))
        archive.writestr("weights/byteorder", "little")
        for storage in storages:
            archive.writestr(f"weights/data/{storage.key}", storage.values.tobytes())
        archive.writestr("weights/version", "3\n")


def torch_legacy(path, state, storages, pickled=None):
    with path.open("wb") as file:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        for item in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(item, file, protocol=2)
        file.write(pickled or _pickled(state, legacy=True))
        pickle.dump([storage.key for storage in storages], file, protocol=2)
        for storage in storages:
            file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())


# --- Caffe: messages of caffe.proto, encoded by Google's library.


def _caffe_messages():
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    kinds = {
        "int64s": (field.TYPE_INT64, field.LABEL_REPEATED, True),
        "floats": (field.TYPE_FLOAT, field.LABEL_REPEATED, True),
        "int": (field.TYPE_INT32, field.LABEL_OPTIONAL, False),
        "text": (field.TYPE_STRING, field.LABEL_OPTIONAL, False),
        "texts": (field.TYPE_STRING, field.LABEL_REPEATED, False),
    }
    messages = {
        "BlobShape": {"dim": (1, "int64s")},
        "BlobProto": {
            **{
                name: (i + 1, "int")
                for i, name in enumerate(("num", "channels", "height", "width"))
            },
            "data": (5, "floats"),
            "diff": (6, "floats"),
            "shape": (7, "BlobShape"),
        },
        "LayerParameter": {"name": (1, "text"), "type": (2, "text"), "blobs": (7, "BlobProto*")}
        | {"bottom": (3, "texts")},
        "V1LayerParameter": {"name": (4, "text"), "type": (5, "int"), "blobs": (6, "BlobProto*")},
        "NetParameter": {
            "name": (1, "text"),
            "layers": (2, "V1LayerParameter*"),
            "layer": (100, "LayerParameter*"),
        },
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            repeated = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            type_, label, packed = kinds.get(kind, (field.TYPE_MESSAGE, repeated, False))
            added = message.field.add(name=field_name, number=number, type=type_, label=label)
            if kind not in kinds:
                added.type_name = f".caffe.{kind.removesuffix('*')}"
            if packed:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


_Net = _caffe_messages()


def caffemodel(path, layers):
    net = _Net(name="AlexNet")
    net.layer.add(name="data", type="Data")
    for name, arrays in layers.items():
        dense = arrays[0].ndim == 2
        layer = net.layer.add(name=name, type="InnerProduct" if dense else "Convolution")
        layer.bottom.append("below")
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
            blob.diff.extend([0.0])
    path.write_bytes(net.SerializeToString())


def caffemodel_v1(path, layers):
    """As Caffe wrote until 2014: numbered types and four sides for every array."""
    net = _Net(name="AlexNet")
    for name, arrays in layers.items():
        layer = net.layers.add(name=name, type=14 if arrays[0].ndim == 2 else 4)
        for array in arrays:
            sides = (1,) * (4 - array.ndim) + array.shape
            blob = layer.blobs.add(num=sides[0], channels=sides[1])
            blob.height, blob.width = sides[2:]
            blob.data.extend(array.ravel().tolist())
    path.write_bytes(net.SerializeToString())


# --- ONNX, by its own library.


def onnx_model(path, layers, raw=True, transposed=True, before_dense="Flatten"):
    from onnx import TensorProto, helper

    nodes, tensors, last = [], [], "x"
    for name, arrays in layers.items():
        dense = arrays[0].ndim == 2
        if dense and before_dense:
            extra = {"perm": [0, 2, 3, 1]} if before_dense == "Transpose" else {}
            nodes.append(helper.make_node(before_dense, [last], [f"{name}_in"], **extra))
            last = f"{name}_in"
        for variable, array in zip(("weight", "bias"), arrays, strict=True):
            array = array.T if array.ndim == 2 and not transposed else array
            values = array.astype("<f4").tobytes() if raw else array.ravel().tolist()
            label = f"{name}.{variable}"
            tensors.append(
                helper.make_tensor(label, TensorProto.FLOAT, array.shape, values, raw=raw)
            )
        inputs = [last, f"{name}.weight", f"{name}.bias"]
        attributes = {"transB": int(transposed), "alpha": 1.0} if dense else {}
        nodes.append(
            helper.make_node("Gemm" if dense else "Conv", inputs, [f"{name}_y"], **attributes)
        )
        nodes.append(helper.make_node("Relu", [f"{name}_y"], [name]))
        last = name
    # The order of initialisers is not that of the graph.
    graph = helper.make_graph(nodes, "net", [], [], initializer=tensors[::-1])
    path.write_bytes(helper.make_model(graph).SerializeToString())


# --- safetensors: header and values, as the format's README has them.


def safetensors(path, layers, dtype="F32", metadata=None, kind=None, **changed):
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<f4"}
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for layer, arrays in layers.items():
        for variable, array in zip(("weight", "bias"), arrays, strict=True):
            values = np.ascontiguousarray(array, kinds[dtype])
            if dtype == "BF16":
                values = (values.view("<u4") >> 16).astype("<u2")
            place = [len(data), len(data) + values.nbytes]
            about = {"dtype": kind or dtype, "shape": list(array.shape), "data_offsets": place}
            header[f"{layer}.{variable}"] = about | changed
            data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
