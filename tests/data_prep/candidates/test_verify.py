import numpy as np
import pytest

from data_prep.candidates import _verify

CENTRE = (50.0, 40.0)


def slow_strength(points, normals, weights, middle, factor, sign):
    strength = np.zeros(36)
    for (x, y), normal, weight in zip(points, normals, weights, strict=True):
        dx, dy = CENTRE[0] - x, CENTRE[1] - y
        distance = np.hypot(dx, dy)
        degree = round(np.rad2deg(np.arctan2(-dy, -dx))) % 360
        if middle[degree] / factor <= distance <= middle[degree] * factor:
            pull = sign * weight * (dx * normal[0] + dy * normal[1]) / distance
            strength[degree // 10] = max(strength[degree // 10], pull)
    return strength


def test_evidence_equals_a_loop_over_edges():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (60, 2))
    angles = rng.uniform(0, 2 * np.pi, 60)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights, middle = rng.uniform(0.4, 1, 60), rng.uniform(20, 40, 360)
    found = _verify.evidence(points, normals, weights, CENTRE, middle, 1.5, 0.7, 0.5, 2.0)
    inner = slow_strength(points, normals, weights, middle, 1.5, 1)
    outer = slow_strength(points, normals, weights, middle, 1.5, -1)
    expected = [
        np.log(0.501), 0.25, 0.7, inner.mean(), np.maximum(inner[:18], inner[18:]).mean(),
        inner.mean() - outer.mean(), np.log(middle.mean()),
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected)
    assert len(found) == len(_verify.FEATURES)


def test_no_edges_are_no_evidence():
    none = np.zeros((0, 2))
    found = _verify.evidence(none, none, np.zeros(0), CENTRE, np.full(360, 9.0), 1.5, 0, 1, 1)
    np.testing.assert_array_equal(found[2:6], 0)


def test_the_judge_maximises_the_penalised_likelihood():
    rng = np.random.default_rng(1)
    rows = rng.normal(3, [1, 2, 0.1, 1, 1, 1, 5], (400, 7))
    positive = rows[:, 0] - 4 * rows[:, 2] + rng.normal(0, 1, 400) > -9
    judge = _verify.learn(rows, positive)
    sd = rows.std(axis=0)

    def loss(weights, intercept):
        margin = np.where(positive, 1, -1) * (rows @ weights + intercept)
        return np.log1p(np.exp(-margin)).sum() + np.square(weights * sd).sum() / (2 * 0.3)

    least = loss(judge.weights, judge.intercept)
    for _ in range(50):
        step = rng.normal(0, 0.02, 7) / sd
        assert loss(judge.weights + step, judge.intercept - step @ rows.mean(axis=0)) > least
    chance = judge.probability(rows)
    assert chance.shape == (400,)
    assert chance[positive].mean() > chance[~positive].mean() + 0.1
    assert chance.mean() == pytest.approx(positive.mean(), abs=1e-3)
    with pytest.raises(ValueError, match="both kinds"):
        _verify.learn(rows, np.ones(400, bool))
