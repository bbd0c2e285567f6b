"""Whole runs on data that are right, but not as one thinks: odd class names, no test part."""

import csv
import importlib
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_prep import cimt, command
from data_prep import classify as prep
from data_prep.errors import UserError
from tests.data_prep.test_commands import SMALL, shell
from tests.medxfer.conftest import SMALL as CAROTID
from tests.testing import networks
from tests.testing.names import NAMES

COMMON = (
    f"--model={networks.NAME}", "--weights=none", "--epochs=1", "--batch_size=16",
    "--precision=float32", "--tune=scratch",
)  # fmt: skip

#: The names of classes that figures, tables, report and export of one run have to bear.
ODD = ("läsion", "正常", "$x_{1}^", '_no "b", <c>', NAMES[-1])


def write_images(folder: pathlib.Path, names, each=10):
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 100, (24, 24, 3)) + 8 * index
            path = folder / name / f"p{number:02d}-{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.slow
def test_classes_of_any_name(driver, tmp_path):
    import tensorflow as tf

    write_images(tmp_path / "raw", ODD)
    settings = prep.Settings(side=16)
    folder = prep.prepare(tmp_path / "raw", tmp_path / "data", settings=settings).output
    run = tmp_path / "run"
    done = driver.call(*COMMON, "--app=classify", f"--data={folder}", f"--run={run}")
    assert done.status == 0, done.err
    assert "Warning" not in done.err
    card = json.loads((run / "run_card.json").read_text())
    names = card["data"]["classes"]
    assert sorted(names) == sorted(ODD)
    table = list(csv.DictReader((run / "predictions.csv").read_text("utf-8").splitlines()))
    assert [f"p_{name.replace(' ', '_')}" for name in names] == [
        key for key in table[0] if key.startswith("p_")
    ]
    page = (run / "report.html").read_text("utf-8")
    assert "正常" in page and "&lt;c&gt;" in page
    served = tf.saved_model.load(str(run / card["export"])).signatures["classify"]
    png = tf.io.encode_png(np.zeros((16, 16, 3), np.uint8)).numpy()
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    example = tf.train.Example(features=tf.train.Features(feature={"image": image}))
    answer = served(inputs=tf.constant([example.SerializeToString()]))["classes"].numpy()
    assert [name.decode("utf-8") for name in answer[0]] == names


def carotid(raw, output, **options):
    options = command.Options(output, cimt.PUBLIC_KEY, **options)
    return cimt.prepare(raw, output, settings=CAROTID, options=options).output


