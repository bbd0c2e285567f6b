"""The work on studies where Apache Beam runs it: on this machine, Flink, Dataflow and others.

Beam gets the same function of one study that the local runner gets (:mod:`data_prep.runner`), and
its workers spill to the same work folder; shards are written from the spills as ever. So the bytes
of a dataset do not depend on where the work ran, and what is done is not done again, whoever goes
on. Workers need the raw studies and the work folder at the same paths as here: on a cluster, a
folder that all machines share (NFS, a bucket that is mounted).

Beam is imported when it is asked for (extra ``beam``).
"""

import functools
import json
import logging as python_logging
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from data_prep.errors import AGAIN, OutputError, UserError, no_room
from data_prep.runner import (
    DIED,
    Job,
    Skipped,
    Spill,
    Study,
    StudyResult,
    outcome,
    pending,
    refuse,
    work_on,
)

#: What runs the pipeline where the options name nothing: on this machine, without the download of a
#: helper program that ``DirectRunner`` may begin with.
DEFAULT = "--runner=FnApiRunner"

TRIES = 3  # of a study that fails in a way that may pass

#: Files that workers leave in the work folder: of a study in hand, and of one that cannot be used.
BEGUN, FAILED = "begun", "failed"

_LATE = 60.0  # seconds after which files of another machine are seen in a shared folder (NFS)


def run(
    function: Callable[[Study], StudyResult],
    studies: Sequence[Study],
    folder: pathlib.Path,
    *,
    extras: Mapping[str, str],
    tokens: Sequence[str],
    options: Sequence[str] = (),
    strict: bool = False,
) -> tuple[list[Spill], list[Skipped]]:
    """Apply ``function`` to every study whose spill is not yet in ``folder``.

    A study that fails, other than by a fault of its own (:class:`UserError`), is tried again, up to
    :data:`TRIES` times in all; then it is among the skipped ones. Where the pipeline is cut off
    because a worker died, the other studies are done first, and those that were in hand once more,
    one by one.

    Parameters
    ----------
    function, studies, folder, extras, tokens, strict
        As for :func:`data_prep.runner.run`; all workers must see ``folder`` and the files of the
        studies.
    options : sequence of str
        Options of the pipeline, as on Beam's command lines: ``--runner=FlinkRunner``.

    Returns
    -------
    spills, skipped : lists in the order of ``studies``

    Raises
    ------
    UserError
        If Beam is not installed or the pipeline does not start, a study cannot be used and
        ``strict`` is set, or there is no room for the results.
    """
    beam = _import()
    jobs = pending(studies, tokens, folder)
    work = functools.partial(_work, function=function, folder=folder, extras=dict(extras))
    failed: dict[str, Skipped] = {}
    suspects: list[Job] = []
    while jobs:
        left = _pipeline(beam, jobs, work, folder, options, failed)
        begun = [job for job in left if _file(folder, job, BEGUN).exists()]
        suspects += begun
        jobs = [job for job in left if job not in begun]
    for job in suspects:  # by itself: if the worker dies again, that was the cause
        if _pipeline(beam, [job], work, folder, options, failed):
            failed[job[0].name] = Skipped(job[0], DIED, DIED)
    ordered = [failed[study.name] for study in studies if study.name in failed]
    if strict and ordered:
        refuse(ordered[0])
    return outcome(studies, tokens, folder, failed)


def _import():
    python_logging.disable(python_logging.WARNING)  # about parts of Google's cloud that are absent
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            "--runner=beam needs Apache Beam, which is not installed: pip install 'medxfer[beam]'."
        ) from error
    finally:
        python_logging.disable(python_logging.NOTSET)
    return apache_beam


def _pipeline(
    beam,
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    folder: pathlib.Path,
    options: Sequence[str],
    failed: dict[str, Skipped],
) -> list[Job]:
    """Run one pipeline; the jobs that were left when it was cut off. Adds to ``failed``."""
    from apache_beam.options.pipeline_options import PipelineOptions

    for job in jobs:  # of an earlier run
        for kind in (BEGUN, FAILED):
            _file(folder, job, kind).unlink(missing_ok=True)
    named = any(option.partition("=")[0] == "--runner" for option in options)
    chosen = PipelineOptions([*options] if named else [DEFAULT, *options])
    try:
        with beam.Pipeline(options=chosen) as pipeline:
            # Each study by itself, wherever there is a free worker.
            _ = (
                pipeline
                | "studies" >> beam.Create(list(jobs))
                | "deal out" >> beam.Reshuffle()
                | "work" >> beam.Map(work)
            )
    except Exception as error:  # whatever Beam, its runner or the cluster raise
        left = [job for job in jobs if not _ended(job, folder, failed)]
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if reason := no_room(error):
            raise OutputError(f"{folder}: {reason}. {AGAIN}") from error
        if len(left) == len(jobs) and not any(_file(folder, job, BEGUN).exists() for job in jobs):
            raise UserError(f"The pipeline of Beam failed: {text}.") from error
        logging.warning("The pipeline was cut off (%s); %d studies left.", text, len(left))
        return left
    end = time.monotonic() + _LATE
    left = list(jobs)
    while left := [job for job in left if not _ended(job, folder, failed)]:
        if time.monotonic() > end:
            raise UserError(
                f"Beam's workers have ended, but {len(left)} studies are neither done nor failed "
                f"in {folder}: all workers must see this folder at this place."
            )
        time.sleep(1)
    return left


def _work(
    job: Job,
    function: Callable[[Study], StudyResult],
    folder: pathlib.Path,
    extras: Mapping[str, str],
) -> None:
    """Work on one study, on some machine, and leave a spill or a note that says why not."""
    begun = _file(folder, job, BEGUN)
    begun.touch()
    for _ in range(TRIES):
        failure = work_on(job, function, folder, extras)
        if failure is None or failure.settled:
            break
    if failure is not None:
        note = _file(folder, job, FAILED)
        partial = note.with_suffix(f".{uuid.uuid4().hex}.partial")
        partial.touch(mode=0o600)  # it names originals, and is deleted as soon as it is read
        partial.write_text(json.dumps({"reason": failure.reason, "detail": failure.detail}))
        partial.replace(note)
    begun.unlink(missing_ok=True)


def _file(folder: pathlib.Path, job: Job, kind: str) -> pathlib.Path:
    return folder / f"{job[1]}.{kind}"


def _ended(job: Job, folder: pathlib.Path, failed: dict[str, Skipped]) -> bool:
    """Whether a study is done or has failed, which is added to ``failed``."""
    note = _file(folder, job, FAILED)
    try:
        failed[job[0].name] = Skipped(job[0], **json.loads(note.read_text()))
    except FileNotFoundError:
        return Spill.load(folder, job[1]) is not None
    note.unlink()
    return True
