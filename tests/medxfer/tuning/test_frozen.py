import os
import pathlib
import time

import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer.models import _groups
from medxfer.tuning import frozen
from tests.testing import tiny
from tests.testing.networks import tiny_network

FEATURES = np.random.default_rng(0).standard_normal((10, 2, 3)).astype(np.float32)


def rows(order=range(10)):
    order = np.array(order)
    return [(order[i : i + 4], FEATURES[order[i : i + 4]]) for i in range(0, len(order), 4)]


def on_disk(key, folder, compute=lambda keys: rows(), dtype="float32", bound=10**6, **options):
    shapes = {key: FEATURES.shape}
    return frozen.on_disk(compute, shapes, dtype, folder=folder, bound=bound, **options)


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
    disk = on_disk("k", tmp_path, lambda keys: rows(shuffled), dtype)
    for kept in (memory, disk):
        assert kept.dtype == dtype
        np.testing.assert_allclose(kept, FEATURES, atol=tolerance, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["k.npy"]


def test_disk_is_read_not_computed_the_second_time(tmp_path):
    def never(keys):
        raise AssertionError("computed again")

    on_disk("k", tmp_path)
    again = on_disk("k", tmp_path, never)
    np.testing.assert_array_equal(again, FEATURES)


def test_an_interrupted_computation_leaves_nothing(tmp_path):
    def broken(keys):
        yield rows()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_disk("k", tmp_path, broken)
    assert not list(tmp_path.iterdir())


def test_writers_of_one_number_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Containers that share a cache have processes of the same numbers."""
    monkeypatch.setattr(os, "getpid", lambda: 7)

    def interrupted(keys):
        part, *others = rows()
        yield part
        assert on_disk("k", tmp_path) is not None  # the other one, from its beginning to its end
        yield from others

    for _ in range(2):
        found = on_disk("k", tmp_path, interrupted)
        np.testing.assert_array_equal(found, FEATURES)
        np.testing.assert_array_equal(frozen.read(tmp_path, "k"), FEATURES)
        assert [path.name for path in tmp_path.iterdir()] == ["k.npy"]
        (tmp_path / "k.npy").unlink()


def test_what_others_take_away_meanwhile_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "kept.npy").write_bytes(b"x")
    listed = [tmp_path / "gone.npy", tmp_path / "kept.npy"]
    monkeypatch.setattr(pathlib.Path, "glob", lambda folder, pattern: iter(listed))
    assert frozen._make_room(tmp_path, 1, 10**6, set())
    assert (tmp_path / "kept.npy").exists()


def test_stale_entries_go_oldest_first(tmp_path):
    size = 128 + FEATURES.nbytes  # of a file: NumPy's header and the data
    now = time.time()

    def keep(key, age, bound, keep=()):
        table = on_disk(key, tmp_path, bound=bound, keep=keep)
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


def test_what_is_had_on_the_way_is_kept_if_there_is_room(tmp_path):
    size = 128 + FEATURES.nbytes  # of a file: NumPy's header and the data
    asked = []

    def compute(keys):
        asked.append(keys)
        return [(i, *(x + len(key) for key in keys)) for i, x in rows()]

    def make(*keys, bound):
        shapes = dict.fromkeys(keys, FEATURES.shape)
        return frozen.on_disk(compute, shapes, "float32", folder=tmp_path, bound=bound)

    make("a", bound=3 * size)
    found = make("bb", "a", "ccc", bound=3 * size)
    np.testing.assert_array_equal(found, FEATURES + 2)
    np.testing.assert_array_equal(frozen.read(tmp_path, "ccc"), FEATURES + 3)
    make("dddd", "eeeee", bound=size)
    assert asked == [["a"], ["bb", "ccc"], ["dddd"]]  # nothing twice; what is wanted comes first
    assert [path.stem for path in tmp_path.iterdir()] == ["dddd"]


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


def test_the_seed_of_the_first_weights_is_of_no_importance():
    """Runs that differ in their seed alone share what pre-trained layers make."""

    def prefix(seed):
        model = tiny_network.build(2, seed=seed)
        groups = _groups.layer_groups(model, tiny_network.LAYER_GROUPS)
        part, _ = _groups.split_at(model, groups, "fc2")
        for weight in part.weights:
            weight.assign(np.ones(weight.shape, np.float32))
        return part

    assert frozen.fingerprint(prefix(1)) == frozen.fingerprint(prefix(2))
