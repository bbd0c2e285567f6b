import numpy as np
import pytest

from data_prep.candidates import forest

sklearn_ensemble = pytest.importorskip("sklearn.ensemble")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1500, 6)).astype(np.float32)
    # Few distinct values, so that rows lie exactly at thresholds' neighbours.
    rows[:, :3] = np.round(rows[:, :3] * 4) / 4
    positive = rows[:, 0] * rows[:, 3] + 0.3 * rng.normal(size=1500) > 0
    return rows, positive


@pytest.mark.parametrize("options", [{}, {"max_depth": 4}, {"min_samples_leaf": 20}])
def test_equals_scikit_learn(data, options):
    rows, positive = data
    grown = sklearn_ensemble.RandomForestClassifier(
        20, class_weight="balanced", random_state=1, **options
    ).fit(rows, positive)
    found = forest.convert(grown).predict(rows)
    np.testing.assert_allclose(found, grown.predict_proba(rows)[:, 1], rtol=0, atol=1e-6)


def test_rows_on_a_threshold_go_where_scikit_learn_sends_them(data):
    rows, positive = data
    grown = sklearn_ensemble.RandomForestClassifier(5, random_state=2).fit(rows, positive)
    plain = forest.convert(grown)
    edge = np.repeat(rows[:1], 400, axis=0)
    inner = np.flatnonzero(np.isfinite(plain.threshold))[:200]
    for side, direction in enumerate((-np.inf, np.inf)):
        edge[side * 200 : side * 200 + len(inner)][np.arange(len(inner)), plain.feature[inner]] = (
            np.nextafter(plain.threshold[inner], np.float32(direction))
        )
    np.testing.assert_allclose(
        plain.predict(edge), grown.predict_proba(edge)[:, 1], rtol=0, atol=1e-6
    )


def test_arrays_round_trip(data, tmp_path):
    rows, positive = data
    plain = forest.train(rows, positive, trees=3, depth=5, seed=3)
    np.savez(tmp_path / "forest.npz", **plain.arrays("a_"))
    with np.load(tmp_path / "forest.npz", allow_pickle=False) as kept:
        again = forest.Forest.of(kept, "a_")
    np.testing.assert_array_equal(plain.predict(rows), again.predict(rows))
    assert again.depth == plain.depth <= 5


def test_the_same_seed_gives_the_same_forest(data):
    rows, positive = data
    first, same, other = (
        forest.train(rows, positive, trees=3, depth=6, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.threshold, same.threshold)
    assert not np.array_equal(first.predict(rows), other.predict(rows))


def test_no_rows(data):
    plain = forest.train(*data, trees=2, depth=3)
    assert plain.predict(np.zeros((0, 6), np.float32)).shape == (0,)


def test_one_class_is_an_error(data):
    rows, positive = data
    with pytest.raises(ValueError, match="both classes"):
        forest.train(rows, np.ones_like(positive))


def test_damaged_arrays_are_an_error(data):
    arrays = forest.train(*data, trees=2, depth=3).arrays("")
    with pytest.raises(ValueError, match="No array"):
        forest.Forest.of({k: v for k, v in arrays.items() if k != "child"}, "")
    with pytest.raises(ValueError, match="damaged"):
        forest.Forest.of(arrays | {"child": arrays["child"] + 1000}, "")
