"""Subjects to train, validation and test; nested fractions; pseudonyms.

Every decision is by subject (person, animal, exam), never by image: two images of one subject on
both sides of a split would let a network recognise the subject instead of the disease.
"""

import collections
import hashlib
import hmac
import math
import pathlib
from collections.abc import Collection, Iterable, Mapping

from absl import logging

from data_prep.errors import UserError

PARTS = ("train", "validation", "test")


def pseudonym(identifier: str, key: bytes) -> str:
    """Twelve hexadecimal digits for an identifier: the head of HMAC-SHA256 under ``key``.

    Without the key nobody can compute it from the identifier. Among n identifiers two share a
    pseudonym with probability of about n**2 / 2**49 (2e-7 for ten thousand). File names that are
    not UTF-8 count as the bytes that they are.
    """
    content = identifier.encode(errors="surrogateescape")
    return hmac.new(key, content, hashlib.sha256).hexdigest()[:12]


def secret_key(text: str | None, seed: int) -> bytes:
    """Key of the pseudonyms: the text, or the content of the file named after a leading ``@``.

    Without a text the key follows from the seed, and a warning says what that means.

    Raises
    ------
    UserError
        If the file cannot be read or the key is empty.
    """
    if text is None:
        logging.warning(
            "Pseudonyms come from the seed alone: whoever knows an identifier can compute its "
            "pseudonym. Before you pass the data on, give a secret: --pseudonym_key=@FILE."
        )
        return b"medxfer pseudonyms of seed %d" % seed
    key = text.encode()
    if text.startswith("@"):
        try:
            key = pathlib.Path(text[1:]).read_bytes().strip()
        except OSError as error:
            raise UserError(f"--pseudonym_key={text} cannot be read: {error.strerror}.") from error
    if not key:
        raise UserError(
            f"--pseudonym_key={text} is empty: give a secret text, or @FILE that holds one."
        )
    return key


