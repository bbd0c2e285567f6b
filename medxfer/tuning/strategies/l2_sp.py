"""L2-SP: fine-tuning held back towards the pre-trained weights (Li et al., ICML 2018)."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Penalty, Stage
from medxfer.tuning.strategies import _common

#: What the authors have, beta below; see :func:`medxfer.config.with_strategy_settings`.
AUTHORS = {"weight_decay": 0.01}


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """One stage for every group, with alpha / 2 sum (w - w0)^2 + beta / 2 sum w^2 in the loss.

    Both sums are over kernels: the first of groups with pre-trained weights, w0 being those, the
    second of all others. There is no further weight decay. With common settings the second has the
    run's weight decay for beta.
    """
    held = Penalty("l2", config.l2_sp_alpha, _common.pretrained(groups, new))
    beta = config.sp_beta if config.strategy_settings == "authors" else None
    return [_common.stage("l2_sp", groups, config, new, weight_decay=beta, penalty=held)]
