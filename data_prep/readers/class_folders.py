"""Images in folders that are called by their class: ``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``.

Below a class folder there may be further folders; where all are splits (``CLASS/train/IMAGE``),
they are taken for these. SPLIT is train, val (valid, validation) or test. Masks beside images
(``a_mask.png``, ``CLASS/masks/a.png``) are named and left out. A table beside the folders whose
columns name images and patients tells the subjects.
"""

import dataclasses
import pathlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from data_prep.errors import UserError
from data_prep.readers import _frames, _names, _patients, _pictures
from data_prep.readers._classification import Detected, Entry, Options
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
    splits = {folder: _names.split_of(folder.name) for folder in folders}
    has_splits = any(splits.values())
    holding = {path.relative_to(top).parts[0] for path in pictures}
    if strange := [f.name for f, split in splits.items() if not split and f.name in holding]:
        if has_splits:
            named = ", ".join(f.name for f, split in splits.items() if split)
            raise UserError(
                f"{top} holds folders of splits ({named}) and others with images ({strange[0]}): "
                f"are these classes? Move one kind elsewhere. Splits are called {_names.SPLITS}."
            )
    depth = 2 if has_splits else 1
    places = [folder for folder, split in splits.items() if split] or [top]
    _require_no_parts({folder.name for place in places for folder in _folders(place)}, top)
    masks = _names.masks(pictures, top)
    inner = [path.relative_to(top).parts for path in pictures if path not in masks]
    # CLASS/train/IMAGE, the other way round
    below = not has_splits and all(len(p) > 2 and _names.split_of(p[1]) for p in inner)
    entries = []
    for path in pictures:
        parts = path.relative_to(top).parts
        name, labels, problem, split = path.relative_to(root).as_posix(), (), "", ""
        if len(parts) <= depth:
            problem = "it lies in no class folder"
        elif path in masks:
            problem = _names.MASK
        else:
            labels = (parts[depth - 1],)
            split = _names.split_of(parts[1 if below else 0]) if has_splits or below else ""
        entries.append(Entry(name, path, labels, str(path), split=split, problem=problem))
    if not any(entry.labels for entry in entries):
        return None
    _pictures.warn_of_unread(sorted(set(own).difference(pictures)))
    if not options.classes and not below:
        _require_classes([parts[depth - 1 : -1] for parts in inner])
    classes = {folder.name for place in places for folder in _folders(place)}
    told = _patients.subjects(root, top, files, [e for e in entries if e.labels])
    entries = [dataclasses.replace(e, subject=told.get(e.name, "")) for e in entries]
    return Detected(entries, tuple(sorted(classes)))


def _require_no_parts(folders: Collection[str], top: pathlib.Path) -> None:
    """Refuse folders that are surely no classes: of a cross-validation, or images and masks."""
    if len(folders) > 1 and all(map(_names.is_fold, folders)):
        raise UserError(
            f"{top} holds folds of a cross-validation ({', '.join(sorted(folders)[:3])}), no "
            "classes: give a table with the columns path, label and split."
        )
    if _names.are_images_and_masks(folders):
        raise UserError(
            f"{top} holds images and their masks ({', '.join(sorted(folders)[:3])}), no folders "
            "called by their class: give a table with the columns path and label."
        )


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
    if len(folders) != 1 or _names.split_of(folders[0].name) or _holds_images(place, root):
        return None
    return folders[0]


def _holds_folders(place: pathlib.Path, root: pathlib.Path) -> bool:
    return bool(_folders(place)) and not _holds_images(place, root)


def _holds_images(place: pathlib.Path, root: pathlib.Path) -> bool:
    return any(path.is_file() and _is_picture(path, root) for path in place.iterdir())
