"""A run that takes no time, for medxfer.main; imports nothing that takes long, unlike that one."""

import json
import os
import pathlib
import sys
import time

from data_prep import signals

PRINT = "f" * 64


def main():
    run, config, behaviour = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    run.mkdir(parents=True, exist_ok=True)
    with (run / "visits").open("a") as file:
        file.write(f"{os.getpid()}\n")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "best.weights.h5").touch()
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
