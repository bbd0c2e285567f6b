"""Features of the frozen layers, computed once instead of once an epoch.

The leading frozen layer groups are a fixed function: no update, no dropout, no moving statistics.
What they make of an example is therefore the same in every epoch, and all that an epoch needs of
them can be kept: in memory, or on disk, where later runs on the same data find it.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np
from absl import logging

from data_prep.errors import UserError

#: Indices int64 (B,) and, for each of one or several tables, features (B, ...).
Rows = Iterable[tuple[np.ndarray, ...]]

_CHUNK = 64 << 20  # bytes that processes exchange at a time
_ABANDONED = 24 * 3600  # seconds after which an unfinished file counts as left over


def place(cache: str, need: int, bound: int) -> str:
    """Where ``need`` bytes of features go: ``memory``, ``disk`` or ``none``.

    ``auto`` is memory for up to half of ``bound`` and disk for the rest; whatever exceeds ``bound``
    is not kept, and a log line says so.
    """
    if cache == "none":
        return "none"
    if need > bound:
        logging.info(
            "Frozen layers are computed anew every epoch: their features need %.1f GiB, and the "
            "cache may hold %.1f (--cache_gib).",
            need / 2**30,
            bound / 2**30,
        )
        return "none"
    if cache == "auto":
        return "memory" if need <= bound / 2 else "disk"
    return cache


def fingerprint(prefix: keras.Model, *facts: object) -> str:
    """Hash of a frozen network, structure and weights, and of whatever else features depend on.

    How the weights began, a seed for instance, is of no importance, so runs that differ in nothing
    else share their features.

    Parameters
    ----------
    prefix : keras.Model
        The frozen layers.
    *facts
        Data set, split, subjects, a preprocessed batch (array), dtype, layer group, ...
    """
    digest = hashlib.sha256()
    arrays = [keras.ops.convert_to_numpy(weight) for weight in prefix.weights]
    structure = json.dumps(_lasting(json.loads(prefix.to_json())), sort_keys=True)
    for fact in (structure, *facts, *arrays):
        if isinstance(fact, np.ndarray):
            digest.update(f"{fact.dtype}{fact.shape}".encode())
            digest.update(np.ascontiguousarray(fact))
        else:
            digest.update(f"{fact!r}\n".encode())
    return digest.hexdigest()


def _lasting(config: object) -> object:
    """A network's configuration without what has no influence once the weights are given."""
    if isinstance(config, dict):
        return {
            key: _lasting(value)
            for key, value in config.items()
            if key not in ("seed", "trainable") and not key.endswith(("initializer", "regularizer"))
        }
    return [_lasting(value) for value in config] if isinstance(config, list) else config


def in_memory(
    rows: Callable[[], Rows],
    shape: Sequence[int],
    dtype: str,
    join: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Collect features in one array.

    Parameters
    ----------
    rows : callable
        Gives (indices int64 (B,), features (B, ...)): every index once over all processes.
    shape : sequence of int
        (examples, ...) of the whole.
    dtype : str
        float32 or float16.
    join : callable, optional
        Sum of an array over processes; with it each process computes its own share of the rows and
        gets all of them.

    Raises
    ------
    UserError
        If a feature is too large for ``dtype``.
    """
    table = np.zeros(shape, dtype)
    _fill([table], rows(), join)
    return table


def on_disk(
    rows: Callable[[Sequence[str]], Rows],
    shapes: Mapping[str, Sequence[int]],
    dtype: str,
    *,
    folder: pathlib.Path,
    bound: int,
    keep: Sequence[str] = (),
    join: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray | None:
    """Features kept in ``folder/KEY.npy``, made unless they are there; memory-mapped, read only.

    To stay within ``bound`` bytes the entries that were not used for the longest time are deleted,
    but none of ``keep`` (keys of this run). An entry in use elsewhere stays readable there.

    Parameters
    ----------
    rows : callable
        Of keys: gives indices and, for each key, features, as :data:`Rows`.
    shapes : mapping from key to (examples, ...)
        The first is wanted. If it has to be made, so are the others, for later runs; without them
        if the disk has no room for all.
    dtype, join
        As in :func:`in_memory`.
    folder : path
    bound : int
    keep : sequence of str

    Returns
    -------
    The first array, or None (and a log line) where the disk has not enough room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = next(iter(shapes))

    def everywhere(condition: bool) -> bool:
        # All processes compute, or none: computing waits for each other.
        return bool(join(np.array([not condition], np.float32))[0] == 0) if join else condition

    def need(keys: Sequence[str]) -> int:
        return sum(int(np.prod(shapes[key])) for key in keys) * np.dtype(dtype).itemsize

    path = folder / f"{wanted}.npy"
    if not everywhere(path.is_file()):
        lacking = [key for key in shapes if key == wanted or not (folder / f"{key}.npy").is_file()]
        for keys in (lacking, [wanted]):
            if room := everywhere(_make_room(folder, need(keys), bound, {*keys, *keep})):
                break
        if not room:
            logging.info("Frozen layers are computed anew every epoch: %s has no room.", folder)
            return None
        # No number of a process: containers that share the folder have the same ones.
        token = secrets.token_hex(8)
        partials = {key: folder / f"{key}.{token}.partial" for key in keys}
        try:
            tables = [
                np.lib.format.open_memmap(partial, "w+", dtype, tuple(shapes[key]))
                for key, partial in partials.items()
            ]
            _fill(tables, rows(keys), join)
            for table in tables:
                table.flush()
            del table, tables
            for key, partial in partials.items():
                partial.replace(folder / f"{key}.npy")
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)
    return read(folder, wanted)


def read(folder: pathlib.Path, key: str) -> np.ndarray:
    """Features that are there, memory-mapped; they count as used now."""
    path = folder / f"{key}.npy"
    os.utime(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _fill(tables: Sequence[np.ndarray], rows: Rows, join: Callable | None) -> None:
    for indices, *parts in rows:
        for table, features in zip(tables, parts, strict=True):
            with np.errstate(over="ignore"):
                features = np.asarray(features).astype(table.dtype)
            if not np.isfinite(features).all():
                raise UserError(
                    f"Features of the frozen layers do not fit {table.dtype}, or are not numbers. "
                    "Set --cache_dtype=float32, or --cache=none."
                )
            table[indices] = features
    for table in tables if join is not None else ():
        size = max(1, _CHUNK // max(1, table[:1].nbytes))
        for start in range(0, len(table), size):
            table[start : start + size] = join(np.asarray(table[start : start + size]))


def _make_room(folder: pathlib.Path, need: int, bound: int, keep: set[str]) -> bool:
    """Delete what is stale until ``need`` bytes fit ``bound`` and the disk; whether they do."""
    now = time.time()
    for status, path in _present(folder, "*.partial"):
        if now - status.st_mtime > _ABANDONED:
            path.unlink(missing_ok=True)
    entries = _present(folder, "*.npy")
    held = sum(status.st_size for status, _ in entries)
    if need > bound:
        return False
    for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
        if held + need <= bound and shutil.disk_usage(folder).free > need:
            break
        if path.stem not in keep:
            path.unlink(missing_ok=True)
            held -= status.st_size
    return held + need <= bound and shutil.disk_usage(folder).free > need


def _present(folder: pathlib.Path, pattern: str) -> list[tuple[os.stat_result, pathlib.Path]]:
    """Files and their status, without those that another process takes away meanwhile."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat(), path))
    return found
