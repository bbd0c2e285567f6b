"""What the outputs of a network stand for: one of several classes, or each class by itself.

Labels say which: class indices (N,) go with a softmax; 0 and 1 for every class (N, C), where an
image may show several things or none, with one sigmoid a class. Either way the loss is the mean
negative log-likelihood of an example, which is a sum over classes where each stands by itself, and
its gradient by a logit is probability minus truth. NumPy only; what is compiled is in
:mod:`medxfer.steps`.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special


def columns(prefix: str, classes: Sequence[str]) -> list[str]:
    """Headings of a table for the classes: without blanks, and no two alike."""
    found: list[str] = []
    for name in classes:
        heading = f"{prefix}_" + re.sub(r"\s+", "_", name)
        while heading in found:
            heading += "_"
        found.append(heading)
    return found


def log_probabilities(logits: NDArray, multilabel: bool) -> NDArray[np.float64]:
    """Logarithms of the probabilities of the classes, float64 (N, C)."""
    logits = np.asarray(logits, np.float64)
    return special.log_expit(logits) if multilabel else special.log_softmax(logits, axis=1)


def mean_loss(logits: NDArray, labels: NDArray[np.int64], weights: NDArray | None = None) -> float:
    """Mean negative log-likelihood of labels (N,) or (N, C).

    ``weights``: of the classes, as :func:`class_weights` gives them; None: 1.
    """
    if labels.ndim == 2:
        logits = np.asarray(logits, np.float64)
        log_p = special.log_expit(np.where(labels > 0, logits, -logits))
        if weights is not None:
            log_p = log_p * weights[np.arange(labels.shape[1]), labels]
        return -float(log_p.sum(axis=1).mean())
    log_p = log_probabilities(logits, False)[np.arange(len(labels)), labels]
    return -float((log_p if weights is None else log_p * weights[labels]).mean())


def class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights under which every class counts alike, with mean 1 over the examples.

    Parameters
    ----------
    labels : int64 array of shape (N,) or (N, C)
    classes : int

    Returns
    -------
    float32 array of shape (C,) or (C, 2)
        N / (classes that occur * examples of the class), 0 for a class without examples: the
        ``balanced`` of scikit-learn. Multi-label: the same of each label, whose two classes are
        absent and present.
    """
    present = class_counts(labels, classes)
    if labels.ndim == 1:
        return _even(present)
    return np.stack([_even(np.array([len(labels) - n, n])) for n in present])


def prior_loss(labels: NDArray[np.int64], classes: int, balanced: bool = False) -> float:
    """The least loss of a network that looks at no image: it knows how frequent classes are.

    ``balanced``: the classes count alike, by weights or by sampling.
    """
    shares = class_counts(labels, classes) / len(labels)
    several = labels.ndim == 2
    if balanced:
        shares = np.where(shares > 0, 0.5 if several else 1 / np.count_nonzero(shares), 0.0)
    return float(np.sum(special.entr(shares) + (special.entr(1 - shares) if several else 0)))


def class_counts(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Examples that show each class, int64 (C,); ``labels`` as for :func:`class_weights`."""
    return np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)


def _even(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    weights = np.zeros(len(counts), np.float32)
    found = counts > 0
    weights[found] = counts.sum() / (found.sum() * counts[found])
    return weights


def balanced_order(
    labels: NDArray[np.int64], order: NDArray[np.int64], number: int
) -> NDArray[np.int64]:
    """As many places for each class that occurs, one class after the other in turn.

    Of a large class every epoch takes the next part and of a small one as many rounds as it needs,
    so that all examples of a class have their turn equally often.

    Parameters
    ----------
    labels : int64 array of shape (N,)
    order : int64 array of shape (N,)
        Permutation of the examples, that of this epoch.
    number : int
        Of the epoch.

    Returns
    -------
    int64 array of shape (N,)
        Rows of ``labels``. Where N is no multiple of the classes, the first have one place more.
    """
    ranks = np.argsort(order)
    taken = np.empty(len(order), np.int64)
    present = np.unique(labels)
    for place, label in enumerate(present):
        slots = np.arange(place, len(order), len(present))
        own = np.flatnonzero(labels == label)
        turns = number * len(slots) + np.arange(len(slots))
        rows = own[turns % len(own)]
        taken[slots] = rows[np.lexsort((ranks[rows], turns // len(own)))]
    return taken


def dense_of(
    rows: NDArray, biases: NDArray, present: NDArray[np.integer], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A dense layer that gives what a logistic regression of scikit-learn gives.

    Parameters
    ----------
    rows, biases : arrays of shape (P, D) and (P,)
        Its ``coef_`` and ``intercept_``; of two classes it has one row, which tells them apart.
    present : int array of shape (P,)
        Its ``classes_``.
    classes : int

    Returns
    -------
    kernel (D, classes), bias (classes,), float64; zeros for classes that are not ``present``.
    """
    if len(present) == 2:
        rows, biases = np.stack([-rows[0], rows[0]]) / 2, np.array([-1, 1]) * biases / 2
    kernel, bias = np.zeros((rows.shape[1], classes)), np.zeros(classes)
    kernel[:, present], bias[present] = rows.T, biases
    return kernel, bias
