"""Features of frozen layers for all depths of a study: one pass, against one pass a depth.

    PYTHONPATH=. python benchmarks/shared_prefix.py --data=RECORDS [--model=alexnet]

For every depth that freezes something, the features of the training and the validation part are
computed and kept on disk, first each depth by itself as separate runs do, then all in the pass of
the deepest prefix as a study does; then once more for a quarter of the training subjects, for which
a study computes nothing. Compared are the processor seconds of this process (on a busy machine they
mean more than time on the clock) and the features, which must be equal to the last bit.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--app", default="cimt")
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()

    import numpy as np

    from medxfer import batches, data, distribution, experiment
    from medxfer.config import Config
    from medxfer.models import _groups
    from medxfer.steps import Inference

    config = Config(
        app=options.app, model=options.model, data=options.data, precision=options.precision,
        cache="disk", cache_gib=64,
    )  # fmt: skip
    experiment.start(config)
    folder = experiment.open_data(config)
    built = experiment.build(config, len(folder.classes))
    strategy = distribution.strategy("one")
    depths = [g for g in list(built.groups)[1:] if g not in built.weights.new[1:]]
    prefixes = {g: _groups.split_at(built.model, built.groups, g)[0] for g in depths}

    def parts(fraction: float) -> dict[str, data.Pipeline]:
        transform = data.patch_transform(built.network)
        return {
            split: data.Pipeline(
                folder, split, batch_size=config.batch_size, transform=transform,
                fraction=fraction if split == "train" else 1.0,
            )
            for split in ("train", "validation")
        }  # fmt: skip

    def features(depth: str, fraction: float, shorter=()):
        """Sources of a run, and the processor seconds they took."""
        chosen, began = parts(fraction), time.process_time()
        forward = Inference(
            strategy, lambda x: prefixes[depth](x, training=False), config.batch_size
        )
        found = batches.sources(chosen, strategy, config, prefixes[depth], forward, shorter)
        return found, time.process_time() - began

    deepest = depths[-1]
    shorter = [prefixes[g] for g in depths[:-1]]
    print("| depth | training subjects | alone, s | in a study, s | equal |\n|---|---|---|---|---|")
    sums = np.zeros(2)
    with tempfile.TemporaryDirectory() as together:
        for fraction in (1.0, 0.25):
            for depth in reversed(depths):
                os.environ["MEDXFER_CACHE"] = together
                one, shared = features(depth, fraction, shorter if depth == deepest else ())
                with tempfile.TemporaryDirectory() as place:
                    os.environ["MEDXFER_CACHE"] = place
                    other, alone = features(depth, fraction)
                    equal = all(
                        np.array_equal(one[part].features(), other[part].features()) for part in one
                    )
                sums += alone, shared
                print(f"| {depth} | {fraction:.0%} | {alone:.1f} | {shared:.1f} | {equal} |")
        kept = sum(path.stat().st_size for path in pathlib.Path(together).rglob("*.npy"))
    print(f"| sum | | {sums[0]:.1f} | {sums[1]:.1f} | |\n\n{kept / 2**30:.2f} GiB on disk")
    return 0


if __name__ == "__main__":
    sys.exit(main())
