"""Spilled results to a dataset folder: hashed order, sharded, whole or not there at all.

The folder holds ``NAME-SPLIT.tfrecord-00000-of-0000N`` and, so that TensorFlow Datasets reads it
too, ``dataset_info.json``, ``features.json`` and ``label.labels.txt``; beside them ``truth.json``
(what is true of every case, per split) and ``prep.json`` (settings, versions, hashes, subjects,
what was skipped and mended). No original name is in any of them.
"""

import collections
import dataclasses
import hashlib
import json
import math
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import PIL

from data_prep import records, splits
from data_prep.errors import UserError
from data_prep.runner import Spill

#: About so many bytes of examples lie in one shard.
SHARD_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the dataset folder of an app looks like.

    Attributes
    ----------
    name : str
        The app: first part of the file names.
    classes : tuple of str
        Names of the classes in the order of their indices.
    extras : mapping
        The app's own features (see :mod:`data_prep.records`).
    splits : mapping
        Split -> (part of the subjects, kind of examples), for instance
        ``{"validation_roi": ("validation", "roi")}``.
    channels : int
        1 (grey) or 3 (RGB).
    """

    name: str
    classes: tuple[str, ...]
    extras: Mapping[str, str]
    splits: Mapping[str, tuple[str, str]]
    channels: int = 1


@dataclasses.dataclass(frozen=True)
class Written:
    """What is in one split: examples, bytes of examples, and examples per class index."""

    examples: int
    size: int
    shards: list[int]
    subjects: list[str]
    labels: dict[int, int]
    sha256: dict[str, str]


def work_folder(output: pathlib.Path) -> pathlib.Path:
    """Folder beside ``output`` that holds what is not finished yet."""
    return output.with_name(f"{output.name}.partial")


def find_finished(output: pathlib.Path, inputs: str) -> dict | None:
    """``prep.json`` of ``output`` if it was made from the same inputs; None if nothing is there.

    Parameters
    ----------
    output : path
    inputs : str
        Hash of sources and settings, as :func:`write_dataset` writes it.

    Raises
    ------
    UserError
        If the folder holds something else, which is never overwritten.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        prep = json.loads((output / "prep.json").read_text())
        found = prep["inputs"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{output} exists and is no prepared dataset: choose another --output."
        ) from error
    if found != inputs:
        raise UserError(
            f"{output} was prepared from other sources or settings (see its prep.json): "
            "choose another --output, or delete it."
        )
    return prep


def write_dataset(
    output: pathlib.Path,
    layout: Layout,
    spills: Sequence[Spill],
    parts: Mapping[str, str],
    *,
    seed: int,
    settings: Mapping,
    inputs: str,
    skipped: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> dict:
    """Write the dataset folder; its bytes depend on neither the order of ``spills`` nor the time.

    Parameters
    ----------
    output : path
        Must be absent or empty. The folder is written in the work folder and renamed.
    layout : Layout
    spills : sequence of Spill
        One per case.
    parts : mapping
        Subject -> "train", "validation" or "test" (see :func:`data_prep.splits.assign`).
    seed : int
        Salts the order of the examples.
    settings : mapping
        Plain JSON values, written to ``prep.json``.
    inputs : str
        Hash of sources and settings.
    skipped : mapping
        Case pseudonym -> why the study could not be used.
    shard_bytes : int

    Returns
    -------
    dict
        The content of ``prep.json``.

    Raises
    ------
    UserError
        If two examples of a split have one key, two studies are one case, a subject lies in two
        parts, no example is left, or ``output`` came into being meanwhile.
    """
    spills = sorted(spills, key=lambda spill: spill.case)
    for case, count in collections.Counter(spill.case for spill in spills).items():
        if count > 1:
            raise UserError(f"{count} studies are case {case}: each must have a name of its own.")
    work = work_folder(output)
    work.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dataset.", dir=work))
    try:
        written: dict[str, Written] = {}
        truth: dict[str, dict] = {}
        for split, (part, kind) in layout.splits.items():
            members = [spill for spill in spills if parts[spill.subject] == part]
            if members:
                truth[split] = {
                    spill.case: {"subject": spill.subject, **spill.truth} for spill in members
                }
                written[split] = _write_split(
                    folder, f"{layout.name}-{split}", members, kind, seed, shard_bytes
                )
        if not any(split.examples for split in written.values()):
            raise UserError("No study gave any example: nothing was written.")
        splits.require_disjoint(
            {split: content.subjects for split, content in written.items()},
            {split: part for split, (part, _) in layout.splits.items()},
        )
        prep = _prep(layout, written, settings, inputs)
        prep["sources"] = {"found": len(spills) + len(skipped), "used": len(spills)}
        prep["skipped"] = [{"case": case, "reason": skipped[case]} for case in sorted(skipped)]
        prep["mended"] = [{"case": s.case, "what": what} for s in spills for what in s.mended]
        features = records.features_json(layout.classes, layout.channels, layout.extras)
        _write_json(folder / "dataset_info.json", _dataset_info(layout, written))
        _write_json(folder / "features.json", features)
        _write_json(folder / "truth.json", truth)
        _write_json(folder / "prep.json", prep)
        (folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in layout.classes))
        folder.chmod(0o755)  # mkdtemp's folders are closed to others
        try:
            folder.replace(output)
        except OSError as error:
            raise UserError(f"{output} is in the way: {error.strerror}.") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return prep


