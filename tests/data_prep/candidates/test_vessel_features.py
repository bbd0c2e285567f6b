import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from data_prep.candidates import vessel, vessel_features
from data_prep.candidates.embolus import Candidate
from tests.data_prep.candidates import tubes


def haralick_by_definition(p):
    """Haralick, Shanmugam and Dinstein (1973), appendix I, sum by sum, in plain Python."""
    n = len(p)
    cells = [(i, j, float(p[i, j])) for i in range(n) for j in range(n)]
    px = [sum(p[i]) for i in range(n)]
    py = [sum(p[:, j]) for j in range(n)]
    plus = [sum(v for i, j, v in cells if i + j == k) for k in range(2 * n - 1)]
    minus = [sum(v for i, j, v in cells if abs(i - j) == k) for k in range(n)]

    def entropy(values):
        return -sum(v * math.log(v) for v in values if v > 0)

    mx = sum(i * v for i, v in enumerate(px))
    my = sum(j * v for j, v in enumerate(py))
    sx = math.sqrt(sum((i - mx) ** 2 * v for i, v in enumerate(px)))
    sy = math.sqrt(sum((j - my) ** 2 * v for j, v in enumerate(py)))
    average = sum(k * v for k, v in enumerate(plus))
    mean_minus = sum(k * v for k, v in enumerate(minus))
    hxy = entropy(v for _, _, v in cells)
    hxy1 = -sum(v * math.log(px[i] * py[j]) for i, j, v in cells if v > 0)
    hxy2 = entropy(px[i] * py[j] for i in range(n) for j in range(n))
    return [
        sum(v**2 for _, _, v in cells),
        sum(k**2 * v for k, v in enumerate(minus)),
        (sum(i * j * v for i, j, v in cells) - mx * my) / (sx * sy),
        sum((i - mx) ** 2 * v for i, j, v in cells),
        sum(v / (1 + (i - j) ** 2) for i, j, v in cells),
        average,
        sum((k - average) ** 2 * v for k, v in enumerate(plus)),
        entropy(plus),
        hxy,
        sum((k - mean_minus) ** 2 * v for k, v in enumerate(minus)),
        entropy(minus),
        (hxy - hxy1) / max(entropy(px), entropy(py)),
        math.sqrt(1 - math.exp(-2 * (hxy2 - hxy))),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_haralick_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.random((7, 7)) * (rng.random((7, 7)) < 0.6)
    matrix = (matrix + matrix.T) / (2 * matrix.sum())
    found = vessel_features.haralick(matrix)
    assert len(found) == len(vessel_features.HARALICK) == 13
    np.testing.assert_allclose(found, haralick_by_definition(matrix), atol=1e-10)


def test_haralick_of_one_level_is_finite():
    matrix = np.zeros((4, 4))
    matrix[2, 2] = 1
    found = dict(zip(vessel_features.HARALICK, vessel_features.haralick(matrix), strict=True))
    assert found["angular_second_moment"] == found["correlation"] == 1
    assert found["contrast"] == found["entropy"] == found["information_correlation_1"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_cooccurrence_equals_counting_pairs(seed):
    rng = np.random.default_rng(seed)
    hu = rng.integers(-300, 700, (4, 5, 6))
    mask = rng.random(hu.shape) < 0.6
    levels = np.clip(np.floor((hu + 100) / 600 * 16), 0, 15).astype(int)
    shares = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        if step <= (0, 0, 0):
            continue
        counts = np.zeros((16, 16))
        for here in map(tuple, np.argwhere(mask)):
            there = tuple(h + s for h, s in zip(here, step, strict=True))
            if all(0 <= t < size for t, size in zip(there, hu.shape, strict=True)) and mask[there]:
                counts[levels[here], levels[there]] += 1
                counts[levels[there], levels[here]] += 1
        shares.append(counts / counts.sum())
    assert len(shares) == 13
    np.testing.assert_allclose(
        vessel_features.cooccurrence(hu, mask), np.mean(shares, axis=0), atol=1e-12
    )


def test_cooccurrence_of_one_voxel():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    matrix = vessel_features.cooccurrence(np.full(mask.shape, 50), mask)
    assert matrix[4, 4] == matrix.sum() == 1


def test_db4_is_daubechies_wavelet_of_four_vanishing_moments():
    """The conditions of Daubechies that, with the extremal phase, define the filter."""
    taps = vessel_features.DB4
    assert taps.sum() == pytest.approx(math.sqrt(2))
    for shift in range(4):
        product = taps[: 8 - 2 * shift] @ taps[2 * shift :]
        assert product == pytest.approx(float(shift == 0), abs=1e-12)
    high = taps[::-1] * (-1.0) ** np.arange(8)
    for moment in range(4):
        assert np.arange(8.0) ** moment @ high == pytest.approx(0, abs=1e-8)
    # Extremal phase: all zeros but those at -1 on one side of the unit circle.
    zeros = np.roots(taps)
    others = zeros[np.abs(zeros + 1) > 0.05]
    assert len(others) == 3
    assert (np.abs(others) < 1).all() or (np.abs(others) > 1).all()


def test_wavelet_energies_add_up():
    image = np.random.default_rng(0).normal(size=(64, 48))
    energies = vessel_features.wavelet_energies(image)
    assert energies.shape == (7,)
    assert energies.sum() == pytest.approx(np.mean(image**2))


def test_wavelet_energies_equal_a_matrix_transform():
    """Against the orthogonal matrix of the periodic transform, built from the definition."""

    def transform(size):
        low, high = np.zeros((2, size // 2, size))
        for row in range(size // 2):
            for k, tap in enumerate(vessel_features.DB4):
                low[row, (2 * row + k) % size] += tap
                high[row, (2 * row + 7 - k) % size] += (-1) ** (7 - k) * tap
        return low, high

    image = np.random.default_rng(1).normal(size=(32, 64))
    expected, smooth = [], image
    for _ in range(2):
        (low_y, high_y), (low_x, high_x) = (transform(size) for size in smooth.shape)
        bands = (high_y @ smooth @ low_x.T, low_y @ smooth @ high_x.T, high_y @ smooth @ high_x.T)
        expected += [np.sum(band**2) / image.size for band in bands]
        smooth = low_y @ smooth @ low_x.T
    expected.append(np.sum(smooth**2) / image.size)
    np.testing.assert_allclose(vessel_features.wavelet_energies(image), expected)


def test_wavelet_energies_tell_direction_and_scale():
    wave = np.cos(np.arange(64) * np.pi * 0.75)
    across = vessel_features.wavelet_energies(np.tile(wave, (64, 1)))
    down = vessel_features.wavelet_energies(np.tile(wave[:, None], (1, 64)))
    assert np.argmax(across) == 1 and np.argmax(down) == 0
    constant = vessel_features.wavelet_energies(np.full((64, 64), 3.0))
    np.testing.assert_allclose(constant, [0] * 6 + [9], atol=1e-12)
    with pytest.raises(ValueError, match="multiples of 4"):
        vessel_features.wavelet_energies(np.zeros((30, 64)))


def described(volume, spacing, candidate, axis=None):
    axis = vessel.axis(volume, spacing, candidate) if axis is None else axis
    values = vessel_features.features(volume, spacing, candidate, axis)
    assert values.shape == (len(vessel_features.NAMES),) and values.dtype == np.float64
    assert np.isfinite(values).all()
    return dict(zip(vessel_features.NAMES, values, strict=True))


def test_shape_and_grey_values_of_a_block():
    spacing = np.array([2.0, 0.5, 1.0])
    volume = np.full((20, 40, 30), 300, np.int16)
    voxels = np.stack(np.meshgrid(range(8, 11), range(10, 16), range(12, 17), indexing="ij"), -1)
    voxels = voxels.reshape(-1, 3)
    volume[tuple(voxels.T)] = 40
    volume[9, 12, 14] = 10
    candidate = Candidate((9, 12, 14), voxels, 90.0, 10.0, 0.9, 150.0, -7.0)
    axis = vessel.Axis(np.eye(3), vessel.POINTS, np.array([30.0, 6.0, 3.0]))
    found = described(volume, spacing, candidate, axis)
    assert found["volume_mm3"] == pytest.approx(90)
    # 6 mm x 3 mm x 5 mm
    assert found["surface_mm2"] == pytest.approx(2 * (18 + 30 + 15))
    assert found["sphericity"] == pytest.approx(np.pi ** (1 / 3) * 540 ** (2 / 3) / 126)
    ordered = sorted(np.var(np.arange(n)) * s**2 for n, s in zip((3, 6, 5), spacing, strict=True))
    assert found["cluster_ratio_2_1"] == pytest.approx(ordered[1] / ordered[2])
    assert found["cluster_ratio_3_1"] == pytest.approx(ordered[0] / ordered[2])
    assert (found["vessel_ratio_2_1"], found["vessel_ratio_3_1"]) == pytest.approx((0.2, 0.1))
    values = volume[tuple(voxels.T)]
    assert found["mean_hu"] == pytest.approx(values.mean())
    assert found["deviation_hu"] == pytest.approx(values.std())
    assert found["least_hu"] == 10
    assert found["shell_mean_hu"] == pytest.approx(300)
    assert found["shell_filled"] == 1
    assert (found["enclosure"], found["lung_depth_mm"]) == (0.9, -7.0)
    assert found["radius_mm"] == pytest.approx(np.sqrt(18))


def test_all_features_of_tubes_and_corners_are_finite():
    spacing = (2.5, 0.8, 0.8)
    volume, candidate = tubes.tube(spacing, 3.0, (0, 0.6, 0.8), side_mm=30)
    described(volume, spacing, candidate)
    for corner in ((0, 0, 0), tuple(size - 1 for size in volume.shape)):
        one = Candidate(corner, np.array([corner]), 1.6, 50.0, 0.5, 150.0, 0.0)
        described(volume, spacing, one)
    small = np.full((2, 2, 2), 50, np.int16)
    described(small, spacing, Candidate((0, 0, 0), np.argwhere(small), 12.8, 50.0, 0.5, 150.0, 0.0))


def test_a_clot_is_smoother_than_the_same_spot_without_one():
    """Emboli show low entropy and high energy inside; here against a textured spot."""
    rng = np.random.default_rng(0)
    quiet = np.full((30, 30, 30), 50.0)
    loud = ndimage.gaussian_filter(rng.normal(0, 400, quiet.shape), 0.6) + 50
    voxels = np.argwhere(((np.indices(quiet.shape) - 15) ** 2).sum(axis=0) < 16)
    candidate = Candidate((15, 15, 15), voxels, 1.0, 50.0, 0.5, 150.0, 0.0)
    axis = vessel.Axis(np.eye(3), vessel.POINTS, np.array([3.0, 1, 1]))
    a, b = (described(each.astype(np.int16), (1, 1, 1), candidate, axis) for each in (quiet, loud))
    assert a["entropy"] < b["entropy"]
    assert a["angular_second_moment"] > b["angular_second_moment"]
    assert a["longitudinal_diagonal_1"] < b["longitudinal_diagonal_1"]
