"""What a run will need of this machine: memory, room on the disk, time.

The network is built with random weights and applied to a few batches. How long the rest takes
follows from the multiply-accumulates of each layer group: a training step counts three times its
forward pass (Goodfellow et al. 2016, Deep Learning, section 6.5: two products backwards for one
forwards), layers that rest are computed once if what they make is kept.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf

from data_prep.errors import UserError
from medxfer import data, distribution, groups_table, models, plugins, tuning
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
from medxfer.models import _groups
from medxfer.network import TrainedNetwork
from medxfer.tuning import frozen
from medxfer.tuning.stages import Stage

#: Bytes of a process with TensorFlow, Keras and what else a run imports, before it has any data.
RUNTIME = 900 * 2**20

_GIB = 2**30
_FLOAT = 4  # bytes
_BACKWARDS = 3  # passes forwards that one training step costs
_IMAGES = 8  # at once in the measurement
_UNITS = 3  # of the test part that are scored to measure, after one that compiles
_SUBJECTS = 4  # from which the classic methods learn to measure


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a run needs.

    Attributes
    ----------
    memory, disk : int
        Bytes; on the disk decoded images and features, while it runs.
    seconds : float
        Of training, if no stage ends early.
    """

    memory: int
    disk: int
    seconds: float


def text(folder: DatasetFolder, shapes: Mapping[str, Sequence[int]], config: Config) -> str:
    """One line about a run on a dataset.

    Parameters
    ----------
    folder : DatasetFolder
    shapes : mapping
        Split -> shape of its images.
    config : Config

    Raises
    ------
    UserError
        If there is no such network or ``--tune`` is none of its names.
    """
    if not {"train", "validation"} <= set(shapes):
        return "  a run: needs examples for training and validation"
    network = models.load(config.model, config.input_side)
    names = list(network.LAYER_GROUPS)
    if config.tune == Config(app="").tune and config.tune not in names:
        config = dataclasses.replace(config, tune=names[0])  # the default is another network's
    deepest = config.tune == "auto"  # which tries depths, as deep as all layers
    tune = names[0] if deepest else config.tune
    stages = tuning.stages_for(tune, names, config, names[-1:])
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(distribution.resolve_precision(config.precision))
    try:
        model = network.build(len(folder.classes), init=config.init, seed=0, dropout=0)
        speed = _speed(model)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    counts = {split: folder.count(split) for split in ("train", "validation")}
    counts = {split: math.ceil(count * config.fraction) for split, count in counts.items()}
    images = [counts[split] * math.prod(shapes[split]) for split in counts]
    found = needs(
        groups_table.groups_of(model, network.LAYER_GROUPS),
        _entering(model, network.LAYER_GROUPS),
        stages, counts, images, config, speed,
    )  # fmt: skip
    evaluation = ""
    if folder.has("test"):
        app = plugins.load("medxfer.apps", folder.app)
        settings = {**folder.settings, "classes": list(folder.classes)}
        scorer = app.cnn(TrainedNetwork(model, network, settings, config.maps))
        evaluation = f", evaluation {duration(scoring(app, folder, scorer))}"
        learning, classic = baselines(app, folder)
        evaluation += f" and the classic methods {duration(learning + classic)}"
    disk = f" and {found.disk / _GIB:.1f} GiB of disk" if found.disk else ""
    each = "each depth that --tune=auto tries" if deepest else f"--tune={tune}"
    return (
        f"  a run of --model={config.model}, {each}, on this machine: about "
        f"{found.memory / _GIB:.1f} GiB of memory{disk}, training at most "
        f"{duration(found.seconds)} ({sum(stage.epochs for stage in stages)} epochs; most runs "
        f"end earlier){evaluation}"
    )


class _Enough(Exception):
    """Ends the scoring of a split."""


