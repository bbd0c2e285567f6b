"""How deep to tune for carotid intima-media thickness: k-fold cross-validation over subjects.

    python benchmarks/cimt_cross_validation.py --input=RAW --output=FOLDER

Every subject is in the test part of exactly one fold. Each fold is prepared once and trained once
per depth through the ordinary commands, so an interrupted table goes on where it stood; the regions
of all folds are then pooled. Arguments after ``--`` go to every training run.
"""

import csv
import pathlib
import subprocess
import sys

from absl import app, flags

from medxfer.evaluation import compare, intervals

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Raw studies.", required=True)
flags.DEFINE_string("output", None, "Folder for records and runs.", required=True)
flags.DEFINE_list("tunes", ["scratch", "fc6", "conv5", "conv1"], "Depths to compare.")
flags.DEFINE_integer("folds", 5, "Number of folds.")
flags.DEFINE_enum(
    "scratch_init",
    "msra",
    ["gaussian", "xavier", "msra"],
    "Random start of the scratch runs. Caffe's gaussian is made for pixels 0 to 255 and leaves "
    "torchvision's AlexNet, whose input has unit variance, almost without signal.",
)
flags.DEFINE_list("prep", [], "Further flags of data_prep.cimt, without dashes: patch=29,band=2.")

MEASURES = {
    "lumen_intima_error_um": ("LI error, µm", "{:.1f}"),
    "media_adventitia_error_um": ("MA error, µm", "{:.1f}"),
    "thickness_error_mm": ("thickness error, mm", "{:.3f}"),
}


def command(*arguments: str) -> None:
    """Run one of the package's commands; its output goes on to the terminal."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def rows_of(run: pathlib.Path) -> list[dict]:
    """Regions of a run, the thickness error beside the other two."""
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        difference = float(row["thickness_mm"]) - float(row["true_thickness_mm"])
        row["thickness_error_mm"] = abs(difference)
    return rows


def main(arguments: list[str]) -> None:
    """Prepare, train and pool."""
    output = pathlib.Path(FLAGS.output)
    pooled: dict[str, list[dict]] = {}
    for fold in range(FLAGS.folds):
        data = output / f"fold{fold}"
        command(
            "data_prep.cimt",
            f"--input={FLAGS.input}",
            f"--output={data}",
            f"--folds={FLAGS.folds}",
            f"--fold={fold}",
            *(f"--{flag}" for flag in FLAGS.prep),
        )
        for place, tune in enumerate(FLAGS.tunes):
            run = output / "runs" / f"fold{fold}-{tune}"
            command(
                "medxfer.main",
                "--app=cimt",
                "--noexport",
                f"--tune={tune}",
                *([f"--init={FLAGS.scratch_init}"] if tune == "scratch" else []),
                f"--data={data}",
                f"--run={run}",
                *arguments[1:],
            )
            for row in rows_of(run):
                if row["method"] == tune:
                    pooled.setdefault(tune, []).append(row)
                elif place == 0:
                    pooled.setdefault("handcrafted", []).append(row)
    print_table(pooled)


def print_table(pooled: dict[str, list[dict]]) -> None:
    """Markdown: mean with 95 % interval by bootstrap over subjects, median, and paired tests."""
    subjects = [row["subject"] for row in pooled["handcrafted"]]
    units = [row["unit"] for row in pooled["handcrafted"]]
    print(f"\n{len(units)} regions of {len(set(subjects))} subjects.\n")
    print("| method |", " | ".join(title for title, _ in MEASURES.values()), "|")
    print("|---" * (len(MEASURES) + 1) + "|")
    values = {}
    for method, rows in pooled.items():
        if [row["unit"] for row in rows] != units:
            raise ValueError(f"{method} was scored on other regions than the others.")
        cells = []
        for key, (_, shape) in MEASURES.items():
            values[method, key] = [float(row[key]) for row in rows]
            found = intervals.bootstrap(intervals.mean(values[method, key]), subjects)
            middle = intervals.tukey(values[method, key]).median
            numbers = (shape.format(v) for v in (found.estimate, found.low, found.high, middle))
            cells.append("{} ({} to {}), median {}".format(*numbers))
        print(f"| {method} |", " | ".join(cells), "|")
    print("\nAgainst the handcrafted tracer: difference (95 %), Wilcoxon p on regions, on subjects")
    for key, (title, shape) in MEASURES.items():
        for method in pooled:
            if method != "handcrafted":
                pair = compare.compare(
                    {name: values[name, key] for name in (method, "handcrafted")}, subjects
                )[0]
                gap = pair.difference
                numbers = (shape.format(v) for v in (gap.estimate, gap.low, gap.high))
                print(
                    f"  {title:20} {method:8}",
                    "{} ({} to {})".format(*numbers),
                    f"p = {pair.p['wilcoxon']:.2g}, {pair.p['wilcoxon_subjects']:.2g}",
                )


if __name__ == "__main__":
    app.run(main)
