"""In what form to store patches: PNG or raw bytes, written and read by the package's own code.

    python benchmarks/record_encoding.py [--images=FOLDER]

Prints the size of the records and how fast they are written, and read and decoded by a Pipeline.
The two forms take turns in one run; the best repeat counts. Without --images the patches come from
synthetic speckle.
"""

import os
import pathlib
import tempfile
import time
from unittest import mock

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

flags.DEFINE_string("images", None, "Folder to cut grey patches from. Default: synthetic speckle.")
flags.DEFINE_integer("patches", 8_000, "How many.", lower_bound=1)
flags.DEFINE_integer("size", 31, "Side of a patch in pixels.", lower_bound=1)
flags.DEFINE_integer("repeats", 3, "The best counts.", lower_bound=1)


def load_images(folder: str | None) -> list:
    """Grey images uint8 of a folder, or one of smoothed noise, log-compressed as B-mode is."""
    import numpy as np
    from PIL import Image
    from scipy import ndimage

    if folder is None:
        noise = np.random.default_rng(0).normal(size=(2, 576, 768))
        envelope = np.hypot(*ndimage.gaussian_filter(noise, (0, 1.0, 2.5)))
        decibels = 20 * np.log10(envelope / envelope.max())
        return [np.clip(255 * (1 + decibels / 60), 0, 255).astype(np.uint8)]
    found = []
    for path in sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file()):
        try:
            found.append(np.asarray(Image.open(path).convert("L")))
        except OSError:
            continue  # not an image
    if not found:
        raise app.UsageError(f"--images={folder} holds no image.")
    return found


def cut(images: list, count: int, size: int) -> list:
    """Examples of patches at random places, as many of every image."""
    import numpy as np

    from data_prep import patches, records

    rng = np.random.default_rng(0)
    extras = {"mm_per_pixel": 0.06, "x": 0.0, "y": 0.0, "margin": 0, "li": [], "ma": []}
    names = dict(subject="0" * 12, case="1" * 12)
    found: list[records.Example] = []
    for place, image in enumerate(images, 1):
        share = count * place // len(images) - len(found)
        centres = rng.integers(0, image.shape[::-1], (share, 2))
        for patch in patches.crop(image, centres, size):
            unit = f"{names['case']}-{len(found)}"
            found.append(records.Example(unit, patch, 0, **names, unit=unit, extras=extras))
    return found


def write(examples: list, root: pathlib.Path):
    """A dataset folder with one split."""
    from data_prep import cimt, runner, shards
    from medxfer.dataset_folder import DatasetFolder

    layout = shards.Layout("cimt", cimt.CLASSES, cimt.EXTRAS, {"train": ("train", "patch")})
    case, subject = examples[0].case, examples[0].subject
    spills, _ = runner.run(
        lambda study: runner.StudyResult(case, subject, {"patch": examples}),
        [runner.Study("study", ())],
        root / "work",
        extras=layout.extras,
        tokens=["study"],
    )
    parts, rest = {subject: "train"}, dict(seed=0, settings={}, inputs="", skipped={})
    shards.write_dataset(root / "records", layout, spills, parts, **rest)
    return DatasetFolder.open(root / "records")


def read(folder) -> None:
    """Read and decode the split, as a training run does once."""
    from medxfer import data

    data.Pipeline(folder, "train", batch_size=50, transform=lambda images: images)


def main(_: list[str]) -> None:
    """Write the patches in either form, read them in turn, print one table."""
    import tensorflow as tf

    values = flags.FLAGS
    size, count = values.size, values.patches
    examples = cut(load_images(values.images), count, size)

    def decode_batch(_: object, images: tf.Tensor, **__: object) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), (-1, size, size, 1))

    forms = {
        "PNG": (),
        # Raw bytes need no call for each image: a whole batch is decoded at once.
        "raw": (
            mock.patch("data_prep.records.png", lambda image: image.tobytes()),
            mock.patch("tensorflow.map_fn", decode_batch),
        ),
    }
    seconds = {form: {"write": [], "read": []} for form in forms}
    sizes = {}
    with tempfile.TemporaryDirectory() as root:
        for repeat in range(values.repeats):
            for form, patched in forms.items():
                for patch in patched:
                    patch.start()
                start = time.perf_counter()
                folder = write(examples, pathlib.Path(root, f"{form}{repeat}"))
                middle = time.perf_counter()
                read(folder)
                seconds[form]["read"].append(time.perf_counter() - middle)
                seconds[form]["write"].append(middle - start)
                sizes[form] = sum(file.stat().st_size for file in folder.files("train"))
                for patch in patched:
                    patch.stop()
    print(f"{count} grey patches of {size} x {size} pixels from {values.images or 'speckle'}")
    print("form  bytes/record  written/s  read/s")
    for form, taken in seconds.items():
        written, loaded = (count / min(taken[what]) for what in ("write", "read"))
        print(f"{form:4}  {sizes[form] / count:12.0f}  {written:9.0f}  {loaded:6.0f}")


if __name__ == "__main__":
    app.run(main)
