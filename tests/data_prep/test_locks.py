"""Claims on what is in a folder, and on folders: one holder at a time, whoever dies or sleeps."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap
import time

import pytest

from data_prep import locks
from data_prep.errors import UserError


def test_one_holder_at_a_time(tmp_path):
    claim = locks.take(tmp_path, "run")
    assert locks.take(tmp_path, "run") is None
    assert locks.take(tmp_path, "run-2") is not None
    assert claim.beat()
    claim.end()
    assert locks.take(tmp_path, "run").generation == 1


def test_a_name_with_dots_is_no_other_name(tmp_path):
    locks.take(tmp_path, "a.1")
    assert locks.generation(tmp_path, "a") == -1


def test_only_one_of_many_succeeds(tmp_path):
    code = (
        "import pathlib, sys, time\nfrom data_prep import locks\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "while not (place / 'go').exists(): pass\n"
        "won = [locks.take(place, f'run{i}') is not None for i in range(50)]\n"
        "print(''.join('01'[w] for w in won), flush=True)\nsys.stdin.read()"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    (tmp_path / "go").touch()
    rows = [process.stdout.readline().strip() for process in racers]
    for process in racers:
        process.communicate("")
    assert [sum(map(int, column)) for column in zip(*rows, strict=True)] == [1] * 50


def test_silence_voids_a_claim_of_another_machine_and_its_holder_gives_way(tmp_path):
    claim = locks.take(tmp_path, "run")
    claim.note(machine="another")
    assert locks.take(tmp_path, "run", age=60) is None
    os.utime(claim.path, (time.time() - 100, time.time() - 100))
    second = locks.take(tmp_path, "run", age=60)
    assert second.generation == 1
    assert not claim.beat() and second.beat()


def test_a_slow_holder_whose_successor_is_gone_gives_way(tmp_path):
    slow = locks.take(tmp_path, "run")
    slow.note(machine="another")
    os.utime(slow.path, (1, 1))
    locks.take(tmp_path, "run", age=60).remove()
    assert list(tmp_path.iterdir()) == []
    assert not slow.beat()
    third = locks.take(tmp_path, "run")
    assert third.path == slow.path
    os.utime(third.path, (1, 1))
    assert not slow.beat()
    slow.note(ended=True)
    slow.remove()
    assert third.path.stat().st_mtime == 1
    assert locks.take(tmp_path, "run", age=1e12) is None
    assert third.beat()


def test_a_dead_holder_of_this_machine_is_not_waited_for(tmp_path):
    claim = locks.take(tmp_path, "run")
    claim.note(pid=2**22 + 1, child=locks.process(os.getpid()))
    assert locks.take(tmp_path, "run") is None  # its child still works
    claim.note(child={"pid": os.getpid(), "began": "another time"})
    assert locks.take(tmp_path, "run") is not None


def test_a_damaged_file_counts_by_its_age(tmp_path):
    claim = locks.take(tmp_path, "run")
    claim.path.write_text("{")
    assert locks.take(tmp_path, "run", age=60) is None
    os.utime(claim.path, (1, 1))
    assert locks.take(tmp_path, "run", age=60) is not None


def elsewhere(folder: pathlib.Path, body: str, **options) -> subprocess.Popen:
    """A process that holds the folder and says so, then does what ``body`` says."""
    code = f"""
        import pathlib, sys, time
        from data_prep import locks
        with locks.hold(pathlib.Path(sys.argv[1]), "Wait.", **{options!r}):
            print("held", flush=True)
            {body}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def claim_of(folder: pathlib.Path) -> pathlib.Path:
    (path,) = (folder / locks.FOLDER).iterdir()
    return path


def test_the_second_is_told_who_is_there(tmp_path):
    folder = tmp_path / "data"
    process = elsewhere(folder, "sys.stdin.read()")
    about = f"{folder} is in use by process {process.pid} on {os.uname().nodename}, for "
    with pytest.raises(UserError, match=re.escape(about) + r"\d+ s\. Choose another\.$"):
        with locks.hold(folder, "Choose another."):
            pytest.fail("two at a time")
    process.communicate("")
    assert process.returncode == 0
    assert not folder.exists()  # nothing was written to it
    with locks.hold(folder, "Wait."):
        (folder / "content").touch()
    assert [path.name for path in folder.iterdir()] == ["content"]


def test_a_killed_holder_is_not_waited_for(tmp_path):
    (tmp_path / "content").touch()
    process = elsewhere(tmp_path, "sys.stdin.read()")
    process.kill()
    process.communicate()
    with locks.hold(tmp_path, "Wait."):
        assert claim_of_newest(tmp_path) == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["content"]


def claim_of_newest(folder: pathlib.Path) -> int:
    return locks.holder(folder / locks.FOLDER, "holder").pid


def test_another_machine_is_waited_for_as_long_as_is_said(tmp_path):
    process = elsewhere(tmp_path, "sys.stdin.read()")
    path = claim_of(tmp_path)
    path.write_text(path.read_text().replace(locks.machine(), "another machine"))
    seen = time.time() - 400
    os.utime(path, (seen, seen))
    message = r"last sign of life 7 min ago\. It is taken over after 10 min of silence\. Wait\."
    with pytest.raises(UserError, match=message), locks.hold(tmp_path, "Wait."):
        pass
    os.utime(path, (seen - 300, seen - 300))
    with locks.hold(tmp_path, "Wait."):
        assert claim_of_newest(tmp_path) == os.getpid()
    process.kill()
    process.communicate()


def test_who_slept_and_was_replaced_ends_at_once(tmp_path):
    process = elsewhere(tmp_path, "time.sleep(60); print('wrote')", beat=0.1)
    locks.void(tmp_path)
    with locks.hold(tmp_path, "Wait."):
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "wrote" not in out
    assert err == f"Error: {tmp_path} was taken over by {who()}.\n"


def who() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}, for 0 s"


def test_one_after_the_other_where_many_want_in(tmp_path):
    """Every process gets its turns, however the machine shares out its time; never two at once."""
    code = """
        import pathlib, sys, time
        from data_prep import errors, locks
        folder, turns = pathlib.Path(sys.argv[1]), 0
        while not (folder.parent / "go").exists():
            pass
        while turns < 8:
            try:
                with locks.hold(folder, "Wait."):
                    (folder / "inside").touch(exist_ok=False)
                    time.sleep(0.001)
                    (folder / "inside").unlink()
                    turns += 1
            except errors.UserError:
                time.sleep(0.002)
    """
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "data")],
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    (tmp_path / "go").touch()
    assert [process.communicate()[1] for process in racers] == [""] * 3
    assert not (tmp_path / "data").exists()


def test_a_folder_that_goes_while_it_is_looked_at_is_tried_again(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    taking = locks.take
    seen = []

    def make_and_lose(*arguments):
        if not seen:
            seen.append(1)
            raise FileExistsError("made by another process, and removed by it since")
        return taking(*arguments)

    monkeypatch.setattr(locks, "take", make_and_lose)
    with locks.hold(folder, "Wait."):
        assert claim_of_newest(folder) == os.getpid()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)), locks.hold(tmp_path / "data", "."):
        pytest.fail("a file was held as a folder")
