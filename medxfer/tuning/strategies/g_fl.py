"""G-FL: gradual unfreezing from the first layers to the last."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """Stage s tunes the head and the s groups nearest the input; ``--head_first``: s from 0.

    Epochs and optimizers as in ``g_lf``.
    """
    order = _common.pretrained(groups, new)
    return _common.unfreezing(groups, config, new, order, "g_fl")
