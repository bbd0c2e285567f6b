"""What the apps that end in a curve (FROC, ROC) share: tables of intervals and of differences."""

import dataclasses
from collections.abc import Mapping, Sequence

from medxfer.evaluation.intervals import Interval
from medxfer.evaluation.resampling import Analysis


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two methods at one figure of merit, first minus second.

    Attributes
    ----------
    difference : Interval
    p, holm : dict
        Of the paired bootstrap over subjects, plain and adjusted over all pairs.
    bars_disjoint : bool
        Whether the two error bars do not overlap: the rule of Tajbakhsh et al. 2016.
    """

    first: str
    second: str
    difference: Interval
    p: dict[str, float]
    holm: dict[str, float]
    bars_disjoint: bool


def intervals_of(analysis: Analysis, method: str) -> dict[str, Interval]:
    """Figure of merit -> interval of one method."""
    return dict(zip(analysis.merits, analysis.intervals[method], strict=True))


def course(name: str, history: Sequence[Mapping]) -> dict[str, tuple]:
    """Figure of the course of training, with its caption; nothing where there was none."""
    if not history:
        return {}
    from medxfer.evaluation import figures

    values = {"loss": [e["loss"] for e in history], "auc": [e["score"] for e in history]}
    return {
        "learning_curves": (
            figures.learning_curves({name: values}),
            "Training loss and validation AUC by epoch; the dot marks the epoch that was kept.",
        )
    }


def pairs_of(analysis: Analysis, merits: tuple[str, ...]) -> dict[str, list[Pair]]:
    """Figure of merit -> every pair of methods."""
    found: dict[str, list[Pair]] = {merit: [] for merit in merits}
    for each in analysis.differences:
        if each.merit in found:
            pair = Pair(
                each.first,
                each.second,
                each.difference,
                {"bootstrap": each.difference.p},
                {"bootstrap": each.holm},
                each.bars_disjoint,
            )
            found[each.merit].append(pair)
    return found
