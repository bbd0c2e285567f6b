"""Patches of polyp candidates, and the lesions by which they are labelled."""

import numpy as np
import pytest
from scipy import ndimage

from data_prep import patches, polyp_patches
from data_prep.errors import UserError

SETTINGS = polyp_patches.Settings(patch=24, min_lesion=0.001)


def test_lesions_are_connected_spots_of_some_size():
    mask = np.zeros((100, 120), bool)
    mask[10:30, 10:40] = True
    mask[30:50, 40:60] = True  # touches the first at a corner
    mask[70:90, 80:110] = True
    mask[95, 5:10] = True  # a speck
    labels, found = polyp_patches.lesions(mask, SETTINGS)
    expected, count = ndimage.label(mask, np.ones((3, 3)))
    assert count == 3 and len(found) == 2
    assert found[0] == {"area": 20 * 30 + 20 * 20, "x": 10, "y": 10, "width": 50, "height": 40}
    assert found[1] == {"area": 600, "x": 80, "y": 70, "width": 30, "height": 20}
    for index, lesion in enumerate(found):
        place = expected == expected[lesion["y"], lesion["x"]]
        np.testing.assert_array_equal(labels == index, place)
    assert labels[95, 6] == polyp_patches.IGNORED and labels[60, 60] == -1


class Frame:
    """Two boxes that overlap."""

    mask = None
    image = np.zeros((40, 50, 3), np.uint8)
    boxes = ((5, 6, 10, 8), (12, 10, 10, 10))


def test_boxes_become_a_mask():
    mask = polyp_patches.annotation(Frame)
    assert mask[6:14, 5:15].all() and mask[10:20, 12:22].all()
    assert mask.sum() == 80 + 100 - 3 * 4


def test_boxes_that_overlap_are_two_lesions():
    labels, found = polyp_patches.lesions_of(Frame, SETTINGS)
    assert [lesion["area"] for lesion in found] == [80, 100]
    assert (labels == 0).sum() == 80 and (labels == 1).sum() == 100 - 3 * 4
    assert (labels >= 0).sum() == polyp_patches.annotation(Frame).sum()


def test_views_are_square_boxes_at_all_scales_and_shifts():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (90, 120, 3)), (2, 2, 0))
    image = np.rint(image).astype(np.uint8)
    found = polyp_patches.views(image, (40, 30, 20, 10), SETTINGS)
    assert found.shape == (15, 24, 24, 3)
    for number, scale in enumerate(SETTINGS.scales):
        side = 20 * scale
        moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
        for place, (right, down) in enumerate(moves):
            x = 50 - side / 2 + 0.1 * side * right
            y = 35 - side / 2 + 0.1 * side * down
            expected = patches.resample(image, np.array([[x, y, side, side]]), 24)[0]
            np.testing.assert_array_equal(found[5 * number + place], expected)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"patch": 8}, "--patch"),
        ({"scales": ()}, "--scales"),
        ({"scales": (0.0,)}, "--scales"),
        ({"shift": 1.0}, "--shift"),
        ({"test_mirrors": 4}, "--test_mirrors"),
    ],
)
def test_settings_that_cannot_be(changes, name):
    with pytest.raises(UserError, match=name):
        polyp_patches.Settings(**changes)
