import gzip
import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage, stats

from data_prep import clot_shapes, implant, volume_files
from data_prep.errors import UserError
from data_prep.readers import _volumes

SIDE, LEVEL, AROUND, NOISE, BLUR = 1.2, 400.0, 40.0, 18.0, 1.0
AXIS = np.array([0.35, 0.25, 0.9]) / np.linalg.norm([0.35, 0.25, 0.9])
RADIUS = 9.0


def tube(blur=BLUR, noise=NOISE, level=LEVEL, side=SIDE):
    """HU, mask and affine of a slanting artery between soft tissue and lung."""
    shape = (50, 44, 46)
    axes = [(np.arange(n) - (n - 1) / 2) * side for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    along = x * AXIS[0] + y * AXIS[1] + z * AXIS[2]
    away = np.sqrt(np.maximum(x**2 + y**2 + z**2 - along**2, 0))
    tissue = np.where(y > 15, -850.0, AROUND)
    tissue[away <= RADIUS] = level
    hu = ndimage.gaussian_filter(tissue, blur / side)
    hu += noise * np.random.default_rng(0).standard_normal(shape)
    affine = np.diag([side, side, side, 1.0])
    affine[:3, 3] = (-20.0, 35.0, -400.0)
    return np.rint(hu).astype(np.int16), away <= RADIUS, affine


def bar(length, radius, spacing, shape=(60, 60, 60)):
    """Mask bool (Z, Y, X) of a round bar along y, spacing in the order z, y, x."""
    axes = [(np.arange(n) - n / 2) * s for n, s in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (np.abs(y) < length / 2) & (np.hypot(x, z) < radius)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Flags for a CT, its arteries, and two masks that hold three emboli and a speck."""
    folder = tmp_path_factory.mktemp("given").resolve()
    hu, arteries, affine = tube()
    volume_files.write_nifti(folder / "ct.nii.gz", hu, affine)
    volume_files.write_nifti(folder / "arteries.nii.gz", arteries.astype(np.uint8), affine)
    (folder / "emboli").mkdir()
    spacing = (1.0, 0.6, 0.6)
    grid = np.diag([-0.6, -0.6, 1.0, 1.0])  # mirrored axes, as FUMPE has them
    first = bar(24, 2.5, spacing)
    first[2:8, 2:10, 2:10] = True
    first[50, 55, 55] = True
    volume_files.write_nifti(folder / "emboli" / "SECRET1.nii.gz", first.astype(np.uint8), grid)
    second = bar(9, 4.0, spacing)
    volume_files.write_nrrd(folder / "emboli" / "SECRET2.nrrd", second.astype(np.uint8), grid)
    return folder


@pytest.fixture(scope="module")
def scan(files):
    return implant.read_scan(files / "ct.nii.gz", files / "arteries.nii.gz")


@pytest.fixture(scope="module")
def shapes(files):
    return clot_shapes.read_shapes(files / "emboli")[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory, scan, shapes):
    folder = tmp_path_factory.mktemp("made").resolve()
    return folder, implant.generate(scan, shapes, folder, 3, 2, seed=4, dropped=1)


@pytest.fixture
def plain(monkeypatch):
    """No variation but mirroring."""
    monkeypatch.setattr(implant, "ENHANCEMENT", (1.0, 1.0))
    monkeypatch.setattr(implant, "EXTRA_NOISE", 0.0)


def test_shapes_are_the_connected_parts(files, shapes):
    kept, dropped = clot_shapes.read_shapes(files / "emboli")
    assert [(shape.source, shape.component) for shape in kept] == [(1, 1), (1, 2), (2, 1)]
    assert [shape.volume_mm3 for shape in dropped] == pytest.approx([0.36])
    assert kept[0].volume_mm3 == pytest.approx(6 * 8 * 8 * 0.36)
    assert kept[1].volume_mm3 == pytest.approx(np.pi * 2.5**2 * 24, rel=0.05)
    for shape in kept:
        np.testing.assert_allclose(shape.points().mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("blur", [0.7, 1.1, 1.6])
def test_blur_and_noise_are_measured(blur):
    hu, arteries, _ = tube(blur)
    found = implant.estimate_blur(hu, arteries, np.full(3, SIDE))
    assert found == pytest.approx(blur, rel=0.25)
    assert implant.estimate_noise(hu, arteries) == pytest.approx(NOISE, rel=0.15)


def test_occupancy_keeps_volume_centre_and_shape(shapes):
    """Against the shape's own voxels, moved and turned."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    affine = np.diag([1.2, 1.2, 1.5, 1.0])
    centre = np.array([31.3, 30.2, 36.7])
    for shape in shapes:
        place = clot_shapes.Place(centre, turn, False, 1.0)
        box, share = clot_shapes.occupancy(shape, place, (50, 50, 50), affine)
        whole = np.zeros((50, 50, 50), np.float32)
        whole[box] = share
        assert whole.sum() * 1.2 * 1.2 * 1.5 == pytest.approx(shape.volume_mm3, rel=0.02)
        z, y, x = np.indices(whole.shape)
        mm = np.stack([x * 1.2, y * 1.2, z * 1.5], -1).reshape(-1, 3)
        weight = whole.ravel()
        mean = (mm * weight[:, None]).sum(0) / weight.sum()
        np.testing.assert_allclose(mean, centre, atol=0.05)
        expected = np.cov(shape.points() @ turn.T, rowvar=False)
        found = np.cov(mm, rowvar=False, aweights=weight)
        np.testing.assert_allclose(found, expected, atol=0.6)


def test_occupancy_is_cut_at_the_volumes_border(shapes):
    place = clot_shapes.Place(np.zeros(3), np.eye(3), False, 1.0)
    box, share = clot_shapes.occupancy(shapes[0], place, (20, 20, 20), np.eye(4))
    assert all(part.start == 0 for part in box) and 0 < share.sum() < shapes[0].volume_mm3
    place = clot_shapes.Place(np.full(3, 1e4), np.eye(3), False, 1.0)
    assert clot_shapes.occupancy(shapes[0], place, (20, 20, 20), np.eye(4))[1].size == 0


def test_turns_are_rotations_that_follow_the_artery(scan, shapes):
    lumen = ndimage.distance_transform_edt(scan.arteries, sampling=scan.spacing)
    free = scan.arteries & implant._inner(scan.arteries.shape)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        place = clot_shapes.find_place(shapes[1], lumen, free, scan.affine, rng)
        np.testing.assert_allclose(place.turn @ place.turn.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(place.turn) == pytest.approx(1)
        assert place.along and place.share > 0.8
        assert abs(place.turn @ [0, 1, 0] @ AXIS) > np.cos(np.radians(20))


def test_output_is_read_back(made):
    folder, report = made
    sources = _volumes.find(folder)
    assert [source.facts["stem"] for source in sources] == [
        f"IMPLANTED_{number:03d}" for number in range(3)
    ]
    hu, arteries, affine = tube()
    for source, record in zip(sources, report["patients"], strict=True):
        volume = _volumes.read(source)
        lesions = _volumes.read_lesions(source, volume)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
        assert volume.notes == lesions.notes == ()
        assert lesions.count == len(record["emboli"]) == 2
        inside = arteries[..., ::-1] if record["mirrored"] else arteries
        assert not (lesions.labels[~inside] > 0).any()
        for embolus in record["emboli"]:
            region = lesions.labels == embolus["label"]
            assert ndimage.label(region, np.ones((3, 3, 3)))[1] == 1
            found = region.sum() * SIDE**3
            assert embolus["volume_after_mm3"] == pytest.approx(found, abs=0.06)
            assert found <= 1.3 * embolus["volume_before_mm3"]
        grown = ndimage.binary_dilation(lesions.labels == 1, np.ones((3, 3, 3)), implant.APART)
        assert not (grown & (lesions.labels == 2)).any()


def test_same_seed_same_bytes(made, scan, shapes, tmp_path):
    folder, _ = made
    implant.generate(scan, shapes, tmp_path, 3, 2, seed=4, dropped=1)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()
    bytes_of = {path.read_bytes() for path in (folder / "imagesTr").iterdir()}
    assert len(bytes_of) == 3


def test_everything_says_that_it_is_implanted_and_nothing_whose_it_was(made):
    folder, report = made
    assert "IMPLANTED" in (folder / "IMPLANTED.txt").read_text()
    stored = json.loads((folder / "implanted.json").read_text())
    assert stored == report and stored["implanted"] is True
    assert stored["shapes"] == 3 and stored["shapes_too_small"] == 1
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".gz":
            assert path.name.startswith("IMPLANTED")
            content = gzip.decompress(content)
        assert b"SECRET" not in content and str(folder).encode() not in content


def test_every_embolus_is_used_before_one_comes_again(made):
    _, report = made
    used = [
        (embolus["source"], embolus["component"])
        for case in report["patients"]
        for embolus in case["emboli"] + case["without_room"]
    ]
    assert len(used) == 6 and all(used.count(each) == 2 for each in used)


def test_clot_replaces_blood_and_keeps_the_noise(plain, scan, shapes):
    hu, _, _ = tube()
    case = implant.implant(scan, [shapes[2]], np.random.default_rng(2))
    given = hu[..., ::-1] if case.record["mirrored"] else hu
    level = case.record["emboli"][0]["clot_hu"]
    deep = ndimage.distance_transform_edt(case.labels > 0) * SIDE > 2.6
    assert deep.sum() > 10
    assert case.hu[deep].mean() == pytest.approx(level, abs=25)
    change = case.hu[deep].astype(float) - given[deep]
    correlation = stats.pearsonr(case.hu[deep], given[deep]).statistic
    assert correlation > 0.8 and change.std() < 0.6 * NOISE
    far = ndimage.distance_transform_edt(case.labels == 0) * SIDE > 5
    np.testing.assert_array_equal(case.hu[far], given[far])


def test_the_missing_blood_is_the_clots_volume(plain, scan, shapes):
    """Blur moves blood but loses none: partial volumes at the border add up."""
    hu, _, _ = tube()
    for seed in range(3):
        case = implant.implant(scan, [shapes[2]], np.random.default_rng(seed))
        given = hu[..., ::-1] if case.record["mirrored"] else hu
        facts = case.record["emboli"][0]
        missing = (given.astype(float) - case.hu).sum() * SIDE**3 / (LEVEL - facts["clot_hu"])
        assert missing == pytest.approx(facts["volume_after_mm3"], rel=0.15)
        edge = ndimage.binary_dilation(case.labels > 0) & (case.labels == 0)
        inside = ndimage.binary_erosion(case.labels > 0, np.ones((3, 3, 3)))
        assert case.hu[inside].mean() + 40 < case.hu[edge].mean() < LEVEL - 40


def test_variation_is_what_the_record_says(scan, shapes):
    hu, _, _ = tube()
    mirrors = set()
    for seed in range(6):
        case = implant.implant(scan, [shapes[0]], np.random.default_rng(seed))
        record = case.record
        mirrors.add(record["mirrored"])
        given = (hu[..., ::-1] if record["mirrored"] else hu).astype(float)
        far = ndimage.distance_transform_edt(case.labels == 0) * SIDE > 5
        bright = far & (given > 300)
        expected = 100 + record["enhancement"] * (given[bright] - 100)
        assert case.hu[bright].mean() == pytest.approx(expected.mean(), abs=1)
        added = (case.hu - given)[far & (given < 90)].std()
        assert added == pytest.approx(record["added_noise_hu"], rel=0.1, abs=0.5)
    assert mirrors == {False, True}


def test_a_shape_wider_than_the_artery_is_cut(scan):
    big = np.pad(np.ones((40, 40, 40), bool), 1)
    shape = clot_shapes.Shape(1, 1, big, np.eye(3), np.full(3, 20.5))
    case = implant.implant(scan, [shape], np.random.default_rng(0))
    facts = case.record["emboli"][0]
    assert 1000 < facts["volume_after_mm3"] < 0.5 * facts["volume_before_mm3"]
    again = implant.implant(scan, [shape] * 3, np.random.default_rng(0)).record
    assert len(again["emboli"]) + len(again["without_room"]) == 3


def test_errors_say_how_to_mend_them(files, scan, shapes, tmp_path):
    hu, arteries, affine = tube()
    ct, mask = files / "ct.nii.gz", files / "arteries.nii.gz"

    def written(name, voxels, grid=affine):
        volume_files.write_nifti(tmp_path / name, voxels, grid)
        return tmp_path / name

    moved = affine.copy()
    moved[:3, :3] *= 1.1
    empty, other = np.zeros_like(arteries, np.uint8), arteries.astype(np.uint8)
    for message, action in (
        ("is not a file", lambda: implant.read_scan(tmp_path / "no.nii", mask)),
        ("marks nothing", lambda: implant.read_scan(ct, written("empty.nii.gz", empty))),
        ("another grid", lambda: implant.read_scan(ct, written("moved.nii.gz", other, moved))),
        ("no contrast", lambda: implant.read_scan(written("n.nii.gz", tube(level=60)[0]), mask)),
        ("not Hounsfield", lambda: implant.read_scan(mask, mask)),
        ("is not a folder", lambda: clot_shapes.read_shapes(tmp_path / "absent")),
        ("holds values outside", lambda: clot_shapes.read_shapes(_only(tmp_path / "hu", ct))),
        ("none of its 1", lambda: clot_shapes.read_shapes(_speck(tmp_path / "speck"))),
        ("only 3 emboli", lambda: implant.generate(scan, shapes, tmp_path / "o", 1, 9)),
    ):
        with pytest.raises(UserError, match=message) as error:
            action()
        assert "\n" not in str(error.value)


def _only(folder, path):
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _speck(folder):
    folder.mkdir()
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2, 2, 2] = 1
    volume_files.write_nifti(folder / "a.nii.gz", mask, np.eye(4))
    return folder


def test_volume_files_are_read_by_others(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    voxels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) - 5
    affine = np.array([[0, 0.5, 0, 1], [0.75, 0, 0, 2], [0, 0, -1.5, 3], [0, 0, 0, 1.0]])
    volume_files.write_nifti(tmp_path / "a.nii.gz", voxels, affine)
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), voxels.T)
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ affine)
    volume_files.write_nrrd(tmp_path / "a.nrrd", voxels, affine)
    data, header = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(data, voxels.T)
    np.testing.assert_allclose(header["space directions"], affine[:3, :3].T)
    np.testing.assert_allclose(header["space origin"], affine[:3, 3])


