"""Being asked to end: by Ctrl-C, a scheduler that needs the machine, a time limit, ``kill``.

SIGTERM raises :class:`Terminated` and SIGINT KeyboardInterrupt, so that locks are given back and
half-written files deleted on the way out. The command leaves with status :data:`RESUME` or
:data:`INTERRUPTED`: the same command goes on. Work that would be lost is done in a block of
:func:`deferred`, which is told and can save it first. A second Ctrl-C ends at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

#: Exit status of a command that was asked to end before it was done: EX_TEMPFAIL of sysexits.h,
#: "the user is invited to retry".
RESUME = 75

#: Exit status after Ctrl-C, as shells have it: 128 and the number of the signal.
INTERRUPTED = 130

# What a second Ctrl-C does. Within a command the system's default: it ends the process even within
# a long operation of a library, in which no Python code runs.
_second = signal.default_int_handler


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt no Exception: nothing should go on because of it."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` within the block, and SIGINT KeyboardInterrupt."""
    global _second

    def end(number: int, _) -> None:
        if number == signal.SIGTERM:
            raise Terminated
        signal.signal(signal.SIGINT, _second)
        raise KeyboardInterrupt

    before, _second = _second, signal.SIG_DFL
    try:
        with _handled(end):
            yield
    finally:
        _second = before


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], BaseException | None]]:
    """Let both signals only be noted within the block; what they raise is raised at its end.

    Yields
    ------
    callable
        Gives what to raise, or None if no signal came.
    """
    came: list[int] = []

    def note(number: int, _) -> None:
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, _second)
            os.write(2, b"\nCtrl-C: what is done is being saved. A second one ends at once.\n")

    def asked() -> BaseException | None:
        if not came:
            return None
        return KeyboardInterrupt() if signal.SIGINT in came else Terminated()

    with _handled(note):
        yield asked
    if ended := asked():
        raise ended


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let processes that start in the block inherit that Ctrl-C does not reach them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def told(where: Callable[[], str]) -> Iterator[None]:
    """Add a sentence, where the same command goes on, to what a signal raises in the block."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as ended:
        if not hasattr(ended, "__notes__"):
            ended.add_note(where())
        raise


@contextlib.contextmanager
def _handled(handler: Callable) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] == signal.SIG_IGN:  # as in the background of a shell: it stays so
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            if signal.getsignal(number) != signal.SIG_DFL:  # where it is, a command is ending
                signal.signal(number, earlier)
