"""How long candidate emboli of a whole CT volume take, and how much memory.

    PYTHONPATH=. python benchmarks/toboggan.py [--slices=300] [--rows=512] [--columns=512]

The volume is a phantom: a thorax with branching arteries in both lungs, a heart full of contrast
agent, bone, noise, and emboli. Prints seconds (wall and processor) and peak memory of the volume's
process, and what was found.
"""

import resource
import time

import _shared
import numpy as np
from absl import app, flags
from scipy import ndimage

from data_prep.candidates import _toboggan, embolus

flags.DEFINE_integer("slices", 300, "Slices of the volume.", lower_bound=50)
flags.DEFINE_integer("rows", 512, "Rows.", lower_bound=100)
flags.DEFINE_integer("columns", 512, "Columns.", lower_bound=100)
flags.DEFINE_integer("emboli", 12, "How many emboli.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of the phantom.", lower_bound=0)

_EXTENT = np.array([300.0, 360.0, 360.0])  # mm


def branches(rng: np.random.Generator, start, direction, radius: float) -> list[tuple]:
    """Segments (start, end, radius) of an arterial tree, in mm."""
    start, direction = np.asarray(start, float), np.asarray(direction, float)
    end = start + direction * radius * 4
    found = [(start, end, radius)]
    if radius > 1.2:
        for _ in range(2):
            turned = direction + rng.normal(0, 0.45, 3)
            found += branches(rng, end, turned / np.linalg.norm(turned), radius * 0.77)
    return found


def thorax(shape: tuple[int, int, int], emboli: int, rng: np.random.Generator):
    """A volume int16, its spacing, and the emboli's labels."""
    spacing = _EXTENT / shape
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s).reshape([-1 if k == a else 1 for k in range(3)])
        for a, (n, s) in enumerate(zip(shape, spacing, strict=True))
    )
    hu = np.full(shape, -1000, np.float32)
    hu[np.broadcast_to((y / 110) ** 2 + (x / 165) ** 2 < 1, shape)] = 45
    hu[np.broadcast_to(np.abs(np.hypot(y / 105, x / 157) - 0.97) < 0.02, shape)] = 300  # ribs
    lungs = np.zeros(shape, bool)
    for side in (-1, 1):
        lungs |= (y / 80) ** 2 + ((x - side * 80) / 55) ** 2 + (z / 130) ** 2 < 1
    hu[lungs] = -850
    heart = (y / 45) ** 2 + (x / 45) ** 2 + ((z - 70) / 50) ** 2 < 1
    hu[heart & ~lungs] = 110
    chambers = (y / 35) ** 2 + ((np.abs(x) - 20) / 15) ** 2 + ((z - 70) / 35) ** 2 < 1
    hu[chambers] = 380
    labels = np.zeros(shape, np.int16)
    tree = [((0, 0, -45), (0, 0, 45), 11.0)]
    for side in (-1, 1):
        tree += branches(rng, (0, 0, side * 45), (0.6, 0, side * 0.8), 6.0)
        tree += branches(rng, (0, 0, side * 45), (-0.6, 0, side * 0.8), 6.0)
    wide = [number for number, (_, _, radius) in enumerate(tree) if radius > 2.5]
    blocked = set(rng.choice(wide, min(emboli, len(wide)), replace=False).tolist())
    within = lungs | (np.abs(x) < 50)
    for number, (start, end, radius) in enumerate(tree):
        start, end = np.asarray(start, float), np.asarray(end, float)
        low = np.floor((np.minimum(start, end) - radius - 1) / spacing + (np.array(shape) - 1) / 2)
        high = np.ceil((np.maximum(start, end) + radius + 1) / spacing + (np.array(shape) - 1) / 2)
        low, high = (np.clip(each, 0, shape).astype(int) for each in (low, high))
        box = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        place = np.stack(np.broadcast_arrays(z[box[0]], y[:, box[1]], x[:, :, box[2]]), axis=-1)
        along = np.clip((place - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.linalg.norm(place - start - along[..., None] * (end - start), axis=-1)
        vessel = (distance < radius) & within[box]
        hu[box][vessel] = 380
        if number in blocked:
            middle = np.linalg.norm(start - end) * np.abs(along - 0.5) < 1.2 * radius
            clot = middle & (distance < 0.8 * radius)
            if np.count_nonzero(clot & vessel) > 10:
                labels[box][clot & vessel] = number + 1
    hu[labels > 0] = 50
    hu = ndimage.gaussian_filter(hu, 0.5 / spacing)
    hu += rng.normal(0, 20, shape).astype(np.float32)
    return np.round(hu).astype(np.int16), spacing, labels


def peak() -> float:
    """Greatest memory of the process so far in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(_: list[str]) -> None:
    """Make the phantom, find its candidates, print one table."""
    values = flags.FLAGS
    shape = (values.slices, values.rows, values.columns)
    print(_shared.machine())
    hu, spacing, labels = thorax(shape, values.emboli, np.random.default_rng(values.seed))
    before = peak()
    wall, processor = time.perf_counter(), time.process_time()
    candidates = embolus.find(hu, spacing)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    after = peak()
    hits = {int(labels[each.voxel]) for each in candidates} - {0}

    inside = hu > -600
    inside[..., ::2] = False
    slid = time.process_time()
    voxels, _ = _toboggan.slide(hu, inside)
    slid = time.process_time() - slid
    size = "x".join(map(str, shape[::-1]))
    _shared.record(f"embolus candidates of {size} voxels", wall, "s", "at most 60")
    _shared.record(f"peak memory of it, {size}", after, "GiB", "at most 3.7")
    print(f"phantom of {shape} voxels, spacing {np.round(spacing, 2).tolist()} mm")
    rows = [
        ["candidates, wall s", f"{wall:.1f}"],
        ["candidates, processor s", f"{processor:.1f}"],
        ["peak memory, GiB", f"{after:.2f} ({before:.2f} with the phantom's making)"],
        ["candidates found", str(len(candidates))],
        ["emboli hit", f"{len(hits)} of {len(np.unique(labels)) - 1}"],
        ["sliding alone, processor s", f"{slid:.1f} for {len(voxels) / 1e6:.1f} million voxels"],
    ]
    print(_shared.table(["what", "value"], rows))


if __name__ == "__main__":
    app.run(main)
