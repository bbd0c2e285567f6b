"""A study whose runs take no time, and the stand-in for medxfer.main that does them."""

import dataclasses
import json
import os
import pathlib
import sys
import time

from data_prep import signals
from medxfer.config import Config
from medxfer.studies import plan as plans

GROUPS = {"net": ("conv1", "fc2")}
PRINT = "f" * 64


def plan(seeds=1, **changes):
    base = Config(app="cimt", model="net")
    arguments = {"groups": GROUPS, "inits": ["msra"], "seeds": seeds, "counterpart_learns": False}
    return plans.make(base, PRINT, 4, **(arguments | changes))


def command(behaviour=""):
    """Command lines of runs that behave so: ``METHOD=how`` words, see :func:`main`."""

    def make(study, planned):
        return [
            sys.executable, "-m", "medxfer.studies.child", "tests.medxfer.studies.fake",
            str(study.run(planned.name).path), json.dumps(dataclasses.asdict(planned.config)),
            behaviour,
        ]  # fmt: skip

    return make


def main():
    run, config, behaviour = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    run.mkdir(parents=True, exist_ok=True)
    with (run / "visits").open("a") as file:
        file.write(f"{os.getpid()}\n")
    how = dict(word.split("=") for word in behaviour.split()).get(config["tune"])
    if how == "error":
        print("Error: the records are damaged.", file=sys.stderr)
        sys.exit(2)
    if how == "killed":
        os.kill(os.getpid(), 9)
    if how and how.startswith("slow") and not (run / "once").exists():
        (run / "once").touch()
        time.sleep(float(how.removeprefix("slow")))
    if how == "saving" and not (run / "once").exists():
        with signals.terminable():
            (run / "once").touch()
            try:
                time.sleep(60)
            except signals.Terminated:
                time.sleep(0.3)
                (run / "saved").touch()
                sys.exit(signals.RESUME)
    (run / "config.json").write_text(json.dumps(config))
    card = {"data": {"fingerprint": PRINT}}
    (run / "run_card.partial").write_text(json.dumps(card))
    (run / "run_card.partial").replace(run / "run_card.json")


if __name__ == "__main__":
    main()
