"""Auto-RGN: a rate for every tensor, found anew before every epoch (Lee et al., ICLR 2023)."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common

#: What the authors have, see :func:`medxfer.config.with_strategy_settings`.
AUTHORS = {"optimizer": "adam", "weight_decay": 1e-4}


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """One stage that moves every group, every tensor by its relative gradient norm.

    Before an epoch the gradients of 5 batches are taken; the tensor with the greatest ratio of
    gradient norm to norm has factor 1. The authors use Adam with new moments in every epoch and
    search base rates from 1e-5 to 1e-1. A new head has the greatest ratio for long and slows the
    rest down: ``--exclude_head`` or ``--head_init=lp``.
    """
    return [_common.adaptive("rgn", groups, config, new)]
