"""Operating points of many reweighted curves at once: the kernel under ROC and FROC bootstraps.

A draw of the cluster bootstrap changes how often each subject counts, never the order of the
scores. Marks are therefore sorted once; for a draw, a point of the curve is a sum of weights over
the leading marks. Sums at the ends of blocks of marks are one matrix product; within a block they
are formed only where a point lies. Sums of whole weights are exact, so the results equal those of
a loop over draws to the last bit.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # marks between two sums of the matrix product, at least
BLOCKS = 256  # sums of the matrix product, at most
_CELLS = 2**21  # of a matrix of units by hits at once
_EXACT = 2**24  # whole numbers below it are exact in float32


class Ladder:
    """Events in a fixed order, each with the weight of the unit that it belongs to.

    Parameters
    ----------
    units : int array of shape (E,)
        Unit of every event, 0 to ``count - 1``.
    count : int
        Number of units U.
    """

    def __init__(self, units: NDArray[np.integer], count: int) -> None:
        self.size, self.count = len(units), count
        self.block = max(BLOCK, -(-self.size // BLOCKS))
        blocks = max(1, -(-self.size // self.block))
        # The last block is filled up with events of an extra unit of weight zero.
        self.members = np.full((blocks, self.block), count)
        self.members.ravel()[: self.size] = units
        self._units = units
        self._before = self.before(np.minimum(np.arange(blocks + 1) * self.block, self.size))
        self.most = int(self._before[:, -1].max(initial=0))  # events of one unit

    def before(self, leading: NDArray[np.intp]) -> NDArray[np.float64]:
        """Events of every unit among the first n, for rising numbers n: (R,) to (U, R)."""
        place = np.searchsorted(leading, np.arange(self.size), side="right")
        counted = place < len(leading)
        cell = self._units[counted] * len(leading) + place[counted]
        inside = np.bincount(cell, minlength=self.count * len(leading))
        return np.cumsum(inside.reshape(self.count, -1), axis=1, dtype=np.float64)

    def over(self, padded: NDArray) -> "Sums":
        """Sums over the leading events under weights of :func:`pad`, (B, U + 1)."""
        return Sums(self, padded, padded[:, :-1] @ self._before.astype(padded.dtype))


def pad(weights: NDArray, most: int) -> NDArray:
    """Weights with those of an extra unit, zero: (B, U) to (B, U + 1), float32 or float64.

    Whole weights given as integers become float32 where sums of ``most`` events per unit are exact.
    """
    kind = np.float64
    if np.issubdtype(weights.dtype, np.integer):
        largest = float(weights.sum(axis=1).max(initial=0)) * most
        kind = np.float32 if largest < _EXACT else np.float64
    padded = np.zeros((len(weights), weights.shape[1] + 1), kind)
    padded[:, :-1] = weights
    return padded


class Sums:
    """Sums of weights over the first n events, for B rows of weights; see :meth:`Ladder.over`."""

    def __init__(self, ladder: Ladder, padded: NDArray, bounds: NDArray) -> None:
        self._ladder, self._padded, self._bounds = ladder, padded, bounds
        self._rows = np.arange(len(padded))[:, None]

    @property
    def total(self) -> NDArray[np.float64]:
        """Sum over all events, (B,)."""
        return self._bounds[:, -1].astype(np.float64)

    def at_all(self, leading: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sums over the first n events for rising numbers n, the same for all rows: (B, R)."""
        before = self._ladder.before(leading).astype(self._padded.dtype)
        return (self._padded[:, :-1] @ before).astype(np.float64)

    def at(self, leading: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sums over the first ``leading`` events, (B, R) to (B, R)."""
        size = self._ladder.block
        block = np.minimum(leading // size, len(self._ladder.members) - 1)
        within = np.arange(size) < (leading - block * size)[..., None]
        inside = (self._inside(block) * within).sum(axis=2, dtype=np.float64)
        return self._bounds[self._rows, block] + inside

    def within(self, limits: NDArray[np.float64]) -> NDArray[np.intp]:
        """How many leading events have a sum that does not exceed the limit, (B, R) to (B, R)."""
        # Bounds never fall, so the block that holds the limit follows from a count.
        block = (self._bounds[:, None, 1:-1] <= limits[..., None]).sum(axis=2)
        sums = np.cumsum(self._inside(block), axis=2)
        sums += self._bounds[self._rows, block][..., None]
        leading = block * self._ladder.block + (sums <= limits[..., None]).sum(axis=2)
        return np.minimum(leading, self._ladder.size)

    def _inside(self, block: NDArray[np.intp]) -> NDArray:
        """Weights of the events of a block, (B, R) to (B, R, block)."""
        flat = self._ladder.members[block] + self._rows[..., None] * self._padded.shape[1]
        return self._padded.ravel().take(flat)


class Weighted:
    """A curve of hits against false alarms as the weights of its units change.

    Parameters
    ----------
    hit_scores, hit_units : arrays of shape (T,)
        Score and unit of everything found: one entry a lesion, or a positive unit.
    alarm_scores, alarm_units : arrays of shape (F,)
        Score and unit of every false positive, or negative unit.
    count : int
        Number of units U.
    """

    def __init__(
        self,
        hit_scores: NDArray[np.float64],
        hit_units: NDArray[np.integer],
        alarm_scores: NDArray[np.float64],
        alarm_units: NDArray[np.integer],
        count: int,
    ) -> None:
        by_hit = np.argsort(-hit_scores, kind="stable")
        by_alarm = np.argsort(-alarm_scores, kind="stable")
        hits, alarms = -hit_scores[by_hit], -alarm_scores[by_alarm]  # ascending
        self._hit_units, self._alarm_units = hit_units[by_hit], alarm_units[by_alarm]
        self._hits = Ladder(self._hit_units, count)
        self._alarms = Ladder(self._alarm_units, count)
        # Hits that score above each alarm; the entry beyond the last alarm counts all.
        self._hits_above = np.append(np.searchsorted(hits, alarms), hits.size)
        # Alarms that score above each hit, and at least as high.
        self._alarms_above = np.searchsorted(alarms, hits)
        self._alarms_to = np.searchsorted(alarms, hits, side="right")
        # First and last alarm of every group of equal score.
        self._tie_start = np.append(np.searchsorted(alarms, alarms), alarms.size)
        self._tie_end = np.append(np.searchsorted(alarms, alarms, side="right"), alarms.size)

    def over(self, weights: NDArray) -> "Curves":
        """The curves under weights of shape (B, U); integers where the weights are whole."""
        return Curves(self, weights)


class Curves:
    """B reweighted curves; see :meth:`Weighted.over`.

    Attributes
    ----------
    alarms, hits : float64 arrays of shape (B,)
        Weighted numbers of all false alarms and all hits: where the curves end.
    """

    def __init__(self, curve: Weighted, weights: NDArray) -> None:
        self._curve, self._weights = curve, weights
        padded = pad(weights, max(curve._alarms.most, curve._hits.most))
        self._alarm_sums, self._hit_sums = curve._alarms.over(padded), curve._hits.over(padded)
        self.alarms, self.hits = self._alarm_sums.total, self._hit_sums.total

    def step(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Most hits with no more false alarms than the limit, (B, R) to (B, R).

        A threshold that exceeds the limit is that of the first alarm that does not fit; all hits
        above its score count, those at its score come with it and do not.
        """
        return self._hit_sums.at(self._curve._hits_above[self._alarm_sums.within(limits)])

    def linear(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hits at the limit on straight lines through the most hits of every number of alarms.

        Beyond the end of a curve, all hits.
        """
        curve = self._curve
        first = self._alarm_sums.within(limits)  # the first alarm that does not fit
        left = self._alarm_sums.at(curve._tie_start[first])
        right = self._alarm_sums.at(curve._tie_end[first])
        low, high = self._hit_sums.at(curve._hits_above[first]), self.step(right)
        width = right - left
        share = np.divide(limits - left, width, out=np.zeros_like(width), where=width > 0)
        return low + share * (high - low)

    def area(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area, in hits times alarms, from no alarm to the limit: (B,) to (B,).

        A hit adds the distance from where the curve reaches it to the limit; one that shares its
        score with alarms is reached on a slope. Beyond its end a curve is level.
        """
        curve, limits = self._curve, limits[:, None]
        total = np.zeros(len(limits))
        step = max(1, _CELLS // self._weights.shape[1])
        for first in range(0, len(curve._hit_units), step):
            part = slice(first, first + step)
            above, to = curve._alarms_above[part], curve._alarms_to[part]
            low = self._alarm_sums.at_all(above)
            gain = np.maximum(limits - low, 0)
            tied = np.flatnonzero(to > above)
            if tied.size:
                high, low = self._alarm_sums.at_all(to[tied]), low[:, tied]
                width = high - low
                slope = np.clip(limits - low, 0, width)  # the part of it before the limit
                under = np.divide(slope**2, 2 * width, out=np.zeros_like(width), where=width > 0)
                gain[:, tied] = under + np.maximum(limits - high, 0)
            hits = self._weights.take(curve._hit_units[part], axis=1)
            total += (gain * hits).sum(axis=1)
        return total


def limits(rates: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest numbers n with ``n / total <= rate``, exact for whole n: (R,), (B,) to (B, R).

    The product alone may round across a whole number: 0.07 * 100 exceeds 7, 0.29 * 100 does not
    reach 29.
    """
    product = rates * totals[:, None]
    whole = np.rint(product)
    # Where there is nothing to count, the limit is 0.
    fits = whole / np.where(totals > 0, totals, 1)[:, None] <= rates
    return np.where(fits, np.maximum(product, whole), np.minimum(product, np.nextafter(whole, -1)))
