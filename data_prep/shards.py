"""Spilled results to a dataset folder: hashed order, sharded, whole or not there at all.

The folder holds ``NAME-SPLIT.tfrecord-00000-of-0000N`` and, so that TensorFlow Datasets reads it
too, ``dataset_info.json``, ``features.json`` and ``label.labels.txt``; beside them ``truth.json``
(what is true of every case, per split) and ``prep.json`` (settings, versions, hashes, subjects,
what was skipped and mended). No original name is in any of them.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import platform
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import PIL

from data_prep import quiet, records, splits
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
    balanced : tuple of str
        Splits whose larger classes lose examples, at random but the same ones always, until every
        class has as many as the smallest: "randomly dropping negatives" of Tajbakhsh et al. 2016,
        section IV, over the whole set and not per study.
    """

    name: str
    classes: tuple[str, ...]
    extras: Mapping[str, str]
    splits: Mapping[str, tuple[str, str]]
    channels: int = 1
    balanced: tuple[str, ...] = ()


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


def left_out(output: pathlib.Path) -> set[str] | None:
    """Cases that a finished dataset could not use; None if ``output`` is none."""
    try:
        return {
            entry["case"] for entry in json.loads((output / "prep.json").read_text())["skipped"]
        }
    except (OSError, ValueError, LookupError, TypeError):
        return None


def findings(output: pathlib.Path) -> dict | None:
    """What was found out of the sources of a finished dataset; None if ``output`` is none."""
    try:
        return json.loads((output / "prep.json").read_text())["findings"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


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
    key_id: str = "",
    assets: Mapping[str, bytes] | None = None,
    findings: Mapping | None = None,
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
    key_id : str
        Says which key the pseudonyms have, without giving it away: subjects of two datasets can
        be compared only under one key.
    assets : mapping, optional
        File name -> content of what lies in ``assets/`` beside the records: what a trained run
        needs again for raw studies.
    findings : mapping, optional
        What was found out of the sources as a whole, such as images that repeat: plain JSON values
        with pseudonyms, for ``prep.json``.
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
    folder = work_folder(output) / f"dataset.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process that had this number
    folder.mkdir(parents=True)
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
                    folder,
                    f"{layout.name}-{split}",
                    members,
                    kind,
                    seed,
                    shard_bytes,
                    split in layout.balanced,
                )
        if not any(split.examples for split in written.values()):
            raise UserError("No study gave any example: nothing was written.")
        splits.require_disjoint(
            {split: content.subjects for split, content in written.items()},
            {split: part for split, (part, _) in layout.splits.items()},
        )
        prep = _prep(layout, written, settings, inputs)
        prep["key_id"] = key_id
        prep["assets"] = {
            name: hashlib.sha256(content).hexdigest() for name, content in (assets or {}).items()
        }
        prep["findings"] = dict(findings or {})
        prep["sources"] = {"found": len(spills) + len(skipped), "used": len(spills)}
        prep["skipped"] = [{"case": case, "reason": skipped[case]} for case in sorted(skipped)]
        prep["mended"] = [{"case": s.case, "what": what} for s in spills for what in s.mended]
        features = records.features_json(layout.classes, layout.channels, layout.extras)
        _write_json(folder / "dataset_info.json", _dataset_info(layout, written))
        _write_json(folder / "features.json", features)
        _write_json(folder / "truth.json", truth)
        for name, content in (assets or {}).items():
            (folder / "assets").mkdir(exist_ok=True)
            (folder / "assets" / name).write_bytes(content)
        _write_json(folder / "prep.json", prep)
        names = "".join(f"{name}\n" for name in layout.classes)
        (folder / "label.labels.txt").write_text(names, encoding="utf-8")
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
    balanced: bool,
) -> Written:
    """Write the shards of one split.

    Only an index of the examples is in memory (44 bytes each) and the examples of one shard.
    """
    quiet.import_tensorflow()
    import tensorflow as tf

    tables = [_index(spill.index(), kind, seed) for spill in spills]
    index = np.concatenate(tables)
    owners = np.repeat(np.arange(len(spills), dtype=np.int32), [len(table) for table in tables])
    order = np.lexsort((index["low"], index["high"]))
    index, owners = index[order], owners[order]
    twice = np.flatnonzero((np.diff(index["high"]) == 0) & (np.diff(index["low"]) == 0))
    if twice.size:
        cases = sorted({spills[owners[place]].case for place in (twice[0], twice[0] + 1)})
        raise UserError(
            f"{name}: two examples have the same key (case {' and '.join(cases)}): "
            "a key must name one example only."
        )
    if balanced:
        kept = _equal_shares(index["label"])
        index, owners = index[kept], owners[kept]
    size = int(index["length"].sum())
    count = max(1, min(len(index), math.ceil(size / shard_bytes)))
    bounds = [len(index) * shard // count for shard in range(count + 1)]
    sha256 = {}
    for shard, (start, stop) in enumerate(itertools.pairwise(bounds)):
        path = folder / f"{name}.tfrecord-{shard:05d}-of-{count:05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in _read(spills, owners[start:stop], index[start:stop]):
                writer.write(record)
        with path.open("rb") as file:
            sha256[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    labels, counts = np.unique(index["label"], return_counts=True)
    return Written(
        examples=len(index),
        size=size,
        shards=[stop - start for start, stop in itertools.pairwise(bounds)],
        subjects=sorted({spill.subject for spill in spills}),
        labels=dict(zip(labels.tolist(), counts.tolist(), strict=True)),
        sha256=sha256,
    )


def _equal_shares(labels: np.ndarray) -> np.ndarray:
    """Places of the first examples of every class, as many as the smallest class has; in order."""
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    fewest = min(map(len, places), default=0)
    return np.sort(np.concatenate([own[:fewest] for own in places] or [np.empty(0, np.intp)]))


#: One example of a spill: 128 bits of its hashed key, where it lies, its class.
_ENTRY = np.dtype(
    [("high", "u8"), ("low", "u8"), ("offset", "i8"), ("length", "i8"), ("label", "i8")]
)


def _index(spilled: Mapping[str, Mapping[str, list]], kind: str, seed: int) -> np.ndarray:
    """The examples of one kind in one spill, as ``_ENTRY``."""
    start = 0
    for other, entry in spilled.items():
        if other == kind:
            digests = (hashlib.sha256(f"{seed}\0{key}".encode()).digest() for key in entry["key"])
            hashes = np.frombuffer(b"".join(digest[:16] for digest in digests), ">u8")
            table = np.empty(len(entry["key"]), _ENTRY)
            table["high"], table["low"] = hashes[::2], hashes[1::2]
            table["length"], table["label"] = entry["length"], entry["label"]
            table["offset"] = start + np.cumsum(table["length"]) - table["length"]
            return table
        start += sum(entry["length"])
    return np.empty(0, _ENTRY)


def _read(spills: Sequence[Spill], owners: np.ndarray, index: np.ndarray) -> list[bytes]:
    """Examples in the order given, each file being opened once and read from front to back."""
    found = [b""] * len(index)
    places = np.lexsort((index["offset"], owners))
    for owner, own in itertools.groupby(places, key=lambda place: owners[place]):
        with spills[owner].path.open("rb") as file:
            for place in own:
                file.seek(index["offset"][place])
                found[place] = file.read(index["length"][place])
    return found


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
