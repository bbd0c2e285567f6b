import itertools

import numpy as np
import pytest

from medxfer.evaluation import boundary
from medxfer.evaluation.boundary import Boundaries


class TestArgMaxRows:
    def test_against_a_loop_with_ties(self):
        rng = np.random.default_rng(0)
        score = rng.integers(0, 4, (7, 200)).astype(float)  # many ties
        expected = [np.mean(np.flatnonzero(column == column.max())) for column in score.T]
        np.testing.assert_allclose(boundary.arg_max_rows(score), expected)

    def test_a_tie_gives_the_mean_of_the_tied_rows(self):
        assert boundary.arg_max_rows([[1.0], [0.0], [1.0], [1.0]]) == pytest.approx(5 / 3)

    def test_refinement_finds_the_vertex_of_a_parabola(self):
        vertex = np.linspace(2.6, 6.4, 50)
        score = 3 - 0.2 * (np.arange(10)[:, None] - vertex) ** 2
        np.testing.assert_allclose(boundary.arg_max_rows(score, refine=True), vertex, atol=1e-12)

    @pytest.mark.parametrize(
        ("column", "row"),
        [([9, 1, 0, 0], 0), ([0, 0, 1, 9], 3), ([0, 5, 5, 0], 1.5), ([2, 2, 2, 2], 1.5)],
    )
    def test_refinement_leaves_border_and_ties(self, column, row):
        assert boundary.arg_max_rows(np.array(column)[:, None], refine=True) == row

    def test_refinement_moves_less_than_half_a_row(self):
        score = np.random.default_rng(1).random((12, 500))
        moved = boundary.arg_max_rows(score, refine=True) - boundary.arg_max_rows(score)
        assert np.abs(moved).max() <= 0.5
        assert np.count_nonzero(moved) > 300

    @pytest.mark.parametrize("score", [np.zeros(3), np.zeros((0, 3)), [[np.nan]], [[np.inf]]])
    def test_refuses_what_is_no_map(self, score):
        with pytest.raises(ValueError, match="Scores must be"):
            boundary.arg_max_rows(score)


def exhaustive(score_li, score_ma, min_gap, max_gap, max_step):
    """Highest total over all paths of pairs, by trying every one."""
    height, width = score_li.shape
    pairs = [(a, b) for a in range(height) for b in range(height) if min_gap <= b - a <= max_gap]
    best = -np.inf
    for path in itertools.product(pairs, repeat=width):
        steps = np.abs(np.diff(path, axis=0))
        if max_step is None or width == 1 or steps.max() <= max_step:
            total = sum(score_li[a, x] + score_ma[b, x] for x, (a, b) in enumerate(path))
            best = max(best, total)
    return best


class TestJointRows:
    @pytest.mark.parametrize("max_step", [None, 0, 1, 2])
    @pytest.mark.parametrize(("min_gap", "max_gap"), [(1, 4), (2, 3), (0, 1), (4, 4)])
    def test_is_the_best_of_all_paths(self, min_gap, max_gap, max_step):
        rng = np.random.default_rng(min_gap + 10 * max_gap)
        for width in (1, 4):
            li, ma = rng.normal(size=(2, 5, width))
            found = boundary.joint_rows(li, ma, min_gap, max_gap, max_step)
            gap = found.ma - found.li
            assert gap.min() >= min_gap
            assert gap.max() <= max_gap
            if max_step is not None and width > 1:
                assert np.abs(np.diff([found.li, found.ma], axis=1)).max() <= max_step
            x = np.arange(width)
            total = li[found.li.astype(int), x].sum() + ma[found.ma.astype(int), x].sum()
            assert total == pytest.approx(exhaustive(li, ma, min_gap, max_gap, max_step))

    def test_without_a_greatest_gap_any_pair_in_order_may_win(self):
        li, ma = np.zeros((2, 6, 1))
        li[0], ma[5] = 1, 1
        found = boundary.joint_rows(li, ma, 2)
        assert (found.li[0], found.ma[0]) == (0, 5)

    def test_loose_limits_give_the_maxima_of_each_map(self):
        li, ma = np.random.default_rng(3).random((2, 20, 30))
        li[10:], ma[:10] = -1, -1
        for step in (None, 19):
            found = boundary.joint_rows(li, ma, 1, None, step)
            np.testing.assert_array_equal(found.li, li.argmax(axis=0))
            np.testing.assert_array_equal(found.ma, ma.argmax(axis=0))

    @pytest.mark.parametrize(("min_gap", "max_gap"), [(5, 9), (3, 2), (-1, 2)])
    def test_refuses_limits_that_no_pair_satisfies(self, min_gap, max_gap):
        with pytest.raises(ValueError, match="rows apart"):
            boundary.joint_rows(np.zeros((5, 2)), np.zeros((5, 2)), min_gap, max_gap, 1)

    def test_refuses_a_negative_step_and_unequal_maps(self):
        with pytest.raises(ValueError, match="max_step"):
            boundary.joint_rows(np.zeros((5, 2)), np.zeros((5, 2)), 1, 2, -1)
        with pytest.raises(ValueError, match="one shape"):
            boundary.joint_rows(np.zeros((5, 2)), np.zeros((5, 3)), 1, 2)


