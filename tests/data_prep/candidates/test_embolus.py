import dataclasses

import numpy as np
import pytest
from scipy import ndimage, spatial

from data_prep.candidates import _lungs, _toboggan, embolus
from data_prep.errors import UserError
from data_prep.readers._images import Unusable


def slide_one_by_one(values, inside):
    """Sliding in plain Python: the linear index at which every voxel inside ends."""
    shape = values.shape

    def index(voxel):
        return (voxel[0] * shape[1] + voxel[1]) * shape[2] + voxel[2]

    ends = {}
    for start in map(tuple, np.argwhere(inside)):
        voxel = start
        while True:
            best = (values[voxel], index(voxel), voxel)
            for step in np.ndindex(3, 3, 3):
                other = tuple(v + s - 1 for v, s in zip(voxel, step, strict=True))
                if all(0 <= v < size for v, size in zip(other, shape, strict=True)):
                    if inside[other]:
                        best = min(best, (values[other], index(other), other))
            if best[2] == voxel:
                break
            voxel = best[2]
        ends[index(start)] = index(voxel)
    return ends


@pytest.mark.parametrize("seed", range(12))
def test_toboggan_equals_sliding_voxel_by_voxel(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 12, 3)
    # Few levels make plateaus, where the rule for ties decides.
    values = rng.integers(-50, 100, shape) // (1 if seed % 2 else 40)
    if seed % 3 == 0:
        values = ndimage.gaussian_filter(values.astype(np.float32), 1.0)
    inside = rng.random(shape) < rng.uniform(0.3, 1.0)
    voxels, rest = _toboggan.slide(values, inside)
    ends = slide_one_by_one(values, inside)
    assert dict(zip(voxels.tolist(), voxels[rest].tolist(), strict=True)) == ends


def test_toboggan_of_nothing_and_of_a_long_slope():
    empty = _toboggan.slide(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool))
    assert [len(each) for each in empty] == [0, 0]
    slope = np.arange(5000.0).reshape(1, 1, -1)
    _, rest = _toboggan.slide(slope, np.ones(slope.shape, bool))
    assert not rest.any()
    with pytest.raises(ValueError, match="one shape"):
        _toboggan.slide(slope, np.ones((2, 2, 2), bool))


@pytest.mark.parametrize("seed", range(6))
def test_join_equals_taking_minima_one_by_one(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 10, (60, 3))
    heights = rng.integers(0, 8, 60)
    owner = np.full(60, -1)
    distances = spatial.distance.cdist(points, points)
    for number in sorted(range(60), key=lambda k: (heights[k], k)):
        if owner[number] < 0:
            owner[(distances[number] <= 2.5) & (owner < 0)] = number
    np.testing.assert_array_equal(_toboggan.join(points, heights, 2.5), owner)
    assert _toboggan.join(np.zeros((0, 3)), np.zeros(0), 2.5).size == 0


def rods(shape, spacing, middle, direction, radius):
    """Share of each voxel in an endless rod, a voxel's width of blur at its surface."""
    place = [
        ((np.arange(size) - centre) * step).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (size, centre, step) in enumerate(zip(shape, middle, spacing, strict=True))
    ]
    along = sum(p * d for p, d in zip(place, direction, strict=True))
    distance = np.sqrt(np.maximum(sum(p**2 for p in place) - along**2, 0))
    return np.clip(0.5 + (radius - distance) / max(spacing), 0, 1), distance, along


def thorax(contrast=350.0, spacing=(2.5, 1.6, 1.6), clots=True):
    """Two lungs in a body, an artery between them with a branch into each, a rib and a spine.

    Returns volume, masks of lungs and arteries, and the clots' labels.
    """
    shape = tuple(int(extent / step) for extent, step in zip((100, 190, 290), spacing, strict=True))
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij",
    )
    hu = np.where((y / 90) ** 2 + (x / 140) ** 2 < 1, 45.0, -1000.0)
    lungs = np.zeros(shape, bool)
    for side in (-1, 1):
        lungs |= (y / 65) ** 2 + ((x - side * 70) / 42) ** 2 + (z / 75) ** 2 < 1
    hu[lungs] = -850
    arteries = np.hypot(y, z) < 9
    arteries &= np.abs(x) < 45
    for side in (-1, 1):
        arteries |= (np.hypot(y, z) < 4.5) & (side * x > 40) & (side * x < 95)
    hu[arteries] = contrast
    hu[(np.hypot(y - 72, x) < 10)] = 250  # spine
    hu[(np.hypot(y - 72, x) < 8)] = 60
    labels = np.zeros(shape, np.int32)
    if clots:
        labels[((y - 3) ** 2 + z**2 + (x - 10) ** 2 < 16) & arteries] = 1
        labels[(y**2 + (z - 1) ** 2 + (x + 70) ** 2 < 8) & arteries] = 2
        hu[labels > 0] = 50
    hu = ndimage.gaussian_filter(hu, 0.6 / np.array(spacing))
    hu += np.random.default_rng(0).normal(0, 15, shape)
    filled = ndimage.binary_fill_holes(lungs | arteries)
    return (
        np.round(hu).astype(np.int16),
        np.array(spacing),
        filled & (np.abs(x) > 28),
        arteries,
        labels,
    )


