"""Classified images to parts: classes in proportion, a set's own split kept but for its leaks."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from absl import logging

from data_prep import command, splits
from data_prep.errors import UserError
from data_prep.readers._classification import DICOM, NAME, NOTHING, TABLE, Picture
from data_prep.splits import pseudonym

#: Where two parts have as many images of a subject, it goes to the first of them in this order.
PREFERENCE = ("test", "validation", "train")
#: In a set that is not small, a subject with more than this share of the images may be none.
LARGE, FEW = 0.2, 20


@dataclasses.dataclass(frozen=True)
class Assigned:
    """Who is in which part.

    Attributes
    ----------
    parts : dict
        Subject pseudonym -> "train", "validation" or "test".
    own : bool
        The set's own split was kept, but for what leaked.
    leaks : list of dict
        Subjects that the set's own split had in several parts: "subject", "images" (part -> number
        of its images), "now" (where all of them went, before a validation part was drawn), "moved"
        (cases), "repeat" (whether only a repeated image makes it one subject).
    """

    parts: dict[str, str]
    own: bool
    leaks: list[dict]


def warn_of_subjects(pictures: Sequence[Picture], divided: bool = True) -> None:
    """Say loudly where a split cannot keep persons together.

    Parameters
    ----------
    pictures : sequence of Picture
    divided : bool
        There will be more than one part.

    Raises
    ------
    UserError
        If all images are of one subject, so that no split is possible.
    """
    counts = collections.Counter(picture.known_by for picture in pictures)
    if unknown := counts[NOTHING]:
        logging.warning(
            "%d of %d images do not say from which person they come: they are split as if each "
            "were a person of its own, and results will look too good if they are not. Give "
            "--subject_regex if the file names tell, or a table with a column subject.",
            unknown,
            len(pictures),
        )
    subjects = collections.Counter(p.subject for p in pictures if p.known_by != NOTHING)
    for subject, count in subjects.most_common(1):
        if len(pictures) > FEW and LARGE * len(pictures) < count < len(pictures):
            logging.warning(
                "%d of %d images are of one subject, '%s', and stay in one part. Is that a "
                "placeholder, such as 'unknown'? Then give these images subjects, or none.",
                count,
                len(pictures),
                subject,
            )
    if divided and len(subjects) == 1 and 1 < len(pictures) == subjects.total():
        how = {
            TABLE: "by the table",
            NAME: "by --subject_regex",
            DICOM: "by PatientID (0010,0020), as in files without names",
        }[pictures[0].known_by]
        raise UserError(
            f"All {len(pictures)} images are of one subject {how}: they cannot be split. Give "
            "--subject_regex, or a table with a column subject."
        )


def assign(
    pictures: Sequence[Picture], whole: Sequence[Picture], options: command.Options
) -> Assigned:
    """Part of every subject: as the set itself says, else by the options, classes in proportion.

    A subject that the set has in several parts goes to where most of its images are. Where the set
    has no validation part, or none is left, its subjects are taken from the training ones.

    Parameters
    ----------
    pictures : sequence of Picture
        As they were found: with their own subjects.
    whole : sequence of Picture
        The same after :func:`data_prep.repeats.together`.
    options : command.Options

    Raises
    ------
    UserError
        If the set gives some images a part and others none, or nothing is for training or testing,
        or a subject is in several parts and ``options.strict`` is set; and as in
        :func:`data_prep.splits.assign`.
    """
    strata = _strata(whole, options.key)
    split = f"split {options.seed}"
    shares = options.test_fraction, options.validation_fraction, options.folds, options.fold
    if not any(picture.split for picture in whole):
        return Assigned(splits.assign(strata, split, *shares, strata=strata), False, [])
    if lacking := [picture.name for picture in whole if not picture.split]:
        raise UserError(
            f"{len(lacking)} images have no split ({', '.join(lacking[:3])}) although others have: "
            "complete the table, or draw a new split with --noown_split."
        )
    said: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for picture in whole:
        said[pseudonym(picture.subject, options.key)][picture.split] += 1
    parts = {
        subject: max(PREFERENCE, key=lambda part: (counts[part], -PREFERENCE.index(part)))
        for subject, counts in said.items()
    }
    leaks = _leaks(pictures, whole, said, parts, options.key)
    if leaks and options.strict:
        moved = {case for leak in leaks for case in leak["moved"]}
        first = next(p.name for p in whole if pseudonym(p.name, options.key) in moved)
        raise UserError(
            f"The set's own split has {len(leaks)} subjects in more than one part (one of them: "
            f"that of {first}). Without --strict each goes to where most of its images are; "
            "--noown_split draws a new split."
        )
    _require_parts(said, parts, len(leaks), options.test_fraction == 0)
    if "validation" not in parts.values():
        train = [subject for subject, part in parts.items() if part == "train"]
        parts |= splits.assign(train, split, 0.0, options.validation_fraction, strata=strata)
    return Assigned(parts, True, leaks)


def check(
    pictures: Sequence[Picture],
    assigned: Assigned,
    classes: Sequence[str],
    key: bytes,
    divided: bool = True,
) -> None:
    """Test that every class can be learnt, and say which cannot be measured.

    Parameters
    ----------
    pictures : sequence of Picture
    assigned : Assigned
    classes : sequence of str
    key : bytes
    divided : bool
        There is to be more than the test part.

    Raises
    ------
    UserError
        If there is to be a training part and there is none, or a class has no image in it.
    """
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for picture in pictures:
        counts[assigned.parts[pseudonym(picture.subject, key)]].update(picture.labels)
    if divided and "train" not in counts:
        raise UserError("No image is in the training part: add subjects, or try another --seed.")
    if "train" in counts:
        require_images(pictures, classes)
    for index, name in enumerate(classes):
        if "train" in counts and not counts["train"][index]:
            total = sum(found[index] for found in counts.values())
            subjects = len({p.subject for p in pictures if index in p.labels})
            how = "change the set's own split or draw another with --noown_split"
            raise UserError(
                f"No image of class '{name}' is in the training part ({total} images of {subjects} "
                f"subjects): add subjects, or {how if assigned.own else 'try another --seed'}."
            )
        for part in ("validation", "test"):
            if part in counts and not counts[part][index]:
                logging.warning("No image of class '%s' is in the %s part.", name, part)


def require_images(pictures: Sequence[Picture], classes: Sequence[str]) -> None:
    """Test that there is an image of every class.

    Raises
    ------
    UserError
        If not.
    """
    seen = {index for picture in pictures for index in picture.labels}
    for index, name in enumerate(classes):
        if index not in seen:
            raise UserError(
                f"There is no image of class '{name}' that can be used: add some, take its folder "
                "away, or name the other classes with --classes."
            )


def _require_parts(
    said: Mapping[str, Mapping[str, int]], parts: Mapping[str, str], leaks: int, untested: bool
) -> None:
    """Test the set's own split as it is after mending, and warn where little is left of a part.

    ``untested``: it need not have a test part.

    Raises
    ------
    UserError
        If nothing is left for training or testing.
    """
    before, now = collections.Counter(), collections.Counter()
    for subject, counts in said.items():
        before.update(counts)
        now[parts[subject]] += sum(counts.values())
    for part in ("test", "train"):
        if before[part] and not now[part]:
            raise UserError(
                f"The set's own split has {leaks} subjects in more than one part; with each of "
                f"them kept whole, none of {before[part]} images stay in its {part} part: draw a "
                "new split with --noown_split."
            )
        if not before[part] and not (untested and part == "test"):
            raise UserError(
                f"The set's own split has no {part} part with images that can be used: draw a new "
                f"one with --noown_split, or call one of its parts {part}"
                f"{', or train without one: --test_fraction=0' if part == 'test' else ''}."
            )
    for part in splits.PARTS:
        if 2 * now[part] < before[part]:
            instead = "" if now[part] else " (others are drawn from the training part)"
            logging.warning(
                "The set's own split leaks so much that its %s part shrinks from %d images to "
                "%d%s: --noown_split draws a new one.",
                part,
                before[part],
                now[part],
                instead,
            )


def _strata(pictures: Sequence[Picture], key: bytes) -> dict[str, str]:
    """Subject pseudonym -> the rarest class among its images, as text."""
    frequency = collections.Counter(label for picture in pictures for label in picture.labels)
    rarest: dict[str, int] = {}
    for picture in pictures:
        subject = pseudonym(picture.subject, key)
        own = [*picture.labels, *([rarest[subject]] if rarest.get(subject, -1) >= 0 else [])]
        rarest[subject] = min(own, key=lambda label: (frequency[label], label), default=-1)
    return {subject: str(label) for subject, label in rarest.items()}


def _leaks(
    pictures: Sequence[Picture],
    whole: Sequence[Picture],
    said: Mapping[str, Mapping[str, int]],
    parts: Mapping[str, str],
    key: bytes,
) -> list[dict]:
    several = {subject for subject, counts in said.items() if len(counts) > 1}
    moved = collections.defaultdict(list)
    own: dict[str, dict[str, set[str]]] = {subject: {} for subject in several}
    for before, picture in zip(pictures, whole, strict=True):
        subject = pseudonym(picture.subject, key)
        if subject in several:
            own[subject].setdefault(before.subject, set()).add(picture.split)
            if picture.split != parts[subject]:
                moved[subject].append(pseudonym(picture.name, key))
    return [
        {
            "subject": subject,
            "images": dict(sorted(said[subject].items())),
            "now": parts[subject],
            "moved": sorted(moved[subject]),
            "repeat": all(len(found) == 1 for found in own[subject].values()),
        }
        for subject in sorted(several)
    ]
