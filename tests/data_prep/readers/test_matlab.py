"""Numeric arrays of MATLAB files, against SciPy's writer."""

import struct

import numpy as np
import pytest
import scipy.io

from data_prep.readers import _matlab

CONTENT = {
    "one": 2.5,
    "grid": np.arange(24.0).reshape(2, 3, 4),
    "row": np.arange(5, dtype=np.int16),
    "bytes": np.array([[0, 255]], np.uint8),
    "long": np.array([2**40], np.int64),
    "single": np.float32([[1.5, -2.25]]),
    "empty": np.zeros((0, 2)),
    "text": "not a number",
    "cell": np.array([[1], "a"], dtype=object),
    "structure": {"field": 3},
    "complex": np.array([1 + 2j]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, CONTENT, do_compression=compressed)
    found = _matlab.read(path)
    expected = scipy.io.loadmat(path)
    assert set(found) == {"one", "grid", "row", "bytes", "long", "single", "empty"}
    for name, values in found.items():
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, expected[name])


def test_the_other_byte_order(tmp_path):
    """Written by hand, as SciPy writes that of the machine only."""
    name = b"scale\0\0\0"
    parts = [
        struct.pack(">IIII", 6, 8, 6, 0),
        struct.pack(">IIii", 5, 8, 1, 1),
        struct.pack(">II", 1, 5) + name,
        struct.pack(">IId", 9, 8, 0.0625),
    ]
    body = b"".join(parts)
    head = b"MATLAB 5.0".ljust(124) + struct.pack(">H", 256) + b"MI"
    (tmp_path / "a.scl").write_bytes(head + struct.pack(">II", 14, len(body)) + body)
    assert _matlab.read(tmp_path / "a.scl") == {"scale": np.array([[0.0625]])}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MATLAB 5.0".ljust(126) + b"XX",
        b"MATLAB 5.0".ljust(126) + b"IM" + struct.pack("<II", 14, 1 << 31),
        b"MATLAB 5.0".ljust(126) + b"IM" + struct.pack("<II", 15, 4) + b"junk",
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "a.scl").write_bytes(content)
    with pytest.raises(ValueError, match=r"MATLAB|beyond|damaged"):
        _matlab.read(tmp_path / "a.scl")


def test_a_variable_that_unpacks_to_more_than_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(_matlab, "LARGEST", 10_000)
    scipy.io.savemat(tmp_path / "a.mat", {"zeros": np.zeros(100_000)}, do_compression=True)
    with pytest.raises(ValueError, match="too large"):
        _matlab.read(tmp_path / "a.mat")
