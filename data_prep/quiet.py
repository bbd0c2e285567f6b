"""Keep TensorFlow's start-up chatter off the terminal, so that a person sees what concerns them."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr() -> Iterator[None]:
    """Send what native code writes to standard error nowhere; Python's errors still rise.

    TensorFlow's C++ library reports missing GPU drivers and its own optimisations while it is
    imported, before any of its logging settings hold.
    """
    sys.stderr.flush()
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard error, for instance in a service
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def import_tensorflow() -> None:
    """Import TensorFlow and look for its devices, without the chatter of either."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr():
        import tensorflow

        tensorflow.config.list_physical_devices()
