"""Look at a dataset before a long run: is it whole, and is it what it seems to be?"""

import collections
import dataclasses
import hashlib
import itertools

import numpy as np
from absl import logging

from data_prep import patches
from medxfer import data, plugins

_ENOUGH = 400  # equal pixels, not all of one grey value, that no two images share by chance


@dataclasses.dataclass
class _Seen:
    """What the records of one study show of its image."""

    split: str
    subject: str
    windows: list[tuple[int, int, np.ndarray]] = dataclasses.field(default_factory=list)

    def mosaic(self) -> tuple[int, int, np.ndarray]:
        """First row, first column and pixels int16 (H, W); -1 where no record shows the image."""
        top, left = (min(window[axis] for window in self.windows) for axis in (0, 1))
        bottom, right = (
            max(window[axis] + window[2].shape[axis] for window in self.windows) for axis in (0, 1)
        )
        pixels = np.full((bottom - top, right - left), -1, np.int16)
        for y, x, image in self.windows:
            pixels[y - top : y - top + len(image), x - left : x - left + image.shape[1]] = image
        return top, left, pixels


def check(path: str, app_name: str) -> bool:
    """Print what is in a dataset folder and what is wrong with it.

    Compares every shard with its hash, reads every record, counts classes and subjects by split,
    and looks for one image under two subjects' names in different splits and for unusual
    calibration. Where records say which part of their image they are, one image is also recognised
    by patches and regions of different places, by the pixels that they share.

    Returns
    -------
    bool
        Whether nothing was found that would spoil a run.

    Raises
    ------
    UserError
        If the folder is no dataset of this app, a shard has changed, or a record cannot be read.
    """
    plugins.check("medxfer.apps", app_name)
    folder = data.DatasetFolder.open(path, app=app_name)
    folder.verify()
    problems: list[str] = []
    same: dict[bytes, tuple[str, str]] = {}
    seen: dict[str, _Seen] = {}
    calibration = collections.defaultdict(set)
    print(f"{folder.path}: app {folder.app}, fingerprint {folder.fingerprint[:12]}")
    for split in folder.splits:
        labels: collections.Counter = collections.Counter()
        subjects: collections.Counter = collections.Counter()
        twins: collections.Counter = collections.Counter()
        flat = 0
        for example in data.units(folder, split):
            labels.update(_shown(example, folder.multilabel))
            subject, case = example["subject"], example["case"]
            subjects[subject] += 1
            image = example["image"]
            if {"x", "y", "margin"} <= set(example):
                window = _window(example, folder.truth[split][case])
                seen.setdefault(case, _Seen(split, subject)).windows.append(window)
            # A black patch resembles every other black patch: only real content can leak.
            if image.min() == image.max():
                flat += 1
            else:
                found = [same.setdefault(key, (split, subject)) for key in _digests(example)]
                for other in {o for o, person in found if o != split and person != subject}:
                    twins[other] += 1
            if "mm_per_pixel" in example:
                calibration[case].add(round(float(example["mm_per_pixel"]), 6))
        names = [*folder.classes, "none" if folder.multilabel else "whole region"]
        counts = ", ".join(f"{names[label]} {count}" for label, count in sorted(labels.items()))
        print(f"  {split}: {subjects.total()} examples of {len(subjects)} subjects ({counts})")
        if flat:
            print(f"    note: {flat} images have one grey value only")
        for other, count in twins.items():
            problems.append(
                f"{count} images of {split} are byte for byte also in {other}: the same person may "
                "be in both. Look for one subject under two names."
            )
        whole = -1 in labels and not folder.multilabel
        missing = [name for i, name in enumerate(folder.classes) if not whole and not labels[i]]
        if missing and split in ("train", "validation"):
            problems.append(f"{split} has no example of {', '.join(missing)}.")
    problems += _one_image_twice(seen) + _calibration_outliers(calibration)
    for problem in problems:
        logging.error("%s", problem)
    print("Nothing wrong was found." if not problems else f"{len(problems)} problems were found.")
    return not problems


def _shown(example: dict, multilabel: bool) -> list[int]:
    """Class indices of a record; -1: none, or a region of several."""
    if not multilabel:
        return [int(example["label"])]
    return np.flatnonzero(example["labels"]).tolist() or [-1]


def _digests(example: dict) -> list[bytes]:
    """Hash of an image, or of each patch below one another in it, whichever way it is mirrored."""
    image = example["image"]
    if "views" not in example:
        return [hashlib.blake2b(image.tobytes(), digest_size=16).digest()]
    views = image.reshape(int(example["views"]), -1, *image.shape[1:])
    if views.shape[1] != views.shape[2]:
        return [hashlib.blake2b(view.tobytes(), digest_size=16).digest() for view in views]
    versions = patches.dihedral(views)
    return [
        min(hashlib.blake2b(v.tobytes(), digest_size=16).digest() for v in versions[:, number])
        for number in range(len(views))
        if np.ptp(views[number])
    ]


def _window(example: dict, truth: dict) -> tuple[int, int, np.ndarray]:
    """Row, column and pixels of what a record shows; what was mirrored at the edges is cut off."""
    image, margin = example["image"][..., 0], int(example["margin"])
    # A patch says where its centre is, a region where its first evaluated pixel is.
    before = margin if example["label"] < 0 else image.shape[0] // 2
    top, left = int(example["y"]) - before, int(example["x"]) - before
    rows = slice(max(-top, 0), max(truth["height"] - top, 0))
    columns = slice(max(-left, 0), max(truth["width"] - left, 0))
    return top + rows.start, left + columns.start, image[rows, columns]


def _one_image_twice(seen: dict[str, _Seen]) -> list[str]:
    """Studies of different subjects and splits that show the same pixels at the same places."""
    mosaics = {case: found.mosaic() for case, found in seen.items()}
    problems = []
    for (case, one), (twin, other) in itertools.combinations(seen.items(), 2):
        if one.split == other.split or one.subject == other.subject:
            continue
        (top, left, pixels), (top_2, left_2, pixels_2) = mosaics[case], mosaics[twin]
        down, right = top_2 - top, left_2 - left
        part = pixels[max(down, 0) :, max(right, 0) :]
        part_2 = pixels_2[max(-down, 0) :, max(-right, 0) :]
        common = tuple(map(min, part.shape, part_2.shape))
        part, part_2 = (found[: common[0], : common[1]] for found in (part, part_2))
        known = (part >= 0) & (part_2 >= 0)
        shared = part[known]
        if len(shared) >= _ENOUGH and np.ptp(shared) and np.array_equal(shared, part_2[known]):
            problems.append(
                f"case {case} of {one.split} and case {twin} of {other.split} show the same image: "
                "the same person is in both. Look for one subject under two names."
            )
    return problems


def _calibration_outliers(calibration: dict[str, set[float]]) -> list[str]:
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
