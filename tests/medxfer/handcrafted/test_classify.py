import numpy as np
import pytest
from sklearn import linear_model, preprocessing

from medxfer.handcrafted import classify


def stripes(angle, seed, side=96):
    """A noisy pattern of stripes, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 3 + rng.uniform(0, 6))
    grey = 128 + 60 * wave + rng.normal(0, 25, (side, side))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def table():
    """Features and labels of stripes of three directions, five images of each of eight subjects."""
    labels = np.arange(48) % 3
    features = [classify.features(stripes(k * np.pi / 3, n)) for n, k in enumerate(labels)]
    return np.array(features), labels, [f"s{n // 6}" for n in range(48)]


class TestFeatures:
    def test_their_number_and_kind(self):
        found = classify.features(stripes(0, 0))
        assert found.dtype == np.float32 and found.shape == (1829,)
        assert np.isfinite(found).all()
        sizes = [part.size for part in classify.blocks(stripes(0, 0))]
        assert sizes == [7 * 7 * 2 * 2 * 9, 10 + 18, 4 * 3, 16 + 9]

    @pytest.mark.parametrize("value", [0, 90, 255])
    def test_a_flat_image_has_finite_ones(self, value):
        found = classify.blocks(np.full((40, 60, 3), value, np.uint8))
        assert all(np.isfinite(part).all() for part in found)
        assert not found[0].any()  # no edge
        assert found[3][:16].argmax() == value // 16

    def test_histograms_sum_to_one_and_moments_are_those_of_the_image(self):
        rng = np.random.default_rng(1)
        image = rng.integers(0, 256, (128, 128, 3), np.uint8)
        image[..., 2] = (rng.random((128, 128)) ** 3 * 255).astype(np.uint8)
        _, patterns, _, levels = classify.blocks(image)
        for part in (patterns[:10], patterns[10:], levels[:16]):
            assert part.sum() == pytest.approx(1)
        channels = image.reshape(-1, 3) / 255
        from scipy import stats

        np.testing.assert_allclose(levels[16:19], channels.mean(0))
        np.testing.assert_allclose(levels[19:22], channels.std(0))
        np.testing.assert_allclose(levels[22:], stats.skew(channels), atol=1e-9)

    def test_co_occurrence_of_a_checkerboard(self):
        board = (np.indices((128, 128)).sum(0) % 2 * 248).astype(np.uint8)
        contrast = classify.blocks(np.repeat(board[..., None], 3, axis=2))[2][:3]
        # Levels 0 and 31; one step apart the two of four directions along the axes differ.
        np.testing.assert_allclose(contrast, [31**2 / 2, 0, 0], rtol=1e-6)

    def test_only_uint8_colour_images(self):
        for image in (np.zeros((9, 9)), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)):
            with pytest.raises(ValueError, match="uint8 image"):
                classify.features(image)


def objective(model, x, labels, classes):
    """What logistic regression minimises."""
    from scipy import special

    log_p = special.log_softmax(x @ model.kernel + model.bias, axis=1)
    return (model.kernel**2).sum() / 2 - model.strength * log_p[np.arange(len(x)), labels].sum()


def test_it_is_logistic_regression_of_standardised_features(table):
    features, labels, _ = table
    doubtful = np.random.default_rng(3).random(len(labels)) < 0.3
    labels = np.where(doubtful, (labels + 1) % 3, labels)
    half = np.arange(len(labels)) % 2 == 0
    held = features[~half], labels[~half]
    features, labels = features[half], labels[half]
    found = classify.fit(features, labels, 3, held)
    losses = [
        -np.log(np.maximum(m.probabilities(held[0])[np.arange(len(held[1])), held[1]], 1e-6)).sum()
        for m in classify._path(features, labels, 3)
    ]
    assert found.strength == classify.STRENGTHS[int(np.argmin(losses))]
    assert found.strength < classify.STRENGTHS[-1]  # not all are to be believed
    peer = linear_model.LogisticRegression(C=found.strength, max_iter=5000, tol=1e-8)
    x = preprocessing.StandardScaler().fit_transform(features)
    peer.fit(x, labels)
    np.testing.assert_allclose(found.probabilities(features), peer.predict_proba(x), atol=0.02)
    best = classify.Classifier(found.mean, found.scale, peer.coef_.T, peer.intercept_, False,
                               found.strength)  # fmt: skip
    ours, theirs = (objective(m, x, labels, 3) for m in (found, best))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_it_learns_what_is_to_be_seen(table):
    features, labels, owners = table
    train = np.array([owner < "s5" for owner in owners])
    found = classify.fit(features[train], labels[train], 3)
    p = found.probabilities(features[~train])
    np.testing.assert_allclose(p.sum(1), 1)
    assert np.mean(p.argmax(1) == labels[~train]) > 0.9


def test_two_classes_and_classes_without_examples(table):
    features, labels, _ = table
    kept = labels != 1
    found = classify.fit(features[kept], labels[kept], 4)
    p = found.probabilities(features)
    assert not p[:, [1, 3]].any()
    np.testing.assert_allclose(p.sum(1), 1)
    assert np.mean(p.argmax(1)[kept] == labels[kept]) > 0.9
    two = classify.fit(features[kept], labels[kept] // 2, 2)
    np.testing.assert_allclose(two.probabilities(features), p[:, [0, 2]], atol=1e-9)


def test_several_labels_are_regressions_by_themselves(table):
    features, labels, _ = table
    truth = np.stack([labels == 0, labels > 0, labels < 0], axis=1).astype(int)
    found = classify.fit(features, truth, 3, (features, truth))
    p = found.probabilities(features)
    assert np.mean((p >= 0.5) == truth) > 0.95
    np.testing.assert_allclose(p[:, 2], 0.5 / 49)  # no example, so half a one


def test_nothing_held_out_is_enough(table):
    features, labels, _ = table
    assert classify.fit(features, labels, 3).strength in classify.STRENGTHS
