"""What all ``python -m data_prep.APP`` commands share: flags, errors, the run, the summary.

A command declares a :class:`data_prep.shards.Layout`, a reader that finds its studies, and a pure
function that works on one study; :func:`prepare` does the rest. Nothing heavy is imported before
the flags are parsed, so that ``--help`` answers at once.
"""

import collections
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

from data_prep.errors import UserError

if typing.TYPE_CHECKING:
    from data_prep.runner import Skipped, Spill, Study, StudyResult
    from data_prep.shards import Layout

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Options:
    """The shared flags as values, so that code can prepare data without a command line.

    Attributes
    ----------
    output : path
        Dataset folder to write. The work folder is ``OUTPUT.partial`` beside it.
    key : bytes
        Key of the pseudonyms (see :func:`data_prep.splits.secret_key`).
    link_table : path or None
        Table from original names to pseudonyms, for the owner of the data.
    """

    output: pathlib.Path
    key: bytes
    seed: int = 0
    workers: int = 1
    strict: bool = False
    link_table: pathlib.Path | None = None
    test_fraction: float = 0.5
    validation_fraction: float = 0.2
    folds: int | None = None
    fold: int | None = None

    def splits(self) -> dict:
        """Settings that decide who is in which split, and in what order."""
        return {
            name: getattr(self, name)
            for name in ("seed", "test_fraction", "validation_fraction", "folds", "fold")
        }


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` did.

    Attributes
    ----------
    output : path
    prep : dict
        Content of ``prep.json``.
    skipped : sequence of Skipped
        With original names: for the terminal only. Empty when the dataset was there before.
    reused : bool
        The dataset was complete before.
    names : dict
        Case pseudonym -> original name: for the terminal only.
    """

    output: pathlib.Path
    prep: dict
    skipped: Sequence["Skipped"]
    reused: bool
    names: Mapping[str, str]


def define_flags(*, test_fraction: float = 0.5, validation_fraction: float = 0.2) -> None:
    """Define the flags that every command has; the arguments are their defaults."""
    flags.DEFINE_string("input", None, "Folder of raw studies.", required=True)
    flags.DEFINE_string(
        "output", None, "Dataset folder to write; must be new. OUTPUT.partial is the work folder, "
        "in which an interrupted run goes on.", required=True,
    )
    flags.DEFINE_integer(
        "seed", 0, "Decides splits, random choices and order: the same seed gives the same bytes.",
        lower_bound=0, upper_bound=2**31 - 1,
    )
    flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes; the result does not depend on it. Default: one "
        "a CPU core.", lower_bound=1,
    )
    flags.DEFINE_enum("runner", "local", ["local"], "Where the work runs: on this machine.")
    flags.DEFINE_bool(
        "strict", False, "End at the first study that cannot be used. Default: skip it, and say so "
        "in the summary and in prep.json.",
    )
    flags.DEFINE_string(
        "pseudonym_key", None, "Secret text, or @FILE that holds it, without which nobody can "
        "compute a pseudonym from an identifier. Default: made from the seed, which is no secret.",
    )
    flags.DEFINE_string(
        "link_table", None, "CSV file to write, outside the output folder: original name, case and "
        "subject pseudonym. Keep it with the originals. Default: none.",
    )
    flags.DEFINE_float("test_fraction", test_fraction, "Share of the subjects that is test.")
    flags.DEFINE_float(
        "validation_fraction", validation_fraction, "Share of the other subjects that is "
        "validation; the paper's split is 80/20.",
    )
    flags.DEFINE_integer("folds", None, "Cross-validation in so many folds, instead of "
                         "--test_fraction. Default: none.")
    flags.DEFINE_integer("fold", None, "Which fold is test, from 0; needed with --folds.")


def options() -> Options:
    """The parsed flags.

    Raises
    ------
    UserError
        If the pseudonym key cannot be read.
    """
    from data_prep import splits

    return Options(
        output=pathlib.Path(FLAGS.output),
        key=splits.secret_key(FLAGS.pseudonym_key, FLAGS.seed),
        seed=FLAGS.seed,
        workers=FLAGS.workers,
        strict=FLAGS.strict,
        link_table=pathlib.Path(FLAGS.link_table) if FLAGS.link_table else None,
        test_fraction=FLAGS.test_fraction,
        validation_fraction=FLAGS.validation_fraction,
        folds=FLAGS.folds,
        fold=FLAGS.fold,
    )


def run(main: Callable[[], None]) -> None:
    """Parse the flags and call ``main``; a user's error is one line on stderr and status 2."""

    def guarded(arguments: list[str]) -> None:
        logging.get_absl_handler().setFormatter(None)
        try:
            if len(arguments) > 1:
                raise UserError(f"Unknown argument '{arguments[1]}': flags begin with '--'.")
            main()
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)

    logging.set_verbosity(logging.INFO)
    app.run(guarded)


def prepare(
    layout: "Layout",
    studies: Sequence["Study"],
    function: "Callable[[Study], StudyResult]",
    settings: Mapping,
    options: Options,
) -> Prepared:
    """Raw studies to a finished dataset folder.

    Parameters
    ----------
    layout : Layout
    studies : sequence of Study
    function : callable
        The work on one study (see :func:`data_prep.runner.run`).
    settings : mapping
        Everything beside the study and the pseudonym key that ``function`` depends on; plain JSON
        values, which are also written to ``prep.json``.
    options : Options

    Returns
    -------
    Prepared

    Raises
    ------
    UserError
        If there is no study, two have one name, none can be used, the subjects are too few for the
        splits, the output holds something else, or the link table would lie inside the output.
    """
    from data_prep import runner, shards, splits

    raise NotImplementedError
