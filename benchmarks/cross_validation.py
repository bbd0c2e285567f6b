"""How deep to tune, for any app: k-fold cross-validation over subjects.

    python benchmarks/cross_validation.py --app=polyp --input=RAW --output=FOLDER

Every subject is in the test part of exactly one fold. Each fold is prepared once and trained once
per depth through the ordinary commands, so an interrupted table goes on where it stood; what was
scored in all folds is then pooled, as if the networks of all folds shared one scale, which is the
usual thing to do and not quite true; the intervals hold for these networks and do not say how far
another training would lead. Arguments after ``--`` go to every training run.
"""

import csv
import json
import pathlib
import secrets
import subprocess
import sys

import numpy as np
from absl import app, flags, logging

from medxfer import plugins
from medxfer.evaluation import compare, figures

FLAGS = flags.FLAGS
flags.DEFINE_string("app", None, "Application: cimt, polyp, frame, pe or classify.", required=True)
flags.DEFINE_string("input", None, "Raw studies.", required=True)
flags.DEFINE_string("output", None, "Folder for records and runs.", required=True)
flags.DEFINE_list("tunes", ["scratch", "fc8", "conv4", "conv1"], "Depths to compare.")
flags.DEFINE_integer("folds", 5, "Number of folds.")
flags.DEFINE_string(
    "scratch_init",
    "msra",
    "Random start of the scratch runs. Caffe's gaussian is made for pixels 0 to 255 and leaves "
    "torchvision's AlexNet, whose input has unit variance, almost without signal.",
)
flags.DEFINE_list("prep", [], "Further flags of data_prep, without dashes: patch=80,top_k=8.")


def command(*arguments: str) -> None:
    """Run one of the package's commands; its output goes on to the terminal."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def main(arguments: list[str]) -> None:
    """Prepare, train and pool."""
    logging.set_verbosity(logging.WARNING)  # fonts of figures are talked of at length
    output = pathlib.Path(FLAGS.output)
    pooled: dict[str, list[dict]] = {}
    truth: dict[str, dict] = {}
    output.mkdir(parents=True, exist_ok=True)
    key = output / "key"
    if not key.exists():
        key.write_text(secrets.token_hex(32))
    for fold in range(FLAGS.folds):
        data = output / f"fold{fold}"
        command(
            f"data_prep.{FLAGS.app}",
            f"--input={FLAGS.input}",
            f"--output={data}",
            f"--folds={FLAGS.folds}",
            f"--fold={fold}",
            f"--pseudonym_key=@{key}",
            *(f"--{flag}" for flag in FLAGS.prep),
        )
        truth |= json.loads((data / "truth.json").read_text())["test"]
        for place, tune in enumerate(FLAGS.tunes):
            run = output / "runs" / f"fold{fold}-{tune}"
            command(
                "medxfer.main",
                f"--app={FLAGS.app}",
                "--noexport",
                f"--tune={tune}",
                *([f"--init={FLAGS.scratch_init}"] if tune == "scratch" else []),
                f"--data={data}",
                f"--run={run}",
                *arguments[1:],
            )
            gather(run, tune, place == 0, pooled)
    print_table(pooled, truth, output)


def gather(run: pathlib.Path, tune: str, counterparts: bool, pooled: dict) -> None:
    """Add the scores of a run; those of the classic methods are the same in all runs of a fold."""
    with (run / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["method"] == tune or counterparts:
                pooled.setdefault(row["method"], []).append(row)


def print_table(pooled: dict[str, list[dict]], truth: dict, output: pathlib.Path) -> None:
    """Markdown: figures of merit with 95 % intervals, differences of pairs; and the figures."""
    module = plugins.load("medxfer.apps", FLAGS.app)
    units = [row["unit"] for row in next(iter(pooled.values()))]
    for method, rows in pooled.items():
        if [row["unit"] for row in rows] != units:
            raise ValueError(f"{method} was scored on other units than the others.")
    methods = {method: module.restore(rows, truth) for method, rows in pooled.items()}
    found = {method: module.metrics(results) for method, results in methods.items()}
    subjects = len({fact["subject"] for fact in truth.values()})
    print(f"\n{len(units)} {module.UNIT}s of {subjects} subjects.\n")
    merits = list(next(iter(found.values())))
    print("| method |", " | ".join(merits), "|")
    print("|---" * (len(merits) + 1) + "|")
    for method, values in found.items():
        cells = [f"{v.estimate:.3f} ({v.low:.3f} to {v.high:.3f})" for v in values.values()]
        print(f"| {method} |", " | ".join(cells), "|")
    if hasattr(module, "errors"):
        print("\nMedians")
        for method, results in methods.items():
            for merit, values in module.errors(results).items():
                print(f"  {merit:32} {method:>12} {np.median(values):.3f}")
    print("\nFirst minus second (95 %); by test p, and Holm's over all pairs")
    for merit, pairs in module.compare(methods).items():
        for pair in pairs:
            gap = pair.difference
            print(
                f"  {merit:32} {pair.first:>12} - {pair.second:12}"
                f" {gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
                f"  {_tests(pair)}"
            )
    for name, (figure, _) in module.figures(methods, []).items():
        figures.save(figure, output / name)
        print(f"Figure: {output / name}.png")


def _tests(pair: compare.Comparison) -> str:
    return "; ".join(f"{test} {p:.3f}, {pair.holm[test]:.3f}" for test, p in pair.p.items())


if __name__ == "__main__":
    app.run(main)
