"""Folders of frames: one folder a case, or classes of images in folders called by their class.

``CASE/*.jpg`` in natural order, if wanted beside ``CASE_masks/`` with masks called as the frames (a
frame without a file shows no lesion), and with ``frame_quality_labels.csv`` and ``videos.csv`` as
for videos. ``informative/`` and ``uninformative/`` with images, or with a folder a video in them,
or in a folder a video. Bowel preparation sets (``BBPS_01``, ``bbps-2-3``; Nerthus: folders 0 to 3
with ``bowel_V_score_S-S_NNNNNNNN.jpg`` of video V) stand in for informativeness, which they are
not; each source notes it.
"""

import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator

from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _colonoscopy_tables, _frames
from data_prep.readers._colonoscopy import Frame, Item, Options, Sampling, Source, Tally

KIND = "colonoscopy"
GENERIC = True  # any folder of images fits: only where nothing else does
MASKS = "_masks"
ACCEPTED = (
    "informative/ and uninformative/ (or noninformative/, not_informative/), of bowel preparation "
    "BBPS_01/ and BBPS_23/, or 0/ to 3/ (Nerthus)"
)
LAYOUT = f"folders of frames CASE/, perhaps beside CASE{MASKS}/, or folders {ACCEPTED}"

CLASSES = {"informative": 1, "uninformative": 0, "noninformative": 0, "notinformative": 0}
PREPARATION = {"bbps01": 0, "bbps23": 1}
PREPARATION_NOTE = "bowel preparation stands in for informativeness, which it is not"
NERTHUS = re.compile(r"bowel_(\d+)_score_(\d)-(\d)_(\d+)", re.I)
NERTHUS_FOLDER = re.compile(r"[0-3]")
CLEAN = 2  # score of the Boston scale from which a frame of Nerthus counts as informative
OTHER_SCORE = "its name gives another score than its folder: the folder's was taken"


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find folders that hold images, at any depth, or take the one image that ``root`` is.

    Raises
    ------
    UserError
        If a table contradicts itself or fits none of the folders, ``case_pattern`` does not match
        an image, or some folders are called by one class and others by none.
    """
    options = options or Options()
    if root.is_file():
        items = [Item(0, root)]
        return [_colonoscopy.source(__name__, root.parent, root.name, items=items)]
    folders = _folders(root)
    nerthus = {f: own for f, own in folders.items() if _is_nerthus(f, own)}
    if nerthus:
        return _nerthus(root, nerthus)
    classed = {folder: _class(root, folder) for folder in folders}
    if any(found is not None for found in classed.values()):
        return _classed(root, folders, classed, options)
    names = {f.relative_to(root).as_posix() if f != root else root.name: f for f in folders}
    found = _colonoscopy_tables.entries(root)
    given, absent = _colonoscopy_tables.assign(found, names, root)
    sources = [
        _folder(root, name, folder, folders[folder], given.get(name))
        for name, folder in names.items()
    ]
    return sources + [
        _colonoscopy.source(
            __name__,
            root,
            f"{key} (named in a table)",
            problem="a table names this folder of frames, but it is not there",
            tables=found[key].tables,
        )
        for key in (absent if names else ())
    ]


def frames(source: Source, sampling: Sampling, tally: Tally) -> Iterator[Frame]:
    """Read the frames of one case; see :func:`data_prep.readers._frames.stills`."""
    return _frames.stills(source, sampling, tally)


def _folders(root: pathlib.Path) -> dict[pathlib.Path, list[pathlib.Path]]:
    """Folders that hold images, and those images, in natural order; folders of masks are none."""
    found: dict[pathlib.Path, list[pathlib.Path]] = defaultdict(list)
    for path in sorted(filter(_frames.is_image, root.rglob("*")), key=_colonoscopy.natural):
        parts = path.relative_to(root).parts[:-1]
        if not any(part.startswith(".") or part.endswith(MASKS) for part in parts):
            found[path.parent].append(path)
    return found


def _word(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _class(root: pathlib.Path, folder: pathlib.Path) -> tuple[int, bool, str] | None:
    """Label, whether bowel preparation gave it, and the video; None for a folder of no class."""
    parts = folder.relative_to(root).parts
    for place, part in enumerate(parts):
        for words, is_preparation in ((CLASSES, False), (PREPARATION, True)):
            if _word(part) in words:
                # Folders above the class may name the set; only one directly beside it, or one
                # below it, names a video.
                around = parts[place + 1 :] or parts[max(place - 1, 0) : place]
                return words[_word(part)], is_preparation, "/".join(around)
    return None


def _classed(
    root: pathlib.Path,
    folders: dict[pathlib.Path, list[pathlib.Path]],
    classed: dict[pathlib.Path, tuple[int, bool, str] | None],
    options: Options,
) -> list[Source]:
    groups: dict[tuple[str, bool], list[tuple[pathlib.Path, int]]] = defaultdict(list)
    sources = []
    # One folder above all classes is the set, not a video.
    videos = {found[2] for found in classed.values() if found}
    if other := [folder for folder, found in classed.items() if found is None]:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in other[:3])
        left = f"{len(other)} folders of {root} hold images but are called by no class ({names})"
        if len({found[0] for found in classed.values() if found}) < 2:
            raise UserError(f"{left}, and the others by one class only: call them {ACCEPTED}.")
        logging.warning("%s and are left out. Classes are called %s.", left, ACCEPTED)
    for folder, found in classed.items():
        if found is None:
            continue
        label, is_preparation, video = found
        notes = (PREPARATION_NOTE,) if is_preparation else ()
        for image in folders[folder]:
            if options.case_pattern:
                case = _frames.case_of(image, root, options.case_pattern)
            else:
                case = video if len(videos) > 1 else ""
            if case:
                groups[case, is_preparation].append((image, label))
                continue
            sources.append(
                _colonoscopy.source(
                    __name__,
                    root,
                    image.relative_to(root).as_posix(),
                    items=[Item(0, image, label=label)],
                    no_identity=True,
                    notes=notes,
                )
            )
    for (case, is_preparation), images in groups.items():
        ordered = sorted(images, key=lambda pair: _colonoscopy.natural(pair[0].name))
        items = [Item(i, image, label=label) for i, (image, label) in enumerate(ordered)]
        notes = (PREPARATION_NOTE,) if is_preparation else ()
        sources.append(_colonoscopy.source(__name__, root, case, items=items, notes=notes))
    return sources


def _is_nerthus(folder: pathlib.Path, images: list[pathlib.Path]) -> bool:
    return bool(NERTHUS_FOLDER.fullmatch(folder.name)) and all(
        NERTHUS.fullmatch(path.stem) for path in images
    )


def _nerthus(root: pathlib.Path, folders: dict[pathlib.Path, list[pathlib.Path]]) -> list[Source]:
    videos: dict[str, list[tuple[int, Item, bool]]] = defaultdict(list)
    for folder, images in folders.items():
        for image in images:
            video, score, _, number = NERTHUS.fullmatch(image.stem).groups()
            item = Item(int(number), image, label=int(int(folder.name) >= CLEAN))
            videos[video].append((int(number), item, score != folder.name))
    sources = []
    for video, found in sorted(videos.items(), key=lambda pair: int(pair[0])):
        found.sort(key=lambda each: each[0])
        numbers = [number for number, _, _ in found]
        notes = [PREPARATION_NOTE]
        if any(differs for _, _, differs in found):
            notes.append(OTHER_SCORE)
        sources.append(
            _colonoscopy.source(
                __name__,
                root,
                f"bowel {video}",
                items=[item for _, item, _ in found],
                notes=tuple(notes),
                problem="two frames of one number" if len(set(numbers)) < len(numbers) else "",
            )
        )
    return sources


def _folder(
    root: pathlib.Path,
    name: str,
    folder: pathlib.Path,
    images: list[pathlib.Path],
    entry: _colonoscopy_tables.Entry | None,
) -> Source:
    labels = entry.labels if entry else None
    beside = folder.with_name(folder.name + MASKS)
    masks, problem = {}, ""
    if folder != root and beside.is_dir():
        masks = {path.stem: path for path in filter(_frames.is_image, beside.iterdir())}
        if masks.keys() - {path.stem for path in images}:
            problem = "there are masks of frames that it does not have"
    if labels and max(labels) >= len(images):
        problem = f"its labels go up to frame {max(labels)}, but it has {len(images)} frames"
    items = [
        Item(
            place,
            image,
            masks.get(image.stem),
            is_negative=folder != root and beside.is_dir(),
            label=(labels or {}).get(place),
        )
        for place, image in enumerate(images)
    ]
    return _colonoscopy.source(
        __name__,
        root,
        name,
        subject=entry.subject if entry else "",
        items=items,
        tables=entry.tables if entry else (),
        split=entry.split if entry else "",
        problem=problem,
    )
