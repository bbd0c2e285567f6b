"""Checkpoints of a run: enough to go on after an interruption, and the best weights at the end.

In ``checkpoints/`` of the run folder, while training runs::

    stage.npz      every variable at the beginning of the stage
    last.npz       what moves in the stage, and the optimizer, after the last whole epoch
    best-N.npz     the moving weights after epoch N, the best of the stage so far

and when it has ended only ``best.weights.h5`` (Keras' format: ``model.load_weights`` reads it) and
``history.json``. What is frozen is written once a stage, so an epoch that trains one small layer
does not write the whole network. Every file appears whole or not at all.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from data_prep.errors import UserError

_META = "meta"


class Checkpoints:
    """The ``checkpoints`` folder of one run.

    Parameters
    ----------
    folder : pathlib.Path
        With several processes a folder that all of them see.
    writes : bool
        Whether this process writes: one of them does.
    """

    def __init__(self, folder: pathlib.Path, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        if writes:
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, variables: Sequence[keras.Variable], meta: Mapping) -> None:
        """Write ``name.npz``: the variables in order and ``meta`` (JSON)."""
        if not self.writes:
            return
        arrays = {f"{i:04d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
        text = np.frombuffer(json.dumps(dict(meta)).encode(), np.uint8)
        partial = self.folder / f"{name}.partial"
        with partial.open("wb") as file:
            np.savez(file, **{_META: text}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / f"{name}.npz")

    def meta(self, name: str) -> dict | None:
        """What :meth:`save` got as ``meta``; None if there is no such file."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return json.loads(file[_META].tobytes())

    def load(self, name: str, variables: Sequence[keras.Variable]) -> None:
        """Assign what :meth:`save` wrote to the same variables in the same order.

        Raises
        ------
        UserError
            If number or shapes differ: the checkpoint is of another network.
        """
        path = self.folder / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            keys = sorted(set(file.files) - {_META})
            arrays = [file[key] for key in keys]
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise UserError(
                f"{path} belongs to another network or stage. Give this run another name with "
                "--run, or delete the folder to start anew."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def keep_best(self, name: str | None) -> None:
        """Delete every ``best-*.npz`` but the one called ``name``."""
        if self.writes:
            for path in self.folder.glob("best-*.npz"):
                if path.stem != name:
                    path.unlink()

    def finish(self, model: keras.Model, history: Sequence[Mapping]) -> None:
        """Write the model's weights and the history, and delete what is needed to go on."""
        if not self.writes:
            return
        partial = self.folder / "partial.weights.h5"
        model.save_weights(partial)
        partial.replace(self.folder / "best.weights.h5")
        text = self.folder / "history.partial"
        text.write_text(json.dumps(list(history), indent=2) + "\n")
        text.replace(self.folder / "history.json")
        for path in self.folder.glob("*.npz"):
            path.unlink()

    def finished(self, model: keras.Model) -> list[dict] | None:
        """The history of a run that came to its end, whose weights ``model`` gets; else None."""
        path = self.folder / "history.json"
        if not path.is_file():
            return None
        model.load_weights(self.folder / "best.weights.h5")
        return json.loads(path.read_text())
