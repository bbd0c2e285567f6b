import bz2
import gzip

import nrrd
import numpy as np
import pytest

from data_prep.readers import _volumes
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic_ct import SPACING, affine, chest, peak, rotation

SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "LPS": (1, 1, 1),
    "RAS": (-1, -1, 1),
}


def write(path, values=None, lps=None, space="left-posterior-superior", **header):
    """Values (Z, Y, X) and an LPS affine as a NRRD file; a header field None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = chest() if values is None else values
    lps = affine() if lps is None else lps
    flips = np.array(SPACES.get(space, (1, 1, 1)))
    fields = {
        "space": space,
        "space directions": (lps[:3, :3] * flips[:, None]).T,
        "space origin": lps[:3, 3] * flips,
        "encoding": "gzip",
        **header,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    nrrd.write(str(path), values.T, fields, index_order="F", compression_level=1)
    return path


def read(root):
    (source,) = _volumes.find(root)
    return _volumes.read(source)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_spaces_and_encodings(tmp_path, space, encoding):
    lps = affine(axes=rotation(0.4, -0.3, 1.0))
    path = write(tmp_path / "a.nrrd", lps=lps, space=space, encoding=encoding)
    volume = read(tmp_path)
    by_hand, _ = nrrd.read(str(path))
    np.testing.assert_array_equal(volume.hu, by_hand.transpose(2, 1, 0))
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.affine, lps, atol=1e-9)
    np.testing.assert_allclose(volume.spacing, SPACING)


def test_against_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    write(tmp_path / "a.nrrd", lps=affine(axes=rotation(0.2, 0.1, -0.5)), space="RAS")
    peer = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(peer))
    place = (volume.affine @ [4, 3, 2, 1])[:3]
    np.testing.assert_allclose(place, peer.TransformIndexToPhysicalPoint((4, 3, 2)), atol=1e-9)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i4", ">i2", "<i8", ">i8"])
def test_types_and_byte_orders(tmp_path, kind):
    write(tmp_path / "a.nrrd", chest().astype(kind))
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


@pytest.mark.parametrize("kind", ["int64", ">u8", "i4", "u2", "f8"])
def test_labels_of_numpys_own_types(tmp_path, kind):
    marks = np.zeros(chest().shape, kind)
    marks[2:4, 3:6, 2:5] = 1
    write(tmp_path / "a.nrrd")
    write(tmp_path / "a_label.nrrd", marks)
    (source,) = _volumes.find(tmp_path)
    lesions = _volumes.read_lesions(source, _volumes.read(source))
    np.testing.assert_array_equal(lesions.labels, marks)


@pytest.mark.parametrize("name", ["long long", "signed long long int", "longlong", "int64_t"])
def test_every_name_of_the_long_type(tmp_path, name):
    path = write(tmp_path / "a.nrrd", chest().astype(np.int64))
    path.write_bytes(path.read_bytes().replace(b"type: int64", f"type: {name}".encode()))
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_detached_header(tmp_path, encoding):
    write(tmp_path / "a.nhdr", encoding=encoding)
    (source,) = _volumes.find(tmp_path)
    assert source.parts == ("image", "data")
    np.testing.assert_array_equal(_volumes.read(source).hu, chest())


def test_skipped_bytes(tmp_path):
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 10 12 7\nendian: little\n{}\n"
    header += "spacings: 0.7 0.8 2.5\n{}\n"
    content = chest().tobytes()
    for name, encoding, body, skip in (
        ("a", "raw", b"1234" + content, 4),
        ("b", "raw", b"12345678" + content, -1),
        ("c", "gzip", gzip.compress(b"123" + content), 3),
        ("d", "bzip2", bz2.compress(b"123" + content), 3),
    ):
        head = header.format(f"encoding: {encoding}", f"byte skip: {skip}\n")
        (tmp_path / f"{name}.nrrd").write_bytes(head.encode() + body)
    sources = _volumes.find(tmp_path)
    assert len(sources) == 4
    for source in sources:
        volume = _volumes.read(source)
        np.testing.assert_array_equal(volume.hu, chest())
        assert "no patient position" in volume.notes[0] and not volume.placed
        np.testing.assert_allclose(volume.spacing, SPACING)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"endian: little", b"endian: middle"), "endian"),
        ((b"encoding: gzip", b"encoding: text"), "stored as text"),
        ((b"type: int16", b"type: block"), "no numbers of a known type"),
        ((b"sizes: 10 12 7", b"sizes: 10 12 7 1"), "damaged|dimensions"),
        ((b"sizes: 10 12 7", b"sizes: 99999 99999 9"), "its size of"),
        ((b"sizes: 10 12 7", b"sizes: 10 12 99"), "of its 99 slices can be read"),
        ((b"NRRD", b"DRRN"), "does not begin"),
        ((b"space directions", b"space direction"), "damaged|missing"),
        ((b"space origin", b"data file: ../../etc/passwd\nspace origin"), "outside the input"),
        ((b"space origin", b"data file: absent.raw\nspace origin"), "missing"),
        ((b"space origin", b"data file: LIST\nspace origin"), "several files"),
        ((b"space origin", b"line skip: 4\nspace origin"), "odd place"),
        ((b"space origin", b"kinds: list domain domain\nspace origin"), "three axes in mm"),
        ((b"space origin", b'space units: "um" "um" "um"\nspace origin'), "three axes in mm"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, change, said):
    path = write(tmp_path / "a.nrrd")
    content = path.read_bytes()
    assert change[0] in content
    path.write_bytes(content.replace(*change, 1))
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


def test_header_without_end_and_file_cut_off(tmp_path):
    path = write(tmp_path / "a.nrrd")
    content = path.read_bytes()
    for damaged in (b"NRRD0004\n" + b"x" * (2 << 20), content[:100], content[:-500], b""):
        path.write_bytes(damaged)
        with pytest.raises(Unusable):
            read(tmp_path)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_memory_is_bounded(tmp_path, encoding):
    write(tmp_path / "a.nrrd", chest((60, 128, 128)).astype(np.float64), encoding=encoding)
    (source,) = _volumes.find(tmp_path)
    volume, most = peak(lambda: _volumes.read(source))
    # The header is sought in the first MiB, which is half of this small volume.
    assert most < 2 * volume.hu.nbytes + (1 << 20)
