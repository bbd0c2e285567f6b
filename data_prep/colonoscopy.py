"""What the two colonoscopy commands share: flags of the readers, who is in which part."""

import concurrent.futures
import hashlib
from collections.abc import Callable, Collection, Sequence

from absl import flags, logging

from data_prep import command, shards, split_table, splits
from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from data_prep.readers._colonoscopy import Options, Sampling, Source
from data_prep.readers._images import Unusable

flags.disclaim_key_flags()  # the shared flags are those of the command that defines them


def define_flags(*, every_s: float | None, labelled_only: bool = False) -> None:
    """Define the flags of a colonoscopy command; the arguments are their defaults."""
    command.define_flags()
    default = Options()
    flags.DEFINE_float(
        "every_s",
        every_s,
        "Of a video, one frame every so many seconds (the paper: 5 for frame quality).",
    )
    flags.DEFINE_integer("stride", 1, "Of a video, every so many frames.", 1)
    flags.DEFINE_float("fps", None, "Frames a second of frame folders, which hold no times.")
    flags.DEFINE_bool(
        "labelled_only",
        labelled_only,
        "Only frames with a label or a mask; the rules above count these.",
    )
    flags.DEFINE_string(
        "layout", default.layout, "Reader, where a folder could be read in several ways."
    )
    flags.DEFINE_bool(
        "accept_truncated",
        default.accept_truncated,
        "Use what comes before the break of a damaged video. Default: leave the video out.",
    )
    flags.DEFINE_string(
        "case_pattern",
        default.case_pattern,
        "Regular expression whose first group, found in an image's path, is its video or patient: "
        "for stills whose set does not say it otherwise.",
    )
    flags.DEFINE_bool(
        "clinicdb_sequences",
        default.clinicdb_sequences,
        "Images called by their number are CVC-ClinicDB's, split into its 29 sequences by a list "
        "that the set's makers have not confirmed.",
    )


def choices() -> tuple[Options, Sampling]:
    """The parsed flags of the readers."""
    values = flags.FLAGS
    return (
        Options(
            layout=values.layout,
            accept_truncated=values.accept_truncated,
            case_pattern=values.case_pattern,
            clinicdb_sequences=values.clinicdb_sequences,
        ),
        Sampling(
            every_s=values.every_s,
            stride=values.stride,
            fps=values.fps,
            labelled_only=values.labelled_only,
        ),
    )


def recorded(choice: Options | None) -> dict:
    """What of the readers' options goes to ``prep.json``; a pattern may hold names, so its hash."""
    choice = choice or Options()
    return {
        "accept_truncated": choice.accept_truncated,
        "clinicdb_sequences": choice.clinicdb_sequences,
        "case_pattern": hashlib.sha256(choice.case_pattern.encode()).hexdigest()[:12],
    }


def warn_of_unknown_identity(sources: Sequence[Source]) -> None:
    """Say loudly where a split cannot keep videos together."""
    unknown = sum(source.no_identity for source in sources)
    if unknown:
        logging.warning(
            "%d of %d images do not say from which video or patient they come: they are split as "
            "if each were a patient of its own, and results will look too good. Give "
            "--case_pattern if their names tell, or a table sequences.csv (image, sequence).",
            unknown,
            len(sources),
        )


def require_known(
    sources: Sequence[Source], known: Callable[[Source], object], lacking: str
) -> None:
    """Raise UserError, before any work, where nothing is known of any case to learn from.

    ``known`` says it of one case; ``lacking`` says what is missing, and what makes it known.
    """
    usable = [source for source in sources if not source.problem]
    if usable and not any(map(known, usable)):
        names = ", ".join(source.name for source in usable[:3])
        raise UserError(f"None of {len(usable)} cases ({names}) {lacking}.")


def readable(
    sources: Sequence[Source], sampling: Sampling, options: command.Options
) -> list[Source]:
    """Cases that can be read from the first frame to the last; every frame is decoded once.

    Where the output is a finished dataset, it tells which could be read when it was made.
    """

    def whole(source: Source) -> bool:
        try:
            for _ in _colonoscopy.frames(source, sampling):
                pass
        except Unusable:
            return False
        return True

    if (left_out := shards.left_out(options.output)) is not None:
        return [s for s in sources if splits.pseudonym(s.name, options.key) not in left_out]
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        return [s for s, good in zip(sources, pool.map(whole, sources), strict=True) if good]


def assign(sources: Collection[Source], options: command.Options) -> dict[str, str]:
    """Subject pseudonym -> part: as the user's table says, else the set itself, else the options.

    A set that says train and test only has its validation subjects taken from the training ones.

    Raises
    ------
    UserError
        If the set says a part of some cases only, or of one subject two; and as in
        :func:`data_prep.splits.assign`.
    """
    if options.split_table is not None:
        return split_table.parts(sources, options)
    said: dict[str, str] = {}
    for source in sources:
        subject = splits.pseudonym(source.subject, options.key)
        if said.setdefault(subject, source.split) != source.split:
            raise UserError(
                f"{source.name}: its subject is said to be in {said[subject] or 'no part'} and in "
                f"{source.split or 'no part'}: mend the table of splits."
            )
    if not any(said.values()):
        return options.assign(said)
    if not all(said.values()):
        lacking = [s.name for s in sources if not s.split]
        raise UserError(
            f"{len(lacking)} cases have no split ({', '.join(lacking[:3])}) although others have: "
            "complete the table of splits, or take its column out."
        )
    return options.complete(said)
