"""Damaged, wrong and hostile files give a value or one named error, in bounded time and memory."""

import collections
import json
import subprocess
import sys

import pytest

from tests.fuzzing import ALL, families, hostile

QUICK, MANY = 12, 1000


def outcomes(name: str, last: int | str, folder) -> list[dict]:
    """One entry per input; where a process dies, a new one goes on behind the deadly input."""
    found, first = [], 0
    while True:
        line = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzzing.worker", name]
        line += [str(first), str(last), str(folder / str(first))]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        found += [row for row in rows if "outcome" in row]
        if done.returncode == 0:
            break
        assert rows, f"The undamaged input of {name} is not read: {done.stderr[-3000:]}"
        dead = rows[-1].get("begun", rows[-1].get("number", -1) + 1)
        reason = f"uncaught: the process died ({done.returncode}): {done.stderr[-1500:]}"
        found.append({"number": dead, "outcome": reason, "s": 0.0})
        first = dead + 1
        if first == last:
            break
    assert [row["number"] for row in found] == list(range(len(found)))
    assert last in (len(found), "hostile")
    return found


def check(name, last, folder, capsys):
    found = outcomes(name, last, folder)
    kinds = collections.Counter(row["outcome"].split(":")[0] for row in found)
    slowest = max(row["s"] for row in found)
    with capsys.disabled():
        tally = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds))
        what = "hostile inputs" if last == "hostile" else "inputs"
        print(f"\n  {name}: {len(found)} {what}: {tally}; the slowest {slowest:.1f} s")
    uncaught = [row for row in found if row["outcome"].startswith("uncaught")]
    assert not uncaught, json.dumps(uncaught[:10], indent=1)
    # A family whose damage is never noticed would test nothing.
    assert len(found) < 100 or kinds.total() > kinds["value"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_many_damaged_inputs(name, tmp_path, capsys):
    check(name, MANY, tmp_path, capsys)


@pytest.mark.parametrize("name", families.QUICK)
def test_some_damaged_inputs(name, tmp_path, capsys):
    check(name, QUICK, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in ALL if name in {*hostile.BOMBS, *hostile.FOLDERS}]
)
def test_bombs_links_paths_and_code(name, tmp_path, capsys):
    check(name, "hostile", tmp_path, capsys)


@pytest.mark.parametrize("name", ["pictures_table"])
def test_some_bombs_links_paths_and_code(name, tmp_path, capsys):
    check(name, "hostile", tmp_path, capsys)


def test_what_is_opened_outside_is_noticed(tmp_path):
    outside = hostile.Outside(tmp_path / "outside")
    assert not outside.opened()
    (tmp_path / "link").symlink_to(outside.place / "secret")
    (tmp_path / "link").resolve().stat()
    assert not outside.opened()
    (tmp_path / "link").read_bytes()
    assert outside.opened() and not outside.opened()
