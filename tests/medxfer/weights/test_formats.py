"""Every format: written by another hand, read, and the network's output compared with NumPy's."""

import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer.weights import _assign, _flax, _formats, npz
from tests.medxfer.weights import tiny, writers

TORCH_NAMES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
}


def torch_layers(layers):
    return {TORCH_NAMES[name]: arrays for name, arrays in layers.items()}


def torch_wrapped(path, layers):
    """A checkpoint of a DataParallel model: the state dict is one of its entries."""
    state, storages = writers.state_dict({f"module.{k}": v for k, v in layers.items()})
    writers.torch_zip(path, {"epoch": 3, "state_dict": state, "lr": 0.1}, storages)


class Settings:
    """Of a user's own, as training checkpoints hold them; not on any list of the reader."""

    def __init__(self):
        self.rates = [0.1]


def lightning(path, layers):
    """A checkpoint of a training: settings, an optimizer's state, and the network among them."""
    state, storages = writers.state_dict({f"model.{k}": v for k, v in layers.items()})
    moments, more = writers.state_dict({"exp_avg": next(iter(layers.values()))})
    for number, storage in enumerate(more):
        storage.key = f"moment{number}"
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "optimizer_states": [{"state": {0: dict(moments)}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"settings": Settings(), "root": pathlib.PurePosixPath("/data")},
        "callbacks": {"best": np.float64(0.5), "seen": {1, 2}, "dtype": np.dtype("f4")},
    }
    writers.torch_zip(path, content, storages + more)


def keras_writer(path, layers):
    """Saved by Keras from a network that is known to be right."""
    model = tiny.build()
    for name, (kernel, bias) in layers.items():
        if kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif name == "fc6":  # every row for itself: unit, row, column, channel
            kernel = np.stack(
                [row.reshape(6, 2, 3).transpose(1, 2, 0).ravel() for row in kernel], 1
            )
        else:
            kernel = kernel.T
        model.get_layer(name).set_weights([kernel, bias])
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".npz":
        arrays = {layer.name: tuple(layer.get_weights()) for layer in model.layers if layer.weights}
        npz.write(path, arrays)
    else:
        model.save(path)


WRITERS = {
    "zip.pth": lambda p, layers: writers.torch_zip(p, *writers.state_dict(torch_layers(layers))),
    "old.pth": lambda p, layers: writers.torch_legacy(p, *writers.state_dict(torch_layers(layers))),
    "wrapped.pt": lambda p, layers: torch_wrapped(p, torch_layers(layers)),
    "torch.safetensors": lambda p, layers: writers.safetensors(p, torch_layers(layers)),
    "named.safetensors": lambda p, layers: writers.safetensors(
        p, layers, metadata={"format": "pt"}
    ),
    "lightning.ckpt": lambda p, layers: lightning(p, torch_layers(layers)),
    "new.caffemodel": writers.caffemodel,
    "v1.caffemodel": writers.caffemodel_v1,
    "raw.onnx": lambda p, layers: writers.onnx_model(p, torch_layers(layers)),
    "float_data.onnx": lambda p, layers: writers.onnx_model(p, layers, raw=False, transposed=False),
    "keras.weights.h5": keras_writer,
    "keras.keras": keras_writer,
    "keras.h5": keras_writer,
    "ours.npz": keras_writer,
}


@pytest.fixture(scope="module")
def model():
    return tiny.build()


def load(path, model, head=True):
    contents = _formats.read(path)
    names = tuple(TORCH_NAMES.values())
    return _assign.assign(model, tiny.groups(model), contents, str(path), head, torch=names)


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
@pytest.mark.parametrize("name", WRITERS)
def test_loaded_network_is_the_saved_one(name, model, tmp_path):
    layers = tiny.parameters()
    WRITERS[name](tmp_path / name, layers)
    assert load(tmp_path / name, model) == (tiny.NAMES, ())
    image = np.random.default_rng(0).normal(size=(3, 12, 13))
    logits = np.asarray(model(image.transpose(1, 2, 0)[None].astype("f4")))[0]
    expected = tiny.forward(image, layers)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("kind, tolerance", [("HalfStorage", 1e-3), ("BFloat16Storage", 1e-2)])
def test_torch_half_precision(kind, tolerance, tmp_path):
    layers = tiny.parameters()
    writers.torch_zip(tmp_path / "half.pth", *writers.state_dict(layers, kind))
    kernel, bias = _formats.read(tmp_path / "half.pth").layers["fc7"]
    np.testing.assert_allclose(kernel, layers["fc7"][0].T, rtol=tolerance)
    np.testing.assert_allclose(bias, layers["fc7"][1], rtol=tolerance)


