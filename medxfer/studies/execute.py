"""The runs of a plan, each in a process of its own, until all are finished or have failed.

A study may be killed at any moment and started again, and several machines may work on one folder:
what is finished is kept, what was interrupted goes on from its last checkpoint, and a claim (see
:mod:`data_prep.locks`) keeps two processes from doing the same run.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from data_prep import locks, progress
from data_prep.errors import UserError
from medxfer import main, plugins, tuning
from medxfer.config import Config, own_settings
from medxfer.runs import RunFolder
from medxfer.studies import masks, times
from medxfer.studies.plan import AUTO, COUNTERPART, SCRATCH, Plan, Planned, StudyFolder

Command = Callable[[StudyFolder, Planned], list[str]]

CHILD = (sys.executable, "-m", "medxfer.studies.child")

_GRACE = 20.0  # seconds that runs have to save their state when the study ends early
_LINES = 30  # of a failed run's log that are kept


@dataclasses.dataclass
class Outcome:
    """Names of runs by what came of them."""

    reused: list[str] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    elsewhere: list[str] = dataclasses.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every run came to an end."""
        return not self.elsewhere


@dataclasses.dataclass
class _Active:
    planned: Planned
    process: subprocess.Popen
    claim: locks.Claim
    log: typing.IO
    started: float
    beat: float
    before: list[float]  # seconds of earlier attempts


