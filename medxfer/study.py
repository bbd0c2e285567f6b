"""How deep, from scratch or not, with how much data: ``python -m medxfer.study --app=cimt``.

Trains every depth, scratch and the handcrafted counterpart on all the training data and on less,
with several seeds, each in a process of its own; then compares them and writes tables, figures and
a report. Started again, it goes on where it was. Nothing heavy is imported before the flags are
read.
"""

import dataclasses
import functools
import math
import pathlib
import shutil
import sys

from absl import flags, logging

from data_prep import command, progress, quiet, signals
from data_prep.errors import UserError
from data_prep.locks import duration
from medxfer import main as runs_main
from medxfer import plugins
from medxfer.config import INITS

flags.DEFINE_list("models", [], "Networks to compare; default: --model alone.")
flags.DEFINE_list(
    "depths",
    [],
    "Layer groups to tune from. Default: every one of the network. none: strategies only.",
)
flags.DEFINE_list(
    "inits",
    ["msra", "xavier", "gaussian"],
    "Random starts of training from scratch; the first also serves the smaller fractions (by "
    "default the network's own start). Empty: nothing is trained from scratch.",
)
flags.DEFINE_list("strategies", [], "Further values of --tune, such as lp_ft or auto.")
flags.DEFINE_list(
    "rates",
    [],
    "Base learning rates to try for every network; the one with the best validation score is "
    "compared. Default: --base_rate alone.",
)
flags.DEFINE_list(
    "scratch_rates",
    [],
    "Base learning rates to try for training from scratch, in the same number of steps. Default: "
    "--rates, if there are several, else 1, 3 and 10 times the rate of tuning, which trains new "
    "layers at 10 times its rate.",
)
flags.DEFINE_list(
    "fractions",
    ["1", "0.5", "0.25"],
    "Shares of the training subjects, nested, or 'one' for one subject; those of the paper.",
)
flags.DEFINE_integer("seeds", 1, "Number of seeds, from --seed on.", lower_bound=1)
flags.DEFINE_integer("jobs", 1, "Runs at the same time; they share the processors.", lower_bound=1)
flags.DEFINE_string(
    "shard",
    "0/1",
    "i/n, i from 0: this is machine i of n that share --output; start each with the same flags.",
)
flags.DEFINE_float(
    "claim_age",
    600.0,
    "Seconds without a sign of life after which the run of another machine is taken over.",
    lower_bound=60.0,
)
flags.DEFINE_bool(
    "keep_weights",
    True,
    "Keep the weights of finished runs. The comparison does not need them, and they take most of a "
    "study's space; without them its runs cannot predict, evaluate other records or be exported.",
)
flags.DEFINE_float(
    "hours",
    None,
    "Time there is, with --jobs on this machine, or on each of the n of --shard. Amounts of data "
    "and seeds are planned in their order for as long as they fit by estimate; the plan and the "
    "report say what is left out. Default: all.",
)
flags.DEFINE_bool("dry_run", False, "Write and print the plan with its estimated time; no run.")
flags.DEFINE_string("plan", None, "Do the runs of this plan file instead of planning by the flags.")

FLAGS = flags.FLAGS

#: Flags of single runs that the study decides by itself.
OWN = {"tune": "--depths and --strategies", "init": "--inits", "fraction": "--fractions"}
UNUSED = (
    "mode",
    "run",
    "input",
    "mm_per_pixel",
    "roi",
    "every_s",
    "keep_names",
    "export",
    "variants",
)
for _name in ("app", "data", "model", "weights", "output", "epochs", "patience", "batch_size"):
    flags.declare_key_flag(_name)