def test_torch_views_of_one_storage(tmp_path):
    """A transposed view and a slice, as state dicts of tied or sliced parameters hold them."""
    values = np.arange(24, dtype="<f4")
    storage = writers._Storage("0", values)
    state = {
        "fc.weight": writers._Tensor(storage, 2, (4, 5), (1, 4)),
        "fc.bias": writers._Tensor(storage, 1, (4,), (2,)),
        "fc.num_batches_tracked": writers._Tensor(storage, 0, (), ()),
    }
    writers.torch_zip(tmp_path / "views.pth", state, [storage])
    kernel, bias = _formats.read(tmp_path / "views.pth").layers["fc"]
    np.testing.assert_array_equal(kernel, values[2:22].reshape(5, 4))
    np.testing.assert_array_equal(bias, values[1:9:2])


@pytest.mark.parametrize(
    "offset, shape, strides",
    [(0, (25,), (1,)), (20, (5,), (1,)), (0, (3, 9), (9, 1)), (-1, (4,), (1,)), (0, (4,), (-1,))]
    + [(0, (1000, 1000), (0, 0)), (2**62, (4,), (1,)), (0, (4,), (2**80,)), (0, ("4",), (1,))],
)
def test_torch_tensors_beyond_their_storage(offset, shape, strides, tmp_path):
    storage = writers._Storage("0", np.arange(24, dtype="<f4"))
    state = {"fc.weight": writers._Tensor(storage, offset, shape, strides)}
    writers.torch_zip(tmp_path / "bad.pth", state, [storage])
    with pytest.raises(UserError, match="bad.pth"):
        _formats.read(tmp_path / "bad.pth")


class Hostile:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "flax"])
def test_pickled_code_is_refused_and_does_not_run(kind, tmp_path):
    target, path = tmp_path / "was_run", tmp_path / "hostile.pth"
    pickled = pickle.dumps({"fc.weight": Hostile(target)}, protocol=2)
    if kind == "zip":
        writers.torch_zip(path, None, [], pickled)
    elif kind == "legacy":
        writers.torch_legacy(path, None, [], pickled)
    else:
        path.write_bytes(pickled)
    with pytest.raises(UserError, match=r"asks for (posix|nt)\.mkdir, which is not data"):
        (_flax if kind == "flax" else _formats).read(path)
    assert not target.exists()
    pickle.loads(pickled)  # noqa: S301 -- the trap itself works
    assert target.exists()


@pytest.mark.parametrize(
    "pickled, message",
    [
        (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02c__main__\nNet\n.", "__main__.Net"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "memo is out of bounds"),
        (b"\x80\x02K\x01Q.", "is no storage"),
        (b"\x80\x02]", "damaged"),
        (pickle.dumps([1, 2]), "no table of tensors"),
        (pickle.dumps({"epoch": 1}), "no state dict among its entries"),
    ],
)
def test_pickles_that_are_no_state_dict(pickled, message, tmp_path):
    writers.torch_zip(tmp_path / "odd.pth", None, [], pickled)
    with pytest.raises(UserError, match=message):
        _formats.read(tmp_path / "odd.pth")


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", **{"conv1/0": np.array([{}], dtype=object)})
    with pytest.raises(UserError, match="allow_pickle=False"):
        _formats.read(tmp_path / "objects.npz")


def test_compressed_torch_archive_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    writers.torch_zip(path, *writers.state_dict(tiny.parameters()), None, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        _formats.read(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda layers, path: writers.onnx_model(path, layers, before_dense="Transpose"), "order"),
        (lambda layers, path: path.write_bytes(b""), "no graph"),
        (lambda layers, path: path.write_bytes(b"\x3a\x7f"), "cut off"),
        (lambda layers, path: path.write_bytes(b"<!DOCTYPE html>"), "not a usable .onnx"),
    ],
)
def test_onnx_files_that_cannot_be_used(change, message, tmp_path):
    change(tiny.parameters(), tmp_path / "net.onnx")
    with pytest.raises(UserError, match=message):
        _formats.read(tmp_path / "net.onnx")


def test_onnx_with_weights_in_another_file(tmp_path):
    import onnx

    path = tmp_path / "net.onnx"
    writers.onnx_model(path, tiny.parameters())
    net = onnx.load(path)
    onnx.save(net, path, save_as_external_data=True, location="data", size_threshold=0)
    with pytest.raises(UserError, match="in another file"):
        _formats.read(path)


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_give_one_line(name, model, tmp_path):
    """Cut and overwritten files are read, or refused by a UserError, and nothing else."""
    WRITERS[name](tmp_path / name, tiny.parameters())
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / f"damaged.{name}"
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole)
        # libhdf5 itself may never return from a damaged heap, so HDF5 files are only cut.
        if trial % 3 == 0 or name.endswith(".h5"):
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for _ in range(rng.integers(1, 20)):
                # The structure of most formats is at both ends.
                position = rng.integers(min(len(whole), 3000)) * (1 if trial % 3 == 1 else -1)
                damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load(path, model)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert path.name in str(error)
    assert refused >= 20  # every cut file


