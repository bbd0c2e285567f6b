"""One run from records to its closing summary: train, evaluate, draw, report, export."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from data_prep import locks, progress
from data_prep.errors import UserError
from medxfer import (
    checkpoints,
    data,
    distribution,
    exports,
    models,
    pixels,
    plugins,
    provenance,
    report,
    runs,
    training,
    tuning,
    weights,
)
from medxfer.config import NAMED_WEIGHTS, Config
from medxfer.dataset_folder import DatasetFolder
from medxfer.models import _groups
from medxfer.network import TrainedNetwork
from medxfer.runs import RunFolder
from medxfer.studies import auto

_LOOKED_AT = 8  # images by which a start is judged
#: Of their size: by so much the outputs differ between images where a start has a signal.
_SIGNAL = 0.005


@dataclasses.dataclass(frozen=True)
class Built:
    """A network ready to be trained or used."""

    model: keras.Model
    network: ModuleType
    groups: Mapping[str, list[keras.Layer]]
    weights: weights.WeightReport | None


def app_of(config: Config) -> ModuleType:
    """The application's module."""
    return plugins.load("medxfer.apps", config.app)


def start(config: Config) -> None:
    """Set what holds for the whole process: seeds, determinism, precision."""
    distribution.make_deterministic(config.seed)
    keras.mixed_precision.set_dtype_policy(distribution.resolve_precision(config.precision))


def open_data(config: Config) -> DatasetFolder:
    """Records named by ``config.data``; without a name the app's phantom, made and kept.

    Raises
    ------
    UserError
        If the folder cannot be used for this app.
    """
    if config.data:
        return DatasetFolder.open(config.data, app=config.app)
    logging.info("No --data: synthetic %s studies are used (made once, then kept).", config.app)
    with progress.doing("Preparing synthetic studies"):
        records = app_of(config).prepared_phantom(runs.cache_folder() / "phantoms")
    return DatasetFolder.open(records, app=config.app)


def build(config: Config, classes: int, source: str | None = None) -> Built:
    """Build a network and fill it: with ``config.weights``, or with a run's own file ``source``."""
    network = models.load(config.model, config.input_side)
    model = network.build(classes, init=config.init, seed=config.seed, dropout=config.dropout)
    filled = None
    if source is None:
        wanted = "none" if config.tune == "scratch" else config.weights
        filled = weights.load(model, config.model, wanted, inputs=config.weights_input)
    else:
        try:
            model.load_weights(source)
        except (OSError, ValueError, KeyError) as error:  # what h5py and Keras raise
            raise UserError(
                f"{source} does not hold the weights of --model={config.model} with {classes} "
                "classes: it is damaged or of another run."
            ) from error
    return Built(model, network, _groups.layer_groups(model, network.LAYER_GROUPS), filled)


def train(
    config: Config,
    run: RunFolder,
    export_model: bool = True,
    counterparts: bool = True,
    share: Collection[str] = (),
) -> dict:
    """Train, then do all that follows; returns the run card.

    ``counterparts``: score the classic methods too; a study does that once for all its runs.
    ``share``: see :func:`medxfer.training.fit`.
    """
    started = time.monotonic()
    run.check(config)
    network = models.load(config.model, config.input_side)
    if config.tune != auto.AUTO:  # before the download of weights, which a wrong name would waste
        tuning.stages_for(config.tune, list(network.LAYER_GROUPS), config)
    folder = open_data(config)
    folder.require("train", "validation")
    if not folder.has("test"):
        logging.warning(
            "There is no test part: the network will be trained, but not evaluated. Evaluate it "
            "later on other data with --mode=evaluate --run=%s --data=OTHER.",
            run.path,
        )
    start(config)
    strategy = distribution.strategy(config.distribute)
    with strategy.scope():
        built = build(config, len(folder.classes))
    train_part = part(config, folder, built, strategy, "train")
    given, config = config, clamped(config, train_part.num_examples)
    validation_part = part(config, folder, built, strategy, "validation")
    logging.info(
        "%d training images of %d subjects, %d validation images of %d subjects.",
        train_part.num_examples,
        len(set(train_part.subjects)),
        validation_part.num_examples,
        len(set(validation_part.subjects)),
    )
    chief = distribution.is_chief(strategy)
    inputs = folder.fingerprint, built.weights.sha256 or ""
    with distribution.together(strategy), contextlib.ExitStack() as held:
        with distribution.agreed(strategy):
            if chief:
                held.enter_context(run.hold())
                run.begin(given)  # not before data and weights are known to be good
                run.require_inputs(*inputs)
        with distribution.agreed(strategy):
            if not chief:  # it finds what the chief has written
                run.check(given)
                run.require_inputs(*inputs, write=False)
        if chief and not (run.path / "checkpoints").exists():
            _say_start(config, built, train_part)
        built, card = _fit(config, run, built, folder, train_part, validation_part, strategy, share)
        if not chief:
            return {}
        known = run.card if run.trained else {}
        if known.get("trained_weights_sha256") == card["trained_weights_sha256"]:
            card = known
        else:
            card["seconds"] = {"training": time.monotonic() - started}
            run.keep(folder.assets)
            run.write_json(runs.TRAINED, card)
        try:
            return finish(run, card, built, folder, export_model, counterparts)
        except Exception as error:
            error.add_note(checkpoints.standing(run.path))
            raise


