import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer.tuning import adaptive

PATHS = ["a/kernel", "a/bias", "b/kernel", "b/bias"]


def test_statistics():
    g = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    w = np.random.default_rng(1).normal(size=g.shape).astype("float32")
    ratio = np.sqrt((g**2).sum()) / np.sqrt((w**2).sum())
    assert float(adaptive.statistic("rgn", g, w)) == pytest.approx(ratio, rel=1e-5)
    assert float(adaptive.statistic("rgn", g, 0 * w)) == adaptive.NO_RATIO
    spread = g.reshape(-1, 5).var(axis=1, ddof=1)[:, None] + 1e-8
    found = float(adaptive.statistic("snr", g, w))
    assert found == pytest.approx(np.mean(g.reshape(-1, 5) ** 2 / spread), rel=1e-4)
    # A depthwise kernel has its output channels in front of a last dimension of 1.
    moved = np.moveaxis(g, -1, 2).reshape(9 * 4, 5)
    deep = moved.reshape(9, 4 * 5)[:, :7].reshape(3, 3, 7, 1)
    spread = deep.reshape(9, 7).var(axis=1, ddof=1)[:, None] + 1e-8
    found = float(adaptive.statistic("snr", deep, deep))
    assert found == pytest.approx(np.mean(deep.reshape(9, 7) ** 2 / spread), rel=1e-4)
    assert float(adaptive.statistic("snr", np.ones((1,), "float32"), np.ones(1))) == 0


def test_relative_gradient_norms_over_the_greatest():
    found = adaptive.factors("rgn", PATHS, np.array([[1.0, 2, 3, 4], [1, 2, 3, 12]]))
    assert found == pytest.approx(dict(zip(PATHS, [1 / 8, 2 / 8, 3 / 8, 1], strict=True)))


def test_a_fresh_bias_goes_with_its_kernel_and_out_of_the_maximum():
    none = adaptive.NO_RATIO
    found = adaptive.factors("rgn", PATHS, np.array([[1.0, none, 4, none]]))
    assert list(found.values()) == [0.25, 0.25, 1, 1]
    found = adaptive.factors("rgn", PATHS, np.array([[1.0, none, none, none]]))
    assert list(found.values()) == [1, 1, 1, 1]


def test_without_any_gradient_all_factors_are_one():
    assert set(adaptive.factors("rgn", PATHS, np.zeros((2, 4))).values()) == {1.0}


def test_a_head_that_is_left_out_slows_nothing_down():
    found = adaptive.factors("rgn", PATHS, np.array([[1.0, 2, 50, 80]]), leave=PATHS[2:])
    assert list(found.values()) == [0.5, 1, 1, 1]


def test_signal_to_noise_is_a_switch():
    found = adaptive.factors("snr", PATHS, np.array([[0.94, 0.96, 0.0, 0.9], [0.94, 0.96, 2, 1]]))
    assert list(found.values()) == [0, 1, 1, 1]


def test_what_is_not_finite_is_named():
    with pytest.raises(UserError, match="gradient of b/kernel is not finite"):
        adaptive.factors("rgn", PATHS, np.array([[1.0, 2, np.nan, 4]]))
