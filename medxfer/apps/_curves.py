"""What the apps that end in a curve (FROC, ROC) share: tables of intervals and of differences."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

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

    # Versions that did not mark the kept epoch kept the best of the last stage.
    kept = [k for k, epoch in enumerate(history) if epoch.get("kept")]
    kept = kept or [k for k, epoch in enumerate(history) if epoch.get("best")][-1:]
    values = {
        "loss": [epoch["loss"] for epoch in history],
        "validation_loss": [epoch["validation_loss"] for epoch in history],
        "auc": [epoch["score"] for epoch in history],
        "stages": [epoch["stage"] for epoch in history],
        "kept": kept[0],
    }
    several = len(set(values["stages"])) > 1
    caption = "Training and validation loss and validation AUC by epoch; the dot marks the epoch "
    caption += f"that was kept{', vertical lines where a stage begins' if several else ''}."
    return {"learning_curves": (figures.learning_curves({name: values}), caption)}


def pairs_of(analysis: Analysis, merits: Iterable[str]) -> dict[str, list[Pair]]:
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
