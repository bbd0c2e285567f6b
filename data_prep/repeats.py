"""Images of a set that repeat: found in a first pass over it, their subjects joined.

An image and its copy on both sides of a split let a network remember instead of recognise, as two
images of one person do. So the subjects of images that repeat count as one.
"""

import base64
import collections
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from data_prep import command, duplicates, runner
from data_prep.readers import _classification
from data_prep.readers._classification import Picture
from data_prep.readers._pictures import Decoding
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

MANY = 0.1  # share of the subjects; more of them are hardly all copies
_VERSION = 1  # raised whenever what is noted of an unchanged image changes


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Images that are one image, by their pseudonyms.

    Attributes
    ----------
    identical : list of list of str
        Groups whose pixels are the same.
    similar : list of dict
        Pairs of different subjects or labels, stored again in other size or quality: "cases",
        "bits" and "correlation" (see :class:`data_prep.duplicates.Pair`).
    """

    identical: list[list[str]]
    similar: list[dict]

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of cases through which all that repeats hangs together."""
        chains = [pair for group in self.identical for pair in zip(group, group[1:], strict=False)]
        return chains + [tuple(found["cases"]) for found in self.similar]


def note_picture(
    picture: Picture, decoding: Decoding, key: bytes, arrays: pathlib.Path
) -> StudyResult:
    """What tells whether an image repeats another: hash of its pixels, thumbnail; no example."""
    image, _ = _classification.read(picture, decoding, arrays)
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    thumbnail = base64.b85encode(duplicates.thumbnail(image).tobytes()).decode()
    return StudyResult(
        pseudonym(picture.name, key), "", {}, {"digest": digest, "thumbnail": thumbnail}
    )


def find(
    pictures: Sequence[Picture],
    decoding: Decoding,
    options: command.Options,
    folder: pathlib.Path,
    hamming: int | None = duplicates.HAMMING,
    correlation: float = duplicates.CORRELATION,
) -> tuple[set[str], Repeats]:
    """Look at every image once.

    Parameters
    ----------
    pictures : sequence of Picture
    decoding : Decoding
    options : command.Options
    folder : pathlib.Path
        Work folder, in which an interrupted search goes on; ``folder/arrays`` holds unpacked
        arrays.
    hamming, correlation
        See :func:`data_prep.duplicates.similar`. Without ``hamming`` only images with the same
        pixels are looked for.

    Returns
    -------
    left_out : set of str
        Cases that cannot be read.
    repeats : Repeats

    Raises
    ------
    UserError
        If an image cannot be read and ``options.strict`` is set.
    """
    logging.info("Looking for images that repeat among %d.", len(pictures))
    key = options.key
    depends = {"look": _VERSION, **dataclasses.asdict(decoding), "key": pseudonym("look", key)}
    spills, skipped = command.runner_of(options)(
        functools.partial(note_picture, decoding=decoding, key=key, arrays=folder / "arrays"),
        pictures,
        folder,
        extras={},
        tokens=runner.tokens(pictures, depends, options.workers),
        strict=options.strict,
    )
    left_out = {pseudonym(failed.study.name, key) for failed in skipped}
    if skipped:  # said here, because what is left may not suffice for the parts
        first = skipped[0]
        logging.warning(
            "%d of %d images cannot be used, such as %s: %s.",
            len(skipped),
            len(pictures),
            first.study.name,
            first.detail,
        )
    spills.sort(key=lambda spill: spill.case)
    same: dict[str, list[str]] = collections.defaultdict(list)
    for spill in spills:
        same[spill.truth["digest"]].append(spill.case)
    identical = sorted(group for group in same.values() if len(group) > 1)
    if hamming is None:
        return left_out, Repeats(identical, [])
    owner = {pseudonym(p.name, key): (p.subject, p.labels) for p in pictures}
    firsts = {group[0] for group in same.values()}
    spills = [spill for spill in spills if spill.case in firsts]
    raw = (base64.b85decode(spill.truth["thumbnail"]) for spill in spills)
    thumbnails = np.frombuffer(b"".join(raw), np.uint8)
    thumbnails = thumbnails.reshape(-1, duplicates.SIDE, duplicates.SIDE)
    similar = []
    for pair in duplicates.similar(thumbnails, hamming, correlation):
        cases = [spills[pair.first].case, spills[pair.second].case]
        # Frames of one film are alike, and stay together anyway.
        if owner[cases[0]] != owner[cases[1]]:
            found = {"bits": pair.bits, "correlation": round(pair.correlation, 4)}
            similar.append({"cases": cases, **found})
    return left_out, Repeats(identical, similar)


def together(pictures: Sequence[Picture], repeats: Repeats, key: bytes) -> list[Picture]:
    """The pictures, with one subject for all whose images repeat each other."""
    subjects = sorted({picture.subject for picture in pictures})
    place = {subject: number for number, subject in enumerate(subjects)}
    owner = {pseudonym(picture.name, key): place[picture.subject] for picture in pictures}
    linked = [(owner[a], owner[b]) for a, b in repeats.pairs() if a in owner and b in owner]
    first = {
        subjects[number]: subjects[group[0]]
        for group in duplicates.groups(len(subjects), linked)
        for number in group
    }
    return [
        picture
        if first[picture.subject] == picture.subject
        else dataclasses.replace(picture, subject=first[picture.subject])
        for picture in pictures
    ]


def doubt(pictures: Sequence[Picture], repeats: Repeats, key: bytes, correlation: float) -> str:
    """What to tell the user if similarity makes one of more than ``MANY`` subjects; else "".

    Subjects with images that are identical count as one beforehand. ``correlation`` is that with
    which similar images were looked for.
    """
    before = together(pictures, dataclasses.replace(repeats, similar=[]), key)
    members: dict[str, set[str]] = collections.defaultdict(set)
    for one, other in zip(before, together(pictures, repeats, key), strict=True):
        members[other.subject].add(one.subject)
    sizes = [len(own) for own in members.values()]
    joined = sum(size for size in sizes if size > 1)
    if joined <= MANY * sum(sizes):
        return ""
    return (
        f"{joined} of {sum(sizes)} subjects are joined with others because images are similar: if "
        "these are no copies but images of one scanner, give --repeats=identical, or "
        f"--correlation above {correlation:g}."
    )


def conflicts(pictures: Sequence[Picture], repeats: Repeats, key: bytes) -> list[list[str]]:
    """Groups of cases that are one image but have different labels."""
    cases = [pseudonym(picture.name, key) for picture in pictures]
    place = {case: number for number, case in enumerate(cases)}
    linked = [(place[a], place[b]) for a, b in repeats.pairs() if a in place and b in place]
    return [
        [cases[number] for number in group]
        for group in duplicates.groups(len(pictures), linked)
        if len({pictures[number].labels for number in group}) > 1
    ]
