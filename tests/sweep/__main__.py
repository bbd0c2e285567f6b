"""Print what every sweep counts: ``python -m tests.sweep [NAME ...]`` from the repository root.

A sweep is a module ``test_NAME.py`` of this package with a function ``sweep(folder)``, which
writes its variants into an empty folder and returns a :class:`tests.sweep.tally.Tally` or several.
"""

import importlib
import pathlib
import sys
import tempfile


def main(names: list[str]) -> int:
    """Run the sweeps named, or all; 1 if any shows a silent difference."""
    here = pathlib.Path(__file__).parent
    names = names or sorted(path.stem.removeprefix("test_") for path in here.glob("test_*.py"))
    different = 0
    for name in names:
        module = importlib.import_module(f"tests.sweep.test_{name}")
        with tempfile.TemporaryDirectory() as folder:
            tallies = module.sweep(pathlib.Path(folder))
        for tally in tallies if isinstance(tallies, list) else [tallies]:
            print(tally, flush=True)
            different += len(tally.different)
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
