"""What strategies share: groups with one rate, and the linear probe."""

from collections.abc import Collection, Sequence

from absl import logging

from medxfer.config import Config
from medxfer.tuning.stages import Adaptive, HeadSolution, Stage, batch_norm


def pretrained(groups: Sequence[str], new: Collection[str]) -> tuple[str, ...]:
    """Groups with pre-trained weights. The head never counts as one."""
    return tuple(group for group in groups[:-1] if group not in new)


def stage(
    name: str,
    groups: Sequence[str],
    config: Config,
    new: Collection[str],
    tuned: Collection[str] | None = None,
    **changes,
) -> Stage:
    """A stage with one rate, biases included, for the groups ``tuned`` and all new ones.

    Parameters
    ----------
    name : str
        Of the stage.
    groups : sequence of str
        Layer groups from input to head.
    config : Config
        Base rate, epochs, patience, optimizer and batch normalisation.
    new : collection of str
        Groups without pre-trained weights, which no stage freezes; the head counts as one.
    tuned : collection of str, optional
        By default all groups.
    **changes
        Further fields of the stage, which go before.
    """
    frozen = set() if tuned is None else set(pretrained(groups, new)) - set(tuned)
    fields = {
        "base_rate": config.base_rate,
        "epochs": config.epochs,
        "patience": config.patience,
        "bias_multiplier": 1.0,
        "optimizer": "adam" if config.optimizer == "adam" else "sgd",
        "schedule": config.schedule,
        "batch_norm": batch_norm(groups, config, new),
    }
    multipliers = {group: float(group not in frozen) for group in groups}
    return Stage(name=name, multipliers=multipliers, **(fields | changes))


def probe(groups: Sequence[str], config: Config, new: Collection[str], name: str = "lp") -> Stage:
    """The head alone: solved for, unless other groups are new too and must be trained with it."""
    if early := [group for group in groups[:-1] if group in new]:
        logging.warning(
            "%s: without pre-trained weights, so trained with the head, by gradients.",
            ", ".join(early),
        )
        return stage(name, groups, config, new, tuned=())
    return stage(
        name, groups, config, new, tuned=(), epochs=1, patience=None, head=HeadSolution()
    )  # fmt: skip


def unfreezing(
    groups: Sequence[str], config: Config, new: Collection[str], order: Sequence[str], name: str
) -> list[Stage]:
    """Stages that tune the head and the first s groups of ``order``, s = 1, 2, ...

    The epochs are shared out evenly, the remainder to the last stage; each has at least one.
    """
    first = 0 if config.head_first else 1
    sizes = range(first, len(order) + 1) if len(order) else range(1)
    share, rest = divmod(config.epochs, len(sizes))
    if not share:
        logging.warning(
            "%s has %d stages of one epoch, more than --epochs=%d.",
            name,
            len(sizes),
            config.epochs,
        )
    return [
        stage(
            f"{name}_{size}",
            groups,
            config,
            new,
            tuned=order[:size],
            epochs=max(1, share + (rest if size == sizes[-1] and share else 0)),
        )
        for size in sizes
    ]


def adaptive(rule: str, groups: Sequence[str], config: Config, new: Collection[str]) -> Stage:
    """A stage that moves every group, with a factor for each tensor's rate.

    Gamma and beta of batch normalisation are left out. By the authors' code the optimizer is Adam,
    unless ``--optimizer=sgd``, and the weight decay 1e-4.
    """
    own = {}
    if config.strategy_settings == "authors":
        own = {"optimizer": "sgd" if config.optimizer == "sgd" else "adam", "weight_decay": 1e-4}
    moments = {"frozen": "frozen", "affine": "frozen"}
    return stage(
        f"auto_{rule}",
        groups,
        config,
        new,
        **own,
        batch_norm={
            group: moments.get(policy, "stats_only")
            for group, policy in batch_norm(groups, config, new).items()
        },
        adaptive=Adaptive(rule, leave=(groups[-1],) if config.exclude_head else ()),
    )
