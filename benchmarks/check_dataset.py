"""``--mode=check`` on many examples: a carotid phantom with many patches, prepared as usual.

    PYTHONPATH=. python benchmarks/check_dataset.py [--examples=100000]

The check runs as a user runs it, the start of the process and the measurement of the network's
speed included. On a busy machine the time of the processor tells more than the clock.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import _shared

from data_prep import cimt, far_wall
from data_prep.phantoms import cimt as phantom

SUBJECTS, IMAGES, ROIS, CLASSES = 60, 2, 3, 3  # half of the subjects give patches


def main() -> int:
    """Prepare, check, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    options = parser.parse_args()
    patches = -(-options.examples // (SUBJECTS // 2 * IMAGES * ROIS * CLASSES))
    print(_shared.machine(), flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        phantom.generate(folder / "raw", seed=0, subjects=SUBJECTS, images_per_subject=IMAGES)
        settings = far_wall.Settings(patches_per_roi=patches)
        data = cimt.prepare(folder / "raw", folder / "records", settings=settings).output
        words = [sys.executable, "-m", "medxfer.main", "--app=cimt", "--mode=check"]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([*words, f"--data={data}"], stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(done.stdout)
    peak = after.ru_maxrss / 2**20
    rows = [(f"{seconds:.1f}", f"{used:.1f}", f"{peak:.1f}")]
    print(_shared.table(("seconds", "of the processor", "peak GiB"), rows))
    name = f"check of {options.examples:,} examples"
    _shared.record(name, seconds, "s", "at most 30" if options.examples >= 100_000 else "")
    _shared.record(f"{name}, processor", used, "s")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
