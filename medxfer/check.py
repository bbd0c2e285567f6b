"""Look at a dataset before a long run: is it whole, and is it what it seems to be?"""

import collections
import hashlib

import numpy as np
from absl import logging

from medxfer import data, plugins


def check(path: str, app_name: str) -> bool:
    """Print what is in a dataset folder and what is wrong with it.

    Reads every record (which verifies its checksum), counts classes and subjects by split, and
    looks for one image under two subjects' names in different splits and for unusual calibration.

    Returns
    -------
    bool
        Whether nothing was found that would spoil a run.

    Raises
    ------
    UserError
        If the folder is no dataset of this app, or a record cannot be read.
    """
    app = plugins.load("medxfer.apps", app_name)
    folder = data.DatasetFolder.open(path, app=app_name)
    problems: list[str] = []
    seen: dict[bytes, str] = {}
    calibration = collections.defaultdict(set)
    print(f"{folder.path}: app {folder.app}, fingerprint {folder.fingerprint[:12]}")
    for split in folder.splits:
        labels: collections.Counter = collections.Counter()
        subjects: collections.Counter = collections.Counter()
        twins: collections.Counter = collections.Counter()
        flat = 0
        for example in data.units(folder, split):
            labels[int(example["label"])] += 1
            subjects[example["subject"]] += 1
            image = example["image"]
            flat += int(image.min() == image.max())
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            # A black patch resembles every other black patch: only real content can leak.
            if image.min() != image.max() and seen.setdefault(digest, split) != split:
                twins[seen[digest]] += 1
            if "mm_per_pixel" in example:
                calibration[example["case"]].add(round(float(example["mm_per_pixel"]), 6))
        names = [*app.CLASSES, "whole region"]
        counts = ", ".join(f"{names[label]} {count}" for label, count in sorted(labels.items()))
        print(f"  {split}: {sum(labels.values())} examples of {len(subjects)} subjects ({counts})")
        if flat:
            print(f"    note: {flat} images have one grey value only")
        for other, count in twins.items():
            problems.append(
                f"{count} images of {split} are byte for byte also in {other}: the same person may "
                "be in both. Look for one subject under two names."
            )
        missing = [name for i, name in enumerate(app.CLASSES) if -1 not in labels and not labels[i]]
        if missing and split in ("train", "validation"):
            problems.append(f"{split} has no example of {', '.join(missing)}.")
    problems += _calibration_outliers(calibration)
    for problem in problems:
        logging.error("%s", problem)
    print("Nothing wrong was found." if not problems else f"{len(problems)} problems were found.")
    return not problems


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
