import gzip
import hashlib

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from data_prep.phantoms import _clots, _dicom, _vessels, pe
from data_prep.readers import _lesions, _volumes

SEED, PATIENTS = 3, 2


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom").resolve()
    pe.generate(folder, SEED, PATIENTS)
    return folder


@pytest.fixture(scope="module")
def exams(folder):
    """(source, volume, lesions) in the order of the patients' numbers."""
    people = [_dicom.draw_person(SEED, number).number for number in range(PATIENTS)]
    sources = sorted(_volumes.find(folder), key=lambda source: people.index(source.subject))
    found = []
    for source in sources:
        volume = _volumes.read(source)
        found.append((source, volume, _volumes.read_lesions(source, volume)))
    return found


@pytest.fixture(scope="module")
def patient():
    return pe.draw_patient(SEED, 0)


def test_same_seed_same_bytes(folder, tmp_path):
    pe.generate(tmp_path, SEED, 1)
    again = digests(tmp_path)
    assert len(again) == pe.SHAPE[0] + 1
    assert again.items() <= digests(folder).items()


def test_other_seeds_are_other_people():
    texts = [set(pe.identifiers(seed, 4)) for seed in (0, 1)]
    assert all(len(text) >= 6 for text in texts[0])
    uids = [{text for text in found if text.startswith("2.25.")} for found in texts]
    assert len(uids[0]) == 12 and not uids[0] & uids[1]


def test_the_readers_find_what_was_drawn(exams, patient):
    assert len(exams) == PATIENTS
    for _, volume, lesions in exams:
        assert volume.hu.shape == pe.SHAPE
        assert volume.notes == lesions.notes == ()
        assert volume.facts["contrast"] and volume.facts["slice_thickness_mm"] == pe.SLICE_MM
        assert volume.spacing[0] == pytest.approx(pe.SLICE_MM)
        assert (np.diag(volume.affine) > 0).all()
    # Slope, intercept and sign of the stored values differ from scanner to scanner.
    np.testing.assert_array_equal(exams[0][1].hu, patient.hu)
    np.testing.assert_array_equal(exams[0][2].labels, patient.labels)
    np.testing.assert_allclose(exams[0][1].spacing, patient.grid.spacing, rtol=1e-6)
    scanners = {(s.slope, s.intercept, s.signed) for s in _dicom.SCANNERS}
    assert len(scanners) == 4


def test_every_scanner_stores_all_levels(tmp_path):
    hu = np.linspace(-1024, 3071, 2 * 12 * 10).astype(np.int16).reshape(2, 12, 10)
    for number, scanner in enumerate(_dicom.SCANNERS):
        person = _dicom.draw_person(0, number)
        rng = np.random.default_rng(0)
        place = (1.0, 2.0, 3.0)
        _dicom.write_series(
            tmp_path / person.folder, hu, (2.0, 1.0, 1.0), place, person, scanner, rng
        )
    for source in _volumes.find(tmp_path):
        np.testing.assert_array_equal(_volumes.read(source).hu, hu)


def test_a_label_is_a_connected_component(exams):
    for _, volume, lesions in exams:
        assert 3 <= lesions.count <= 6
        parts, count = ndimage.label(lesions.labels > 0, np.ones((3, 3, 3)))
        assert count == lesions.count
        pairs = {(a, b) for a, b in zip(parts.ravel(), lesions.labels.ravel(), strict=True) if a}
        assert len(pairs) == count
        sizes = np.bincount(lesions.labels.ravel())[1:] * np.prod(volume.spacing)
        assert sizes.min() >= _clots.LEAST_MM3
        inner = lesions.labels[2:-2, 2:-2, 2:-2]
        assert np.count_nonzero(inner) == np.count_nonzero(lesions.labels)


