"""``python -m medxfer.studies.calibrate --app=APP ... --run=FILE``: how long this machine takes.

Times a few training steps of every depth, inference, and the scoring of a few test units. Runs in
a process of its own, so that nothing of it stays in the one that asks.
"""

import json
import pathlib
import time

from data_prep import command, quiet
from medxfer import main
from medxfer.config import Config

_STEPS = 2  # timed, after one that compiles


def measure(config: Config) -> dict:
    """Seconds: ``image`` (forward), ``steps`` (training, per image and layer group), ``test``.

    Beside them ``compile`` and ``open``, once a run, what the classic methods take for ``learning``
    from all subjects and for the test part (``classic``), ``busy``, which all of this took, and the
    ``bytes`` of the weights.
    """
    import numpy as np
    import tensorflow as tf

    from medxfer import check_estimate, distribution, experiment
    from medxfer.models import _groups
    from medxfer.steps import Inference, TrainStep
    from medxfer.tuning import depth, for_stage, freeze

    app, began = experiment.app_of(config), time.perf_counter()
    folder = experiment.open_data(config)
    experiment.start(config)
    built = experiment.build(config, len(folder.classes))
    opened = time.perf_counter() - began
    strategy, batch = distribution.strategy("one"), min(config.batch_size, folder.count("train"))
    labels = np.zeros(batch, np.int64)

    def timed(work) -> float:
        work()
        began = time.perf_counter()
        for _ in range(_STEPS):
            work()
        return (time.perf_counter() - began) / _STEPS / batch

    image = np.zeros((batch, *built.model.input_shape[1:]), np.float32)
    forward = Inference(strategy, lambda x: built.model(x, training=False), batch)
    found = {"image": timed(lambda: forward(image)), "steps": {}, "open": opened}
    names, compiling = list(built.groups), time.perf_counter()
    for group in reversed(names):
        (stage,) = depth.stages(names, config, (), group)
        freeze(built.groups, stage)
        _, suffix = _groups.split_at(built.model, built.groups, group)
        optimizer = for_stage(built.groups, stage)
        features = np.zeros((batch, *suffix.inputs[0].shape[1:]), np.float32)
        kind = suffix.inputs[0].dtype
        step = TrainStep(strategy, suffix, lambda x, kind=kind: tf.cast(x, kind), optimizer, batch)
        found["steps"][group] = timed(lambda step=step, x=features: float(step(x, labels)))
    found["compile"] = (time.perf_counter() - compiling) / len(names)
    scorer = app.cnn(experiment.network(built, folder.settings, config))
    found["test"] = check_estimate.scoring(app, folder, scorer)
    found["learning"], found["classic"] = check_estimate.baselines(app, folder)
    found["bytes"] = 4 * built.model.count_params()
    found["busy"] = time.perf_counter() - began
    return found


def _main() -> None:
    quiet.import_tensorflow()
    path = pathlib.Path(main.FLAGS.run)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(measure(main.config_from_flags()), indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    command.run(_main)
