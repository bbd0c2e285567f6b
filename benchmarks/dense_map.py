"""How fast a region of carotid wall is mapped, and how far the fast maps move the boundaries.

    PYTHONPATH=. python benchmarks/dense_map.py
    PYTHONPATH=. python benchmarks/dense_map.py --models=alexnet --weights=BEST --data=RECORDS

Maps one region of 92 x 60 pixels in three ways that take turns: every patch by itself, the
convolutions once for the whole region, and coarse to fine. By default only some 128 patches are
classified and the time is scaled to all 5,520; --full classifies all. The ratio to the peer, patch
by patch, is taken round by round. What dense maps take beyond their convolutions goes to the fully
connected layers, which limit them.

With trained weights and records of regions (split test), also prints by how much arg-max rows and
snakes differ from those of every patch by itself, and how far the snakes are from the reference
standard: without calibration, calibrated once on other regions, and on each region by itself.

Expected in float32: dense 10 times as fast as patch by patch, coarse to fine 30 times; a region's
own calibration adds the time of some 256 patches. With weights: snakes within about 0.3 pixels of
those of every patch by itself where each region calibrates, and as near the reference standard.
"""

import importlib
import os
import statistics

import _shared
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

FLAGS = flags.FLAGS
flags.DEFINE_list("models", "alexnet,alexnet_caffe", "Networks.")
flags.DEFINE_integer("patch", 29, "Side of a patch in pixels, odd; of --data, its own.")
flags.DEFINE_enum("precision", "float32", ("float32", "mixed_bfloat16"), "Of the network.")
flags.DEFINE_string("weights", None, "Trained weights of the one network in --models.")
flags.DEFINE_string("data", None, "Records with regions, for differences of boundaries.")
flags.DEFINE_integer("regions", 4, "Regions whose boundaries are compared.", lower_bound=1)
flags.DEFINE_integer("pixels", 128, "Patches classified patch by patch.", 1, 5520)
flags.DEFINE_bool("full", False, "Classify the patch around every pixel.")
flags.DEFINE_integer("rounds", 3, "Rounds, after one that does not count.", lower_bound=1)

HEIGHT, WIDTH = 60, 92


def speckle(patch: int):
    """A region of smoothed noise, log-compressed as B-mode is."""
    import numpy as np
    from scipy import ndimage

    from medxfer import dense

    margin = dense.default_margin(patch)
    noise = np.random.default_rng(0).normal(size=(2, HEIGHT + 2 * margin, WIDTH + 2 * margin))
    envelope = np.hypot(*ndimage.gaussian_filter(noise, (0, 1.0, 2.5)))
    return np.clip(255 * (1 + np.log10(envelope / envelope.max()) / 3), 0, 255).astype(np.uint8)


