"""How many emboli the candidate generator finds, with how many candidates, and how fast it is.

    PYTHONPATH=. python benchmarks/embolus_candidates.py --input=FOLDER [--arteries=MASK]

FOLDER holds volumes with their reference standard in any layout that ``data_prep.pe`` reads:
implanted cases (``python -m data_prep.implant``), the phantom (``python -m data_prep.phantoms.pe``)
or a real set. An embolus is found if a candidate's location lies in it. The recall is given at
several limits of candidates a volume and without one, for all emboli and by their size. Intervals
are Wilson's over emboli, so they leave out that emboli of one volume are alike. Candidates inside
no embolus also show how many are found by chance: those of one implanted case, looked up in the
emboli of the others, which lie elsewhere in the same chest.
"""

import dataclasses
import itertools
import json
import pathlib
import time

import _shared
import numpy as np
from absl import app, flags

from data_prep import pe
from data_prep.candidates import embolus
from data_prep.readers import _grids, _lesions, _volumes

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Folder of volumes with reference standards.", required=True)
flags.DEFINE_string("arteries", None, "Mask of the arteries of the CT that was implanted into.")
flags.DEFINE_list("limits", ["50", "100", "150", "200", "300"], "Candidates a volume at most.")
flags.DEFINE_integer("limit", pe.Settings.top_k, "The limit of the figures by size.")
flags.DEFINE_bool("missed", False, "List the emboli without a candidate.")

SIZES = (0, 100, 500, 2000, np.inf)  # mm^3


@dataclasses.dataclass
class Volume:
    """What was found in one volume, the candidates in the order in which a limit keeps them."""

    name: str
    lesions: object
    points: np.ndarray
    hits: np.ndarray  # embolus of each candidate, from 0; -1: none
    sizes: np.ndarray  # of the emboli, mm^3
    seconds: float
    mirrored: bool | None

    def found(self, limit: int | None = None) -> np.ndarray:
        """Which emboli have a candidate among the first ``limit``."""
        return np.isin(np.arange(len(self.sizes)), self.hits[:limit])


def search(source, mask, mirrored: bool | None) -> Volume:
    """Candidates of one volume, in the arteries of the mask (a grid) if there is one."""
    volume = _volumes.read(source)
    lesions = _volumes.read_lesions(source, volume)
    arteries = None
    if mask is not None:
        arteries = _lesions.regrid(_grids.labels(mask), mask.affine, volume)[0] > 0
        arteries = arteries[..., ::-1] if mirrored else arteries
    started = time.process_time()
    settings = embolus.Settings(most=np.iinfo(np.int64).max)
    found = embolus.find(volume.hu, volume.spacing, vessels=arteries, settings=settings)
    seconds = time.process_time() - started
    found.sort(key=lambda each: -each.merit)
    points = np.array([each.voxel for each in found], np.int64).reshape(-1, 3)
    sizes = np.array([each["volume_mm3"] for each in pe.describe(lesions, volume)])
    hits = pe.matches(points, lesions, volume, 0.0)
    return Volume(source.name, lesions, points, hits, sizes, seconds, mirrored)


def share(found: np.ndarray) -> str:
    """Recall with its interval."""
    if not found.size:
        return "-"
    low, high = _shared.wilson(int(found.sum()), found.size)
    return f"{found.mean():.3f} ({low:.3f} to {high:.3f}) of {found.size}"


def by_chance(volumes: list[Volume]) -> tuple[int, int]:
    """Emboli that hold a false candidate of another case of the same handedness, of how many."""
    hits = tries = 0
    for mine in volumes:
        for other in volumes:
            if other is not mine and other.mirrored == mine.mirrored:
                false = other.points[: FLAGS.limit][other.hits[: FLAGS.limit] < 0]
                hits += np.count_nonzero(np.unique(mine.lesions.labels[tuple(false.T)]))
                tries += len(mine.sizes)
    return hits, tries


def report(volumes: list[Volume]) -> None:
    """Print everything about the volumes."""
    sizes = np.concatenate([each.sizes for each in volumes])
    counts = np.array([len(each.hits) for each in volumes])
    rows = []
    for limit in [*map(int, FLAGS.limits), None]:
        found = np.concatenate([each.found(limit) for each in volumes])
        kept = counts if limit is None else np.minimum(counts, limit)
        rows.append([str(limit or "none"), share(found), f"{kept.mean():.0f}", f"{kept.max()}"])
    header = ["limit", "recall (95 % interval)", "candidates a volume", "most"]
    print(_shared.table(header, rows))
    found = np.concatenate([each.found(FLAGS.limit) for each in volumes])
    for low, high in itertools.pairwise(SIZES):
        chosen = (sizes >= low) & (sizes < high)
        print(f"emboli of {low:g} to {high:g} mm3, limit {FLAGS.limit}: {share(found[chosen])}")
    seconds = np.array([each.seconds for each in volumes])
    voxels = np.mean([each.lesions.labels.size for each in volumes]) / 1e6
    print(
        f"{len(volumes)} volumes of {voxels:.1f} million voxels on average: processor seconds a "
        f"volume {_shared.spread(seconds)}"
    )
    if None not in [each.mirrored for each in volumes]:
        hits, tries = by_chance(volumes)
        print(f"by chance, limit {FLAGS.limit}: {hits} of {tries}, {hits / max(tries, 1):.3f}")


def main(_: list[str]) -> None:
    """Search every volume and print one table."""
    root = pathlib.Path(FLAGS.input)
    record = root / "implanted.json"
    cases = json.loads(record.read_text())["patients"] if record.exists() else []
    mirrored = {case["case"]: case["mirrored"] for case in cases}
    mask = None
    if FLAGS.arteries:
        path = pathlib.Path(FLAGS.arteries).resolve()
        mask = _volumes.open_grid(path, path.parent)
    volumes = []
    for source in _volumes.find(root):
        name = pathlib.PurePath(source.name).name.split(".")[0]
        volumes.append(search(source, mask, mirrored.get(name)))
        if FLAGS.missed:
            lost = volumes[-1].sizes[~volumes[-1].found(FLAGS.limit)]
            print(f"{name}: {len(lost)} of {len(volumes[-1].sizes)} missed, mm3 {lost.tolist()}")
    report(volumes)


if __name__ == "__main__":
    app.run(main)
