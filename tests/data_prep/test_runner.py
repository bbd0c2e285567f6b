import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_prep import records, runner
from data_prep.errors import UserError
from data_prep.splits import pseudonym
from tests.data_prep import fake

EXTRAS = {"x": "float", "li": "float_list"}


@pytest.fixture
def studies(tmp_path):
    fake.write_studies(tmp_path / "raw", 6)
    return fake.find(tmp_path / "raw")


def run(studies, folder, settings=fake.SETTINGS, workers=1, strict=False, **faults):
    return runner.run(
        functools.partial(fake.work, **faults),
        studies,
        folder,
        extras=EXTRAS,
        tokens=runner.tokens(studies, settings, workers),
        workers=workers,
        strict=strict,
    )


def examples_of(spill: runner.Spill) -> dict[str, list[bytes]]:
    """The encoded examples of a spill, read with nothing but its index."""
    with spill.path.open("rb") as file:
        return {
            kind: [file.read(length) for length in entry["length"]]
            for kind, entry in spill.index().items()
        }


def test_results_are_spilled_in_the_order_of_the_studies(studies, tmp_path):
    spills, skipped = run(studies, tmp_path / "work")
    assert not skipped
    assert [spill.case for spill in spills] == [pseudonym(s.name, fake.KEY) for s in studies]
    for study, spill in zip(studies, spills, strict=True):
        result = fake.work(study)
        expected = {
            kind: [records.encode(example, EXTRAS) for example in examples]
            for kind, examples in result.examples.items()
        }
        assert examples_of(spill) == expected
        assert spill.truth == result.truth
        assert spill.mended == [note.replace(study.name, "<name>") for note in result.mended]
    assert any(spill.mended for spill in spills)


def test_processes_give_the_same_as_one(studies, tmp_path):
    alone, _ = run(studies, tmp_path / "1")
    together, _ = run(studies, tmp_path / "2", workers=2)
    for one, other in zip(alone, together, strict=True):
        assert one.path.name == other.path.name
        assert one.path.read_bytes() == other.path.read_bytes()
        assert dataclasses.replace(one, path=other.path) == other
        assert one.index() == other.index()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        ("user", "<name>: no calibration for <name>.", "Anna1_visit2.npy: no calibration"),
        ("bug", "ZeroDivisionError while it was read", "ZeroDivisionError: reading Anna1_visit2"),
    ],
)
def test_a_study_that_fails_is_skipped(studies, tmp_path, workers, fault, reason, detail):
    spills, (skipped,) = run(
        studies, tmp_path / "work", workers=workers, fault=f"{fault}:Anna1_visit2"
    )
    assert len(spills) == 5
    assert skipped.study == studies[2]
    assert skipped.reason == reason
    assert detail in skipped.detail


def test_a_process_that_dies_costs_its_study_only(studies, tmp_path):
    spills, (skipped,) = run(studies, tmp_path / "work", workers=2, fault="exit:Anna0_visit1")
    assert len(spills) == 5
    assert skipped.study == studies[1]
    assert "died" in skipped.reason


def test_strict_ends_at_the_first_failure(studies, tmp_path):
    with pytest.raises(UserError, match="Anna1_visit2 cannot be used: .*no calibration"):
        run(studies, tmp_path / "work", strict=True, fault="user:Anna1_visit2")