def main() -> None:
    """Plan, run, compare."""
    for name, instead in OWN.items():
        if FLAGS[name].present:
            raise UserError(f"--{name} is not for a study, which tries several: use {instead}.")
    for name in UNUSED:
        if name in FLAGS and FLAGS[name].present:
            raise UserError(f"--{name} is not for a study.")
    if not FLAGS.app:
        valid = ", ".join(plugins.names("medxfer.apps"))
        raise UserError(f"--app is missing. Valid names: {valid}.")
    plugins.check("medxfer.apps", FLAGS.app)
    for model in FLAGS.models or [FLAGS.model]:
        plugins.check("medxfer.models", model)
    if strange := set(FLAGS.inits) - set(INITS):
        raise UserError(f"--inits are {', '.join(INITS)}. Received: {', '.join(sorted(strange))}.")
    if FLAGS.hours is not None and not FLAGS.hours > 0:
        raise UserError(f"--hours must be above 0. Received: {FLAGS.hours:g}.")
    if FLAGS.hours is not None and FLAGS.plan:
        raise UserError("--hours chooses among runs, a --plan says them: give one of the two.")
    rates = _rates()
    _numbers("scratch_rates")
    quiet.import_tensorflow()
    from medxfer import experiment
    from medxfer.studies import conclude, estimate, execute, within
    from medxfer.studies import plan as plans

    shard = execute.shard_of(FLAGS.shard)
    base = dataclasses.replace(runs_main.config_from_flags(), init=INITS[0])
    if not FLAGS["cache"].present:
        # What frozen layers compute is the same for other depths, seeds and amounts of data: on
        # disk, later runs find it.
        base = dataclasses.replace(base, cache="disk")
    folder = experiment.open_data(base)
    folder.require("train", "validation", "test")
    plan = plans.Plan.load(pathlib.Path(FLAGS.plan)) if FLAGS.plan else _plan(base, folder, rates)
    if (plan.app, plan.fingerprint) != (base.app, folder.fingerprint):
        raise UserError(f"{FLAGS.plan} is a plan for other records or another app.")
    plan = plan.placed(base.data)  # a plan file may say where they were
    study = plans.StudyFolder(_output(plan))
    counts = {split: folder.count(split) for split in folder.splits}
    records = estimate.Records(counts, len(folder.subjects("train")))
    study.check_place()
    with study.turn("plan", FLAGS.claim_age):
        if FLAGS.hours is not None:
            plan = within.fit(study, plan, FLAGS.hours, records, FLAGS.jobs, shard[1])
        study.write_plan(plan, shared=shard[1] > 1)
    for note in plan.notes:
        logging.info("%s", note)
    if FLAGS.dry_run:
        print(_plan_text(study, plan, estimate.estimate(study, plan, records, FLAGS.jobs)))
        return
    with signals.told(lambda: execute.standing(study, plan)), study.hold(shard, FLAGS.claim_age):
        outcome = execute.execute(
            study,
            plan,
            jobs=FLAGS.jobs,
            shard=shard,
            age=FLAGS.claim_age,
            command=functools.partial(execute.command, share=execute.starts(plan)),
            report=_Progress(plan),
            keep_weights=FLAGS.keep_weights,
        )
        if outcome.elsewhere:
            print(
                f"{len(outcome.elsewhere)} runs are being done by other processes. The same "
                "command, started again, compares all runs when they have ended."
            )
        if outcome.complete or shard[1] == 1:
            with study.turn("conclusion", FLAGS.claim_age):  # shards may end together
                with progress.doing("Comparing the runs"):
                    conclude.conclude(study, plan, folder)
    if outcome.failed:
        sys.exit(1)


