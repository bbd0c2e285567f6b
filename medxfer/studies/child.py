"""``python -m medxfer.studies.child MODULE ARGUMENTS``: a command that ends with its parent.

The parent holds the other end of the standard input. When it closes, because the parent is done
with the command or was killed in whatever way, the command ends at once: nothing goes on writing
to a folder that a later study works in.
"""

import os
import runpy
import signal
import sys
import threading

ORPHANED = 75  # exit status: the parent went away


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would outlive the thread
        pass
    os._exit(ORPHANED)


def main() -> None:
    """Run the module as if it had been called by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes on that it is to end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
