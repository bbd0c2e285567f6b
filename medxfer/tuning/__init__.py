"""How deep, how fast and in what order to tune: a name becomes a list of stages."""

from collections.abc import Collection, Sequence

from data_prep.errors import UserError
from medxfer import plugins
from medxfer.config import Config
from medxfer.tuning import depth
from medxfer.tuning.stages import Stage

STRATEGIES = "medxfer.tuning.strategies"


def stages_for(
    tune: str, groups: Sequence[str], config: Config, new: Collection[str] = ()
) -> list[Stage]:
    """Stages of a run: a depth, ``scratch``, or a strategy found by its name.

    Parameters
    ----------
    tune : str
        A layer group (tune from it to the head), "scratch", or the name of a module in
        ``medxfer/tuning/strategies`` that has ``stages(groups, config, new) -> list[Stage]``.
    groups : sequence of str
        Layer groups from input to head.
    config : Config
        Rates, epochs and patience.
    new : collection of str
        Groups without pre-trained weights.

    Raises
    ------
    UserError
        If ``tune`` is none of these; the message lists the valid names.
    """
    groups = list(groups)
    if tune == depth.SCRATCH or tune in groups:
        return depth.stages(groups, config, new, tune)
    strategies = plugins.names(STRATEGIES)
    if tune in strategies:
        stages = plugins.load(STRATEGIES, tune).stages(groups, config, new)
        for stage in stages:
            stage.check(groups)
        return stages
    valid = [*reversed(groups), depth.SCRATCH, *strategies]
    raise UserError(f"--tune={tune} is unknown. Valid names: {', '.join(valid)}.")
