"""Images that are one image."""

import io
import itertools

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.sparse
from PIL import Image

from data_prep import duplicates
from tests.data_prep.pictures import texture


def rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2)


def thumbnails(images) -> np.ndarray:
    return np.stack([duplicates.thumbnail(rgb(image)) for image in images])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_a_thumbnail_is_the_mean_over_blocks():
    image = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)
    blocks = image.reshape(32, 3, 32, 4).mean(axis=(1, 3))
    assert np.abs(thumbnails([image])[0] - blocks).max() <= 0.51


def test_hashes_are_those_of_a_cosine_transform():
    images = np.random.default_rng(1).integers(0, 256, (20, 32, 32), np.uint8)
    found = duplicates.hashes(images)
    for image, mark in zip(images, found, strict=True):
        low = scipy.fft.dctn(image.astype(float), norm="ortho")[:8, :8].ravel()
        bits = low > np.median(low[1:])
        assert int("".join("01"[bit] for bit in bits.astype(int)), 2) == int(mark)


def test_detail_is_what_a_blur_leaves():
    images = thumbnails([texture(i) for i in range(4)])
    found = duplicates.detail(images)
    expected = []
    for image in images.astype(float):
        # The same kernel as OpenCV's, 17 wide, with its reflection at the edges.
        blurred = scipy.ndimage.gaussian_filter(image, 2.0, mode="mirror", truncate=4.0)
        expected.append((image - blurred).ravel())
    correlation = np.corrcoef(expected)
    np.testing.assert_allclose(found @ found.T, correlation, atol=0.01)
    flat = duplicates.detail(np.full((1, 32, 32), 9, np.uint8))
    assert not flat.any()


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_similar_pairs_are_those_of_all_pairs(monkeypatch, block):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    base = [texture(i) for i in range(12)]
    images = thumbnails([*base, *(jpeg(image, 20) for image in base[::3])])
    marks, details = duplicates.hashes(images), duplicates.detail(images)
    for hamming, limit in ((64, 0.1), (20, 0.0001), (10, 0.95)):
        expected = {}
        for a, b in itertools.combinations(range(len(images)), 2):
            bits = (int(marks[a]) ^ int(marks[b])).bit_count()
            value = float(details[a] @ details[b])
            if bits <= hamming and value >= limit:
                expected[a, b] = bits, pytest.approx(value, abs=1e-5)
        found = duplicates.similar(images, hamming, limit)
        assert {(p.first, p.second): (p.bits, p.correlation) for p in found} == expected
        assert [(p.first, p.second) for p in found] == sorted(expected)


CHANGES = {
    "quality": lambda image: jpeg(image, 30),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, (301, 333), interpolation=cv2.INTER_CUBIC),
    "light": lambda image: (255 * (image / 255.0) ** 0.75).astype(np.uint8),
    "contrast": lambda image: np.clip((image - 128.0) * 1.2 + 120, 0, 255).astype(np.uint8),
    "noise": lambda image: np.clip(
        image + np.random.default_rng(0).normal(0, 5, image.shape), 0, 255
    ).astype(np.uint8),
}


@pytest.fixture(scope="module")
def base():
    return [texture(i, 100, 100) for i in range(20)]


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_others_are_not(base, change):
    images = thumbnails([*base, *map(CHANGES[change], base)])
    found = {(pair.first, pair.second) for pair in duplicates.similar(images)}
    assert found == {(i, i + 20) for i in range(20)}


def test_images_without_detail_are_like_nothing():
    faint = np.random.default_rng(0).integers(100, 103, (64, 64), np.uint8)
    assert duplicates.similar(thumbnails([faint, faint])) == []


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_connected_components(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 40, (25, 2))
    graph = scipy.sparse.coo_array((np.ones(25), pairs.T), (40, 40))
    count, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    groups = duplicates.groups(40, map(tuple, pairs.tolist()))
    assert len(groups) == count
    assert sorted(itertools.chain(*groups)) == list(range(40))
    assert groups == sorted(groups) and all(group == sorted(group) for group in groups)
    assert all(len(set(labels[group])) == 1 for group in groups)


@pytest.mark.parametrize("folder", ["chest_xray_224/test/NORMAL", "brain_mri/no"])
def test_real_images_that_look_alike_stay_apart(real_data, folder):
    paths = sorted((real_data / "classification" / folder).iterdir())
    images = [np.asarray(Image.open(path).convert("L")) for path in paths]
    found = {(p.first, p.second): p for p in duplicates.similar(thumbnails(images))}
    content = [path.read_bytes() for path in paths]
    places = range(len(paths))
    equal = {(a, b) for a in places for b in places if a < b and content[a] == content[b]}
    assert equal <= set(found)
    # Four more were found by eye to be the same in other sizes.
    assert len(found) - len(equal) == (0 if "chest" in folder else 4)
    assert all(pair.correlation > 0.99 for pair in found.values())
    alike = duplicates.similar(thumbnails(images), correlation=0.3)
    assert len(alike) > len(found)
    assert max(p.correlation for p in alike if (p.first, p.second) not in found) < 0.9
