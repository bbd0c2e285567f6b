"""The head by logistic regression on the features in front of it: a linear probe.

Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution"
(ICLR 2022), with the settings of its authors' code (AnanyaKumar/transfer_learning).
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
from scipy import special

from data_prep.errors import UserError
from medxfer.tuning.stages import HeadSolution


@dataclasses.dataclass(frozen=True)
class Head:
    """A dense layer: kernel float32 (features, classes), bias float32 (classes,)."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float  # the C that was chosen

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Logarithms of the probabilities, float64 (N, classes)."""
        logits = features.astype(np.float64) @ self.kernel.astype(np.float64) + self.bias
        return special.log_softmax(logits, axis=1)


def layer_of(layers: Sequence[keras.Layer]) -> keras.layers.Dense:
    """The one dense layer of a head, linear and with a bias.

    Raises
    ------
    ValueError
        If the head is anything else, which logistic regression cannot solve for.
    """
    heavy = [layer for layer in layers if layer.weights]
    if (
        len(heavy) != 1
        or not isinstance(heavy[0], keras.layers.Dense)
        or heavy[0].activation is not keras.activations.linear
        or not heavy[0].use_bias
    ):
        raise ValueError(
            "A head that is solved for must be one linear dense layer with a bias. Received: "
            f"{', '.join(layer.name for layer in layers)}."
        )
    return heavy[0]


def solve(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    score: Callable[[np.ndarray, np.ndarray], float],
    solution: HeadSolution | None = None,
) -> Head:
    """Fit a head for every strength and keep the one with the best validation score.

    Features are normalised by one mean and one standard deviation, those of all numbers of the
    training features, and the head is rewritten for features as they are. The objective is
    ||W||^2 / 2 + C * sum of -ln p(label), the bias being free. Every fit begins where the one
    before it ended.

    Parameters
    ----------
    train, validation : features float (N, D), labels int (N,)
        What the network makes of the examples in front of the head, in inference mode.
    classes : int
        Number of outputs; those without a training example have weights and bias 0.
    score : callable
        (probabilities float64 (N, classes), labels (N,)) -> number, the higher the better; of equal
        ones the first counts.
    solution : HeadSolution, optional
        Strengths to try.

    Raises
    ------
    UserError
        If the training labels are of one class only, or the score is never a number.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    solution = solution or HeadSolution()
    x, y = np.asarray(train[0], np.float64), np.asarray(train[1])
    present = np.unique(y)
    if len(present) < 2:
        raise UserError("A linear probe needs training examples of at least two classes.")
    mean, std = x.mean(), x.std() or 1.0
    x = (x - mean) / std
    fitter = LogisticRegression(max_iter=solution.iterations, warm_start=True, random_state=0)
    best, best_score = None, -np.inf
    for strength in solution.strengths:
        fitter.set_params(C=strength)
        with warnings.catch_warnings():
            # As many iterations as the authors allow; what is not at its optimum is scored too.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitter.fit(x, y)
        rows, biases = fitter.coef_, fitter.intercept_
        if len(present) == 2:  # one row tells both classes apart
            rows, biases = np.stack([-rows[0], rows[0]]) / 2, np.array([-1, 1]) * biases / 2
        kernel, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
        kernel[:, present] = rows.T / std
        bias[present] = biases - mean / std * rows.sum(axis=1)
        head = Head(kernel.astype(np.float32), bias.astype(np.float32), float(strength))
        value = score(np.exp(head.log_probabilities(np.asarray(validation[0]))), validation[1])
        if value > best_score:
            best, best_score = head, value
    if best is None:
        raise UserError(
            "The validation score of a linear probe is not a number: the validation part needs "
            "examples of every class. Prepare the data with more subjects in it."
        )
    return best
