"""How far long work has come: a bar on a terminal, lines in a log.

Work names itself with :func:`doing`, :func:`counted` or :func:`track`. In a command, a watcher logs
a line about the innermost work whenever nothing has been logged for :data:`QUIET` seconds, so that
nobody has to guess whether it hangs.
"""

import contextlib
import dataclasses
import logging as python_logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from absl import logging

from data_prep.locks import duration

QUIET = 15.0  # seconds without a line after which one is due


@dataclasses.dataclass(eq=False)
class Work:
    """Something that takes long; ``done`` may be raised by who does it."""

    what: str
    total: int | None = None
    units: str = ""
    done: int = 0
    named: bool = False  # its name begins those of the works within it
    began: float = dataclasses.field(default_factory=time.monotonic)

    def __str__(self) -> str:
        passed = time.monotonic() - self.began
        if not self.total:
            return f"{self.what}: {duration(passed)} so far"
        text = f"{self.what}: {self.done} of {self.total} {self.units} in {duration(passed)}"
        if 0 < self.done < self.total:
            left = passed / self.done * (self.total - self.done)
            text += f", about {duration(left)} left"
        return text


_works: list[Work] = []
_last = [0.0]  # when a line was logged


@contextlib.contextmanager
def doing(what: str) -> Iterator[Work]:
    """Name the work of the block; ``what`` begins a line of the log."""
    with counted(what, None, "") as work:
        yield work


@contextlib.contextmanager
def counted(what: str, total: int | None, units: str) -> Iterator[Work]:
    """The same for work on ``total`` things, called ``units``; the block counts ``done``."""
    if _works and _works[-1].named:
        what = f"{_works[-1].what}, {what}"
    work = Work(what, total, units, named=total is None)
    _works.append(work)
    try:
        yield work
    finally:
        _works.remove(work)


def track(items: Iterable, what: str, total: int, units: str) -> Iterator:
    """The items; on a terminal with a bar, if they take more than two seconds."""
    from tqdm import tqdm

    with counted(what, total, units) as work:
        bar = tqdm(items, work.what, total, leave=False, disable=None, delay=2, unit=f" {units}")
        for item in bar:
            yield item
            work.done += 1


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Log where the work stands, within the block, whenever it has been quiet for long."""
    ended = threading.Event()
    handler = logging.get_absl_handler()
    whole = Work("Working")
    terminal = sys.stderr.isatty()

    def heard(_: python_logging.LogRecord) -> bool:
        _last[0] = time.monotonic()
        return True

    def watch() -> None:
        while not ended.wait(QUIET / 15):
            work = _works[-1] if _works else whole
            if terminal and work.total:  # a bar shows it
                continue
            if time.monotonic() - _last[0] >= QUIET:
                logging.info("%s.", work)

    handler.addFilter(heard)
    _last[0] = time.monotonic()
    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        handler.removeFilter(heard)
