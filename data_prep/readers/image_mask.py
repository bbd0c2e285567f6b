"""Image and mask pairs: the public polyp sets, and folders of the same shape.

A folder of images (``images``, ``Original``, ``images_C1`` ...) beside a folder of masks
(``masks``, ``Ground Truth``, ``masks_C1`` ...), masks called as their images, perhaps with ``p``
before or ``_mask`` after the name: CVC-ClinicDB, Kvasir-SEG (with its boxes), ETIS-Larib, PolypGen.
Folders in both that are called alike (``images/train``, ``masks/train``) are pairs, too.
Or both in one folder, ``12.bmp`` and ``p12.bmp``: CVC-ColonDB, whose ``s12.bmp`` (regions without
information) and ``c12.bmp`` (contours) are not read. Or ``manifest.csv`` with the columns image,
mask, sequence and frame.

Few of these sets say which images are of one video. Where none does, each image is its own case and
its source says ``no_identity``; a user who knows better puts ``sequences.csv`` (image, sequence, if
wanted subject) beside the images' folder.
"""

import json
import pathlib
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _colonoscopy_tables, _frames, _names
from data_prep.readers._colonoscopy import Box, Frame, Item, Options, Sampling, Source, Tally

KIND = "colonoscopy"
LAYOUT = (
    "images/ (or image/, img/, imgs/, Original/) beside masks/ (or mask/, gt/, Ground Truth/), "
    "both with one ending if any (images_C1/, masks_C1/), or N.bmp beside pN.bmp"
)