def _plan(base, folder, rates):
    from medxfer import tuning
    from medxfer.studies import plan as plans

    models = {
        name: list(plugins.load("medxfer.models", name).LAYER_GROUPS)
        for name in FLAGS.models or [FLAGS.model]
    }
    for groups in models.values():
        for strategy in FLAGS.strategies:
            if strategy != plans.AUTO:
                tuning.stages_for(strategy, groups, base, groups[-1:])
    return plans.make(
        base,
        folder.fingerprint,
        len(folder.subjects("train")),
        groups=models,
        new={model: _new(base, model, names, folder) for model, names in models.items()},
        depths=FLAGS.depths,
        inits=FLAGS.inits,
        strategies=FLAGS.strategies,
        rates=rates,
        scratch_rates=_numbers("scratch_rates"),
        own_inits={} if FLAGS["inits"].present else _own(models, "INIT"),
        own_rates={} if FLAGS["base_rate"].present else _own(models, "RATE"),
        shares=FLAGS.fractions,
        seeds=FLAGS.seeds,
        counterpart_learns=plans.counterpart_learns(base.app),
        strategy_settings=FLAGS.strategy_settings,
        given=[name for name in ("optimizer", "weight_decay", "schedule") if FLAGS[name].present],
    )


def _own(models, key: str) -> dict[str, object]:
    """The networks' own learning rates or starts."""
    return {name: plugins.constant("medxfer.models", name, key) for name in models}


def _rates() -> list[float]:
    """``--rates`` as numbers."""
    if FLAGS.rates and FLAGS["base_rate"].present:
        raise UserError("--base_rate is one of --rates: give it there.")
    return _numbers("rates")


def _numbers(flag: str) -> list[float]:
    """Learning rates of a flag."""
    try:
        rates = [float(word) for word in FLAGS[flag].value]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate < math.inf for rate in rates):
        words = ",".join(FLAGS[flag].value)
        raise UserError(f"--{flag} are numbers above 0. Received: {words}.")
    return rates


def _new(base, model: str, groups: list[str], folder) -> list[str]:
    """Layer groups of a network for which its weights hold nothing."""
    from medxfer import experiment

    if base.weights == "none":
        return groups
    config = dataclasses.replace(base, model=model, input_side=0)  # weights are of any side
    return list(experiment.build(config, len(folder.classes)).weights.new)


def _output(plan) -> pathlib.Path:
    """``--output``, or a folder under ``runs`` named by app and records."""
    if FLAGS["output"].using_default_value:
        return pathlib.Path(FLAGS.output) / f"study-{plan.app}-{plan.fingerprint[:8]}"
    return pathlib.Path(FLAGS.output)


class _Progress:
    """Says how far the study is after every run."""

    def __init__(self, plan) -> None:
        self._total, self._seconds = len(plan.runs), []

    def __call__(self, planned, seconds: float) -> None:
        self._seconds.append(seconds)
        logging.info(
            "Finished %s, %s, seed %d in %s (%d of %d planned runs done by this process).",
            planned.method,
            planned.share,
            planned.config.seed,
            duration(seconds),
            len(self._seconds),
            self._total,
        )


def size(count: float) -> str:
    """Bytes as a person says them."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{math.ceil(count / 2**20)} MiB"


def _plan_text(study, plan, estimated) -> str:
    """The plan for a person: one line a run, and the sum."""
    from medxfer.studies import tables

    rows = [("run", "method", "training data", "seed", "estimated")]
    for run in plan.runs:
        seconds = estimated.seconds.get(run.name, 0.0)
        if run.name not in estimated.seconds:
            words = "finished"
        else:
            words = "?" if seconds is None else duration(seconds)
        rows.append(
            (
                run.name,
                run.method,
                tables.amount(run.share, run.subjects),
                str(run.config.seed),
                words,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    left = len(estimated.seconds)
    lines += ["", f"{len(plan.runs)} runs, {len(plan.runs) - left} of them finished."]
    if left:
        words = duration(estimated.total(FLAGS.jobs))
        source = estimated.source or "nothing measured yet"
        lines.append(f"Estimated time of the others: {words} ({source}).")
        if estimated.disk and FLAGS.keep_weights:
            free = shutil.disk_usage(study.path).free
            lines.append(
                f"Their weights will take {size(estimated.disk)} on the disk, of which "
                f"{size(free)} are free; --nokeep_weights deletes those of finished runs."
            )
    lines.append(f"Plan: {study.plan_file}")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
