"""Who works on what, for processes that share nothing but a folder.

A claim on a run is a file ``NAME.GENERATION``, made with an operation of which only one process
succeeds. A holder touches it while it works. A claim is void when its holder ended it, is known to
be dead (same machine), or has not touched it for long; then the next generation can be claimed,
again by one process only. The newest file is never deleted, so no process can take away a claim
that was made after it looked. A holder that was only slow finds the newer generation and gives way.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import tempfile

AGE = 600.0  # seconds without a sign of life


@dataclasses.dataclass
class Claim:
    """A claim of this process."""

    folder: pathlib.Path
    name: str
    generation: int
    content: dict

    @property
    def path(self) -> pathlib.Path:
        """Its file."""
        return self.folder / f"{self.name}.{self.generation}"

    def note(self, **facts: object) -> None:
        """Add facts to the file, whole or not at all."""
        self.content |= facts
        _write(self.folder, self.content, self.path, os.replace)

    def beat(self) -> bool:
        """Give a sign of life; False if another process has taken over."""
        if generation(self.folder, self.name) != self.generation:
            return False
        with contextlib.suppress(OSError):  # a shared folder may be out of reach for a while
            os.utime(self.path)
        return True

    def end(self) -> None:
        """Give the claim up."""
        self.note(ended=True)


def take(folder: pathlib.Path, name: str, age: float = AGE) -> Claim | None:
    """Claim ``name`` for this process, or None if a living process holds it.

    Parameters
    ----------
    folder : path
        Of all claims; made if need be.
    name : str
    age : float
        Seconds after which a claim without a sign of life is void.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = generation(folder, name)
    if last >= 0 and not _void(folder, folder / f"{name}.{last}", age):
        return None
    claim = Claim(folder, name, last + 1, {"machine": machine(), **_identity(os.getpid())})
    try:
        _write(folder, claim.content, claim.path, _link)
    except FileExistsError:
        return None
    if generation(folder, name) != claim.generation:  # looked so long ago that files are gone
        claim.path.unlink(missing_ok=True)
        return None
    (folder / f"{name}.{last - 1}").unlink(missing_ok=True)  # not the last: others may read it
    return claim


def generation(folder: pathlib.Path, name: str) -> int:
    """Number of the newest claim; -1 if there is none."""
    found = [path.name.rpartition(".") for path in folder.glob(f"{name}.*")]
    return max((int(end) for stem, _, end in found if stem == name and end.isdigit()), default=-1)


def held(folder: pathlib.Path, name: str, age: float = AGE) -> bool:
    """Whether a living process has a claim on ``name``."""
    last = generation(folder, name)
    return last >= 0 and not _void(folder, folder / f"{name}.{last}", age)


def _void(folder: pathlib.Path, path: pathlib.Path, age: float) -> bool:
    try:
        content = json.loads(path.read_text())
        silent = _now(folder) - path.stat().st_mtime
    except FileNotFoundError:
        return False  # just replaced: look again later
    except ValueError:
        content, silent = {}, _now(folder) - path.stat().st_mtime
    if content.get("ended") or silent > age:
        return True
    if content.get("machine") != machine():
        return False
    return not any(_alive(process) for process in (content, content.get("child")) if process)


def _write(folder: pathlib.Path, content: dict, path: pathlib.Path, place) -> None:
    """Put a whole file in its place: ``os.replace``, or ``os.link``, which fails if it is taken."""
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".partial-")
    try:
        with open(descriptor, "w") as file:
            json.dump(content, file)
        place(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def _link(partial: str, path: pathlib.Path) -> None:
    """Give a file its name unless another has it; also where there are no hard links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("x") as file:
            file.write(pathlib.Path(partial).read_text())


def _now(folder: pathlib.Path) -> float:
    """Time by the clock that stamps the files of the folder: clocks of machines differ."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


@functools.cache
def machine() -> str:
    """Name of what numbers the processes: computer, start of its system, container."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(facts)


def _identity(pid: int) -> dict:
    return {"pid": pid, "began": _began(pid)}


def process(pid: int) -> dict:
    """What tells a running process from a later one of the same number."""
    return _identity(pid)


def _alive(process: dict) -> bool:
    try:
        os.kill(process["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _began(process["pid"]) == process["began"]


def _began(pid: int) -> str:
    """When a process began, in the system's ticks; empty where that cannot be known."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