def test_files_are_named_and_numbered_in_no_useful_order(folder):
    series = folder / _dicom.draw_person(SEED, 0).folder
    paths = sorted(series.iterdir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    heights = [float(header.ImagePositionPatient[2]) for header in headers]
    assert abs(np.corrcoef(np.arange(len(heights)), heights)[0, 1]) < 0.5
    assert not any(path.suffix for path in paths)
    instance = [int(header.InstanceNumber) for header in headers]
    assert (np.argsort(instance) == np.argsort(heights)[::-1]).all()
    header = headers[0]
    assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    assert all(pydicom.uid.UID(header.SOPInstanceUID).is_valid for header in headers)


def test_identifiers_are_in_the_raw_folder_alone(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    stored = b"".join(path.read_bytes() for path in files if "_label" not in path.name)
    names = " ".join(str(path) for path in files)
    for number in range(PATIENTS):
        for text in _dicom.draw_person(SEED, number).identifiers():
            assert text.encode() in stored or text in names
    labels = [path.read_bytes() for path in files if "_label" in path.name]
    unpacked = [gzip.decompress(content[content.index(b"\x1f\x8b") :]) for content in labels]
    for text in pe.identifiers(SEED, PATIENTS):
        assert not any(text.encode() in content for content in labels + unpacked)


def test_clots_are_dark_in_bright_arteries(patient):
    exam = patient
    ball = ndimage.generate_binary_structure(3, 1)
    inside = ndimage.binary_erosion(exam.labels > 0, ball, 2)
    assert inside.sum() > 30
    assert exam.hu[inside].mean() == pytest.approx(exam.scan.clot, abs=15)
    around = ndimage.binary_dilation(exam.labels > 0, ball, 3)
    around &= ~ndimage.binary_dilation(exam.labels > 0, ball, 2)
    assert np.percentile(exam.hu[around], 90) > 0.8 * exam.scan.artery
    assert exam.scan.vein < 0.85 * exam.scan.artery


def test_borders_of_clots_are_partial_volumes(patient):
    exam = patient
    distance = ndimage.distance_transform_edt(exam.labels == 0, sampling=exam.grid.spacing)
    distance -= ndimage.distance_transform_edt(exam.labels > 0, sampling=exam.grid.spacing)
    calm = ndimage.gaussian_filter(exam.hu.astype(np.float32), 0.6)
    bright = ndimage.maximum_filter(calm, 5) > 0.8 * exam.scan.artery
    levels = [
        exam.hu[bright & (distance > low) & (distance <= low + 0.9)].mean()
        for low in (-2.2, -1.3, 0.4, 1.3)
    ]
    assert (np.diff(levels) > 0).all()
    deep, _, rim, _ = levels
    assert deep + 40 < rim < exam.scan.artery - 40


def test_a_threshold_does_not_find_the_emboli(exams):
    """Dark spots among bright blood, at any threshold: most are none, or much is missed."""
    for _, volume, lesions in exams:
        calm = ndimage.gaussian_filter(volume.hu.astype(np.float32), 0.6 / volume.spacing)
        for level in (100, 150, 200):
            blood = calm > level
            far = ndimage.distance_transform_edt(~blood, sampling=volume.spacing)
            closed = ndimage.distance_transform_edt(far <= 4.0, sampling=volume.spacing) > 4.0
            dark = closed & ~blood & (calm > -50)
            parts, _ = ndimage.label(dark)
            sizes = np.bincount(parts.ravel()) * np.prod(volume.spacing)
            hits = {*np.unique(parts[lesions.labels > 0])} - {0}
            spots = set(np.flatnonzero(sizes >= _clots.LEAST_MM3)) - {0}
            found = spots & hits
            assert len(spots) > 4 * lesions.count
            assert len(found) < 0.4 * len(spots)
            mask = lesions.labels > 0
            dice = 2 * (dark & mask).sum() / (dark.sum() + mask.sum())
            assert dice < 0.6


def test_some_patients_have_no_embolus():
    exam = pe.draw_patient(SEED, pe.WITHOUT - 1)
    assert not exam.labels.any() and exam.clots == []


def test_noise_has_the_spectrum_of_reconstructed_images():
    grid = _vessels.Grid((8, 120, 120), (1.25, 0.9, 0.9))
    scan = pe.draw_scan(np.random.default_rng(0))
    grain = pe.noise(grid, scan, np.random.default_rng(1))
    assert grain.std() == pytest.approx(scan.noise, rel=0.15)
    assert abs(grain.mean()) < 0.1 * scan.noise
    power = np.abs(np.fft.fft2(grain)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(120, 0.9)] * 2, indexing="ij"))
    bands = [
        power[:, (frequency > low) & (frequency <= low + 0.05)].mean() for low in (0.0, 0.2, 0.5)
    ]
    assert bands[1] > 3 * bands[0] and bands[1] > 1.5 * bands[2]


