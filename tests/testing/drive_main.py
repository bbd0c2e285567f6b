"""``python -m tests.testing.drive_main``: many command lines of medxfer.main in one process.

TensorFlow is imported once for all of them, and what a command changes in the process (precision,
determinism) does not reach the tests. Each line of the input is a JSON list of arguments; each line
of the output is ``{"status", "out", "err"}``, the last two as written to the file descriptors.
"""

import json
import os
import subprocess
import sys
import tempfile
import typing


class Done(typing.NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that tells a user what is wrong."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and self.err.endswith(f"{lines[0]}\n"), self.err
        # Beside it there are log lines only: time and level come first.
        others = [line for line in self.err.splitlines()[:-1] if not line[:2].isdigit()]
        assert not others, self.err
        assert self.status == 2
        return lines[0]


class Driver:
    """The process; :meth:`call` runs one command line in it."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def call(self, *arguments: object) -> Done:
        """Run ``python -m medxfer.main ARGUMENTS``."""
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _run(arguments: list[str]) -> dict:
    from absl import flags
    from absl.testing import flagsaver

    from data_prep import command
    from medxfer import main

    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        status = 0
        saved = flagsaver.save_flag_values()
        try:
            sys.argv = ["medxfer.main", *arguments]
            command.run(main.main)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            flagsaver.restore_flag_values(saved, flags.FLAGS)
            for place, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, place)
                os.close(descriptor)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return {"status": status, "out": texts[0], "err": texts[1]}


def _serve() -> None:
    from tests.testing import networks

    with networks.installed():
        for line in sys.stdin:
            print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
