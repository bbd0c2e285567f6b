"""What training images look like, and what does not look so."""

import numpy as np
import pytest
import scipy.ndimage

from medxfer import pixels

SIDE = 48
#: Dark at the border, without an edge.
WINDOW = np.minimum(
    1,
    np.pad(np.ones((SIDE - 2, SIDE - 2)), 1)
    * np.fromfunction(
        lambda y, x: np.minimum(np.minimum(y, SIDE - 1 - y), np.minimum(x, SIDE - 1 - x)) / 12,
        (SIDE, SIDE),
    ),
)


def known(images, subjects=100):
    return pixels.ranges(images, [str(number) for number in range(len(images))], subjects)


def pictures(count, seed, channels=3):
    """Grey clouds of their own level and contrast on black, uint8 (count, SIDE, SIDE, channels)."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        cloud = scipy.ndimage.gaussian_filter(random.standard_normal((SIDE, SIDE)), 1)
        cloud = random.uniform(90, 140) + random.uniform(80, 120) * cloud / np.ptp(cloud)
        cloud *= WINDOW
        found.append(np.repeat(cloud[..., None].clip(0, 255), channels, axis=2))
    return np.array(found).astype(np.uint8)


def enlarged(images, times):
    parts = images[:, ::times, ::times].astype(np.float64)
    zoomed = scipy.ndimage.zoom(parts, (1, times, times, 1), order=1)
    return zoomed.round().astype(np.uint8)


CHANGES = {
    "inverted": (lambda x: 255 - x, "level of the border"),
    "dark, as 12 bits in 16": (lambda x: x // 16, "level of channel 1"),
    "pale": (lambda x: x // 4 + 180, "level of channel 2"),
    "flat": (lambda x: x // 16 + 100, "spread of channel 3"),
    "tinted": (lambda x: (x * [1, 0.8, 0.6]).astype(np.uint8), "difference between channels"),
    "one channel": (lambda x: x * np.array([1, 0, 0], np.uint8), "difference between channels"),
    "a thumbnail": (lambda x: enlarged(x, 8), "fineness"),
    "noisy": (
        lambda x: (x + np.random.default_rng(0).normal(0, 60, x.shape)).clip(0, 255).astype("u1"),
        "fineness",
    ),
    "black": (lambda x: x * 0, "level of channel 1"),
}


def test_numbers_of_an_image():
    images = pictures(3, 1) // [1, 2, 3]
    images = images.astype(np.uint8)
    for image, found in zip(images.astype(float), pixels.describe(images), strict=True):
        edge = [image[0, k] for k in range(SIDE)] + [image[-1, k] for k in range(SIDE)]
        edge += [image[k, 0] for k in range(SIDE)] + [image[k, -1] for k in range(SIDE)]
        change = [
            np.mean(abs(image[step:] - image[:-step]))
            + np.mean(abs(image[:, step:] - image[:, :-step]))
            for step in (1, 4)
        ]
        colour = np.mean(image.max(axis=2) - image.min(axis=2))
        expected = [
            *(image[..., c].mean() for c in range(3)), *(image[..., c].std() for c in range(3)),
            np.mean(edge), colour, 100 * change[0] / (change[1] + 1),
        ]  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_others_of_the_kind_lie_inside(channels):
    ranges = known(pictures(200, 1, channels))
    watch = pixels.Watch(ranges)
    for image in pictures(100, 2, channels):
        watch(image[None])
        assert watch.outside() == []
    assert watch.outside() == []  # nothing was seen since
    assert len(pixels.names(channels)) == len(ranges["low"]) == len(ranges["high"])


@pytest.mark.parametrize("change", CHANGES)
def test_other_kinds_are_told(change):
    alter, what = CHANGES[change]
    watch = pixels.Watch(known(pictures(200, 1)))
    told = []
    for image in pictures(20, 3):
        watch(alter(image[None]))
        told.append(" ".join(watch.outside()))
    assert sum(what in words for words in told) >= 18, told


def test_grey_where_colour_was_learnt():
    random = np.random.default_rng(1)
    tinted = (pictures(100, 1) * random.uniform(0.7, 0.8, (100, 1, 1, 1))).astype(np.uint8)
    tinted[..., 2] //= 2
    watch = pixels.Watch(known(tinted))
    watch(pictures(1, 4))
    assert any("difference between channels 0" in words for words in watch.outside())
