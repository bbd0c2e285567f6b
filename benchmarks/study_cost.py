"""What a study costs beside the same runs done one by one, and whether killing it changes anything.

    PYTHONPATH=. python benchmarks/study_cost.py --output=FOLDER [--kills=2] -- FLAGS OF A STUDY

The study is done first, through the ordinary command, and killed (SIGKILL, with all its runs) at
random moments so many times; its time on the clock is the sum over all attempts. Then every run of
its plan is done by itself, one after the other with all processors. The study begins with a cache
that holds nothing but the weights, and keeps it over its attempts; so does every single run with
one of its own, so that nothing is shared. Attempts and runs that fail count with their time. With
``--threads=N`` such a run has as many threads as one of a study with ``--jobs`` has; only then can
predictions be the same to the last bit, which is compared run by run. ``--only`` takes those of the
runs that a pattern of names fits. Started again, it goes on after the last run that has ended.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import _shared

from medxfer import runs
from medxfer.config import Config
from medxfer.studies import execute
from medxfer.studies import plan as plans


def attempt(
    command: list[str], log: pathlib.Path, cache: pathlib.Path, limit: float | None = None
) -> int | None:
    """Run a command, killed with all that it started after ``limit`` seconds.

    Returns
    -------
    Exit status; None if it was killed.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "MEDXFER_CACHE": str(cache)},
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def fresh_cache(place: pathlib.Path) -> pathlib.Path:
    """A folder for ``MEDXFER_CACHE`` with the user's weights and, at first, nothing else."""
    place.mkdir(exist_ok=True)
    link = place / "weights"
    if not link.is_symlink():
        weights = (runs.cache_folder() / "weights").absolute()
        weights.mkdir(parents=True, exist_ok=True)  # what is fetched is fetched once
        link.symlink_to(weights)
    return place


def do_study(options: argparse.Namespace, times: dict, save) -> plans.StudyFolder:
    """The study, killed at random moments; its attempts go to ``times``.

    Raises
    ------
    SystemExit
        If it fails by itself.
    """
    place = options.output / "study"
    log = options.output / "study.log"
    cache = fresh_cache(options.output / "cache")
    command = [sys.executable, "-m", "medxfer.study", f"--output={place}", *options.flags]
    if not (place / "plan.json").exists() and attempt([*command, "--dry_run"], log, cache):
        raise SystemExit(f"The study cannot be planned: see {log}.")
    attempts = times.setdefault("study", [])
    while not times.get("ended"):
        limit = random.uniform(*options.moments) if kills(attempts) < options.kills else None
        begun, status = time.monotonic(), None
        try:
            status = attempt(command, log, cache, limit)
        finally:
            times["ended"] = status == 0
            seconds = time.monotonic() - begun
            attempts.append({"seconds": seconds, "ended": status == 0, "status": status})
            save()
        words = {0: "ended", None: "killed"}.get(status, f"failed with status {status}")
        print(f"study {words} after {seconds:.0f} s", flush=True)
        if status:
            raise SystemExit(f"See {log}; started again, this goes on.")
    return plans.StudyFolder(place)


def kills(attempts: list[dict]) -> int:
    """Number of the attempts that were killed."""
    return sum(1 for entry in attempts if not entry["ended"] and entry.get("status") is None)


def do_runs(options: argparse.Namespace, study: plans.StudyFolder, times: dict, save) -> list:
    """Every run of the plan by itself; rows of run, seconds and what differs from the study."""
    alone = plans.StudyFolder(options.output / f"alone-{options.threads or 'all'}-threads")
    alone.path.mkdir(exist_ok=True)
    times = times.setdefault(alone.path.name, {})
    seconds, failed = times.setdefault("runs", {}), times.setdefault("failed", {})
    rows = []
    for planned in plans.Plan.load(study.plan_file).runs:
        if not fnmatch.fnmatch(planned.name, options.only):
            continue
        own = planned
        if not planned.is_counterpart:
            config = dataclasses.replace(planned.config, cache=Config.cache)
            own = dataclasses.replace(planned, config=config)
        if planned.name not in seconds:
            shutil.rmtree(alone.run(planned.name).path, ignore_errors=True)
            words = execute.command(alone, own)[len(execute.CHILD) :]
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as cache:
                status = attempt(
                    [sys.executable, "-m", *words],
                    options.output / "alone.log",
                    fresh_cache(pathlib.Path(cache)),
                )
            seconds[planned.name] = time.monotonic() - begun
            if status:
                failed[planned.name] = status
            alone.run(planned.name).weights.unlink(missing_ok=True)
            save()
        found = [
            folder.run(planned.name).path / "predictions.csv"
            for folder in (study, alone)
            if folder.run(planned.name).finished
        ]
        if planned.name in failed or len(found) < 2:
            same = "failed"
        else:
            one, other = (path.read_bytes() for path in found)
            same = "yes" if one == other else "no"
        rows.append((planned.name, f"{seconds[planned.name]:.1f}", same))
        print("  ".join(rows[-1]), flush=True)
    return rows


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--moments", type=float, nargs=2, default=(60.0, 600.0), help="seconds")
    parser.add_argument("--threads", type=int, default=0, help="of a single run; 0: as it likes")
    parser.add_argument("--only", default="*", help="pattern of the names of single runs to do")
    parser.add_argument("flags", nargs="+", help="of medxfer.study, after --")
    options = parser.parse_args()
    options.output = options.output.absolute()
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "times.json"
    times = json.loads(kept.read_text()) if kept.exists() else {}

    def save() -> None:
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(times, indent=1))
        partial.replace(kept)

    print(_shared.machine(), flush=True)
    study = do_study(options, times, save)
    if options.threads:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            os.environ[name] = str(options.threads)
    rows = do_runs(options, study, times, save)
    together = sum(entry["seconds"] for entry in times["study"])
    alone = sum(float(row[1]) for row in rows)
    equal = sum(row[-1] == "yes" for row in rows)
    failed = sum(row[-1] == "failed" for row in rows)
    print(f"\nstudy {together:.0f} s in {len(times['study'])} attempts, {kills(times['study'])} of "
          f"them killed; {len(rows)} runs one by one {alone:.0f} s")  # fmt: skip
    if options.only == "*":
        print(f"ratio {together / alone:.2f}")
    print(f"{equal} of {len(rows)} runs with the same predictions to the last bit, {failed} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