def command(
    study: StudyFolder, planned: Planned, share: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Command line of a run.

    Parameters
    ----------
    study : StudyFolder
    planned : Planned
    share : mapping, optional
        Network -> groups from which the study tunes: what they need of frozen layers is computed
        in one pass.

    Raises
    ------
    UserError
        If a setting cannot be said on the command line.
    """
    run = study.run(planned.name).path
    if planned.is_counterpart:
        return [*CHILD, "medxfer.studies.counterpart", f"--run={run}", *flags_of(planned.config)]
    groups = (share or {}).get(planned.config.model, ())
    return [
        *CHILD,
        "medxfer.main",
        "--noexport",
        "--nocounterparts",
        *([f"--share={','.join(groups)}"] if groups else []),
        f"--run={run.absolute()}",
        *flags_of(planned.config),
    ]


def starts(plan: Plan) -> dict[str, list[str]]:
    """Network -> layer groups from which a plan's runs tune, strategies stage by stage.

    Without those of ``auto``, which seldom tries all, and of networks that freeze nothing.
    """
    found: dict[str, list[str]] = {}
    ways = {(run.config.model, run.config.tune): run.config for run in plan.runs}
    for config in ways.values():
        if config.weights == "none" or config.tune in (SCRATCH, COUNTERPART, AUTO):
            continue
        groups = list(plugins.load("medxfer.models", config.model).LAYER_GROUPS)
        own = found.setdefault(config.model, [])
        for stage in tuning.stages_for(config.tune, groups, config, groups[-1:]):
            first = next(group for group in groups if not stage.frozen(group))
            if first not in own:
                own.append(first)
    return found


def flags_of(config: Config) -> list[str]:
    """Flags that say a run's settings.

    Raises
    ------
    UserError
        If one cannot be said on the command line.
    """
    defined = main.FLAGS
    words = []
    # What is given goes before the authors' settings.
    own = own_settings(config.tune) if config.strategy_settings == "authors" else {}
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name in own:
            continue
        if field.name in defined:
            words.append(f"--{field.name}={value}")
        elif value != field.default:
            raise UserError(f"{field.name} has no flag, so a study cannot change it.")
    return words


def environment(jobs: int) -> dict[str, str]:
    """Variables of a run that shares this machine's processors with ``jobs`` - 1 others."""
    if jobs == 1:
        return {}
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    return {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
    }


def shard_of(text: str) -> tuple[int, int]:
    """``i/n`` of ``--shard``, i from 0, as numbers.

    Raises
    ------
    UserError
        If it is anything else.
    """
    part, _, count = text.partition("/")
    if part.isdigit() and count.isdigit() and int(part) < int(count):
        return int(part), int(count)
    raise UserError(f"--shard must be i/n, with i from 0 to n - 1. Received: {text}.")


def execute(
    study: StudyFolder,
    plan: Plan,
    *,
    jobs: int = 1,
    shard: tuple[int, int] = (0, 1),
    age: float = locks.AGE,
    command: Command = command,
    poll: float = 0.5,
    report: Callable[[Planned, float], None] | None = None,
    keep_weights: bool = True,
) -> Outcome:
    """Do all runs that are not finished yet.

    Parameters
    ----------
    study : StudyFolder
    plan : Plan
    jobs : int
        Runs at the same time; they share the processors.
    shard : (index, count)
        Every count-th run is this process' own; when these are done it helps with the others.
    age : float
        Seconds after which a claim without a sign of life is void.
    command : callable
        Gives the command line of a run.
    poll : float
        Seconds between looks at the running processes.
    report : callable, optional
        Called with every run that was done here and the seconds it took.
    keep_weights : bool
        Whether finished runs keep their weights, which nothing in a study needs any more.

    Returns
    -------
    Outcome
        Runs that another process works on are ``elsewhere``. A run that has failed does not end
        the study; it is tried again when the study is started again.
    """
    return _Executor(study, plan, jobs, shard, age, command, poll, report, keep_weights).work()


class _Executor:
    def __init__(self, study, plan, jobs, shard, age, command, poll, report, keep_weights) -> None:
        self._study, self._plan, self._jobs = study, plan, jobs
        self._age, self._command, self._poll = age, command, poll
        self._report = report or (lambda planned, seconds: None)
        self._keep_weights = keep_weights
        index, count = shard
        own = plan.runs[index::count]
        self._order = [*own, *(run for run in plan.runs if run not in own)]
        self._claims = study.claims
        self._active: dict[str, _Active] = {}
        self._before = {run.name: _text(study.failure(run.name)) for run in plan.runs}
        self._outcome = Outcome()
        self._ended: set[str] = set()

    def work(self) -> Outcome:
        try:
            with progress.counted("Study", len(self._plan.runs), "runs") as work:
                while True:
                    self._reap()
                    self._fill()
                    work.done = len(self._ended)
                    if not self._active:
                        break
                    time.sleep(self._poll)
        finally:
            self._stop()
        left = {run.name for run in self._plan.runs} - self._ended
        self._outcome.elsewhere = [run.name for run in self._plan.runs if run.name in left]
        return self._outcome

    def _fill(self) -> None:
        """Start runs while there is room and something to do."""
        for planned in self._order:
            if len(self._active) >= self._jobs:
                return
            if planned.name in self._ended or planned.name in self._active:
                continue
            if not self._settled(planned):
                claim = locks.take(self._claims, planned.name, self._age)
                # Another process may have come to its end between the look and the claim.
                if claim is not None and self._settled(planned):
                    claim.end()
                elif claim is not None:
                    self._start(planned, claim)

    def _settled(self, planned: Planned) -> bool:
        """Whether the run is finished, or has failed elsewhere since this study began."""
        name = planned.name
        if self._study.finished(planned, self._plan.fingerprint):
            self._outcome.reused.append(name)
            self._tidy(planned)
        elif (failure := _text(self._study.failure(name))) and failure != self._before[name]:
            self._outcome.failed.append(name)
        else:
            return False
        self._ended.add(name)
        return True

    def _start(self, planned: Planned, claim: locks.Claim) -> None:
        # Who had the run before is gone or gives way, although its folder may not know it yet.
        locks.void(self._study.run(planned.name).path)
        path = self._study.log(planned.name)
        path.parent.mkdir(exist_ok=True)
        _follow_the_records(self._study, planned)
        log = path.open("ab")
        log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            self._command(self._study, planned),
            stdin=subprocess.PIPE,  # the child ends when this end closes
            stdout=log,
            stderr=log,
            env={**os.environ, **environment(self._jobs)},
        )
        claim.note(child=locks.process(process.pid))
        now = time.monotonic()
        self._active[planned.name] = _Active(
            planned, process, claim, log, now, now, times.attempts(self._study, planned.name)
        )
        logging.info("Started %s.", _words(planned))

    def _reap(self) -> None:
        for name, active in list(self._active.items()):
            status = active.process.poll()
            now = time.monotonic()
            if status is None and now - active.beat >= min(locks.BEAT, self._age / 4):
                active.beat = now
                if active.claim.beat():
                    self._clock(active)
                else:
                    logging.warning("%s is being done elsewhere now.", name)
                    self._close(active)
            elif status is not None:
                self._close(active)
                self._settle(active, status)

    def _settle(self, active: _Active, status: int) -> None:
        """Write down what came of a run; the claim ends last."""
        planned, seconds = active.planned, self._clock(active)
        failure = self._study.failure(planned.name)
        if status == 0 and self._study.finished(planned, self._plan.fingerprint):
            failure.unlink(missing_ok=True)
            self._outcome.done.append(planned.name)
            self._tidy(planned)
            self._report(planned, seconds)
        else:
            reason = _reason(status, self._study, planned)
            failure.parent.mkdir(exist_ok=True)
            content = {"status": status, "at": time.time(), "seconds": seconds, **reason}
            RunFolder(failure.parent).write_json(failure.name, content)
            self._outcome.failed.append(planned.name)
            logging.warning("%s failed: %s", _words(planned), reason["reason"])
        self._ended.add(planned.name)
        active.claim.end()

    def _clock(self, active: _Active) -> float:
        """Seconds of this attempt so far, which are also kept: the study may be killed."""
        seconds = time.monotonic() - active.started
        times.note(self._study, active.planned.name, [*active.before, seconds])
        return seconds

    def _tidy(self, planned: Planned) -> None:
        """Delete what a finished run need not keep."""
        if not self._keep_weights:
            self._study.run(planned.name).weights.unlink(missing_ok=True)

    def _close(self, active: _Active) -> None:
        """End the process if it still runs, and forget it."""
        del self._active[active.planned.name]
        active.process.stdin.close()
        try:
            active.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            active.process.kill()
            active.process.wait()
        active.log.close()

    def _stop(self) -> None:
        for active in self._active.values():
            active.process.terminate()  # they write a checkpoint
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and any(
            active.process.poll() is None for active in self._active.values()
        ):
            time.sleep(self._poll)
        for active in list(self._active.values()):
            self._close(active)
            self._clock(active)
            active.claim.end()


