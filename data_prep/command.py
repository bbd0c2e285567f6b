"""What all ``python -m data_prep.APP`` commands share: flags, errors, the run, the summary.

A command declares a :class:`data_prep.shards.Layout`, a reader that finds its studies, and a pure
function that works on one study; :func:`prepare` does the rest. Nothing heavy is imported before
the flags are parsed, so that ``--help`` answers at once.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging as python_logging
import os
import pathlib
import re
import shutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

from data_prep import link_table, locks, progress, signals, splits
from data_prep.errors import AGAIN, ANEW, UserError, no_room
from data_prep.options import RUNNERS, Options, Prepared

if typing.TYPE_CHECKING:
    from data_prep.runner import Study, StudyResult
    from data_prep.shards import Layout

_LISTED = 20  # cases with one and the same note that a summary names; prep.json has all

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # the shared flags are those of the command that defines them


def define_flags(*, test_fraction: float = 0.5, validation_fraction: float = 0.2) -> None:
    """Define the flags that every command has; the arguments are their defaults."""
    flags.DEFINE_string("input", None, "Folder of raw studies.", required=True)
    flags.DEFINE_string(
        "output",
        None,
        "Dataset folder to write; must be new. OUTPUT.partial is the work folder, "
        "in which an interrupted run goes on.",
        required=True,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Decides splits, random choices and order: the same seed gives the same bytes.",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    flags.DEFINE_integer(
        "workers",
        os.cpu_count() or 1,
        "Processes; the result does not depend on it. Default: one a CPU core.",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "runner",
        "local",
        RUNNERS,
        "Where the work runs: on this machine, or where Apache Beam runs it (extra 'beam'), whose "
        "options follow after --, for instance -- --runner=FlinkRunner. The bytes are the same.",
    )
    flags.DEFINE_bool(
        "strict",
        False,
        "End at the first study that cannot be used. Default: skip it, and say so "
        "in the summary and in prep.json.",
    )
    flags.DEFINE_string(
        "pseudonym_key",
        None,
        "Secret text, or @FILE that holds it, without which nobody can "
        "compute a pseudonym from an identifier. Default: made from the seed, which is no secret.",
    )
    flags.DEFINE_string(
        "link_table",
        None,
        "CSV file to write, outside the output folder: original name, pseudonyms of case and "
        "subject, why it was skipped, which one it repeats. Keep it with the originals. "
        "Default: none.",
    )
    flags.DEFINE_string(
        "split_table",
        None,
        "CSV file that says who is in which part: columns subject and split, or path (case) and "
        "split, which is train, validation or test. Where no row says validation, it is drawn from "
        "train. Default: the split of the set itself, or one that is drawn.",
    )
    flags.DEFINE_float("test_fraction", test_fraction, "Share of the subjects that is test.")
    flags.DEFINE_float(
        "validation_fraction",
        validation_fraction,
        "Share of the other subjects that is validation; the paper's split is 80/20.",
    )
    flags.DEFINE_integer(
        "folds",
        None,
        "Cross-validation in so many folds, instead of --test_fraction. Default: none.",
    )
    flags.DEFINE_integer("fold", None, "Which fold is test, from 0; needed with --folds.")


def options() -> Options:
    """The parsed flags.

    Raises
    ------
    UserError
        If the pseudonym key cannot be read.
    """
    return Options(
        output=pathlib.Path(FLAGS.output).resolve(),
        key=splits.secret_key(FLAGS.pseudonym_key, FLAGS.seed),
        seed=FLAGS.seed,
        workers=FLAGS.workers,
        runner=FLAGS.runner,
        runner_options=runner_options(),
        strict=FLAGS.strict,
        link_table=pathlib.Path(FLAGS.link_table) if FLAGS.link_table else None,
        split_table=pathlib.Path(FLAGS.split_table) if FLAGS.split_table else None,
        test_fraction=FLAGS.test_fraction,
        validation_fraction=FLAGS.validation_fraction,
        folds=FLAGS.folds,
        fold=FLAGS.fold,
    )


def run(main: Callable[[], None], resumes: bool = True) -> None:
    """Parse the flags and call ``main``.

    A user's error is one line on stderr and status 2. What the terminal cannot show is escaped.
    Whoever is asked to end leaves with status 75 (SIGTERM) or 130 (Ctrl-C), see
    :mod:`data_prep.signals`; notes of the exception say where the same command goes on. Without
    ``resumes`` what was interrupted has left nothing, and the same command starts anew.
    """
    again = f"The same command {'goes on with what is saved' if resumes else 'starts anew'}."

    def leave(error: BaseException, why: str, status: int, default: str = "") -> typing.NoReturn:
        notes = getattr(error, "__notes__", [default])
        print(" ".join([f"{why.rstrip('.')}.", *notes]).rstrip(), file=sys.stderr)
        sys.exit(status)

    def parsed(arguments: Sequence[str]) -> Sequence[str]:
        try:
            return FLAGS(list(arguments))
        except flags.Error as error:
            line = " ".join(str(error).split()).rstrip(".")
            if missing := re.findall(r"Flag (--\w+) must have a value other than None", line):
                line = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            print(f"Error: {line}. See --help.", file=sys.stderr)
            sys.exit(2)

    def guarded(arguments: Sequence[str]) -> None:
        formatter = python_logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")
        handler = logging.get_absl_handler()
        handler.setFormatter(formatter)
        handler.addFilter(_concerns_the_user)
        if hasattr(sys.stdout, "reconfigure"):  # names of files may be anything
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            _check_arguments(arguments[1:])
            with signals.terminable(), progress.watched():
                main()
        except UserError as error:
            leave(error, f"Error: {error}", 2)
        except Exception as error:
            if reason := no_room(error):
                print(f"Error: {reason}. {AGAIN if resumes else ANEW}", file=sys.stderr)
                sys.exit(2)
            if not isinstance(error, OSError):
                raise
            place = f": {error.filename}" if error.filename else ""
            leave(error, f"Error: {error.strerror or error}{place}", 2)
        except KeyboardInterrupt as ended:
            leave(ended, "Interrupted", signals.INTERRUPTED, again)
        except signals.Terminated as ended:
            leave(ended, str(ended) or "Asked to end", signals.RESUME, again)

    logging.set_verbosity(logging.INFO)  # unless --verbosity says otherwise
    app.run(guarded, flags_parser=parsed)


def runner_options() -> tuple[str, ...]:
    """What follows ``--`` on the command line."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for what is no flag, unless it is meant for Beam."""
    meant = runner_options() if "runner" in FLAGS and FLAGS.runner == "beam" else ()
    if tuple(arguments) != meant:
        hint = "flags begin with '--'"
        if "runner" in FLAGS and tuple(arguments) == runner_options():
            hint = "what follows -- is for --runner=beam"
        raise UserError(f"Unknown argument '{arguments[0]}': {hint}.")


