"""Reading a weight file by its type: every public module of this package is a file format."""

import hashlib
import pathlib

from data_prep.errors import UserError
from medxfer import plugins
from medxfer.weights._contents import Contents


def read(path: pathlib.Path) -> Contents:
    """Arrays of a weight file of any known type.

    Raises
    ------
    UserError
        If the file is absent, of an unknown type, or damaged.
    """
    if not path.is_file():
        raise UserError(f"--weights: there is no file {path}.")
    modules = [plugins.load(__package__, name) for name in plugins.names(__package__)]
    formats = {suffix: module for module in modules for suffix in module.SUFFIXES}
    suffix = path.suffix.lower()
    if suffix not in formats:
        known = ", ".join(sorted(formats))
        raise UserError(f"--weights: {path} is of no known type. Known types: {known}.")
    return formats[suffix].read(path)


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