def test_unknown_and_absent_files(tmp_path):
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(
        UserError, match=r"Known types: .bin, .caffemodel, .ckpt, .h5, .hdf5, .keras, .npz, .onnx"
    ):
        _formats.read(tmp_path / "weights.txt")
    with pytest.raises(UserError, match="there is no file"):
        _formats.read(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "entry", ["state_dict", "model_state_dict", "model", "net", "module_of_mine", None]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone."])
def test_state_dicts_of_training_checkpoints(entry, prefix, model, tmp_path):
    layers = tiny.parameters()
    state, storages = writers.state_dict({prefix + k: v for k, v in torch_layers(layers).items()})
    content = state if entry is None else {"epoch": 1, "settings": Settings(), entry: state}
    writers.torch_zip(tmp_path / "a.pt", content, storages)
    assert load(tmp_path / "a.pt", model) == (tiny.NAMES, ())
    np.testing.assert_array_equal(model.get_layer("fc7").get_weights()[0], layers["fc7"][0].T)


@pytest.mark.parametrize(
    "content, said",
    [
        (lambda state: {"student": state, "teacher": state}, r"several state dicts.*student, teac"),
        (lambda state: {"epoch": 3, "lr": 0.1}, r"no state dict among its entries \(epoch, lr\)"),
        (lambda state: Settings(), r"it asks for .*Settings, which is not data"),
        (
            lambda state: {"fc.weight": Settings()},
            r"fc.weight asks for .*Settings, which is not data",
        ),
        (lambda state: [state], "no table of tensors"),
    ],
)
def test_checkpoints_that_do_not_say_which_network(content, said, tmp_path):
    state, storages = writers.state_dict(tiny.parameters())
    writers.torch_zip(tmp_path / "a.ckpt", content(state), storages)
    with pytest.raises(UserError, match=said):
        _formats.read(tmp_path / "a.ckpt")


def test_nothing_of_a_checkpoint_is_imported_or_called(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/run",)

    state, storages = writers.state_dict(tiny.parameters())
    writers.torch_zip(tmp_path / "a.ckpt", {"state_dict": state, "evil": Evil()}, storages)
    assert len(_formats.read(tmp_path / "a.ckpt").layers) == len(tiny.NAMES)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype, tolerance", [("F16", 1e-3), ("BF16", 1e-2), ("F64", 0)])
def test_safetensors_of_other_precision(dtype, tolerance, tmp_path):
    layers = tiny.parameters()
    writers.safetensors(tmp_path / "a.safetensors", layers, dtype)
    kernel, bias = _formats.read(tmp_path / "a.safetensors").layers["fc7"]
    np.testing.assert_allclose(kernel, layers["fc7"][0].T, rtol=tolerance)
    np.testing.assert_allclose(bias, layers["fc7"][1], rtol=tolerance)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"kind": "F8_E4M3"}, "F8_E4M3, which is not read"),
        ({"shape": [3, 1]}, "not the size that its shape says"),
        ({"data_offsets": [0, 2**40]}, "not the size that its shape says"),
        ({"data_offsets": [-4, 0]}, "not the size that its shape says"),
        ({"metadata": {"format": "tf"}}, "laid out for tf, not for PyTorch"),
    ],
)
def test_safetensors_that_are_not_usable(changed, said, tmp_path):
    writers.safetensors(tmp_path / "a.safetensors", tiny.parameters(), **changed)
    with pytest.raises(UserError, match=said):
        _formats.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 40, b"\2" + b"\0" * 7 + b"{", b"[]"])
def test_damaged_safetensors(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not a usable .safetensors file"):
        _formats.read(tmp_path / "a.safetensors")


def test_safetensors_keep_no_order_and_convolutions_may_be_alone(model, tmp_path):
    layers = torch_layers(tiny.parameters())
    shuffled = {f"backbone.{name}": layers[name] for name in sorted(layers)}
    writers.safetensors(tmp_path / "whole.safetensors", shuffled)
    assert load(tmp_path / "whole.safetensors", model) == (tiny.NAMES, ())
    features = {name.removeprefix("features."): layers[name] for name in layers if "feat" in name}
    writers.safetensors(tmp_path / "features.safetensors", features)
    assert load(tmp_path / "features.safetensors", model, head=False) == (
        ("conv1", "conv2"), ("fc6", "fc7"),
    )  # fmt: skip
    with pytest.raises(UserError, match="no layer of the network"):
        _assign.assign(
            model, tiny.groups(model), _formats.read(tmp_path / "whole.safetensors"), "a"
        )
