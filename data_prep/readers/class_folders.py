"""Images in folders that are called by their class: ``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``.

Below a class folder there may be further folders. SPLIT is train, val (valid, validation) or test.
"""

import pathlib
from collections import defaultdict

from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _pictures
from data_prep.readers._classification import SPLITS, Detected, Entry, Options

KIND = "classification"
LAYOUT = "folders called by their class, CLASS/IMAGE or train/CLASS/IMAGE"
ORDER = 2

OTHER = ("__macosx",)  # what archives leave behind


def detect(root: pathlib.Path, files: list[pathlib.Path], options: Options) -> Detected | None:
    """Find the class folders and their images.

    Raises
    ------
    UserError
        If some folders beside each other are called by a split and others are not.
    """
    del options
    top = root
    while (only := _only_folder(top)) and _holds_folders(only):
        top = only  # of an archive that was unpacked into a folder of its name
    pictures = [
        path
        for path in files
        if path.is_relative_to(top)
        and not {part.lower() for part in path.parts}.intersection(OTHER)
        and _pictures.is_picture(path)
    ]
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
    places = [folder for folder, split in splits.items() if split] or [top]
    classes = {folder.name for place in places for folder in _folders(place)}
    return Detected(entries, tuple(sorted(classes)))


def _folders(place: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in place.iterdir()
        if path.is_dir()
        and not path.is_symlink()
        and not path.name.startswith(".")
        and path.name.lower() not in OTHER
    )


def _only_folder(place: pathlib.Path) -> pathlib.Path | None:
    """The only folder in a folder without images."""
    folders = _folders(place)
    if len(folders) != 1 or SPLITS.get(folders[0].name.lower()):
        return None
    images = (path for path in place.iterdir() if path.is_file() and _pictures.is_picture(path))
    return None if any(images) else folders[0]


def _holds_folders(place: pathlib.Path) -> bool:
    images = (path for path in place.iterdir() if path.is_file() and _pictures.is_picture(path))
    return bool(_folders(place)) and not any(images)
