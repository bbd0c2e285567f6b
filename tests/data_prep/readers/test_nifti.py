import gzip
import os

import nibabel
import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _volumes
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic_ct import SPACING, affine, chest, peak, rotation

LPS = np.diag([-1, -1, 1, 1])


def write(path, values=None, lps=None, kind=nibabel.Nifti1Image, slope=None, code=1, **header):
    """Values (Z, Y, X) and an LPS affine as a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = chest() if values is None else values
    world = LPS @ (affine() if lps is None else lps)
    file = kind(np.ascontiguousarray(values.T), world)
    file.set_qform(world, code)
    file.set_sform(world, code)
    for name, value in header.items():
        file.header[name] = value
    if slope:
        file.header.set_slope_inter(*slope)
    nibabel.save(file, path)
    return path


def edit(path, sform, qform, fields):
    """Set the codes, and fields or, where a place is given, one number of them."""
    header = nibabel.load(path).header
    header["sform_code"], header["qform_code"], header["vox_offset"] = sform, qform, 352
    for name, (place, value) in fields.items():
        if place is None:
            header[name] = value
        else:
            header[name][place] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])


def read(root, options=None):
    (source,) = _volumes.find(root, options)
    return _volumes.read(source)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.4, -0.3, 1.0), (np.pi / 2, 0, np.pi)])
def test_right_anterior_superior_becomes_left_posterior_superior(tmp_path, name, angles):
    lps = affine(axes=rotation(*angles))
    path = write(tmp_path / name, lps=lps)
    (source,) = _volumes.find(tmp_path)
    assert (source.name, source.subject, source.parts) == (name, name, ("image",))
    volume = _volumes.read(source)
    np.testing.assert_array_equal(volume.hu, chest())
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-5)
    np.testing.assert_allclose(volume.affine, lps, atol=1e-4)
    by_hand = nibabel.load(path)
    np.testing.assert_array_equal(volume.hu, by_hand.get_fdata().transpose(2, 1, 0))
    corner = by_hand.affine @ [4, 3, 2, 1]
    np.testing.assert_allclose((volume.affine @ [4, 3, 2, 1])[:3], corner[:3] * (-1, -1, 1))


def test_real_volume_against_nibabel_and_simpleitk(real_data):
    path = real_data / "ct" / "contrast_ct_pulmonary_artery" / "ct_cropped.nii.gz"
    sources = _volumes.find(path.parent)
    (source,) = (source for source in sources if source.name == path.name)
    volume = _volumes.read(source)
    by_hand = nibabel.load(path)
    expected = np.asanyarray(by_hand.dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.hu, np.maximum(expected, -1024))
    np.testing.assert_allclose(volume.spacing, 1.5)
    np.testing.assert_allclose(volume.affine, LPS @ by_hand.affine)
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    peer = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.hu, np.maximum(sitk.GetArrayFromImage(peer), -1024))
    for index in ((0, 0, 0), (50, 7, 3)):
        place = (volume.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(place, peer.TransformIndexToPhysicalPoint(index), atol=1e-4)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i4", "<u2", ">i2"])
def test_scaled_and_float_values(tmp_path, kind):
    stored = np.round((chest().astype(float) + 1024) * 4).astype(kind)
    write(tmp_path / "a.nii.gz", stored, slope=(0.25, -1024.0))
    by_hand = nibabel.load(tmp_path / "a.nii.gz").get_fdata().transpose(2, 1, 0)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, np.rint(by_hand))
    np.testing.assert_array_equal(volume.hu, chest())


def test_pairs_and_nifti_2(tmp_path):
    write(tmp_path / "a" / "pair.hdr", kind=nibabel.Nifti1Pair)
    write(tmp_path / "b" / "two.nii.gz", kind=nibabel.Nifti2Image)
    one, two = _volumes.find(tmp_path)
    assert one.parts == ("image", "data")
    for source in (one, two):
        np.testing.assert_array_equal(_volumes.read(source).hu, chest())
    one.paths("data")[0].unlink()
    with pytest.raises(Unusable, match="pair.img is missing"):
        _volumes.read(one)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("kind", "place", "form", "first"),
    [(nibabel.Nifti1Image, 108, "<f4", 352), (nibabel.Nifti2Image, 168, "<i8", 544)],
)
@pytest.mark.parametrize("offset", [0, 348])
def test_an_offset_within_the_header(tmp_path, name, kind, place, form, first, offset):
    path = write(tmp_path / name, kind=kind)
    content = bytearray((gzip.decompress if name.endswith("gz") else bytes)(path.read_bytes()))
    value = np.dtype(form).itemsize
    assert np.frombuffer(content[place : place + value], form) == first
    content[place : place + value] = np.array([offset], form).tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if name.endswith("gz") else bytes(content))
    np.testing.assert_array_equal(read(tmp_path).hu, chest())


def test_units_padding_and_a_single_time(tmp_path):
    hu = chest()
    hu[:, :2] = -3024
    metres = affine() @ np.diag([1e-3, 1e-3, 1e-3, 1])
    metres[:3, 3] *= 1e-3
    path = write(tmp_path / "a.nii", hu[None], lps=metres, xyzt_units=1)
    assert nibabel.load(path).ndim == 4
    volume = read(tmp_path)
    np.testing.assert_allclose(volume.affine, affine(), rtol=1e-5, atol=1e-4)
    assert (volume.hu[:, :2] == -1024).all()
    assert volume.notes == ("padding (levels down to -3024) set to -1024 HU",)


def test_a_file_without_position(tmp_path):
    write(tmp_path / "a.nii", code=0)
    volume = read(tmp_path)
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-5)
    assert not volume.placed
    place = np.array([[4, 3, 2]]) * SPACING  # from the first voxel
    np.testing.assert_allclose(volume.to_patient([[4, 3, 2]]), place[:, ::-1], rtol=1e-5)
    assert "no patient position" in volume.notes[0]


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        (np.where(chest() > 0, np.nan, chest()), {}, "not numbers"),
        (chest() > 0, {}, r"0 to 1: without air .*\(a mask\?\)"),
        ((chest() + 1024).astype(np.uint16), {}, "not Hounsfield units"),
        (chest().astype(np.uint16), {}, "levels reach 64.*: not Hounsfield units"),
        (np.stack([chest()] * 2), {}, "4 dimensions"),
        (chest()[:1], {}, "not that of a volume"),
        (chest().astype(np.complex64), {}, "no plain numbers"),
        (chest(), {"lps": affine(spacing=(0.0025, 0.0008, 0.0007))}, "not between 0.1 and 10 mm"),
    ],
)
def test_what_is_no_ct_in_hounsfield_units(tmp_path, values, more, said):
    values = values.astype(np.uint8) if values.dtype == bool else values
    write(tmp_path / "a.nii", values, **more)
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


@pytest.mark.parametrize(
    ("place", "content", "said"),
    [
        (344, b"\0\0\0\0", "Analyze"),
        (280, np.array([np.nan] * 4, "<f4").tobytes(), "finite|voxel sizes"),
        (280, np.array([-1.4, 0, 0, 0], "<f4").tobytes(), "its sform and its qform"),
        (252, np.array([0], "<i2").tobytes(), "8.0 degrees off right angles"),
        (70, np.array([999], "<i2").tobytes(), "damaged"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, place, content, said):
    path = write(tmp_path / "a.nii")
    whole = bytearray(path.read_bytes())
    if place == 252:  # no qform, and a sheared sform
        angle = np.radians(8)
        row = -0.8 * np.array([0, np.cos(angle), 0, 0]) + [0, 0, 0, 1]
        whole[296:312] = row.astype("<f4").tobytes()
        row = [0, -0.8 * np.sin(angle), 2.5, 1]
        whole[312:328] = np.array(row, "<f4").tobytes()
    whole[place : place + len(content)] = content
    path.write_bytes(whole)
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


@pytest.mark.parametrize(
    ("sform", "qform", "fields"),
    [
        (1, 1, {"pixdim": (0, 0)}),
        (0, 1, {"pixdim": (0, 0)}),
        (1, 1, {"pixdim": (1, -0.7)}),
        (0, 1, {"pixdim": (3, -2.5)}),
        (0, 0, {"pixdim": (2, -0.8)}),
        (1, 0, {"pixdim": (1, 0)}),
        (1, 1, {"scl_slope": (None, 0)}),
        (1, 1, {"scl_slope": (None, np.nan)}),
    ],
)
def test_header_fields_that_nibabel_corrects(tmp_path, caplog, sform, qform, fields):
    """nifti1.h: pixdim[0] of 0 is 1; the voxel sizes are positive; a slope of 0 scales nothing."""
    path = write(tmp_path / "a.nii", lps=affine(axes=rotation(0.2, 0.1, -0.3)))
    edit(path, sform, qform, fields)
    volume, peer = read(tmp_path), nibabel.load(path)
    np.testing.assert_array_equal(volume.hu, np.asarray(peer.dataobj).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-5)
    if sform or qform:
        np.testing.assert_allclose(volume.affine, LPS @ peer.affine, atol=1e-4)


@pytest.mark.parametrize("mirrored", [0, 1, 2])
def test_a_sform_tells_the_sign_that_qfac_lost(tmp_path, mirrored):
    axes = rotation(0.2, 0.1, -0.3)
    axes[:, mirrored] *= -1
    path = write(tmp_path / "a.nii", lps=affine(axes=axes))
    edit(path, 1, 1, {"pixdim": (0, 0)})
    volume, peer = read(tmp_path), nibabel.load(path)
    assert np.linalg.det(peer.affine) < 0 and not volume.notes
    np.testing.assert_allclose(volume.affine, LPS @ peer.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("sform", "qform", "fields", "said"),
    [
        (0, 1, {"pixdim": (1, 0)}, "no voxel size"),
        (0, 0, {"pixdim": (2, np.nan)}, "no voxel size"),
        (0, 1, {"pixdim": (0, 3)}, "no directions"),
        (0, 1, {"quatern_b": (None, 2)}, "no directions"),
        (1, 0, {"pixdim": (1, 1)}, "its sform and its pixdim"),
        (1, 1, {"quatern_d": (None, 0)}, "different directions"),
        (1, 1, {"pixdim": (0, -1)}, "different directions"),
        (1, 1, {"xyzt_units": (None, 4)}, "no unit of length"),
        (1, 1, {"scl_slope": (None, 0), "scl_inter": (None, -1024)}, "scl_inter"),
    ],
)
def test_header_fields_that_leave_a_choice(tmp_path, sform, qform, fields, said):
    path = write(tmp_path / "a.nii")
    edit(path, sform, qform, fields)
    with pytest.raises(Unusable, match=said):
        read(tmp_path)


def test_two_forms_that_differ_are_named(tmp_path):
    path = write(tmp_path / "a.nii")
    for field, said in (("qoffset_x", "differ"), ("quatern_b", "makes no sense")):
        header = nibabel.load(path).header
        header[field] += 4
        (tmp_path / field).mkdir()
        other = tmp_path / field / "a.nii"
        other.write_bytes(header.binaryblock + path.read_bytes()[348:])
        volume = read(tmp_path / field)
        np.testing.assert_allclose(volume.affine, affine(), atol=1e-4)
        assert said in volume.notes[0]


def test_subjects_table(tmp_path):
    for name in ("p1_before.nii.gz", "p1_after.nii.gz", "p2.nii.gz"):
        write(tmp_path / "images" / name)
    (tmp_path / "subjects.csv").write_text(
        "case,subject\np1_before,one\nimages/p1_after.nii.gz,one\n"
    )
    sources = _volumes.find(tmp_path)
    assert [source.subject for source in sources] == ["one", "one", "images/p2.nii.gz"]
    assert sources[0].parts == ("image", "subjects")
    (tmp_path / "subjects.csv").write_text("case\np2\n")
    with pytest.raises(UserError, match="lacks the columns subject"):
        _volumes.find(tmp_path)
    (tmp_path / "subjects.csv").write_text("case,subject\np2,\n")
    with pytest.raises(UserError, match="case without a subject"):
        _volumes.find(tmp_path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.3, 0.95])
def test_files_cut_off(tmp_path, name, keep):
    path = write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(Unusable):
        read(tmp_path)


def test_damaged_bytes_never_crash(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    plain, packed = gzip.decompress(path.read_bytes()), path.read_bytes()
    generator = np.random.default_rng(0)
    for turn in range(120):
        content = np.frombuffer(plain if turn % 2 else packed, np.uint8).copy()
        places = generator.integers(0, 352 if turn % 2 else len(content), 4)
        content[places] = generator.integers(0, 256, 4)
        content = content.tobytes()
        path.write_bytes(gzip.compress(content) if turn % 2 else content)
        try:
            read(tmp_path)
        except Unusable as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_header_that_asks_for_too_much_takes_no_memory(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    for sides, said in (((30000, 30000, 30000), "its size"), ((4000, 4000, 60), "cut off: 0 of")):
        content[42:48] = np.array(sides, "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(content)))
        with pytest.raises(Unusable, match=said):
            read(tmp_path)


def test_memory_is_bounded(tmp_path):
    hu = chest((60, 128, 128))
    write(tmp_path / "a.nii.gz", hu.astype(np.float64), slope=(1.0, 0.5))
    (source,) = _volumes.find(tmp_path)
    volume, most = peak(lambda: _volumes.read(source))
    assert most < 2 * volume.hu.nbytes


def test_links_out_of_the_folder_are_not_read(tmp_path):
    outside = write(tmp_path / "outside" / "b.nii")
    write(tmp_path / "raw" / "a.nii")
    os.symlink(outside, tmp_path / "raw" / "b.nii")
    (source,) = _volumes.find(tmp_path / "raw")
    assert source.name == "a.nii"


@pytest.mark.parametrize("slope", [1e19, -3e25, 2.0**40])
def test_slopes_beyond_any_whole_number_are_refused(tmp_path, slope):
    image = nibabel.Nifti1Image(chest((4, 8, 8)).T, np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(1, 0)
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:116] = np.float32(slope).tobytes()  # scl_slope
    (tmp_path / "a.nii").write_bytes(content)
    (source,) = _volumes.find(tmp_path)
    with pytest.raises(Unusable, match="not Hounsfield units"):
        _volumes.read(source)
