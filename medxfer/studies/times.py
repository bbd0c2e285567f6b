"""How long the attempts at a run took, for estimates: its card knows the last one's work alone."""

import contextlib
import json
import pathlib
from collections.abc import Sequence

from medxfer.runs import RunFolder
from medxfer.studies.plan import StudyFolder


def attempts(study: StudyFolder, name: str) -> list[float]:
    """Seconds of every attempt at a run, the last one last, as far as they were noted."""
    try:
        return [float(each) for each in json.loads(_file(study, name).read_text())["attempts"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def note(study: StudyFolder, name: str, attempts: Sequence[float]) -> None:
    """Keep what :func:`attempts` reads; where that cannot be written, estimates know less."""
    path = _file(study, name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        RunFolder(path.parent).write_json(path.name, {"attempts": list(attempts)})


def _file(study: StudyFolder, name: str) -> pathlib.Path:
    return study.path / "seconds" / f"{name}.json"
