"""Fine-tuning of all layers at one rate."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """One stage that moves every group."""
    return [_common.stage("ft", groups, config, new)]
