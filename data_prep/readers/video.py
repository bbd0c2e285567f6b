"""Videos of any codec that PyAV (FFmpeg) decodes, with masks and frame labels if there are any.

``NAME.mp4`` (or another suffix), beside it, if wanted, the folder ``NAME_masks/`` of masks called
by frame index from 0 (``000012.png``): a frame without a file shows no lesion. The tables
``frame_quality_labels.csv`` and ``videos.csv``, in the videos' folder or above it, give labels,
subjects and splits (:mod:`data_prep.readers._colonoscopy_tables`).
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _colonoscopy_tables, _frames, _video
from data_prep.readers._colonoscopy import Frame, Options, Sampling, Source, Tally
from data_prep.readers._images import Unusable

KIND = "colonoscopy"
LAYOUT = "videos NAME.mp4 (or .avi, .mkv ...), perhaps beside NAME_masks/000000.png"

MASKS = "_masks"


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the videos below a folder, or the video that ``root`` is.

    A video that a table names and that is absent, and a folder of masks without a video, become
    cases that cannot be used, so that they are named.

    Raises
    ------
    UserError
        If a table contradicts itself or fits none of the videos.
    """
    options = options or Options()
    if root.is_file():
        if not _is_video(root):
            raise UserError(f"{root} has no suffix of a video: {' '.join(_video.SUFFIXES)}.")
        return [_source(root.parent, root, {}, options)]
    videos = sorted(filter(_is_video, root.rglob("*")), key=_colonoscopy.natural)
    if not videos:
        return []
    names = {path: path.relative_to(root).as_posix() for path in videos}
    entries, absent = {}, []
    for folder in dict.fromkeys([root, *(path.parent for path in videos)]):
        own = {p.relative_to(folder).as_posix(): p for p in videos if p.is_relative_to(folder)}
        found = _colonoscopy_tables.entries(folder)
        given, without = _colonoscopy_tables.assign(found, own, folder)
        entries |= {own[name]: entry for name, entry in given.items()}
        absent += [(key, found[key]) for key in without]
    sources = [_source(root, path, entries, options, names[path]) for path in videos]
    sources += [
        _colonoscopy.source(
            __name__,
            root,
            f"{key} (named in a table)",
            problem="a table names this video, but it is not there",
            tables=entry.tables,
        )
        for key, entry in absent
    ]
    folders = {path.parent for path in videos}
    own = {path.with_name(path.stem + MASKS) for path in videos}
    for folder in sorted(p for f in folders for p in f.glob(f"[!.]*{MASKS}") if p.is_dir()):
        if folder not in own:
            name, problem = folder.relative_to(root).as_posix(), "masks without a video"
            sources.append(_colonoscopy.source(__name__, root, name, problem=problem))
    return sources


def frames(source: Source, sampling: Sampling, tally: Tally) -> Iterator[Frame]:
    """Decode a video; one frame at a time is in memory.

    Raises
    ------
    Unusable
        If it is empty, cut off or damaged (unless that was accepted), of an unknown codec, or if
        labels or masks are of frames that it does not have.
    """
    video, facts = source.video, source.facts
    labels, masks = facts["labels"], facts["masks"]
    index = _video.scan(video)
    count = index.count
    if facts["accept_truncated"]:
        count = _video.whole_frames(video, index)
        if index.is_cut or count < index.expected:
            tally.add(f"the video is cut off or damaged: its first {count} frames were used")
        if not count:
            raise Unusable("no frame of the video can be read")
    elif index.is_cut:
        raise Unusable(_broken("cut off or damaged", count, index.expected))
    for what, own in (("labels", labels), ("masks", masks)):
        if own and index.expected and max(own) >= index.expected:
            raise Unusable(
                f"its {what} go up to frame {max(own)}, but it has {index.expected} frames, "
                "counted from 0"
            )
    picker = sampling.picker()

    def time_of(number: int) -> float | None:
        seconds = index.time_s(number)
        return number / sampling.fps if seconds is None and sampling.fps else seconds

    def takes(number: int) -> bool:
        annotated = masks is not None or number in (labels or ())
        return picker.takes(time_of(number), labelled=annotated)

    wanted = None
    if index.runs is not None:
        wanted = np.array([number < count and takes(number) for number in range(index.count)])
    given, seen, received, reason = 0, -1, 0, ""
    try:
        for seen, image in _video.decode(video, index, wanted):
            received += 1
            if seen >= count or (wanted is None and not takes(seen)):
                continue
            try:
                mask, notes = _mask(masks, seen, image.shape)
            except Unusable as error:
                reason = str(error)
                tally.add(f"left out: {reason}")
                continue
            for note in (*index.notes, *notes):
                tally.add(note)
            given += 1
            yield Frame(seen, time_of(seen), image, mask, (labels or {}).get(seen))
    except _video.Damaged as error:
        if not facts["accept_truncated"]:
            raise Unusable(_broken("damaged", error.number, index.expected)) from error
    if wanted is not None:
        for _ in range(int(wanted.sum()) - received):
            tally.add("left out: the recording began amid a group of frames")
    if reason and not given:
        raise Unusable(reason)


def _is_video(path: pathlib.Path) -> bool:
    named = path.suffix.lower() in _video.SUFFIXES and not path.name.startswith(".")
    return named and path.is_file()


def _source(
    root: pathlib.Path,
    video: pathlib.Path,
    entries: dict[pathlib.Path, _colonoscopy_tables.Entry],
    options: Options,
    name: str = "",
) -> Source:
    entry = entries.get(video)
    facts: dict[str, Any] = {"labels": entry.labels if entry else None, "masks": None}
    facts["accept_truncated"] = options.accept_truncated
    notes, problem = [], ""
    folder = video.with_name(video.stem + MASKS)
    if folder.is_dir():
        facts["masks"] = {}
        for path in sorted(filter(_frames.is_image, folder.iterdir())):
            if not path.stem.isdecimal():
                notes.append("files among its masks that are not called by a frame index: not read")
            elif facts["masks"].setdefault(int(path.stem), path) != path:
                problem = f"two masks of frame {int(path.stem)}"
        if not facts["masks"]:
            notes.append("its folder of masks is empty: no frame shows a lesion")
    return _colonoscopy.source(
        __name__,
        root,
        name or video.name,
        subject=entry.subject if entry else "",
        video=video,
        more_files=(facts["masks"] or {}).values(),
        tables=entry.tables if entry else (),
        facts=facts,
        split=entry.split if entry else "",
        notes=tuple(dict.fromkeys(notes)),
        problem=problem,
    )


def _mask(
    masks: dict[int, pathlib.Path] | None, number: int, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if masks is None:
        return None, ()
    return _frames.annotation(masks.get(number), True, *shape[:2])


def _broken(how: str, count: int, expected: int | None) -> str:
    share = f"{count} of {expected}" if expected and expected > count else f"{count}"
    return (
        f"the video is {how}: {share} frames can be read up to there (--accept_truncated uses them)"
    )
