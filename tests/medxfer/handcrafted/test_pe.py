import dataclasses

import numpy as np
import pytest
from scipy import optimize
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from medxfer.handcrafted import pe


def bags_of_candidates(seed, bags=30, false=200, noise=6):
    """Bags of up to four candidates, of which one is told by the first two features alone."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, bags)
    bag = np.repeat(np.arange(bags) + 100, sizes)
    inside = rng.normal(size=(len(bag), 2 + noise))
    witness = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    inside[witness, :2] += (2.5, 2.0)
    outside = rng.normal(size=(false, 2 + noise))
    features = np.concatenate([inside, outside]) * np.linspace(1, 50, 2 + noise) + 7
    return (
        features,
        np.concatenate([bag, np.full(false, -1)]),
        np.repeat([1, 0], [len(bag), false]),
        witness,
    )


def objective(classifier, features, bags, labels, settings):
    """Lowest value of the objective over the mixtures of each bag, from its definition."""
    scores = classifier.score(features)
    positive = [
        max(0.0, 1 - scores[(bags == bag) & (labels == 1)].max())
        for bag in np.unique(bags[labels == 1])
    ]
    negative = np.maximum(0, 1 + scores[labels == 0])
    return (
        np.abs(classifier.weights).sum()
        + settings.positive * np.mean(positive)
        + settings.negative * np.mean(negative)
    )


@pytest.mark.parametrize("seed", range(3))
def test_rounds_never_raise_the_objective(seed):
    features, bags, labels, _ = bags_of_candidates(seed)
    settings = pe.Settings()
    classifier = pe.fit(features, bags, labels, settings=settings)
    assert 2 <= len(classifier.objectives) <= settings.rounds
    assert (np.diff(classifier.objectives) <= 1e-7).all()
    final = objective(classifier, features, bags, labels, settings)
    assert final <= classifier.objectives[-1] + 1e-6
    assert final == pytest.approx(classifier.objectives[-1], abs=1e-3)


def test_solution_is_the_optimum_near_and_far():
    """No other weights do better with every bag's best candidate held."""
    features, bags, labels, _ = bags_of_candidates(0, bags=12, false=40, noise=2)
    settings = pe.Settings()
    classifier = pe.fit(features, bags, labels, settings=settings)
    standard = (features - classifier.mean) / classifier.scale
    scores = classifier.score(features)
    chosen = [
        np.flatnonzero(bags == bag)[np.argmax(scores[bags == bag])]
        for bag in np.unique(bags[labels == 1])
    ]

    def value(vector):
        held = standard @ vector[:-1] + vector[-1]
        return (
            np.abs(vector[:-1]).sum()
            + settings.positive * np.maximum(0, 1 - held[chosen]).mean()
            + settings.negative * np.maximum(0, 1 + held[labels == 0]).mean()
        )

    found = np.append(classifier.weights, classifier.bias)
    best = value(found)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(100):
            assert value(found + rng.normal(0, scale, len(found))) >= best - 1e-6
    search = optimize.minimize(value, np.zeros(len(found)), method="Powell")
    assert search.fun >= best - 1e-4


def test_bags_of_one_are_a_1_norm_svm():
    """Against the solver of scikit-learn: the same order of candidates."""
    features, bags, labels, witness = bags_of_candidates(1, bags=60)
    single = np.concatenate([witness, np.flatnonzero(labels == 0)])
    features, bags, labels = features[single], bags[single], labels[single]
    classifier = pe.fit(features, bags, labels)
    assert len(classifier.objectives) == 2
    peer = LinearSVC(penalty="l1", dual=False, class_weight="balanced", C=0.05, max_iter=20_000)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    peer.fit(standard, labels)
    ours = roc_auc_score(labels, classifier.score(features))
    theirs = roc_auc_score(labels, peer.decision_function(standard))
    assert ours >= theirs - 0.02
    cosine = classifier.weights @ peer.coef_[0]
    cosine /= np.linalg.norm(classifier.weights) * np.linalg.norm(peer.coef_)
    assert cosine > 0.9


def test_the_witness_of_a_bag_is_found_on_new_data():
    features, bags, labels, _ = bags_of_candidates(2, bags=60)
    classifier = pe.fit(features, bags, labels)
    features, bags, labels, witness = bags_of_candidates(3, bags=60)
    chosen = np.concatenate([np.flatnonzero(labels == 0), witness])
    truth = np.repeat([0, 1], [(labels == 0).sum(), len(witness)])
    assert roc_auc_score(truth, classifier.score(features)[chosen]) > 0.9
    assert set(np.argsort(np.abs(classifier.weights))[-2:]) == {0, 1}


def test_irrelevant_and_constant_features_get_no_weight():
    features, bags, labels, _ = bags_of_candidates(4, bags=60, false=400)
    features[:, 3] = 12.5
    classifier = pe.fit(features, bags, labels, settings=pe.Settings(positive=3, negative=3))
    assert classifier.weights[3] == 0 and classifier.scale[3] == 1
    assert np.abs(classifier.weights[2:]).max() < 0.2 * np.abs(classifier.weights[:2]).min()


def test_scores_do_not_depend_on_units_of_features():
    features, bags, labels, _ = bags_of_candidates(5)
    first = pe.fit(features, bags, labels).score(features)
    # A power of two changes no rounding, which decides between solutions that are equally good.
    other = features * 1024
    np.testing.assert_allclose(pe.fit(other, bags, labels).score(other), first, atol=1e-9)


def test_random_starts_are_seeded_and_never_worse():
    features, bags, labels, _ = bags_of_candidates(6)
    settings = dataclasses.replace(pe.DEFAULTS, starts=3)
    plain = pe.fit(features, bags, labels)
    first, again = (pe.fit(features, bags, labels, seed=1, settings=settings) for _ in range(2))
    np.testing.assert_array_equal(first.weights, again.weights)
    assert first.objectives[-1] <= plain.objectives[-1] + 1e-9


def test_a_saved_classifier_is_the_same(tmp_path):
    features, bags, labels, _ = bags_of_candidates(7)
    classifier = pe.fit(features, bags, labels)
    classifier.save(tmp_path / "svm.npz")
    loaded = pe.Classifier.load(tmp_path / "svm.npz")
    np.testing.assert_array_equal(loaded.score(features), classifier.score(features))
    assert loaded.objectives == classifier.objectives


def test_wrong_input_is_refused():
    features, bags, labels, _ = bags_of_candidates(8)
    with pytest.raises(ValueError, match="one bag and one label"):
        pe.fit(features, bags[1:], labels)
    with pytest.raises(ValueError, match="false candidates"):
        pe.fit(features, bags, np.ones_like(labels))
    with pytest.raises(ValueError, match="finite"):
        pe.fit(np.where(features > 0, features, np.nan) * np.nan, bags, labels)
    classifier = pe.fit(features, bags, labels)
    with pytest.raises(ValueError, match="shape"):
        classifier.score(features[:, 1:])
