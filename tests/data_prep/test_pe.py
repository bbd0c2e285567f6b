"""Candidate emboli to records: which embolus a candidate lies in."""

import numpy as np
import pytest

from data_prep import pe
from data_prep.errors import UserError
from data_prep.readers._lesions import Lesions
from data_prep.readers._volumes import Volume

SPACING = np.array([2.0, 0.5, 0.8])


@pytest.fixture
def volume():
    affine = np.diag([0.8, 0.5, 2.0, 1.0])
    affine[:3, 3] = (-30, 10, 5)
    return Volume(np.zeros((20, 30, 40), np.int16), SPACING, affine)


@pytest.fixture
def lesions():
    labels = np.zeros((20, 30, 40), np.int16)
    labels[5:8, 10:14, 10:15] = 1
    labels[5:8, 16:20, 10:15] = 2  # two rows, 1 mm, away from the first
    return Lesions(2, labels, np.empty((0, 3)), np.empty(0, np.int64))


def test_a_candidate_lies_in_its_own_voxels(volume, lesions):
    points = np.array([[6, 12, 12], [6, 18, 12], [6, 14, 12], [0, 0, 0]])
    assert pe.matches(points, lesions, volume, 0).tolist() == [0, 1, -1, -1]


def test_within_reach_the_nearest_embolus_counts(volume, lesions):
    rng = np.random.default_rng(0)
    points = rng.integers(0, (20, 30, 40), (300, 3))
    found = pe.matches(points, lesions, volume, 3.0)
    for point, number in zip(points, found, strict=True):
        distances = [
            np.linalg.norm((np.argwhere(lesions.labels == k) - point) * SPACING, axis=1).min()
            for k in (1, 2)
        ]
        if min(distances) > 3.0:
            assert number == -1
        elif distances[0] != distances[1]:
            assert number == int(np.argmin(distances))
    assert set(found) == {-1, 0, 1}


def test_points_stand_for_emboli(volume):
    places = volume.to_patient(np.array([[5, 10, 10], [15, 20, 30]]))
    marked = Lesions(2, None, places, np.array([1, 2]))
    points = np.array([[5, 10, 12], [15, 20, 30], [5, 10, 30]])
    assert pe.matches(points, marked, volume, 0).tolist() == [0, 1, -1]
    assert [found["volume_mm3"] for found in pe.describe(marked, volume)] == [0, 0]


def test_no_candidate_and_no_embolus(volume, lesions):
    assert pe.matches(np.empty((0, 3), np.int64), lesions, volume, 2.0).shape == (0,)
    none = Lesions(0, np.zeros_like(lesions.labels), np.empty((0, 3)), np.empty(0, np.int64))
    assert pe.matches(np.array([[6, 12, 12]]), none, volume, 2.0).tolist() == [-1]


def test_truth_has_size_and_centre(volume, lesions):
    first = pe.describe(lesions, volume)[0]
    assert first["volume_mm3"] == pytest.approx(3 * 4 * 5 * SPACING.prod())
    assert first["x"] == pytest.approx(-30 + 12 * 0.8)
    assert first["y"] == pytest.approx(10 + 11.5 * 0.5)
    assert first["z"] == pytest.approx(5 + 6 * 2.0)


def test_a_patch_has_some_size():
    with pytest.raises(UserError, match="--patch"):
        pe.Settings(patch=4)
