"""Sets whose lesions are boxes: LDPolypVideo, SUN, SUN-SEG (which has masks too), REAL-Colon.

LDPolypVideo: ``{TrainValid,Test}/{Images,Annotations}/VIDEO/0001.{jpg,txt}``; a text file holds the
number of boxes, then xmin ymin xmax ymax a line. SUN: ``.../caseN/*.jpg``, boxes in
``annotation_txt/caseN.txt`` as ``image.jpg xmin,ymin,xmax,ymax,class``; cases below a folder with
"negative" in its name show no polyp. SUN-SEG: ``{TrainDataset,Test...Dataset/{Seen,Unseen}}/
{Frame,GT}/caseN_M/*.{jpg,png}`` and ``Detection/bbox_annotation.json``: a clip is a case of this
package, the set's case N its subject; clips below "Seen" whose subject the set also trains on are
left out.
REAL-Colon: ``SSS-VVV_frames/*.jpg`` and ``SSS-VVV_annotations/*.xml``, VOC boxes read by tag.
"""

import dataclasses
import json
import pathlib
import re
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Iterator

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _frames, tables
from data_prep.readers._colonoscopy import Box, Frame, Item, Options, Sampling, Source, Tally
from data_prep.readers._images import Unusable

KIND = "colonoscopy"
LAYOUT = (
    "frames with boxes: Images/ beside Annotations/ (LDPolypVideo), Frame/ beside GT/ (SUN-SEG), "
    "case1/ with annotation_txt/case1.txt (SUN), 001-001_frames/ beside 001-001_annotations/ "
    "(REAL-Colon)"
)