def test_an_interrupted_run_resumes(studies, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "work"
    with pytest.raises(UserError):
        run(studies, folder, strict=True, log=log, fault="user:Anna1_visit2")
    assert len(log.read_text().split()) == 3
    log.unlink()
    spills, _ = run(studies, folder, log=log)
    assert log.read_text().split() == [study.name for study in studies[2:]]
    whole, _ = run(studies, tmp_path / "other")
    assert [spill.path.read_bytes() for spill in spills] == [s.path.read_bytes() for s in whole]


def test_a_killed_run_resumes(studies, tmp_path):
    code = (
        "import pathlib\n"
        "from tests.data_prep import fake, test_runner\n"
        f"studies = fake.find(pathlib.Path({str(tmp_path / 'raw')!r}))\n"
        f"test_runner.run(studies, pathlib.Path({str(tmp_path / 'work')!r}),"
        " fault='kill:Anna2_visit4')"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert killed.returncode == -9
    log = tmp_path / "log"
    spills, _ = run(studies, tmp_path / "work", log=log)
    assert log.read_text().split() == ["Anna2_visit4", "Anna2_visit5"]
    assert len(spills) == 6


def test_a_spill_that_is_cut_off_is_made_again(studies, tmp_path):
    (spill, *_), _ = run(studies, tmp_path / "work")
    content = spill.path.read_bytes()
    spill.path.write_bytes(content[:-1])
    assert runner.Spill.load(tmp_path / "work", spill.path.stem) is None
    (again, *_), _ = run(studies, tmp_path / "work")
    assert again.path.read_bytes() == content


def test_tokens_depend_on_content_names_and_settings(studies, tmp_path):
    def named(name, *paths):
        return dataclasses.replace(studies[0], name=name, files=paths)

    (first,) = runner.tokens(studies[:1], {"a": 1}, 1)
    path = studies[0].files[0]
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    name = studies[0].name
    assert runner.tokens([named(name, moved)], {"a": 1}, 2) == [first]
    renamed = moved.rename(moved.with_name("other.npy"))
    others = [
        runner.tokens(studies[:1], {"a": 2}, 1),
        runner.tokens([named("other", path)], {"a": 1}, 1),
        runner.tokens([named(name, renamed)], {"a": 1}, 1),
        runner.tokens([named(name, path, renamed)], {"a": 1}, 1),
        runner.tokens([named(name, tmp_path / "absent" / path.name)], {"a": 1}, 1),
    ]
    np.save(path, np.zeros(3))
    others.append(runner.tokens(studies[:1], {"a": 1}, 1))
    assert len({first, *(token for (token,) in others)}) == 7


def test_a_number_is_a_name_only_where_it_stands_by_itself(tmp_path):
    study = runner.Study("1", (tmp_path / "1.mp4",))
    text = "1.mp4: 12 of 31 frames of 1 can be read"
    assert runner._without_names(text, study) == "<name>: 12 of 31 frames of <name> can be read"


@pytest.mark.parametrize("bounded", [False, True])
def test_a_token_opens_no_pipe_and_nothing_outside_the_input(tmp_path, bounded):
    @dataclasses.dataclass(frozen=True)
    class Source(runner.Study):
        root: pathlib.Path | None

    root, outside = tmp_path / "raw", tmp_path / "secret"
    root.mkdir()
    os.symlink(outside, root / "link")
    os.mkfifo(root / "pipe")
    os.symlink("ring", root / "ring")
    found = set()
    for content in ("one", "other"):
        outside.write_text(content)
        sources = [
            Source("a", (root / name,), root if bounded else None)
            for name in ("link", "pipe", "ring")
        ]
        found.add(tuple(runner.tokens(sources, {}, 1)))
    assert len(found) == (1 if bounded else 2)


def test_a_token_of_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"M\xfcller.png")
    path.write_bytes(b"x")
    assert len(set(runner.tokens([runner.Study(n, (path,)) for n in (path.name, "a")], {}, 1))) == 2


def test_a_token_depends_on_what_the_reader_said_but_not_on_the_place(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Source(runner.Study):
        root: pathlib.Path
        facts: dict
        video: pathlib.Path

    def token(folder, **facts):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        path = root / "a.mp4"
        path.write_bytes(b"frames")
        return runner.tokens([Source("a", (path,), root, facts, path)], {}, 1)[0]

    assert token("one", masks=True) == token("two", masks=True)
    assert token("one", masks=True) != token("one", masks=False)
