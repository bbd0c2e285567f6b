"""The head by logistic regression on the features in front of it: a linear probe.

Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution"
(ICLR 2022), with the settings of its authors' code (AnanyaKumar/transfer_learning).
"""

import dataclasses
import warnings
from collections.abc import Sequence

import keras
import numpy as np

from data_prep.errors import UserError
from medxfer import outputs
from medxfer.tuning.stages import HeadSolution


@dataclasses.dataclass(frozen=True)
class Head:
    """A dense layer: kernel float32 (features, classes), bias float32 (classes,)."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float  # the C that was chosen

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Outputs for features (N, D), float64 (N, classes)."""
        return features.astype(np.float64) @ self.kernel.astype(np.float64) + self.bias


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
    solution: HeadSolution | None = None,
    balanced: bool = False,
) -> Head:
    """Fit a head for every strength and keep the one with the least validation loss.

    The loss, because the authors' accuracy has many ties on few examples, and the area under the
    ROC curve does not see the scale of the weights: it would as soon take a head of almost 0.

    Features are normalised by one mean and one standard deviation, those of all numbers of the
    training features, and the head is rewritten for features as they are. The objective is
    ||W||^2 / 2 + C * sum of -ln p(label), the bias being free. Every fit begins where the one
    before it ended. Of several labels an image each is a regression by itself.

    Parameters
    ----------
    train, validation : features float (N, D), labels int (N,) or (N, classes)
        What the network makes of the examples in front of the head, in inference mode.
    classes : int
        Number of outputs; those without a training example have weights and bias 0. A label that
        all training examples have, or none, has weights 0 and the logarithm of its odds as bias,
        half an example being added to either side.
    solution : HeadSolution, optional
        Strengths to try.
    balanced : bool
        Whether all classes count alike: :func:`medxfer.outputs.class_weights`, those of the
        training labels in the validation loss, too.

    Raises
    ------
    UserError
        If the training labels are of one class only.
    """
    solution = solution or HeadSolution()
    x, y = np.asarray(train[0], np.float64), np.asarray(train[1])
    several = y.ndim == 2
    if len(np.unique(y)) < 2:
        raise UserError("A linear probe needs training examples of at least two classes.")
    mean, std = x.mean(), x.std() or 1.0
    x = (x - mean) / std
    weights = outputs.class_weights(y, classes) if balanced else None
    if several:
        fits = [
            _Fit(y[:, k], 2, solution, None if weights is None else weights[k])
            for k in range(classes)
        ]
    else:
        fits = [_Fit(y, classes, solution, weights)]
    best, least = None, np.inf
    for strength in solution.strengths:
        found = [fit(x, strength) for fit in fits]
        if several:  # what makes present more probable than absent
            found = [(kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]) for kernel, bias in found]
        kernel, bias = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
        bias = bias - mean / std * kernel.sum(axis=0)
        kernel = kernel / std
        head = Head(kernel.astype(np.float32), bias.astype(np.float32), float(strength))
        logits = head.logits(np.asarray(validation[0]))
        loss = outputs.mean_loss(logits, np.asarray(validation[1]), weights)
        if best is None or loss < least:
            best, least = head, loss
    return best


class _Fit:
    """Logistic regression of one set of classes, for one strength after the other."""

    def __init__(
        self, y: np.ndarray, classes: int, solution: HeadSolution, weights: np.ndarray | None
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self._y, self._classes = y, classes
        self._weights = None if weights is None else weights[y]
        self._present = np.unique(y)
        self._fitter = LogisticRegression(
            max_iter=solution.iterations, warm_start=True, random_state=0
        )

    def __call__(self, x: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (D, classes) and bias (classes,), float64."""
        from sklearn.exceptions import ConvergenceWarning

        if len(self._present) < 2:
            counts = np.bincount(self._y, minlength=self._classes) + 0.5
            return np.zeros((x.shape[1], self._classes)), np.log(counts)
        self._fitter.set_params(C=strength)
        with warnings.catch_warnings():
            # As many iterations as the authors allow; what is not at its optimum is scored too.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._fitter.fit(x, self._y, self._weights)
        return outputs.dense_of(
            self._fitter.coef_, self._fitter.intercept_, self._present, self._classes
        )
