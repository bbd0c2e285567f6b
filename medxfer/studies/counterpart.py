"""``python -m medxfer.studies.counterpart --run=FOLDER --app=APP ...``: the classic methods alone.

They learn from the same share of the training subjects as a network with the same flags, and leave
a run folder with ``run_card.json``, ``metrics.json`` and ``predictions.csv``.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile
import time

from data_prep import command, quiet, splits
from medxfer import main, runs
from medxfer.config import Config

LEARNT_FROM = ("train", "train_unit")


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
    subjects = splits.fraction(folder.subjects("train"), config.fraction, f"fraction {config.seed}")
    with tempfile.TemporaryDirectory() as place:
        learnt = folder
        if config.fraction < 1:
            part(folder, subjects, pathlib.Path(place))
            learnt = data.DatasetFolder.open(place, app=config.app)
        scorers = app.counterparts(learnt)
        methods = {name: app.score(folder, "test", scorer) for name, scorer in scorers.items()}
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
        "config": dataclasses.asdict(config),
        "data": {
            "fingerprint": folder.fingerprint,
            "training_subjects_used": len(subjects),
        },
        "metrics": found,
        "history": [],
        "versions": runs.versions(),
        "seconds": {"evaluation": time.monotonic() - started},
    }
    run.write_json("run_card.json", card)
    return card


def part(folder, subjects: frozenset[str], place: pathlib.Path) -> None:
    """Write a dataset folder with a part of the training subjects; the rest is linked to.

    Parameters
    ----------
    folder : medxfer.data.DatasetFolder
    subjects : frozenset of str
        Training subjects that stay.
    place : path
        Empty folder.
    """
    import tensorflow as tf

    prep = json.loads((folder.path / "prep.json").read_text())
    spec = {"subject": tf.io.FixedLenFeature([], tf.string)}
    for split in folder.splits:
        kept = 0
        for path in folder.files(split):
            if split not in LEARNT_FROM:
                (place / path.name).symlink_to(path.resolve())
                continue
            with tf.io.TFRecordWriter(str(place / path.name)) as writer:
                for record in tf.data.TFRecordDataset(str(path)):
                    subject = tf.io.parse_single_example(record, spec)["subject"].numpy().decode()
                    if subject in subjects:
                        writer.write(record.numpy())
                        kept += 1
        if split in LEARNT_FROM:
            about = prep["splits"][split]
            about["examples"] = kept
            about["subjects"] = sorted(subjects.intersection(about["subjects"]))
    (place / "prep.json").write_text(json.dumps(prep))
    shutil.copyfile(folder.path / "truth.json", place / "truth.json")


def _main() -> None:
    run = runs.RunFolder(pathlib.Path(main.FLAGS.run))
    config = main.config_from_flags()
    if not run.finished:
        quiet.import_tensorflow()
        evaluate(config, run)


if __name__ == "__main__":
    command.run(_main)