def _say_start(config: Config, built: Built, part: data.Pipeline) -> None:
    """Say how training begins, and warn where the network's outputs hardly depend on the image."""
    _, images, _ = next(iter(part.ordered()))
    logits = np.asarray(built.model(images[:_LOOKED_AT], training=False), np.float64)
    spread = logits.std(axis=0).mean() / max(np.abs(logits).mean(), np.finfo(float).tiny)
    logging.info("Base rate %g, start of new layers: %s.", config.base_rate, config.init)
    if len(logits) > 1 and spread < _SIGNAL:
        logging.warning(
            "The outputs of the untrained network differ by only %.2g of their size between "
            "images: training may not begin to learn. Try another --init (msra), and look at the "
            "images with --mode=check.",
            spread,
        )


def _fit(
    config: Config,
    run: RunFolder,
    built: Built,
    folder: DatasetFolder,
    train_part: data.Pipeline,
    validation_part: data.Pipeline,
    strategy: tf.distribute.Strategy,
    share: Collection[str],
) -> tuple[Built, dict]:
    """Train; the network with its best weights, and what the run card says of it."""
    app = app_of(config)
    how = {
        "monitor": app.monitor,
        "config": config,
        "run_dir": run.path,
        "strategy": strategy,
        "share": share,
    }
    choice = None
    if config.tune == auto.AUTO:

        def again() -> Built:
            with strategy.scope():
                return build(config, len(folder.classes))

        built, history, stages, choice = auto.fit(again, train_part, validation_part, **how)
    else:
        stages = tuning.stages_for(config.tune, list(built.groups), config, built.weights.new)
        history = training.fit(
            built.model, built.groups, stages, train_part, validation_part, **how
        )
    if not distribution.is_chief(strategy):
        return built, {}
    card = {
        "app": config.app,
        "config": without_paths(config),
        "data": {
            **described(folder),
            "synthetic": not config.data,
            "training_subjects_used": len(set(train_part.subjects)),
            "validation_subjects_used": len(set(validation_part.subjects)),
            "pixels": pixels.ranges(*train_part.stored(pixels.MOST), len(set(train_part.subjects))),
            "seen_subjects": sorted({*train_part.subjects, *validation_part.subjects}),
        },
        "weights": {
            "source": built.weights.source,
            "sha256": built.weights.sha256,
            "loaded": list(built.weights.loaded),
            "new": list(built.weights.new),
        },
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "precision": keras.config.dtype_policy().name,
        "history": [dataclasses.asdict(epoch) for epoch in history.epochs],
        "best_epoch": history.best.number,
        "best_stage": history.best.stage,
        "best_validation_auc": history.best.score,
        "trained_weights_sha256": runs.sha256(run.weights),
        **provenance.provenance(),
    }
    classes = len(folder.classes)
    labels = train_part.labels, validation_part.labels
    card["cautions"] = training.doubts(history, stages, *labels, config, classes)
    for caution in card["cautions"]:
        logging.warning("%s%s.", caution[0].upper(), caution[1:])
    if choice is not None:
        card["search"] = choice.to_json()
    return built, card


def part(
    config: Config,
    folder: DatasetFolder,
    built: Built,
    strategy: tf.distribute.Strategy,
    split: str,
) -> data.Pipeline:
    """The split ``train`` or ``validation``, or the share of its subjects that is asked for.

    Raises
    ------
    UserError
        If it cannot be read or balanced, see :class:`medxfer.data.Pipeline`.
    """
    return data.Pipeline(
        folder,
        split,
        batch_size=config.batch_size,
        transform=data.patch_transform(built.network),
        seed=config.seed,
        fraction=config.fraction,
        least=2 if config.tune == auto.AUTO and split == "validation" else 1,
        process=distribution.process(strategy),
        balanced=config.balance == "sampling" and split == "train",
    )


def clamped(config: Config, examples: int) -> Config:
    """The settings with a batch of at most so many training examples."""
    if config.batch_size <= examples:
        return config
    logging.warning(
        "--batch_size=%d is more than the %d training examples: a batch is all of them.",
        config.batch_size,
        examples,
    )
    return dataclasses.replace(config, batch_size=examples)


