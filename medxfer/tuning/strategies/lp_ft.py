"""LP-FT: a linear probe, then fine-tuning of all layers (Kumar et al., ICLR 2022)."""

from collections.abc import Collection, Sequence

from medxfer.config import Config
from medxfer.tuning.stages import Stage
from medxfer.tuning.strategies import _common

#: What the authors have, see :func:`medxfer.config.with_strategy_settings`.
AUTHORS = {"weight_decay": 0.0, "schedule": "cosine"}


def stages(groups: Sequence[str], config: Config, new: Collection[str]) -> list[Stage]:
    """The head by logistic regression; then every group, by the authors without weight decay and
    with the rate along a cosine.

    Behind a head that was solved for, the second stage drops no units: it was solved for whole
    features, and the authors' networks have no dropout.

    The authors search 10 rates from 3e-7 to 1e-2 for the second stage, of 20 epochs with batches of
    64, and train gamma and beta of batch normalisation (``--freeze_bn=affine``).
    """
    probe = _common.probe(groups, config, new)
    own = AUTHORS if config.strategy_settings == "authors" else {}
    return [probe, _common.stage("ft", groups, config, new, **own, dropout=probe.head is None)]
