"""Checkpoints of a run: enough to go on after an interruption, and the best weights at the end.

In ``checkpoints/`` of the run folder, while training runs::

    last.npz       what moves in the stage, and the optimizer, after some step
    best-N.npz     the moving weights after epoch N, the stage's best by then
    stage-I.npz    the frozen variables of stage I

and when it has ended only ``best.weights.h5`` (Keras' format: ``model.load_weights`` reads it) and
``history.json``. They are written after every epoch, within one that is long, and when the process
is asked to end; what is frozen once a stage. Every file appears whole or not at all.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from data_prep.errors import UserError

LONG = 600.0  # seconds at most from one checkpoint to the next, also where an epoch takes longer

_META = "meta"
_OVERHEAD = 4096  # bytes at most that HDF5 adds for an array and its groups


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
        self._writes = writes
        self._written = time.monotonic()
        if writes:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def overdue(self) -> bool:
        """Whether this process should write now although the epoch has not ended."""
        return self._writes and time.monotonic() - self._written >= LONG

    def save(
        self, name: str, arrays: Sequence[keras.Variable | np.ndarray], meta: Mapping | None = None
    ) -> None:
        """Write ``name.npz``: arrays in order, and ``meta`` (JSON); only where this one writes."""
        if not self._writes:
            return
        named = {f"{i:04d}": keras.ops.convert_to_numpy(a) for i, a in enumerate(arrays)}
        text = np.frombuffer(json.dumps(dict(meta or {})).encode(), np.uint8)
        partial = self.folder / f"{name}.partial"
        try:
            with partial.open("wb") as file:
                np.savez(file, **{_META: text}, **named)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / f"{name}.npz")
        finally:
            partial.unlink(missing_ok=True)  # where it could not be written
        self._written = time.monotonic()

    def exists(self, name: str) -> bool:
        """Whether ``name.npz`` was written."""
        return (self.folder / f"{name}.npz").is_file()

    def meta(self, name: str) -> dict:
        """What :meth:`save` got as ``meta``."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return json.loads(file[_META].tobytes())

    def read(self, name: str) -> list[np.ndarray]:
        """The arrays that :meth:`save` got, in order."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return [file[key] for key in sorted(set(file.files) - {_META})]

    def load(self, name: str, variables: Sequence[keras.Variable]) -> None:
        """Assign what was saved to the same variables in the same order.

        Raises
        ------
        UserError
            If number or shapes differ: the checkpoint is of another network.
        """
        arrays = self.read(name)
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise UserError(
                f"{self.folder / name}.npz belongs to another network or stage. Give this run "
                "another name with --run, or delete the folder to start anew."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def keep_only(self, *names: str) -> None:
        """Delete every other ``.npz``; only where this one writes."""
        if not self._writes:
            return
        for path in self.folder.glob("*.npz"):
            if path.stem not in names:
                path.unlink()

    def finish(self, model: keras.Model, history: Sequence[Mapping]) -> None:
        """Write the model's weights and the history, and delete what is needed to go on."""
        if not self._writes:
            return
        partial = self.folder / "partial.weights.h5"
        try:
            _require_room(partial, model)
            model.save_weights(partial)
            partial.replace(self.folder / "best.weights.h5")
        finally:
            partial.unlink(missing_ok=True)
        text = self.folder / "history.partial"
        text.write_text(json.dumps(list(history), indent=2) + "\n")
        text.replace(self.folder / "history.json")
        self.keep_only()

    @property
    def ended(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / "history.json").is_file()

    def finished(self, model: keras.Model) -> list[dict] | None:
        """The history of a run that came to its end, whose weights ``model`` gets; else None."""
        if not self.ended:
            return None
        model.load_weights(self.folder / "best.weights.h5")
        return json.loads((self.folder / "history.json").read_text())


def standing(run_dir: pathlib.Path) -> str:
    """Where the training of a run that was interrupted goes on, in a sentence."""
    own, *searched = [
        Checkpoints(place, writes=False)
        for place in (run_dir / "checkpoints", *run_dir.glob("search/*/checkpoints"))
    ]
    if own.ended:
        return "Training is complete; the same command does what follows it."
    for place in (own, *searched):
        if place.exists("last"):
            meta = place.meta("last")
            more = f" and {meta['step']} steps of the next one" if meta["step"] else ""
            return f"The same command goes on after epoch {meta['epoch']} of {meta['name']}{more}."
    if any(place.ended for place in searched):
        return "The same command goes on with the next depth."
    return "No epoch was saved; the same command starts the training anew."


def _require_room(path: pathlib.Path, model: keras.Model) -> None:
    """Raise OSError where a model's weights do not fit.

    HDF5 does not recover from a write that fails: the process may crash when it ends.
    """
    arrays = sum(math.prod(weight.shape) * 4 for weight in model.weights)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, arrays + _OVERHEAD * max(1, len(model.weights)))