def test_distance_to_tubes_is_that_of_their_densely_sampled_balls():
    grid = _vessels.Grid((14, 16, 18), (1.2, 0.9, 0.8))
    rng = np.random.default_rng(0)
    pieces = np.column_stack([rng.uniform(-6, 6, (5, 6)), rng.uniform(0.5, 2, (5, 2))])
    pieces[:, 7] = pieces[:, 6]  # where the radius changes, the nearest ball is a little nearer
    z, y, x = np.broadcast_arrays(*grid.axes())
    places = np.stack([x, y, z], -1)[..., None, :]
    expected = np.full(grid.shape, 2.5)
    for piece in pieces:
        balls = piece[:3] + np.linspace(0, 1, 400)[:, None] * (piece[3:6] - piece[:3])
        near = np.linalg.norm(places - balls, axis=-1).min(axis=-1) - piece[6]
        expected = np.minimum(expected, near)
    np.testing.assert_allclose(grid.distance(pieces), expected, atol=0.01)


def test_coverage_is_the_share_of_a_voxel():
    """Of a plane at any distance, against counting points of the voxel."""
    points = (np.arange(1000) + 0.5) / 1000 - 0.5
    for distance in (-0.6, -0.3, 0.0, 0.2, 0.7):
        counted = (points * 0.9 + distance <= 0).mean()
        assert _vessels.coverage(np.float32(distance)) == pytest.approx(counted, abs=1e-3)


def test_trees_branch_by_murrays_law():
    rng = np.random.default_rng(5)
    stem, parent, radius = np.array([[0.0, 0, 0], [5, 0, 0]]), np.array([-1, 0]), np.full(2, 50.0)
    places = rng.uniform([8, -20, -20], [40, 20, 20], (60, 3))
    # Pieces longer than any edge: the points are those that were grown.
    tree = _vessels.grow(stem, parent, radius, places, rng, barren=1, exponent=2.5, step=1e9)
    assert len(tree.points) == 62 and (tree.parent < np.arange(62)).all()
    assert not (tree.parent[2:] == 0).any()  # barren
    for node in range(2, 62):
        children = tree.children(node)
        assert (np.diff(tree.radius[children]) <= 0).all()
        if len(children):
            assert tree.radius[node] ** 2.5 == pytest.approx((tree.radius[children] ** 2.5).sum())
        else:  # ends are where they were asked for
            assert np.linalg.norm(places - tree.points[node], axis=1).min() < 1e-12


def test_branches_are_smooth_chains_of_short_pieces():
    rng = np.random.default_rng(5)
    stem, parent, radius = np.array([[0.0, 0, 0], [5, 0, 0]]), np.array([-1, 0]), np.full(2, 3.0)
    places = rng.uniform([8, -20, -20], [40, 20, 20], (60, 3))
    tree = _vessels.grow(stem, parent, radius, places, rng, step=2.0)
    pieces = tree.pieces()
    lengths = np.linalg.norm(pieces[:, 3:6] - pieces[:, :3], axis=1)
    assert np.median(lengths) < 2.5 and lengths.max() < 7
    assert (pieces[:, 6:] <= 3).all() and len(pieces) == len(tree.points) - 1
    down = tree.downstream(0, 30)
    assert tree.upstream(down[-1], 1e9) == down[::-1]


def test_ensure_is_whole_or_absent(tmp_path, monkeypatch):
    def small(folder, seed):
        (folder / "one").write_text(str(seed))

    monkeypatch.setattr(pe, "generate", small)
    made = pe.ensure(tmp_path / "cache", seed=5)
    assert pe.ensure(tmp_path / "cache", seed=5) == made
    assert (made / "one").read_text() == "5"

    def broken(folder, seed):
        small(folder, seed)
        raise RuntimeError("disk full")

    monkeypatch.setattr(pe, "generate", broken)
    with pytest.raises(RuntimeError):
        pe.ensure(tmp_path / "cache", seed=7)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]


def test_a_label_volume_is_read_whatever_its_format(exams):
    suffixes = {_volumes.volume_suffix(source.paths("labels")[0]) for source, _, _ in exams}
    assert suffixes == {".nii.gz", ".nrrd"}
    assert all(_lesions.read(source, volume).count for source, volume, _ in exams)