def _concerns_the_user(record: python_logging.LogRecord) -> bool:
    """Our own lines, and whatever is a warning: libraries tell much that concerns nobody."""
    ours = pathlib.Path(__file__).resolve().parents[1]
    own = pathlib.Path(record.pathname).resolve()
    packages = (ours / "data_prep", ours / "medxfer")
    return record.levelno >= python_logging.WARNING or any(map(own.is_relative_to, packages))


def prepare(
    layout: "Layout",
    studies: Sequence["Study"],
    function: "Callable[[Study], StudyResult]",
    settings: Mapping,
    options: Options,
    assets: Callable[[pathlib.Path], Mapping[str, bytes]] | None = None,
    findings: Mapping | None = None,
) -> Prepared:
    """Raw studies to a finished dataset folder, or the one that was made of them before.

    Parameters
    ----------
    layout : Layout
    studies : sequence of Study
    function : callable
        The work on one study (see :func:`data_prep.runner.run`). The case of its result must be
        ``pseudonym(study.name, options.key)``.
    settings : mapping
        Everything that ``function`` depends on beside the study, the seed and the pseudonym key;
        plain JSON values, without original names, which are also written to ``prep.json``.
    options : Options
    assets : callable, optional
        What is to be made of all studies before the work on each, such as a detector that learns
        from the training subjects: takes the work folder, where it may leave files for
        ``function``, and gives file name -> content of what stays beside the records (see
        :func:`data_prep.shards.write_dataset`). ``settings`` must hold what decides it.
    findings : mapping, optional
        See :func:`data_prep.shards.write_dataset`. The studies must hold what decides it.

    Returns
    -------
    Prepared

    Raises
    ------
    UserError
        If there is no study, two have one name, none can be used, the subjects are too few for the
        splits, the output holds something else, another process writes it, or the link table would
        lie inside it.
    """
    from data_prep import runner, shards

    studies = sorted(studies, key=lambda study: study.name)
    cases = {study.name: splits.pseudonym(study.name, options.key) for study in studies}
    _check(studies, cases, options)
    if options.split_table is not None and options.parts is None:
        from data_prep import split_table

        options = dataclasses.replace(options, parts=split_table.parts(studies, options))
    depends = {
        "layout": dataclasses.asdict(layout),
        "settings": dict(settings),
        "seed": options.seed,
        "key": splits.pseudonym("key of the pseudonyms", options.key),
    }
    details: dict[str, str] = {}
    work = shards.work_folder(options.output)
    with _alone(options.output, work):
        tokens = runner.tokens(studies, depends, options.workers)
        settings = {**settings, **options.split_settings()}
        inputs = hashlib.sha256(json.dumps([settings, sorted(tokens)], sort_keys=True).encode())
        prep = shards.find_finished(options.output, inputs.hexdigest())
        reused = prep is not None
        if prep is None:
            kept = assets(work) if assets else None
            with signals.told(lambda: runner.standing(tokens, work)):
                spills, skipped = runner_of(options)(
                    function,
                    studies,
                    work,
                    extras=layout.extras,
                    tokens=tokens,
                    strict=options.strict,
                )
            details = {cases[failed.study.name]: failed.detail for failed in skipped}
            if not spills:
                reason = f"{skipped[0].study.name}: {skipped[0].detail}"
                raise UserError(f"None of {len(studies)} studies can be used. {reason}")
            if strange := {spill.case for spill in spills}.difference(cases.values()):
                raise ValueError(f"A case must be the pseudonym of its study. Received: {strange}.")
            prep = shards.write_dataset(
                options.output,
                layout,
                spills,
                options.assign({spill.subject for spill in spills}),
                seed=options.seed,
                settings=settings,
                inputs=inputs.hexdigest(),
                skipped={cases[failed.study.name]: failed.reason for failed in skipped},
                key_id=depends["key"],
                assets=kept,
                findings=findings,
            )
        if options.link_table is not None:
            link_table.write_studies(options, studies, prep, details)
        shutil.rmtree(work, ignore_errors=True)
    names = {case: name for name, case in cases.items()}
    return Prepared(options.output, prep, reused, names, details, options.link_table)


