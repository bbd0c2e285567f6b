"""Patches from records to batches, against PyTorch's DataLoader over the same patches.

    PYTHONPATH=. python benchmarks/input_pipeline.py [--patches=4000] [--side=96] [--quick]

Colour patches, smoothed noise about as compressible as endoscopy's, are kept as records of
``data_prep`` and as one PNG file each, as most PyTorch sets of images are. Both sides give shuffled
batches of 50 patches, float32: here :class:`medxfer.data.Pipeline`, there a Dataset that reads with
Pillow, and DataLoader. Each in a process of its own, in turns, an epoch a round; counted are
patches a second of processor time, so of one core. The first epoch, in which records are read and
decoded, stands by itself: later ones have the patches in memory. Then both with the network's own
input, 227 x 227 pixels and normalised, where resizing is most of the work.

Needs PyTorch, which medxfer does not: pip install torch --index-url
https://download.pytorch.org/whl/cpu. Expected: at least 5 times as many patches a second.
"""

import argparse
import importlib.util
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import _shared
import numpy as np

BATCH, INPUT_SIDE = 50, 227
NAMES = {"subject": "0" * 12, "case": "1" * 12}


def write(folder: pathlib.Path, count: int, side: int) -> None:
    """The same patches as a dataset of one split and as files."""
    from scipy import ndimage

    from data_prep import records, runner, shards

    rng = np.random.default_rng(0)
    scene = ndimage.gaussian_filter(rng.normal(0, 1, (1200, 1200, 3)), (3, 3, 0))
    scene = scene / scene.std() * 45 + 120 + rng.normal(0, 2, scene.shape)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    (folder / "png").mkdir()
    examples = []
    for number in range(count):
        y, x = rng.integers(0, 1200 - side, 2)
        patch = scene[y : y + side, x : x + side]
        examples.append(records.Example(f"{number}", patch, number % 2, unit=f"{number}", **NAMES))
        (folder / "png" / f"{number:06d}-{number % 2}.png").write_bytes(records.png(patch))
    layout = shards.Layout("any", ("no", "yes"), {}, {"train": ("train", "patch")}, channels=3)
    spills, _ = runner.run(
        lambda study: runner.StudyResult(NAMES["case"], NAMES["subject"], {"patch": examples}),
        [runner.Study("study", ())],
        folder / "work",
        extras={},
        tokens=["study"],
    )
    rest = {"seed": 0, "settings": {}, "inputs": "", "skipped": {}}
    shards.write_dataset(folder / "records", layout, spills, {NAMES["subject"]: "train"}, **rest)


def ours(folder: pathlib.Path, whole: bool) -> Callable[[], float]:
    """An epoch of the package's own pipeline; the first call reads the records."""
    import tensorflow as tf

    from medxfer import data
    from medxfer.dataset_folder import DatasetFolder
    from medxfer.models import alexnet

    transform = data.patch_transform(alexnet) if whole else lambda x: tf.cast(x, tf.float32)
    opened = DatasetFolder.open(folder / "records")
    kept = []

    def epoch() -> float:
        begun, count = time.process_time(), 0
        if not kept:
            kept.append(data.Pipeline(opened, "train", batch_size=BATCH, transform=transform))
        for images, *_ in kept[0].epoch(1):
            count += images.shape[0]
        return count / (time.process_time() - begun)

    return epoch


def theirs(folder: pathlib.Path, whole: bool) -> Callable[[], float]:
    """An epoch of PyTorch's DataLoader over files."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    class Files(torch.utils.data.Dataset):
        paths = sorted((folder / "png").iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
            with Image.open(self.paths[place]) as file:
                image = torch.from_numpy(np.array(file)).permute(2, 0, 1).float()
            if whole:
                side = (INPUT_SIDE, INPUT_SIDE)
                image = torch.nn.functional.interpolate(image[None], side, mode="bilinear")[0]
                image = (image / 255 - mean) / deviation
            return image, int(self.paths[place].stem.rpartition("-")[2])

    loader = torch.utils.data.DataLoader(Files(), BATCH, shuffle=True)

    def epoch() -> float:
        begun = time.process_time()
        count = sum(len(labels) for _, labels in loader)
        return count / (time.process_time() - begun)

    return epoch


def main() -> int:
    """Write the patches, let both sides take turns, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=4000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        side, what = options.worker.split(", ")
        _shared.serve({"medxfer": ours, "PyTorch": theirs}[side](options.folder, what == "input"))
        return 0
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: pip install torch --index-url "
              "https://download.pytorch.org/whl/cpu", file=sys.stderr)  # fmt: skip
        return 2
    if options.quick:
        options.patches, options.rounds = 2000, 3
    print(f"{options.patches} patches of {options.side} pixels, batches of {BATCH}, one thread.")
    print(_shared.machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder), options.patches, options.side)
        for what, target in (("patches", "at least 5"), ("input", "")):
            names = [f"medxfer, {what}", f"PyTorch, {what}"]
            peers = [_shared.Turns(__file__, name, 1, [f"--folder={folder}"]) for name in names]
            first = [peer.round() for peer in peers]
            found = {peer.name: [] for peer in peers}
            for _ in range(options.rounds):
                for peer in peers:
                    found[peer.name].append(peer.round())
            for peer in peers:
                peer.close()
            later = statistics.median(a / b for a, b in zip(*found.values(), strict=True))
            rows = [
                (name, f"{one:.0f}", _shared.spread(values, 0))
                for (name, values), one in zip(found.items(), first, strict=True)
            ]
            header = (what, "first epoch, patches/s", "later epochs")
            print("\n" + _shared.table(header, rows))
            print(f"{first[0] / first[1]:.1f} and {later:.1f} times PyTorch's.", flush=True)
            title = "reading patches" if what == "patches" else f"input of {INPUT_SIDE} pixels"
            _shared.record(f"{title}, first epoch, against DataLoader", first[0] / first[1],
                           "times", target)  # fmt: skip
            _shared.record(f"{title}, later epochs, against DataLoader", later, "times", target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
