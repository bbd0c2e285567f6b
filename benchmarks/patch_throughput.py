"""Patches of polyp candidates from decoded frames, against the plain loop of scikit-image.

    PYTHONPATH=. python benchmarks/patch_throughput.py [--rounds=5] [--quick]

Both make the same 120 patches of a candidate (three scales, five shifts, eight mirrors and turns)
of frames of 384 x 288 pixels. The loop crops each box from the frame, mirrored at its edges, and
resizes it with ``skimage.transform.resize``; this project samples it once. Each runs in a process
of its own with one thread, in turns; then this project in two processes at once.

(Not called ``data_prep.py``, which would hide the package of that name.)

Expected: at least 5 times the loop on one core, and two processes at least 1.7 times one.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time

import _shared

SIDE = 112


def candidates(count: int):
    """Frames uint8 (288, 384, 3) like colonoscopy's in size, and a square box in each."""
    import numpy as np
    from scipy import ndimage

    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 255, (count, 288, 384, 3)).astype(np.float32)
    frames = np.rint(ndimage.gaussian_filter(rough, (0, 1.5, 1.5, 0))).astype(np.uint8)
    sides = rng.uniform(60, 160, count)
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([384, 288]) - sides[:, None])
    boxes = np.column_stack([corners, sides, sides])
    return frames, boxes


def ours(frames, boxes) -> int:
    """Number of patches made."""
    from data_prep import patches, polyp_patches

    settings = polyp_patches.Settings(patch=SIDE)
    made = 0
    for frame, box in zip(frames, boxes, strict=True):
        stack = patches.dihedral(polyp_patches.views(frame, tuple(box), settings))
        made += stack.shape[0] * stack.shape[1]
    return made


def plain(frames, boxes) -> int:
    """The same, the plain way."""
    import numpy as np
    from skimage import transform

    from data_prep import patches

    made = 0
    for frame, box in zip(frames, boxes, strict=True):
        padded = np.pad(frame, ((200, 200), (200, 200), (0, 0)), mode="reflect")
        for x, y, width, height in patches.boxes(box, (1.0, 1.2, 1.5), 0.1).reshape(-1, 4):
            left, top = round(x) + 200, round(y) + 200
            crop = padded[top : top + round(height), left : left + round(width)]
            patch = transform.resize(
                crop, (SIDE, SIDE), order=1, anti_aliasing=False, preserve_range=True
            ).astype(np.uint8)
            for turns in range(4):
                turned = np.rot90(patch, turns)
                for version in (turned, turned[:, ::-1]):
                    made += len(np.ascontiguousarray(version)) == SIDE
    return made


def rate(make, count: int) -> float:
    """Patches a second of processor time in this process."""
    import cv2

    cv2.setNumThreads(1)
    frames, boxes = candidates(count)
    make(frames[:1], boxes[:1])
    started = time.process_time()
    return make(frames, boxes) / (time.process_time() - started)


def _share(count: int) -> tuple[int, float, float]:
    import cv2

    cv2.setNumThreads(1)
    frames, boxes = candidates(count)
    ours(frames[:1], boxes[:1])
    started = time.perf_counter()
    return ours(frames, boxes), started, time.perf_counter()


def side_by_side(processes: int, count: int) -> float:
    """Patches a second of wall time of so many processes at once."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        found = list(pool.map(_share, [count] * processes))
    seconds = max(end for _, _, end in found) - min(start for _, start, _ in found)
    return sum(made for made, _, _ in found) / seconds


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--worker", choices=["ours", "plain"])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    if options.worker:
        make = ours if options.worker == "ours" else plain
        count = options.candidates if options.worker == "ours" else options.candidates // 5
        _shared.serve(lambda: rate(make, count))
        return 0
    rounds = 2 if options.quick else options.rounds
    print(f"120 patches of {SIDE} pixels a candidate, frames of 384 x 288, one thread a process.")
    print(_shared.machine(), flush=True)
    given = [f"--candidates={options.candidates}"]
    peers = [_shared.Turns(__file__, name, 1, given) for name in ("ours", "plain")]
    rates = _shared.alternate(peers, rounds)
    for peer in peers:
        peer.close()
    one = [side_by_side(1, 10 * options.candidates) for _ in range(rounds)]
    two = [side_by_side(2, 10 * options.candidates) for _ in range(rounds)]
    ratio = sorted(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    rows = [
        ("scikit-image loop", _shared.spread(rates["plain"], 0), "1"),
        ("medxfer", _shared.spread(rates["ours"], 0), f"{ratio[len(ratio) // 2]:.1f}"),
    ]
    print("\n" + _shared.table(("one core", "patches a second (processor time)", "ratio"), rows))
    gain = sorted(b / a for a, b in zip(one, two, strict=True))[rounds // 2]
    middle = ratio[len(ratio) // 2]
    _shared.record("polyp patches against scikit-image", middle, "times", "at least 5")
    _shared.record("polyp patches, two processes against one", gain, "times", "at least 1.7")
    print(
        f"\nWall time: one process {max(one):.0f}, two {max(two):.0f} patches/s: {gain:.2f} times."
    )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