@pytest.mark.slow
@pytest.mark.parametrize("app", SMALL)
def test_without_a_test_part_in_every_app(driver, app, tmp_path):
    sizes, flags = SMALL[app]
    importlib.import_module(f"data_prep.phantoms.{app}").generate(tmp_path / "raw", **sizes)
    done = shell(
        f"data_prep.{app}", f"--input={tmp_path / 'raw'}", f"--output={tmp_path / 'data'}",
        *flags, "--test_fraction=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert trained_untested(driver, app, tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_an_own_split_needs_no_test_part_where_none_is_asked_for(tmp_path, fraction):
    for part in ("train", "val"):
        write_images(tmp_path / "raw" / part, ("a", "b"), each=3 if part == "train" else 2)
    for path in (tmp_path / "raw" / "val").rglob("*.png"):
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(pixels).save(path)
    options = command.Options(tmp_path / "data", b"key", test_fraction=fraction)
    if fraction:
        with pytest.raises(UserError, match="or train without one: --test_fraction=0"):
            prep.prepare(tmp_path / "raw", tmp_path / "data", options=options)
    else:
        made = prep.prepare(tmp_path / "raw", tmp_path / "data", options=options).prep
        assert {name: split["examples"] for name, split in made["splits"].items()} == {
            "train": 6, "validation": 4,
        }  # fmt: skip


def trained_untested(driver, app, data, run) -> bool:
    """Train without a test part, and look at what is left; evaluate on other data."""
    arguments = [*COMMON, f"--app={app}", f"--data={data}", f"--run={run}"]
    done = driver.call(*arguments)
    assert done.status == 0, done.err
    assert "There is no test part: the network will be trained, but not evaluated." in done.err
    assert "There was no test part" in done.out and f"--run={run} --data=OTHER" in done.out
    left = {path.name for path in run.iterdir()}
    assert {"run_card.json", "report.html", "export", "figures"} <= left
    assert not {"predictions.csv", "training.json"} & left
    assert json.loads((run / "run_card.json").read_text())["metrics"] == {}
    assert [path.stem for path in (run / "figures").glob("*.png")] == ["learning_curves"]
    assert "already finished" in driver.call(*arguments).err
    refused = driver.call("--mode=evaluate", f"--run={run}").error
    assert "has no test part with examples" in refused and "--data" in refused
    return True


def test_without_a_test_part_all_else_is_done_and_other_data_evaluate_it(
    driver, carotid_raw, tmp_path
):
    from data_prep.phantoms import cimt as phantom

    data = carotid(carotid_raw, tmp_path / "data", test_fraction=0.0)
    phantom.generate(tmp_path / "raw", seed=9, subjects=3, images_per_subject=1)
    table = tmp_path / "raw" / "studies.csv"
    table.write_text(table.read_text().replace(",S00", ",T00"))
    other = carotid(tmp_path / "raw", tmp_path / "other", test_fraction=1.0)
    checked = driver.call("--mode=check", "--app=cimt", f"--data={data}")
    assert checked.status == 0, checked.err
    assert "there is no test part" in checked.out
    run = tmp_path / "run"
    assert trained_untested(driver, "cimt", data, run)
    done = driver.call("--mode=evaluate", f"--run={run}", f"--data={other}")
    assert done.status == 0, done.err
    assert "thickness error, mm" in done.out
    (place,) = (run / "evaluations").iterdir()
    card = json.loads((place / "run_card.json").read_text())
    assert set(card["metrics"]) == {"scratch", "handcrafted"}
    refused = driver.call(*COMMON, "--app=cimt", f"--data={other}", f"--run={tmp_path / 'b'}")
    assert "has no train part with examples" in refused.error


@pytest.mark.parametrize("parts", [{"validation_fraction": 0.0}])
def test_without_a_validation_part_nothing_is_begun(driver, carotid_raw, tmp_path, parts):
    data = carotid(carotid_raw, tmp_path / "data", **parts)
    run = tmp_path / "run"
    refused = driver.call(*COMMON, "--app=cimt", f"--data={data}", f"--run={run}").error
    assert "has no validation part with examples" in refused and "--validation_fraction" in refused
    assert not run.exists()


@pytest.mark.parametrize(
    "name",
    [
        "figures",
        pytest.param("export", marks=pytest.mark.slow),
        pytest.param("report.html", marks=pytest.mark.slow),
        pytest.param("metrics.json", marks=pytest.mark.slow),
    ],
)
def test_of_what_fails_after_training_the_same_command_does_only_the_rest(
    driver, carotid_raw, tmp_path, name
):
    """Something stands where the run wants to write; the run can be used nevertheless."""
    data, run = carotid(carotid_raw, tmp_path / "data"), tmp_path / "run"
    arguments = [*COMMON, "--app=cimt", f"--data={data}", f"--run={run}"]
    assert driver.call(*arguments).status == 0
    weights = (run / "checkpoints" / "best.weights.h5").stat()
    kept = json.loads((run / "run_card.json").read_text())
    (run / "run_card.json").unlink()
    (run / name).rename(tmp_path / "aside")
    if name.endswith(("html", "json")):
        (run / name).mkdir()
    else:
        (run / name).touch()
    error = driver.call(*arguments).error
    assert error.endswith("Training is complete; the same command does what follows it."), error
    image = sorted((carotid_raw / "images").iterdir())[0]
    done = driver.call(
        "--mode=predict", f"--run={run}", f"--input={image}", f"--output={tmp_path / 'predicted'}",
        "--mm_per_pixel=0.06",
    )  # fmt: skip
    assert done.status == 0, done.err
    (run / name).rename(tmp_path / "obstacle")
    done = driver.call(*arguments)
    assert done.status == 0, done.err
    card = json.loads((run / "run_card.json").read_text())
    assert card["metrics"] == kept["metrics"] and card["history"] == kept["history"]
    assert (run / "checkpoints" / "best.weights.h5").stat() == weights
    assert (run / "report.html").is_file() and not (run / "training.json").exists()


@pytest.mark.slow  # two runs; the parts are tested with distribution and batches
def test_one_replica_and_a_batch_above_the_data(driver, carotid_records, tmp_path):
    prep = json.loads((carotid_records / "prep.json").read_text())
    examples = prep["splits"]["train"]["examples"]
    found = {}
    for batch, how in ((10**6, "mirrored"), (examples, "one")):
        run = tmp_path / how
        done = driver.call(
            *COMMON, "--app=cimt", f"--data={carotid_records}", f"--run={run}", "--noexport",
            f"--batch_size={batch}", f"--distribute={how}", "--nocounterparts",
        )  # fmt: skip
        assert done.status == 0, done.err
        card = json.loads((run / "run_card.json").read_text())
        assert card["config"]["batch_size"] == examples
        found[how] = [{**epoch, "images_per_second": 0} for epoch in card["history"]]
        words = f"is more than the {examples} training examples: a batch is all of them."
        assert (words in done.err) == (batch > examples)
        assert ("there is one device" in done.err) == (how == "mirrored")
    assert found["mirrored"] == found["one"]
    assert driver.call("--mode=evaluate", f"--run={tmp_path / 'mirrored'}").status == 0
    card = json.loads((tmp_path / "mirrored" / "run_card.json").read_text())
    assert card["config"]["batch_size"] == examples
    again = driver.call(
        *COMMON, "--app=cimt", f"--data={carotid_records}", f"--run={tmp_path / 'mirrored'}",
        "--noexport", "--batch_size=1000000", "--distribute=mirrored", "--nocounterparts",
    )  # fmt: skip
    assert "already finished" in again.err
    tried = driver.call(
        *COMMON, "--app=cimt", f"--data={carotid_records}", "--lr_find",
        f"--run={tmp_path / 'rates'}", "--batch_size=1000000",
    )  # fmt: skip
    assert tried.status == 0 and words in tried.err, tried.err