def runner_of(options: Options) -> Callable:
    """:func:`data_prep.runner.run`, or what does the same elsewhere, as the options say."""
    if options.runner == "beam":
        from data_prep import beam_runner

        return functools.partial(beam_runner.run, options=options.runner_options)
    from data_prep import runner

    return functools.partial(runner.run, workers=options.workers)


def _alone(output: pathlib.Path, work: pathlib.Path) -> contextlib.AbstractContextManager:
    """Keep other processes out while the dataset is made; one that is finished is only read."""
    if (output / "prep.json").exists():
        return contextlib.nullcontext()
    instead = "Wait until it has ended, or choose another --output."
    return locks.hold(work, instead)


def summary(prepared: Prepared) -> str:
    """What was found, used, mended, skipped and written. Names originals: for the terminal only."""
    prep = prepared.prep
    skipped = [(entry["case"], entry["reason"]) for entry in prep["skipped"]]
    mended = [(entry["case"], entry["what"]) for entry in prep["mended"]]
    found = len(prepared.names)
    lines = [
        f"{found} studies found, {found - len(skipped)} used, "
        f"{len({case for case, _ in mended})} of them mended, {len(skipped)} skipped."
    ]
    for title, notes in (("skipped", skipped), ("mended", mended)):
        shown: collections.Counter[str] = collections.Counter()
        for case, note in notes:
            shown[note] += 1
            if shown[note] <= _LISTED:
                detail = prepared.details.get(case, note)
                lines.append(f"  {title}  {prepared.names[case]} ({case}): {detail}")
        for note, count in shown.items():
            if count > _LISTED:
                lines.append(f"  {title}  and {count - _LISTED} more: {note}")
    columns = {str(index): name for index, name in enumerate(prep["classes"])}
    if any("-1" in split["labels"] for split in prep["splits"].values()):
        columns["-1"] = "several labels" if prep["settings"].get("multilabel") else "whole region"
    rows = [("split", "subjects", "examples", *columns.values())]
    for name, split in sorted(prep["splits"].items(), key=_place):
        counts = (split["labels"].get(label, 0) for label in columns)
        rows.append((name, len(split["subjects"]), split["examples"], *counts))
    widths = [max(len(str(row[place])) for row in rows) for place in range(len(rows[0]))]
    for first, *rest in rows:
        cells = (str(cell).rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join(["  " + first.ljust(widths[0]), *cells]))
    state = "was complete before" if prepared.reused else "written"
    lines.append(f"Dataset {state}: {prepared.output} (fingerprint {prep['fingerprint'][:12]})")
    if prepared.link_table is not None:
        lines.append(f"Original names of the pseudonyms: {prepared.link_table}")
    return "\n".join(lines)


def recall(prepared: Prepared, image: str) -> str:
    """How many lesions of the test part have a candidate, and how many candidates there are.

    ``image`` is what the candidates are counted by: frame, volume.
    """
    cases = json.loads((prepared.output / "truth.json").read_text()).get("test", {}).values()
    lesions, images, found, candidates = (
        sum(len(case[name]) if name == "lesions" else case[name] for case in cases)
        for name in ("lesions", "images", "found", "candidates")
    )
    if not images:
        return f"No {image} is in the test part."
    share = f" ({found / lesions:.1%})" if lesions else ""
    return (
        f"Test part: {images} {image}s, {lesions} lesions, {found} of them with a candidate"
        f"{share}, {candidates / images:.1f} candidates a {image}."
    )


def _place(split: tuple[str, Mapping]) -> tuple[int, str]:
    """Splits are shown by part: train, validation, test."""
    return splits.PARTS.index(split[1]["part"]), split[0]


def _check(studies: Sequence["Study"], cases: Mapping[str, str], options: Options) -> None:
    """Refuse before any work what cannot end well."""
    from data_prep import shards

    if not studies:
        raise UserError("No study was found in the input.")
    if len(set(cases.values())) < len(studies):
        counts = collections.Counter(cases[study.name] for study in studies)
        twice = [study.name for study in studies if counts[cases[study.name]] > 1]
        raise UserError(f"Studies need names (and pseudonyms) of their own: {', '.join(twice)}.")
    if options.link_table is not None:
        work = shards.work_folder(options.output)
        link_table.require_place(options.link_table, options.output, work)