def test_real_emboli_fit_a_real_artery(real_data, tmp_path):
    folder = real_data / "ct" / "contrast_ct_pulmonary_artery"
    masks = real_data / "ct" / "fumpe_embolus_masks"
    if not (folder.is_dir() and masks.is_dir()):
        pytest.skip("no contrast CT or no embolus masks in the folder of real images")
    scan = implant.read_scan(folder / "ct_cropped.nii.gz", folder / "pulmonary_artery.nii.gz")
    assert 0.2 < scan.blur < 1.6 and 15 < scan.noise < 45
    (tmp_path / "masks").mkdir()
    for name in ("PAT004.nii.gz", "PAT012.nii.gz"):
        (tmp_path / "masks" / name).write_bytes((masks / name).read_bytes())
    shapes, dropped = clot_shapes.read_shapes(tmp_path / "masks")
    assert len(shapes) == 8 and not dropped
    case = implant.implant(scan, shapes[:4], np.random.default_rng(0))
    assert len(case.record["emboli"]) == 4
    kept = [e["volume_after_mm3"] / e["volume_before_mm3"] for e in case.record["emboli"]]
    assert min(kept) > 0.5
    deep = ndimage.binary_erosion(case.labels > 0)
    assert 20 < case.hu[deep].mean() < 110
