import keras
import numpy as np
import pytest
from scipy import optimize, special

from data_prep.errors import UserError
from medxfer.tuning import head
from medxfer.tuning.stages import HeadSolution


def data(classes, n=60, width=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, width))
    return 3 + 2 * (centres[labels] + rng.normal(size=(n, width))), labels


def likelihood(probabilities, labels):
    return float(np.mean(np.log(probabilities[np.arange(len(labels)), labels])))


def optimum(features, labels, classes, strength):
    """Probabilities at the optimum, by SciPy, from features normalised by two numbers."""
    mean, std = features.mean(), features.std()
    x = (features - mean) / std
    binary = classes == 2

    def logits(parameters, x):
        if binary:  # one row, as logistic regression of two classes has it
            z = x @ parameters[:-1] + parameters[-1]
            return np.stack([-z / 2, z / 2], axis=1)
        table = parameters.reshape(classes, -1)
        return x @ table[:, :-1].T + table[:, -1]

    def objective(parameters):
        weights = parameters[:-1] if binary else parameters.reshape(classes, -1)[:, :-1]
        log_p = special.log_softmax(logits(parameters, x), axis=1)
        return (weights**2).sum() / 2 - strength * log_p[np.arange(len(labels)), labels].sum()

    size = x.shape[1] + 1
    found = optimize.minimize(
        objective, np.zeros(size if binary else classes * size), method="BFGS", tol=1e-8
    )
    return lambda new: special.softmax(logits(found.x, (new - mean) / std), axis=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_scipys_optimum_and_the_best_strength_is_kept(classes):
    train, validation = data(classes), data(classes, 30, seed=1)
    strengths = (1e-3, 1e-2, 1e-1, 1.0)
    solved = head.solve(train, validation, classes, HeadSolution(strengths))
    peers = {c: optimum(*train, classes, c) for c in strengths}
    scores = {c: likelihood(peer(validation[0]), validation[1]) for c, peer in peers.items()}
    assert solved.strength == max(scores, key=scores.get)
    found = special.softmax(solved.logits(validation[0]), axis=1)
    np.testing.assert_allclose(found, peers[solved.strength](validation[0]), atol=2e-3)


def test_the_strength_is_not_so_small_that_all_is_of_the_larger_class():
    rng = np.random.default_rng(0)
    labels = (np.arange(160) % 4 == 0).astype(np.int64)
    features = np.maximum(rng.normal(size=(160, 64)) + 0.9 * labels[:, None], 0)
    train, validation = (features[:100], labels[:100]), (features[100:], labels[100:])
    solved = head.solve(train, validation, 2)
    found = solved.logits(validation[0]).argmax(axis=1)
    assert all(np.mean(found[validation[1] == k] == k) > 0.8 for k in range(2))


def test_the_head_in_a_network_gives_the_same_probabilities():
    train = data(3)
    solved = head.solve(train, train, 3, HeadSolution((1.0,)))
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    layer.set_weights([solved.kernel, solved.bias])
    found = keras.ops.softmax(layer(train[0].astype("float32")))
    np.testing.assert_allclose(found, special.softmax(solved.logits(train[0]), axis=1), atol=1e-5)


def test_a_class_without_examples_has_weights_of_zero():
    features, labels = data(2)
    solved = head.solve((features, labels * 2), (features, labels * 2), 3)
    assert not solved.kernel[:, 1].any() and solved.bias[1] == 0
    np.testing.assert_allclose(solved.kernel[:, 0], -solved.kernel[:, 2])


def test_what_cannot_be_solved_is_said():
    features, labels = data(2)
    part = features, labels
    with pytest.raises(UserError, match="at least two classes"):
        head.solve((features, labels * 0), part, 2)
    for layers in (
        [keras.layers.Dense(2, "softmax")],
        [keras.layers.Conv2D(2, 1)],
        [keras.layers.Dense(2, use_bias=False)],
        [keras.layers.Dense(2), keras.layers.Dense(3)],
    ):
        for layer in layers:
            layer.build((None, 2, 2, 4) if isinstance(layer, keras.layers.Conv2D) else (None, 4))
        with pytest.raises(ValueError, match="one linear dense layer"):
            head.layer_of(layers)
