"""What the images that a network learnt from look like, and whether others look so too.

Each image is described by a few numbers: level and spread of every channel, level of its border
(inverted pictures have another), difference between channels (grey against colour) and fineness,
the change from pixel to pixel beside that over four (enlarged, blurred and noisy pictures have
another). A study of several images has the median of each; its range over the training studies goes
into the run card.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MOST = 1024  # training images described, spread evenly
OF_CASES, OF_IMAGES, NEXT = (0.005, 0.995), (0.025, 0.975), 0.9995
LEAST = 2.0  # by which a range is widened: levels, or hundredths of the fineness
_STEP = 4  # pixels
_BATCH = 64
_OF_A_CALL = 16  # images described of those that a network is given at once


def describe(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Numbers of each image, float64 (N, 2 C + 3), of images uint8 (N, H, W, C)."""
    parts = [_describe(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def _describe(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    values = images.astype(np.float32)
    edges = (values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1])
    border = np.concatenate(edges, axis=1).mean((1, 2))
    change, change_over = (
        sum(np.abs(values[:, step:] - values[:, :-step]).mean((1, 2, 3)) for values in both)
        for step, both in ((step, (values, values.swapaxes(1, 2))) for step in (1, _STEP))
    )
    fineness = 100 * change / (change_over + 1)
    colour = np.ptp(values, axis=3).mean((1, 2))
    levels, spreads = values.mean((1, 2)), values.std((1, 2))
    return np.column_stack([levels, spreads, border, colour, fineness]).astype(np.float64)


def names(channels: int) -> list[str]:
    """What the columns of :func:`describe` are."""
    numbers = [f" of channel {number}" for number in range(1, channels + 1)]
    each = numbers if channels > 1 else [""]
    found = [f"{what}{number}" for what in ("level", "spread") for number in each]
    return [*found, "level of the border", "difference between channels", "fineness"]


def ranges(images: NDArray[np.uint8], cases: Sequence[str], subjects: int) -> dict:
    """What the run card keeps of the training images.

    A range holds 99 % of the cases, 95 % of the single images (which are not drawn from a study as
    they are when one is predicted), and the next case with a probability of 99.9 %, by Student's t
    over the subjects: a few subjects say little of others.
    """
    each = describe(images)
    owners = np.array(cases)
    found = np.array([np.median(each[owners == case], axis=0) for case in dict.fromkeys(cases)])
    degrees = max(min(subjects, len(found)) - 1, 1)
    reach = stats.t.ppf(NEXT, degrees) * found.std(axis=0) * np.sqrt(1 + 2 / degrees)
    sides = [
        np.quantile(found, OF_CASES, axis=0),
        np.quantile(each, OF_IMAGES, axis=0),
        found.mean(axis=0) + np.array([[-1], [1]]) * reach,
    ]
    low = np.min([side[0] for side in sides], axis=0) - LEAST
    high = np.max([side[1] for side in sides], axis=0) + LEAST
    return {
        "described": len(images),
        "cases": len(found),
        "channels": images.shape[3],
        "low": low.tolist(),
        "high": high.tolist(),
    }


class Watch:
    """Describes what a network is given, and says how it lies outside known :func:`ranges`."""

    def __init__(self, known: Mapping) -> None:
        self._known = known
        self._found: list[NDArray[np.float64]] = []

    def __call__(self, images: NDArray[np.uint8]) -> None:
        """Take images uint8 (N, H, W, C)."""
        step = -(-len(images) // _OF_A_CALL) or 1
        if len(images) and images.shape[3] == self._known["channels"]:
            self._found.append(describe(images[::step]))

    def outside(self) -> list[str]:
        """What lies outside, as the median of the images since the last call, in words."""
        if not self._found:
            return []
        found = np.median(np.concatenate(self._found), axis=0)
        self._found = []
        return [
            f"{name} {value:.0f}, learnt from {max(0, least):.0f} to {greatest:.0f}"
            for name, value, least, greatest in zip(
                names(self._known["channels"]), found, self._known["low"], self._known["high"],
                strict=True,
            )
            if not least <= value <= greatest
        ]  # fmt: skip
