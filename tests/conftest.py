import os
import pathlib
import signal

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Where the suite runs in the background of a shell, Ctrl-C is ignored, and by all it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real images; the test is skipped, saying why, where there is none."""
    root = pathlib.Path(__file__).resolve().parents[1]
    folder = pathlib.Path(os.environ.get("MEDXFER_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: set MEDXFER_TEST_DATA to their folder ({folder} is absent)")
    return folder
