"""Paths that an input names: none may lead out of its folder."""

import os
import pathlib


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
