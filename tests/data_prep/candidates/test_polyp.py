import dataclasses

import cv2
import numpy as np
import pytest

from data_prep.candidates import _edges, _training, polyp
from data_prep.errors import UserError

SETTINGS = polyp.Settings(side=128, trees=6, depth=8, samples=2000, max_frames=50, top_k=5)


def frame(seed, lesion=True):
    """A shaded frame in black surroundings, with straight folds and, if asked for, a bump."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :200]
    image = 110 + 25 * (x - 100) / 100 + rng.normal(0, 2, x.shape)
    for _ in range(2):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-60, 60)
        across = (x - 100) * np.cos(angle) + (y - 75) * np.sin(angle) - offset
        image += 20 * np.tanh(across / 2)
    mask = np.zeros(x.shape, bool)
    if lesion:
        cx, cy, radius = rng.uniform(60, 140), rng.uniform(50, 100), rng.uniform(12, 25)
        distance = np.hypot(x - cx, (y - cy) * 1.2) / radius
        mask = distance <= 1
        image += 45 * np.sqrt(np.maximum(0, 1 - distance**2))
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    surroundings = np.hypot((x - 100) / 95, (y - 75) / 70) > 1
    image[surroundings] = 3
    colour = np.clip(image[..., None] * [1.2, 0.8, 0.6], 0, 255).astype(np.uint8)
    return colour, mask & ~surroundings


def stream(count=16, first=0):
    for number in range(count):
        yield *frame(first + number, lesion=number % 4 != 3), f"video {number % 4}"


@pytest.fixture(scope="module")
def detector():
    return polyp.fit(stream(), SETTINGS, seed=0)


def test_bumps_are_found_and_measured(detector):
    hits, overlaps = 0, []
    for seed in range(100, 110):
        image, mask = frame(seed)
        candidates = detector.detect(image)
        assert 1 <= len(candidates) <= 5
        inside = [c for c in candidates if mask[round(c.y), round(c.x)]]
        hits += bool(inside)
        if inside:
            rows, columns = np.nonzero(mask)
            x, y, w, h = inside[0].box
            low = np.maximum([x, y], [columns.min(), rows.min()])
            high = np.minimum([x + w, y + h], [columns.max() + 1, rows.max() + 1])
            common = np.prod(np.maximum(high - low, 0))
            union = w * h + np.ptp(columns) * np.ptp(rows) - common
            overlaps.append(common / union)
    assert hits >= 9
    assert np.median(overlaps) > 0.4


def test_candidates_stay_in_the_image(detector):
    image, _ = frame(200)
    for candidate in detector.detect(image):
        x, y, w, h = candidate.box
        assert 0 <= x < x + w <= 200
        assert 0 <= y < y + h <= 150
        assert x <= candidate.x <= x + w
        assert y <= candidate.y <= y + h
        assert 0 <= candidate.score <= 1
        assert 0 <= candidate.band <= 1
        assert candidate.vote > 0


def test_the_image_size_does_not_matter_much(detector):
    image, mask = frame(101)
    double = cv2.resize(image, (400, 300), interpolation=cv2.INTER_LINEAR)
    first, second = detector.detect(image)[0], detector.detect(double)[0]
    assert mask[round(first.y), round(first.x)]
    assert mask[round(second.y / 2), round(second.x / 2)]


def test_frames_without_edges_have_no_candidates(detector):
    assert detector.detect(np.zeros((60, 80, 3), np.uint8)) == []
    assert detector.detect(np.full((60, 80, 3), 90, np.uint8)) == []


def test_the_image_must_be_rgb(detector):
    for image in (np.zeros((60, 80), np.uint8), np.zeros((60, 80, 3), np.float32)):
        with pytest.raises(ValueError, match="Received"):
            detector.detect(image)


def test_saved_detectors_answer_the_same_and_have_the_same_bytes(detector, tmp_path):
    detector.save(tmp_path / "a.npz")
    polyp.fit(stream(), SETTINGS, seed=0).save(tmp_path / "b.npz")
    polyp.fit(stream(), SETTINGS, seed=1).save(tmp_path / "c.npz")
    contents = [(tmp_path / f"{name}.npz").read_bytes() for name in "abc"]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    again = polyp.load(tmp_path / "a.npz")
    assert again.settings == SETTINGS
    image, _ = frame(102)
    assert again.detect(image) == detector.detect(image)


def test_files_that_are_no_detector(tmp_path):
    (tmp_path / "text.npz").write_text("no zip file")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text", "other", "absent"):
        with pytest.raises(UserError, match=f"{name}.npz cannot be read as a polyp detector"):
            polyp.load(tmp_path / f"{name}.npz")


def test_one_video_is_not_enough():
    with pytest.raises(UserError, match="two videos"):
        polyp.fit(((*frame(n), "one") for n in range(3)), SETTINGS)
    with pytest.raises(UserError, match="has 0"):
        polyp.fit(((*frame(n, lesion=False), str(n)) for n in range(3)), SETTINGS)


@pytest.mark.parametrize(
    "change", [{"top_k": 0}, {"groups": 3}, {"strips": 6}, {"folds": 1}, {"max_frames": 1}]
)
def test_settings_that_cannot_be(change):
    with pytest.raises(UserError):
        dataclasses.replace(SETTINGS, **change)


def test_labels_follow_the_inner_normal():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    mask[50:, :10] = True  # cut by the frame: no boundary along its end
    points = [[30, 30], [30, 30], [30, 30], [37, 30], [10, 10], [0, 58]]
    normals = [[1, 0], [-1, 0], [0, 1], [1, 0], [1, 0], [1, 0]]
    edges = _edges.Edges(np.array(points, np.float32), np.array(normals, np.float32))
    found = _training.label(mask, edges, 4.0)
    np.testing.assert_array_equal(found[:, 0], [1, 0])
    np.testing.assert_array_equal(found[:, 1], [0, 1])
    np.testing.assert_array_equal(found[:, 2], [0, 0])
    assert found[0, 3] == -1  # between the tolerance and twice it
    assert found[1, 3] == 0
    np.testing.assert_array_equal(found[:, 4:], 0)
    assert not _training.label(np.zeros_like(mask), edges, 4.0).any()


def test_samples_are_uniform_and_keep_their_order():
    counts = np.zeros(20)
    for seed in range(400):
        found = _training.sample(iter(range(20)), 5, np.random.default_rng(seed), int)
        assert found == sorted(set(found))
        counts[found] += 1
    # Each is drawn 100 times of 400, with a standard deviation of 8.7.
    assert np.abs(counts - 100).max() < 40
    few = _training.sample(iter(range(3)), 5, np.random.default_rng(0), str)
    assert few == ["0", "1", "2"]


def test_folds_keep_videos_together_and_spread_polyps():
    videos = ["a", "a", "b", "c", "d", "d", "e"]
    positive = [True, False, False, True, True, True, False]
    found = _training.folds(videos, positive, 3)
    for name in set(videos):
        assert len({f for f, v in zip(found, videos, strict=True) if v == name}) == 1
    with_polyps = {f for f, v in zip(found, videos, strict=True) if v in "acd"}
    assert with_polyps == {0, 1, 2}
    assert set(_training.folds(["a", "b"], [True, True], 5)) == {0, 1}
