"""How fast a card trains the networks, layer by layer, and what share of its peak that is.

    KERAS_BACKEND=torch PYTHONPATH=. python benchmarks/accelerator.py --peak_tflops=989

Networks, stages and the layer-wise optimizer run on Keras' JAX and PyTorch backends as they do on
TensorFlow's. Times training steps on images that lie on the device already (``train_on_batch``),
from the head alone to all layers. Operations are counted as two for a multiply-accumulate: one pass
forwards through all layers, one backwards through those that are tuned for the weights, and one for
what reaches them. ``--peak_tflops`` is the maker's figure for the precision that is used, without
sparsity (H200, bfloat16: 989). Without a card it runs on the processor.
"""

import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from medxfer import groups_table, models, tuning  # noqa: E402
from medxfer.config import Config  # noqa: E402
from medxfer.models import _groups  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["alexnet", "resnet50", "densenet121", "vgg19"], "Networks.")
flags.DEFINE_integer("batch", 64, "Images in a step.", lower_bound=1)
flags.DEFINE_integer("steps", 20, "Steps of a round.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Rounds; the median counts.", lower_bound=1)
flags.DEFINE_enum(
    "precision", "mixed_bfloat16", ["float32", "mixed_bfloat16", "mixed_float16"], "Of compute."
)
flags.DEFINE_float("peak_tflops", None, "The maker's figure for this precision, in 1e12 a second.")
flags.DEFINE_string("output", None, "JSON file to write.")


def device() -> str:
    """Name of what computes."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(found[0]) if found else {}
    return details.get("device_name", "processor")


def operations(groups: list[groups_table.Group], stage: tuning.Stage) -> float:
    """Of a training step, an image: forwards through all, backwards down to the first tuned."""
    macs = [group.macs for group in groups]
    first = next(i for i, group in enumerate(groups) if not stage.frozen(group.name))
    tuned = sum(m for g, m in zip(groups, macs, strict=True) if not stage.frozen(g.name))
    return 2.0 * (sum(macs) + tuned + sum(macs[first + 1 :]))


def seconds(model: keras.Model, batch: int) -> float:
    """Of a step, median over rounds."""
    rng = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(
        rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    )
    labels = keras.ops.convert_to_tensor(rng.integers(0, model.output_shape[-1], batch))
    times = []
    for _ in range(FLAGS.rounds + 1):  # the first one compiles
        began = time.perf_counter()
        for _ in range(FLAGS.steps):
            loss = model.train_on_batch(images, labels)
        float(np.asarray(loss).ravel()[0])  # waits for the device
        times.append((time.perf_counter() - began) / FLAGS.steps)
    return statistics.median(times[1:])


def main(arguments: list[str]) -> None:
    """Every network, tuned from its head, from its middle and from its first layer."""
    keras.config.set_dtype_policy(FLAGS.precision)
    found = {"device": device(), "backend": keras.backend.backend(), "precision": FLAGS.precision}
    found |= {"keras": keras.__version__, "batch": FLAGS.batch, "networks": {}}
    print(f"{found['device']}, {found['backend']}, {FLAGS.precision}, batch {FLAGS.batch}")
    for name in FLAGS.models:
        network = models.load(name)
        depths = list(network.LAYER_GROUPS)
        for depth in dict.fromkeys((depths[-1], depths[len(depths) // 2], depths[0])):
            model = network.build(3, init="msra")
            layers = _groups.layer_groups(model, network.LAYER_GROUPS)
            (stage,) = tuning.stages_for(depth, depths, Config("classify"))
            tuning.freeze(layers, stage)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(tuning.for_stage(layers, stage), loss)
            took = seconds(model, FLAGS.batch)
            work = operations(groups_table.groups_of(model, network.LAYER_GROUPS), stage)
            reached = work * FLAGS.batch / took / 1e12
            entry = {"images_per_second": FLAGS.batch / took, "tflops": reached}
            words = (
                f"{name:12} from {depth:7} {FLAGS.batch / took:9.1f} images/s {reached:8.2f} TF/s"
            )
            if FLAGS.peak_tflops:
                entry["share_of_peak"] = reached / FLAGS.peak_tflops
                words += f" {entry['share_of_peak']:7.1%} of the peak"
            found["networks"].setdefault(name, {})[depth] = entry
            print(words, flush=True)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
