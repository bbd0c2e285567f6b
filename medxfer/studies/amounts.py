"""Amounts of training data, from the words of ``--fractions``."""

from collections.abc import Sequence

from data_prep import splits
from data_prep.errors import UserError

ONE = "one"  # word for a single training subject


def fractions(words: Sequence[str], subjects: int) -> tuple[list[tuple[str, float, int]], list]:
    """Amounts of training data from the words of ``--fractions``, largest first.

    Parameters
    ----------
    words : sequence of str
        Shares above 0 and at most 1, or ``one`` for one subject.
    subjects : int
        Number of training subjects.

    Returns
    -------
    kept : list of (words, share, number of subjects)
    dropped : list of str
        Why others were left out: so few subjects that another share means the same ones.

    Raises
    ------
    UserError
        If a word is neither.
    """
    wanted = []
    for word in words:
        try:
            share = 1 / subjects if word == ONE else float(word)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UserError(
                "--fractions are shares above 0 and at most 1, or the word 'one' for one subject. "
                f"Received: {word}."
            )
        text = "one subject" if word == ONE else f"{100 * share:g} %"
        wanted.append((text, share))
    members = [str(number) for number in range(subjects)]
    kept: dict[int, tuple[str, float, int]] = {}
    dropped = []
    for text, share in sorted(wanted, key=lambda pair: -pair[1]):
        count = len(splits.fraction(members, share, ""))
        if count in kept and kept[count][0] != text:
            dropped.append(
                f"{text} of {subjects} training subjects is the same as {kept[count][0]} "
                f"({count} subject{'s' if count > 1 else ''}), so it is left out."
            )
        kept.setdefault(count, (text, share, count))
    return list(kept.values()), dropped
