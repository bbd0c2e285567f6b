"""Whole runs from the command line, and every way of getting it wrong."""

import collections
import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_prep import cimt
from medxfer import data, runs, serving
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
from tests.medxfer.conftest import SMALL
from tests.medxfer.test_report import Page
from tests.testing import networks

PERSON = "Mueller_Anna_19570214"
TRAIN = (
    "--app=cimt", f"--model={networks.NAME}", "--weights=none", "--tune=scratch", "--epochs=2",
    "--batch_size=20", "--precision=float32", "--seed=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def raw(carotid_raw, tmp_path_factory):
    """The small phantom, with a person's name on every study and in every image."""
    from PIL import Image, PngImagePlugin

    raw = shutil.copytree(carotid_raw, tmp_path_factory.mktemp("named") / "raw")
    table = raw / "studies.csv"
    text = table.read_text()
    for path in sorted([*(raw / "images").iterdir(), *(raw / "boundaries").iterdir()]):
        if path.suffix == ".png":
            about = PngImagePlugin.PngInfo()
            about.add_text("PatientName", PERSON)
            with Image.open(path) as image:
                image.save(path, pnginfo=about)
        name = f"{PERSON}_{path.name}"
        path.rename(path.with_name(name))
        text = text.replace(f"/{path.name}", f"/{name}")
    for number in range(6):
        text = text.replace(f",S{number:03d}", f",{PERSON}_S{number:03d}")
    table.write_text(text)
    return raw


@pytest.fixture(scope="module")
def records(raw):
    return cimt.prepare(raw, raw.with_name("records"), settings=SMALL).output


@pytest.fixture(scope="module")
def trained(driver, records, tmp_path_factory):
    """A finished run of two epochs and what the command line said."""
    run = tmp_path_factory.mktemp("runs") / "first"
    done = driver.call(*TRAIN, f"--data={records}", f"--run={run}")
    assert done.status == 0, done.err
    return run, done


@pytest.fixture
def copy(trained, tmp_path):
    """The finished run, to be spoilt."""
    return shutil.copytree(trained[0], tmp_path / "copy")


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def command(*arguments, cwd=None):
    root = pathlib.Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "medxfer.main", *arguments],
        capture_output=True, text=True, check=False, cwd=cwd or root,
    )  # fmt: skip


def test_help_answers_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom medxfer import main\n"
        "heavy = {'numpy', 'tensorflow', 'keras', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = command("--help")
    for field in vars(Config(app="cimt")):
        if f"--{field}" not in shown.stdout and f"--[no]{field}" not in shown.stdout:
            assert field in ("bias_multiplier", "momentum", "dropout", "cache_gib"), field
    assert "Traceback" not in shown.stderr


