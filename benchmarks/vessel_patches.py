"""How fast the planes of a candidate are sampled, against one map_coordinates call a patch.

    PYTHONPATH=. python benchmarks/vessel_patches.py [--side=64]

Both give the 45 two-channel patches of a candidate from a volume of 512 x 512 x 300 voxels; their
greatest difference in grey levels is printed too. The two take turns in one run; times are
processor time, so that a busy machine does not blur them.
"""

import dataclasses
import resource
import time

import _shared
import numpy as np
from absl import app, flags
from scipy import ndimage

from data_prep.candidates import vessel
from data_prep.candidates.embolus import Candidate

flags.DEFINE_integer("side", 64, "Side of a patch in pixels.", lower_bound=1)
flags.DEFINE_integer("candidates", 5, "Candidates a repeat.", lower_bound=1)
flags.DEFINE_integer("repeats", 5, "Repeats of each.", lower_bound=1)

_SPACING = np.array([1.0, 0.7, 0.7])


def one_by_one(hu, voxel, basis, settings: vessel.Settings) -> np.ndarray:
    """The same patches, plainly: coordinates and one interpolation for every plane."""
    first, second, third = basis
    images = []
    for view in vessel.views(settings):
        offsets = ((np.arange(settings.side) + 0.5) / settings.side - 0.5) * view.width_mm
        u, v = offsets[:, None, None], offsets[None, :, None]
        e2 = np.cos(view.rotation) * second + np.sin(view.rotation) * third
        e3 = -np.sin(view.rotation) * second + np.cos(view.rotation) * third
        centre = view.shift * view.width_mm * first
        channels = []
        for points in (centre + u * first + v * e2, centre + u * e2 + v * e3):
            places = (np.array(voxel) + points / _SPACING).transpose(2, 0, 1)
            values = ndimage.map_coordinates(hu, places, order=1, mode="nearest", output=np.float32)
            channels.append(np.clip((values + 100) / 600 * 255 + 0.5, 0, 255).astype(np.uint8))
        images.append(np.stack([channels[0], channels[1], channels[1]], axis=-1))
    return np.stack(images)


def main(_: list[str]) -> None:
    """Sample the same candidates both ways in turn and print one table."""
    values = flags.FLAGS
    print(_shared.machine())
    rng = np.random.default_rng(0)
    hu = np.round(ndimage.gaussian_filter(rng.normal(0, 3000, (300, 64, 64)), 1.5)).astype(np.int16)
    hu = np.tile(hu, (1, 8, 8))
    settings = dataclasses.replace(vessel.DEFAULTS, side=values.side)
    places = rng.integers(60, 240, (values.candidates, 3))
    bases = [np.linalg.qr(rng.normal(size=(3, 3)))[0].T for _ in places]
    ways = {
        "all planes at once": lambda voxel, basis: vessel.planes(
            hu, _SPACING, voxel, basis, settings
        ),
        "map_coordinates a patch": lambda voxel, basis: one_by_one(hu, voxel, basis, settings),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    apart = 0
    for _ in range(values.repeats):
        images = []
        for way, sample in ways.items():
            started = time.process_time()
            images.append([sample(*each) for each in zip(places, bases, strict=True)])
            taken[way].append((time.process_time() - started) / len(places) * 1000)
        apart = max(apart, int(np.abs(np.subtract(*images, dtype=np.int16)).max()))
    found = []
    for voxel in places:
        candidate = Candidate(tuple(voxel), voxel[None], 1.0, 0.0, 1.0, 100.0, 0.0)
        started = time.process_time()
        vessel.axis(hu, _SPACING, candidate)
        found.append((time.process_time() - started) * 1000)
    rows = [[way, _shared.spread(times)] for way, times in taken.items()]
    print(f"45 patches of {values.side} x {values.side} pixels a candidate")
    print(
        _shared.table(["way", "processor ms a candidate"], [*rows, ["axis", _shared.spread(found)]])
    )
    fast, plain = (min(times) for times in taken.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _shared.record("vessel planes against map_coordinates", plain / fast, "times", "at least 5")
    print(f"ratio {plain / fast:.1f}, greatest difference {apart} grey level(s)")
    print(f"peak memory {memory:.2f} GiB, the volume {hu.nbytes / 2**30:.2f} of them")


if __name__ == "__main__":
    app.run(main)
