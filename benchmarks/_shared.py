"""Shared by the benchmarks: peers in processes of their own that take turns, and plain tables."""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence


class Turns:
    """A process that does one round of work whenever it is asked and idles in between.

    Two frameworks in one process would share its OpenMP pool; in processes that run at the same
    time they would share the cores. Here one computes while the others wait for a line of input.

    Parameters
    ----------
    script : str
        Called as ``python script --worker NAME``; must end in :func:`serve`.
    name : str
        The worker's name.
    threads : int
        Given to the process as OMP_NUM_THREADS.
    options : sequence of str
        Further arguments of the script.
    """

    def __init__(self, script: str, name: str, threads: int, options: Sequence[str] = ()) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, "--worker", name, *options],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def round(self) -> float:
        """One round's result: what the worker's function returns."""
        try:
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith("result "):
                    return float(line.split()[1])
        except BrokenPipeError:
            pass
        raise SystemExit(f"{self.name} failed:\n{self._process.stderr.read()}")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(work: Callable[[], float]) -> None:
    """Answer every line of input with the result of ``work``."""
    for _ in sys.stdin:
        print("result", work(), flush=True)


def alternate(workers: Sequence[Turns], rounds: int) -> dict[str, list[float]]:
    """Results of every worker over ``rounds`` rounds, after one that does not count."""
    results: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            value = worker.round()
            if number:
                results[worker.name].append(value)
    return results


#: File to which :func:`record` adds its lines, where ``run.py`` asks for them.
RESULTS = "MEDXFER_BENCHMARK_RESULTS"


def record(name: str, value: float, unit: str, target: str = "") -> None:
    """Hand a figure to ``run.py``, if that runs this script; ``target`` in words: at least 5."""
    path = os.environ.get(RESULTS)
    if path:
        entry = {"name": name, "value": float(value), "unit": unit, "target": target}
        with pathlib.Path(path).open("a") as file:
            file.write(json.dumps(entry) + "\n")


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return middle - half, middle + half


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first left-aligned."""
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def machine() -> str:
    """Cores and load, for the record."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{os.cpu_count()} cores, load {load:.1f} before the run, Python {sys.version.split()[0]}"
    )
