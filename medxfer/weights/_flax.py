"""Pickled trees of NumPy arrays, as Flax projects keep them.

For files whose hash has been checked: NumPy's own unpickling is not hardened against hostile input.
"""

import pathlib

import numpy as np

from data_prep.errors import UserError
from medxfer.weights import _pickle
from medxfer.weights._contents import Contents

_RECONSTRUCT = np.empty(0).__reduce__()[0]

# What a pickled array names: its constructor (under NumPy's old and new name), class and dtype.
_ALLOWED = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": lambda code, align, copy: np.dtype(code, align=bool(align), copy=bool(copy)),
}


def read(path: pathlib.Path) -> Contents:
    """Arrays of every node of the tree that has a ``kernel``, named by its path with slashes.

    Raises
    ------
    UserError
        If the file is damaged or asks for more than arrays.
    """
    layers = {}

    def walk(name: str, node: object) -> None:
        if not isinstance(node, dict):
            return
        if isinstance(node.get("kernel"), np.ndarray):
            parts = [node[part] for part in ("kernel", "bias") if part in node]
            layers[name] = tuple(np.asarray(part) for part in parts)
            return
        for key, child in node.items():
            walk(f"{name}/{key}" if name else str(key), child)

    try:
        with path.open("rb") as file:
            walk("", _pickle.load(file, _ALLOWED))
    except _pickle.Refused as error:
        raise UserError(f"{path} cannot be read as a pickled tree of arrays: {error}.") from error
    return Contents(layers)
