"""All benchmarks that need no data, one after the other, and their figures in one file.

    PYTHONPATH=. python benchmarks/run.py [--output=benchmarks.json] [--quick] [--only=froc,dense]

Each runs as a script by itself, so that none shares memory, threads or caches with another. What
lacks a package (PyTorch is a peer, not a dependency) is named and left out. The file holds the
machine beside every figure; run it while nothing else runs.
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

HERE = pathlib.Path(__file__).parent
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
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "matrix_units": "amx_tile" in flags,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "packages": versions,
    }


def run(name: str, arguments: list[str]) -> dict:
    """Figures of one script, or why there are none."""
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
    entry = {"figures": [json.loads(line) for line in lines], "seconds": round(took, 1)}
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        entry["failed"] = reason[-1]
    return entry


def main() -> int:
    """Run what is asked for and write the figures after each script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.json"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="names, or beginnings of them, with commas")
    options = parser.parse_args()
    wanted = tuple(name for name in options.only.split(",") if name)
    chosen = [name for name in SCRIPTS if not wanted or name.startswith(wanted)]
    if not chosen:
        parser.error(f"--only names none of {', '.join(SCRIPTS)}")
    found = {"machine": machine(), "quick": options.quick, "benchmarks": {}}
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
