import os
import time

import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer.models import _groups
from medxfer.tuning import frozen
from tests.testing import tiny

FEATURES = np.random.default_rng(0).standard_normal((10, 2, 3)).astype(np.float32)


def rows(order=range(10)):
    order = np.array(order)
    return [(order[i : i + 4], FEATURES[order[i : i + 4]]) for i in range(0, len(order), 4)]


@pytest.mark.parametrize(
    "cache, need, where",
    [
        ("auto", 50, "memory"),
        ("auto", 51, "disk"),
        ("auto", 100, "disk"),
        ("auto", 101, "none"),
        ("memory", 100, "memory"),
        ("memory", 101, "none"),
        ("disk", 1, "disk"),
        ("none", 1, "none"),
    ],
)
def test_place(cache, need, where):
    assert frozen.place(cache, need, 100) == where


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0), ("float16", 2e-3)])
def test_features_come_back_in_stream_order(tmp_path, dtype, tolerance):
    shuffled = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    memory = frozen.in_memory(lambda: rows(shuffled), FEATURES.shape, dtype)
    disk = frozen.on_disk(
        lambda: rows(shuffled), FEATURES.shape, dtype, folder=tmp_path, key="k", bound=10**6
    )
    for kept in (memory, disk):
        assert kept.dtype == dtype
        np.testing.assert_allclose(kept, FEATURES, atol=tolerance, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["k.npy"]


def test_disk_is_read_not_computed_the_second_time(tmp_path):
    def never():
        raise AssertionError("computed again")

    settings = {"folder": tmp_path, "key": "k", "bound": 10**6}
    frozen.on_disk(rows, FEATURES.shape, "float32", **settings)
    again = frozen.on_disk(never, FEATURES.shape, "float32", **settings)
    np.testing.assert_array_equal(again, FEATURES)


def test_an_interrupted_computation_leaves_nothing(tmp_path):
    def broken():
        yield rows()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frozen.on_disk(broken, FEATURES.shape, "float32", folder=tmp_path, key="k", bound=10**6)
    assert not list(tmp_path.iterdir())


def test_stale_entries_go_oldest_first(tmp_path):
    size = 128 + FEATURES.nbytes  # of a file: NumPy's header and the data
    now = time.time()

    def keep(key, age, bound, keep=()):
        table = frozen.on_disk(
            rows, FEATURES.shape, "float32", folder=tmp_path, key=key, bound=bound, keep=keep
        )
        if table is not None:
            os.utime(tmp_path / f"{key}.npy", (now - age, now - age))
        return table

    for key, age in (("old", 300), ("older", 400), ("young", 100)):
        assert keep(key, age, 3 * size) is not None
    assert keep("new", 50, 3 * size) is not None
    assert {path.stem for path in tmp_path.glob("*.npy")} == {"old", "young", "new"}
    assert keep("newer", 0, 2 * size, keep=("old",)) is not None
    assert {path.stem for path in tmp_path.glob("*.npy")} == {"old", "newer"}
    assert keep("large", 0, FEATURES.nbytes - 1) is None
    left_over, running = tmp_path / "x.1.partial", tmp_path / "y.2.partial"
    for path, age in ((left_over, 10**6), (running, 10)):
        path.write_bytes(b"")
        os.utime(path, (now - age, now - age))
    keep("last", 0, 2 * size)
    assert not left_over.exists() and running.exists()


def test_what_does_not_fit_the_dtype_is_refused():
    with pytest.raises(UserError, match="--cache_dtype=float32"):
        frozen.in_memory(lambda: [(np.arange(10), FEATURES * 1e6)], FEATURES.shape, "float16")
    with pytest.raises(UserError, match="not numbers"):
        frozen.in_memory(lambda: [(np.arange(10), FEATURES * np.nan)], FEATURES.shape, "float32")


def test_fingerprint_depends_on_weights_structure_and_facts():
    def prefix(first="fc3", bump=0.0):
        model = tiny.build()
        part, _ = _groups.split_at(model, tiny.groups(model), first)
        weight = part.weights[0]
        weight.assign(keras.ops.convert_to_numpy(weight) + bump)
        return part

    facts = ("data", np.arange(3), "float32")
    prints = [
        frozen.fingerprint(prefix(), *facts),
        frozen.fingerprint(prefix(bump=1e-6), *facts),
        frozen.fingerprint(prefix("conv2"), *facts),
        frozen.fingerprint(prefix(), "other data", *facts[1:]),
        frozen.fingerprint(prefix(), "data", np.arange(1, 4), "float32"),
        frozen.fingerprint(prefix(), "data", np.arange(3), "float16"),
    ]
    assert len(set(prints)) == len(prints)
    assert frozen.fingerprint(prefix(), *facts) == prints[0]