@pytest.fixture(scope="module")
def phantom():
    return thorax()


@pytest.fixture(scope="module")
def candidates(phantom):
    return embolus.find(*phantom[:2])


def hits(candidates, labels):
    return {int(labels[each.voxel]) for each in candidates} - {0}


def test_every_embolus_is_found(phantom, candidates):
    assert hits(candidates, phantom[-1]) == {1, 2}
    assert len(candidates) <= 40


def test_masks_that_are_given_are_used(phantom):
    hu, spacing, lungs, arteries, labels = phantom
    without_clots = arteries & (labels == 0)
    candidates = embolus.find(hu, spacing, lung=lungs, vessels=without_clots)
    assert hits(candidates, labels) == {1, 2}
    near = ndimage.distance_transform_edt(~arteries, sampling=spacing) <= 9
    assert all(near[each.voxel] for each in candidates)
    only_left = arteries & (np.arange(hu.shape[2]) < hu.shape[2] * 0.4)
    assert hits(embolus.find(hu, spacing, vessels=only_left), labels) == {2}
    with pytest.raises(ValueError, match="does not fit"):
        embolus.find(hu, spacing, vessels=arteries[1:])


def test_what_a_candidate_says(phantom, candidates):
    hu, spacing, _, _, labels = phantom
    settings = embolus.DEFAULTS
    order = [np.ravel_multi_index(each.voxel, hu.shape) for each in candidates]
    assert order == sorted(order)
    for each in candidates:
        assert (each.voxels == each.voxel).all(axis=1).any()
        assert each.volume_mm3 == pytest.approx(len(each.voxels) * spacing.prod())
        assert settings.volume_mm3[0] <= each.volume_mm3 <= settings.volume_mm3[1]
        assert min(settings.enclosure) <= each.enclosure <= 1
        assert hu[each.voxel] < 200
    depth = {labels[each.voxel]: each.lung_depth_mm for each in candidates}
    assert depth[1] < 0 < depth[2]
    for most in (1, 3):
        limited = embolus.find(hu, spacing, settings=dataclasses.replace(settings, most=most))
        best = sorted(candidates, key=lambda each: -each.merit)[:most]
        assert {each.voxel for each in limited} == {each.voxel for each in best}


def test_the_same_volume_gives_the_same_candidates(phantom, candidates):
    hu, spacing, *_ = phantom
    again = embolus.find(hu, spacing)
    assert [each.voxel for each in again] == [each.voxel for each in candidates]
    for first, second in zip(again, candidates, strict=True):
        np.testing.assert_array_equal(first.voxels, second.voxels)


def test_no_contrast_agent_is_said():
    hu, spacing, lungs, arteries, _ = thorax(contrast=45.0, clots=False)
    for masks in ({}, {"lung": lungs}, {"vessels": arteries}):
        with pytest.raises(Unusable, match="no contrast agent.*contrast-enhanced CT"):
            embolus.find(hu, spacing, **masks)


def test_no_lung_is_said():
    with pytest.raises(UserError, match="no lung.*chest"):
        embolus.find(np.full((20, 40, 40), 40, np.int16), (2.0, 2.0, 2.0))


def test_clean_arteries_give_few_candidates():
    hu, spacing, *_ = thorax(clots=False)
    assert len(embolus.find(hu, spacing)) <= 10


def test_lungs_hold_their_vessels_and_no_outside_air(phantom):
    hu, spacing, lungs, _, _ = phantom
    grid = _lungs.Grid.over(hu.shape, spacing)
    found = grid.spread(_lungs.find_lungs(grid.take(hu), grid.spacing))
    assert 2 * (found & lungs).sum() / (found.sum() + lungs.sum()) > 0.95
    # A crop that cuts through the lungs, without any air round the body.
    crop = (slice(None), slice(25, -25), slice(60, -60))
    found = _lungs.find_lungs(hu[crop], spacing)
    assert (found & lungs[crop]).sum() > 0.9 * lungs[crop].sum()


