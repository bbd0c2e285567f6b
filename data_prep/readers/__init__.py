"""Readers of raw studies: one file a kind of source."""

import importlib
import pkgutil
from types import ModuleType


def of_kind(kind: str) -> dict[str, ModuleType]:
    """Modules that read sources of one kind (carotid, colonoscopy, ct, classification), by name."""
    found = {}
    for entry in pkgutil.iter_modules(__path__):
        if not entry.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{entry.name}")
            if getattr(module, "KIND", "") == kind:
                found[entry.name] = module
    return found