def test_a_users_error_in_a_process_of_its_own():
    for arguments in ([], ["--app=cmit"], ["--epoch=3", "--nonsense"], ["train"]):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--app=cimt", "--model=alexnt"], "No model is called 'alexnt'. Valid names: alexnet"),
        (["--app=cimt", "--mode=sleep"], "--mode"),
        (["--app=cimt", "--epochs=many"], "--epochs"),
        (["--app=cimt", "--epochs=0"], "--epochs must be at least 1"),
        (["--app=cimt", "--fraction=1.5"], "--fraction must be above 0"),
        (["--app=cimt", "--mode=check"], "--mode=check needs --data"),
        (["--app=cimt", "--mode=check", "--data=absent"], "absent does not exist"),
        (["--mode=evaluate"], "--mode=evaluate needs --run"),
        (["--mode=export", "--run=x", "--data=y", "--exclude_seen"], "on other data"),
        (["--mode=evaluate", "--run=x", "--exclude_seen"], "on other data"),
        (["--app=cimt", "--exclude_seen"], "--exclude_seen is for --mode=evaluate"),
        (["--mode=export", "--run=absent"], "absent is no run folder"),
        (["--mode=evaluate", "--run=absent"], "absent is no run folder"),
        (["--mode=predict", "--run=absent", "--input=x"], "absent is no run folder"),
    ],
)
def test_wrong_flags(driver, tmp_path, arguments, message):
    done = driver.call(*arguments, f"--output={tmp_path}")
    assert message in done.error
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["evaluate", "export", "predict"])
@pytest.mark.parametrize(
    ("flag", "own"),
    [
        ("--app=polyp", "app 'cimt'"), ("--model=vgg19", "model 'alexnet'"),
        ("--tune=lp_ft", "tune 'fc6'"), ("--weights=none", "weights 'imagenet'"),
        ("--input_side=64", "input_side 0"), ("--maps=patchwise", "maps 'dense'"),
        ("--seed=4", "seed 0"), ("--fraction=0.5", "fraction 1.0"), ("--data=other", "data 'own'"),
    ],
)  # fmt: skip
def test_flags_that_contradict_a_run(driver, tmp_path, mode, flag, own):
    run = tmp_path / "first"
    runs.RunFolder(run).begin(Config(app="cimt", data="own"))
    name = run if mode == "predict" else "first"
    done = driver.call(f"--mode={mode}", f"--run={name}", f"--output={tmp_path}", "--input=x", flag)
    if (mode, flag) == ("evaluate", "--data=other"):
        assert "contradicts" not in done.error
    else:
        assert f"{flag} contradicts the run {run}, which has {own}" in done.error


def test_flags_that_agree_with_a_run(tmp_path):
    run = runs.RunFolder(tmp_path / "first")
    run.begin(Config(app="cimt", data=str(tmp_path / "own"), tune="lp"))
    given = {"app": "cimt", "tune": "lp", "data": f"{tmp_path}/a/../own", "cache": "disk"}
    run.require_agreement(given, own_data=True)


