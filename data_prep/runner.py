"""Studies to results on disk, in this process or in a pool of processes of this machine.

The work on one study is a pure function ``study -> StudyResult``. Its result is *spilled*: written
to the work folder under a name that is a hash of the study's source bytes, the settings and the
schema version. A run that was interrupted finds those files and does not redo the studies. The same
goes for other places where the work may run (:mod:`data_prep.beam_runner`).
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import signal
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool

from absl import logging

from data_prep import progress, records, signals
from data_prep.errors import AGAIN, OutputError, UserError, no_room
from data_prep.readers._paths import inside


@dataclasses.dataclass(frozen=True)
class Study:
    """One raw study: a video, a volume, an image with its annotation. Readers may add fields.

    Attributes
    ----------
    name : str
        Original name, unique in the input. Shown on the terminal; never written to the dataset.
    files : tuple of paths
        Every file the work reads: their bytes decide whether an earlier result still holds.
    """

    name: str
    files: tuple[pathlib.Path, ...]


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """What the work on one study gives. No original name may occur in it.

    Attributes
    ----------
    case, subject : str
        Pseudonyms.
    examples : mapping
        Kind (such as "patch" or "roi") -> examples. A layout says which kinds of which subjects
        make up a split. May be generators: they are written as they come.
    truth : mapping
        What ``truth.json`` says of the case; plain JSON values without NaN.
        Like ``mended``, it is read after the last example was written.
    mended : sequence of str
        What was wrong with the study and was put right; the study's name is taken out.
    """

    case: str
    subject: str
    examples: Mapping[str, Iterable[records.Example]]
    truth: Mapping = dataclasses.field(default_factory=dict)
    mended: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Spill:
    """A finished study on disk: encoded examples end to end in ``path``, and a ``.json`` beside it.

    The index stays on disk, for there may be many studies with many examples.
    """

    path: pathlib.Path
    case: str
    subject: str
    truth: dict
    mended: list[str]

    @classmethod
    def load(cls, folder: pathlib.Path, token: str) -> "Spill | None":
        """The spill called ``token``, or None where there is none or it is not whole."""
        path = folder / f"{token}.records"
        try:
            content = json.loads(path.with_suffix(".json").read_text())
            size = path.stat().st_size
        except (OSError, ValueError):
            return None
        index = content.pop("index")
        whole = size == sum(sum(entry["length"]) for entry in index.values())
        return cls(path=path, **content) if whole else None

    def index(self) -> dict[str, dict[str, list]]:
        """Kind of examples -> lists of equal length: "key", "label" and "length" in bytes.

        The kinds, and the examples of a kind, lie in ``path`` in this order.
        """
        return json.loads(self.path.with_suffix(".json").read_text())["index"]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A study that could not be used.

    ``reason`` is for the dataset: original names are taken out. ``detail`` is for the terminal.
    ``settled``: another try would end in the same way.
    """

    study: Study
    reason: str
    detail: str
    settled: bool = False


#: Why a study failed whose process ended without a word.
DIED = "the process that worked on it died, perhaps for want of memory"

Job = tuple[Study, str]  # and its token
Work = Callable[[Job], Skipped | None]


def tokens(studies: Sequence[Study], settings: Mapping, workers: int) -> list[str]:
    """Name of each study's spill: hash of source bytes, file names, settings and schema version.

    ``settings`` must hold everything the work depends on beside the study, as JSON values.
    """
    salt = json.dumps([records.SCHEMA_VERSION, settings], sort_keys=True).encode()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(functools.partial(_token, salt=salt), studies))


def run(
    function: Callable[[Study], StudyResult],
    studies: Sequence[Study],
    folder: pathlib.Path,
    *,
    extras: Mapping[str, str],
    tokens: Sequence[str],
    workers: int = 1,
    strict: bool = False,
) -> tuple[list[Spill], list[Skipped]]:
    """Apply ``function`` to every study whose spill is not yet in ``folder``.

    Parameters
    ----------
    function : callable
        Pure and picklable (a module's function, or ``functools.partial`` of one); it must not read
        flags, which worker processes do not have. Any exception it raises skips the study.
    studies, tokens : sequences of equal length
    folder : path
        Work folder; made if absent.
    extras : mapping
        The app's own features (see :mod:`data_prep.records`).
    workers : int
        1: in this process; more: that many processes.
    strict : bool
        A study that cannot be used ends the run.

    Returns
    -------
    spills, skipped : lists in the order of ``studies``

    Raises
    ------
    UserError
        If a study cannot be used and ``strict`` is set, or there is no room for the results.
    """
    jobs = pending(studies, tokens, folder)
    work = functools.partial(work_on, function=function, folder=folder, extras=dict(extras))
    done = map(work, jobs) if workers == 1 else _pooled(work, jobs, min(workers, len(jobs)))
    failed: dict[str, Skipped] = {}
    for failure in progress.track(done, "Preparing", len(jobs), "studies"):
        if failure is not None:
            failed[failure.study.name] = failure
            if strict:
                refuse(failure)
    return outcome(studies, tokens, folder, failed)


