import hashlib
import time

import numpy as np
import pytest
from scipy import ndimage

from data_prep import far_wall
from data_prep.phantoms import cimt as phantom
from data_prep.readers import boundary_csv


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom").resolve()
    phantom.generate(folder, seed=3, subjects=8, images_per_subject=2)
    return folder


@pytest.fixture(scope="module")
def studies(folder):
    return [boundary_csv.read(source) for source in boundary_csv.detect(folder)]


def test_same_seed_same_bytes(folder, tmp_path):
    phantom.generate(tmp_path / "again", seed=3, subjects=8, images_per_subject=2)
    phantom.generate(tmp_path / "other", seed=4, subjects=1, images_per_subject=1)
    assert digests(tmp_path / "again") == digests(folder)
    other = digests(tmp_path / "other")
    assert other["images/S000_0.png"] != digests(folder)["images/S000_0.png"]


def test_the_set_is_read_whole(studies):
    assert len(studies) == 16
    assert len({study.subject for study in studies}) == 8
    for study in studies:
        assert study.image.shape == (phantom.HEIGHT, phantom.WIDTH)
        assert study.notes == ()
        thickness = study.media_adventitia[:, 1] - study.lumen_intima[:, 1]
        assert 0.44 < thickness.min() * study.mm_per_pixel
        assert thickness.max() * study.mm_per_pixel < 1.11


def test_walls_differ(studies):
    tilt = [np.polyfit(*study.lumen_intima.T, 1)[0] for study in studies]
    extent = [np.ptp(study.lumen_intima[:, 1]) for study in studies]
    assert np.std(tilt) > 0.01 and np.std(extent) > 2


def test_speckle_is_fully_developed():
    """Mean over standard deviation of a Rayleigh envelope is sqrt(pi / (4 - pi)) = 1.91."""
    rng = np.random.default_rng(0)
    field = rng.standard_normal((900, 900)) + 1j * rng.standard_normal((900, 900))
    envelope = np.abs(phantom.receive(field, 1.8, 6))[50:, 50:-50]
    assert envelope.mean() / envelope.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)


def test_receiving_is_convolution_with_pulse_and_beam():
    field = np.zeros((40, 61), complex)
    field[10, 30] = 2 - 1j
    echo = phantom.receive(field, 1.5, 4.0)
    beam = np.exp(-0.5 * (np.arange(-30, 31) / 4.0) ** 2)
    expected = np.zeros(40)
    expected[10 : 10 + len(phantom.pulse_weights(1.5))] = phantom.pulse_weights(1.5)
    expected = (2 - 1j) * expected[:, None] * beam / beam.sum()
    np.testing.assert_allclose(echo, expected, atol=1e-4)
    assert not echo[:10].any()  # nothing before the echo can have arrived


def test_an_interface_shows_from_its_row_on():
    """Brightness rises at the annotated rows: the leading edge, not the middle of the line."""
    rises = []
    for seed in range(6):
        subject = phantom.draw_subject(np.random.default_rng(seed))
        rng = np.random.default_rng([seed, 1])
        wall = phantom.draw_wall(subject, rng)
        image = phantom.render(subject, wall, rng).astype(float)
        rows = np.rint(wall.media_adventitia).astype(int)
        columns = np.arange(phantom.WIDTH)
        rises.append([image[rows + offset, columns].mean() for offset in range(-1, 7)])
    rises = np.mean(rises, axis=0)
    assert (np.diff(rises[1:5]) > 0).all()
    assert rises[5] > rises[1] + 30


def test_a_plain_gradient_errs(studies):
    """Strongest rise within 20 rows: far off for LI, and clearly for MA, on most walls."""
    errors = {"lumen_intima": [], "media_adventitia": []}
    for study in studies:
        rise = ndimage.gaussian_filter(study.image.astype(float), 1.5, order=(1, 0))
        for name, per_wall in errors.items():
            rows = far_wall.columns(getattr(study, name), phantom.WIDTH, 100)
            columns = np.flatnonzero(np.isfinite(rows))
            nearby = np.rint(rows[columns])[:, None] + np.arange(-20, 21)
            nearby = np.clip(nearby, 0, phantom.HEIGHT - 1).astype(int)
            best = nearby[np.arange(len(columns)), rise[nearby, columns[:, None]].argmax(axis=1)]
            per_wall.append(np.abs(best - rows[columns]).mean() * study.mm_per_pixel * 1000)
    assert np.mean(errors["lumen_intima"]) > 200
    assert np.mean(errors["media_adventitia"]) > 100


def test_ensure_is_whole_or_absent(tmp_path, monkeypatch):
    def small(folder, seed):
        generate(folder, seed, subjects=1, images_per_subject=1)

    generate = phantom.generate
    monkeypatch.setattr(phantom, "generate", small)
    made = phantom.ensure(tmp_path / "cache", seed=5)
    before = digests(made)
    assert phantom.ensure(tmp_path / "cache", seed=5) == made
    assert digests(made) == before
    assert phantom.ensure(tmp_path / "cache", seed=6) != made

    def broken(folder, seed):
        small(folder, seed)
        raise RuntimeError("disk full")

    monkeypatch.setattr(phantom, "generate", broken)
    with pytest.raises(RuntimeError):
        phantom.ensure(tmp_path / "cache", seed=7)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_ensure_when_another_process_was_first(tmp_path, monkeypatch):
    def overtaken(folder, seed):
        (folder / "mine").touch()
        target = tmp_path / f"cimt-phantom-{phantom.VERSION}-{seed}"
        target.mkdir()
        (target / "theirs").touch()

    monkeypatch.setattr(phantom, "generate", overtaken)
    made = phantom.ensure(tmp_path, seed=1)
    assert [path.name for path in made.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [made]


def test_generation_is_fast(tmp_path):
    start = time.process_time()
    phantom.generate(tmp_path, seed=0, subjects=2, images_per_subject=2)
    assert (time.process_time() - start) * 12 < 20  # the default 48 images on one core


def test_regions_hold_the_whole_wall(studies):
    settings = far_wall.Settings()
    for study in studies:
        for region in far_wall.find_regions(study, settings, np.random.default_rng(0)):
            assert np.isfinite(region.lumen_intima).all()
