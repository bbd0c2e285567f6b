"""Records to tf.data: the dataset folder, batches in an exact order, whole regions one by one.

A split of patches is decoded once and kept as uint8, in memory or, if it is large, in a
memory-mapped file; an epoch is then a list of row numbers, and a batch a gather. So the order of an
epoch is known beforehand, and features computed once for a frozen part of a network can be replayed
in exactly that order, which a shuffle buffer of tf.data does not allow.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import tensorflow as tf

from data_prep import records, splits
from data_prep.errors import UserError
from medxfer import outputs, runs

#: Decoded splits above this many bytes are memory-mapped.
MEMORY_LIMIT = 2 * 2**30

_BATCH = 512  # records parsed and decoded at once
_SAMPLE = 8  # images that show what the preprocessing does

Transform = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetFolder:
    """A folder that `data_prep` wrote. Make one with :meth:`open`.

    Attributes
    ----------
    path : path
    app : str
    classes : tuple of str
    channels : int
        Of the images: 1 or 3.
    extras : dict
        The app's own features, name -> kind.
    settings : dict
        With which the data was prepared.
    truth : dict
        Split -> case -> what is true of it.
    findings : dict
        What was found out of the sources as a whole; the app's own.
    fingerprint : str
        Hash of the records and of all that they were made from.
    key_id : str
        Which key the pseudonyms have.
    """

    path: pathlib.Path
    app: str
    classes: tuple[str, ...]
    channels: int
    extras: dict[str, str]
    settings: dict
    truth: dict
    findings: dict
    fingerprint: str
    key_id: str
    _splits: dict[str, dict] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: str | pathlib.Path, app: str | None = None) -> "DatasetFolder":
        """Open a dataset folder and check that it is whole.

        Raises
        ------
        UserError
            If the folder is absent, empty, no dataset or of another app, if shards are missing or
            left over, or if a subject lies in two parts.
        """
        path = pathlib.Path(path)
        if not path.is_dir() or not any(path.iterdir()):
            state = "is empty" if path.is_dir() else "does not exist or is no folder"
            raise UserError(f"{path} {state}: make it with python -m data_prep.{app or 'APP'}.")
        try:
            prep = json.loads((path / "prep.json").read_text())
            truth = json.loads((path / "truth.json").read_text())
            folder = cls(
                path=path,
                app=prep["app"],
                classes=tuple(prep["classes"]),
                channels=prep["channels"],
                extras=prep["extras"],
                settings=prep["settings"],
                truth=truth,
                findings=prep.get("findings", {}),
                fingerprint=prep["fingerprint"],
                key_id=prep.get("key_id", ""),
                _splits=prep["splits"],
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path} is no dataset folder of data_prep ({error}): prepare it again."
            ) from error
        if app is not None and folder.app != app:
            raise UserError(f"{path} holds data of app '{folder.app}', not of '{app}'.")
        for split in folder.splits:
            expected = {file.name for file in folder.files(split)}
            present = {file.name for file in path.glob(f"{folder.app}-{split}.tfrecord-*")}
            if expected != present:
                wrong = sorted(expected ^ present)[0]
                state = "is missing" if wrong in expected else "does not belong to it"
                raise UserError(f"{path}: {wrong} {state}. Copy the folder again, whole.")
        splits.require_disjoint(
            {split: folder.subjects(split) for split in folder.splits},
            {split: folder._splits[split]["part"] for split in folder.splits},
        )
        return folder

    @property
    def assets(self) -> dict[str, pathlib.Path]:
        """Files beside the records that predicting needs again, by name."""
        found = sorted((self.path / "assets").glob("*"))
        return {path.name: path for path in found if path.is_file()}

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes, or none."""
        return self.settings.get("multilabel", False)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        return self._split(split)["examples"]

    def subjects(self, split: str) -> list[str]:
        """Pseudonyms of a split's subjects, also of those without any example; sorted."""
        return self._split(split)["subjects"]

    def files(self, split: str) -> list[pathlib.Path]:
        """Shards of a split in their order."""
        return [self.path / name for name in sorted(self._split(split)["sha256"])]

    def damaged(self) -> list[str]:
        """Compare every shard with its hash; what is wrong with each that differs.

        Slow, for a check before a long run.
        """
        found = []
        for split in self.splits:
            for path in self.files(split):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != self._splits[split]["sha256"][path.name]:
                    found.append(
                        _damage(path) or f"{path} has changed since it was written: copy it again."
                    )
        return found

    def _split(self, split: str) -> dict:
        if split not in self._splits:
            raise UserError(f"{self.path} has no split '{split}', only {', '.join(self._splits)}.")
        return self._splits[split]


