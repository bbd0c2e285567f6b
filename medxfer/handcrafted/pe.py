"""Classic counterpart of the network for pulmonary embolism: a multiple-instance 1-norm SVM.

Several candidates may lie in one embolus, and one that is found suffices. Each embolus is therefore
a bag of which a convex combination of candidates has to be on the positive side, while every false
candidate has to be on the negative side. Stands for the classifier of Liang and Bi (IPMI 2007),
which Tajbakhsh et al. 2016, section IV-B, compare with; after Mangasarian and Wild, "Multiple
instance classification via successive linear programming", 2008.
"""

import dataclasses
import os

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of :func:`fit`.

    Attributes
    ----------
    positive, negative : float
        Cost of an error on all bags and on all false candidates together, against the 1-norm of
        the weights. Each side is averaged, so that neither outweighs the other by its number.
    rounds : int
        At most so many pairs of linear programmes from one start.
    tolerance : float
        A round that lowers the objective by less is the last.
    starts : int
        The first start weighs the candidates of a bag alike, the others at random; the one that
        ends lowest counts.
    """

    positive: float = 10.0
    negative: float = 10.0
    rounds: int = 20
    tolerance: float = 1e-4
    starts: int = 1


DEFAULTS = Settings()


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier.

    Attributes
    ----------
    mean, scale : numpy.ndarray
        float64 (F,): of the training data's features; a feature that is constant there has the
        scale 1 and the weight 0.
    weights : numpy.ndarray
        float64 (F,): of the standardised features.
    bias : float
    objectives : tuple of float
        After every round, never rising.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float
    objectives: tuple[float, ...] = ()

    def score(self, features: ArrayLike) -> NDArray[np.float64]:
        """Signed distance of candidates to the border, in units of the margin.

        Parameters
        ----------
        features : array of shape (N, F)

        Returns
        -------
        float64 array of shape (N,): higher is more like an embolus.
        """
        features = _checked(features, len(self.mean))
        return (features - self.mean) / self.scale @ self.weights + self.bias

    def save(self, path: str | os.PathLike) -> None:
        """Write to an ``.npz`` file."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Classifier":
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            bias, objectives = float(file["bias"]), tuple(map(float, file["objectives"]))
            return cls(file["mean"], file["scale"], file["weights"], bias, objectives)


def fit(
    features: ArrayLike,
    bags: ArrayLike,
    labels: ArrayLike,
    seed: int = 0,
    settings: Settings = DEFAULTS,
) -> Classifier:
    """Fit a classifier by alternating linear programmes.

    With the convex weights of each bag's candidates held, weights and bias are a linear programme;
    with those held, the convex weights are one whose solution is known: all weight on the
    candidate of the highest score. The weights are only moved where that lowers the objective.

    Parameters
    ----------
    features : array of shape (N, F)
        Finite.
    bags : integer array of shape (N,)
        Embolus of each true candidate; what false candidates have does not matter.
    labels : integer array of shape (N,)
        1 for a candidate in an embolus, 0 for a false one; both must occur.
    seed : int
        Of the random starts.
    settings : Settings

    Returns
    -------
    Classifier
    """
    features = _checked(features)
    bags, labels = np.asarray(bags), np.asarray(labels)
    if bags.shape != (len(features),) or labels.shape != bags.shape:
        raise ValueError(
            f"Need one bag and one label a candidate: {features.shape}, {bags.shape}, "
            f"{labels.shape}."
        )
    true = labels == 1
    if true.all() or not true.any():
        raise ValueError("Need candidates in emboli and false candidates.")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9 * np.maximum(1, np.abs(mean)), scale, 1.0)
    standard = (features - mean) / scale
    inside, outside = standard[true], standard[~true]
    number, bag = np.unique(bags[true], return_inverse=True)

    rng = np.random.default_rng(seed)
    best = None
    for start in range(settings.starts):
        shares = rng.exponential(size=len(bag)) if start else np.ones(len(bag))
        solution = _alternate(inside, bag, len(number), outside, shares, settings)
        if best is None or solution[2][-1] < best[2][-1]:
            best = solution
    weights, bias, objectives = best
    return Classifier(mean, scale, weights, bias, objectives)


def _alternate(
    inside: NDArray[np.float64],
    bag: NDArray[np.int64],
    bags: int,
    outside: NDArray[np.float64],
    shares: NDArray[np.float64],
    settings: Settings,
) -> tuple[NDArray[np.float64], float, tuple[float, ...]]:
    """Weights, bias and the objective after each round, from one start."""
    rows = np.arange(len(bag))
    shares = shares / np.bincount(bag, shares, minlength=bags)[bag]
    objectives: list[float] = []
    while True:
        mixing = sparse.csr_array((shares, (bag, rows)), (bags, len(bag)))
        weights, bias, objective = _separate(mixing @ inside, outside, settings)
        objectives.append(objective)
        fallen = np.inf if len(objectives) < 2 else objectives[-2] - objective
        if fallen < settings.tolerance or len(objectives) >= settings.rounds:
            return weights, bias, tuple(objectives)
        scores = inside @ weights
        order = np.lexsort((-rows, scores, bag))
        last = np.append(bag[order][1:] != bag[order][:-1], True)
        highest = order[last]  # of each bag; of equal scores the first candidate
        mixed = mixing @ scores + bias
        # Where the bag is on its side already, another mixture gains nothing.
        moved = (mixed < 1) & (scores[highest] > mixing @ scores)
        shares = np.where(moved[bag], 0.0, shares)
        shares[highest[moved]] = 1.0


def _separate(
    positive: NDArray[np.float64], negative: NDArray[np.float64], settings: Settings
) -> tuple[NDArray[np.float64], float, float]:
    """The 1-norm SVM with weights w = p - q, p and q not negative; its objective too."""
    (bags, width), count = positive.shape, len(negative)
    costs = np.concatenate(
        [
            np.ones(2 * width),
            [0.0],
            np.full(bags, settings.positive / bags),
            np.full(count, settings.negative / count),
        ]
    )
    # Both kinds of rows read: signed (w x + b) - slack <= -1.
    signed = np.concatenate([-positive, negative])
    signs = np.concatenate([-np.ones(bags), np.ones(count)])[:, None]
    matrix = sparse.hstack(
        [sparse.csr_array(np.hstack([signed, -signed, signs])), -sparse.eye_array(bags + count)],
        format="csc",
    )
    bounds = [(0, None)] * (2 * width) + [(None, None)] + [(0, None)] * (bags + count)
    solution = optimize.linprog(
        costs, A_ub=matrix, b_ub=-np.ones(bags + count), bounds=bounds, method="highs"
    )
    if solution.x is None:
        raise ArithmeticError(f"The linear programme has no solution: {solution.message}")
    weights = solution.x[:width] - solution.x[width : 2 * width]
    return weights, float(solution.x[2 * width]), float(solution.fun)


def _checked(features: ArrayLike, width: int | None = None) -> NDArray[np.float64]:
    """Features as a float64 table, finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or width not in (None, features.shape[1]):
        raise ValueError(f"Need features of shape (N, {width or 'F'}): {features.shape}.")
    if not np.isfinite(features).all():
        raise ValueError("Features must be finite.")
    return features
