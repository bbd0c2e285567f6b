import numpy as np
import pytest
from scipy import ndimage

from data_prep import patches


def naive_window(image: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """One rectangle by padding the whole image."""
    border = 200
    widths = [(border, border)] * 2 + [(0, 0)] * (image.ndim - 2)
    padded = np.pad(image, widths, mode="reflect")
    return padded[y + border : y + border + height, x + border : x + border + width]


@pytest.mark.parametrize("shape", [(20, 30), (9, 5, 3), (2, 40), (1, 7)])
@pytest.mark.parametrize("size", [1, 4, 31])
def test_crop_equals_a_loop_over_a_padded_image(shape, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, np.uint8)
    centres = rng.integers(-50, 80, (40, 2))
    found = patches.crop(image, centres, size)
    before = (size - 1) // 2
    expected = [naive_window(image, x - before, y - before, size, size) for x, y in centres]
    np.testing.assert_array_equal(found, np.stack(expected))
    assert found.dtype == image.dtype


def test_the_centre_pixel_is_in_the_middle():
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    found = patches.crop(image, np.array([[3, 7]]), 5)
    assert found[0, 2, 2] == image[7, 3]


def test_crop_of_no_centre_is_empty():
    assert patches.crop(np.zeros((5, 5), np.uint8), np.zeros((0, 2), int), 3).shape == (0, 3, 3)


@pytest.mark.parametrize("centres", [np.zeros((3, 2)), np.zeros((2,), int), np.zeros((1, 3), int)])
def test_wrong_centres_are_refused(centres):
    with pytest.raises(ValueError, match="Centres must be whole numbers"):
        patches.crop(np.zeros((5, 5), np.uint8), centres, 3)


@pytest.mark.parametrize("box", [(3, 2, 5, 4), (-6, -4, 12, 9), (15, 25, 30, 10)])
def test_window_equals_a_slice_of_a_padded_image(box):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(patches.window(image, *box), naive_window(image, *box))


def test_boxes_are_enlarged_about_their_centre_then_shifted_by_the_new_size():
    found = patches.boxes((10, 20, 40, 80), scales=(1.0, 1.5), shift=0.1)
    expected = [
        [(10, 20, 40, 80), (6, 20, 40, 80), (14, 20, 40, 80), (10, 12, 40, 80), (10, 28, 40, 80)],
        [
            (0, 0, 60, 120),
            (-6, 0, 60, 120),
            (6, 0, 60, 120),
            (0, -12, 60, 120),
            (0, 12, 60, 120),
        ],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 5, 5, 3)])
def test_dihedral_gives_the_eight_symmetries_of_the_square(shape):
    batch = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    found = patches.dihedral(batch)
    transposed = np.swapaxes(batch, 1, 2)
    flips = [(), (1,), (2,), (1, 2)]
    expected = {np.flip(b, axis=f).tobytes() for b in (batch, transposed) for f in flips}
    assert len(expected) == 8
    assert {np.ascontiguousarray(version).tobytes() for version in found} == expected
    np.testing.assert_array_equal(found[0], batch)
    np.testing.assert_array_equal(found[4], batch[:, :, ::-1])
    np.testing.assert_array_equal(found[1], transposed[:, ::-1])  # anticlockwise


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("box", [(10, 6, 20, 14), (3.3, 8.7, 21.9, 17.2), (-6, 20, 30, 30)])
def test_resample_is_bilinear_between_centres(channels, box):
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(
        rng.uniform(0, 255, (48, 60, *channels)), (2, 2, *(0 for _ in channels))
    )
    image = np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    side = 32
    x, y, width, height = box
    columns = x + (np.arange(side) + 0.5) * width / side - 0.5
    rows = y + (np.arange(side) + 0.5) * height / side - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    planes = np.atleast_3d(image).astype(float)
    expected = np.stack(
        [
            ndimage.map_coordinates(planes[..., k], grid, order=1, mode="mirror")
            for k in range(planes.shape[-1])
        ],
        axis=-1,
    ).reshape(side, side, *channels)
    found = patches.resample(image, np.array([box]), side)
    assert found.shape == (1, side, side, *channels)
    # OpenCV places its samples to 1/32 of a pixel.
    assert np.abs(found[0] - expected).max() <= 0.5 + np.abs(np.diff(planes, axis=1)).max() / 16


def test_resample_averages_before_it_reduces():
    image = np.zeros((64, 64), np.uint8)
    image[:, ::2] = 200  # stripes that aliasing would turn into black or white
    found = patches.resample(image, np.array([[0, 0, 64, 64]]), 16)
    assert np.ptp(found[0, :, 1:-1].astype(int)) <= 2
    assert abs(int(found[0, 8, 8]) - 100) <= 2


def test_resample_of_a_whole_image_at_its_size_is_the_image():
    image = np.random.default_rng(4).integers(0, 256, (20, 20, 3), np.uint8)
    found = patches.resample(image, np.array([[0, 0, 20, 20]]), 20)
    np.testing.assert_array_equal(found[0], image)
