import numpy as np
import pytest
from scipy import ndimage, optimize

from medxfer.evaluation import snakes
from medxfer.evaluation.boundary import Boundaries


def differences(size, order):
    return np.diff(np.eye(size), n=order, axis=0) if size > order else np.zeros((0, size))


def dense_stiffness(size, a, b):
    first, second = differences(size, 1), differences(size, 2)
    return a * first.T @ first + b * second.T @ second


def energy_of(rows, score, a, b, kappa, sigma):
    """The energy from its definition: dense matrices, and P averaged over one row by quadrature."""
    potential = -kappa * ndimage.gaussian_filter(score, sigma, mode="nearest")
    elastic = rows @ dense_stiffness(len(rows), a, b) @ rows / 2
    nodes, weights = np.polynomial.legendre.leggauss(4)
    external = 0.0
    for x, y in enumerate(rows):
        low, kink, high = y - 0.5, np.floor(y + 0.5), y + 0.5
        for start, stop in ((low, kink), (kink, high)):  # linear on either side of a pixel centre
            at = (start + stop) / 2 + (stop - start) / 2 * nodes
            values = np.interp(at, np.arange(len(score)), potential[:, x])
            external += (stop - start) / 2 * weights @ values
    return elastic + external


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("a", "b"), [(0.01, 0.5), (2.0, 0.0), (0.0, 3.0)])
def test_stiffness_against_dense_matrices(size, a, b):
    bands = snakes.stiffness_bands(size, a, b)
    dense = np.zeros((size, size))
    for offset in range(min(3, size)):
        diagonal = bands[2 - offset, offset:]
        dense += np.diag(diagonal, offset) + (np.diag(diagonal, -offset) if offset else 0)
    np.testing.assert_allclose(dense, dense_stiffness(size, a, b), atol=1e-12)


@pytest.mark.parametrize(("height", "slope"), [(5.0, 0.0), (2.0, 0.3), (30.0, -0.25)])
def test_without_map_and_tension_a_straight_line_stays(height, slope):
    line = height + slope * np.arange(80)
    snake = snakes.open_snake(np.zeros((60, 80)), line, a=0)
    np.testing.assert_allclose(snake.rows, line, atol=1e-9)
    assert snake.converged
    assert snake.iterations <= 1


def test_with_tension_alone_a_line_shrinks_to_its_mean():
    line = 10 + 0.2 * np.arange(30)
    settings = dict(a=5.0, b=0.0, g=0.1, max_iterations=5000, tolerance=1e-6)
    snake = snakes.open_snake(np.zeros((60, 30)), line, **settings)
    np.testing.assert_allclose(snake.rows, line.mean(), atol=1e-2)


@pytest.mark.parametrize("g", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_energy_never_rises(seed, g):
    rng = np.random.default_rng(seed)
    score = rng.random((40, 50)) * 10  # rough: P'' far above g
    settings = dict(a=0.01, b=0.5, kappa=1.0, sigma=0.5)
    start = rng.uniform(0, 39, 50)
    snake = snakes.open_snake(score, start, g=g, **settings)
    assert (np.diff(snake.energies) <= 0).all()
    assert snake.energies[0] == pytest.approx(energy_of(start, score, **settings))
    assert snake.energies[-1] == pytest.approx(energy_of(snake.rows, score, **settings))
    assert snake.rows.min() >= 0
    assert snake.rows.max() <= 39


def test_force_is_the_derivative_of_the_energy():
    rng = np.random.default_rng(5)
    potential = rng.normal(size=(12, 40))
    rows = rng.uniform(-1, 12, 40)  # beyond the map too
    step = 1e-6
    slope = (
        snakes._between_rows(potential, rows + step) - snakes._between_rows(potential, rows - step)
    ) / (2 * step)
    np.testing.assert_allclose(snakes._force(potential, rows), slope, atol=1e-6)


def test_force_is_the_central_difference_of_the_linear_interpolation():
    rng = np.random.default_rng(6)
    potential = rng.normal(size=(12, 40))
    rows = rng.uniform(0.5, 10.5, 40)
    grid = np.arange(12)
    expected = [
        np.interp(y + 0.5, grid, p) - np.interp(y - 0.5, grid, p)
        for y, p in zip(rows, potential.T, strict=True)
    ]
    np.testing.assert_allclose(snakes._force(potential, rows), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_general_minimiser(seed):
    """One smooth valley per column, so that the minimum is one."""
    rng = np.random.default_rng(seed)
    ridge = 15 + np.cumsum(rng.normal(size=12))
    score = -0.02 * (np.arange(30)[:, None] - ridge) ** 2
    settings = dict(a=0.05, b=0.4, kappa=1.5, sigma=1.0)
    start = np.full(12, 14.0)
    snake = snakes.open_snake(score, start, g=0.5, max_iterations=3000, tolerance=1e-8, **settings)
    best = optimize.minimize(
        energy_of, start, args=(score, *settings.values()), method="BFGS", options={"gtol": 1e-7}
    )
    np.testing.assert_allclose(snake.rows, best.x, atol=1e-3)
    assert snake.energies[-1] == pytest.approx(best.fun, abs=1e-8)
    assert snake.converged


def test_smooths_outliers_of_the_start_onto_the_ridge():
    ridge = 20 + 3 * np.sin(np.arange(90) / 20)
    score = np.exp(-((np.arange(60)[:, None] - ridge) ** 2) / 8)
    rng = np.random.default_rng(7)
    start = ridge + rng.normal(0, 1.5, 90)
    snake = snakes.open_snake(score, start)
    assert np.abs(snake.rows - ridge).mean() < 0.25 * np.abs(start - ridge).mean()


def test_stays_inside_the_map():
    score = np.zeros((10, 20))
    score[0] = 5  # pulls beyond the first row
    snake = snakes.open_snake(score, np.full(20, 1.0), kappa=10)
    assert snake.rows.min() >= 0
    assert (np.diff(snake.energies) <= 0).all()


def test_a_pair_is_two_snakes():
    li, ma = np.random.default_rng(8).random((2, 30, 40))
    start = Boundaries(np.full(40, 8.0), np.full(40, 20.0))
    pair = snakes.open_snakes(li, ma, start, b=2.0)
    np.testing.assert_array_equal(pair.li, snakes.open_snake(li, start.li, b=2.0).rows)
    np.testing.assert_array_equal(pair.ma, snakes.open_snake(ma, start.ma, b=2.0).rows)


@pytest.mark.parametrize(
    ("start", "settings", "message"),
    [
        (np.zeros(3), {}, "a row per column"),
        ([0, np.nan], {}, "finite"),
        (np.zeros(2), {"g": 0}, "g > 0"),
        (np.zeros(2), {"a": -1}, "a, b >= 0"),
    ],
)
def test_refuses_what_has_no_meaning(start, settings, message):
    with pytest.raises(ValueError, match=message):
        snakes.open_snake(np.zeros((5, 2)), start, **settings)