def test_grid_spreads_to_the_nearest_point():
    grid = _lungs.Grid.over((7, 5, 4), np.array([1.0, 0.7, 2.5]))
    assert grid.step == (2, 3, 1)
    volume = np.arange(7 * 5 * 4).reshape(7, 5, 4)
    spread = grid.spread(grid.take(volume))
    assert spread.shape == volume.shape
    for axis in range(3):
        lines = np.moveaxis(spread, axis, 0).reshape(volume.shape[axis], -1)[:, 0]
        origin = np.moveaxis(volume, axis, 0).reshape(volume.shape[axis], -1)[:, 0]
        step = grid.step[axis]
        last = (volume.shape[axis] - 1) // step
        nearest = np.minimum((np.arange(volume.shape[axis]) + step // 2) // step, last) * step
        np.testing.assert_array_equal(lines, origin[nearest])
    box = (slice(1, 6), slice(2, 5), slice(0, 3))
    np.testing.assert_array_equal(grid.spread(grid.take(volume), box), spread[box])


def test_morphology_by_balls_equals_distances():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.normal(size=(9, 12, 14)), 1.5) > 0
    spacing = np.array([2.0, 1.0, 1.5])
    points, inside = np.argwhere(np.ones_like(mask)) * spacing, np.argwhere(mask) * spacing
    near = spatial.distance.cdist(points, inside).min(axis=1).reshape(mask.shape) <= 2.5
    np.testing.assert_array_equal(_lungs.dilate(mask, spacing, 2.5), near)
    outside = np.argwhere(~mask) * spacing
    far = spatial.distance.cdist(points, outside).min(axis=1).reshape(mask.shape) > 2.5
    np.testing.assert_array_equal(_lungs.erode(mask, spacing, 2.5), far & mask)
    closed = _lungs.close(mask, spacing, 2.5)
    assert (closed | ~mask).all()
    depth = _lungs.depth(mask, spacing)
    assert ((depth > 0) == mask).all()
    assert not _lungs.dilate(np.zeros_like(mask), spacing, 2.5).any()
    assert not _lungs.depth(np.ones_like(mask), spacing).any()


@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 5, 5)])
def test_slope_is_the_gradient(shape):
    rng = np.random.default_rng(0)
    values, spacing = rng.normal(size=shape), np.array([2.5, 0.7, 0.8])
    places = np.argwhere(rng.random(shape) < 0.5)
    steps = [(axis, side) for axis, side in enumerate(spacing) if shape[axis] > 1]
    parts = np.gradient(values, *(s for _, s in steps), axis=tuple(a for a, _ in steps))
    expected = np.sqrt(sum(part**2 for part in parts))[tuple(places.T)]
    np.testing.assert_allclose(embolus._slope(values, places, spacing), expected)


def test_a_clot_does_not_drain_into_the_border_of_its_vessel():
    """A clot against the wall of an artery in the lung, at whose border the HU fall further."""
    spacing = np.array([1.0, 0.8, 0.8])
    share, _, along = rods((60, 50, 50), spacing, (30, 25, 25), (0.8, 0.6, 0.0), 4.0)
    clot = (np.abs(along) < 4) & ((np.arange(50) - 25) * spacing[2] > -1.2)
    hu = -850 + share * np.where(clot, 50 + 850, 350 + 850)
    hu = ndimage.gaussian_filter(hu, 0.7 / spacing)
    hu += np.random.default_rng(1).normal(0, 15, hu.shape)
    everything = np.ones(hu.shape, bool)
    steepest, floor = embolus.DEFAULTS.steepest, embolus.DEFAULTS.floor_hu
    for *how, found in (
        (np.inf, -1000.0, False),
        (steepest, -1000.0, True),
        (np.inf, floor, True),
        (steepest, floor, True),
    ):
        settings = dataclasses.replace(embolus.DEFAULTS, steepest=how[0], floor_hu=how[1])
        candidates = embolus.find(hu.astype(np.int16), spacing, everything, settings=settings)
        assert any((clot & (share > 0.5))[each.voxel] for each in candidates) == found


def test_real_artery_with_a_clot(real_data):
    """A dark sphere in the pulmonary artery of a real contrast-enhanced CT is found."""
    nibabel = pytest.importorskip("nibabel")
    folder = real_data / "ct" / "contrast_ct_pulmonary_artery"
    if not folder.is_dir():
        pytest.skip(f"no contrast-enhanced CT in {folder}")
    hu, artery = (
        np.asarray(nibabel.load(folder / name).dataobj).T
        for name in ("ct_cropped.nii.gz", "pulmonary_artery.nii.gz")
    )
    spacing, artery = np.full(3, 1.5), artery > 0
    box = ndimage.find_objects(artery.astype(np.uint8))[0]  # with the lungs beside it
    box = tuple(slice(max(0, part.start - 12), part.stop + 12) for part in box)
    hu, artery = hu[box], artery[box]
    depth = ndimage.distance_transform_edt(artery)
    centre = np.unravel_index(np.argmax(depth), depth.shape)
    distance = np.sqrt(sum((i - c) ** 2 for i, c in zip(np.indices(hu.shape), centre, strict=True)))
    clot = distance < 3
    with_clot = ndimage.gaussian_filter(clot.astype(np.float32), 0.5)
    hu = np.round(hu + with_clot * (50 - hu)).astype(np.int16)
    for vessels in (None, artery):
        candidates = embolus.find(hu, spacing, vessels=vessels)
        assert any(clot[each.voxel] for each in candidates)
        assert len(candidates) < 800
