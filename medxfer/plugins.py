"""Plug-ins are modules found by their name: an app, a network, a tuning strategy is one file."""

import ast
import importlib
import importlib.util
import pathlib
import pkgutil
import sys
from types import ModuleType

from data_prep.errors import UserError


def names(package: str) -> list[str]:
    """Names of the plug-ins in ``package``, sorted.

    Every module counts whose name has no leading underscore; nothing is imported.
    """
    found = pkgutil.iter_modules(_folders(package))
    return sorted(module.name for module in found if not module.name.startswith("_"))


def _folders(package: str) -> list[str]:
    """Folders of the modules of ``package``, which is not imported."""
    folders = getattr(sys.modules.get(package), "__path__", None)
    if folders is not None:
        return list(folders)
    # By its place: to look up a package in another imports that one, perhaps with all of Keras.
    root, *parts = package.split(".")
    spec = importlib.util.find_spec(root)
    locations = spec.submodule_search_locations if spec else None
    return [str(pathlib.Path(at, *parts)) for at in locations or ()]


def check(package: str, name: str) -> None:
    """Make sure that there is a plug-in ``name``, without importing it.

    Raises
    ------
    UserError
        If there is none; the message lists the valid names.
    """
    valid = names(package)
    if name not in valid:
        kind = package.rpartition(".")[2].rstrip("s")
        raise UserError(f"No {kind} is called '{name}'. Valid names: {', '.join(valid) or 'none'}.")


def constant(package: str, name: str, key: str) -> object:
    """A constant that plug-in ``name`` defines with a literal, read without importing it.

    Raises
    ------
    UserError
        As in :func:`check`.
    LookupError
        If it defines none.
    """
    check(package, name)
    paths = [pathlib.Path(folder, f"{name}.py") for folder in _folders(package)]
    path = next(path for path in paths if path.is_file())
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == key:
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} defines no {key}.")


def load(package: str, name: str) -> ModuleType:
    """Import plug-in ``name`` of ``package``; errors as in :func:`check`."""
    check(package, name)
    return importlib.import_module(f"{package}.{name}")
