"""With which rate and which random weights training starts, and the warning of a poor start."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from medxfer import experiment, plugins
from medxfer.config import INITS, Config

# Reads one command line after the other, as a process of its own would.
READ = """
import json, sys
from absl.testing import flagsaver
from medxfer import main
for line in json.load(sys.stdin):
    with flagsaver.flagsaver():
        main.FLAGS(["medxfer", *line])
        config = main.config_from_flags()
        print(json.dumps([config.base_rate, config.init]))
"""


def read(*lines):
    """(base rate, start) of every command line."""
    done = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_network_has_its_own_rate_and_start_unless_they_are_given():
    names = plugins.names("medxfer.models")
    own = {
        name: [plugins.constant("medxfer.models", name, key) for key in ("RATE", "INIT")]
        for name in names
    }
    lines, expected = [], []
    for name, (rate, init) in own.items():
        model = f"--model={name}"
        for flags, wanted in (
            (["--tune=ft"], (rate, INITS[0])),
            (["--tune=scratch"], (rate, init)),
            (["--tune=scratch", "--base_rate=0.02"], (0.02, init)),
            (["--tune=ft", f"--base_rate={rate * 2}"], (rate * 2, INITS[0])),
            *((["--tune=scratch", f"--init={one}"], (rate, one)) for one in INITS),
            (["--tune=ft", "--init=xavier", "--base_rate=0.5"], (0.5, "xavier")),
        ):
            lines.append([model, *flags])
            expected.append(wanted)
    assert read(*lines) == expected
    assert own["alexnet"][1] == "msra" and own["alexnet_caffe"][1] == "gaussian"


@pytest.mark.parametrize(
    ("spread", "offset", "warned"),
    [
        (1, 0, False),  # any size of outputs, with and without a constant part
        (1e-6, 0, False),
        (0.1, 1, False),
        (8e-5, 0.1, True),
        (1e-3, 1, True),
        (0, 0, True),  # nothing at all arrives
        (0, 3, True),
    ],
)
def test_a_start_without_a_signal_is_warned_about(caplog, spread, offset, warned):
    outputs = offset + spread * np.random.default_rng(0).normal(size=(8, 3))
    built = SimpleNamespace(model=lambda images, training: outputs[: len(images)])
    part = SimpleNamespace(ordered=lambda: iter([(None, np.zeros((20, 4, 4, 3)), None)]))
    with caplog.at_level("INFO", logger="absl"):
        experiment._say_start(Config("", base_rate=0.02, init="xavier"), built, part)
    assert "Base rate 0.02, start of new layers: xavier." in caplog.text
    assert ("differ by only" in caplog.text) is warned


def test_one_image_is_not_compared_with_itself(caplog):
    built = SimpleNamespace(model=lambda images, training: np.ones((len(images), 2)))
    part = SimpleNamespace(ordered=lambda: iter([(None, np.zeros((1, 4, 4, 3)), None)]))
    experiment._say_start(Config(""), built, part)
    assert "differ by only" not in caplog.text
