"""Training throughput of AlexNet as Caffe has it, against the same network in PyTorch.

    PYTHONPATH=. python benchmarks/train_throughput.py [--batch=64] [--rounds=7] [--quick]

Both train every layer (conv1 to fc8) on one batch of random images, 227 x 227 pixels, 3 classes,
with two groups in conv2, conv4 and conv5, local response normalisation, dropout and momentum SGD
with a rate for every layer (ten times for fc8, twice for biases) and weight decay on kernels. Ours
is the step that training runs. Each framework has a process of its own with as many threads as the
others; the processes take turns, so a round compares them under the same conditions, and the ratio
is taken round by round. PyTorch runs as written (NCHW) and in channels_last.

Needs PyTorch, which medxfer does not: pip install torch --index-url
https://download.pytorch.org/whl/cpu. Without it the script ends with exit status 2.

Expected in float32: at least 2.5 times the images per second of the same network in plain PyTorch.
"""

import argparse
import importlib.util
import statistics
import sys
import time

import _shared

SIDE, CLASSES, MOMENTUM, DECAY, RATE = 227, 3, 0.9, 5e-4, 1e-6
GROUPS = {
    "float32": ("ours/float32", "torch/float32", "torch/float32/channels_last"),
    "bfloat16": ("ours/bfloat16", "torch/bfloat16", "torch/bfloat16/channels_last"),
}


def ours(dtype: str, batch: int, threads: int):
    """One training step of this project."""
    import keras
    import numpy as np
    import tensorflow as tf

    from medxfer import distribution, steps, tuning
    from medxfer.config import Config
    from medxfer.models import _groups, alexnet_caffe
    from medxfer.tuning.optimizer import for_stage

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    keras.config.set_dtype_policy("float32" if dtype == "float32" else "mixed_bfloat16")
    model = alexnet_caffe.build(CLASSES)
    groups = _groups.layer_groups(model, alexnet_caffe.LAYER_GROUPS)
    config = Config(app="cimt", base_rate=RATE, weight_decay=DECAY, momentum=MOMENTUM)
    (stage,) = tuning.stages_for("conv1", list(groups), config)
    optimizer = for_stage(groups, stage, momentum=MOMENTUM, weight_decay=DECAY)
    step = steps.TrainStep(distribution.strategy("one"), model, lambda x: x, optimizer, batch)
    rng = np.random.default_rng(0)
    x = tf.constant(50 * rng.standard_normal((batch, SIDE, SIDE, 3), np.float32))
    y = tf.constant(rng.integers(0, CLASSES, batch))
    return lambda: float(step(x, y))


def peer(dtype: str, layout: str, batch: int, threads: int):
    """One training step of PyTorch."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    def norm():
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

    network = nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, CLASSES),
    )  # fmt: skip
    layers = [layer for layer in network if hasattr(layer, "weight")]
    rates = [RATE] * (len(layers) - 1) + [10 * RATE]
    parameters = [
        group
        for layer, rate in zip(layers, rates, strict=True)
        for group in (
            {"params": [layer.weight], "lr": rate, "weight_decay": DECAY},
            {"params": [layer.bias], "lr": 2 * rate},
        )
    ]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    x, y = 50 * torch.randn(batch, 3, SIDE, SIDE), torch.randint(0, CLASSES, (batch,))
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def worker(name: str, batch: int, threads: int, steps_a_round: int) -> None:
    """Serve rounds: images per second of ``steps_a_round`` training steps."""
    framework, dtype, layout = (name.split("/") + [""])[:3]
    make = (ours, dtype) if framework == "ours" else (peer, dtype, layout)
    step = make[0](*make[1:], batch, threads)

    def work() -> float:
        started = time.perf_counter()
        for _ in range(steps_a_round):
            step()
        return steps_a_round * batch / (time.perf_counter() - started)

    _shared.serve(work)


def main() -> int:
    """Run and print; exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="training steps in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="three rounds of one step")
    parser.add_argument("--dtypes", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 3, 1
    if options.worker:
        worker(options.worker, options.batch, options.threads, options.steps)
        return 0
    if importlib.util.find_spec("torch") is None:
        print(
            "PyTorch is not installed: pip install torch --index-url "
            "https://download.pytorch.org/whl/cpu",
            file=sys.stderr,
        )
        return 2
    print(f"AlexNet (Caffe), conv1-fc8, batch {options.batch}, {options.threads} threads each;")
    print(f"{options.rounds} rounds of {options.steps} steps, processes taking turns.")
    print(_shared.machine(), flush=True)
    arguments = [f"--{key}={getattr(options, key)}" for key in ("batch", "threads", "steps")]
    for dtype in options.dtypes:
        workers = [
            _shared.Turns(__file__, name, options.threads, arguments) for name in GROUPS[dtype]
        ]
        results = _shared.alternate(workers, options.rounds)
        for one in workers:
            one.close()
        mine = results[GROUPS[dtype][0]]
        rows = [
            (
                name,
                _shared.spread(values),
                _shared.spread([a / b for a, b in zip(mine, values, strict=True)], 2),
            )
            for name, values in results.items()
        ]
        print("\n" + _shared.table(("", "images/s", "ours is faster by"), rows))
        plain = results[GROUPS[dtype][1]]
        ratio = statistics.median(a / b for a, b in zip(mine, plain, strict=True))
        target = "at least 2.5" if dtype == "float32" else ""
        _shared.record(f"training against PyTorch, {dtype}", ratio, "times", target)
        print(f"{dtype}: {ratio:.2f} times plain PyTorch (NCHW, as written).", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
