"""Being asked to end: by a scheduler that needs the machine, by a time limit, by ``kill``.

SIGTERM raises :class:`Terminated`, so that locks are given back and half-written files deleted on
the way out, and the command leaves with status :data:`RESUME`: the same command goes on. Work that
would be lost is done in a block of :func:`deferred`, which is told and can save it first.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

#: Exit status of a command that was asked to end before it was done: EX_TEMPFAIL of sysexits.h,
#: "the user is invited to retry".
RESUME = 75


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt no Exception: nothing should go on because of it."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` within the block."""

    def end(*_) -> None:
        raise Terminated

    with _handled(end):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM only be noted within the block; :class:`Terminated` is raised at its end.

    Yields
    ------
    callable
        Says whether it came.
    """
    came = threading.Event()
    with _handled(lambda *_: came.set()):
        yield came.is_set
    if came.is_set():
        raise Terminated


@contextlib.contextmanager
def _handled(handler: Callable) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
