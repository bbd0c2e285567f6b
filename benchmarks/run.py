"""All benchmarks that need no data, one after the other, and their figures in one file.

    PYTHONPATH=. python benchmarks/run.py [--output=benchmarks.json] [--quick] [--only=froc,dense]
    python benchmarks/run.py --readme      # figures of docs/benchmarks.json into README.md

Each runs as a script by itself, so that none shares memory, threads or caches with another. What
lacks a package (PyTorch is a peer, not a dependency) is named and left out. The file holds the
machine and the load before each script; run it while nothing else runs. ``--only`` with a file of
the same machine puts new figures in the place of those.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import _shared

from medxfer import provenance

HERE = pathlib.Path(__file__).parent
#: The figures that README shows, and where it shows them.
KEPT = HERE.parent / "docs" / "benchmarks.json"
README = HERE.parent / "README.md"
MARKS = ("<!-- figures of docs/benchmarks.json -->\n", "<!-- end of figures -->\n")
#: Script -> arguments, and what is added with --quick.
SCRIPTS = {
    "froc_bootstrap": ([], ["--rounds=2"]),
    "patch_throughput": ([], ["--quick"]),
    "input_pipeline": ([], ["--quick"]),
    "train_throughput": ([], ["--quick"]),
    "frozen_prefix": ([], ["--quick"]),
    "dense_map": (["--models=alexnet"], ["--rounds=2"]),
    "toboggan": ([], ["--slices=100"]),
    "vessel_patches": ([], ["--repeats=3"]),
    "check_dataset": ([], ["--examples=20000"]),
}
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "opencv-python-headless", "torch")


def machine() -> dict:
    """What the figures depend on, without a name of the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        **provenance.machine(),
        "python": platform.python_version(),
        "packages": versions,
    }


def run(name: str, arguments: list[str]) -> dict:
    """Figures of one script, or why there are none."""
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results"
        environment = os.environ | {_shared.RESULTS: str(results)}
        environment.setdefault("PYTHONPATH", str(HERE.parent))
        begun = datetime.datetime.now(datetime.UTC)
        done = subprocess.run(
            [sys.executable, str(HERE / f"{name}.py"), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        took = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
        lines = results.read_text().splitlines() if results.exists() else []
    figures = [json.loads(line) for line in lines]
    entry = {"figures": figures, "seconds": round(took, 1), "load_before": load}
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        entry["failed"] = reason[-1]
    return entry


def markdown(found: dict) -> str:
    """README's table of the figures in a file that :func:`main` wrote."""
    about = found["machine"]
    versions = {name: version for name, version in about["packages"].items() if version}
    units = ", with matrix units" if about["matrix_units"] else ""
    lines = [
        f"{about['processor']}, {about['cores']} cores{units}, {about['memory_gib']:.0f} GiB, "
        f"Python {about['python']}, TensorFlow {versions['tensorflow']}:",
        "",
        "| `python benchmarks/` | figure | value | target |",
        "|---|---|---|---|",
    ]
    for name, entry in found["benchmarks"].items():
        lines += [
            f"| `{name}.py` | {figure['name']} | {figure['value']:.3g} {figure['unit']} "
            f"| {figure['target']} |"
            for figure in entry["figures"]
        ]
        if "failed" in entry:
            lines.append(f"| `{name}.py` | not run: {entry['failed']} | | |")
    return "\n".join(lines) + "\n"


def update_readme() -> None:
    """Put the table of the kept figures between README's two marks."""
    before, _, rest = README.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    table = markdown(json.loads(KEPT.read_text()))
    README.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


def main() -> int:
    """Run what is asked for and write the figures after each script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.json"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="names, or beginnings of them, with commas")
    parser.add_argument("--readme", action="store_true", help="only write README's table")
    options = parser.parse_args()
    if options.readme:
        update_readme()
        return 0
    wanted = tuple(name for name in options.only.split(",") if name)
    chosen = [name for name in SCRIPTS if not wanted or name.startswith(wanted)]
    if not chosen:
        parser.error(f"--only names none of {', '.join(SCRIPTS)}")
    found = {"machine": machine(), "quick": options.quick, "benchmarks": {}}
    if wanted and options.output.exists():
        earlier = json.loads(options.output.read_text())
        if any(earlier[key] != found[key] for key in ("machine", "quick")):
            parser.error(f"{options.output} is of another machine, versions or --quick.")
        found = earlier
    for number, name in enumerate(chosen, 1):
        arguments, quicker = SCRIPTS[name]
        print(f"\n[{number} of {len(chosen)}] {name}", flush=True)
        entry = run(name, [*arguments, *(quicker if options.quick else [])])
        found["benchmarks"][name] = entry
        partial = options.output.with_name(options.output.name + ".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        partial.replace(options.output)
        if "failed" in entry:
            print(f"left out: {entry['failed']}", flush=True)
    rows = [
        (figure["name"], f"{figure['value']:.3g} {figure['unit']}", figure["target"])
        for entry in found["benchmarks"].values()
        for figure in entry["figures"]
    ]
    print("\n" + _shared.table(("figure", "value", "target"), rows))
    print(f"\nWritten: {options.output}")
    return 0 if all("failed" not in entry for entry in found["benchmarks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