PARTS = {"trainvalid": "train", "train": "train", "valid": "validation", "test": "test"}
SEEN = "its set tests on it although it trains on the same person"
SUN_CASE = re.compile(r"case[A-Z]?(\d+)", re.I)
SUN_CLIP = re.compile(r"(case\w*?\d+)_(\d+)", re.I)
VOC_FOLDER = re.compile(r"(\d{3}-\d{3})_frames")
NO_BOX = "no box of it is given"


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the cases of whichever of these sets the folder holds.

    Raises
    ------
    UserError
        If a table of boxes is unreadable.
    """
    del options
    found: list[Source] = []
    for folder in [root, *sorted(_folders(root), key=_colonoscopy.natural)]:
        if (folder / "Images").is_dir() and (folder / "Annotations").is_dir():
            found += _ldpolypvideo(root, folder)
        if (folder / "Frame").is_dir() and (folder / "GT").is_dir():
            found += _sun_seg(root, folder)
        if VOC_FOLDER.fullmatch(folder.name):
            found += _real_colon(root, folder)
    return _apart(found) or _sun(root)


def frames(source: Source, sampling: Sampling, tally: Tally) -> Iterator[Frame]:
    """Read the frames of one case; see :func:`data_prep.readers._frames.stills`."""
    return _frames.stills(source, sampling, tally, parse)


def parse(path: pathlib.Path) -> tuple[Box, ...]:
    """Boxes of one frame from its file; none where it says that there are none.

    Raises
    ------
    Unusable
        If the file is missing or holds something else.
    """
    try:
        corners = _voc(path) if path.suffix.lower() == ".xml" else _counted(path)
    except FileNotFoundError as error:
        raise Unusable(NO_BOX) from error
    except (OSError, ValueError, xml.etree.ElementTree.ParseError) as error:
        raise Unusable("its file of boxes is unreadable or contradicts itself") from error
    return tuple(_box(*each) for each in corners)


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    return left, top, right - left, bottom - top


def _counted(path: pathlib.Path) -> list[tuple[float, ...]]:
    lines = [line.split() for line in tables.lines(path) if line.strip()]
    if not lines or len(lines[0]) != 1 or int(lines[0][0]) != len(lines) - 1:
        raise ValueError("the count is not that of the lines")
    return [_four(line) for line in lines[1:]]


def _four(texts: list[str]) -> tuple[float, ...]:
    """The first four numbers, of whose decimals nothing but a point parts them."""
    numbers = [None if "," in text else tables.number(text) for text in texts[:4]]
    if len(numbers) < 4 or None in numbers:
        raise ValueError("these are not four numbers")
    return tuple(numbers)


def _voc(path: pathlib.Path) -> list[tuple[float, ...]]:
    content = xml.etree.ElementTree.fromstring(path.read_bytes())
    # By tag, not by order: REAL-Colon lists xmin, xmax, ymin, ymax.
    return [
        _four([box.findtext(tag, "").strip() for tag in ("xmin", "ymin", "xmax", "ymax")])
        for box in content.iter("bndbox")
    ]


def _apart(sources: list[Source]) -> list[Source]:
    """Without "Seen" test clips of persons trained on; without both parts, there is no split."""
    if not {"train", "test"} <= {each.split for each in sources}:
        return [dataclasses.replace(each, split="") for each in sources]
    trained = {each.subject for each in sources if each.split == "train"}
    return [
        dataclasses.replace(each, problem=SEEN)
        if each.facts.get("seen") and each.subject in trained
        else each
        for each in sources
    ]


def _folders(root: pathlib.Path, depth: int = 4) -> Iterator[pathlib.Path]:
    for path in sorted(root.iterdir()) if depth else ():
        if path.is_dir() and not path.name.startswith("."):
            yield path
            yield from _folders(path, depth - 1)


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(filter(_frames.is_image, folder.iterdir()), key=_colonoscopy.natural)


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted((p for p in folder.iterdir() if p.is_dir()), key=_colonoscopy.natural)


def _ldpolypvideo(root: pathlib.Path, folder: pathlib.Path) -> Iterator[Source]:
    for video in _subfolders(folder / "Images"):
        texts = folder / "Annotations" / video.name
        items = [
            _with_file(place, path, texts / f"{path.stem}.txt")
            for place, path in enumerate(_images(video))
        ]
        if items:
            name = video.relative_to(root).as_posix()
            split = PARTS.get(folder.name.lower(), "")
            yield _colonoscopy.source(__name__, root, name, items=items, split=split)


def _real_colon(root: pathlib.Path, folder: pathlib.Path) -> Iterator[Source]:
    name = VOC_FOLDER.fullmatch(folder.name)[1]
    beside = [folder.with_name(f"{name}_{word}") for word in ("annotations", "annotation")]
    texts = next((path for path in beside if path.is_dir()), beside[0])
    items = [
        _with_file(place, path, texts / f"{path.stem}.xml")
        for place, path in enumerate(_images(folder))
    ]
    if items:
        yield _colonoscopy.source(__name__, root, name, items=items)


def _with_file(place: int, image: pathlib.Path, boxes: pathlib.Path) -> Item:
    if boxes.is_file():
        return Item(place, image, box_file=boxes)
    return Item(place, image, problem=NO_BOX)


def _sun(root: pathlib.Path) -> list[Source]:
    tables = {
        path.stem.lower(): path
        for path in sorted(root.rglob("annotation_txt/*.txt"))
        if SUN_CASE.fullmatch(path.stem)
    }
    if not tables:
        return []
    sources = []
    for folder in sorted(_folders(root), key=_colonoscopy.natural):
        if not SUN_CASE.fullmatch(folder.name) or not (images := _images(folder)):
            continue
        name, table = folder.relative_to(root).as_posix(), tables.get(folder.name.lower())
        if any("negative" in part.lower() for part in folder.relative_to(root).parts[:-1]):
            items = [Item(place, path, is_negative=True) for place, path in enumerate(images)]
            table = None
        elif table is None:
            items = [Item(place, path, problem=NO_BOX) for place, path in enumerate(images)]
        else:
            boxes = _sun_boxes(table)
            items = [
                Item(
                    place,
                    path,
                    boxes=tuple(boxes.get(path.name, ())),
                    problem="" if path.name in boxes else NO_BOX,
                )
                for place, path in enumerate(images)
            ]
        more = [table] if table else []
        sources.append(_colonoscopy.source(__name__, root, name, items=items, tables=more))
    return sources


def _sun_boxes(table: pathlib.Path) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = defaultdict(list)
    try:
        for line in tables.lines(table):
            name, *boxes = line.split()[:1] + line.split()[1:] if line.strip() else ("",)
            for text in boxes:
                found[name].append(_box(*_four(text.split(","))))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{table} should hold lines 'image.jpg xmin,ymin,xmax,ymax,class'."
        ) from error
    return found


def _sun_seg(root: pathlib.Path, folder: pathlib.Path) -> Iterator[Source]:
    table = folder / "Detection" / "bbox_annotation.json"
    boxes = _coco_boxes(table) if table.is_file() else {}
    parts = [part.lower() for part in folder.relative_to(root).parts]
    is_seen, is_test = "seen" in parts, any(part.startswith("test") for part in parts)
    split = "test" if is_test else "train" if "traindataset" in parts else ""
    for clip in _subfolders(folder / "Frame"):
        items = []
        for place, path in enumerate(_images(clip)):
            mask = folder / "GT" / clip.name / f"{path.stem}.png"
            own = boxes.get((clip.name, path.stem), ())
            if mask.is_file():
                items.append(Item(place, path, mask, boxes=own))
            else:
                items.append(Item(place, path, problem="there is no mask of it"))
        if items:
            match = SUN_CLIP.fullmatch(clip.name)
            yield _colonoscopy.source(
                __name__,
                root,
                clip.relative_to(root).as_posix(),
                subject=match[1].lower() if match else clip.name,
                items=items,
                tables=[table],
                split=split,
                facts={"seen": is_seen},
            )


def _coco_boxes(table: pathlib.Path) -> dict[tuple[str, str], tuple[Box, ...]]:
    """Boxes x, y, width, height by clip and image. The key is ``annotation``, ids are texts."""
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        names = {
            str(image["id"]): (image["case_name"], pathlib.PurePosixPath(image["file_name"]).name)
            for image in content["images"]
        }
        found: dict[tuple[str, str], list[Box]] = defaultdict(list)
        for each in content.get("annotation", content.get("annotations", [])):
            left, top, wide, high = (float(number) for number in each["bbox"])
            found[names[str(each["id"])]].append((left, top, wide, high))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{table} is not the table of boxes of SUN-SEG: remove it.") from error
    return {key: tuple(boxes) for key, boxes in found.items()}