@pytest.fixture
def bad(records, tmp_path):
    """Data and weights that cannot be used, by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    foreign = shutil.copytree(records, tmp_path / "foreign")
    prep = json.loads((foreign / "prep.json").read_text())
    (foreign / "prep.json").write_text(json.dumps(prep | {"app": "polyp"}))
    damaged = shutil.copytree(records, tmp_path / "damaged")
    (shard,) = damaged.glob("cimt-train.tfrecord-*")
    shard.write_bytes(shard.read_bytes()[:-7])
    np.savez(tmp_path / "weights.npz", **{"conv1/0": np.zeros((3, 3, 3, 64), np.float32)})
    (tmp_path / "text.npz").write_text("no weights")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--data={bad}/absent"], "does not exist"),
        (["--data={bad}/empty"], "is empty"),
        (["--data={bad}/other"], "is no dataset folder"),
        (["--data={bad}/foreign"], "holds data of app 'polyp', not of 'cimt'"),
        (["--data={bad}/damaged"], "damaged"),
        (["--tune=fc9"], "--tune=fc9 is unknown. Valid names: fc2, conv1, scratch"),
        (["--tune=fc2", "--weights={bad}/absent.npz"], "absent.npz"),
        (["--tune=fc2", "--weights={bad}/weights.npz"], "does not fit tiny_network"),
        (["--tune=fc2", "--weights={bad}/text.npz"], "text.npz"),
        (["--precision=mixed_float16"], "needs a GPU"),
    ],
)
def test_bad_data_weights_and_names_leave_no_run(driver, records, bad, changes, message):
    before = sorted(bad.rglob("*"))
    changes = [change.format(bad=bad) for change in changes]
    done = driver.call(*TRAIN, f"--data={records}", f"--run={bad}/runs/new", *changes)
    assert message in done.error
    assert sorted(bad.rglob("*")) == before


def test_a_folder_that_is_no_run_is_left_alone(driver, records, bad):
    done = driver.call(*TRAIN, f"--data={records}", f"--run={bad}/other")
    assert "is not empty and is no run folder" in done.error
    assert [path.name for path in (bad / "other").iterdir()] == ["thesis.tex"]


def test_a_run_leaves_all_that_was_promised(trained, records):
    run, done = trained
    card = json.loads((run / "run_card.json").read_text())
    prep = json.loads((records / "prep.json").read_text())
    assert card["data"]["fingerprint"] == prep["fingerprint"]
    assert card["weights"]["new"] == ["conv1", "fc2"]
    assert card["precision"] == "float32"
    assert len(card["history"]) == 2
    best = max(card["history"], key=lambda epoch: epoch["score"])
    assert card["best_validation_auc"] == best["score"]
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics == card["metrics"]
    assert list(metrics) == ["scratch", "handcrafted"]  # the network's first, as in the report
    for method in metrics.values():
        for interval in method.values():
            assert interval["low"] <= interval["estimate"] <= interval["high"]
            assert "only 3 subjects" in interval["caution"]
    assert {path.suffix for path in (run / "figures").iterdir()} == {".png", ".pdf"}
    exported = run / "export" / "cimt" / "1"
    assert (exported / "saved_model.pb").is_file()
    about = json.loads((exported / serving.DESCRIPTION).read_text())
    assert about["run_card_hash"] == card["run_card_hash"]
    curves = list((run / "logs").rglob("events.out.tfevents.*"))
    assert {path.parent.name for path in curves} == {"logs", "figures"}
    for path in ("report.html", "metrics.json", "predictions.csv", "figures", "export/cimt/1"):
        assert str(run / path) in done.out
    assert "handcrafted" in done.out and "Caution" in done.out
    # Log lines only: no progress bars in a file, no chatter but XLA's greeting in TensorFlow 2.20.
    ours = r"\d\d:\d\d:\d\d (INFO|WARNING): "
    greeting = "WARNING: All log messages before absl|I0000 .* Compiled cluster using XLA!"
    lines = done.err.splitlines()
    assert [line for line in lines if not re.match(f"{ours}|{greeting}", line)] == []
    assert not list(run.rglob("*partial*"))


def test_predictions_hold_every_region_of_either_method_and_give_the_metrics(trained, records):
    run, _ = trained
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    prep = json.loads((records / "prep.json").read_text())
    assert len(rows) == 2 * prep["splits"]["test"]["examples"] == 6
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    for method, found in metrics.items():
        own = [row for row in rows if row["method"] == method]
        assert len(own) == 3
        for measure in ("lumen_intima_error_um", "media_adventitia_error_um"):
            mean = np.mean([float(row[measure]) for row in own])
            np.testing.assert_allclose(found[measure]["estimate"], mean)


def test_the_report_stands_alone_and_shows_every_figure(trained):
    run, _ = trained
    page = Page((run / "report.html").read_text())
    assert len(page.addresses) == len(list((run / "figures").glob("*.png"))) > 4
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "trained from scratch" in page.text
    assert "script" not in page.tags


def test_the_curves_are_those_of_the_history(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = trained
    history = json.loads((run / "run_card.json").read_text())["history"]
    events = EventAccumulator(str(run / "logs"), {"tensors": 0})
    events.Reload()
    tensors = [event.tensor_proto for event in events.Tensors("score/validation")]
    found = [
        float(np.frombuffer(t.tensor_content, np.float32)[0])
        if t.tensor_content
        else t.float_val[0]
        for t in tensors
    ]
    np.testing.assert_allclose(found, [epoch["score"] for epoch in history], rtol=1e-6)


def test_no_original_name_is_in_any_byte(trained, raw):
    run, done = trained
    for name, content in contents(run).items():
        for secret in (PERSON, "Mueller", "19570214", str(raw / "images")):
            assert secret not in name
            assert secret.encode() not in content, name
    assert "Mueller" not in done.out + done.err


def test_a_finished_run_is_not_done_again(trained, driver, records):
    run, first = trained
    before = times(run)
    again = driver.call(*TRAIN, f"--data={records}", f"--run={run}")
    assert again.status == 0
    assert "already finished" in again.err
    assert again.out == first.out
    assert times(run) == before


def test_a_run_is_found_by_its_name_and_by_its_settings(trained, driver, records, tmp_path):
    config = Config.load(trained[0] / "config.json")
    for name in ("mine", runs.default_name(config)):
        shutil.copytree(trained[0], tmp_path / name)
    before = times(tmp_path)
    for name in (["--run=mine"], []):
        done = driver.call(*TRAIN, f"--data={records}", f"--output={tmp_path}", *name)
        assert "already finished" in done.err
    assert times(tmp_path) == before


def test_other_settings_need_another_name(trained, driver, records):
    run, _ = trained
    before = contents(run)
    done = driver.call(*TRAIN, f"--data={records}", f"--run={run}", "--epochs=3")
    assert "epochs was 2" in done.error
    assert contents(run) == before


def test_an_interrupted_run_is_finished_without_training_again(trained, driver, records, copy):
    (copy / "run_card.json").unlink()
    (copy / "report.html").unlink()
    weights = copy / "checkpoints" / "best.weights.h5"
    before = weights.stat().st_mtime_ns
    done = driver.call(*TRAIN, f"--data={records}", f"--run={copy}", "--noexport")
    assert done.status == 0, done.err
    assert "Training had come to its end" in done.err
    assert weights.stat().st_mtime_ns == before
    first, second = (json.loads((run / "run_card.json").read_text()) for run in (trained[0], copy))
    for key in ("history", "metrics", "comparison", "trained_weights_sha256", "data", "config"):
        assert second[key] == first[key], key
    assert (copy / "report.html").is_file()


def test_evaluate_gives_the_same_numbers_again(trained, driver, copy):
    card = json.loads((copy / "run_card.json").read_text())
    done = driver.call("--mode=evaluate", f"--run={copy}")
    assert done.status == 0, done.err
    again = json.loads((copy / "run_card.json").read_text())
    assert (again["metrics"], again["comparison"]) == (card["metrics"], card["comparison"])
    assert again["export"] == card["export"]
    assert [path.name for path in (copy / "export" / "cimt").iterdir()] == ["1"]
    assert str(copy / "report.html") in done.out


def test_evaluate_on_other_records(trained, driver, copy, tmp_path):
    from data_prep.phantoms import cimt as phantom

    phantom.generate(tmp_path / "raw", seed=9, subjects=8, images_per_subject=1)
    text = (tmp_path / "raw" / "studies.csv").read_text()
    for number in range(8):
        text = text.replace(f",S{number:03d}", f",T{number:03d}")
    (tmp_path / "raw" / "studies.csv").write_text(text)
    other = cimt.prepare(tmp_path / "raw", tmp_path / "other", settings=SMALL)
    before = contents(copy)
    done = driver.call("--mode=evaluate", f"--run={copy}", f"--data={other.output}")
    assert done.status == 0, done.err
    place = copy / "evaluations" / other.prep["fingerprint"][:12]
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    card = json.loads((place / "run_card.json").read_text())
    assert card["data"]["fingerprint"] == other.prep["fingerprint"]
    assert card["data"]["subjects"]["test"] == 4
    assert "4 subjects" in card["metrics"]["scratch"]["thickness_error_mm"]["caution"]
    assert str(place / "report.html") in done.out
    assert not (place / "export").exists()


def test_evaluate_refuses_subjects_that_were_learnt_from(driver, raw, copy, tmp_path):
    from data_prep import command

    link = tmp_path / "link.csv"
    options = command.Options(tmp_path / "fold", cimt.PUBLIC_KEY, seed=5, link_table=link)
    fold = cimt.prepare(raw, tmp_path / "fold", settings=SMALL, options=options)
    before = contents(copy)
    evaluate = ["--mode=evaluate", f"--run={copy}", f"--data={fold.output}"]
    done = driver.call(*evaluate)
    learnt = json.loads((copy / "run_card.json").read_text())["data"]["seen_subjects"]
    test = set(fold.prep["splits"]["test"]["subjects"])
    assert test & set(learnt)  # else the seed is no test
    assert f"{len(test & set(learnt))} test subjects" in done.error
    assert "--exclude_seen leaves them out" in done.error
    assert contents(copy) == before

    with link.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    done = driver.call(*evaluate, f"--link_table={link}")
    assert done.status == 2 and contents(copy) == before
    for row in rows:
        assert (f"  learnt from  {row['original']} " in done.out) == (
            row["subject"] in test & set(learnt)
        )

    done = driver.call(*evaluate, f"--link_table={link}", "--exclude_seen")
    assert done.status == 0, done.err
    place = copy / "evaluations" / fold.prep["fingerprint"][:12]
    card = json.loads((place / "run_card.json").read_text())
    left = test - set(learnt)
    assert card["data"]["excluded_subjects"] == len(test) - len(left)
    assert card["data"]["subjects"]["test"] == len(left)
    with (place / "predictions.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    assert {row["subject"] for row in scored} == left
    # As many regions of each as there are where nobody is left out.
    regions = collections.Counter(
        example["subject"] for example in data.units(DatasetFolder.open(fold.output), "test")
    )
    assert card["data"]["examples"]["test"] == sum(regions[subject] for subject in left)
    methods = {row["method"] for row in scored}
    assert len(scored) == len(methods) * card["data"]["examples"]["test"]
    said = f"{len(test) - len(left)} of {len(test)} test subjects of these data were left out"
    assert said in done.out and said in (place / "report.html").read_text()
    for content in contents(copy).values():
        assert not any(row["original"].encode() in content for row in rows)


def test_nobody_is_left_out_who_cannot_be_told(driver, raw, records, copy, tmp_path):
    from data_prep import command

    learnt = json.loads((copy / "run_card.json").read_text())["data"]["seen_subjects"]
    parts = dict.fromkeys(DatasetFolder.open(records).subjects("test"), "train")
    parts |= dict.fromkeys(learnt, "test")
    made = {}
    for name, key, decided in (("key", b"another", None), ("all", cimt.PUBLIC_KEY, parts)):
        options = command.Options(tmp_path / name, key, seed=5, parts=decided)
        made[name] = cimt.prepare(raw, tmp_path / name, settings=SMALL, options=options).output
    for name, message in (("key", "cannot tell who is in both"), ("all", "none is left")):
        done = driver.call(
            "--mode=evaluate", f"--run={copy}", f"--data={made[name]}", "--exclude_seen"
        )
        assert message in done.error
    done = driver.call(
        "--mode=evaluate", f"--run={copy}", f"--data={made['all']}", f"--link_table={raw}"
    )
    assert "--link_table" in done.error and "cannot be read" in done.error


def test_evaluate_refuses_patches_of_another_size(driver, raw, copy, tmp_path):
    import dataclasses

    other = cimt.prepare(raw, tmp_path / "b", settings=dataclasses.replace(SMALL, patch=15))
    done = driver.call("--mode=evaluate", f"--run={copy}", f"--data={other.output}")
    assert "prepare the data with --patch=17" in done.error


def test_export_makes_the_next_version_that_answers(driver, copy):
    import tensorflow as tf

    first = copy / "export" / "cimt" / "1"
    done = driver.call("--mode=export", f"--run={copy}")
    assert done.status == 0, done.err
    assert pathlib.Path(done.out.strip()) == first  # it holds the same weights
    description = first / serving.DESCRIPTION
    description.write_text(description.read_text().replace("weights_sha256", "of_another_version"))
    done = driver.call("--mode=export", f"--run={copy}")
    assert done.status == 0, done.err
    path = pathlib.Path(done.out.strip())
    assert path == copy / "export" / "cimt" / "2"
    hashes = {
        json.loads((each / serving.DESCRIPTION).read_text())["run_card_hash"]
        for each in (path, path.with_name("1"))
    }
    assert len(hashes) == 1
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    patches = np.random.default_rng(0).uniform(0, 255, (2, 17, 17, 1)).astype(np.float32)
    answer = served(image=tf.constant(patches))["probabilities"].numpy()
    assert answer.shape == (2, 3)
    np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)


def test_predict_traces_a_raw_image(driver, trained, raw, tmp_path):
    run, _ = trained
    image = sorted((raw / "images").iterdir())[0]
    arguments = ["--mode=predict", f"--run={run}", f"--input={image}", "--mm_per_pixel=0.06"]
    assert "needs --output" in driver.call(*arguments).error
    output = tmp_path / "results"
    done = driver.call(*arguments, f"--output={output}")
    assert done.status == 0, done.err
    assert len(contents(output)) == 4
    (found,) = json.loads((output / "predictions.json").read_text())["images"]
    assert found["outside_training"] == "" and "do not look like" not in done.err
    for name, content in contents(output).items():
        assert PERSON not in name and PERSON.encode() not in content
    assert PERSON in done.err  # the terminal shows which is which
    again = driver.call(*arguments, f"--output={output}")
    assert "is not empty" in again.error


def test_predict_needs_a_finished_run_and_an_input(driver, copy, raw, tmp_path):
    call = ["--mode=predict", f"--run={copy}", f"--output={tmp_path / 'results'}"]
    assert "needs --input" in driver.call(*call).error
    (copy / "run_card.json").unlink()
    done = driver.call(*call, f"--input={raw / 'images'}", "--mm_per_pixel=0.06")
    assert "is not a finished run" in done.error
    assert not (tmp_path / "results").exists()


def test_modes_without_weights_say_so(driver, copy):
    (copy / "checkpoints" / "best.weights.h5").write_bytes(b"cut off")
    for mode in ("evaluate", "export"):
        assert "does not hold the weights" in driver.call(f"--mode={mode}", f"--run={copy}").error
    shutil.rmtree(copy / "checkpoints")
    for mode in ("evaluate", "export"):
        assert "no trained weights" in driver.call(f"--mode={mode}", f"--run={copy}").error


def test_check_passes_and_fails(driver, records, bad):
    done = driver.call("--app=cimt", "--mode=check", f"--data={records}")
    assert (done.status, done.out.splitlines()[-1]) == (0, "Nothing wrong was found.")
    done = driver.call("--app=cimt", "--mode=check", f"--data={bad}/damaged")
    assert done.status == 1 and "is damaged or cut off" in done.err


def test_list_groups_is_a_table_and_no_run(driver, records, tmp_path):
    call = ["--list_groups", f"--model={networks.NAME}", f"--output={tmp_path}"]
    done = driver.call(*call, "--tune=fc2", f"--data={records}")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["group", "conv1", "fc2", "all"]
    assert "frozen" in lines[1] and "3 classes" in lines[-1]
    assert "2 classes" in driver.call(*call).out  # neither data nor app
    assert "--tune=fc9 is unknown" in driver.call(*call, "--tune=fc9").error
    assert list(tmp_path.iterdir()) == []


def test_lr_find_leaves_a_curve_and_no_run(driver, records, tmp_path):
    call = ["--lr_find", *TRAIN, f"--data={records}", f"--output={tmp_path}"]
    done = driver.call(*call, "--run=rates")
    assert done.status == 0, done.err
    folder = tmp_path / "rates"
    assert sorted(path.name for path in folder.iterdir()) == [
        "lr_find.json", "lr_find.pdf", "lr_find.png",
    ]  # fmt: skip
    found = json.loads((folder / "lr_find.json").read_text())
    assert found["rates"] == sorted(found["rates"]) and len(found["rates"]) > 20
    assert len(found["losses"]) == len(found["smoothed"]) == len(found["rates"])
    assert found["suggestion"] < found["rates"][-1]
    assert f"--base_rate={found['suggestion']:.1g}" in done.out
    assert str(records) not in (folder / "lr_find.json").read_text()
    assert driver.call(*call, "--run=rates").status == 0  # again, in its place
    (tmp_path / "thesis").mkdir()
    assert "holds something else" in driver.call(*call, "--run=thesis").error
    assert "needs a depth or a strategy" in driver.call(*call, "--tune=auto").error