def assign(
    subjects: Collection[str],
    key: str,
    test_fraction: float,
    validation_fraction: float,
    folds: int | None = None,
    fold: int | None = None,
    strata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Part of every subject: "train", "validation" or "test".

    Subjects are ranked by a hash salted with ``key``, so that the parts depend neither on the order
    of the subjects nor on chance, and their sizes are exact.

    Parameters
    ----------
    subjects : collection of str
        Pseudonyms; repeated ones count once.
    key : str
        Salt, usually made from the seed.
    test_fraction : float
        Share of all subjects that is test. Not used with folds.
    validation_fraction : float
        Share of the *other* subjects that is validation, as in Tajbakhsh et al. 2016, section IV.
        Either share is rounded to the nearest number of subjects (half upwards), and a share above
        0 is at least one subject.
    folds, fold : int, optional
        Cross-validation: the test part of fold i of n is every n-th subject of the ranking from the
        i-th on, i from 0. Over all folds each subject is test exactly once. Validation subjects
        are taken from the next folds in turn.
    strata : mapping, optional
        Subject -> stratum, such as a class: every part then has its share of each stratum, as
        nearly as whole subjects allow; of a single subject the training part is the likeliest.

    Raises
    ------
    UserError
        If a share or fold is out of range, or there are too few subjects for the parts asked for.
    """
    ranked = _ranked(set(subjects), key)
    if not (0 <= test_fraction <= 1 and 0 <= validation_fraction < 1):
        raise UserError(
            "--test_fraction must be from 0 to 1 and --validation_fraction from 0 to below 1. "
            f"Received: {test_fraction} and {validation_fraction}."
        )
    if folds is None and fold is None:
        ranked = _spread(ranked, strata)
        count = _share(test_fraction, len(ranked))
        test, rest = ranked[:count], ranked[count:]
    elif folds is None or fold is None or folds < 2 or not 0 <= fold < folds:
        raise UserError(
            "--folds must be at least 2 and --fold from 0 to folds - 1, both or neither. "
            f"Received: {folds} and {fold}."
        )
    else:
        if strata is not None:  # a stratum's members in turn, so that each goes to another fold
            ranked.sort(key=strata.__getitem__)
        turns = [ranked[(fold + turn) % folds :: folds] for turn in range(folds)]
        test, rest = turns[0], [subject for turn in turns[1:] for subject in turn]
    rest = _spread(rest, strata)
    count = _share(validation_fraction, len(rest))
    parts = {
        "train": rest[count:],
        "validation": rest[:count],
        "test": test,
    }
    wanted = {
        "train": folds is not None or test_fraction < 1,
        "validation": validation_fraction > 0 and (folds is not None or test_fraction < 1),
        "test": folds is not None or test_fraction > 0,
    }
    empty = [part for part in PARTS if wanted[part] and not parts[part]]
    if empty or not ranked or (folds or 0) > len(ranked):
        raise UserError(
            f"{len(ranked)} subjects are too few for these parts"
            f"{' (no subject is left for ' + ', '.join(empty) + ')' if empty else ''}: "
            "add subjects or change --test_fraction, --validation_fraction or --folds."
        )
    return {subject: part for part in PARTS for subject in parts[part]}


def fraction(
    subjects: Iterable[str],
    share: float,
    key: str,
    *,
    least: int = 1,
    shown: Mapping[str, Collection] | None = None,
) -> frozenset[str]:
    """A share of the subjects, at least one; for one ``key`` a smaller share lies in a larger one.

    Parameters
    ----------
    subjects : iterable of str
    share : float
    key : str
        Decides, with the subjects, which ones.
    least : int
        Minimum number of subjects, where there are so many.
    shown : mapping, optional
        Subject -> what it shows, such as classes. What is shown by any subject is then shown by the
        share: the first subjects that show what lacks come on top.

    Raises
    ------
    UserError
        If the share is not above 0 and at most 1, or there is no subject.
    """
    ranked = _ranked(set(subjects), key)
    if not 0 < share <= 1:
        raise UserError(f"--fraction must be above 0 and at most 1. Received: {share}.")
    if not ranked:
        raise UserError("There is no subject to take a fraction of.")
    kept = ranked[: max(least, _share(share, len(ranked)))]
    if shown:
        seen = set().union(*(shown[subject] for subject in kept))
        for subject in ranked:
            if not seen.issuperset(shown[subject]):
                kept.append(subject)
                seen.update(shown[subject])
    return frozenset(kept)


def require_disjoint(subjects: Mapping[str, Collection[str]], parts: Mapping[str, str]) -> None:
    """Make sure that no subject lies in splits of two different parts.

    Parameters
    ----------
    subjects : mapping
        Split -> subjects.
    parts : mapping
        Split -> part. Splits of one part (patches and whole regions of the validation subjects)
        may share subjects.

    Raises
    ------
    UserError
        If a subject lies in two parts; the message names the splits and up to three subjects.
    """
    seen: dict[str, set[str]] = {}
    for split, members in subjects.items():
        for part, others in seen.items():
            shared = sorted(others.intersection(members)) if part != parts[split] else []
            if shared:
                raise UserError(
                    f"{len(shared)} subjects of split '{split}' are also in the {part} part "
                    f"({', '.join(shared[:3])}): prepare the data again, one part a subject."
                )
        seen.setdefault(parts[split], set()).update(members)


def _share(share: float, count: int) -> int:
    """Nearest whole number, half upwards, at least one of a share above 0."""
    return min(count, max(1, math.floor(share * count + 0.5))) if share > 0 else 0


def _spread(ranked: list[str], strata: Mapping[str, str] | None) -> list[str]:
    """The subjects in such an order that any first so many hold every stratum in proportion."""
    if strata is None:
        return ranked
    sizes = collections.Counter(strata[subject] for subject in ranked)
    seen: collections.Counter[str] = collections.Counter()
    places = {}
    for subject in ranked:
        stratum = strata[subject]
        places[subject] = (seen[stratum] + 0.5) / sizes[stratum]
        seen[stratum] += 1
    return sorted(ranked, key=places.__getitem__)


def _ranked(subjects: Collection[str], key: str) -> list[str]:
    def rank(subject: str) -> bytes:
        return hashlib.sha256(f"{key}\0{subject}".encode()).digest()

    return sorted(subjects, key=rank)
