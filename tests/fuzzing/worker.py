"""Feed damaged inputs to one family of readers; a process of its own, so that a crash is seen.

    python -m tests.fuzzing.worker FAMILY FIRST LAST FOLDER

Prints one JSON line per input: its number and "value", the class of a named error, or what was not
caught. The parent tells from the last line at which input a process died.
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import sys
import time
import warnings

import numpy as np

from tests.fuzzing import families, mutations

SECONDS = 20  # for one input, of the processor
MEMORY = 1 << 30  # bytes beyond what the process has after the undamaged input


class TooLong(BaseException):
    """Not an Exception, so that nobody catches it by mistake."""


def expire(*_):
    raise TooLong


def main() -> None:
    name, first, last, folder = sys.argv[1], *map(int, sys.argv[2:4]), pathlib.Path(sys.argv[4])
    warnings.simplefilter("ignore")
    family = families.FAMILIES[name]()
    root = folder / "input"
    root.mkdir(parents=True)
    paths = family.plant(root)
    whole = {path: path.read_bytes() for path in paths}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries in C talk, too
    family.read(root)  # undamaged: must give a value
    held = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGVTALRM, expire)
    for number in range(first, last):
        rng = np.random.default_rng([number, len(name), *name.encode()])
        path = paths[int(rng.integers(len(paths)))]
        path.write_bytes(mutations.mutate(whole[path], rng))
        answers.write(json.dumps({"begun": number, "file": path.name}) + "\n")
        answers.flush()
        begun = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            outcome = "value with notes" if family.read(root) else "value"
        except families.NAMED as error:
            outcome = type(error).__name__
            if not str(error):
                outcome = "uncaught: an error without words"
        except TooLong:
            outcome = f"uncaught: more than {SECONDS} s"
        except BaseException as error:
            outcome = f"uncaught: {type(error).__module__}.{type(error).__name__}: {error}"[:500]
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seconds = time.process_time() - begun
        answers.write(json.dumps({"number": number, "outcome": outcome, "s": seconds}) + "\n")
        answers.flush()
        for other, content in whole.items():
            with contextlib.suppress(FileNotFoundError):
                other.unlink()
            other.write_bytes(content)


if __name__ == "__main__":
    main()
