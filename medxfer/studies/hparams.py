"""What every run of a study was set to and reached, for TensorBoard's HParams page."""

from collections.abc import Mapping

import numpy as np

from medxfer.studies.gather import Finished, Gathered
from medxfer.studies.plan import StudyFolder


def write(study: StudyFolder, gathered: Gathered) -> None:
    """One small event file a run, in ``logs/hparams`` of the study; earlier ones are replaced.

    Settings: method, network, amount of training data, seed, rate. Measures: the best validation
    score and the primary figure of merit on the test part. Test results stand there to be looked
    at; nothing is chosen by them.
    """
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    primary = gathered.full.measures.primary
    for run in gathered.runs:
        if run.planned.is_counterpart:
            continue
        folder = study.path / "logs" / "hparams" / run.planned.name
        for old in folder.glob("events.*"):
            old.unlink()
        settings, measures = _settings(run), _measures(run, gathered, primary)
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            api.hparams(settings, trial_id=run.planned.name)
            for name, value in measures.items():
                tf.summary.scalar(name, value)
        writer.close()


def _settings(run: Finished) -> dict[str, str | int | float]:
    config = run.planned.config
    return {
        "method": run.planned.method,
        "network": config.model,
        "training data": run.planned.share,
        "training subjects": run.planned.subjects,
        "seed": config.seed,
        "base rate": config.base_rate,
    }


def _measures(run: Finished, gathered: Gathered, primary: str) -> Mapping[str, float]:
    found = {}
    if "best_validation_auc" in run.card:
        found["validation score"] = run.card["best_validation_auc"]
    share = next(share for share in gathered.shares if share.text == run.planned.share)
    same = [
        other
        for other in gathered.runs
        if (other.planned.method, other.planned.share) == (run.planned.method, share.text)
    ]
    values = share.family.by_seed[run.planned.method][:, share.family.merits.index(primary)]
    found[f"test {primary}"] = float(values[same.index(run)])
    return {name: value for name, value in found.items() if np.isfinite(value)}
