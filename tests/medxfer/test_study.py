"""The study from the command line."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from medxfer.studies import plan as plans
from medxfer.weights import npz
from tests.medxfer.test_report import Page
from tests.testing import networks
from tests.testing.networks import tiny_network

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(*arguments, module="tests.testing.drive_study", **options):
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def call(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate()
    return process.returncode, out, err


def test_nothing_heavy_is_imported_before_the_flags_are_read():
    code = (
        "import sys\nfrom medxfer import study\n"
        "heavy = {'numpy', 'tensorflow', 'keras', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--app is missing"),
        (["--app=cmit"], "No app is called 'cmit'"),
        (["--app=cimt", "--tune=fc6"], "--tune is not for a study"),
        (["--app=cimt", "--fraction=0.5"], "use --fractions"),
        (["--app=cimt", "--inits=zeros"], "--inits are gaussian, xavier, msra"),
        (["--app=cimt", "--models=alexnt"], "No model is called 'alexnt'"),
        (["--app=cimt", "--rates=0.1,fast"], "--rates are numbers above 0. Received: 0.1,fast"),
        (["--app=cimt", "--hours=soon"], "flag --hours=soon"),
        (["--app=cimt", "--hours=0"], "--hours must be above 0. Received: 0."),
        (["--app=cimt", "--hours=-2"], "--hours must be above 0. Received: -2."),
        (["--app=cimt", "--hours=nan"], "--hours must be above 0. Received: nan."),
        (["--app=cimt", "--hours=2", "--plan=x"], "--hours chooses among runs, a --plan says them"),
        (["--app=cimt", "--scratch_rates=-1"], "--scratch_rates are numbers above 0"),
        (["--app=cimt", "--rates=0"], "--rates are numbers above 0"),
        (["--app=cimt", "--rates=.1", "--base_rate=.1"], "--base_rate is one of --rates"),
    ],
)
def test_users_errors(arguments, message):
    status, out, err = call(*arguments, module="medxfer.study")
    assert status == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("Error: ") and message in line


@pytest.fixture
def flags(carotid_records, tmp_path):
    """Of a small study whose tuned networks have a frozen layer in common."""
    model, weights = tiny_network.build(3, seed=8), tmp_path / "learnt.npz"
    (layer,) = (layer for layer in model.layers if layer.name == "conv1")
    npz.write(weights, {"conv1": tuple(map(np.asarray, layer.get_weights()))})
    return (
        "--app=cimt", f"--model={networks.NAME}", f"--weights={weights}", "--epochs=2",
        f"--data={carotid_records}", "--batch_size=20", "--precision=float32",
        "--fractions=1,one", "--inits=msra", "--depths=fc2", "--scratch_rates=.001",
    )  # fmt: skip


def numbers(output):
    """Everything that the finished runs of a study measured, by what they are."""
    study = plans.StudyFolder(output)
    return {
        (run.method, run.share): (
            json.loads((study.run(run.name).path / "metrics.json").read_text()),
            (study.run(run.name).path / "predictions.csv").read_text(),
            [epoch["loss"] for epoch in study.run(run.name).card["history"]],
        )
        for run in plans.Plan.load(study.plan_file).runs
    }


@pytest.mark.slow
def test_a_study_killed_at_random_is_as_one_that_was_not(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDXFER_CACHE", str(tmp_path / "cache"))
    output, whole = tmp_path / "study", tmp_path / "whole"
    status, out, err = call(*flags, f"--output={output}", "--dry_run")
    assert status == 0, err
    assert "5 runs, 0 of them finished" in out
    assert "(a calibration, as if no run ended early)" in out and " ?\n" in out
    assert "calibration failed" not in err
    assert "Their weights will take 1 MiB on the disk, of which" in out
    study = plans.StudyFolder(output)
    plan = plans.Plan.load(study.plan_file)
    assert [(run.method, run.share) for run in plan.runs] == [
        ("fc2", "100 %"), ("scratch (msra)", "100 %"), ("handcrafted", "100 %"),
        ("fc2", "one subject"), ("scratch (msra)", "one subject"),
    ]  # fmt: skip
    # Killed once while the first run goes on, once anywhere in what is left.
    moments = random.uniform(0, 5), random.uniform(0, 40)
    for mark, moment in zip(("runs/*/config.json", "plan.json"), moments, strict=True):
        process = start(*flags, f"--output={output}")
        while not list(output.glob(mark)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    status, out, err = call(*flags, f"--output={output}")
    assert status == 0, (moments, err)
    assert all(study.finished(run, plan.fingerprint) for run in plan.runs)
    # What the frozen layer makes of both parts is there once, for all the data and for less.
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    # The same without interruption and without anything in common between runs.
    status, out, err = call(*flags, f"--output={whole}", "--cache=memory")
    assert status == 0, err
    assert numbers(whole) == numbers(output), moments
    for name in ("report.html", "study.json", "tables/pairs.csv", "figures/family_0.pdf"):
        assert (whole / name).stat().st_size > 0
    page = Page((whole / "report.html").read_text())
    assert "only 3 test subjects" in page.text
    assert "script" not in page.tags
    # What is done is not done again, and a run that fails is no end of the study.
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")}
    more = (f"--output={whole}", "--cache=memory", "--fractions=1", "--strategies=auto", "--jobs=2")
    status, out, err = call(*flags, *more)
    assert status == 1 and "Failed: auto-100-s0-" in out, err
    assert "needs at least 2 validation subjects" in (whole / "report.html").read_text()
    assert before.items() <= {p: p.stat().st_mtime_ns for p in (whole / "runs").rglob("*")}.items()
