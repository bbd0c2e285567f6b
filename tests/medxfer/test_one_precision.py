"""What is evaluated is what is served, in whatever precision a network was trained."""

import csv
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data_prep import classify as prep
from medxfer import data
from medxfer.dataset_folder import DatasetFolder
from tests.medxfer.apps.test_odd_runs import write_images
from tests.testing import networks


def table(path: pathlib.Path) -> dict[str, list[float]]:
    """Unit -> probabilities by the network."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "scratch"]
    return {row["unit"]: [float(row[key]) for key in row if key.startswith("p_")] for row in rows}


@pytest.mark.parametrize("precision", ["mixed_bfloat16"])
def test_predictions_of_a_run_are_those_of_its_export(driver, tmp_path, precision):
    write_images(tmp_path / "raw", ("a", "b", "c"), each=8)
    folder = prep.prepare(tmp_path / "raw", tmp_path / "data", settings=prep.Settings(side=24))
    run = tmp_path / "run"
    done = driver.call(
        "--app=classify", f"--model={networks.NAME}", "--weights=none", "--epochs=2",
        "--batch_size=8", "--tune=scratch", f"--precision={precision}", "--base_rate=0.05",
        f"--data={folder.output}", f"--run={run}", "--nocounterparts",
    )  # fmt: skip
    assert done.status == 0, done.err
    card = json.loads((run / "run_card.json").read_text())
    assert card["precision"] == precision
    found = table(run / "predictions.csv")
    served = tf.saved_model.load(str(run / card["export"])).signatures["serving_default"]
    units = list(data.units(DatasetFolder.open(folder.output), "test"))
    images = np.stack([unit["image"] for unit in units]).astype(np.float32)
    expected = served(image=tf.constant(images))["probabilities"].numpy()
    assert expected.std(axis=0).min() > 1e-3  # else nothing is compared
    for unit, row in zip(units, expected, strict=True):
        np.testing.assert_allclose(found[unit["unit"]], row, rtol=0, atol=1e-6)
    assert driver.call("--mode=evaluate", f"--run={run}").status == 0
    assert table(run / "predictions.csv") == found
