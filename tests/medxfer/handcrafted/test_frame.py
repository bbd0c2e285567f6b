import csv
import time

import numpy as np
import pytest
import scipy.fft
from scipy import ndimage

from medxfer.evaluation import roc
from medxfer.handcrafted import frame


def plain_order():
    """Walk of a pen over the 16 x 16 coefficients: along each diagonal, turning at its ends."""
    row = column = 0
    step, order = -1, []
    while len(order) < 256:
        order.append((row, column))
        row, column = row + step, column - step
        if row > 15:
            row, column, step = 15, column + 2, -step
        elif column > 15:
            row, column, step = row + 2, 15, -step
        elif row < 0:
            row, step = 0, -step
        elif column < 0:
            column, step = 0, -step
    return order


def plain_error(image):
    """Cell by cell: transform, clear the high frequencies, transform back."""
    grey = image.astype(float) @ [0.299, 0.587, 0.114]
    height, width = grey.shape
    dropped = plain_order()[26:]
    error = np.empty_like(grey)
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            rows = np.minimum(np.arange(top, top + 16), height - 1)
            columns = np.minimum(np.arange(left, left + 16), width - 1)
            cell = grey[np.ix_(rows, columns)]
            coefficients = scipy.fft.dctn(cell, norm="ortho")
            for place in dropped:
                coefficients[place] = 0
            difference = np.abs(cell - scipy.fft.idctn(coefficients, norm="ortho"))
            bottom, right = min(top + 16, height), min(left + 16, width)
            error[top:bottom, left:right] = difference[: bottom - top, : right - left]
    return error


def plain_features(image):
    error = plain_error(image)
    height, width = error.shape
    edges = np.append(np.arange(20) * 3.2, np.inf)
    found = []
    for side in (1, 2, 4):
        for row in range(side):
            for column in range(side):
                region = error[
                    -(-row * height // side) : -(-(row + 1) * height // side),
                    -(-column * width // side) : -(-(column + 1) * width // side),
                ]
                found.append(np.histogram(region, edges)[0] / region.size)
    return np.concatenate(found)


def textured(seed, sigma, shape=(70, 101)):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(*shape, 3)), (sigma, sigma, 0))
    return np.clip(120 + 50 * field / field.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 96), (70, 101), (350, 500), (5, 7)])
def test_features_against_a_plain_loop(shape):
    images = [textured(seed, sigma, shape) for seed, sigma in enumerate([0.5, 1.5, 4])]
    found = frame.features(np.array(images))
    assert found.dtype == np.float32 and found.shape == (3, 420)
    expected = np.array([plain_features(image) for image in images])
    # A pixel whose error lies on a bin's edge may fall to either side of it.
    smallest = (shape[0] // 4) * (shape[1] // 4)
    np.testing.assert_allclose(found, expected, atol=1.01 / smallest)
    assert np.abs(found - expected).mean() < 1e-4
    np.testing.assert_allclose(found.reshape(3, 21, 20).sum(axis=2), 1, rtol=1e-5)


def test_error_against_a_plain_loop():
    image = textured(3, 0.7)
    np.testing.assert_allclose(frame.reconstruction_error(image), plain_error(image), atol=1e-3)


def test_a_tenth_of_the_coefficients_is_kept():
    basis = frame.low_frequencies()
    assert basis.shape == (26, 256)
    np.testing.assert_allclose(basis @ basis.T, np.eye(26), atol=1e-6)


def test_low_frequencies_are_rebuilt_and_noise_is_not():
    y, x = np.mgrid[:32, :32]
    slope = np.repeat((4 * x + 3 * y)[..., None], 3, axis=2).astype(np.uint8)
    assert frame.reconstruction_error(slope).max() < 2
    checks = np.repeat((255 * ((x + y) % 2))[..., None], 3, axis=2).astype(np.uint8)
    assert frame.reconstruction_error(checks).mean() > 100
    assert frame.features([checks])[0, 19] > 0.9  # the last bin is open
    assert frame.features([slope])[0, 0] == 1


def test_frames_of_different_sizes_and_none():
    mixed = frame.features([textured(0, 1, (40, 50)), textured(1, 1, (33, 80))])
    np.testing.assert_array_equal(mixed[1], frame.features(textured(1, 1, (33, 80))[None])[0])
    assert frame.features([]).shape == (0, 420)


@pytest.mark.parametrize(
    "image", [np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3)), np.zeros((3, 20, 3), np.uint8)]
)
def test_images_that_are_none(image):
    with pytest.raises(ValueError, match="frame"):
        frame.features([image])


class TestFit:
    images = [textured(seed, 0.8 + 0.2 * (seed % 2) + 3 * (seed % 3 == 0)) for seed in range(24)]
    labels = np.array([seed % 3 != 0 for seed in range(24)], int)

    def test_tells_sharp_from_blurred(self):
        known = frame.features(self.images)
        classifier = frame.fit(known[:12], self.labels[:12], seed=1)
        scores = classifier.score(known[12:])
        assert scores.dtype == np.float64 and ((scores >= 0) & (scores <= 1)).all()
        assert scores[self.labels[12:] == 1].min() > scores[self.labels[12:] == 0].max()
        again = frame.fit(known[:12], self.labels[:12], seed=1)
        np.testing.assert_array_equal(again.score(known[12:]), scores)
        assert len(classifier.forest.estimators_) == 100

    @pytest.mark.parametrize("labels", [np.ones(24), np.arange(24) % 3])
    def test_labels_that_do_not_serve(self, labels):
        with pytest.raises(ValueError, match="label 0"):
            frame.fit(np.zeros((24, 420)), labels)


def test_laplacian_variance_against_loops():
    image = textured(5, 1, (12, 15))
    grey = np.pad(image.astype(float) @ [0.299, 0.587, 0.114], 1, mode="reflect")
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 13)
        for x in range(1, 16)
    ]
    assert frame.laplacian_variance(image) == pytest.approx(np.var(values), rel=1e-5)
    assert frame.laplacian_variance(textured(5, 3)) < frame.laplacian_variance(textured(5, 1))


def test_speed():
    images = np.array([textured(seed, 1, (350, 500)) for seed in range(4)])
    frame.features(images[:1])
    start = time.process_time()
    frame.features(images)
    assert time.process_time() - start < 4 * 0.1  # about 0.01 s a frame


def test_real_videos(real_data):
    """Every video is scored by a forest that has not seen it."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    folder = real_data / "colonoscopy_videos"
    labels, videos, images = [], [], []
    with (folder / "frame_quality_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for video in sorted({row["video"] for row in rows}):
        known = {int(r["frame_index"]): r["label"] for r in rows if r["video"] == video}
        with av.open(str(folder / video)) as container:
            for index, picture in enumerate(container.decode(video=0)):
                if index in known:
                    small = picture.reformat(500, 350, "rgb24", interpolation="AREA")
                    images.append(small.to_ndarray())
                    labels.append(known[index] == "informative")
                    videos.append(video)
    known, labels, videos = frame.features(images), np.array(labels, int), np.array(videos)
    scores = np.empty(len(labels))
    for video in np.unique(videos):
        others = videos != video
        scores[~others] = frame.fit(known[others], labels[others]).score(known[~others])
    sharpness = [frame.laplacian_variance(image) for image in images]
    assert roc.auc(labels, scores) > max(0.8, roc.auc(labels, sharpness) + 0.1)
