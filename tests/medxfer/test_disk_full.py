"""Where nothing more can be written: one clear line, nothing half, and the same command goes on."""

import functools
import json
import pathlib
import subprocess
import sys

import pytest

from data_prep import command, splits
from data_prep.errors import no_room
from medxfer import checkpoints
from tests.data_prep import fake
from tests.testing import networks

# Runs a module as a command whose files may not grow beyond so many bytes.
LIMITED = """
import resource, runpy, sys
_, limit, module, *rest = sys.argv
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
sys.argv = [module, *rest]
from tests.testing import networks
with networks.installed():
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def limited(limit, module, *arguments):
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), module, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def error_of(done):
    """The one line that says what is wrong."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    return line


@pytest.fixture
def raw(tmp_path):
    fake.write_studies(tmp_path / "raw", 8)
    return tmp_path / "raw"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def completes(raw, output):
    """The same preparation, with room, gives what an undisturbed one gives."""
    key = splits.secret_key(None, 0)  # that of the command
    work = functools.partial(fake.work, key=key)
    for place in (output, output.with_name("whole")):
        options = command.Options(place, key)
        command.prepare(fake.layout(), fake.find(raw), work, fake.SETTINGS, options)
    assert contents(output) == contents(output.with_name("whole"))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_of_studies(raw, tmp_path, workers):
    output = tmp_path / "data"
    arguments = f"--input={raw}", f"--output={output}", f"--workers={workers}"
    done = limited(3000, "tests.data_prep.fake", *arguments)
    assert error_of(done) == (
        f"Error: {output}.partial: File too large. Make room and give the same command again: what "
        "is done is kept."
    )
    assert not output.exists()
    left = list(tmp_path.glob("data.partial/**/*"))
    assert not left, left
    completes(raw, output)


def test_shards(raw, tmp_path):
    output = tmp_path / "data"
    done = limited(7000, "tests.data_prep.fake", f"--input={raw}", f"--output={output}")
    assert error_of(done) == (
        "Error: File too large. Make room and give the same command again: what is done is kept."
    )
    assert not output.exists()
    kinds = {path.suffix for path in output.with_name("data.partial").iterdir()}
    assert kinds == {".records", ".json"}  # what is done is kept
    completes(raw, output)


def test_a_file_system_that_is_full(raw, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=16k none {place}"
    probe = subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no small file system can be made here: unshare and mount are not permitted")
    words = f"{sys.executable} -m tests.data_prep.fake --input={raw} --output={place}/data"
    script = f"{mount} && {words}; status=$?; find {place} -type f; exit $status"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], check=False, capture_output=True, text=True
    )
    assert "data.partial: No space left on device. Make room" in error_of(done)
    left = [pathlib.Path(line).suffix for line in done.stdout.splitlines()]
    assert set(left) <= {".records", ".json"}


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    import numpy as np

    place = checkpoints.Checkpoints(tmp_path)
    place.save("last", [np.arange(3)])
    before = contents(tmp_path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        place.save("last", [np.arange(4)])
    assert contents(tmp_path) == before


def test_errors_of_libraries_quote_the_systems():
    library = RuntimeError("Unable to flush file (errno = 28, 'No space left on device')")
    assert no_room(library) == no_room(OSError(28, "?")) == "No space left on device"
    try:
        try:
            raise OSError(122, "?")
        except OSError:
            raise ValueError("cannot write") from None
    except ValueError as error:
        assert no_room(error) == "Disk quota exceeded"
    assert no_room(OSError(2, "No such file or directory")) == no_room(ValueError("no")) == ""


@pytest.mark.slow
def test_training_and_export(carotid_records, tmp_path):
    run = tmp_path / "run"
    arguments = (
        "--app=cimt", f"--model={networks.NAME}", "--weights=none", "--tune=scratch", "--epochs=2",
        "--batch_size=20", "--precision=float32", f"--data={carotid_records}", f"--run={run}",
    )  # fmt: skip
    again = "Make room and give the same command again: what is done is kept."
    done = limited(3000, "medxfer.main", *arguments)
    assert error_of(done) == f"Error: File too large. {again}"
    # On a slow machine a checkpoint of what is frozen (nothing here) was due before.
    assert {path.name for path in run.glob("checkpoints/*")} <= {"stage-0.npz"}
    assert not (run / "lock").exists()
    done = limited(40_000, "medxfer.main", *arguments)  # enough for the weights, not the graph
    assert error_of(done) == f"Error: File too large. {again}"
    assert (run / "checkpoints" / "best.weights.h5").is_file()
    assert not (run / "run_card.json").exists()
    assert not list(run.glob("export/*/*"))
    done = limited(10**9, "medxfer.main", *arguments)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in run.glob("export/cimt/*")] == ["1"]
    assert json.loads((run / "run_card.json").read_text())["export"] == "export/cimt/1"
