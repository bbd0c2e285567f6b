"""What one stage of training moves, how fast, and for how long."""

import dataclasses
from collections.abc import Iterable, Mapping


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

    def check(self, groups: Iterable[str]) -> None:
        """Raise ValueError unless multipliers and ``groups`` name the same groups.

        A rate that covers no group is a typing error that would otherwise train nothing in
        silence; a group that no rate covers would be left out.
        """
        groups = list(groups)
        stray = [name for name in self.multipliers if name not in groups]
        bare = [name for name in groups if name not in self.multipliers]
        if stray:
            raise ValueError(
                f"Stage '{self.name}' gives a rate to {', '.join(stray)}, which the model lacks. "
                f"Its groups: {', '.join(groups)}."
            )
        if bare:
            raise ValueError(f"Stage '{self.name}' gives no rate to {', '.join(bare)}.")

    def frozen(self, group: str) -> bool:
        """Whether ``group`` stays as it is."""
        return self.multipliers[group] == 0

    def rate(self, epoch: int, gamma: float) -> float:
        """Learning rate of a weight with multiplier 1 in ``epoch`` (0, 1, ...) of this stage.

        The staircase of Tajbakhsh et al. 2016, section III, ``base_rate * gamma**epoch``. Epochs
        count from the stage's first one, whose rate is ``base_rate`` by definition, and run on
        through interruptions: a resumed run goes on where it stood.
        """
        return self.base_rate * gamma**epoch