def _follow_the_records(study: StudyFolder, planned: Planned) -> None:
    """Let an interrupted run go on although its records, the same ones, lie elsewhere now."""
    place = study.run(planned.name).path / "config.json"
    if place.is_file():
        found = Config.load(place)
        if dataclasses.replace(found, data=planned.config.data) == planned.config != found:
            planned.config.save(place)


def _words(planned: Planned) -> str:
    return f"{planned.method}, {planned.share}, seed {planned.config.seed}"


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _reason(status: int, study: StudyFolder, planned: Planned) -> dict:
    """The user's error if there is one, and the end of the log, :mod:`masked <.masks>`."""
    log = study.log(planned.name)
    text = log.read_text(errors="replace") if log.exists() else ""
    text = masks.masked(text, study.path, planned.config)
    lines = text.splitlines()[-_LINES:]
    errors = [line for line in lines if line.startswith("Error: ")]
    if errors:
        reason = errors[-1].removeprefix("Error: ")
    elif status == 0:
        reason = "it ended without a result that belongs to the plan; was the software replaced?"
    elif status < 0:
        reason = f"ended by signal {-status}" + (
            ", perhaps for want of memory: try fewer --jobs" if status == -9 else ""
        )
    else:
        reason = next((line for line in reversed(lines) if line.strip()), f"status {status}")
    return {"reason": reason, "log": lines}


def standing(study: StudyFolder, plan: Plan) -> str:
    """Where a study that was interrupted goes on, in a sentence."""
    ended = sum(study.finished(planned, plan.fingerprint) for planned in plan.runs)
    return (
        f"{ended} of {len(plan.runs)} runs are finished; the same command goes on with the others, "
        "each after its last epoch."
    )


def failures(study: StudyFolder, runs: Sequence[Planned]) -> dict[str, str]:
    """Name -> reason of the runs whose last attempt failed."""
    found = {}
    for run in runs:
        if text := _text(study.failure(run.name)):
            found[run.name] = json.loads(text)["reason"]
    return found