def scoring(app: ModuleType, folder: DatasetFolder, scorer: Callable) -> float:
    """Seconds that the test part will take, by its first units; nothing of a warm-up counts."""
    seconds: list[float] = []

    def clocked(*arguments):
        if len(seconds) > _UNITS:
            raise _Enough
        began = time.perf_counter()
        result = scorer(*arguments)
        seconds.append(time.perf_counter() - began)
        return result

    try:
        app.score(folder, "test", clocked)
    except _Enough:
        pass
    calls = math.ceil(folder.count("test") / getattr(app, "BATCH", 1))
    return calls * sum(seconds[1:] or seconds) / max(1, len(seconds[1:] or seconds))


def baselines(app: ModuleType, folder: DatasetFolder) -> tuple[float, float]:
    """Seconds that the classic methods will take to learn, by a few subjects, and to score."""
    subjects = sorted(folder.subjects("train"))
    some = subjects[:_SUBJECTS]
    began = time.perf_counter()
    try:
        methods = app.counterparts(folder, some)
    except UserError:  # too few for what they learn
        methods = app.counterparts(folder, subjects)
        some = subjects
    learning = (time.perf_counter() - began) * len(subjects) / max(1, len(some))
    return learning, sum(scoring(app, folder, scorer) for scorer in methods.values())


def needs(
    groups: Sequence[groups_table.Group],
    entering: Mapping[str, int],
    stages: Sequence[Stage],
    counts: Mapping[str, int],
    images: Sequence[int],
    config: Config,
    speed: float,
) -> Needs:
    """Count what a run needs.

    Parameters
    ----------
    groups : sequence of Group
        Of the network, input to head.
    entering : mapping
        Group -> numbers that enter it, for one image.
    stages : sequence of Stage
    counts : mapping
        ``train`` and ``validation`` -> images.
    images : sequence of int
        Bytes of decoded images of each.
    config : Config
        ``batch_size``, ``cache``, ``cache_dtype``, ``cache_gib`` and ``optimizer`` are used.
    speed : float
        Seconds of one multiply-accumulate.
    """
    total = sum(counts.values())
    kept = disk = 0
    seconds, moving = 0.0, 0
    for stage in stages:
        first = next(i for i, group in enumerate(groups) if not stage.frozen(group.name))
        before, after = (sum(g.macs for g in part) for part in (groups[:first], groups[first:]))
        need = total * entering[groups[first].name] * np.dtype(config.cache_dtype).itemsize
        where = "none"
        if first:
            where = frozen.place(config.cache, need, int(config.cache_gib * _GIB))
        passes = 1 if where != "none" else stage.epochs
        seconds += passes * total * before * speed
        seconds += (
            stage.epochs * speed * after * (counts["train"] * _BACKWARDS + counts["validation"])
        )
        kept, disk = max(kept, need * (where == "memory")), max(disk, need * (where == "disk"))
        moving = max(moving, sum(g.parameters for g in groups if not stage.frozen(g.name)))
    held = [size if size <= data.MEMORY_LIMIT else 0 for size in images]
    mapped = sum(images) - sum(held)
    # Weights; of what moves also gradients, the best ones so far, and the optimizer's one or two.
    parameters = sum(group.parameters for group in groups)
    copies = 3 + (any(stage.optimizer == "adam" for stage in stages))
    batch = min(config.batch_size, counts["train"])
    activations = batch * sum(group.activations for group in groups)
    memory = RUNTIME + sum(held) + kept
    memory += _FLOAT * (parameters + copies * moving + 2 * activations)
    return Needs(memory, disk + mapped, seconds)


def duration(seconds: float) -> str:
    """In words, to two digits."""
    if seconds < 90:
        return f"{max(seconds, 1):.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


def _entering(model: keras.Model, table: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Group -> numbers that enter it, for one image."""
    groups = _groups.layer_groups(model, table)
    return {
        name: math.prod(_groups.split_at(model, groups, name)[1].inputs[0].shape[1:])
        for name in groups
    }


def _speed(model: keras.Model) -> float:
    """Seconds that a multiply-accumulate takes, measured in the forward pass of a few images."""
    images = tf.zeros((_IMAGES, *model.input_shape[1:]))
    forward = tf.function(lambda x: model(x, training=False))
    forward(images)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        np.asarray(forward(images))
        taken.append(time.perf_counter() - began)
    return min(taken) / _IMAGES / max(1, sum(map(groups_table.macs, model.layers)))
