"""Records to tf.data: batches in an exact order, whole regions one by one.

A split of patches is decoded once and kept as uint8, in memory or, if it is large, in a
memory-mapped file; an epoch is then a list of row numbers, and a batch a gather. So the order of an
epoch is known beforehand, and features computed once for a frozen part of a network can be replayed
in exactly that order, which a shuffle buffer of tf.data does not allow.
"""

import hashlib
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import numpy as np
import tensorflow as tf

from data_prep import records, splits
from data_prep.errors import UserError
from medxfer import outputs, runs
from medxfer.dataset_folder import DatasetFolder, damage, untuned

#: Decoded splits above this many bytes are memory-mapped.
MEMORY_LIMIT = 2 * 2**30

_BATCH = 512  # records parsed and decoded at once
_AHEAD = 2  # batches made while one is used
_SAMPLE = 8  # images that show what the preprocessing does

Transform = Callable[[tf.Tensor], tf.Tensor]


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
        Share of the subjects, see :func:`kept`.
    least : int
        Minimum number of subjects.
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
    subjects, cases : list of str
        All in stream order: that of the records.
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
        says, or classes that do not exclude each other are to be balanced.
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
        least: int = 1,
        process: tuple[int, int] = (0, 1),
        balanced: bool = False,
        cache_dir: pathlib.Path | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        if balanced and folder.multilabel:
            raise UserError(
                "--balance=sampling needs classes that exclude each other, and an image of "
                f"{folder.path} may have several: take --balance=weights."
            )
        self._images, labels, subjects, cases = _load(folder, split, cache_dir, memory_limit)
        own = kept(folder, split, labels, subjects, fraction, seed, least)
        self.rows = np.flatnonzero([subject in own for subject in subjects])
        if not self.rows.size:
            raise UserError(f"Split '{split}' of {folder.path} has no example of these subjects.")
        self.num_examples = len(self.rows)
        self.labels: np.ndarray = labels[self.rows]
        self.subjects: list[str] = [subjects[row] for row in self.rows]
        self.cases: list[str] = [cases[row] for row in self.rows]
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

    def stored(self, most: int) -> tuple[np.ndarray, list[str]]:
        """Images as they are stored, uint8 (N, ...), at most so many and spread evenly; cases."""
        chosen = np.unique(np.linspace(0, self.num_examples - 1, most).round().astype(np.int64))
        return self._images[self.rows[chosen]], [self.cases[place] for place in chosen]

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
        return untuned(dataset.prefetch(_AHEAD).with_options(options))


def kept(
    folder: DatasetFolder,
    split: str,
    labels: np.ndarray,
    subjects: Sequence[str],
    fraction: float,
    seed: int,
    least: int = 1,
) -> frozenset[str]:
    """Subjects of a split that a run on a fraction of the data uses: nested, by subject.

    The validation part is as much smaller as the training part, but shows all its classes, without
    which nothing could be validated.

    Parameters
    ----------
    folder, split
    labels : int64 array, (N,) or (N, classes)
    subjects : sequence of N str
    fraction, seed, least
        As for :class:`Pipeline`.
    """
    known = subjects if split == "validation" else folder.subjects(split)
    shown: dict[str, set] = {subject: set() for subject in known}
    if split == "validation":
        for subject, label in zip(subjects, labels.tolist(), strict=True):
            shown[subject].update(enumerate(label) if labels.ndim > 1 else [label])
    return splits.fraction(shown, fraction, f"fraction {seed}", least=least, shown=shown)


def labelled(folder: DatasetFolder, split: str) -> tuple[np.ndarray, list[str]]:
    """Labels and subjects of a split as :class:`Pipeline` has them, without its images."""
    spec = records.parse_spec(folder.extras)
    wanted = {name: spec[name] for name in ("label", "subject")}
    if folder.multilabel:
        wanted["labels"] = tf.io.FixedLenFeature([len(folder.classes)], tf.int64)
    dataset = tf.data.TFRecordDataset([str(path) for path in folder.files(split)])
    dataset = dataset.map(lambda record: tf.io.parse_single_example(record, wanted))
    found = list(_guarded(dataset, folder, split))
    labels = [example.get("labels", example["label"]) for example in found]
    return np.array(labels, np.int64), [example["subject"].decode() for example in found]


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
        if features["subject"].decode() in folder.excluded:
            continue
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
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Images uint8 (N, height, width, channels), labels int64 (N, ...), subjects and cases."""
    count = folder.count(split)
    if not count:
        raise UserError(f"Split '{split}' of {folder.path} has no examples.")
    spec = records.parse_spec(folder.extras)
    wanted = {name: spec[name] for name in ("image", "label", "subject", "case")}
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
    cases: list[str] = []
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
        cases.extend(case.decode() for case in batch["case"])
    _require_count(folder, split, len(labels))
    if strangers := set(subjects).difference(folder.subjects(split)):
        raise UserError(
            f"Split '{split}' of {folder.path} holds records of subjects that are not in its "
            f"prep.json ({', '.join(sorted(strangers)[:3])}): prepare the data again."
        )
    return images, np.array(labels, np.int64), subjects, cases


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
        yield from untuned(dataset.prefetch(_AHEAD)).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        found = filter(None, map(damage, folder.files(split)))
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
