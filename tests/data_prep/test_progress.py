"""Long work is never silent: lines say what is done, how much of it, and how long it will take."""

import re
import subprocess
import sys
import textwrap

import pytest


def lines_of(body: str, quiet: float = 0.3) -> list[str]:
    """What a command logs whose main function is ``body``, in a process of its own."""
    code = "\n".join(
        [
            "import sys, time",
            "from absl import logging",
            "from data_prep import command, progress",
            f"progress.QUIET = {quiet}",
            "def main():",
            textwrap.indent(textwrap.dedent(body), "    "),
            "sys.argv = ['command']",
            "command.run(main)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"(?:INFO|WARNING): (.*)", done.stderr)


def test_counted_work_says_how_much_and_how_long():
    lines = lines_of("""
        with progress.doing("fc6"):
            for item in progress.track(range(6), "test part", 6, "regions"):
                time.sleep(0.25)
    """)
    assert len(lines) >= 3
    pattern = r"fc6, test part: (\d) of 6 regions in \d s(, about \d s left)?\."
    counts = [int(re.fullmatch(pattern, line).group(1)) for line in lines]
    assert counts == sorted(counts) and counts[-1] <= 6


def test_work_without_a_count_and_work_without_a_name():
    lines = lines_of("""
        with progress.doing("Drawing figures"):
            time.sleep(0.5)
        time.sleep(0.5)
    """)
    assert re.fullmatch(r"Drawing figures: \d s so far\.", lines[0])
    assert re.fullmatch(r"Working: \d s so far\.", lines[-1])


def test_nothing_is_added_where_lines_come_anyway():
    lines = lines_of(
        """
        for item in progress.track(range(8), "epochs", 8, "epochs"):
            time.sleep(0.1)
            logging.warning("epoch %d", item)
    """,
        quiet=30,
    )
    assert lines == [f"epoch {k}" for k in range(8)]


def test_work_that_fails_is_no_longer_named():
    from data_prep import progress

    with pytest.raises(KeyError), progress.doing("a"), progress.counted("b", 2, "things") as work:
        work.done = 1
        assert re.fullmatch(r"a, b: 1 of 2 things in \d s, about \d s left", str(work))
        raise KeyError
    assert progress._works == []
