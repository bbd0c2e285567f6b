"""Networks of the tests, found like those of the package while :func:`installed` holds."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from medxfer import models

NAME = "tiny_network"


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Let ``medxfer.models`` also be searched here."""
    folder = str(pathlib.Path(__file__).parent)
    models.__path__.append(folder)
    try:
        yield
    finally:
        models.__path__.remove(folder)
        sys.modules.pop(f"medxfer.models.{NAME}", None)
        vars(models).pop(NAME, None)
