"""Folders that appear whole or not at all, and outputs that must be new."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

from absl import flags

from data_prep.errors import UserError

flags.disclaim_key_flags()  # the flags are those of the command that defines them


def ensure(cache: pathlib.Path, name: str, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Folder ``name`` in ``cache``, written by ``write(folder)`` if it is not there yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    cache = pathlib.Path(cache)
    target = cache / name
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
        try:
            write(partial)
            os.chmod(partial, 0o755)
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def define_output() -> None:
    """Define ``--output`` and ``--seed`` of a command that writes raw studies."""
    flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True)
    flags.DEFINE_integer("seed", 0, "The same seed gives the same bytes.", 0, 2**31 - 1)


def new_output() -> pathlib.Path:
    """The folder of ``--output``.

    Raises
    ------
    UserError
        If it exists and is not an empty folder.
    """
    folder = pathlib.Path(flags.FLAGS.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output={folder} exists and is not an empty folder: choose another.")
    return folder