MANIFEST = "manifest.csv"
IMAGE_FOLDER = re.compile(r"(\w+[_-])??(?:images?|imgs?|original|etis-larib\w*?)(_\w+)?", re.I)
MASK_FOLDER = re.compile(r"(\w+[_-])??(?:masks?|ground[ _-]?truth|gt)(_\w+)?", re.I)
MASK_NAMES = ("{}", "{}_mask", "p{}", "{}_gt", "mask_{}", "{}_segmentation")
NEGATIVE_FOLDER = "negativeonly"  # PolypGen: sequences without a polyp
BOX_TABLES = ("kavsir_bboxes.json", "kvasir_bboxes.json")  # the first is the set's own spelling
# First frames of the 29 sequences of CVC-ClinicDB. The set tells none: this list circulates, agrees
# with the scene changes one sees, and was not confirmed by its authors.
CLINICDB = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384),
    *(409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
CLINICDB_FRAMES = 612
CLINICDB_NOTE = "its sequence is taken from an unconfirmed list of CVC-ClinicDB's first frames"
CENTRE_NOTE = "images of one centre count as one subject: the set tells no patients"


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the pairs of a folder.

    A mask without an image becomes a case that cannot be used, so that it is named.

    Raises
    ------
    UserError
        If a table contradicts itself, or ``case_pattern`` does not match an image.
    """
    options = options or Options()
    if (root / MANIFEST).is_file():
        return _colonoscopy_tables.listed(__name__, root, root / MANIFEST, "sequence")
    found: list[Source] = []
    folders = [root, *sorted(_folders(root), key=_colonoscopy.natural)]
    for folder in folders:
        children = [path for path in _children(folder) if path.is_dir()]
        for images, masks in _pairs(children):
            found += _from_pair(root, images, masks, options)
        if folder.name.lower() == NEGATIVE_FOLDER:
            found += [_negative(root, path) for path in children if _images(path)]
        found += _from_one_folder(root, folder, options)
    return found


def frames(source: Source, sampling: Sampling, tally: Tally) -> Iterator[Frame]:
    """Read the images of one case; see :func:`data_prep.readers._frames.stills`."""
    return _frames.stills(source, sampling, tally)


def clinicdb_sequence(frame: int) -> int:
    """Sequence, from 1, of a frame of CVC-ClinicDB, from 1; by an unconfirmed list."""
    return bisect_right(CLINICDB, frame)


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(root: pathlib.Path, depth: int = 4) -> Iterator[pathlib.Path]:
    for path in _children(root) if depth else ():
        if path.is_dir():
            yield path
            yield from _folders(path, depth - 1)


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(filter(_frames.is_image, folder.iterdir()), key=_colonoscopy.natural)


def _pairs(children: Iterable[pathlib.Path]) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Folders of images and of masks with one beginning and ending ("train_", "_C1", or none)."""
    kinds: dict[str, dict[tuple, pathlib.Path]] = {"images": {}, "masks": {}}
    for path in children:
        for kind, pattern in (("images", IMAGE_FOLDER), ("masks", MASK_FOLDER)):
            match = pattern.fullmatch(path.name)
            if match and (_images(path) or next(_folders(path), None)):
                ends = tuple((end or "").lower() for end in match.groups())
                kinds[kind].setdefault(ends, path)
    for ends, images in kinds["images"].items():
        if masks := kinds["masks"].get(ends):
            for below in (images, *_folders(images)):
                twin = masks / below.relative_to(images)
                if twin.is_dir() and _images(below) and _images(twin):
                    yield below, twin


def _from_pair(
    root: pathlib.Path, images: pathlib.Path, masks: pathlib.Path, options: Options
) -> list[Source]:
    by_name = {path.stem: path for path in _images(masks)}
    pairs = {path: _mask_of(path.stem, by_name) for path in _images(images)}
    used = set(pairs.values())
    orphans = [path for path in by_name.values() if path not in used]
    boxes, table = _boxes(images.parent)
    items = [_item(path, mask, boxes.get(path.stem, ())) for path, mask in pairs.items()]
    tables = [table] if table else []
    match = IMAGE_FOLDER.fullmatch(images.name)
    ending = (match and match[2]) or ""
    within = images.relative_to(root)
    is_case = not match and not any(map(_names.split_of, within.parts))
    if is_case or ending.lower().startswith("_seq"):
        name = (within if is_case else within.parent).as_posix()
        name = name if name != "." else images.name
        cases = [_colonoscopy.source(__name__, root, name, items=_numbered(items), tables=tables)]
    elif re.fullmatch(r"_c\d+", ending.lower()) and not options.case_pattern:
        cases = [
            _single(root, item, tables, f"centre {ending[1:]}", notes=(CENTRE_NOTE,))
            for item in items
        ]
    else:
        clinicdb = options.clinicdb_sequences or images.name.lower() == "original"
        cases = _cases(root, images.parent, items, tables, options, clinicdb=clinicdb)
    return cases + [_orphan(root, path) for path in orphans]


def _from_one_folder(root: pathlib.Path, folder: pathlib.Path, options: Options) -> list[Source]:
    """CVC-ColonDB: images, masks and more in one folder, told apart by a letter."""
    by_name = {path.stem.lower(): path for path in _images(folder)}
    masks = {stem: path for stem, path in by_name.items() if re.fullmatch(r"p\d+", stem)}
    if not masks:
        return []
    numbers = [stem for stem in by_name if stem.isdecimal()]
    if not numbers:  # the folder of masks of a pair
        return []
    items = [_item(by_name[stem], masks.pop(f"p{stem}", None), ()) for stem in numbers]
    cases = _cases(root, folder, items, [], options, clinicdb=False)
    return cases + [_orphan(root, path) for path in masks.values()]


def _cases(
    root: pathlib.Path,
    folder: pathlib.Path,
    items: list[Item],
    tables: list[pathlib.Path],
    options: Options,
    *,
    clinicdb: bool,
) -> list[Source]:
    """Cases by whatever tells them: a table, the user's pattern, CVC-ClinicDB's frame numbers."""
    listed = _colonoscopy_tables.sequences(folder)
    if listed:
        return _listed(root, folder, items, tables, listed)
    if options.case_pattern:
        return _by_pattern(root, items, tables, options.case_pattern)
    if clinicdb and items and all(_is_clinicdb(item.image.stem) for item in items):
        prefix = _prefix(root, folder)
        groups: dict[int, list[Item]] = defaultdict(list)
        for item in items:
            groups[clinicdb_sequence(int(item.image.stem))].append(item)
        return [
            _colonoscopy.source(
                __name__,
                root,
                f"{prefix}sequence {number}",
                items=[_renumbered(item, int(item.image.stem)) for item in own],
                tables=tables,
                notes=(CLINICDB_NOTE,),
            )
            for number, own in sorted(groups.items())
        ]
    return [_single(root, item, tables, no_identity=True) for item in items]


def _listed(
    root: pathlib.Path,
    folder: pathlib.Path,
    items: list[Item],
    tables: list[pathlib.Path],
    listed: dict[str, tuple[str, str]],
) -> list[Source]:
    table = folder / _colonoscopy_tables.SEQUENCE_TABLE
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        path = item.image
        keys = (path.relative_to(folder).as_posix(), path.name, path.stem)
        key = next((key for key in keys if key in listed), None)
        if key is None:
            raise UserError(f"{table} has no row for {path.name}: add its sequence.")
        groups[listed[key]].append(item)
    return [
        _colonoscopy.source(
            __name__,
            root,
            f"{_prefix(root, folder)}sequence {name}",
            subject=subject,
            items=_numbered(own),
            tables=[*tables, table],
        )
        for (name, subject), own in groups.items()
    ]


def _by_pattern(
    root: pathlib.Path, items: list[Item], tables: list[pathlib.Path], pattern: str
) -> list[Source]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[_frames.case_of(item.image, root, pattern)].append(item)
    return [
        _colonoscopy.source(__name__, root, case, items=_numbered(own), tables=tables)
        for case, own in groups.items()
    ]


def _single(
    root: pathlib.Path, item: Item, tables: list[pathlib.Path], subject: str = "", **more: Any
) -> Source:
    name = item.image.relative_to(root).as_posix()
    more = {"problem": item.problem} | more
    return _colonoscopy.source(
        __name__, root, name, subject=subject, items=[item], tables=tables, **more
    )


def _negative(root: pathlib.Path, folder: pathlib.Path) -> Source:
    items = [Item(place, path, is_negative=True) for place, path in enumerate(_images(folder))]
    name = folder.relative_to(root).as_posix()
    return _colonoscopy.source(__name__, root, name, items=items)


def _orphan(root: pathlib.Path, mask: pathlib.Path) -> Source:
    name = mask.relative_to(root).as_posix()
    return _colonoscopy.source(__name__, root, name, problem="a mask without an image")


def _item(image: pathlib.Path, mask: pathlib.Path | None, boxes: tuple[Box, ...]) -> Item:
    problem = "" if mask else "there is no mask of it"
    return Item(0, image, mask, boxes=boxes, problem=problem)


def _renumbered(item: Item, index: int) -> Item:
    return Item(index, item.image, item.mask, boxes=item.boxes, problem=item.problem)


def _numbered(items: list[Item]) -> list[Item]:
    return [_renumbered(item, place) for place, item in enumerate(items)]


def _is_clinicdb(stem: str) -> bool:
    return stem.isdecimal() and 1 <= int(stem) <= CLINICDB_FRAMES


def _prefix(root: pathlib.Path, folder: pathlib.Path) -> str:
    return "" if folder == root else f"{folder.relative_to(root).as_posix()}/"


def _mask_of(stem: str, masks: dict[str, pathlib.Path]) -> pathlib.Path | None:
    names = (pattern.format(stem) for pattern in MASK_NAMES)
    return next((masks[name] for name in names if name in masks), None)


def _boxes(folder: pathlib.Path) -> tuple[dict[str, tuple[Box, ...]], pathlib.Path | None]:
    """Boxes of Kvasir-SEG by image, and the file they come from."""
    table = next((folder / name for name in BOX_TABLES if (folder / name).is_file()), None)
    if table is None:
        return {}, None
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        boxes = {
            name: tuple(
                (
                    float(box["xmin"]),
                    float(box["ymin"]),
                    float(box["xmax"]) - float(box["xmin"]),
                    float(box["ymax"]) - float(box["ymin"]),
                )
                for box in entry["bbox"]
            )
            for name, entry in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{table} is not the table of boxes of Kvasir-SEG: remove it.") from error
    return boxes, table
