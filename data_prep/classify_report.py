"""What was found out of a set of classified images as a whole, for the terminal."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_prep import command
from data_prep.readers import _classification
from data_prep.splits import PARTS

NAMED = 10  # findings of a kind that are named one by one


def report(prepared: command.Prepared) -> str:
    """What was found out of the set as a whole. Names originals: for the terminal only."""
    prep, names = prepared.prep, prepared.names
    found = prep["findings"]
    known = {
        _classification.TABLE: "from the table",
        _classification.NAME: "by --subject_regex",
        _classification.DICOM: "from the DICOM headers",
        _classification.NOTHING: "unknown, each image counting as one",
    }
    subjects = ", ".join(f"{known[how]} ({n} images)" for how, n in found["known_by"].items())
    lines = [f"Classes: {', '.join(prep['classes'])}. Subjects: {subjects}."]
    if prep["settings"]["multilabel"]:
        lines.append("An image may have several labels or none; images by label:")
        lines += _positives(prepared)

    def listed(title: str, items: Sequence[str]) -> None:
        if items:
            lines.append(title)
            lines.extend(f"  {item}" for item in items[:NAMED])
            if len(items) > NAMED:
                lines.append(f"  ... and {len(items) - NAMED} more: see prep.json.")

    def named(cases: Sequence[str]) -> str:
        return ", ".join(f"{names.get(case, '?')} ({case})" for case in sorted(cases))

    listed(
        "Images with the same pixels, kept in one part as one subject:",
        [named(group) for group in found["identical"]],
    )
    listed(
        "Images that are nearly the same, kept in one part as one subject:",
        [f"{named(p['cases'])}: correlation {p['correlation']:.3f}" for p in found["similar"]],
    )
    listed(
        "Images that are there more than once WITH DIFFERENT LABELS, which cannot all be right:",
        [named(group) for group in found["conflicts"]],
    )
    if found["own_split"]:
        given = "split_table" in prepared.prep["settings"]
        kept = "The split of --split_table" if given else "The set's own split"
        lines.append(f"{kept} is kept{'' if given else ' (--noown_split draws a new one)'}.")
        listed(
            "It LEAKS: these subjects were in more than one part. All images of each were moved to "
            "where most of them are:",
            [_leak(leak, named) for leak in found["leaks"]],
        )
    return "\n".join(lines)


def _leak(leak: Mapping, named: Callable[[Sequence[str]], str]) -> str:
    before = ", ".join(f"{count} in {part}" for part, count in leak["images"].items())
    cause = " (one subject only through repeated images)" if leak["repeat"] else ""
    return f"subject {leak['subject']}{cause}: {before}; to {leak['now']}: {named(leak['moved'])}"


def _positives(prepared: command.Prepared) -> list[str]:
    truth = json.loads((prepared.output / "truth.json").read_text())
    counts = {
        part: np.sum([case["labels"] for case in cases.values()], axis=0)
        for part, cases in truth.items()
    }
    width = max(map(len, prepared.prep["classes"]))
    order = [part for part in PARTS if part in counts]
    lines = ["  " + " " * width + "".join(f"  {part:>10}" for part in order)]
    for index, name in enumerate(prepared.prep["classes"]):
        cells = "".join(f"  {counts[part][index]:>10}" for part in order)
        lines.append(f"  {name:<{width}}{cells}")
    return lines
