"""The study from the command line."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from medxfer.studies import plan as plans
from tests.medxfer.test_report import Page
from tests.testing import networks

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
    ],
)
def test_users_errors(arguments, message):
    status, out, err = call(*arguments, module="medxfer.study")
    assert status == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("Error: ") and message in line


@pytest.fixture(scope="module")
def flags(carotid_records, tmp_path_factory):
    os.environ.setdefault("MEDXFER_CACHE", str(tmp_path_factory.mktemp("cache")))
    return (
        "--app=cimt", f"--model={networks.NAME}", "--weights=none", f"--data={carotid_records}",
        "--epochs=2", "--batch_size=20", "--precision=float32", "--fractions=1,one",
        "--inits=msra", "--depths=fc2",
    )  # fmt: skip


def numbers(study, plan):
    return {
        run.name: json.loads((study.run(run.name).path / "metrics.json").read_text())
        for run in plan.runs
    }


@pytest.mark.slow
def test_a_study_from_plan_to_report_killed_and_resumed(flags, tmp_path):
    output = tmp_path / "study"
    status, out, err = call(*flags, f"--output={output}", "--dry_run")
    assert status == 0, err
    assert "5 runs, 0 of them finished" in out
    assert "(a calibration, as if no run ended early)" in out and " ?\n" in out
    assert "failed" not in err
    study = plans.StudyFolder(output)
    plan = plans.Plan.load(study.plan_file)
    assert [run.method for run in plan.runs] == [
        "fc2", "scratch (msra)", "handcrafted", "fc2", "scratch (msra)",
    ]  # fmt: skip
    # Kill it as soon as a run has begun, then again when one is finished.
    for mark in ("runs/*/config.json", "runs/*/run_card.json"):
        process = start(*flags, f"--output={output}")
        while not list(output.glob(mark)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    status, out, err = call(*flags, f"--output={output}", "--jobs=2")
    assert status == 0, err
    assert all(study.finished(run, plan.fingerprint) for run in plan.runs)
    killed = numbers(study, plan)
    for name in ("report.html", "study.json", "tables/pairs.csv", "figures/family_0.pdf"):
        assert (output / name).stat().st_size > 0
    page = Page((output / "report.html").read_text())
    assert "only 3 test subjects" in page.text
    assert "script" not in page.tags
    whole = tmp_path / "whole"
    status, out, err = call(*flags, f"--output={whole}")
    assert status == 0, err
    assert numbers(plans.StudyFolder(whole), plan) == killed
    # What is done is not done again.
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")}
    assert call(*flags, f"--output={whole}")[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")}
    status, out, err = call(*flags, f"--output={whole}", "--dry_run")
    assert "5 runs, 5 of them finished" in out
