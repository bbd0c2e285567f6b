"""Candidate emboli to records: which embolus a candidate lies in, and what is written of it."""

import dataclasses
import errno
import pathlib

import numpy as np
import pytest

from data_prep import command, pe
from data_prep.candidates import vessel
from data_prep.errors import UserError
from data_prep.readers import _volumes
from data_prep.readers._images import Unusable
from data_prep.readers._lesions import Lesions
from data_prep.readers._volumes import Source, Volume
from data_prep.splits import pseudonym
from tests.data_prep.candidates.test_embolus import thorax

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


@pytest.mark.parametrize(
    "wrong", [{"patch": 4}, {"top_k": 0}, {"test_patches": 0}, {"patches_per_candidate": 46}]
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} must be"):
        pe.Settings(**wrong)


def test_all_views_of_a_candidate():
    assert len(vessel.views()) == pe.VIEWS


@pytest.fixture
def study(monkeypatch):
    """A source whose volume is a small thorax with two emboli."""
    hu, spacing, _, _, labels = thorax()
    affine = np.diag([*spacing[::-1], 1.0])
    marked = Lesions(2, labels.astype(np.int16), np.empty((0, 3)), np.empty(0, np.int64))
    monkeypatch.setattr(_volumes, "read", lambda source: Volume(hu, spacing, affine))
    monkeypatch.setattr(_volumes, "read_lesions", lambda source, volume: marked)
    return Source("a", (), (), "nifti", pathlib.Path("/"), "person")


def test_a_part_gets_what_it_needs(study):
    subject = pseudonym("person", b"key")
    settings = pe.Settings(patch=16, patches_per_candidate=4, test_patches=5)
    written = {}
    for part in ("train", "test"):
        result = pe.prepare_study(study, settings, 0, b"key", {subject: part})
        written[part] = {kind: list(examples) for kind, examples in result.examples.items()}
        assert result.truth["found"] == result.truth["candidates"] == 2
    train, test = written["train"], written["test"]
    assert train.keys() == {"patch", "candidate"} and test.keys() == {"unit"}
    assert len(train["patch"]) == 4 * 2 and len(train["candidate"]) == len(test["unit"]) == 2
    for alone, unit in zip(train["candidate"], test["unit"], strict=True):
        assert (alone.key, alone.label, alone.lesion) == (unit.key, unit.label, unit.lesion)
        np.testing.assert_array_equal(alone.extras["features"], unit.extras["features"])
        assert alone.image.shape == (16, 16, 3) and unit.image.shape == (5 * 16, 16, 3)
        assert unit.extras["views"] == 5
    assert {(example.lesion, example.label) for example in test["unit"]} == {(0, 1), (1, 1)}


def test_a_study_without_reference_standard_is_named(study, monkeypatch):
    monkeypatch.setattr(_volumes, "read_lesions", lambda source, volume: None)
    with pytest.raises(Unusable, match="no reference standard"):
        pe.prepare_study(study, pe.Settings(), 0, b"key", {})


def test_parts_are_those_of_the_volumes_that_may_be_used(study, tmp_path):
    label = tmp_path / "label"
    sources = [
        dataclasses.replace(study, name=f"{n}", subject=f"{n}", files=(label,), parts=("labels",))
        for n in range(10)
    ]
    bare = dataclasses.replace(study, name="bare", subject="bare")
    wrong = dataclasses.replace(sources[0], name="wrong", subject="wrong", problem="a gap")
    options = command.Options(tmp_path, key=b"key")
    found = pe.assign([*sources, bare, wrong], options)
    known = {pseudonym(source.subject, b"key") for source in sources}
    assert {s: part for s, part in found.items() if s in known} == options.assign(known)
    assert len(found) == 12
    assert set(pe.assign([bare, wrong], options).values()) == {"train"}


def test_a_full_disk_leaves_no_empty_key(tmp_path, monkeypatch):
    def full(count):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pe.secrets, "token_hex", full)
        with pytest.raises(UserError, match="data.key cannot be written"):
            pe.kept_key(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    key = pe.kept_key(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data.key"]
    assert (tmp_path / "data.key").stat().st_mode & 0o777 == 0o600
    assert len(key) == 64 and pe.kept_key(tmp_path / "data") == key
    (tmp_path / "data.key").write_text("")
    with pytest.raises(UserError, match="data.key is empty.*delete the file"):
        pe.kept_key(tmp_path / "data")
