"""Every command of the package answers from a shell."""

import importlib
import pathlib
import pkgutil
import subprocess
import sys
import time

import pytest

import data_prep
from data_prep import signals

ROOT = pathlib.Path(data_prep.__file__).parent
COMMANDS = sorted(
    f"data_prep.{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}"
    for path in [*ROOT.glob("*.py"), *ROOT.glob("phantoms/*.py")]
    if '__name__ == "__main__"' in path.read_text()
)


def shell(name, *arguments):
    line = [sys.executable, "-m", name, *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_app_has_a_command():
    import medxfer.apps

    apps = [m.name for m in pkgutil.iter_modules(medxfer.apps.__path__) if m.name[0] != "_"]
    assert {f"data_prep.{name}" for name in apps} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers(name):
    done = shell(name, "--help")
    assert "Traceback" not in done.stderr
    assert "--output" in done.stdout and "--seed" in done.stdout, done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_flag_is_one_line(name):
    done = shell(name)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: --") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(" missing. See --help.\n")


@pytest.mark.parametrize("app", ["classify", "frame", "pe", "polyp"])
def test_an_input_that_is_not_there_is_one_line(app, tmp_path):
    done = shell(f"data_prep.{app}", f"--input={tmp_path / 'absent'}", f"--output={tmp_path / 'o'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "absent" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_raw_studies_appear_all_at_once(tmp_path):
    """A part of the set that a killed command left would be taken for the set."""
    name, out = "data_prep.phantoms.cimt", tmp_path / "out"
    line = [sys.executable, "-m", name, f"--output={out}", "--subjects=2000"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.rglob("*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    assert not out.exists()
    process.terminate()
    process.communicate()
    assert process.returncode == 75 and list(tmp_path.iterdir()) == []
    done = shell(name, f"--output={out}", "--subjects=1")
    assert done.returncode == 0 and f"images written: {out}." in done.stdout
    assert (out / "studies.csv").is_file() and list(tmp_path.iterdir()) == [out]
    refused = shell(name, f"--output={out}")
    assert refused.returncode == 2 and "is not an empty folder" in refused.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    before = empty.stat().st_ino  # a disk may be mounted there
    assert shell(name, f"--output={empty}", "--subjects=1").returncode == 0
    assert empty.stat().st_ino == before
    names = [{path.relative_to(each) for path in each.rglob("*")} for each in (out, empty)]
    assert names[0] == names[1] and len(names[0]) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "out"}


SMALL = {
    "classify": ({"subjects": 20, "seed": 1}, ["--side=32"]),
    "frame": ({"videos": 4, "frames": 8, "seed": 3}, ["--crops=1"]),
    "pe": ({"patients": 5, "seed": 1}, ["--patches_per_candidate=1", "--patch=16"]),
    "polyp": (
        {"videos": 14, "frames": 3, "seed": 1},
        ["--patch=16", "--patches_per_candidate=1", "--trees=2", "--samples=500", "--top_k=2"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("app", SMALL)
def test_a_phantom_is_prepared_from_the_shell(app, tmp_path):
    sizes, flags = SMALL[app]
    importlib.import_module(f"data_prep.phantoms.{app}").generate(tmp_path / "raw", **sizes)
    given = [f"--input={tmp_path / 'raw'}", f"--output={tmp_path / 'data'}", *flags]
    done = shell(f"data_prep.{app}", *given)
    assert done.returncode == 0, done.stderr
    assert "Dataset written" in done.stdout
    again = shell(f"data_prep.{app}", *given)
    assert again.returncode == 0 and "Dataset was complete before" in again.stdout
    assert not (tmp_path / "data.partial").exists()


def test_an_interrupted_phantom_leaves_nothing_and_starts_anew(tmp_path):
    line = [sys.executable, "-m", "data_prep.phantoms.cimt", f"--output={tmp_path / 'raw'}"]
    process = subprocess.Popen([*line, "--subjects=500"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()  # not SIGINT, which a shell's background jobs ignore
    _, told = process.communicate(timeout=60)
    assert process.returncode == signals.RESUME
    assert told.endswith("Asked to end. The same command starts anew.\n")
    assert not list(tmp_path.iterdir())
