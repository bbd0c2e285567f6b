"""Paths that an input names: none may lead out of its folder."""

import os
import pathlib

from data_prep.errors import UserError


def inside(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether ``path``, its links followed, can be and lies in ``root`` (resolved)."""
    try:
        found = path.resolve()
        os.lstat(found)
    except FileNotFoundError:
        return found.is_relative_to(root)  # those who need the file say that it is missing
    except (OSError, ValueError):  # too long, or with a null byte
        return False
    return found.is_relative_to(root)


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
