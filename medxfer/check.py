"""Look at a dataset before a long run: is it whole, and is it what it seems to be?

Every record is read, and of every image its file's hash is compared. Images are decoded for what
needs their pixels until a bound of bytes: records lie in random order, so the first ones of a split
are a fair sample of it.
"""

import collections
import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from data_prep import duplicates, progress, records
from data_prep.errors import UserError
from data_prep.splits import PARTS
from medxfer import check_estimate, check_images, plugins
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder, untuned

#: Bytes of encoded images of a split that are decoded.
DECODED = 192 * 2**20

_BATCH = 512
_WANTED = (
    "image",
    "label",
    "subject",
    "case",
    "x",
    "y",
    "margin",
    "views",
    "mm_per_pixel",
    "frame",
)
#: With fewer subjects in a part, or originals of a class, what is found may be chance.
_SUBJECTS, _ORIGINALS = 5, 10


@dataclasses.dataclass
class _Split:
    """What one split holds."""

    name: str
    examples: int = 0
    subjects: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    people: dict[int, set[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )
    originals: dict[int, set[tuple[str, int]]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )
    twins: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    decoded: int = 0
    read: int = 0  # bytes of what was decoded
    flat: int = 0
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    shape: tuple[int, ...] = ()  # of its first image


class _Survey:
    """What all splits hold, and what is wrong with it."""

    def __init__(self, folder: DatasetFolder) -> None:
        self.folder = folder
        self.splits: list[_Split] = []
        self.problems = _missing(folder)
        self._copies = _copies(folder.findings)
        self._same: dict[bytes, tuple[str, str]] = {}
        self._seen: dict[str, check_images.Seen] = {}
        self._calibration: dict[str, set[float]] = collections.defaultdict(set)
        for name in folder.splits:
            self.splits.append(split := _Split(name))
            files = folder.files(name)
            for path in progress.track(files, f"Reading, {name}", len(files), "shards"):
                place = 0
                for batch in _batches(folder, path):
                    self._add(split, path, place, batch)
                    place += len(batch["image"])
            self._judge(split)
        self.problems += [
            f"case {one} of {self._seen[one].split} and case {other} of {self._seen[other].split} "
            "show the same image: the same person is in both. Look for one subject under two names."
            for one, other in check_images.same_image(self._seen)
        ]
        for case, size in _in_plane(folder.truth):
            self._calibration[case].add(size)
        self.problems += _calibration_outliers(self._calibration)

    def _add(self, split: _Split, path: pathlib.Path, place: int, batch: Mapping) -> None:
        subjects = [text.decode() for text in batch["subject"]]
        cases = [text.decode() for text in batch["case"]]
        split.examples += len(subjects)
        split.subjects.update(subjects)
        frames = batch.get("frame", np.zeros(len(cases), np.int64)).tolist()
        for subject, case, frame, shown in zip(subjects, cases, frames, _shown(batch), strict=True):
            split.labels.update(shown)
            for label in shown:
                split.people[label].add(subject)
                split.originals[label].add((self._copies.get(case, case), frame))
        for case, size in zip(cases, batch.get("mm_per_pixel", ()), strict=False):
            self._calibration[case].add(round(float(size), 6))
        for row, png in enumerate(batch["image"]):
            image = None
            if split.read < DECODED:
                image = check_images.decode(png)
                if image is None:
                    self.problems.append(
                        f"{path.name}: the image of record {place + row} (from 0) cannot be read."
                    )
                    continue
                split.read += len(png)
                split.decoded += 1
                split.shape = split.shape or image.shape
                split.values += np.bincount(image.ravel(), minlength=256)
                split.flat += not np.ptp(image)
                if "margin" in batch:
                    self._show(split, subjects[row], cases[row], image, batch, row)
            self._compare(split, subjects[row], png, image, int(batch.get("views", {row: 0})[row]))

    def _show(
        self,
        split: _Split,
        subject: str,
        case: str,
        image: np.ndarray,
        batch: Mapping,
        row: int,
    ) -> None:
        """Note which part of its study an image is."""
        place = [batch[name][row] for name in ("x", "y", "margin")]
        shown = check_images.window(
            image, batch["label"][row] < 0, *place, self.folder.truth[split.name][case]
        )
        seen = self._seen.setdefault(case, check_images.Seen(split.name, subject))
        seen.windows.append(shown)

    def _compare(
        self, split: _Split, subject: str, png: bytes, image: np.ndarray | None, views: int
    ) -> None:
        """Look whether another subject in another split has the same image."""
        keys = [check_images.digest(png)]
        if views and image is not None:
            keys += check_images.views_digests(image, views)
        owners = {self._same.setdefault(key, (split.name, subject)) for key in keys}
        others = {other for other, person in owners if other != split.name and person != subject}
        # A black patch resembles every other black patch: only real content can leak.
        if others and np.ptp(check_images.decode(png)):
            split.twins.update(others)

    def _judge(self, split: _Split) -> None:
        """Name what is wrong with one split."""
        folder, name = self.folder, split.name
        if split.examples != folder.count(name):
            self.problems.append(
                f"{name} holds {split.examples} records, but {folder.count(name)} were written."
            )
        if strangers := set(split.subjects).difference(folder.subjects(name)):
            self.problems.append(
                f"{name} holds records of {len(strangers)} subjects that prep.json does not name "
                f"there ({', '.join(sorted(strangers)[:3])}): prepare the data again."
            )
        for other, count in split.twins.items():
            self.problems.append(
                f"{count} images of {name} are byte for byte also in {other}: the same person may "
                "be in both. Look for one subject under two names."
            )
        if strange := [label for label in split.labels if not -1 <= label < len(folder.classes)]:
            self.problems.append(f"{name} has labels that are no class: {strange[:3]}.")
        whole = -1 in split.labels and not folder.multilabel
        missing = [n for i, n in enumerate(folder.classes) if not whole and not split.labels[i]]
        if missing and name in ("train", "validation"):
            self.problems.append(f"{name} has no example of {', '.join(missing)}.")


def check(path: str, app_name: str, config: Config | None = None) -> bool:
    """Print what is in a dataset folder, what is wrong with it and what a run will need.

    Compares every shard with its hash and names the first damaged record, reads every record,
    counts classes and subjects by split, says which split is missing, describes the pixels, and
    looks for one image under two subjects' names in different splits and for unusual calibration.
    Where records say which part of their image they are, one image is also recognised by patches
    and regions of different places, by the pixels that they share.

    Parameters
    ----------
    path : str
    app_name : str
    config : Config, optional
        Of a run whose memory and time are to be estimated.

    Returns
    -------
    bool
        Whether nothing was found that would spoil a run.

    Raises
    ------
    UserError
        If the folder is no dataset of this app, or a subject lies in two parts.
    """
    plugins.check("medxfer.apps", app_name)
    folder = DatasetFolder.open(path, app=app_name)
    print(f"{folder.path}: app {folder.app}, fingerprint {folder.fingerprint[:12]}")
    problems = folder.damaged()
    if not problems:
        survey = _Survey(folder)
        for split in survey.splits:
            print("\n".join(_described(split, folder)))
        if not folder.has("test"):
            print("  note: there is no test part; a run will be trained, but not evaluated")
        problems = survey.problems
        if config is not None:
            shapes = {split.name: split.shape for split in survey.splits if split.shape}
            with progress.doing("Timing what a run does"):
                print(check_estimate.text(folder, shapes, config))
    for problem in problems:
        logging.error("%s", problem)
    found = (
        f"{len(problems)} problems were found." if len(problems) != 1 else "1 problem was found."
    )
    print(found if problems else "Nothing wrong was found.")
    return not problems


def _missing(folder: DatasetFolder) -> list[str]:
    """Splits that were wanted and the folder lacks; test alone, or none, may have been wanted."""
    settings = folder.settings
    share = settings.get("test_fraction") if settings.get("folds") is None else None
    needed = {0: ("train", "validation"), 1: ("test",)}.get(share, PARTS)
    return [
        f"there is no {name} split, which a run needs: prepare the data again, with subjects for "
        "each part (see --test_fraction, --validation_fraction and, of classified images, "
        "--noown_split)."
        for name in needed
        if name not in folder.splits
    ]


def _batches(folder: DatasetFolder, path: pathlib.Path) -> Iterator[dict[str, np.ndarray]]:
    """Some features of the records of a shard, images as the bytes of their PNG."""
    spec = records.parse_spec(folder.extras)
    wanted = {name: spec[name] for name in _WANTED if name in spec}
    if folder.multilabel:
        wanted["labels"] = tf.io.FixedLenFeature([len(folder.classes)], tf.int64)
    dataset = tf.data.TFRecordDataset(str(path)).batch(_BATCH)
    dataset = dataset.map(lambda batch: tf.io.parse_example(batch, wanted))
    try:
        yield from untuned(dataset.prefetch(2)).as_numpy_iterator()
    except tf.errors.InvalidArgumentError as error:
        reason = (error.message or "").splitlines()[0][:200]
        raise UserError(f"{path} holds other records than its prep.json says: {reason}") from error


def _shown(batch: Mapping) -> list[list[int]]:
    """Class indices of every record; -1: none, or a region of several."""
    if "labels" in batch:
        return [np.flatnonzero(row).tolist() or [-1] for row in batch["labels"]]
    return [[label] for label in batch["label"].tolist()]


def _described(split: _Split, folder: DatasetFolder) -> list[str]:
    """Lines about one split."""
    names = {-1: "none" if folder.multilabel else "whole region", **dict(enumerate(folder.classes))}
    lines = [f"  {split.name}: {split.examples} examples of {len(split.subjects)} subjects"]
    if split.subjects:
        counts = split.subjects.values()
        middle = statistics.median_low(counts)
        lines[0] += f", {min(counts)} to {max(counts)} each, median {middle}"
    lines += [
        f"    {names.get(label, label)} {count}, of {len(split.people[label])} subjects"
        for label, count in sorted(split.labels.items())
    ]
    lines += [f"    caution: {text}" for text in _cautions(split, folder)]
    if silent := len(set(folder.subjects(split.name)) - set(split.subjects)):
        lines.append(f"    note: {silent} subjects have no example")
    if total := split.values.sum():
        share, grey = split.values / total, np.arange(256)
        mean = float(share @ grey)
        deviation = float(np.sqrt(share @ (grey - mean) ** 2))
        seen = np.flatnonzero(split.values)
        size = " x ".join(map(str, split.shape))
        lines.append(
            f"    pixels: {size} (the first), mean {mean:.1f}, standard deviation {deviation:.1f}, "
            f"{seen[0]} to {seen[-1]}, {share[0]:.1%} black, {share[255]:.1%} white"
        )
        if split.decoded < split.examples:
            lines[-1] += f"; of {split.decoded} images drawn at random"
    if split.flat:
        lines.append(f"    note: {split.flat} images have one grey value only")
    return lines


def _cautions(split: _Split, folder: DatasetFolder) -> list[str]:
    """What is so little in a part that results on it, or training with it, may be chance."""
    if split.name not in PARTS:  # whole regions of subjects who are counted by their patches
        return []
    found = []
    if len(split.subjects) < _SUBJECTS:
        found.append(f"fewer than {_SUBJECTS} subjects")
    for label, name in enumerate(folder.classes):
        count = len(split.originals[label])
        whole = -1 in split.labels and not folder.multilabel
        if count < _ORIGINALS and not whole:
            found.append(
                f"{name} is shown by {count} original{'s' * (count != 1)} only (images, frames or "
                f"volumes, fewer than {_ORIGINALS}), not counting crops, patches and copies"
            )
    return found


def _copies(findings: Mapping) -> dict[str, str]:
    """Case -> the case that stands for it, of images that repeat."""
    chains = [*findings.get("identical", ()), *(p["cases"] for p in findings.get("similar", ()))]
    cases = sorted({case for chain in chains for case in chain})
    place = {case: number for number, case in enumerate(cases)}
    pairs = [(place[a], place[b]) for chain in chains for a, b in itertools.pairwise(chain)]
    return {
        cases[number]: cases[group[0]]
        for group in duplicates.groups(len(cases), pairs)
        for number in group
    }


def _in_plane(truth: Mapping[str, Mapping]) -> Iterator[tuple[str, float]]:
    """Of every volume the case and the size of a pixel of its slices, mm (geometric mean).

    Their distance says nothing of a mistake: thin and thick slices of one scan differ tenfold.
    """
    for cases in truth.values():
        for case, fact in cases.items():
            if "spacing_mm" in fact:
                _, height, width = fact["spacing_mm"]
                yield case, round(math.sqrt(height * width), 6)


def _calibration_outliers(calibration: Mapping[str, set[float]]) -> list[str]:
    """Cases whose pixel size is far from all others: most often a unit mistaken for another."""
    found = [
        f"case {case} has {len(sizes)} pixel sizes"
        for case, sizes in calibration.items()
        if len(sizes) > 1
    ]
    values = np.array([min(sizes) for sizes in calibration.values()])
    if values.size:
        middle = np.median(values)
        found += [
            f"case {case}: {min(sizes):g} mm per pixel is {min(sizes) / middle:.1f} times the "
            "median of the set; check its calibration."
            for case, sizes in calibration.items()
            if not 1 / 3 < min(sizes) / middle < 3
        ]
    return found
