"""PyTorch's ``.pth``: a state dict saved by ``torch.save``, in today's zip or the older format.

Checkpoints of a training, such as Lightning's ``.ckpt``, hold one among other things, of which
nothing is rebuilt. PyTorch is not needed: the pickle in the file is read with a restricted
unpickler. Whole pickled modules, which are code, are refused.
"""

import dataclasses
import io
import math
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from data_prep.errors import UserError
from medxfer.weights import _pickle
from medxfer.weights._contents import DAMAGED, Contents, from_torch, torch_variable

SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".bin")

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_STORAGES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype("<u2"),  # the upper half of a float32
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
}

# Where training checkpoints keep the state dict of the network, the first one found counts.
_PLACES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")


class _StateDict(dict):
    """Stands for OrderedDict; drops the attributes (``_metadata``) that PyTorch sets on it."""

    def __setstate__(self, state):
        pass


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int

    def values(self, data: bytes | memoryview) -> np.ndarray:
        if len(data) != self.size * self.dtype.itemsize:
            raise _pickle.Refused(f"storage {self.key} has not the size it claims")
        values = np.frombuffer(data, self.dtype)
        if self.dtype == np.uint16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, values: np.ndarray) -> np.ndarray:
        """View of the storage's values, which must hold every element, each of its own."""
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((side - 1) * stride for side, stride in steps)
        if (
            min(self.offset, *self.shape, *self.strides, 0) < 0
            or last >= values.size
            or math.prod(self.shape) > values.size
        ):
            raise _pickle.Refused(f"a tensor of shape {self.shape} lies outside its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) for n in numbers):
        raise _pickle.Refused("a tensor is not made of a storage and integers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(identifier: object) -> _Storage:
    match identifier:
        # Views of storages went out with PyTorch 0.4.
        case ("storage", np.dtype() as dtype, str(key), _, int(size), *view) if not any(view):
            return _Storage(key, dtype, size)
    raise _pickle.Refused("it refers to something that is no storage")


_ALLOWED = {
    "collections.OrderedDict": _StateDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
} | _STORAGES


def read(path: pathlib.Path) -> Contents:
    """Kernels and biases of a state dict, or of that of a training checkpoint, in its order.

    Raises
    ------
    UserError
        If the file is not a state dict, is damaged, or asks for more than tensors.
    """
    try:
        return from_torch((_read_zip if zipfile.is_zipfile(path) else _read_legacy)(path))
    except DAMAGED as error:
        raise UserError(
            f"{path} cannot be read as a PyTorch state dict: {error}. "
            "Save it with torch.save(model.state_dict(), ...)."
        ) from error


def _read_zip(path: pathlib.Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _pickle.Refused("it holds no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        def member(name: str) -> bytes:
            if folder + name not in archive.NameToInfo:
                raise _pickle.Refused(f"{name} is missing")
            info = archive.getinfo(folder + name)
            if info.compress_type != zipfile.ZIP_STORED:  # torch.save never compresses
                raise _pickle.Refused(f"{name} is compressed")
            return archive.read(info)

        if f"{folder}byteorder" in archive.NameToInfo and member("byteorder") != b"little":
            raise _pickle.Refused("its numbers are not little-endian")
        state = _pickle.load(io.BytesIO(member("data.pkl")), _ALLOWED, _storage, inert=True)
        return _arrays(state, lambda storage: storage.values(member(f"data/{storage.key}")))


def _read_legacy(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Five pickles (magic number, version, system, state, storage keys), then the storages."""
    storages: dict[str, _Storage] = {}

    def storage(identifier: object) -> _Storage:
        found = _storage(identifier)
        return storages.setdefault(found.key, found)

    file = io.BytesIO(path.read_bytes())
    if [_pickle.load(file, {}) for _ in range(2)] != [_LEGACY_MAGIC, _LEGACY_VERSION]:
        raise _pickle.Refused("it does not begin as torch.save begins")
    _pickle.load(file, {})
    state = _pickle.load(file, _ALLOWED, storage, inert=True)
    values = {}
    for key in _pickle.load(file, {}):
        if key not in storages:
            raise _pickle.Refused("it holds a storage that no tensor has")
        file.seek(8, io.SEEK_CUR)  # the number of values, which the pickle has given
        size = storages[key].size * storages[key].dtype.itemsize
        values[key] = storages[key].values(file.read(size))
    return _arrays(state, lambda storage: values[storage.key])


def _arrays(state: object, values: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the weights in a state dict, under their names and in their order."""
    arrays = {}
    for key, tensor in _state_dict(state).items():
        if torch_variable(str(key)) is None:
            continue
        if name := _pickle.outside(tensor):
            raise _pickle.Refused(f"{key} asks for {name}, which is not data")
        if isinstance(tensor, _Tensor):
            arrays[str(key)] = tensor.array(values(tensor.storage))
    return arrays


def _state_dict(state: object) -> dict:
    """The state dict itself, or the only one in a checkpoint."""
    if name := _pickle.outside(state):
        raise _pickle.Refused(f"it asks for {name}, which is not data")
    if not isinstance(state, dict):
        raise _pickle.Refused("it holds no table of tensors")

    def has_weights(value: object) -> bool:
        return isinstance(value, dict) and any(map(torch_variable, map(str, value)))

    if has_weights(state):
        return state
    found = {str(key): value for key, value in state.items() if has_weights(value)}
    place = next((place for place in _PLACES if place in found), None)
    if place is None and len(found) == 1:
        (place,) = found
    if place is None:
        entries = ", ".join(map(str, found or state)) or "nothing"
        kind = "several state dicts" if found else "no state dict"
        raise _pickle.Refused(f"it holds {kind} among its entries ({entries})")
    return found[place]
