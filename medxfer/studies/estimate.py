"""How long a plan will take on this machine: from its finished runs, else from a calibration."""

import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

from absl import logging

from data_prep import locks
from medxfer import tuning
from medxfer.config import Config
from medxfer.runs import RunFolder
from medxfer.studies import execute, times
from medxfer.studies.plan import AUTO, CALIBRATION, SCRATCH, Plan, Planned, StudyFolder


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of every run that is left, and what the numbers come from.

    Attributes
    ----------
    seconds : dict
        Run -> seconds, None where nothing is known; finished runs are not in it.
    source : str
    disk : float
        Bytes of the weights that these runs will leave, as far as known.
    """

    seconds: dict[str, float | None]
    source: str
    disk: float = 0.0

    def total(self, jobs: int = 1) -> float:
        """Seconds for all of them, ``jobs`` at a time."""
        return sum(value or 0.0 for value in self.seconds.values()) / jobs


@dataclasses.dataclass(frozen=True)
class Records:
    """How much there is to work on.

    Attributes
    ----------
    examples : mapping
        Split -> number of examples; ``train``, ``validation``, ``test``.
    train_subjects : int
    """

    examples: Mapping[str, int]
    train_subjects: int


def estimate(study: StudyFolder, plan: Plan, records: Records, jobs: int = 1) -> Estimate:
    """Estimate what is left of a plan, of which ``jobs`` runs go on at a time."""
    cards = {
        run.name: study.run(run.name).card
        for run in plan.runs
        if study.finished(run, plan.fingerprint)
    }
    left = [run for run in plan.runs if run.name not in cards]
    done = [run for run in plan.runs if run.name in cards]
    known = {run.name: _from_finished(study, run, done, cards) for run in left}
    unknown = [run for run in left if known[run.name] is None]
    source = f"{len(done)} finished runs" if done else ""
    if unknown:
        source = f"{source} and a calibration" if source else "a calibration"
        source += ", as if no run ended early"
    seconds, size = calibrated(study, unknown, plan.fingerprint, records, jobs)
    sizes = {run.config.model: study.run(run.name).weights for run in done}
    size |= {model: path.stat().st_size for model, path in sizes.items() if path.is_file()}
    disk = sum(size.get(run.config.model, 0) for run in left if not run.is_counterpart)
    return Estimate(known | seconds, source, disk)


def calibrated(
    study: StudyFolder, runs: Sequence[Planned], fingerprint: str, records: Records, jobs: int = 1
) -> tuple[dict[str, float | None], dict[str, int]]:
    """What a few steps of every network say of runs that train one.

    Returns
    -------
    seconds : dict
        Run -> seconds while ``jobs`` of them go on; None where the steps failed.
    size : dict
        Network -> bytes of its weights.
    """
    seconds: dict[str, float | None] = {}
    size: dict[str, int] = {}
    measured = None
    for model in dict.fromkeys(run.config.model for run in runs if not run.is_counterpart):
        own = [run for run in runs if run.config.model == model]
        measured = _calibration(study, own[0], fingerprint, jobs)
        size[model] = measured["bytes"] if measured else 0
        for run in own:
            share = run.subjects / records.train_subjects
            seconds[run.name] = measured and _from_calibration(
                run, measured, records.examples, share
            )
    for run in runs:
        if run.is_counterpart:  # any network's calibration has timed the classic methods
            share = run.subjects / records.train_subjects
            seconds[run.name] = measured and (
                measured["start"] + share * measured["learning"] + measured["classic"]
            )
    return seconds, size


def _from_finished(
    study: StudyFolder, run: Planned, done: Sequence[Planned], cards: Mapping[str, dict]
) -> float | None:
    """Median of the runs of the same method, training scaled by the number of subjects.

    The last attempt at a run wrote its card; all but its training is said to take as long with any
    number of subjects. Attempts before it, which it went on from, are said to be training.
    """
    found = []
    for other in done:
        if other.method == run.method:
            spent, attempts = cards[other.name]["seconds"], times.attempts(study, other.name)
            training = spent.get("training", 0.0)
            fixed = max([spent["evaluation"], *(last - training for last in attempts[-1:])])
            training += sum(attempts[:-1])
            found.append(fixed + training * run.subjects / other.subjects)
    return statistics.median(found) if found else None


def _from_calibration(
    run: Planned, measured: Mapping, examples: Mapping[str, int], share: float
) -> float:
    steps = measured["steps"]
    names = tuple(reversed(steps))
    trained, watched = (examples[split] * share for split in ("train", "validation"))
    once = (trained + watched) * measured["image"]
    seconds = measured["start"] + measured["open"] + measured["test"]
    kept = False  # what frozen layers make of the images
    for first, epochs, solved in _stages(dataclasses.replace(run.config, seed=0), names):
        seconds += measured["compile"] + (0.0 if kept or first == names[0] else once)
        kept = kept or first != names[0]
        if not solved:
            # The rest of the network takes about a third of its training step to validate.
            seconds += epochs * (trained + watched / 3) * steps[first]
    return seconds


@functools.cache
def _stages(config: Config, names: tuple[str, ...]) -> list[tuple[str, int, bool]]:
    """Of each stage: the first group that moves, epochs, and whether the head is solved for."""
    if config.tune == AUTO:  # at the worst every depth is tried
        return [(name, config.epochs, False) for name in reversed(names)]
    new = names if config.tune == SCRATCH or config.weights == "none" else names[-1:]
    return [
        (
            next(name for name in names if stage.multipliers.get(name)),
            stage.epochs,
            stage.head is not None,
        )
        for stage in tuning.stages_for(config.tune, names, config, new)
    ]


def _calibration(study: StudyFolder, run: Planned, fingerprint: str, jobs: int) -> dict | None:
    """Times of one network on this machine, measured once and kept; None if that fails."""
    place = study.path / CALIBRATION
    place.mkdir(parents=True, exist_ok=True)
    path: pathlib.Path = place / f"{run.config.model}.json"
    about = {
        "machine": locks.machine(),
        "batch": run.config.batch_size,
        "input_side": run.config.input_side,
        "precision": run.config.precision,
        "maps": run.config.maps,
        "records": fingerprint,
        "jobs": jobs,
    }
    try:
        kept = json.loads(path.read_text())
        if kept.pop("about") == about and "classic" in kept:
            return kept
    except (OSError, ValueError, LookupError):
        pass
    logging.info("Measuring how fast this machine trains %s.", run.config.model)
    flags = execute.flags_of(dataclasses.replace(run.config, tune=SCRATCH))
    began = time.monotonic()
    held, ours = os.pipe()  # the child ends when this process does
    with tempfile.TemporaryDirectory() as private:  # others may measure at the same time
        written = pathlib.Path(private) / path.name
        try:
            done = subprocess.run(
                [*execute.CHILD, "medxfer.studies.calibrate", f"--run={written}", *flags],
                stdin=held,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **execute.environment(jobs)},
            )
        finally:
            os.close(held)
            os.close(ours)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            logging.warning("The calibration failed: %s", lines[-1] if lines else done.returncode)
            return None
        measured = json.loads(written.read_text())
    # What a process takes before it has anything to do.
    measured["start"] = max(0.0, time.monotonic() - began - measured["busy"])
    RunFolder(place).write_json(path.name, {"about": about, **measured})
    return measured
