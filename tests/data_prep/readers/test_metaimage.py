import zlib

import numpy as np
import pytest

from data_prep.readers import _volumes
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic_ct import SPACING, affine, chest, peak, rotation

TYPES = {"i2": "MET_SHORT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE", "i4": "MET_INT"}


def write(path, values=None, lps=None, data="LOCAL", compressed=False, **fields):
    """Values (Z, Y, X) and an LPS affine as a MetaImage; a field None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = chest() if values is None else values
    lps = affine() if lps is None else lps
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    body = zlib.compress(values.tobytes()) if compressed else values.tobytes()
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": values.dtype.byteorder == ">",
        "CompressedData": compressed,
        "TransformMatrix": " ".join(map(repr, (lps[:3, :3] / spacing).T.ravel().tolist())),
        "Offset": " ".join(map(repr, lps[:3, 3].tolist())),
        "ElementSpacing": " ".join(map(repr, spacing.tolist())),
        "DimSize": " ".join(map(str, values.shape[::-1])),
        "ElementType": TYPES.get(values.dtype.str[1:], "MET_SHORT"),
        **fields,
        "ElementDataFile": data,
    }
    lines = [f"{name} = {value}" for name, value in header.items() if value is not None]
    head = ("\n".join(lines) + "\n").encode()
    if data == "LOCAL":
        path.write_bytes(head + body)
    else:
        path.write_bytes(head)
        path.with_suffix(".zraw" if compressed else ".raw").write_bytes(body)
    return path


def read(root):
    (source,) = _volumes.find(root)
    return _volumes.read(source)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["<i2", ">i2", "<f4", ">f8", "<i4"])
def test_types(tmp_path, kind, compressed):
    write(tmp_path / "a.mha", chest().astype(kind), compressed=compressed)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.affine, affine())
    np.testing.assert_allclose(volume.spacing, SPACING)
    assert volume.notes == ()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_against_simpleitk(tmp_path, suffix, compressed):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    axes = rotation(0.4, -0.3, 1.0)
    peer = sitk.GetImageFromArray(chest())
    peer.SetSpacing(SPACING[::-1])
    peer.SetOrigin((-30.0, -40.5, 120.25))
    peer.SetDirection(axes.ravel().tolist())
    sitk.WriteImage(peer, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    (source,) = _volumes.find(tmp_path)
    assert source.parts == (("image",) if suffix == ".mha" else ("image", "data"))
    volume = _volumes.read(source)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.affine, affine(axes=axes), atol=1e-9)
    place = (volume.affine @ [4, 3, 2, 1])[:3]
    np.testing.assert_allclose(place, peer.TransformIndexToPhysicalPoint((4, 3, 2)), atol=1e-9)


def test_older_names_of_fields(tmp_path):
    write(
        tmp_path / "a.mha",
        TransformMatrix=None,
        Offset=None,
        ElementSpacing=None,
        ElementSize="0.7 0.8 2.5",
        Rotation="1 0 0 0 1 0 0 0 1",
        Position="-30 -40.5 120.25",
    )
    np.testing.assert_allclose(read(tmp_path).affine, affine())


def test_without_position(tmp_path):
    write(tmp_path / "a.mha", TransformMatrix=None)
    assert not read(tmp_path).placed


def test_header_size(tmp_path):
    path = write(tmp_path / "a.mhd", data="a.raw", HeaderSize=-1)
    (tmp_path / "a.raw").write_bytes(b"1234567" + chest().tobytes())
    np.testing.assert_array_equal(read(tmp_path).hu, chest())
    path.write_text(path.read_text().replace("HeaderSize = -1", "HeaderSize = 7"))
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"DimSize": "10 12"}, "2 dimensions"),
        ({"DimSize": "10 12 70000"}, "its size of"),
        ({"DimSize": "10 12 8"}, "7 of its 8 slices"),
        ({"DimSize": "10 -12 8"}, "its size of"),
        ({"DimSize": None}, "damaged"),
        ({"ElementType": "MET_OTHER"}, "no plain numbers"),
        ({"ElementNumberOfChannels": 3}, "no plain numbers"),
        ({"ElementSpacing": None}, "ElementSpacing is missing"),
        ({"ElementSpacing": "0 1 1"}, "not between"),
        ({"ElementSpacing": "nan 1 1"}, "finite"),
        ({"BinaryData": "False"}, "text"),
        ({"ElementSpacing": "0.7 0.8 -2.5"}, "negative"),
        ({"DistanceUnits": "um"}, "another unit than mm"),
        ({"ElementToIntensityFunctionOffset": "-1024"}, "scaled"),
        ({"TransformMatrix": "1 0 0 0.6 0.8 0 0 0 1"}, "off right angles"),
        ({"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, "directions of length 1"),
        ({"data": "/etc/passwd"}, "outside the input folder"),
        ({"data": "absent.raw"}, "missing"),
        ({"data": "LIST"}, "several files"),
        ({"data": "a%03d.raw 1 7 1"}, "several files"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, fields, said):
    write(tmp_path / "a.mha", **fields)
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


def test_files_that_are_something_else_or_cut_off(tmp_path):
    path = write(tmp_path / "a.mha", compressed=True)
    content = path.read_bytes()
    for damaged in (b"", b"\x89PNG\r\n" * 50, b"a = b\n" * 5000, content[:-300], content[:120]):
        path.write_bytes(damaged)
        with pytest.raises(Unusable):
            read(tmp_path)


def test_damaged_bytes_never_crash(tmp_path):
    path = write(tmp_path / "a.mha", compressed=True)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[generator.integers(0, 600, 4)] = generator.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            read(tmp_path)
        except Unusable:
            pass


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_is_bounded(tmp_path, compressed):
    write(tmp_path / "a.mha", chest((60, 128, 128)).astype("<f8"), compressed=compressed)
    (source,) = _volumes.find(tmp_path)
    volume, most = peak(lambda: _volumes.read(source))
    assert most < 2 * volume.hu.nbytes
