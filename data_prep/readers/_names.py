"""What names of folders and files say of images: their part of a split, and that one is a mask."""

import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
_SPLIT = re.compile(
    r"(?:(?:the|images?|imgs?)[ _-])?(train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?)"
    r"(?:[ _-]?(?:set|data|data[ _-]?set|images?|imgs?|split|part))?",
    re.IGNORECASE,
)
#: The plain ones of these names, for messages.
SPLITS = "train, training, val, valid, validation, dev, test or testing"
_FOLD = re.compile(r"(?:fold|split|cv|run)[ _-]?\d+", re.IGNORECASE)

_MASK = (
    r"(?:binary[ _-]?)?(?:masks?|segmentations?|segs?|ground[ _-]?truths?|gts?|annotations?|"
    r"annots?|annos?|contours?|labels?|overlays?|rois?)"
)
_MASK_FOLDER = re.compile(rf"(?:.*[ _-])?{_MASK}(?:[ _-]?(?:images?|files?|png))?", re.IGNORECASE)
_MASK_FILE = re.compile(
    rf"(?P<name>.+?)[ ._-]*{_MASK}(?:[ ._-]*\d+)?|{_MASK}[ ._-]+(?P<behind>.+)", re.IGNORECASE
)
_IMAGE_WORD = re.compile(r"(?:images?|imgs?|original)[ ._-]+|[ ._-]+(?:images?|imgs?|original)$")
_IMAGE_FOLDER = re.compile(r"(?:.*[ _-])?(?:images?|imgs?|original|photos?|pictures?)", re.I)

MASK = "it is a mask beside its image"


def split_of(folder: str) -> str:
    """Part that a folder's name gives (train, validation, test), or the empty word."""
    match = _SPLIT.fullmatch(folder.strip())
    return _WORDS[match[1].lower()] if match else ""


def is_fold(folder: str) -> bool:
    """Whether a folder is called by its number in a cross-validation."""
    return bool(_FOLD.fullmatch(folder.strip()))


def splits_of(paths: Mapping[str, pathlib.PurePath]) -> dict[str, str]:
    """Key -> part by the uppermost folder of its path (relative to the input) that names one.

    Empty unless every path has a part and two parts are named at least: one folder called "train"
    beside others is a name like any other.
    """
    found = {
        key: next(filter(None, map(split_of, path.parts[:-1])), "") for key, path in paths.items()
    }
    return found if "" not in found.values() and len(set(found.values())) > 1 else {}


def masks(paths: Iterable[pathlib.Path], top: pathlib.Path) -> set[pathlib.Path]:
    """Which images are masks of others, by their names: never one without its image.

    A mask is called as an image in its folder with a word for masks (``a_mask.png`` beside
    ``a.png``), or lies in a folder of masks (below ``top``) beside one of images, or beside the
    images, and is called as one of them, such a word and endings apart. In a class folder with
    a folder of images and one of masks, all in the latter are masks.
    """
    by_folder: dict[pathlib.Path, dict[str, pathlib.Path]] = defaultdict(dict)
    for path in paths:
        by_folder[path.parent][path.stem.lower().strip()] = path
    found = set()
    for folder, own in by_folder.items():
        around: set[str] = set()
        plain_of = {_IMAGE_WORD.sub("", stem, count=1): path for stem, path in own.items()} | own
        if folder != top and folder.parent != top and _MASK_FOLDER.fullmatch(folder.name):
            for other, names in by_folder.items():
                beside = other.parent == folder.parent and _IMAGE_FOLDER.fullmatch(other.name)
                if other != folder and (other == folder.parent or beside):
                    around |= names.keys()
                if other != folder and beside:
                    found.update(own.values())
        for stem, path in own.items():
            match = _MASK_FILE.fullmatch(stem)
            plain = (match["name"] or match["behind"]).strip() if match else ""
            if plain_of.get(plain, path) != path or plain in around or stem in around:
                found.add(path)
    return found


def are_images_and_masks(folders: Iterable[str]) -> bool:
    """Whether folders beside each other are of images and of their masks, not of classes."""
    names = list(folders)
    images = [name for name in names if _IMAGE_FOLDER.fullmatch(name)]
    others = [name for name in names if _MASK_FOLDER.fullmatch(name)]
    return bool(images and others) and len(images) + len(others) == len(names)
