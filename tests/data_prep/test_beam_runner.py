"""Apache Beam runs the same work to the same bytes (extra ``beam``)."""

import functools
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from data_prep import beam_runner, command, runner
from data_prep.errors import OutputError, UserError
from data_prep.phantoms import cimt as phantom
from tests.data_prep import fake

with_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="Apache Beam is not installed: pip install 'medxfer[beam]'",
)
EXTRAS = fake.layout().extras


@pytest.fixture
def studies(tmp_path):
    fake.write_studies(tmp_path / "raw", 8)
    return fake.find(tmp_path / "raw")


def prepare(studies, output, faults=None, **options):
    return command.prepare(
        fake.layout(),
        studies,
        functools.partial(fake.work, **(faults or {})),
        fake.SETTINGS,
        command.Options(output, fake.KEY, **options),
    )


def run(studies, folder, function=fake.work, **options):
    tokens = runner.tokens(studies, {}, 1)
    return beam_runner.run(function, studies, folder, extras=EXTRAS, tokens=tokens, **options)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def passing(study, folder):
    """Fails twice at each study, then works."""
    tries = folder / study.name
    with tries.open("a") as file:
        file.write("x")
    if len(tries.read_text()) < 3:
        raise OSError("the network drive is away")
    return fake.work(study)


def full(study):
    raise OSError(28, "No space left on device")


@with_beam
def test_the_bytes_are_those_of_the_local_runner(studies, tmp_path):
    faults = {"fault": "user:Anna1_visit2"}
    local = prepare(studies, tmp_path / "local", faults)
    beam = prepare(studies[::-1], tmp_path / "beam", faults, runner="beam")
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")
    assert command.summary(beam) == command.summary(local).replace("local", "beam")
    assert not list(tmp_path.glob("*.partial"))


@with_beam
def test_what_is_done_is_not_done_again(studies, tmp_path):
    log = tmp_path / "log"
    run(studies[:5], tmp_path / "work")
    spills, _ = run(studies, tmp_path / "work", functools.partial(fake.work, log=log))
    assert sorted(log.read_text().split()) == [study.name for study in studies[5:]]
    assert len(spills) == 8


@with_beam
def test_a_failure_is_tried_again_unless_it_is_the_studys_own(studies, tmp_path):
    for fault, tries in {"user": 1, "bug": beam_runner.TRIES}.items():
        log = tmp_path / fault
        work = functools.partial(fake.work, log=log, fault=f"{fault}:Anna1_visit2")
        spills, (skipped,) = run(studies, tmp_path / f"{fault}.partial", work)
        assert len(spills) == 7
        assert skipped.study == studies[2]
        assert "Anna1_visit2" in skipped.detail and "Anna1_visit2" not in skipped.reason
        assert log.read_text().split().count("Anna1_visit2") == tries
        assert len(log.read_text().split()) == 7 + tries
    (tmp_path / "tries").mkdir()
    work = functools.partial(passing, folder=tmp_path / "tries")
    spills, skipped = run(studies, tmp_path / "passing", work)
    assert len(spills) == 8 and not skipped
    kinds = {path.suffix for path in (tmp_path / "passing").iterdir()}
    assert kinds == {".json", ".records"}


@with_beam
def test_strict_ends_with_the_first_failure(studies, tmp_path):
    work = functools.partial(fake.work, fault="user:Anna1_visit2")
    with pytest.raises(UserError, match="Anna1_visit2 cannot be used: .*no calibration"):
        run(studies, tmp_path / "work", work, strict=True)


@with_beam
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_costs_its_study_at_most(studies, tmp_path, monkeypatch, deaths):
    died, real = [], beam_runner.work_on

    def dying(job, *arguments):
        if job[0].name == "Anna1_visit3" and len(died) < deaths:
            died.append(job)
            raise RuntimeError("the worker died")
        return real(job, *arguments)

    monkeypatch.setattr(beam_runner, "work_on", dying)
    spills, skipped = run(studies, tmp_path / "work")
    assert len(died) == deaths
    assert [one.study.name for one in skipped] == ([] if deaths == 1 else ["Anna1_visit3"])
    assert all(one.reason == runner.DIED for one in skipped)
    assert len(spills) + len(skipped) == 8


@with_beam
def test_a_pipeline_that_does_not_start_is_the_users_error(studies, tmp_path):
    with pytest.raises(UserError, match="pipeline of Beam failed: .*NoSuchRunner"):
        run(studies, tmp_path / "work", options=["--runner=NoSuchRunner"])


@with_beam
def test_a_full_disk_is_no_fault_of_a_study(studies, tmp_path):
    with pytest.raises(OutputError, match="work: No space left on device. Make room"):
        run(studies, tmp_path / "work", full)


def test_without_beam_the_error_says_what_to_install(studies, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'medxfer\[beam\]'"):
        prepare(studies, tmp_path / "data", runner="beam")
    assert not list(tmp_path.glob("data*"))


def test_options_of_a_runner_are_for_beam_only(studies, tmp_path):
    words = [sys.executable, "-m", "tests.data_prep.fake", f"--input={tmp_path / 'raw'}"]
    words += [f"--output={tmp_path / 'data'}", "--", "--runner=DirectRunner"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: Unknown argument '--runner=DirectRunner': what follows -- is for --runner=beam.\n"
    )


@with_beam
@pytest.mark.slow
def test_the_carotid_phantom_by_direct_runner_from_the_command_line(tmp_path):
    import tensorflow_datasets as tfds

    raw = tmp_path / "raw"
    phantom.generate(raw, seed=1, subjects=6, images_per_subject=1)
    words = [sys.executable, "-m", "data_prep.cimt", f"--input={raw}"]
    subprocess.run([*words, f"--output={tmp_path / 'local'}"], check=True)
    words += [f"--output={tmp_path / 'beam'}", "--runner=beam", "--", "--runner=DirectRunner"]
    subprocess.run(words, check=True)
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")
    builder = tfds.builder_from_directory(tmp_path / "beam")
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    for name, split in builder.as_dataset().items():
        found = list(tfds.as_numpy(split))
        assert len(found) == counts[name]
        assert all(one["image"].dtype == "uint8" for one in found)
