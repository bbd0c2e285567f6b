"""Records of an app's synthetic studies, kept beside them."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

from data_prep.records import SCHEMA_VERSION


def records(raw: pathlib.Path, prepare: Callable, settings) -> pathlib.Path:
    """Folder of the records of ``raw``, made once for these settings (a dataclass)."""
    how = json.dumps([SCHEMA_VERSION, dataclasses.asdict(settings)], sort_keys=True)
    name = f"{raw.name}-records-{hashlib.sha256(how.encode()).hexdigest()[:8]}"
    return prepare(raw, raw.with_name(name), settings=settings).output
