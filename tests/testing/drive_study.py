"""``python -m tests.testing.drive_study``: medxfer.study with the networks of the tests.

With a module and arguments, ``python -m tests.testing.drive_study MODULE ARGUMENTS``, it stands in
for :mod:`medxfer.studies.child` in the processes of the runs.
"""

import sys

from tests.testing import networks


def _main() -> None:
    with networks.installed():
        if len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
            from medxfer.studies import child

            child.main()
            return
        from data_prep import command
        from medxfer import study
        from medxfer.studies import execute

        execute.CHILD = (sys.executable, "-m", __spec__.name)
        command.run(study.main)


if __name__ == "__main__":
    _main()