class Pipeline:
    """Batches of one split of patches, all of one size.

    Parameters
    ----------
    folder : DatasetFolder
    split : str
    batch_size : int
        Global: over all replicas and processes.
    transform : callable
        Images uint8 (B, height, width, channels) -> network input, in a tf.data map.
    seed : int
        Decides the order of the epochs and which subjects a fraction keeps.
    fraction : float
        Share of the subjects: nested, by subject (see :func:`data_prep.splits.fraction`).
    process : index, count
        Of several processes: every one takes its contiguous slice of each global batch, so that
        together they see what a single one would.
    balanced : bool
        Whether epochs hold as many examples of each class: :func:`outputs.balanced_order`.
    cache_dir : path, optional
        Folder of memory-mapped files; by default the user's cache folder.
    memory_limit : int
        Decoded splits above so many bytes are memory-mapped.

    Attributes
    ----------
    num_examples : int
    labels : ndarray of int64, (num_examples,)
        Of a multi-label set 0 and 1 for every class, (num_examples, classes).
    subjects : list of str
        Both in stream order: that of the records.
    fingerprint : str
        Of these examples in this order; what is computed from them may be kept under it.
    whole : str
        The same for all examples of the split.
    rows : ndarray of int64, (num_examples,)
        Where the examples are among all of the split.

    Raises
    ------
    UserError
        If a record is damaged, the images differ in size, the records are not what ``prep.json``
        says, the batch does not divide among the processes, or classes that do not exclude each
        other are to be balanced.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        split: str,
        *,
        batch_size: int,
        transform: Transform,
        seed: int = 0,
        fraction: float = 1.0,
        process: tuple[int, int] = (0, 1),
        balanced: bool = False,
        cache_dir: pathlib.Path | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        if batch_size % process[1]:
            raise UserError(
                f"--batch_size must be a multiple of the {process[1]} processes. "
                f"Received: {batch_size}."
            )
        if balanced and folder.multilabel:
            raise UserError(
                "--balance=sampling needs classes that exclude each other, and an image of "
                f"{folder.path} may have several: take --balance=weights."
            )
        self._images, labels, subjects = _load(folder, split, cache_dir, memory_limit)
        kept = splits.fraction(folder.subjects(split), fraction, f"fraction {seed}")
        self.rows = np.flatnonzero([subject in kept for subject in subjects])
        if not self.rows.size:
            raise UserError(f"Split '{split}' of {folder.path} has no example of these subjects.")
        self.num_examples = len(self.rows)
        self.labels: np.ndarray = labels[self.rows]
        self.subjects: list[str] = [subjects[row] for row in self.rows]
        self.fingerprint, self.whole = (
            hashlib.sha256(
                f"{folder.fingerprint} {split}".encode() + rows.astype("<i8").tobytes()
            ).hexdigest()
            for rows in (self.rows, np.arange(len(labels)))
        )
        self._batch_size = batch_size
        self._transform = transform
        self._seed = seed
        self._process = process
        self._balanced = balanced

    def epoch(self, number: int) -> tf.data.Dataset:
        """All examples in the order of :meth:`shuffled_indices`, less an incomplete last batch.

        Elements are (index, x, y): index int64 (B,) in stream order, x the network input, y int64
        (B, ...) the labels. With fewer examples than a batch, the batch is all of them.
        """
        size = min(self._batch_size, self.num_examples)
        return self._batches(self.shuffled_indices(number), size, drop_remainder=True)

    def ordered(self) -> tf.data.Dataset:
        """All examples in stream order as in :meth:`epoch`, the last batch possibly smaller.

        Then, of several processes, some may have no example in it.
        """
        return self._batches(np.arange(self.num_examples), self._batch_size, drop_remainder=False)

    def sample(self) -> np.ndarray:
        """Network input of the split's first few images, the same for every share of it."""
        return np.asarray(self._transform(tf.constant(self._images[:_SAMPLE])))

    def shuffled_indices(self, number: int) -> np.ndarray:
        """Order of epoch ``number``, int64 (num_examples,): depends on the seed and both numbers.

        NumPy promises the raw output of its bit generators, unlike ``permutation``, for ever. Where
        classes are balanced some examples come twice or more, and others not.
        """
        bits = np.random.Philox(key=[self._seed, number]).random_raw(self.num_examples)
        order = np.argsort(bits, kind="stable")
        return outputs.balanced_order(self.labels, order, number) if self._balanced else order

    def _batches(self, order: np.ndarray, size: int, drop_remainder: bool) -> tf.data.Dataset:
        place, count = self._process

        def own(indices: tf.Tensor) -> tf.Tensor:
            length = tf.size(indices)
            return indices[length * place // count : length * (place + 1) // count]

        def fetch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self._images[self.rows[indices]], self.labels[indices]

        def element(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # A NumPy function serves memory and memory-mapped files alike, and copies nothing
            # into the graph; it holds the interpreter for one small copy a batch.
            images, labels = tf.numpy_function(
                fetch, [indices], [tf.uint8, tf.int64], stateful=False
            )
            images.set_shape([indices.shape[0], *self._images.shape[1:]])
            labels.set_shape([indices.shape[0], *self.labels.shape[1:]])
            return indices, self._transform(images), labels

        dataset = tf.data.Dataset.from_tensor_slices(order.astype(np.int64))
        dataset = dataset.batch(size, drop_remainder=drop_remainder)
        if count > 1:
            dataset = dataset.map(own)
        dataset = dataset.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def units(folder: DatasetFolder, split: str) -> Iterator[dict]:
    """Whole examples of a split, one by one, for evaluation.

    Yields
    ------
    dict
        Feature -> value: ``image`` uint8 (height, width, channels), texts as str, numbers as int
        and float, lists as float32 (n,).

    Raises
    ------
    UserError
        If a record is damaged.
    """
    spec = records.parse_spec(folder.extras)

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_single_example(record, spec)
        features["image"] = tf.io.decode_png(features["image"], channels=folder.channels)
        return features

    dataset = tf.data.TFRecordDataset([str(path) for path in folder.files(split)]).map(parse)
    found = 0
    for features in _guarded(dataset, folder, split):
        found += 1
        yield {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in features.items()
        }
    _require_count(folder, split, found)


def resize_to(side: int) -> Transform:
    """Transform uint8 (B, height, width, 1 or 3) to float32 RGB (B, side, side, 3), still 0..255.

    Bilinear between pixel centres, without antialiasing; grey is repeated in the three channels.
    """

    def transform(images: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(images, (side, side), "bilinear", antialias=False)
        return resized if images.shape[-1] == 3 else tf.repeat(resized, 3, axis=-1)

    return transform


def patch_transform(network: ModuleType) -> Transform:
    """Transform stored patches to the input of a network plug-in: its side, its preprocessing."""
    resize = resize_to(network.INPUT_SIDE)
    return lambda images: network.preprocess(resize(images))


def _load(
    folder: DatasetFolder, split: str, cache_dir: pathlib.Path | None, memory_limit: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images uint8 (N, height, width, channels), labels int64 (N, ...) and subjects of a split."""
    count = folder.count(split)
    if not count:
        raise UserError(f"Split '{split}' of {folder.path} has no examples.")
    spec = records.parse_spec(folder.extras)
    wanted = {name: spec[name] for name in ("image", "label", "subject")}
    if folder.multilabel:
        wanted["labels"] = tf.io.FixedLenFeature([len(folder.classes)], tf.int64)

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(serialized, wanted)
        features["label"] = features.get("labels", features["label"])
        features["image"] = tf.map_fn(
            lambda png: tf.io.decode_png(png, channels=folder.channels),
            features["image"],
            fn_output_signature=tf.TensorSpec([None, None, folder.channels], tf.uint8),
        )
        return features

    dataset = tf.data.TFRecordDataset([str(path) for path in folder.files(split)])
    dataset = dataset.batch(_BATCH).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    images = np.empty(0, np.uint8)
    labels: list[int] = []
    subjects: list[str] = []
    for batch in _guarded(dataset, folder, split):
        if not labels:
            images = _room((count, *batch["image"].shape[1:]), cache_dir, memory_limit)
        if batch["image"].shape[1:] != images.shape[1:]:
            raise UserError(
                f"Split '{split}' of {folder.path} holds images of several sizes "
                f"({images.shape[1:]} and {batch['image'].shape[1:]}): patches must have one."
            )
        room = images[len(labels) : len(labels) + len(batch["label"])]
        room[:] = batch["image"][: len(room)]
        labels.extend(batch["label"])
        subjects.extend(subject.decode() for subject in batch["subject"])
    _require_count(folder, split, len(labels))
    if strangers := set(subjects).difference(folder.subjects(split)):
        raise UserError(
            f"Split '{split}' of {folder.path} holds records of subjects that are not in its "
            f"prep.json ({', '.join(sorted(strangers)[:3])}): prepare the data again."
        )
    return images, np.array(labels, np.int64), subjects


def _room(shape: tuple[int, ...], cache_dir: pathlib.Path | None, limit: int) -> np.ndarray:
    """Place for uint8 images: memory, or a nameless file that ends with the last use of it."""
    if math.prod(shape) <= limit:
        return np.empty(shape, np.uint8)
    cache_dir = cache_dir or runs.cache_folder()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_dir) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _guarded(dataset: tf.data.Dataset, folder: DatasetFolder, split: str) -> Iterator[dict]:
    """Elements as NumPy values; what TensorFlow cannot read becomes a user's error."""
    try:
        yield from dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        found = filter(None, map(_damage, folder.files(split)))
        place = next(found, f"Split '{split}' of {folder.path} is damaged: copy it again.")
        raise UserError(place) from error
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        reason = (error.message or "").splitlines()[0][:200]
        raise UserError(
            f"Split '{split}' of {folder.path} cannot be read as equal images with labels: {reason}"
        ) from error


def _require_count(folder: DatasetFolder, split: str, found: int) -> None:
    if found != folder.count(split):
        raise UserError(
            f"Split '{split}' of {folder.path} holds {found} records, but {folder.count(split)} "
            "were written: copy the folder again."
        )


def _damage(path: pathlib.Path) -> str:
    """Which record of a shard is the first that cannot be read; "" if all can."""
    whole = 0
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            whole += 1
    except tf.errors.DataLossError:
        return f"{path}: record {whole} (from 0) is damaged or cut off: copy or prepare it again."
    return ""
