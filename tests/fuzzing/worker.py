"""Feed damaged inputs to one family of readers; a process of its own, so that a crash is seen.

    python -m tests.fuzzing.worker FAMILY FIRST LAST FOLDER

LAST may be "hostile": then the inputs are those of :mod:`tests.fuzzing.hostile`. Prints one JSON
line per input: its number and "value", the class of a named error, or what was not caught. The
parent tells from the last line at which input a process died.
"""

import contextlib
import functools
import json
import os
import pathlib
import resource
import signal
import sys
import time
import warnings

import numpy as np

from tests.fuzzing import ALL, families, hostile, mutations

SECONDS = 20  # for one input, of the processor
MEMORY = 1 << 30  # bytes beyond what the process has after the undamaged input


class TooLong(BaseException):
    """Not an Exception, so that nobody catches it by mistake."""


def expire(*_):
    raise TooLong


def main() -> None:
    name, first, last, folder = sys.argv[1], *sys.argv[2:4], pathlib.Path(sys.argv[4])
    warnings.simplefilter("ignore")
    family = ALL[name]()
    root = folder / "input"
    root.mkdir(parents=True)
    paths = family.plant(root)
    whole = {path: path.read_bytes() for path in paths}
    outside = hostile.Outside(folder / "outside")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries in C talk, too
    family.read(root)  # undamaged: must give a value
    held = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGVTALRM, expire)

    def answer(**what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    for number, (what, spoil) in spoilers(name, first, last, root, whole, outside.place):
        answer(begun=number, file=what)
        spoil()
        outside.opened()
        begun = time.process_time()
        # Of a library that never comes back to Python, the system ends the process.
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun) + 2 * SECONDS, resource.RLIM_INFINITY))
        outcome = outcome_of(family, root)
        if outside.opened():
            outcome = "uncaught: a file outside the folder was opened"
        if (folder / hostile.RAN).exists():
            outcome = "uncaught: code was run"
        answer(number=number, what=what, outcome=outcome, s=time.process_time() - begun)
        restore(root, whole)


def spoilers(name, first, last, root, whole, outside):
    """Numbers, names and functions that spoil the input: mutations, or what is hostile."""
    paths = list(whole)
    if last == "hostile":
        attacks = [
            (attack.__name__, functools.partial(attack, root, paths))
            for attack in hostile.BOMBS.get(name, ())
        ]
        if name in hostile.FOLDERS:
            attacks += [
                (f"link of {path.name}", functools.partial(hostile.link, path, content, outside))
                for path, content in whole.items()
            ]
        yield from list(enumerate(attacks))[int(first) :]
        return
    for number in range(int(first), int(last)):
        rng = np.random.default_rng([number, len(name), *name.encode()])
        path = paths[int(rng.integers(len(paths)))]
        content = mutations.mutate(whole[path], rng)
        yield number, (path.name, functools.partial(path.write_bytes, content))


def outcome_of(family, root) -> str:
    """Read what was spoilt: "value", the class of a named error, or what was not caught."""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        return "value with notes" if family.read(root) else "value"
    except families.NAMED as error:
        return type(error).__name__ if str(error) else "uncaught: an error without words"
    except TooLong:
        return f"uncaught: more than {SECONDS} s"
    except BaseException as error:
        return f"uncaught: {type(error).__module__}.{type(error).__name__}: {error}"[:500]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def restore(root, whole) -> None:
    """Put the good files back, and take away what was not there."""
    for path, content in whole.items():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        path.write_bytes(content)
    for other in root.rglob("*.nhdr"):
        other.unlink()


if __name__ == "__main__":
    main()