def speed(model, network, patch: int) -> None:
    """Time of the three ways in turns."""
    import numpy as np

    from medxfer import dense
    from medxfer.coarse_to_fine import coarse_to_fine

    roi = speckle(patch)
    maps, patches = (kind(model, network, patch=patch) for kind in (dense.DenseMap, dense.PatchMap))
    everywhere = np.indices((HEIGHT, WIDTH)).reshape(2, -1).T
    few = everywhere if FLAGS.full else everywhere[:: len(everywhere) // FLAGS.pixels]
    ways = {
        "patch by patch": lambda: patches.at(roi, few),
        "dense": lambda: maps(roi),
        "coarse to fine": lambda: coarse_to_fine(maps, roi),
        "convolutions of both": lambda: maps.features(roi).numpy(),
        "a calibration": lambda: maps.calibrated([roi], 256),
    }
    times = {name: [] for name in ways}
    for number in range(FLAGS.rounds + 1):
        for name, way in ways.items():
            taken = _shared.seconds(way)
            if number:
                times[name].append(taken)
    peer = times["patch by patch"] = [
        taken * len(everywhere) / len(few) for taken in times["patch by patch"]
    ]
    rows = [
        (
            name,
            _shared.spread(own, 2),
            _shared.spread([p / t for p, t in zip(peer, own, strict=True)]),
        )
        for name, own in times.items()
    ]
    for way, target in (("dense", "at least 10"), ("coarse to fine", "at least 30")):
        ratio = statistics.median(p / t for p, t in zip(peer, times[way], strict=True))
        _shared.record(f"{way} map against patch by patch", ratio, "times", target)
    print(_shared.table(("", "s per region", "times as fast"), rows))
    if not FLAGS.full:
        print(f"Patch by patch: {len(few)} patches, scaled to {len(everywhere)}.")
    print(f"Coarse to fine reads the head at {coarse_to_fine(maps, roi).evaluated.mean():.0%}.")


def lines(maps):
    """Rows of both interfaces, (2, W): by arg-max, and of snakes that start there."""
    import numpy as np

    from medxfer.evaluation import boundary, snakes

    li, ma = maps[..., 1].astype(float), maps[..., 2].astype(float)
    start = boundary.Boundaries(boundary.arg_max_rows(li), boundary.arg_max_rows(ma))
    smooth = snakes.open_snakes(li, ma, start)
    return {"arg-max": np.stack([start.li, start.ma]), "snake": np.stack([smooth.li, smooth.ma])}


def accuracy(model, network, folder) -> None:
    """Differences of boundaries between the ways, on regions of the test split."""
    import numpy as np

    from medxfer import data, dense

    units = list(data.units(folder, "test"))
    settings = {"patch": folder.settings["patch"], "margin": folder.settings["margin"]}
    places = np.linspace(0, len(units) - 1, FLAGS.regions).astype(int)
    truth = [np.stack([units[k]["li"], units[k]["ma"]]) for k in places]
    rois = [unit["image"][..., 0] for unit in units]
    others = [roi for k, roi in enumerate(rois) if k not in places]
    ways = {
        "patch by patch": {"method": "patchwise"},
        "dense, not calibrated": {"own_samples": 0},
        "dense, calibrated once": {"rois": others},
        "dense, calibrated each": {"own_samples": 256},
        "coarse to fine, once": {"method": "coarse_to_fine", "rois": others},
    }
    rows, expected = [], None
    for name, way in ways.items():
        mapper = dense.mapper(model, network, **settings, **way)
        found = [lines(mapper(rois[k])) for k in places]
        expected = expected or found
        cells = [
            np.mean(
                [np.abs(f[rule] - e[rule]).mean() for f, e in zip(found, expected, strict=True)]
            )
            for rule in ("arg-max", "snake")
        ]
        pairs = zip(found, truth, strict=True)
        cells.append(np.nanmean([np.abs(f["snake"] - t) for f, t in pairs]))
        rows.append((name, *(f"{cell:.2f}" for cell in cells)))
    header = ("", "arg-max differs", "snake differs", "snake from the reference standard")
    print(f"Mean distance in pixels over {len(places)} regions:")
    print(_shared.table(header, rows))


def main(argv) -> None:
    """Build every network, then compare."""
    import keras

    from medxfer.dataset_folder import DatasetFolder

    if len(argv) > 1:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}.")
    if FLAGS.weights and len(FLAGS.models) != 1:
        raise app.UsageError("--weights needs the one network of --models that they belong to.")
    folder = DatasetFolder.open(FLAGS.data) if FLAGS.data else None
    patch = folder.settings["patch"] if folder else FLAGS.patch
    print(_shared.machine())
    keras.config.set_dtype_policy(FLAGS.precision)
    for name in FLAGS.models:
        network = importlib.import_module(f"medxfer.models.{name}")
        model = network.build(3)
        if FLAGS.weights:
            model.load_weights(FLAGS.weights)
        print(f"\n{name}, {FLAGS.precision}, patches of {patch} pixels")
        speed(model, network, patch)
        if folder and FLAGS.weights:
            accuracy(model, network, folder)


if __name__ == "__main__":
    app.run(main)
