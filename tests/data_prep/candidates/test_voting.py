import numpy as np
import pytest

from data_prep.candidates import _voting


def slowly(points, directions, weights, shape, step, sigma, groups):
    """Votes cell by cell, of voters whose normals lie on the 32 directions."""
    rows, columns = -(-shape[0] // step), -(-shape[1] // step)
    votes = np.zeros((groups, rows, columns))
    for (px, py), direction, weight in zip(points // step, directions, weights, strict=True):
        angle = direction * 2 * np.pi / 32
        group = round((direction % 16) * groups / 16) % groups
        for y in range(rows):
            for x in range(columns):
                dx, dy = x - px, y - py
                distance = np.hypot(dx, dy)
                if distance:
                    cosine = (dx * np.cos(angle) + dy * np.sin(angle)) / distance
                    votes[group, y, x] += weight * np.exp(-distance * step / sigma) * max(cosine, 0)
    return votes


@pytest.mark.parametrize(("shape", "step", "groups"), [((40, 57), 4, 4), ((23, 20), 1, 8)])
def test_votes_equal_a_sum_over_voters_and_cells(shape, step, groups):
    rng = np.random.default_rng(0)
    points = np.stack([rng.integers(0, shape[1], 12), rng.integers(0, shape[0], 12)], axis=1)
    directions = rng.integers(0, 32, 12)
    angles = directions * 2 * np.pi / 32 + rng.uniform(-0.08, 0.08, 12)  # rounded away
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights = rng.uniform(0.5, 1, 12)
    found = _voting.accumulate(points, normals, weights, shape, step, (6.0, 15.0), groups)
    for number, sigma in enumerate((6.0, 15.0)):
        expected = slowly(points, directions, weights, shape, step, sigma, groups)
        np.testing.assert_allclose(found[number], expected, atol=2e-5)


def test_no_voters():
    empty = np.zeros((0, 2))
    votes = _voting.accumulate(empty, empty, np.zeros(0), (20, 30), 4, (10.0,), 4)
    assert votes.shape == (1, 4, 5, 8)
    assert not votes.any()


def test_combination_is_the_sum_over_pairs():
    votes = np.random.default_rng(1).uniform(size=(3, 4, 5, 6)).astype(np.float32)
    pairs = sum(votes[:, i] * votes[:, j] for i in range(4) for j in range(i))
    np.testing.assert_allclose(_voting.combine(votes), np.sqrt(pairs), rtol=1e-5)


def test_parallel_edges_elect_nothing_and_a_circle_its_centre():
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    outward = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circle = np.array([60, 40]) + 24 * outward
    votes = _voting.accumulate(circle, -outward, np.ones(64), (100, 120), 4, (20.0,), 4)
    surface = _voting.combine(votes)[0]
    y, x = np.unravel_index(surface.argmax(), surface.shape)
    assert np.hypot((x + 0.5) * 4 - 60.5, (y + 0.5) * 4 - 40.5) < 24
    assert surface[40 // 4, 60 // 4] > 0.8 * surface.max()
    line = np.stack([np.full(30, 30.0), np.arange(30, 60)], axis=1)
    normals = np.tile([1.0, 0.0], (30, 1))
    lonely = _voting.combine(
        _voting.accumulate(line, normals, np.ones(30), (100, 120), 4, (20.0,), 4)
    )
    assert lonely.max() < 1e-3 * surface.max()


def test_maxima_are_the_highest_and_lower_their_surroundings():
    surface = np.zeros((30, 40), np.float32)
    for x, y, height in ((5, 5, 1.0), (7, 5, 0.9), (30, 20, 0.5), (20, 28, 0.8)):
        surface[y, x] = height
    allowed = np.ones_like(surface, bool)
    allowed[28] = False
    found = _voting.maxima(surface, allowed, 4.0, 10)
    # 0.9 * (1 - exp(-4 / 32)) = 0.106 is what the neighbour keeps.
    np.testing.assert_array_equal(found, [[5, 5], [30, 20], [7, 5]])
    np.testing.assert_array_equal(_voting.maxima(surface, allowed, 4.0, 1), [[5, 5]])
    assert _voting.maxima(np.zeros((4, 4)), np.ones((4, 4), bool), 2.0, 3).shape == (0, 2)
