import csv
import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import pytest

from data_prep import command, splits
from data_prep.errors import UserError
from tests.data_prep import fake


@pytest.fixture
def studies(tmp_path):
    fake.write_studies(tmp_path / "raw", 8)
    return fake.find(tmp_path / "raw")


def prepare(studies, output, settings=fake.SETTINGS, faults=None, **options):
    return command.prepare(
        fake.layout(),
        studies,
        functools.partial(fake.work, **(faults or {})),
        settings,
        command.Options(output, fake.KEY, **options),
    )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_bytes_depend_on_neither_workers_nor_order_nor_place(studies, tmp_path):
    prepare(studies, tmp_path / "a")
    prepare(studies[::-1], tmp_path / "b", workers=2)
    moved = (tmp_path / "raw").rename(tmp_path / "moved")
    prepare(fake.find(moved), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert not list(tmp_path.glob("*.partial"))


def test_no_original_name_is_in_the_folder(studies, tmp_path):
    prepare(studies, tmp_path / "data", faults={"fault": "user:Anna1_visit2"})
    for name, content in contents(tmp_path / "data").items():
        for study in studies:
            assert study.name.encode() not in content, name
            assert str(tmp_path).encode() not in content, name
        assert b"Anna" not in content
        assert fake.KEY not in content


def test_an_interrupted_preparation_resumes(studies, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(UserError, match="Anna1_visit2 cannot be used"):
        prepare(
            studies,
            tmp_path / "data",
            faults={"log": log, "fault": "user:Anna1_visit2"},
            strict=True,
        )
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "data.partial").is_dir()
    log.unlink()
    prepare(studies, tmp_path / "data", faults={"log": log})
    assert log.read_text().split() == [study.name for study in studies[2:]]
    prepare(studies, tmp_path / "whole")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_a_complete_dataset_is_reused(studies, tmp_path):
    log = tmp_path / "log"
    first = prepare(studies, tmp_path / "data")
    again = prepare(studies, tmp_path / "data", faults={"log": log})
    assert not log.exists()
    assert (first.reused, again.reused) == (False, True)
    assert first.prep == again.prep
    assert command.summary(again) == command.summary(first).replace(
        "written", "was complete before"
    )


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"settings": {"patch": 7}}, {"folds": 2, "fold": 0}, {"key": b"other"}]
)
def test_a_dataset_of_other_settings_is_left_alone(studies, tmp_path, change):
    prepare(studies, tmp_path / "data")
    before = contents(tmp_path / "data")
    options = command.Options(tmp_path / "data", fake.KEY)
    settings = change.pop("settings", fake.SETTINGS)
    with pytest.raises(UserError, match="other sources or settings"):
        command.prepare(
            fake.layout(),
            studies,
            functools.partial(fake.work, key=change.get("key", fake.KEY)),
            settings,
            dataclasses.replace(options, **change),
        )
    assert contents(tmp_path / "data") == before


def test_a_study_more_makes_another_dataset(studies, tmp_path):
    prepare(studies[:7], tmp_path / "data")
    with pytest.raises(UserError, match="other sources or settings"):
        prepare(studies, tmp_path / "data")


def test_folds_cover_every_subject_once(studies, tmp_path):
    tests = []
    for fold in range(4):
        made = prepare(studies, tmp_path / str(fold), folds=4, fold=fold)
        tests += made.prep["splits"]["test"]["subjects"]
        assert made.prep["settings"]["fold"] == fold
    names = {study.name.partition("_")[0] for study in studies}
    assert sorted(tests) == sorted(splits.pseudonym(name, fake.KEY) for name in names)


def test_the_link_table_names_the_originals(studies, tmp_path):
    table = tmp_path / "link.csv"
    made = prepare(
        studies, tmp_path / "data", faults={"fault": "bug:Anna0_visit1"}, link_table=table
    )
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["original"] for row in rows] == [study.name for study in studies]
    for row in rows:
        assert row["case"] == splits.pseudonym(row["original"], fake.KEY)
        subject = splits.pseudonym(row["original"].partition("_")[0], fake.KEY)
        assert row["subject"] == subject
        failed = row["original"] == "Anna0_visit1"
        assert row["skipped"].startswith("ZeroDivisionError: reading Anna0_visit1") == failed
        assert bool(row["skipped"]) == failed and not row["repeats"]
    assert str(table) in command.summary(made)
    assert table.stat().st_mode & 0o077 == 0  # the owner's alone


