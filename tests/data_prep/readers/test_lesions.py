import nibabel
import numpy as np
import pytest
import scipy.ndimage

from data_prep.readers import _grids, _lesions, _volumes
from data_prep.readers._images import Unusable
from data_prep.readers._volumes import Options, Volume
from tests.data_prep.readers import test_metaimage, test_nifti, test_nrrd_ct
from tests.data_prep.readers.synthetic_ct import (
    SHAPE,
    SPACING,
    affine,
    chest,
    peak,
    rotation,
    series,
)


def marked():
    """Three lesions of one value, two of which touch at a corner only of the third's box."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2:5, 3:6] = 1
    mask[3, 5, 6] = 1  # touches by a corner
    mask[5, 9:11, 1] = 1
    mask[5:, 0, 8:] = 1
    return mask


def lesions(root, options=None, name=None):
    sources = _volumes.find(root, options)
    (source,) = (source for source in sources if name in (None, source.name))
    return _lesions.read(source, _volumes.read(source))


def test_fumpe_layout_and_components(tmp_path):
    test_nifti.write(tmp_path / "imagesTr" / "PAT001.nii.gz")
    test_nifti.write(tmp_path / "labelsTr" / "PAT001.nii.gz", marked())
    test_nifti.write(tmp_path / "imagesTs" / "PAT002.nii.gz")
    test_nifti.write(tmp_path / "labelsTr" / "PAT003.nii.gz", marked())  # without its CT
    assert len(_volumes.find(tmp_path)) == 2
    found = lesions(tmp_path, name="imagesTr/PAT001.nii.gz")
    expected, count = scipy.ndimage.label(marked(), np.ones((3, 3, 3)))
    assert found.count == count == 3
    np.testing.assert_array_equal(found.labels, expected)
    assert found.labels.dtype == np.int16 and found.notes == () and len(found.points) == 0
    assert lesions(tmp_path, name="imagesTs/PAT002.nii.gz") is None
    assert lesions(tmp_path, Options(lesions="values"), "imagesTr/PAT001.nii.gz").count == 1


def test_cad_pe_layout_and_values(tmp_path):
    numbered = scipy.ndimage.label(marked())[0].astype(np.int16)
    assert numbered.max() == 4  # the corner counts for itself here: the file decides
    test_nrrd_ct.write(tmp_path / "images" / "001.nrrd")
    test_nrrd_ct.write(tmp_path / "rs" / "001RefStd.nrrd", numbered * 7)
    test_nrrd_ct.write(tmp_path / "images" / "002.nrrd")
    test_nrrd_ct.write(tmp_path / "rs" / "002RefStd.nrrd", marked())
    test_nrrd_ct.write(tmp_path / "images" / "003.nrrd")
    test_nrrd_ct.write(tmp_path / "rs" / "003RefStd.nrrd", marked() * np.uint8(0))
    found = lesions(tmp_path, name="images/001.nrrd")
    assert found.count == 4
    np.testing.assert_array_equal(found.labels, numbered)
    assert lesions(tmp_path, name="images/002.nrrd").count == 1
    assert lesions(tmp_path, name="images/003.nrrd").count == 0
    joined = lesions(tmp_path, Options(lesions="components"), "images/001.nrrd")
    assert joined.count == 3


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.nii.gz", "a_label.nii.gz"),
        ("a_ct.mha", "a-seg.nrrd"),
        ("a_0000.nii", "labels/a.nii.gz"),
        ("images/a.mha", "masks/a.mha"),
        ("images/a.mha", "masks/a_mask.nii"),
        ("a/ct.nii.gz", "a/mask.nii.gz"),
        ("a.nrrd", "A.seg.nrrd"),
    ],
)
def test_names_of_label_volumes(tmp_path, image, label):
    writers = {"nii": test_nifti, "gz": test_nifti, "mha": test_metaimage, "nrrd": test_nrrd_ct}
    writers[image.rpartition(".")[2]].write(tmp_path / image)
    values = marked() if label.endswith("rrd") or "nii" in label else marked().astype(np.int16)
    writers[label.rpartition(".")[2]].write(tmp_path / label, values)
    assert lesions(tmp_path).count == 3


@pytest.mark.parametrize(
    "label", ["case_label.nii.gz", "case/emboli.nii.gz", "case/x_mask.nii.gz", "labels/case.nii.gz"]
)
def test_labels_of_a_dicom_series(tmp_path, label):
    series(tmp_path / "case")
    test_nifti.write(tmp_path / label, marked())
    (source,) = _volumes.find(tmp_path)
    assert source.parts[-1] == "labels" and len(source.paths("image")) == SHAPE[0]
    np.testing.assert_array_equal(
        _volumes.read_lesions(source, _volumes.read(source)).labels > 0, marked() > 0
    )


@pytest.mark.parametrize("kind", ["label", "points"])
@pytest.mark.parametrize("others", [("p1",), ("p1", "p3")])
def test_another_patients_reference_standard_of_the_same_name(tmp_path, kind, others):
    for name in (*others, "p2"):
        test_nifti.write(tmp_path / name / "ct.nii.gz")
        series(tmp_path / name / "cta", PatientID=name)
    test_nifti.write(tmp_path / "cta.nii.gz")
    for name in others:
        for case in ("ct", "cta"):
            if kind == "label":
                test_nifti.write(tmp_path / name / f"{case}_label.nii.gz", marked())
            else:
                (tmp_path / name / f"{case}_points.csv").write_text("x,y,z\n1,2,3\n")
    for source in _volumes.find(tmp_path):
        own = (*source.paths("labels"), *source.paths("points"))
        place = source.name.partition("/")[0]
        assert source.problem == ""
        assert [path.relative_to(tmp_path).parts[0] for path in own] == (
            [place] if place in others else []
        )


def test_a_nameless_label_volume_belongs_to_the_one_series_of_its_folder(tmp_path):
    test_nifti.write(tmp_path / "label.nii.gz", marked())
    series(tmp_path / "a", PatientID="a")
    (source,) = _volumes.find(tmp_path)
    assert source.paths("labels") == (tmp_path / "label.nii.gz",)
    series(tmp_path / "b", PatientID="b", SeriesInstanceUID="1.2.3.5")
    assert [source.paths("labels") for source in _volumes.find(tmp_path)] == [(), ()]


def test_a_nameless_label_volume_between_volumes_of_two_formats(tmp_path):
    test_nifti.write(tmp_path / "label.nii.gz", marked())
    test_nifti.write(tmp_path / "a.nii.gz")
    test_nrrd_ct.write(tmp_path / "b.nrrd")
    assert [source.paths("labels") for source in _volumes.find(tmp_path)] == [(), ()]


@pytest.mark.parametrize("label", ["label.nii.gz", "x_mask.nii.gz"])
def test_label_volumes_in_a_folder_of_two_series(tmp_path, label):
    for path in series(tmp_path / "both", PatientID="a"):
        path.rename(path.with_name(f"a{path.name}"))
    test_nifti.write(tmp_path / "both" / label, marked())
    (source,) = _volumes.find(tmp_path)
    assert source.paths("labels") == (tmp_path / "both" / label,)
    series(tmp_path / "both", PatientID="b", SeriesInstanceUID="1.2.3.5")
    for source in _volumes.find(tmp_path):
        assert source.paths("labels") == () and "several series lie" in source.problem


@pytest.mark.parametrize("suffix", ["mhd", "nhdr", "hdr"])
def test_files_of_voxels_count_as_the_sources_own(tmp_path, suffix):
    """Of images and of labels, whatever their names: a change of any is a change of the input."""
    if suffix == "hdr":
        test_nifti.write(tmp_path / "a.hdr", kind=nibabel.Nifti1Pair)
        test_nifti.write(tmp_path / "labels" / "a.hdr", marked(), kind=nibabel.Nifti1Pair)
        data = ["a.img", "labels/a.img"]
    elif suffix == "mhd":
        test_metaimage.write(tmp_path / "a.mhd", data="other.raw")
        (tmp_path / "a.raw").rename(tmp_path / "other.raw")
        values = marked().astype(np.int16)
        test_metaimage.write(tmp_path / "labels" / "a.mhd", values, data="b.raw")
        (tmp_path / "labels" / "a.raw").rename(tmp_path / "labels" / "b.raw")
        data = ["other.raw", "labels/b.raw"]
    else:
        test_nrrd_ct.write(tmp_path / "a.nhdr", encoding="raw")
        test_nrrd_ct.write(tmp_path / "labels" / "a.nhdr", marked(), encoding="raw")
        for folder in (tmp_path, tmp_path / "labels"):
            head = (folder / "a.nhdr").read_bytes()
            (folder / "a.nhdr").write_bytes(head.replace(b"a.raw", b"b.raw"))
            (folder / "a.raw").rename(folder / "b.raw")
        data = ["b.raw", "labels/b.raw"]
    (source,) = _volumes.find(tmp_path)
    assert set(source.files) == {
        tmp_path / name for name in (f"a.{suffix}", f"labels/a.{suffix}", *data)
    }
    assert set(source.paths("data")) == {tmp_path / name for name in data}
    assert lesions(tmp_path).count == 3


def test_several_label_volumes_are_refused(tmp_path):
    test_nifti.write(tmp_path / "a.nii.gz")
    for name in ("a_mask.nii.gz", "a_label.nii.gz"):
        test_nifti.write(tmp_path / name, marked())
    with pytest.raises(Unusable, match="more than one reference standard"):
        lesions(tmp_path)


def test_a_label_volume_goes_before_lists_of_points(tmp_path):
    test_nifti.write(tmp_path / "a.nii.gz")
    test_nifti.write(tmp_path / "a_label.nii.gz", marked())
    for name in ("a_points.csv", "a points.csv"):
        (tmp_path / name).write_text("x,y,z\n1,2,3\n")
    assert lesions(tmp_path).count == 3
    (tmp_path / "a_label.nii.gz").unlink()
    (source,) = _volumes.find(tmp_path)
    assert {path.name for path in source.files} == {"a.nii.gz", "a_points.csv", "a points.csv"}
    assert "a_points.csv" in source.problem and "a points.csv" in source.problem


def reference_regrid(labels, label_affine, volume):
    """Voxel by voxel: the label of the nearest label voxel."""
    out = np.zeros(volume.hu.shape, np.int16)
    inverse = np.linalg.inv(label_affine)
    for z, y, x in np.ndindex(*out.shape):
        place = inverse @ volume.affine @ [x, y, z, 1]
        i, j, k = np.rint(place[:3]).astype(int)
        if 0 <= i < labels.shape[2] and 0 <= j < labels.shape[1] and 0 <= k < labels.shape[0]:
            out[z, y, x] = labels[k, j, i]
    return out


@pytest.mark.parametrize("seed", range(8))
def test_grids_that_are_cut_extended_turned_or_mirrored(seed):
    generator = np.random.default_rng(seed)
    grid = affine(axes=rotation(*generator.uniform(-3, 3, 3)))
    volume = Volume(chest(), np.array([1.0, 1, 1]), grid)
    shape = generator.integers(5, 14, 3)
    labels = generator.integers(0, 4, shape).astype(np.int16)
    onto = np.eye(4)
    onto[:3, :3] = np.eye(3)[generator.permutation(3)] * generator.choice([-1, 1], 3)
    middle = (np.array(SHAPE[::-1]) - 1) // 2
    inner = onto[:3, :3] @ ((shape[::-1] - 1) // 2)
    onto[:3, 3] = middle - inner + generator.integers(-2, 3, 3) + generator.uniform(-0.3, 0.3, 3)
    found, notes = _lesions.regrid(labels, grid @ onto, volume)
    expected = reference_regrid(labels, grid @ onto, volume)
    np.testing.assert_array_equal(found, expected)
    assert any("cut or extended" in note for note in notes)
    assert any("to the nearest" in note for note in notes)
    lost = np.count_nonzero(labels) - np.count_nonzero(expected)
    assert any(note.startswith(f"{lost} of") for note in notes) == (lost > 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.diag([1.01, 1, 1, 1]) * 1.2, "another grid"),
        (np.diag([2.0, 1, 1, 1]), "another grid"),
        (np.block([[rotation(0, 0, 0.2), np.zeros((3, 1))], [0, 0, 0, 1]]), "another grid"),
        (np.array([[1.0, 0, 0, 400], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "all labels lie"),
    ],
)
def test_other_grids_are_refused(change, said):
    volume = Volume(chest(), np.ones(3), affine())
    with pytest.raises(Unusable, match=said):
        _lesions.regrid(marked().astype(np.int16), affine() @ change, volume)


def test_real_labels_on_a_larger_grid(real_data):
    folder = real_data / "ct" / "contrast_ct_pulmonary_artery"
    (source,) = (s for s in _volumes.find(folder) if s.name == "ct_cropped.nii.gz")
    volume = _volumes.read(source)
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the peer, is not installed")
    peer = sitk.Resample(
        sitk.ReadImage(str(folder / "heart.nii.gz")),
        sitk.ReadImage(str(folder / "ct_cropped.nii.gz")),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    grid = _volumes.open_grid(folder / "heart.nii.gz", folder)
    found, notes = _lesions.regrid(_grids.labels(grid), grid.affine, volume)
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(peer))
    assert notes[0] == "labels cut or extended to the extent of the CT"


def test_real_emboli(real_data, tmp_path):
    path = real_data / "ct" / "fumpe_embolus_masks" / "PAT012.nii.gz"
    mask = nibabel.load(path)
    grid = _volumes.open_grid(path, path.parent)
    hu = np.full(grid.shape, -800, np.int16)
    source = _volumes.Source("a", (path,), ("labels",), "nifti", path.parent, "a")
    volume = Volume(hu, np.linalg.norm(grid.affine[:3, :3], axis=0)[::-1], grid.affine)
    found, most = peak(lambda: _lesions.read(source, volume))
    assert most + hu.nbytes < 4 * hu.nbytes
    whole = mask.dataobj[...].T
    rows = slice(*(np.flatnonzero(whole.any(axis=(0, 2)))[[0, -1]] + (0, 1)))
    expected, count = scipy.ndimage.label(whole[:, rows], np.ones((3, 3, 3)))
    assert found.count == count
    np.testing.assert_array_equal(found.labels[:, rows], expected)
    assert np.count_nonzero(found.labels) == np.count_nonzero(whole)


def test_labels_without_a_position_are_laid_over_the_volume(tmp_path):
    test_nifti.write(tmp_path / "a.nii.gz")
    test_nifti.write(tmp_path / "a_label.nii.gz", marked(), code=0)
    found = lesions(tmp_path)
    np.testing.assert_array_equal(found.labels > 0, marked() > 0)
    assert "voxel by voxel" in found.notes[0]
    test_nifti.write(tmp_path / "a_label.nii.gz", marked()[1:], code=0)
    with pytest.raises(Unusable, match="has 10 x 12 x 6 voxels, the CT 10 x 12 x 7"):
        lesions(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (marked() * np.float32(0.5), "no whole numbers"),
        (-marked().astype(np.int16), "outside 0 to 32767"),
        (np.where(marked(), np.nan, 0), "outside 0 to 32767"),
        (marked() * np.int32(40000), "outside 0 to 32767"),
    ],
)
def test_values_that_are_no_labels(tmp_path, values, said):
    test_nifti.write(tmp_path / "a.nii.gz")
    test_nifti.write(tmp_path / "a_label.nii.gz", values)
    with pytest.raises(Unusable, match=said):
        lesions(tmp_path)


def test_points_as_voxels_or_millimetres(tmp_path):
    path = tmp_path / "images" / "a.nii.gz"
    test_nifti.write(path)
    table = tmp_path / "points" / "a.csv"
    table.parent.mkdir()
    table.write_text("lesion;x;y;z\nleft;1;2;3\nleft;2;2;3\nright;9;11;6\n")
    found = lesions(tmp_path)
    assert found.count == 2 and found.labels is None
    np.testing.assert_array_equal(found.numbers, [1, 1, 2])
    expected = np.array([affine() @ [*place, 1] for place in ((1, 2, 3), (2, 2, 3), (9, 11, 6))])
    np.testing.assert_allclose(found.points, expected[:, :3], atol=1e-4)
    rows = "\n".join(",".join(map(str, place)) for place in expected[:, :3])
    table.write_text(f"x_mm,y_mm,z_mm\n{rows}\n")
    found = lesions(tmp_path)
    assert found.count == 3
    np.testing.assert_allclose(found.points, expected[:, :3])
    for content, said in (
        ("x,y,z\n1,2,7\n", "1 of 1 points lie outside the CT"),
        ("x,y\n1,2\n", "needs the columns"),
        ("x,y,z\n1,two,3\n", "needs the columns"),
        ("x,y,z\n1,nan,3\n", "row 2 of its table is no number"),
    ):
        table.write_text(content)
        with pytest.raises(Unusable, match=said):
            lesions(tmp_path)


def test_points_in_millimetres_of_a_volume_without_a_position(tmp_path):
    test_nifti.write(tmp_path / "a.nii.gz", code=0)
    table = tmp_path / "a_points.csv"
    table.write_text("x_mm,y_mm,z_mm\n1,2,5\n")
    with pytest.raises(Unusable, match="list voxels, in columns x, y, z"):
        lesions(tmp_path)
    table.write_text("x_mm,y_mm,z_mm\n,,\n")
    assert lesions(tmp_path).count == 0
    table.write_text("x,y,z\n1,2,5\n")
    expected = np.array([[1, 2, 5]]) * SPACING[::-1]
    np.testing.assert_allclose(lesions(tmp_path).points, expected, rtol=1e-5)


def test_one_table_of_points_for_all(tmp_path):
    for name in ("a", "b", "c"):
        test_nifti.write(tmp_path / f"{name}.nii.gz")
    (tmp_path / "points.csv").write_text("case,x,y,z\na,1,2,3\nA.nii.gz,2,3,4\nb,,,\n")
    assert lesions(tmp_path, name="a.nii.gz").count == 2
    assert lesions(tmp_path, name="b.nii.gz").count == 0
    assert lesions(tmp_path, name="c.nii.gz") is None
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    with pytest.raises(Unusable, match="and the column case"):
        lesions(tmp_path, name="a.nii.gz")
