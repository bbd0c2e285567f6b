"""Cases that hold the same files: left out, or kept together, so that no split tears them apart."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import UserError
from data_prep.readers import _images
from data_prep.readers._images import Unusable

if TYPE_CHECKING:
    from data_prep.readers._colonoscopy import Source

REPEATS = "repeats the frames of another case, byte for byte"
SHARES = "shares frames with another case: both count as one subject"
START = 4096  # bytes compared before whole files are
BLANK = 12  # grey levels: recordings begin and pause with frames that show nothing


def without_repeats(sources: Iterable["Source"]) -> list["Source"]:
    """Mark cases all of whose frames are in another case; join the subjects of those that share.

    Of two equal cases, the one with more annotation files stays, else the first. Blank frames do
    not count as shared.
    """
    sources = list(sources)
    holders: dict[pathlib.Path, list[int]] = collections.defaultdict(list)
    for number, each in enumerate(sources):
        for path in () if each.problem else dict.fromkeys(each.images):
            holders[path].append(number)
    groups = [{n: p for p in group for n in holders[p]} for group in _identical(holders)]
    groups += [dict.fromkeys(numbers, p) for p, numbers in holders.items() if len(numbers) > 1]
    shared: collections.Counter[tuple[int, int]] = collections.Counter()
    twins: dict[tuple[int, int], pathlib.Path] = {}
    for group in groups:
        if len(group) < 2:
            continue
        for one in group:
            for other in group.keys() - {one}:
                shared[one, other] += 1
                if (one, other) not in twins and not _is_blank(group[other]):
                    twins[one, other] = group[other]

    def worth(number: int) -> tuple[int, int, int]:
        each = sources[number]
        return len(set(each.images)), len(each.files), -number

    pairs = sorted(twins)
    for one, other in pairs:
        is_whole = shared[one, other] >= len(set(sources[one].images))
        if is_whole and not sources[other].problem and worth(other) > worth(one):
            files = (*sources[one].files, twins[one, other])
            sources[one] = dataclasses.replace(
                sources[one], problem=REPEATS, files=files, repeats=sources[other].name
            )
    for one, other in pairs:
        if not sources[one].problem and not sources[other].problem:
            _join(sources, one, other, twins[one, other])
    return sources


def check_splits(sources: Iterable["Source"]) -> None:
    """Test that the splits which a set gives keep every subject together.

    Raises
    ------
    UserError
        If a subject is in two splits.
    """
    first: dict[str, Source] = {}
    for each in sources:
        if each.problem or not each.split:
            continue
        known = first.setdefault(each.subject, each)
        if known.split != each.split:
            raise UserError(
                f"{known.name} is given as {known.split} and {each.name} as {each.split}, but "
                f"both are of subject {each.subject}: put them into one split."
            )


def _join(sources: list["Source"], one: int, other: int, twin: pathlib.Path) -> None:
    """Give one subject to two cases and to all that already have the subject of either."""
    subjects = sorted({sources[one].subject, sources[other].subject})
    sources[one] = dataclasses.replace(
        sources[one],
        notes=tuple(dict.fromkeys([*sources[one].notes, SHARES])),
        files=tuple(dict.fromkeys([*sources[one].files, twin])),
    )
    for number, each in enumerate(sources):
        if each.subject in subjects[1:]:
            sources[number] = dataclasses.replace(each, subject=subjects[0])


def _identical(paths: Iterable[pathlib.Path]) -> list[list[pathlib.Path]]:
    """Groups of files of equal content; a file is read only where another has its size."""

    def start(path: pathlib.Path) -> bytes:
        with path.open("rb") as file:
            return file.read(START)

    def digest(path: pathlib.Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    groups = [list(paths)]
    for key in (lambda path: path.stat().st_size, start, digest):
        finer = []
        for group in groups:
            parts = collections.defaultdict(list)
            for path in group:
                try:
                    parts[key(path)].append(path)
                except OSError:  # said again, with its reason, when the case is read
                    continue
            finer += [part for key_, part in parts.items() if key_ and len(part) > 1]
        groups = finer
    return groups


def _is_blank(path: pathlib.Path) -> bool:
    try:
        return int(np.ptp(_images.load_grey(path)[0])) < BLANK
    except Unusable:  # a video, or what is left out
        return False
