"""Who works on what, for processes that share nothing but a folder.

A claim is a file ``NAME.GENERATION``, made with an operation of which only one process succeeds. A
holder touches it while it works. A claim is void when its holder ended it, is known to be dead
(same machine), or has not touched it for long; then the next generation can be claimed, again by
one process only. A holder that was only slow finds the newer generation, or that its own file is
gone or another's, and gives way.

:func:`take` is for many things in one folder, any of which will do: what is taken, another process
passes over. :func:`hold` is for a folder that one process at a time may write to: the second is
told who is there, and leaves.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import secrets
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from data_prep.errors import UserError

AGE = 600.0  # seconds without a sign of life after which a claim of another machine is void
BEAT = 20.0  # seconds between signs of life

#: Folder of the claim in a folder that is held. Nothing else should be in it.
FOLDER = "lock"

_NAME = "holder"
_LOOKS = 20  # at a claim that changes while it is looked at
_PAUSE = 0.05  # seconds between them


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
        """Add facts to the file, whole or not at all; another's file stays as it is."""
        self.content |= facts
        if self._look() is not False:
            _write(self.folder, self.content, self.path, os.replace)

    def beat(self) -> bool:
        """Give a sign of life; False if another process has taken over.

        Who took over may have come to its end and removed its files, and a third one may have
        begun with the same number again: that the newest number is one's own says nothing.
        """
        if generation(self.folder, self.name) > self.generation:
            return False
        return self._look(touch=True) is not False

    def _look(self, touch: bool = False) -> bool | None:
        """Whether the file is still this claim's; None if that cannot be told now."""
        try:
            with self.path.open() as file:
                own = json.load(file).get("token") == self.content["token"]
                if own and touch:
                    os.utime(file.fileno())  # of what was read, whatever has its name by now
                return own
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # a shared folder may be out of reach for a while
            return None

    def end(self) -> None:
        """Give the claim up; the file stays and says so."""
        self.note(ended=True)

    def remove(self) -> None:
        """Give the claim up without a trace, unless another process has taken over."""
        if not self._look():
            return
        for number in (self.generation - 1, self.generation):
            (self.folder / f"{self.name}.{number}").unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a claim.

    Attributes
    ----------
    host : str
    pid : int
    seconds : float
        Since it was made.
    silent : float
        Seconds since the last sign of life.
    here : bool
        The process is of this machine, so that it is known to live.
    """

    host: str
    pid: int
    seconds: float
    silent: float
    here: bool

    def __str__(self) -> str:
        text = f"process {self.pid} on {self.host}, for {duration(self.seconds)}"
        return text if self.here else f"{text}, last sign of life {duration(self.silent)} ago"


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
    about = {"host": platform.node(), "machine": machine(), "at": _now(folder)}
    about["token"] = secrets.token_hex(8)
    claim = Claim(folder, name, last + 1, {**about, **process(os.getpid())})
    try:
        _write(folder, claim.content, claim.path, link)
    except FileExistsError:
        return None
    # Another may have looked so long ago that files have come or gone since: this process or the
    # other one, or both, find that now. An older claim that is alive was made by one that found
    # nothing because the holder before it had removed its files.
    others = [number for number in _generations(folder, name) if number != claim.generation]
    for number in others:
        if number > claim.generation or not _void(folder, folder / f"{name}.{number}", age):
            claim.path.unlink(missing_ok=True)
            return None
    (folder / f"{name}.{last - 1}").unlink(missing_ok=True)  # not the last: others may read it
    return claim


def generation(folder: pathlib.Path, name: str) -> int:
    """Number of the newest claim; -1 if there is none."""
    return max(_generations(folder, name), default=-1)


def held(folder: pathlib.Path, name: str, age: float = AGE) -> bool:
    """Whether a living process has a claim on ``name``."""
    last = generation(folder, name)
    return last >= 0 and not _void(folder, folder / f"{name}.{last}", age)


def holder(folder: pathlib.Path, name: str) -> Holder | None:
    """Who made the newest claim, living or not; None where there is none or it is damaged."""
    try:
        path = folder / f"{name}.{generation(folder, name)}"
        content = json.loads(path.read_text())
        now = _now(folder)
        return Holder(
            content["host"],
            content["pid"],
            max(0.0, now - content["at"]),
            max(0.0, now - path.stat().st_mtime),
            content["machine"] == machine(),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextlib.contextmanager
def hold(
    folder: pathlib.Path,
    instead: str,
    *,
    place: pathlib.Path | None = None,
    name: str = _NAME,
    age: float = AGE,
    beat: float = BEAT,
) -> Iterator[None]:
    """Keep other processes out of ``folder`` within the block.

    A thread gives signs of life. If another machine took over, because this one slept or its disk
    was out of reach for ``age`` seconds, this process ends at once, with status 2: two must not
    write to the folder.

    Parameters
    ----------
    folder : path
        Made if need be; removed at the end where it is empty.
    instead : str
        What the user can do, for the error.
    place : path, optional
        Folder of the claim; by default ``folder/lock``, of which nothing is left at the end.
    name : str
        Of the claim.
    age, beat : float
        Seconds after which a claim without a sign of life is void, and between such signs.

    Raises
    ------
    UserError
        If a living process holds it.
    """
    leftovers = [] if place else [folder / FOLDER, folder]
    place = place or folder / FOLDER
    claim = _insist(folder, place, name, age, instead)
    ended = threading.Event()

    def give_signs() -> None:
        while not ended.wait(beat):
            if not claim.beat():
                owner = holder(place, name) or "another process"
                print(f"Error: {folder} was taken over by {owner}.", file=sys.stderr, flush=True)
                os._exit(2)

    signs = threading.Thread(target=give_signs, name="signs of life", daemon=True)
    signs.start()
    try:
        yield
    finally:
        ended.set()
        signs.join()
        claim.remove()
        for left in leftovers:
            with contextlib.suppress(OSError):  # not empty, or gone
                left.rmdir()


def void(folder: pathlib.Path) -> None:
    """End whatever :func:`hold` of ``folder`` there is: for who knows that its holder must go."""
    place = folder / FOLDER
    last = generation(place, _NAME)
    if last >= 0:
        path = place / f"{_NAME}.{last}"
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            content = {}
        _write(place, {**content, "ended": True}, path, os.replace)


def _insist(
    folder: pathlib.Path, place: pathlib.Path, name: str, age: float, instead: str
) -> Claim:
    """A claim, or the user's error that says who has it."""
    for _ in range(_LOOKS):
        try:
            if claim := take(place, name, age):
                return claim
            owner = holder(place, name)
            if owner and held(place, name, age):
                after = "" if owner.here else f" It is taken over after {duration(age)} of silence."
                raise UserError(f"{folder} is in use by {owner}.{after} {instead}")
        except FileNotFoundError:
            pass  # the one before removed the folder just now
        except FileExistsError:  # or while it was made; or a file is in the way
            with contextlib.suppress(FileNotFoundError):
                # One look: between two of them the folder may go.
                if not stat.S_ISDIR(folder.stat().st_mode):
                    raise
        time.sleep(_PAUSE)
    raise UserError(f"{folder} is in use by a process that cannot be told. {instead}")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _generations(folder: pathlib.Path, name: str) -> list[int]:
    found = [path.name.rpartition(".") for path in folder.glob(f"{name}.*")]
    return [int(end) for stem, _, end in found if stem == name and end.isdigit()]


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


def link(partial: str, path: pathlib.Path) -> None:
    """Give a file its name unless another has it; also where there are no hard links.

    Raises
    ------
    FileExistsError
        If another has it.
    """
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


def process(pid: int) -> dict:
    """What tells a running process from a later one of the same number."""
    return {"pid": pid, "began": _began(pid)}


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
