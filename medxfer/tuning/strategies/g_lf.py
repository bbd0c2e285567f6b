"""G-LF: gradual unfreezing from the last layers to the first."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """Stage s tunes the head and the s groups nearest to it; ``--head_first``: s from 0.

    The epochs are shared out evenly, the remainder to the last stage. Every stage begins with a new
    optimizer and with the best weights of the one before.
    """
    order = _common.pretrained(groups, new)[::-1]
    return _common.unfreezing(groups, config, new, order, "g_lf")
