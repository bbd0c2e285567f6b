"""``python -m medxfer.studies.counterpart --run=FOLDER --app=APP ...``: the classic methods alone.

They learn from the same subjects as a network with the same flags, and leave a run folder with
``run_card.json``, ``metrics.json`` and ``predictions.csv``.
"""

import dataclasses
import pathlib
import time

from data_prep import command, quiet
from medxfer import main, provenance, runs
from medxfer.config import Config


def evaluate(config: Config, run: runs.RunFolder) -> dict:
    """Fit and score every classic method of an app; returns the run card.

    Raises
    ------
    UserError
        If the records or the folder cannot be used.
    """
    from medxfer import data, experiment

    started = time.monotonic()
    app = experiment.app_of(config)
    run.check(config)
    folder = experiment.open_data(config)
    run.begin(config)
    used = {
        split: data.kept(folder, split, *data.labelled(folder, split), config.fraction, config.seed)
        for split in ("train", "validation")
    }
    seen = sorted(set().union(*used.values()))
    methods = {
        name: app.score(folder, "test", scorer)
        for name, scorer in app.counterparts(folder, seen).items()
    }
    found = {
        name: {key: dataclasses.asdict(value) for key, value in app.metrics(results).items()}
        for name, results in methods.items()
    }
    rows = [
        {"method": name, **row} for name, results in methods.items() for row in app.rows(results)
    ]
    run.write_table("predictions.csv", rows)
    run.write_json("metrics.json", {"metrics": found})
    card = {
        "app": config.app,
        "data": {
            "fingerprint": folder.fingerprint,
            **{
                f"{name}_subjects_used": len(used[split])
                for split, name in (("train", "training"), ("validation", "validation"))
            },
            "seen_subjects": seen,
        },
        "metrics": found,
        "history": [],
        **provenance.provenance(),
        "seconds": {"evaluation": time.monotonic() - started},
    }
    run.write_json("run_card.json", card)
    return card


def _main() -> None:
    run = runs.RunFolder(pathlib.Path(main.FLAGS.run))
    config = main.config_from_flags()
    if not run.finished:
        quiet.import_tensorflow()
        evaluate(config, run)


if __name__ == "__main__":
    command.run(_main)