class TestErrors:
    def test_mean_distance_in_micrometres(self):
        assert boundary.error_um([10, 12, 11], [11, 10, 11], 0.05) == pytest.approx(50)

    def test_columns_without_truth_are_left_out(self):
        assert boundary.error_um([10, 99, np.nan], [11, np.nan, np.nan], 0.05) == pytest.approx(50)

    def test_a_missing_prediction_is_not_forgiven(self):
        assert np.isnan(boundary.error_um([10, np.nan], [10, 10], 0.05))

    def test_nothing_scored_is_nan(self):
        assert np.isnan(boundary.error_um([1, 2], [np.nan, np.nan], 0.05))

    def test_refuses_unequal_widths(self):
        with pytest.raises(ValueError, match="one shape"):
            boundary.error_um([1, 2], [1], 0.05)


def dense_distance(points, chain, steps=20_000):
    """Distance of points to a chain by sampling it finely."""
    along = np.linspace(0, len(chain) - 1, steps)
    sampled = [np.interp(along, np.arange(len(chain)), axis) for axis in np.transpose(chain)]
    offset = np.asarray(points)[:, :, None] - np.array(sampled)
    return np.hypot(offset[:, 0], offset[:, 1]).min(axis=1)


class TestThickness:
    def test_vertical_mean_over_common_columns(self):
        pair = Boundaries([1, 2, np.nan, 4], [11, 12, 13, np.nan])
        assert boundary.thickness_mm(pair, 0.06) == pytest.approx(0.6)

    def test_nothing_known_is_nan(self):
        pair = Boundaries([1, np.nan], [np.nan, 2])
        assert np.isnan(boundary.thickness_mm(pair, 0.06))
        assert np.isnan(boundary.polyline_thickness_mm(pair, 0.06, 0.06))

    def test_polyline_of_level_lines_is_vertical(self):
        pair = Boundaries(np.full(50, 3.0), np.full(50, 13.0))
        assert boundary.polyline_thickness_mm(pair, 0.06, 0.06) == pytest.approx(0.6)

    def test_polyline_of_sloping_lines_shrinks_by_the_cosine(self):
        slope, x = 0.5, np.arange(600)
        pair = Boundaries(slope * x, slope * x + 10)
        expected = 10 / np.hypot(1, slope)
        assert boundary.polyline_thickness_mm(pair, 1.0, 1.0) == pytest.approx(expected, rel=5e-3)
        assert boundary.thickness_mm(pair, 1.0) == pytest.approx(10)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("sizes", [(1.0, 1.0), (0.05, 0.08), (0.12, 0.04)])
    def test_polyline_against_fine_sampling(self, seed, sizes):
        rng = np.random.default_rng(seed)
        li = np.cumsum(rng.normal(size=25))
        ma = li + 6 + np.cumsum(rng.normal(size=25)) / 3
        li[[3, 4]], ma[[4, 20]] = np.nan, np.nan
        known = ~np.isnan(li + ma)
        x = np.flatnonzero(known)
        to_mm = sizes[::-1]
        upper, lower = np.stack([x, li[known]], 1) * to_mm, np.stack([x, ma[known]], 1) * to_mm
        expected = np.r_[dense_distance(upper, lower), dense_distance(lower, upper)].mean()
        found = boundary.polyline_thickness_mm(Boundaries(li, ma), *sizes)
        assert found == pytest.approx(expected, rel=1e-4)
        columns = boundary.polyline_distances_mm(Boundaries(li, ma), *sizes)
        np.testing.assert_array_equal(np.isnan(columns), ~known)
        assert np.nanmean(columns) == pytest.approx(expected, rel=1e-4)

    def test_polyline_of_one_column(self):
        assert boundary.polyline_thickness_mm(Boundaries([2.0], [7.0]), 0.1, 0.3) == pytest.approx(
            0.5
        )


def test_boundaries_are_float_and_of_one_width():
    pair = Boundaries([1, 2], (3, 4))
    assert pair.li.dtype == pair.ma.dtype == np.float64
    with pytest.raises(ValueError, match="one row per column"):
        Boundaries([1, 2], [1])