def without_paths(config: Config) -> dict:
    """Settings for the run card and the report: files and folders are often called after patients.

    What the data were says their fingerprint, which file of weights its hash.
    """
    shown = dataclasses.asdict(config)
    del shown["data"]
    if config.weights not in NAMED_WEIGHTS:
        shown["weights"] = "a file"
    return shown


def described(folder: DatasetFolder) -> dict:
    """A dataset folder as the run card has it."""
    return {
        "fingerprint": folder.fingerprint,
        "key_id": folder.key_id,
        "classes": list(folder.classes),
        "app_settings": folder.settings,
        "examples": {split: folder.count(split) for split in folder.splits},
        "subjects": {split: len(folder.subjects(split)) for split in folder.splits},
    }


def side_of(settings: Mapping) -> tuple[str, int]:
    """Name and value of the setting that says how large the images of the records are."""
    name = "patch" if "patch" in settings else "side"
    return name, settings[name]


def network(
    built: Built, settings: Mapping, config: Config, watch: pixels.Watch | None = None
) -> TrainedNetwork:
    """What an app's scorer sees of the network; ``settings`` are those of its records."""
    return TrainedNetwork(built.model, built.network, settings, config.maps, watch)


def finish(
    run: RunFolder,
    card: dict,
    built: Built,
    folder: DatasetFolder,
    export_model: bool = True,
    counterparts: bool = True,
) -> dict:
    """Evaluate the trained network on the test part, draw, export, write report and run card.

    Where there is no test part nothing is evaluated, and all else is done.
    """
    config = Config.load(run.path / "config.json")
    app = app_of(config)
    started = time.monotonic()
    methods = {}
    if folder.has("test"):
        scorer = app.cnn(network(built, folder.settings, config))
        methods[config.tune] = _score(app, folder, config.tune, scorer)
    if counterparts and methods:
        with progress.doing("Preparing the classic methods"):
            classic = app.counterparts(folder, card["data"]["seen_subjects"])
        for name, scorer in classic.items():
            methods[name] = _score(app, folder, name, scorer)
    with progress.doing("Computing intervals"):
        card["metrics"] = {
            name: {key: dataclasses.asdict(value) for key, value in app.metrics(results).items()}
            for name, results in methods.items()
        }
        card["comparison"] = {
            measure: [dataclasses.asdict(pair) for pair in pairs]
            for measure, pairs in (app.compare(methods) if methods else {}).items()
        }
    card["seconds"]["evaluation"] = time.monotonic() - started
    run.write_json("metrics.json", {"metrics": card["metrics"], "comparison": card["comparison"]})
    rows = [
        {"method": name, **row} for name, results in methods.items() for row in app.rows(results)
    ]
    if methods:
        run.write_table("predictions.csv", rows)
    with progress.doing("Drawing figures"):
        drawn = report.draw(run, app, methods, card["history"])
        report.log_figures(run, drawn)
    card["run_card_hash"] = runs.card_hash(card)
    if export_model:
        card["export"] = str(export(run, config, card, built, folder).relative_to(run.path))
    run.write_text("report.html", report.html(app, card, folder, drawn))
    run.write_card(card)
    return card


def _score(app: ModuleType, folder: DatasetFolder, name: str, scorer: Callable) -> Collection:
    """Results of a method on the test part; says how long it took."""
    began = time.monotonic()
    with progress.doing(name):
        results = app.score(folder, "test", scorer)
    took = locks.duration(time.monotonic() - began)
    logging.info("%s: %d records of the test part scored in %s.", name, len(results), took)
    return results


def trained(run: RunFolder, classes: int) -> Built:
    """The network of a run with its best weights, in float32 whatever it was trained in."""
    config = Config.load(run.path / "config.json")
    if not run.weights.is_file():
        raise UserError(
            f"{run.path} has no trained weights ({run.weights.name} is absent): it is not "
            "finished, or its study deleted them (--nokeep_weights)."
        )
    keras.mixed_precision.set_dtype_policy("float32")
    return build(config, classes, source=str(run.weights))


def export(
    run: RunFolder,
    config: Config,
    card: Mapping,
    built: Built,
    folder: DatasetFolder,
    variants: Sequence[str] = (),
) -> pathlib.Path:
    """Write the run's network as the next version of its SavedModel and check it on real patches.

    ``variants``: also with weights stored in these ways, see :mod:`medxfer.exports`.

    Raises
    ------
    RuntimeError
        If a SavedModel answers otherwise than the network.
    """
    with progress.doing("Exporting the network"):
        return exports.write(
            run.path / "export",
            built.model,
            built.network,
            folder,
            monitor=app_of(config).monitor,
            variants=variants,
            app=config.app,
            patch=side_of(folder.settings)[1],
            run_card_hash=runs.card_hash(card),
        )
