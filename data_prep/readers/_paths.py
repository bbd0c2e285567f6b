"""Paths that an input names: none may lead out of its folder."""

import os
import pathlib
import unicodedata
from collections.abc import Callable

from data_prep.errors import UserError


def inside(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether ``path``, its links followed, can be and lies in ``root`` (resolved)."""
    try:
        found = path.resolve()
        os.lstat(found)
    except FileNotFoundError:
        return found.is_relative_to(root)  # those who need the file say that it is missing
    except (OSError, ValueError, RuntimeError):  # too long, with a null byte, links in a ring
        return False
    return found.is_relative_to(root)


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC): macOS and archives may give names the other."""
    return unicodedata.normalize("NFC", text)


def speller(root: pathlib.Path) -> Callable[[str], pathlib.Path]:
    """A function that finds relative paths below ``root``, also in the other Unicode form.

    What is not there in any form is given as it is written. Every folder is listed once at most.
    """
    listed: dict[pathlib.Path, dict[str, str]] = {}

    def child(folder: pathlib.Path, name: str) -> pathlib.Path:
        if name.isascii() or os.path.lexists(folder / name):
            return folder / name
        if folder not in listed:
            names = os.listdir(folder) if folder.is_dir() and inside(folder, root) else ()
            listed[folder] = {composed(there): there for there in names}
        return folder / listed[folder].get(composed(name), name)

    def find(text: str) -> pathlib.Path:
        path = root / text
        if text.isascii() or "\0" in text or os.path.lexists(path):
            return path
        path = root
        for name in pathlib.PurePosixPath(text).parts:
            path = child(path, name)
        return path

    return find


def require_inside(root: pathlib.Path, *suffixes: str) -> None:
    """Make sure that tables and archives, from which whole folders are read, are no links out.

    Raises
    ------
    UserError
        If a file in or below ``root`` (resolved) that ends in one of ``suffixes`` leads out of it.
    """
    for folder, _, names in os.walk(root):
        for name in names:
            path = pathlib.Path(folder, name)
            if name.lower().endswith(suffixes) and path.is_symlink() and not inside(path, root):
                raise UserError(
                    f"{path} is a link that leads out of the input folder: copy the file in."
                )