@pytest.mark.parametrize("place", ["data/link.csv", "data.partial/link.csv", "absent/link.csv"])
def test_a_link_table_in_the_output_is_refused(studies, tmp_path, place):
    with pytest.raises(UserError, match="--link_table"):
        prepare(studies, tmp_path / "data", link_table=tmp_path / place)
    assert not (tmp_path / "data").exists()


def test_the_summary_names_originals_and_counts(studies, tmp_path):
    made = prepare(studies, tmp_path / "data", faults={"fault": "user:Anna1_visit2"})
    lines = command.summary(made).splitlines()
    assert lines[0].startswith("8 studies found, 7 used")
    assert lines[0].endswith("1 skipped.")
    (skipped,) = (line for line in lines if line.startswith("  skipped"))
    case = splits.pseudonym("Anna1_visit2", fake.KEY)
    assert f"Anna1_visit2 ({case})" in skipped and "no calibration for Anna1_visit2" in skipped
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert cells["split"] == ["subjects", "examples", "dark", "bright", "whole", "region"]
    for split, content in made.prep["splits"].items():
        labels = [content["labels"].get(label, 0) for label in ("0", "1", "-1")]
        expected = [len(content["subjects"]), content["examples"], *labels]
        assert [int(cell) for cell in cells[split]] == expected


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda studies: [], "No study"),
        (lambda studies: [*studies, studies[0]], "names .* of their own: Anna0_visit0"),
        (lambda studies: studies[:2], "1 subjects are too few"),
    ],
)
def test_unusable_inputs_are_the_users_error(studies, tmp_path, select, message):
    with pytest.raises(UserError, match=message):
        prepare(select(studies), tmp_path / "data")


def test_nothing_usable_is_an_error_that_says_why(studies, tmp_path):
    with pytest.raises(UserError, match="None of 1 studies .*no calibration"):
        prepare(studies[2:3], tmp_path / "data", faults={"fault": "user:Anna1_visit2"})


def test_a_case_that_is_not_the_pseudonym_of_its_study_is_a_bug(studies, tmp_path):
    with pytest.raises(ValueError, match="must be the pseudonym of its study"):
        prepare(studies, tmp_path / "data", faults={"key": b"another"})


def run(*arguments):
    command_line = [sys.executable, "-m", "tests.data_prep.fake", *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True, check=False)


def test_the_command_writes_and_sums_up(studies, tmp_path):
    output = tmp_path / "data"
    done = run(f"--input={tmp_path / 'raw'}", f"--output={output}", "--fault=bug:Anna0_visit0")
    assert done.returncode == 0, done.stderr
    assert "8 studies found, 7 used" in done.stdout
    assert "ZeroDivisionError: reading Anna0_visit0 (fake.py, line" in done.stdout
    assert "--pseudonym_key=@FILE" in done.stderr
    assert str(output) in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--folds=3",), ("stray",), ("--strict", "--fault=user:Anna0_visit0")]
)
def test_a_users_error_is_one_line_and_status_2(studies, tmp_path, arguments):
    done = run(
        f"--input={tmp_path / 'raw'}",
        f"--output={tmp_path / 'data'}",
        "--pseudonym_key=k",
        "--workers=1",
        "--verbosity=-1",
        *arguments,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in done.stderr


def test_ctrl_c_says_how_to_go_on(studies, tmp_path):
    done = run(
        f"--input={tmp_path / 'raw'}",
        f"--output={tmp_path / 'data'}",
        "--workers=1",
        "--fault=interrupt:Anna0_visit1",
    )
    assert done.returncode == 130
    words = "of 8 studies are kept; the same command goes on with the others."
    assert re.search(rf"Interrupted\. \d {words}\n$", done.stderr), done.stderr


def test_help_lists_the_flags_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom data_prep import command\ncommand.define_flags()\n"
        "heavy = {'numpy', 'tensorflow', 'PIL', 'tqdm', 'multiprocessing'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = run("--help").stdout
    for flag in "input output seed workers runner strict pseudonym_key link_table".split():
        assert f"--{flag}" in shown or f"--[no]{flag}" in shown
    for flag in "test_fraction validation_fraction folds fold".split():
        assert f"--{flag}" in shown
