"""Intima-media thickness without a CNN: gradients, dynamic programming, open snakes.

The tracer stands in for the handcrafted method of Tajbakhsh et al. 2016, section IV-D, whose
tracing step the paper does not describe.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medxfer.evaluation import snakes
from medxfer.evaluation.boundary import Boundaries, joint_rows


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of :func:`trace`.

    Attributes
    ----------
    sigma : float
        Standard deviation in pixels of the Gaussian before the gradient is taken.
    min_mm, max_mm : float
        Limits of the distance between the interfaces.
    max_step : int
        Rows that an interface may move from one column to the next.
    """

    sigma: float = 1.5
    min_mm: float = 0.3
    max_mm: float = 1.5
    max_step: int = 1


DEFAULTS = Settings()


def trace(
    roi: NDArray[np.uint8],
    margin: int,
    mm_per_pixel: float,
    settings: Settings = DEFAULTS,
) -> Boundaries:
    """Trace both interfaces of the far wall in a region of interest.

    Parameters
    ----------
    roi : uint8 array of shape (H + 2 margin, W + 2 margin)
        Grey values, lumen above the wall; ``margin`` pixels of context on every side.
    margin : int
        Width of the context in pixels.
    mm_per_pixel : float
        Vertical size of a pixel.
    settings : Settings

    Returns
    -------
    Boundaries of W columns, rows counted from the first row inside the margin.
    """
    rising = ndimage.gaussian_filter(
        roi.astype(np.float64), settings.sigma, order=(1, 0), mode="nearest"
    )
    rising = rising[margin : roi.shape[0] - margin, margin : roi.shape[1] - margin]
    pair = joint_rows(
        rising,
        rising,
        int(np.ceil(settings.min_mm / mm_per_pixel)),
        int(np.floor(settings.max_mm / mm_per_pixel)),
        settings.max_step,
    )
    return snakes.open_snakes(rising, rising, pair)
