import numpy as np
import pytest

from data_prep.candidates import _band

CENTRE = (60.0, 50.0)


def ellipse(a, b, shape=(100, 120)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((x - CENTRE[0]) / a) ** 2 + ((y - CENTRE[1]) / b) ** 2 <= 1


def radius(a, b):
    angles = np.deg2rad(np.arange(360))
    return a * b / np.hypot(b * np.cos(angles), a * np.sin(angles))


def test_reach_of_a_cone_is_where_it_has_half_its_height():
    y, x = np.mgrid[:50, :60]
    centre = np.array([30.0, 25.0])
    cone = np.maximum(0, 1 - np.hypot(x - centre[0], y - centre[1]) / 20).astype(np.float32)
    found = _band.reach(cone, (centre + 0.5) * 2 - 0.5, 0.5, 2, 100)  # cells of two pixels
    np.testing.assert_allclose(found, 20, atol=2.5)
    flat = np.ones((50, 60), np.float32)
    inside = _band.reach(flat, (60.0, 50.0), 0.5, 2, 30)
    np.testing.assert_array_equal(inside, 30)


def test_boundary_of_an_ellipse():
    field = np.ones((100, 120), bool)
    found = _band.boundary(ellipse(30, 20), field, CENTRE, 100)
    np.testing.assert_allclose(found, radius(30, 20), atol=2.5)


def test_boundary_at_the_end_of_the_field_is_unknown():
    field = np.ones((100, 120), bool)
    field[:, 80:] = False
    found = _band.boundary(ellipse(30, 20) & field, field, CENTRE, 100)
    assert np.isnan(found[0])
    assert np.isfinite(found[90:270]).all()


def test_regression_recovers_its_law():
    rng = np.random.default_rng(0)
    law = _band.Regression(0.3, 0.6, 0.25, 0.1)
    reaches = [rng.uniform(5, 60) * rng.uniform(0.5, 2, 360) for _ in range(60)]
    distances = [law.distances(r) * np.exp(rng.normal(0, law.sd, 360)) for r in reaches]
    distances[3][10:200] = np.nan
    found = _band.fit(reaches, distances)
    for name in ("intercept", "own", "mean", "sd"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), abs=0.03)
    with pytest.raises(ValueError, match="No boundary"):
        _band.fit([], [])


def slow_probability(points, normals, centre, inner, outer, spacing):
    covered = np.zeros(360, bool)
    for (x, y), normal in zip(points, normals, strict=True):
        dx, dy = x - centre[0], y - centre[1]
        distance, angle = np.hypot(dx, dy), np.rad2deg(np.arctan2(dy, dx))
        degree = round(angle) % 360
        if not inner[degree] <= distance <= outer[degree] or dx * normal[0] + dy * normal[1] >= 0:
            continue
        width = np.rad2deg(np.arctan2(spacing, max(distance, 1)))
        for d in range(360):
            if abs((d - angle + 180) % 360 - 180) <= width:
                covered[d] = True
    return np.mean([covered[d] or covered[d + 180] for d in range(180)])


def test_probability_equals_a_loop_over_edges_and_degrees():
    rng = np.random.default_rng(1)
    for count in (0, 5, 40):
        points = rng.uniform(0, 120, (count, 2))
        normals = rng.normal(size=(count, 2))
        args = points, normals, CENTRE, np.full(360, 10.0), rng.uniform(20, 70, 360), 3.0
        assert _band.probability(*args) == pytest.approx(slow_probability(*args))


def test_half_a_circle_is_enough():
    angles = np.deg2rad(np.arange(0, 181, 4))
    outward = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points, band = np.array(CENTRE) + 30 * outward, (np.full(360, 25.0), np.full(360, 35.0))
    assert _band.probability(points, -outward, CENTRE, *band, 3.0) == 1
    assert _band.probability(points, outward, CENTRE, *band, 3.0) == 0
    assert _band.probability(points[:23], -outward[:23], CENTRE, *band, 3.0) < 0.6
