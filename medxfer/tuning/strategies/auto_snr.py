"""Auto-SNR: a rate for every tensor, found anew before every epoch (Lee et al., ICLR 2023)."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common

#: What the authors have, see :func:`medxfer.config.with_strategy_settings`.
AUTHORS = {"optimizer": "adam", "weight_decay": 1e-4}


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """One stage; in every epoch only tensors move whose gradients vary little over channels.

    "eb-criterion" in the authors' code; otherwise as ``auto_rgn``.
    """
    return [_common.adaptive("snr", groups, config, new)]
