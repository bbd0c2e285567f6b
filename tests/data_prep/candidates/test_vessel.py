import collections
import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data_prep.candidates import vessel
from data_prep.candidates._sampling import sample_planes
from data_prep.candidates.embolus import Candidate
from tests.data_prep.candidates import tubes

SPACINGS = [(1.0, 0.7, 0.7), (2.5, 0.6, 0.6)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_axis_of_tubes_is_right(spacing):
    errors = []
    for number, direction in enumerate(tubes.directions(12)):
        radius, bend = [1.5, 2.5, 4.0, 7.0][number % 4], [None, 30.0][number // 4 % 2]
        volume, candidate = tubes.tube(spacing, radius, direction, bend, seed=number, side_mm=32)
        axis = vessel.axis(volume, spacing, candidate)
        assert axis.kind == vessel.POINTS
        assert axis.radius_mm == pytest.approx(radius, abs=1.0)
        errors.append(tubes.angle(axis.directions[0], direction))
    assert np.median(errors) <= 5
    assert np.percentile(errors, 95) <= 15


def test_axis_of_a_vessel_as_wide_as_the_ball():
    direction = tubes.directions(1, seed=5)[0]
    volume, candidate = tubes.tube((1.5, 1.5, 1.5), 10.5, direction, clot=0.5, side_mm=50)
    axis = vessel.axis(volume, (1.5, 1.5, 1.5), candidate)
    assert axis.kind == vessel.POINTS
    assert tubes.angle(axis.directions[0], direction) <= 5


def test_axis_leaves_out_a_neighbour():
    spacing, direction = (1.0, 1.0, 1.0), np.array([1.0, 0, 0])
    volume, candidate = tubes.tube(spacing, 2.5, direction, side_mm=32)
    other = tubes.tube(spacing, 2.5, np.array([0, 0, 1.0]), clot=0.01, side_mm=32)[0]
    apart = np.maximum(volume, np.roll(other, 7, axis=1))
    axis = vessel.axis(apart, spacing, candidate)
    assert tubes.angle(axis.directions[0], direction) <= 5


def spot(shape):
    """A candidate of one voxel in the middle of a volume."""
    middle = tuple(size // 2 for size in shape)
    return Candidate(middle, np.array([middle]), 1.0, 50.0, 1.0, 150.0, 5.0)


def ball(radius=5.0, side=41):
    """A bright ball in lung: it has no direction."""
    place = np.indices((side,) * 3) - side // 2
    distance = np.sqrt((place**2).sum(axis=0))
    return np.where(distance <= radius, 400, -850).astype(np.int16)


def test_round_vessel_has_a_seeded_axis():
    volume = ball()
    axes = [
        vessel.axis(volume, (1, 1, 1), spot(volume.shape), seed).directions for seed in (3, 3, 4)
    ]
    assert vessel.axis(volume, (1, 1, 1), spot(volume.shape)).kind == vessel.SEEDED
    np.testing.assert_array_equal(axes[0], axes[1])
    assert tubes.angle(axes[0][0], axes[2][0]) > 1


def test_no_blood_at_all_has_a_seeded_axis():
    volume = np.full((9, 9, 9), 40, np.int16)
    assert vessel.axis(volume, (1, 1, 1), spot(volume.shape)).kind == vessel.SEEDED


def test_crossing_takes_the_hessian_axis():
    # Two branches across the vessel spread its points alike along and across it; at the candidate
    # itself, between them, the grey values still tell the direction.
    place = np.indices((41, 41, 41)) - 20.0
    main = np.hypot(place[0], place[1]) <= 2.5
    side = (np.hypot(place[0], place[2] - 4) <= 2.5) | (np.hypot(place[0], place[2] + 4) <= 2.5)
    volume = np.where(main | side, 400, -850)
    volume = ndimage.gaussian_filter(volume.astype(float), 0.7).astype(np.int16)
    axis = vessel.axis(volume, (1, 1, 1), spot(volume.shape))
    assert axis.kind == vessel.HESSIAN
    assert tubes.angle(axis.directions[0], (0, 0, 1)) <= 5


def test_directions_are_orthonormal_with_fixed_signs():
    for number, direction in enumerate(tubes.directions(4, seed=2)):
        volume, candidate = tubes.tube((1.5, 1.5, 1.5), 3, direction, seed=number)
        first, second, third = vessel.axis(volume, (1.5, 1.5, 1.5), candidate).directions
        np.testing.assert_allclose(np.cross(first, second), third, atol=1e-12)
        np.testing.assert_allclose([first @ first, second @ second], 1)
        assert abs(first @ second) < 1e-12
        assert first[np.argmax(np.abs(first))] > 0 and second[np.argmax(np.abs(second))] > 0


def random_directions(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0].T


@pytest.mark.parametrize("spacing", SPACINGS)
def test_planes_equal_interpolation_point_by_point(spacing):
    """Against map_coordinates, one patch at a time, from the definition."""
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 900, (24, 50, 60)).astype(np.int16)
    settings = vessel.Settings(side=20)
    first, second, third = basis = random_directions(1)
    voxel = (3, 30, 41)  # planes reach out of the volume
    images = vessel.planes(volume, spacing, voxel, basis, settings)
    views = vessel.views(settings)
    assert images.shape == (45, 20, 20, 3) and images.dtype == np.uint8
    assert len(views) == 45
    np.testing.assert_array_equal(images[..., 1], images[..., 2])
    for image, view in zip(images, views, strict=True):
        offsets = ((np.arange(20) + 0.5) / 20 - 0.5) * view.width_mm
        u, v = (each[..., None] for each in np.meshgrid(offsets, offsets, indexing="ij"))
        e2 = np.cos(view.rotation) * second + np.sin(view.rotation) * third
        e3 = -np.sin(view.rotation) * second + np.cos(view.rotation) * third
        shift = view.shift * view.width_mm
        for channel, points in enumerate(
            [(shift + u) * first + v * e2, shift * first + u * e2 + v * e3]
        ):
            places = (np.array(voxel) + points / spacing).transpose(2, 0, 1)
            hu = ndimage.map_coordinates(volume.astype(float), places, order=1, mode="nearest")
            expected = np.clip((hu + 100) / 600, 0, 1) * 255
            assert np.abs(image[..., channel] - expected).max() <= 0.51


def test_views_are_those_of_the_paper():
    views = vessel.views()
    assert {view.width_mm for view in views} == {10.0, 15.0, 20.0}
    assert {round(view.shift * view.width_mm, 6) for view in views} == {-4, -3, -2, 0, 2, 3, 4}
    np.testing.assert_allclose(
        sorted({view.rotation for view in views}), np.arange(5) * np.pi / 5, atol=1e-12
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 15, 30, 45])
def test_fewer_views_are_spread_over_all_that_varies(count):
    every, found = vessel.views(), vessel.spread(count)
    assert len({dataclasses.astuple(view) for view in found}) == count
    assert found == [view for view in every if view in found]
    for name, kinds in (("width_mm", 3), ("shift", 3), ("rotation", 5)):
        times = collections.Counter(getattr(view, name) for view in found)
        assert max(times.values()) <= count / kinds + 2
        assert len(times) >= min(kinds, count // 2)
    assert count > 1 or (found[0].width_mm, found[0].shift) == (15.0, 0.0)


def test_the_middle_view_and_wrong_numbers_of_views():
    assert vessel.middle() == vessel.View(15.0, 0.0, 0.0)
    few = dataclasses.replace(vessel.DEFAULTS, widths_mm=(12.0,), shifts=(0.0,), rotations=1)
    assert vessel.spread(1, few) == vessel.views(few) == [vessel.middle(few)]
    for count in (0, 46):
        with pytest.raises(ValueError, match="views"):
            vessel.spread(count)


@pytest.mark.parametrize("spacing", [(2.5, 0.6, 0.6), (1.0, 0.8, 0.5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_physical_width_is_right(spacing, seed):
    """A slab of known thickness across each axis of the volume, seen in planes at any angle."""
    basis = random_directions(seed)
    settings = dataclasses.replace(vessel.DEFAULTS, widths_mm=(20.0,), shifts=(0.0,), rotations=1)
    shape = np.round(60 / np.array(spacing)).astype(int)
    middle = (shape - 1) // 2
    for number in range(3):
        place = (np.arange(shape[number]) - middle[number]) * spacing[number]
        thickness = 5.0
        # The share of a voxel that lies in the slab; trilinear sampling then keeps its integral.
        low, high = place - spacing[number] / 2, place + spacing[number] / 2
        share = np.clip(np.minimum(high, thickness / 2) - np.maximum(low, -thickness / 2), 0, None)
        profile = (-100 + 600 * share / spacing[number]).reshape(
            [-1 if other == number else 1 for other in range(3)]
        )
        volume = np.broadcast_to(profile, shape)
        longitudinal, _ = vessel.sections(volume, spacing, middle, basis, settings)
        profile = (longitudinal[0].astype(float) + 100) / 600
        # The steeper direction of the plane crosses the slab; its width there is thickness / slope.
        slope, sums = max(
            (abs(basis[0][number]), profile.sum(axis=0)),
            (abs(basis[1][number]), profile.sum(axis=1)),
        )
        if thickness / slope > 9:
            continue  # runs out of the plane
        seen = sums[len(sums) // 2 - 2 : len(sums) // 2 + 2].mean() * 20 / settings.side
        assert seen * slope == pytest.approx(thickness, abs=0.5 * min(spacing))


def test_sampling_at_edges_and_of_thin_volumes():
    volume = np.arange(2 * 3, dtype=np.int16).reshape(1, 2, 3)
    values = sample_planes(volume, [[0, 0, 0]], [[0, 0.5, 0]], [[0, 0, 1]], (4, 5))
    expected = np.minimum(np.arange(4) * 0.5, 1)[:, None] * 3 + np.minimum(np.arange(5), 2)
    np.testing.assert_allclose(values[0], expected)


def test_large_planes_are_sampled_in_parts():
    volume = np.random.default_rng(0).normal(size=(8, 30, 30)).astype(np.float32)
    args = [[2, 3, 3]], [[0.01, 0.1, 0]], [[0.02, 0.0, 0.1]]
    values = sample_planes(volume, *args, (200, 150))
    i, j = np.indices((200, 150))
    places = [o + i * r + j * c for o, r, c in zip(*(each[0] for each in args), strict=True)]
    expected = ndimage.map_coordinates(volume, places, order=1, mode="nearest")
    np.testing.assert_allclose(values[0], expected, atol=1e-4)
