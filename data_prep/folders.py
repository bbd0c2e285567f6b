"""Folders that appear whole or not at all, and outputs that must be new."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

from absl import flags

from data_prep.errors import UserError

flags.disclaim_key_flags()  # the flags are those of the command that defines them


def ensure(cache: pathlib.Path, name: str, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Folder ``name`` in ``cache``, written by ``write(folder)`` if it is not there yet.

    It appears whole or not at all, also where several processes ask at once.
    """
    target = pathlib.Path(cache) / name
    if not target.is_dir():
        try:
            with _partial(target) as partial:
                write(partial)
                partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    return target


def define_output() -> None:
    """Define ``--output`` and ``--seed`` of a command that writes raw studies."""
    flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True)
    flags.DEFINE_integer("seed", 0, "The same seed gives the same bytes.", 0, 2**31 - 1)


@contextlib.contextmanager
def new_output() -> Iterator[pathlib.Path]:
    """Folder to write; what is in it at the end of the block is that of ``--output``.

    Which appears whole or not at all: a part of a set of studies would be taken for a set.

    Raises
    ------
    UserError
        If ``--output`` exists and is not an empty folder.
    """
    target = pathlib.Path(flags.FLAGS.output).absolute()
    _require_empty(target)
    with _partial(target) as partial:
        yield partial
        if target.exists():  # a disk may be mounted there, or the user's shell be in it
            _require_empty(target)
            for entry in sorted(partial.iterdir()):
                shutil.move(entry, target / entry.name)
        else:
            partial.rename(target)


def _require_empty(folder: pathlib.Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output={folder} exists and is not an empty folder: choose another.")


@contextlib.contextmanager
def _partial(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside ``target``, to be filled and renamed; deleted if it is not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(partial, 0o755)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
