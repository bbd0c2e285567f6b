import numpy as np
import pytest

from data_prep.candidates import _verify

CENTRE = np.array([50.0, 40.0])


def slow_outline(points, normals, weights, expected, sd, farthest):
    radii = [6 * (farthest / 6) ** (k / 23) for k in range(24)]
    strength = np.zeros((36, 24))
    for (x, y), normal, weight in zip(points, normals, weights, strict=True):
        dx, dy = CENTRE[0] - x, CENTRE[1] - y
        distance = np.hypot(dx, dy)
        sector = round(np.rad2deg(np.arctan2(-dy, -dx))) % 360 // 10
        pull = weight * (dx * normal[0] + dy * normal[1]) / distance
        for k, radius in enumerate(radii):
            if 1 / 1.2 < distance / radius < 1.2:
                for side, worth in ((-1, 0.75), (0, 1), (1, 0.75)):
                    other = (sector + side) % 36
                    strength[other, k] = max(strength[other, k], worth * pull)
    found = []
    for sector in range(36):
        middle = np.mean(np.log(expected[sector * 10 : sector * 10 + 10]))
        cost = [0.1 * ((np.log(radius) - middle) / sd) ** 2 for radius in radii]
        found.append(radii[int(np.argmax(strength[sector] - cost))])
    return np.array([np.median([found[(s + d) % 36] for d in range(-2, 3)]) for s in range(36)])


def test_outline_equals_a_loop_over_edges_and_sectors():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (80, 2))
    angles = rng.uniform(0, 2 * np.pi, 80)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights, expected = rng.uniform(0.4, 1, 80), rng.uniform(20, 40, 360)
    args = expected, 0.5, 90.0
    found = _verify.outline(points, normals, weights, CENTRE, *args)
    np.testing.assert_allclose(found, slow_outline(points, normals, weights, *args))


def test_outline_follows_an_ellipse_and_the_expectation_where_there_is_no_edge():
    angles = np.deg2rad(np.arange(0, 360, 4))
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radius = 1 / np.hypot(np.cos(angles) / 34, np.sin(angles) / 22)
    points = CENTRE + radius[:, None] * unit
    seen = (angles < np.deg2rad(100)) | (angles > np.deg2rad(200))
    expected = np.full(360, 50.0)
    found = _verify.outline(
        points[seen], -unit[seen], np.ones(seen.sum()), CENTRE, expected, 0.5, 90.0
    )
    middles = np.deg2rad(np.arange(36) * 10 + 4.5)
    truth = 1 / np.hypot(np.cos(middles) / 34, np.sin(middles) / 22)
    truth[11:19] = 50
    np.testing.assert_allclose(np.log(found / truth)[12:18], 0, atol=0.1)
    around = np.r_[0:9, 21:36]
    np.testing.assert_allclose(np.log(found / truth)[around], 0, atol=0.25)
    box = _verify.corners(CENTRE, found)
    assert box.shape == (36, 2)
    np.testing.assert_allclose(np.hypot(*(box - CENTRE).T), found)


def test_no_edges_give_the_expectation():
    none = np.zeros((0, 2))
    found = _verify.outline(none, none, np.zeros(0), CENTRE, np.full(360, 30.0), 0.5, 90.0)
    np.testing.assert_allclose(np.log(found / 30), 0, atol=0.08)


def test_the_judge_maximises_the_penalised_likelihood():
    rng = np.random.default_rng(1)
    rows = rng.normal(3, [1, 2, 0.1], (400, 3))
    positive = rows[:, 0] - 4 * rows[:, 2] + rng.normal(0, 1, 400) > -9
    judge = _verify.learn(rows, positive)
    sd = rows.std(axis=0)

    def loss(weights, intercept):
        margin = np.where(positive, 1, -1) * (rows @ weights + intercept)
        return np.log1p(np.exp(-margin)).sum() + np.square(weights * sd).sum() / (2 * 0.3)

    least = loss(judge.weights, judge.intercept)
    for _ in range(50):
        step = rng.normal(0, 0.02, 3) / sd
        assert loss(judge.weights + step, judge.intercept - step @ rows.mean(axis=0)) > least
    chance = judge.probability(rows)
    assert chance.shape == (400,)
    assert chance[positive].mean() > chance[~positive].mean() + 0.1
    assert chance.mean() == pytest.approx(positive.mean(), abs=1e-3)
    with pytest.raises(ValueError, match="both kinds"):
        _verify.learn(rows, np.ones(400, bool))
