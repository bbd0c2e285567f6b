"""Every strategy against its formula in NumPy: ten steps, two an epoch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.testing import numpy_training as reference
from tests.testing import train_strategies

RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def expected(tune, start, scores, first=0):
    data = train_strategies.pipelines()[0]
    order = data.shuffled_indices
    return reference.train(tune, start, data.images, data.labels, order, scores, first)


def assert_close(found, formula):
    assert len(found) == len(formula)
    for mine, theirs in zip(found, formula, strict=True):
        for path in reference.PATHS:
            np.testing.assert_allclose(mine[path], theirs[path], rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("tune", [name for name in reference.STAGES if name != "lp_ft"])
def test_ten_steps(tmp_path, tune):
    """Gradual unfreezing and the like included; momenta begin anew with every stage."""
    start = train_strategies.weights_of(train_strategies.build())
    found, *_ = train_strategies.train(tune, tmp_path, scores=RISING)
    assert_close(found, expected(tune, start, RISING))


def test_ten_steps_after_a_linear_probe(tmp_path):
    found, _, history = train_strategies.train("lp_ft", tmp_path, scores=[0.0] * 100 + RISING)
    assert [epoch.stage for epoch in history.epochs] == ["lp"] + ["ft"] * 5
    assert_close(found[1:], expected("lp_ft", found[0], RISING, first=1))


def test_a_stage_begins_with_the_best_weights_and_no_momentum(tmp_path):
    """The best epoch is never the last one of its stage."""
    start = train_strategies.weights_of(train_strategies.build())
    scores = [0.1, 0.1, 0.4, 0.9, 0.5]
    found, model, _ = train_strategies.train("g_lf", tmp_path, scores=scores)
    formula = expected("g_lf", start, scores)
    assert_close(found, formula)
    assert_close([train_strategies.weights_of(model)], formula[3:4])


@pytest.mark.parametrize(
    "names",
    [
        ("lp_ft", "auto_rgn"),
        pytest.param(("ft", "g_lf", "g_fl", "l2_sp", "l1_sp", "auto_snr"), marks=pytest.mark.slow),
    ],
)
def test_two_replicas(tmp_path, names):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    path = tmp_path / "weights.npz"
    command = [sys.executable, "-W", "ignore", "-m", "tests.testing.train_strategies", str(path)]
    result = subprocess.run(
        [*command, *names], env=environment, timeout=600, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    start = train_strategies.weights_of(train_strategies.build())
    with np.load(path) as file:
        assert file["replicas"] == 2
        for tune in names:
            probe = tune == "lp_ft"
            found = [
                {path: file[f"{tune}/{epoch}/{path}"] for path in reference.PATHS}
                for epoch in range(5 + probe)
            ]
            begin = found.pop(0) if probe else start
            assert_close(found, expected(tune, begin, RISING, first=int(probe)))
        # Moments of the global batch: batch normalisation too is that of one device.
        one, *_ = train_strategies.train(
            "ft", tmp_path / "bn", model=train_strategies.normalised(), freeze_bn="train"
        )
        for path, value in one[-1].items():
            np.testing.assert_allclose(file[f"bn/{path}"], value, atol=1e-5, err_msg=path)