def _write_split(
    folder: pathlib.Path,
    name: str,
    spills: Sequence[Spill],
    kind: str,
    seed: int,
    shard_bytes: int,
) -> Written:
    """Write the shards of one split.

    Only an index of the examples is in memory (36 bytes each) and the examples of one shard.
    """
    import tensorflow as tf

    index = [_index(spill, kind, seed) for spill in spills]
    hashes = np.concatenate([hashes for hashes, _, _ in index])
    offsets = np.concatenate([offsets for _, offsets, _ in index])
    lengths = np.concatenate([lengths for _, _, lengths in index])
    owners = np.repeat(np.arange(len(spills), dtype=np.int32), [len(entry[0]) for entry in index])
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    twice = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if twice.size:
        cases = sorted({spills[owners[order[twice[0] + side]]].case for side in (0, 1)})
        raise UserError(
            f"{name}: two examples have the same key (case {' and '.join(cases)}): "
            "a key must name one example only."
        )
    size = int(lengths.sum())
    count = max(1, min(len(order), math.ceil(size / shard_bytes)))
    bounds = [len(order) * shard // count for shard in range(count + 1)]
    sha256 = {}
    for shard in range(count):
        path = folder / f"{name}.tfrecord-{shard:05d}-of-{count:05d}"
        chosen = order[bounds[shard] : bounds[shard + 1]]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in _read(spills, owners[chosen], offsets[chosen], lengths[chosen]):
                writer.write(record)
        with path.open("rb") as file:
            sha256[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    labels = collections.Counter()
    for spill in spills:
        labels.update(spill.index.get(kind, {}).get("label", []))
    return Written(
        examples=len(order),
        size=size,
        shards=[after - before for before, after in zip(bounds, bounds[1:], strict=False)],
        subjects=sorted({spill.subject for spill in spills}),
        labels=dict(sorted(labels.items())),
        sha256=sha256,
    )


def _index(spill: Spill, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes (n, 2) uint64, offsets and lengths (n,) int64 of the examples of one kind."""
    start = 0
    for other, entry in spill.index.items():
        if other == kind:
            digests = b"".join(
                hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:16] for key in entry["key"]
            )
            lengths = np.array(entry["length"], np.int64)
            offsets = start + np.cumsum(lengths) - lengths
            return np.frombuffer(digests, ">u8").reshape(-1, 2), offsets, lengths
        start += sum(entry["length"])
    none = np.zeros(0, np.int64)
    return np.zeros((0, 2), ">u8"), none, none


def _read(
    spills: Sequence[Spill], owners: np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> list[bytes]:
    """Examples in the order given, each file being opened once and read from front to back."""
    result: list[bytes] = [b""] * len(owners)
    file = None
    try:
        opened = -1
        for place in np.lexsort((offsets, owners)):
            if owners[place] != opened:
                if file is not None:
                    file.close()
                opened = owners[place]
                file = spills[opened].path.open("rb")
            file.seek(offsets[place])
            result[place] = file.read(lengths[place])
    finally:
        if file is not None:
            file.close()
    return result


def _dataset_info(layout: Layout, written: Mapping[str, Written]) -> dict:
    """Content of ``dataset_info.json``, as TensorFlow Datasets expects it."""
    return {
        "name": layout.name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "moduleName": "data_prep",
        "splits": [
            {
                "name": split,
                "numBytes": str(content.size),
                "shardLengths": [str(length) for length in content.shards],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, content in written.items()
        ],
    }


def _prep(layout: Layout, written: Mapping[str, Written], settings: Mapping, inputs: str) -> dict:
    contents = {
        split: {
            "examples": content.examples,
            "labels": {str(label): count for label, count in content.labels.items()},
            "part": layout.splits[split][0],
            "subjects": content.subjects,
            "sha256": content.sha256,
        }
        for split, content in written.items()
    }
    identity = json.dumps([inputs, *(content.sha256 for content in written.values())])
    return {
        "app": layout.name,
        "classes": list(layout.classes),
        "channels": layout.channels,
        "extras": dict(layout.extras),
        "settings": dict(settings),
        "splits": contents,
        "inputs": inputs,
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
        "versions": {
            "schema": records.SCHEMA_VERSION,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