def pending(studies: Sequence[Study], tokens: Sequence[str], folder: pathlib.Path) -> list[Job]:
    """Studies whose spill is not yet in ``folder``, which is made if need be, with their tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (study, token)
        for study, token in zip(studies, tokens, strict=True)
        if Spill.load(folder, token) is None
    ]
    if len(jobs) < len(studies):
        logging.info("%d of %d studies were done before.", len(studies) - len(jobs), len(studies))
    return jobs


def standing(tokens: Sequence[str], folder: pathlib.Path) -> str:
    """Where a run that was interrupted goes on, in a sentence."""
    kept = sum(Spill.load(folder, token) is not None for token in tokens)
    return f"{kept} of {len(tokens)} studies are kept; the same command goes on with the others."


def refuse(failure: Skipped) -> None:
    """Raise UserError for a study that cannot be used."""
    raise UserError(f"{failure.study.name} cannot be used: {failure.detail}")


def outcome(
    studies: Sequence[Study],
    tokens: Sequence[str],
    folder: pathlib.Path,
    failed: Mapping[str, Skipped],
) -> tuple[list[Spill], list[Skipped]]:
    """Spills and skipped studies, in the order of the studies; ``failed`` by name."""
    spills = [Spill.load(folder, token) for token in tokens]
    return (
        [spill for spill in spills if spill is not None],
        [failed[study.name] for study in studies if study.name in failed],
    )


def _token(study: Study, salt: bytes) -> str:
    digest = hashlib.sha256(salt)
    for text in (study.name, _fields(study), *(file.name for file in study.files)):
        content = text.encode(errors="surrogateescape")  # names that are not UTF-8
        digest.update(hashlib.sha256(content).digest())
    root = getattr(study, "root", None)
    for path in study.files:
        digest.update(_content(path, root))
    return digest.hexdigest()[:32]


def _content(path: pathlib.Path, root: pathlib.Path | None) -> bytes:
    """Hash of a file; what lies outside ``root`` is not opened, and a pipe would be waited for."""
    try:
        if path.is_file() and (root is None or inside(path, root)):
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # the work will meet it too, and say so
        pass
    return b"unreadable"


def _fields(study: Study) -> str:
    """What a reader says of a study beside its files, without the place of the input folder."""
    known = {field.name for field in dataclasses.fields(Study)} | {"root"}
    own = {
        field.name: value
        for field in dataclasses.fields(study)
        if field.name not in known and not callable(value := getattr(study, field.name))
    }
    text = json.dumps(_plain(own), sort_keys=True)
    return text.replace(f"{getattr(study, 'root', '')}{os.sep}", "")


def _plain(value: object) -> object:
    """As JSON has it: whatever is no number, text, list or table becomes text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def work_on(
    job: Job,
    function: Callable[[Study], StudyResult],
    folder: pathlib.Path,
    extras: Mapping[str, str],
) -> Skipped | None:
    """Work on one study and spill the result; say why if it cannot be used.

    Raises
    ------
    OutputError
        If the result cannot be written, for want of room.
    """
    study, token = job
    try:
        result = function(study)
        _spill(result, study, folder, token, extras)
    except UserError as error:
        return Skipped(study, _without_names(str(error), study), str(error), settled=True)
    except Exception as error:  # whatever one study does, the others go on
        if reason := no_room(error):
            raise OutputError(f"{folder}: {reason}. {AGAIN}") from error
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__
        detail = f"{kind}: {error} ({pathlib.Path(where.filename).name}, line {where.lineno})"
        # The text of a foreign error may quote what it read, so only its kind is written.
        return Skipped(study, f"{kind} while it was read", detail)
    return None


def _spill(
    result: StudyResult,
    study: Study,
    folder: pathlib.Path,
    token: str,
    extras: Mapping[str, str],
) -> None:
    index: dict[str, dict[str, list]] = {}
    path = folder / f"{token}.records"
    # Numbers of processes are those of one machine, and several may work in a folder.
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            for kind, examples in result.examples.items():
                entry = index[kind] = {"key": [], "label": [], "length": []}
                for example in examples:
                    entry["key"].append(example.key)
                    entry["label"].append(int(example.label))
                    entry["length"].append(file.write(records.encode(example, extras)))
        partial.replace(path)
        content = {
            "case": result.case,
            "subject": result.subject,
            "truth": result.truth,
            "mended": [_without_names(note, study) for note in result.mended],
            "index": index,
        }
        partial.write_text(json.dumps(content, allow_nan=False))
        partial.replace(path.with_suffix(".json"))  # last: this file says that the spill is whole
    finally:
        partial.unlink(missing_ok=True)


def _without_names(text: str, study: Study) -> str:
    """The text with the study's original names and paths replaced."""
    names = {study.name}
    for file in study.files:
        names.update((str(file), str(file.parent), file.name, file.stem))
    ordered = sorted(names - {"", "."}, key=len, reverse=True)
    # A number is a name only where it stands by itself: video 1 is not part of "12 of 36 frames".
    patterns = (rf"(?<!\d){name}(?!\d)" if name.isdigit() else re.escape(name) for name in ordered)
    return re.sub("|".join(patterns), "<name>", text)


def _pooled(
    work: Work,
    jobs: Iterable[Job],
    workers: int,
) -> Iterator[Skipped | None]:
    """Results as they come. A process that dies costs one study, not the run."""
    waiting = collections.deque(jobs)
    while waiting:
        running: dict[concurrent.futures.Future, Job] = {}
        pool = _pool(workers)
        try:
            while waiting or running:
                # Few at a time: when the pool breaks, any of these may be the cause.
                while waiting and len(running) < 2 * workers:
                    with signals.shielded():  # studies in hand are finished and kept
                        running[pool.submit(work, waiting[0])] = waiting[0]
                    waiting.popleft()
                done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:
            for job in running.values():
                yield _alone(work, job)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(work: Work, job: Job) -> Skipped | None:
    with _pool(1) as pool:
        try:
            with signals.shielded():
                future = pool.submit(work, job)
            return future.result()
        except BrokenProcessPool:
            return Skipped(job[0], DIED, DIED)


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    # Spawned, not forked: the parent may hold threads (TensorFlow's), which a fork would break.
    return concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )


def _start_worker() -> None:
    # Ctrl-C is the parent's to handle: studies in hand are finished and kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()
