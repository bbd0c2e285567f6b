"""What a study costs beside the same runs done one by one, and whether killing it changes anything.

    PYTHONPATH=. python benchmarks/study_cost.py --output=FOLDER [--kills=2] -- FLAGS OF A STUDY

The study is done first, through the ordinary command, and killed (SIGKILL, with all its runs) at
random moments so many times; its time on the clock is the sum over all attempts. Then every run of
its plan is done by itself, one after the other with all processors, in a cache that holds nothing
but the weights, so that nothing is shared. With ``--threads=N`` such a run has as many threads as
one of a study with ``--jobs`` has; only then can predictions be the same to the last bit, which is
compared run by run. Started again, it goes on after the last run that has ended.
"""

import argparse
import dataclasses
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
    command: list[str], log: pathlib.Path, limit: float | None = None
) -> tuple[bool, float]:
    """Run a command, killed with all that it started after ``limit`` seconds.

    Returns
    -------
    ended, seconds
        Whether it came to its end.

    Raises
    ------
    SystemExit
        If it failed by itself.
    """
    begun = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False, time.monotonic() - begun
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}: see {log}.")
    return True, time.monotonic() - begun


def do_study(options: argparse.Namespace, times: dict, save) -> plans.StudyFolder:
    """The study, killed at random moments; its attempts go to ``times``."""
    place = options.output / "study"
    log = options.output / "study.log"
    command = [sys.executable, "-m", "medxfer.study", f"--output={place}", *options.flags]
    if not (place / "plan.json").exists():
        attempt([*command, "--dry_run"], log)
    attempts = times.setdefault("study", [])
    while not times.get("ended"):
        killed = sum(1 for entry in attempts if not entry["ended"])
        limit = random.uniform(*options.moments) if killed < options.kills else None
        ended, seconds = attempt(command, log, limit)
        attempts.append({"seconds": seconds, "ended": ended})
        times["ended"] = ended
        save()
        print(f"study {'ended' if ended else 'killed'} after {seconds:.0f} s", flush=True)
    return plans.StudyFolder(place)


def do_runs(options: argparse.Namespace, study: plans.StudyFolder, times: dict, save) -> list:
    """Every run of the plan by itself; rows of run, seconds and what differs from the study."""
    alone = plans.StudyFolder(options.output / "alone")
    alone.path.mkdir(exist_ok=True)
    seconds = times.setdefault("runs", {})
    weights = runs.cache_folder() / "weights"
    rows = []
    for planned in plans.Plan.load(study.plan_file).runs:
        own = planned
        if not planned.is_counterpart:
            config = dataclasses.replace(planned.config, cache=Config.cache)
            own = dataclasses.replace(planned, config=config)
        if planned.name not in seconds:
            shutil.rmtree(alone.run(planned.name).path, ignore_errors=True)
            words = execute.command(alone, own)[len(execute.CHILD) :]
            with tempfile.TemporaryDirectory() as cache:
                (pathlib.Path(cache) / "weights").symlink_to(weights)
                os.environ["MEDXFER_CACHE"] = cache
                _, seconds[planned.name] = attempt(
                    [sys.executable, "-m", *words], options.output / "alone.log"
                )
            alone.run(planned.name).weights.unlink(missing_ok=True)
            save()
        one, other = (
            (folder.run(planned.name).path / "predictions.csv").read_bytes()
            for folder in (study, alone)
        )
        rows.append((planned.name, f"{seconds[planned.name]:.1f}", "yes" if one == other else "no"))
        print("  ".join(rows[-1]), flush=True)
    return rows


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--moments", type=float, nargs=2, default=(60.0, 600.0), help="seconds")
    parser.add_argument("--threads", type=int, default=0, help="of a single run; 0: as it likes")
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
    alone = sum(times["runs"].values())
    equal = sum(row[-1] == "yes" for row in rows)
    kills = sum(1 for entry in times["study"] if not entry["ended"])
    print(f"\nstudy {together:.0f} s in {kills + 1} attempts, {len(rows)} runs one by one "
          f"{alone:.0f} s: {together / alone:.2f}")  # fmt: skip
    print(f"{equal} of {len(rows)} runs with the same predictions to the last bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
