"""Linear probe: the head alone, on the features of the pre-trained layers."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """One stage that solves for the head by logistic regression (Kumar et al., ICLR 2022).

    Where other groups are new too they are trained with the head instead.
    """
    return [_common.probe(groups, config, new)]
