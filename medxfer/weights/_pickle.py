"""Unpickling that can build the listed things and nothing else.

A pickle is a program: it may import and call whatever it names. Here a name outside the list ends
the reading before anything is imported.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import IO


class Refused(ValueError):
    """The pickle asks for something that is not on the list, or is damaged."""


class Inert:
    """Stands for an object that is not on the list: it takes whatever it is given and does nothing.

    Attributes
    ----------
    name : str
        ``module.name`` of what the pickle asks for.
    """

    name = ""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def _take(self, *_, **__):
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = _take


def outside(item: object) -> str:
    """``module.name`` of what an :class:`Inert` stands for; empty for anything else."""
    kind = item if isinstance(item, type) else type(item)
    return kind.name if issubclass(kind, Inert) else ""


def load(
    file: IO[bytes],
    allowed: Mapping[str, object],
    persistent: Callable[[object], object] | None = None,
    inert: bool = False,
) -> object:
    """Read one pickle from ``file``, which is left behind its end.

    Parameters
    ----------
    file
        Open for reading, seekable.
    allowed
        ``module.name`` -> the object that stands for it.
    persistent
        Resolves persistent identifiers; without it they are refused.
    inert
        Put :class:`Inert` in the place of everything that is not on the list, such as the settings
        and optimizers of a training checkpoint, instead of refusing the file. Nothing is imported.

    Raises
    ------
    Refused
        The message names what was asked for.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            full_name = f"{module}.{name}"
            if full_name not in allowed and inert:
                return type("Inert", (Inert,), {"name": full_name})
            if full_name not in allowed:
                raise Refused(f"it asks for {full_name}, which is not data")
            return allowed[full_name]

        def persistent_load(self, pid):
            if persistent is None:
                raise Refused("it refers to something outside itself")
            return persistent(pid)

    start = file.tell()
    try:
        for opcode, argument, position in pickletools.genops(file):
            # The unpickler allots its memo up to the highest index: a small file could fill memory.
            if "PUT" in opcode.name and int(argument) > position - start:
                raise Refused("its memo is out of bounds")
        file.seek(start)
        return Unpickler(file).load()
    except Refused:
        raise
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise Refused(f"it is damaged ({type(error).__name__}: {error})") from error
