"""Images in folders that are called by their class: ``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``.

Below a class folder there may be further folders. SPLIT is train, val (valid, validation) or test.
"""

import pathlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _frames, _pictures
from data_prep.readers._classification import SPLITS, Detected, Entry, Options
from data_prep.readers._paths import inside

KIND = "classification"
LAYOUT = "folders called by their class, CLASS/IMAGE or train/CLASS/IMAGE"
ORDER = 2

OTHER = ("__macosx",)  # what archives leave behind


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> Detected | None:
    """Find the class folders and their images.

    Raises
    ------
    UserError
        If some folders beside each other are called by a split and others are not, or the folders
        seem to be patients' with classes in them.
    """
    top = root
    while (only := _only_folder(top, root)) and _holds_folders(only, root):
        top = only  # of an archive that was unpacked into a folder of its name
    own = [
        path
        for path in files
        if path.is_relative_to(top)
        and not {part.lower() for part in path.parts}.intersection(OTHER)
    ]
    pictures = [path for path in own if _is_picture(path, root)]
    folders = _folders(top)
    splits = {folder: SPLITS.get(folder.name.lower(), "") for folder in folders}
    has_splits = any(splits.values())
    holding = {path.relative_to(top).parts[0] for path in pictures}
    if strange := [f.name for f, split in splits.items() if not split and f.name in holding]:
        if has_splits:
            named = ", ".join(f.name for f, split in splits.items() if split)
            raise UserError(
                f"{top} holds folders of splits ({named}) and others with images ({strange[0]}): "
                "are these classes? Move one kind elsewhere."
            )
    depth = 2 if has_splits else 1
    entries, stray = [], defaultdict(int)
    for path in pictures:
        parts = path.relative_to(top).parts
        if len(parts) <= depth:
            stray[path.parent] += 1
            continue
        split = SPLITS[parts[0].lower()] if has_splits else ""
        name = path.relative_to(root).as_posix()
        entries.append(Entry(name, path, (parts[depth - 1],), str(path), split=split))
    for folder, count in stray.items():
        logging.warning("%d images in %s lie in no class folder and are left out.", count, folder)
    if pictures:
        _pictures.warn_of_unread(sorted(set(own).difference(pictures)))
    if not options.classes:
        _require_classes([path.relative_to(top).parts[depth - 1 : -1] for path in pictures])
    places = [folder for folder, split in splits.items() if split] or [top]
    classes = {folder.name for place in places for folder in _folders(place)}
    return Detected(entries, tuple(sorted(classes)))


def _require_classes(folders: Sequence[tuple[str, ...]]) -> None:
    """Test that the folders (of each image: its class, and what lies below it) are no patients'.

    Raises
    ------
    UserError
        If most of three or more have their images in the same two or more folders.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for first, *rest in filter(None, folders):
        below[first].add(rest[0] if rest else "")
    kinds = Counter(map(frozenset, below.values()))
    for names, count in kinds.most_common(1):
        if len(below) > 2 and len(names) > 1 and "" not in names and 2 * count > len(below):
            raise UserError(
                f"{count} of {len(below)} folders hold images in the same folders "
                f"({', '.join(sorted(names)[:3])}): are these PATIENT/CLASS folders? Give a table "
                "with the columns path, label and subject, or, if the outer folders are the "
                "classes, name them with --classes."
            )


def _is_picture(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether a file is an image; what a link out of the input points at is not looked into."""
    if path.is_symlink() and not inside(path, root):
        return _frames.is_image(path)
    return _pictures.is_picture(path)


def _folders(place: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in place.iterdir()
        if path.is_dir()
        and not path.is_symlink()
        and not path.name.startswith(".")
        and path.name.lower() not in OTHER
    )


def _only_folder(place: pathlib.Path, root: pathlib.Path) -> pathlib.Path | None:
    """The only folder in a folder without images."""
    folders = _folders(place)
    if len(folders) != 1 or SPLITS.get(folders[0].name.lower()) or _holds_images(place, root):
        return None
    return folders[0]


def _holds_folders(place: pathlib.Path, root: pathlib.Path) -> bool:
    return bool(_folders(place)) and not _holds_images(place, root)


def _holds_images(place: pathlib.Path, root: pathlib.Path) -> bool:
    return any(path.is_file() and _is_picture(path, root) for path in place.iterdir())
