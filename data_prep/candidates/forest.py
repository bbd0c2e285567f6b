"""Random forests that are kept as plain arrays.

scikit-learn grows them; prediction and files need NumPy only, so that a detector can be stored
without pickle and read by any version.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256  # rows walked down at once: their nodes stay in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class Forest:
    """Binary trees in one array of nodes.

    From node i a row x goes to ``child[i] + (x[feature[i]] > threshold[i])``. A leaf is its own
    child with an infinite threshold.

    Attributes
    ----------
    roots : numpy.ndarray
        int32 (trees,).
    feature, child : numpy.ndarray
        int32 (nodes,).
    threshold : numpy.ndarray
        float32 (nodes,).
    value : numpy.ndarray
        float32 (nodes,): share of the positive class.
    depth : int
        Steps from a root to the farthest leaf.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    child: NDArray[np.int32]
    threshold: NDArray[np.float32]
    value: NDArray[np.float32]
    depth: int

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of the positive class: the mean over trees.

        Parameters
        ----------
        rows : numpy.ndarray
            float32 (n, features), without NaN.

        Returns
        -------
        numpy.ndarray
            float32 (n,).
        """
        rows = np.ascontiguousarray(rows, np.float32)
        feature, child = self.feature.astype(np.intp), self.child.astype(np.intp)
        result = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            flat, offset = part.ravel(), np.arange(len(part)) * part.shape[1]
            node = np.repeat(self.roots.astype(np.intp)[:, None], len(part), axis=1)
            # "clip" spares take() a check; no index is ever outside.
            for _ in range(self.depth):
                place = feature.take(node, mode="clip")
                place += offset
                above = flat.take(place, mode="clip") > self.threshold.take(node, mode="clip")
                node = child.take(node, mode="clip")
                node += above
            result[start : start + _CHUNK] = self.value[node].mean(axis=0, dtype=np.float64)
        return result

    def arrays(self, prefix: str) -> dict[str, NDArray]:
        """What :meth:`of` reads, under names that begin with ``prefix``."""
        return {
            prefix + field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray], prefix: str) -> "Forest":
        """The forest kept under ``prefix``.

        Raises
        ------
        ValueError
            If an array is absent, or a node leads outside the forest.
        """
        try:
            kept = {field.name: arrays[prefix + field.name] for field in dataclasses.fields(cls)}
        except KeyError as error:
            raise ValueError(f"No array {error.args[0]} of a forest.") from None
        forest = cls(**(kept | {"depth": int(kept["depth"])}))
        nodes = len(forest.child)
        sound = (
            nodes > 0
            and len(forest.feature) == len(forest.threshold) == len(forest.value) == nodes
            and all(part.min() >= 0 and part.max() < nodes for part in (forest.child, forest.roots))
            and forest.feature.min() >= 0
        )
        if not sound:
            raise ValueError(f"The forest {prefix} is damaged.")
        return forest


def train(
    rows: NDArray[np.float32],
    positive: NDArray[np.bool_],
    *,
    trees: int = 100,
    depth: int = 12,
    leaf: int = 5,
    share: float = 1.0,
    weights: NDArray | None = None,
    seed: int = 0,
) -> Forest:
    """Grow a forest of two classes of equal weight with scikit-learn.

    Parameters
    ----------
    rows : numpy.ndarray
        float32 (n, features).
    positive : numpy.ndarray
        bool (n,).
    trees, depth, leaf : int
        Number of trees, their greatest depth, the fewest rows of a leaf.
    share : float
        Rows drawn for each tree, with replacement, as a share of all.
    weights : numpy.ndarray, optional
        float (n,) of the rows.
    seed : int

    Raises
    ------
    ValueError
        If either class is absent.
    """
    from sklearn.ensemble import RandomForestClassifier

    if positive.all() or not positive.any():
        raise ValueError("A forest needs rows of both classes.")
    grower = RandomForestClassifier(
        trees,
        max_depth=depth,
        min_samples_leaf=leaf,
        max_samples=share if share < 1 else None,
        class_weight="balanced",
        random_state=seed,
        n_jobs=1,
    )
    return convert(grower.fit(rows, positive, sample_weight=weights))


def convert(grown) -> Forest:
    """The same forest as plain arrays.

    Parameters
    ----------
    grown : sklearn.ensemble.RandomForestClassifier
        Fitted to two classes.
    """
    roots, parts, first, depth = [], [], 0, 0
    for estimator in grown.estimators_:
        tree = estimator.tree_
        # Level by level, so that two siblings are neighbours and the walk down stays local.
        order, level = [np.zeros(1, np.int64)], np.zeros(1, np.int64)
        while True:
            inner = level[tree.children_left[level] >= 0]
            if not inner.size:
                break
            pairs = np.stack([tree.children_left[inner], tree.children_right[inner]], axis=1)
            level = pairs.ravel()
            order.append(level)
        nodes = np.concatenate(order)
        place = np.empty(len(nodes), np.int64)
        place[nodes] = np.arange(len(nodes))
        is_leaf = tree.children_left[nodes] < 0
        child = place[np.where(is_leaf, nodes, tree.children_left[nodes])] + first
        # A float32 x is <= t exactly if it is <= the greatest float32 that is <= t.
        exact = tree.threshold[nodes]
        threshold = exact.astype(np.float32)
        too_high = threshold > exact
        threshold[too_high] = np.nextafter(threshold[too_high], np.float32(-np.inf))
        counts = tree.value[nodes, 0]
        parts.append(
            (
                np.where(is_leaf, 0, tree.feature[nodes]).astype(np.int32),
                child.astype(np.int32),
                np.where(is_leaf, np.float32(np.inf), threshold).astype(np.float32),
                (counts[:, 1] / counts.sum(axis=1)).astype(np.float32),
            )
        )
        roots.append(first)
        first += len(nodes)
        depth = max(depth, len(order) - 1)
    feature, child, threshold, value = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Forest(np.array(roots, np.int32), feature, child, threshold, value, depth)
