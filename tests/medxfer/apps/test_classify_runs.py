"""Whole runs of the classify app, as a user would start them."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from data_prep import classify as prep
from data_prep.phantoms import classify as phantom
from tests.medxfer.test_report import Page
from tests.testing import networks

pytestmark = pytest.mark.slow

SMALL = prep.Settings(side=48)
COMMON = (
    "--app=classify", f"--model={networks.NAME}", "--weights=none", "--epochs=2",
    "--batch_size=16", "--precision=float32",
)  # fmt: skip


def records_of(folder, **options):
    phantom.generate(folder / "raw", **options)
    return prep.prepare(folder / "raw", folder / "records", settings=SMALL).output


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return records_of(tmp_path_factory.mktemp("one"), subjects=30, seed=1)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return records_of(tmp_path_factory.mktemp("several"), subjects=24, seed=3, multilabel=True)


@pytest.fixture(scope="module")
def trained(driver, records, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "one"
    done = driver.call(
        *COMMON, "--tune=scratch", "--balance=sampling", f"--data={records}", f"--run={run}"
    )
    assert done.status == 0, done.err
    return run, done


def test_a_run_leaves_its_numbers_figures_and_classes(trained):
    run, done = trained
    card = json.loads((run / "run_card.json").read_text())
    assert card["data"]["classes"] == list(phantom.CLASSES)
    assert list(card["metrics"]) == ["scratch", "handcrafted"]
    assert {"AUC", "balanced accuracy", "macro F1", "accuracy", "ECE"} <= set(
        card["metrics"]["scratch"]
    )
    for name in phantom.CLASSES:
        assert f"sensitivity: {name}" in done.out
    names = {path.stem for path in (run / "figures").glob("*.png")}
    expected = {"roc", "confusion", "classes", "reliability", "mistakes", "learning_curves"}
    assert names == expected
    assert len(Page((run / "report.html").read_text()).addresses) == len(names)


def test_a_folder_of_images_is_predicted(driver, trained, records, tmp_path):
    run, _ = trained
    raw = tmp_path / "Mueller_Anna"
    phantom.generate(raw, subjects=4, seed=9)
    (raw / "images" / "broken.png").write_bytes(b"\x89PNG")
    output = tmp_path / "out"
    done = driver.call("--mode=predict", f"--run={run}", f"--input={raw}", f"--output={output}")
    assert done.status == 0, done.err
    assert sorted(path.name for path in output.iterdir()) == [
        "contact_sheet.png", "predictions.csv", "predictions.json",
    ]  # fmt: skip
    found = json.loads((output / "predictions.json").read_text())
    table = list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))
    assert len(found["images"]) == len(table) and found["left_out"] == 1
    assert f"{len(table)} images predicted, 1 left out" in done.out
    assert sum(f"{name}: " in done.out for name in phantom.CLASSES) == 3
    for content in (path.read_bytes() for path in output.iterdir()):
        assert b"Mueller" not in content

    import tensorflow as tf

    served = tf.saved_model.load(str(run / "export" / "classify" / "1")).signatures
    for path, row in zip(sorted((raw / "images").glob("*.png")), found["images"], strict=False):
        if path.name == "broken.png":
            break
        answer = served["image_bytes"](image_bytes=tf.constant([path.read_bytes()]))
        expected = list(row["probabilities"].values())
        np.testing.assert_allclose(answer["probabilities"][0], expected, atol=0.01)


def test_other_classes_cannot_be_evaluated(driver, trained, tmp_path):
    run, _ = trained
    other = records_of(tmp_path, subjects=20, seed=5, classes=2)
    done = driver.call("--mode=evaluate", f"--run={run}", f"--data={other}")
    assert "prepare the data with --classes=lobulated,smooth,spiculated" in done.error
    assert not (run / "evaluations").exists()


def test_check_knows_the_classes(driver, records, several):
    for folder in (records, several):
        done = driver.call("--mode=check", "--app=classify", f"--data={folder}")
        assert (done.status, done.out.splitlines()[-1]) == (0, "Nothing wrong was found.")
        assert "spiculated" in done.out


def test_several_labels(driver, several, tmp_path):
    call = (*COMMON, "--tune=ft", f"--data={several}", f"--run={tmp_path / 'run'}")
    assert (
        "--balance=sampling needs classes that exclude each other"
        in driver.call(*call, "--balance=sampling").error
    )
    done = driver.call(*call, "--balance=weights")
    assert done.status == 0, done.err
    assert "exact match" in done.out
    about = tmp_path / "run" / "export" / "classify" / "1" / "assets.extra" / "medxfer.json"
    assert json.loads(about.read_text())["multilabel"]
    again = driver.call("--mode=evaluate", f"--run={tmp_path / 'run'}")
    assert again.status == 0, again.err


def test_a_study(records, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.testing.drive_study", *COMMON, f"--data={records}",
         "--strategies=ft", "--depths=fc2", "--inits=msra", "--fractions=1", "--seeds=2",
         f"--output={tmp_path / 'study'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = (tmp_path / "study" / "tables").glob("*")
    text = "\n".join(path.read_text() for path in tables if path.suffix in (".csv", ".md"))
    assert "balanced accuracy" in text and "handcrafted" in text
    assert (tmp_path / "study" / "report.html").is_file()
