"""Damaged, wrong and hostile files give a value or one named error, in bounded time and memory."""

import collections
import json
import subprocess
import sys

import pytest

from tests.fuzzing import families

QUICK, MANY = 12, 1000


def outcomes(name: str, count: int, folder) -> list[dict]:
    """One entry per input; where a process dies, a new one goes on behind the deadly input."""
    found, first, attempt = [], 0, 0
    while first < count:
        attempt += 1
        line = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzzing.worker", name]
        line += [str(first), str(count), str(folder / str(attempt))]
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
    assert [row["number"] for row in found] == list(range(count))
    return found


def check(name, count, folder, capsys):
    found = outcomes(name, count, folder)
    kinds = collections.Counter(row["outcome"].split(":")[0] for row in found)
    slowest = max(row["s"] for row in found)
    with capsys.disabled():
        tally = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds))
        print(f"\n  {name}: {count} inputs: {tally}; the slowest {slowest:.1f} s")
    uncaught = [row for row in found if row["outcome"].startswith("uncaught")]
    assert not uncaught, json.dumps(uncaught[:10], indent=1)
    # A family whose damage is never noticed would test nothing.
    assert count < 100 or kinds.total() > kinds["value"]


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_many_damaged_inputs(name, tmp_path, capsys):
    check(name, MANY, tmp_path, capsys)


@pytest.mark.parametrize("name", families.QUICK)
def test_some_damaged_inputs(name, tmp_path, capsys):
    check(name, QUICK, tmp_path, capsys)
