"""Layer-wise fine-tuning: tune from one layer group to the output, or train from scratch."""

from collections.abc import Collection, Sequence

from absl import logging

from medxfer.config import Config
from medxfer.tuning.stages import Stage, batch_norm

SCRATCH = "scratch"


def distinct(
    groups: Sequence[str], new: Collection[str], depths: Collection[str] = ()
) -> dict[str, list[str]]:
    """Depths that differ, from the head on: each with the others that are the same training.

    A new group is trained whatever the depth, so depths between which there are only new groups
    move the same layers at the same rates. The deepest of them says best what is tuned.

    Parameters
    ----------
    groups, new : as for :func:`stages`
    depths : collection of str
        Those to choose from; empty: all groups.
    """
    groups = list(groups)
    new = {*new, groups[-1]}
    found: dict[tuple[str, ...], list[str]] = {}
    for place in reversed(range(len(groups))):
        if not depths or groups[place] in depths:
            frozen = tuple(group for group in groups[:place] if group not in new)
            found.setdefault(frozen, []).append(groups[place])
    return {alike[-1]: alike[:-1] for alike in found.values()}


def stages(
    groups: Sequence[str], config: Config, new: Collection[str], depth: str = ""
) -> list[Stage]:
    """The one stage of a depth, a row of Tajbakhsh et al. 2016, Table II.

    Groups before ``depth`` are frozen, those from it on have multiplier 1, and the head and every
    other new group ``config.new_multiplier``. For ``scratch`` all have 1, the head too.

    A new group in front of ``depth`` is trained all the same, since freezing it would freeze
    random weights; a warning says so. With weights for every group but the head, as in the paper,
    there is none.

    Parameters
    ----------
    groups : sequence of str
        Layer groups from input to head.
    config : Config
        Rates, epochs and patience.
    new : collection of str
        Groups without pre-trained weights. The head counts as new in any case.
    depth : str
        One of ``groups``, or "scratch"; empty: ``config.tune``.

    Raises
    ------
    ValueError
        If ``depth`` is neither, or ``new`` names a group that is not in ``groups``.
    """
    depth = depth or config.tune
    groups = list(groups)
    if unknown := sorted(set(new) - set(groups)):
        raise ValueError(f"New groups that the model lacks: {', '.join(unknown)}.")
    if depth == SCRATCH:
        multipliers = dict.fromkeys(groups, 1.0)
    elif depth in groups:
        new = {*new, groups[-1]}
        first = groups.index(depth)
        multipliers = {
            group: config.new_multiplier if group in new else float(place >= first)
            for place, group in enumerate(groups)
        }
        if early := [group for group in groups[:first] if group in new]:
            logging.warning(
                "%s has no pre-trained weights, so it is trained although tuning starts at %s.",
                ", ".join(early),
                depth,
            )
    else:
        raise ValueError(f"'{depth}' is neither a layer group nor '{SCRATCH}'.")
    return [
        Stage(
            name=depth,
            multipliers=multipliers,
            base_rate=config.base_rate,
            epochs=config.epochs,
            patience=config.patience,
            bias_multiplier=config.bias_multiplier,
            optimizer="adam" if config.optimizer == "adam" else "sgd",
            schedule=config.schedule,
            batch_norm=batch_norm(groups, config, groups if depth == SCRATCH else new),
        )
    ]
