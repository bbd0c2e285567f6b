"""What one stage of training moves, how fast, and for how long."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping

from medxfer.config import BATCH_NORMS, Config

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("staircase", "cosine")


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A pull towards the weights with which the stage begins.

    Added to the loss, as sums over the kernels of ``groups``: ``strength / 2 * (w - w0)**2`` for
    norm ``l2`` and ``strength * |w - w0|`` for ``l1`` (Li et al., ICML 2018). Weight decay is left
    out for these kernels.

    Parameters
    ----------
    norm : str
        ``l1`` or ``l2``.
    strength : float
        Above 0.
    groups : tuple of str
        Groups whose kernels are held back: those with pre-trained weights.
    """

    norm: str
    strength: float
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2") or not self.strength >= 0:
            raise ValueError(f"A penalty is l1 or l2 and at least 0. Received: {self}.")


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """A factor for every tensor's rate, found anew before every epoch from a few batches.

    Parameters
    ----------
    rule : str
        ``rgn`` or ``snr``; see :mod:`medxfer.tuning.adaptive`.
    batches : int
        Number of batches from which the gradients are taken.
    leave : tuple of str
        Groups with factor 1 that have no part in the rule.
    """

    rule: str
    batches: int = 5
    leave: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in ("rgn", "snr") or self.batches < 1:
            raise ValueError(f"An adaptive rule is rgn or snr, of some batches. Received: {self}.")


@dataclasses.dataclass(frozen=True)
class HeadSolution:
    """Solve for the head instead of training it; see :mod:`medxfer.tuning.head`.

    Parameters
    ----------
    strengths : tuple of float
        Inverse strengths C of the regularisation that are tried, in this order.
    iterations : int
        At most so many for each.
    """

    strengths: tuple[float, ...] = tuple(10 ** (-7 + 9 * i / 99) for i in range(100))
    iterations: int = 200


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of training under one set of rates.

    Parameters
    ----------
    name : str
        For logs, checkpoints and TensorBoard.
    multipliers : mapping of str to float
        Layer group -> factor on ``base_rate``; 0 freezes the group: no update, no weight decay,
        no dropout, no moving statistics. The order is of no meaning.
    base_rate : float
        Learning rate of a weight whose multiplier is 1, in the stage's first epoch.
    epochs : int
        At most so many passes over the training data.
    patience : int or None
        Stop after so many epochs in a row without a better validation score; None: never.
    bias_multiplier : float
        Further factor on the rate of every bias (Tajbakhsh et al. 2016, section III: twice the
        rate of the weights).
    optimizer : str
        ``sgd`` (with momentum) or ``adam``.
    weight_decay : float or None
        On kernels; None: as the run has it.
    schedule : str
        ``staircase``: the rate falls by a factor after every epoch; ``cosine``: it falls from
        ``base_rate`` towards 0 along half a cosine over ``epochs``.
    batch_norm : mapping of str to str
        Layer group -> what batch normalisation does in it, see
        :func:`medxfer.tuning.freezing.freeze`; a group that is not named has it ``frozen``.
    penalty : Penalty, optional
        Pull towards the weights of the stage's beginning.
    adaptive : Adaptive, optional
        Factors on the rates; the optimizer's memory then begins anew in every epoch.
    head : HeadSolution, optional
        Solve for the head. The stage is then one epoch and moves nothing else.
    dropout : bool
        Whether groups that move drop units. Behind a head that was solved for they must not: it
        was solved for features without.

    Raises
    ------
    ValueError
        If a multiplier is negative, if all are 0, or if another value is out of range.
    """

    name: str
    multipliers: Mapping[str, float]
    base_rate: float
    epochs: int
    patience: int | None = None
    bias_multiplier: float = 2.0
    optimizer: str = "sgd"
    weight_decay: float | None = None
    schedule: str = "staircase"
    batch_norm: Mapping[str, str] = dataclasses.field(default_factory=dict)
    penalty: Penalty | None = None
    adaptive: Adaptive | None = None
    head: HeadSolution | None = None
    dropout: bool = True

    def __post_init__(self) -> None:
        negative = [group for group, value in self.multipliers.items() if not value >= 0]
        if negative:
            raise ValueError(f"Stage '{self.name}': negative multiplier of {', '.join(negative)}.")
        if not any(self.multipliers.values()):
            raise ValueError(f"Stage '{self.name}' freezes every group, so it trains nothing.")
        if not (self.base_rate > 0 and self.bias_multiplier > 0):
            raise ValueError(f"Stage '{self.name}': rates must be above 0. Received: {self}.")
        if self.epochs < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(f"Stage '{self.name}': epochs and patience start at 1.")
        if not (self.weight_decay is None or self.weight_decay >= 0):
            raise ValueError(f"Stage '{self.name}': weight decay must be at least 0.")
        if self.optimizer not in OPTIMIZERS or self.schedule not in SCHEDULES:
            raise ValueError(f"Stage '{self.name}': unknown optimizer or schedule: {self}.")
        if unknown := set(self.batch_norm.values()) - set(BATCH_NORMS):
            raise ValueError(
                f"Stage '{self.name}': batch normalisation is one of {', '.join(BATCH_NORMS)}. "
                f"Received: {', '.join(sorted(unknown))}."
            )
        moving = [group for group, value in self.multipliers.items() if value]
        if self.head and (len(moving) > 1 or self.epochs > 1):
            raise ValueError(f"Stage '{self.name}' solves for the head: one group, one epoch.")

    def check(self, groups: Iterable[str]) -> None:
        """Raise ValueError unless multipliers and ``groups`` name the same groups.

        A rate that covers no group is a typing error that would otherwise train nothing in
        silence; a group that no rate covers would be left out. Other rules may name fewer groups.
        """
        groups = list(groups)
        named = [*self.multipliers, *self.batch_norm]
        named += self.penalty.groups if self.penalty else ()
        named += self.adaptive.leave if self.adaptive else ()
        stray = [name for name in dict.fromkeys(named) if name not in groups]
        bare = [name for name in groups if name not in self.multipliers]
        if stray:
            raise ValueError(
                f"Stage '{self.name}' gives a rate to {', '.join(stray)}, which the model lacks. "
                f"Its groups: {', '.join(groups)}."
            )
        if bare:
            raise ValueError(f"Stage '{self.name}' gives no rate to {', '.join(bare)}.")
        if self.head and self.frozen(groups[-1]):
            raise ValueError(
                f"Stage '{self.name}' solves for the head, {groups[-1]}, but it rests."
            )

    def frozen(self, group: str) -> bool:
        """Whether ``group`` stays as it is."""
        return self.multipliers[group] == 0

    def rate(self, epoch: int, gamma: float) -> float:
        """Learning rate of a weight with multiplier 1 in ``epoch`` (0, 1, ...) of this stage.

        The staircase is that of Tajbakhsh et al. 2016, section III, ``base_rate * gamma**epoch``.
        Epochs count from the stage's first one, whose rate is ``base_rate`` by definition, and run
        on through interruptions: a resumed run goes on where it stood.
        """
        if self.schedule == "cosine":
            return self.base_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.base_rate * gamma**epoch


def batch_norm(groups: Iterable[str], config: Config, new: Collection[str]) -> dict[str, str]:
    """``Stage.batch_norm`` of a run: ``config.freeze_bn``, and ``train`` where nothing was learnt.

    Statistics of random layers hold nothing that freezing could keep.
    """
    return {group: "train" if group in new else config.freeze_bn for group in groups}
