"""Frame informativeness without a CNN: what a frame loses when its fine detail is left out.

Stands in for the handcrafted method of Tajbakhsh et al. 2016, section IV-C (its reference [65]):
each cell of the frame is rebuilt from its low spatial frequencies; a sharp frame loses more than
a blurred one. Histograms of the loss, of the whole frame and of parts of it, go to a random forest.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

CELL = 16  # pixels, side of a transformed cell
KEPT = 0.1  # share of the coefficients of a cell that rebuild it
BINS, LIMIT = 20, 64.0  # bins of a histogram, and grey value at which they end; the last is open
GRIDS = (1, 2, 4)  # the frame as a whole, in quarters, in sixteenths
FEATURES = BINS * sum(side * side for side in GRIDS)
TREES = 100
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601


def features(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of the reconstruction error.

    Parameters
    ----------
    images : uint8 array of shape (N, H, W, 3), or a sequence of N arrays (H, W, 3) of any sizes
        RGB frames, at least 4 x 4 pixels.

    Returns
    -------
    float32 array of shape (N, 420)
        20 bins of the whole frame, then of each quarter, then of each sixteenth, row by row; the
        20 bins of one region sum to 1.
    """
    rows = [_histograms(reconstruction_error(image)) for image in images]
    return np.array(rows, np.float32).reshape(-1, FEATURES)


def reconstruction_error(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Absolute difference between a frame and what its low frequencies rebuild, in grey values.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
        RGB; where H or W is no multiple of 16 the last row or column is repeated.

    Returns
    -------
    float32 array of shape (H, W)
    """
    grey = _grey(image)
    height, width = grey.shape
    padded = np.pad(grey, [(0, -side % CELL) for side in grey.shape], mode="edge")
    down, across = (side // CELL for side in padded.shape)
    cells = padded.reshape(down, CELL, across, CELL).swapaxes(1, 2).reshape(-1, CELL * CELL)
    # Transform, cut and inverse are one projection onto the kept, orthonormal cosines.
    basis = low_frequencies()
    rebuilt = ((cells @ basis.T) @ basis).reshape(down, across, CELL, CELL).swapaxes(1, 2)
    return np.abs(grey - rebuilt.reshape(padded.shape)[:height, :width])


@functools.cache
def low_frequencies() -> NDArray[np.float32]:
    """Kept cosines of a cell, (26, 256), orthonormal: the first of the zig-zag order of JPEG."""
    order = sorted(np.ndindex(CELL, CELL), key=_zigzag)[: round(KEPT * CELL * CELL)]
    units = np.zeros((len(order), CELL, CELL))
    units[np.arange(len(order)), *np.transpose(order)] = 1
    cosines = scipy.fft.idctn(units, axes=(1, 2), norm="ortho").reshape(len(order), -1)
    return cosines.astype(np.float32)


def _zigzag(place: tuple[int, int]) -> tuple[int, int]:
    """Sort key (diagonal, place on it): odd diagonals run down, even ones up (ITU-T T.81)."""
    down, across = place
    return down + across, down if (down + across) % 2 else across


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Need uint8 (H, W, 3) frames, not {image.dtype} {image.shape}.")
    return image.astype(np.float32) @ _GREY


def _histograms(error: NDArray[np.float32]) -> NDArray[np.float64]:
    """Histograms (420,) of all regions. Regions nest, so only the finest grid is counted."""
    finest = GRIDS[-1]
    if min(error.shape) < finest:
        raise ValueError(f"A frame of {error.shape} is too small for {finest} x {finest} regions.")
    index = np.minimum((error * np.float32(BINS / LIMIT)).astype(np.int32), BINS - 1)
    down, across = (np.arange(side) * finest // side for side in error.shape)
    index += BINS * (finest * down[:, None] + across).astype(np.int32)
    counts = np.bincount(index.ravel(), minlength=BINS * finest**2)
    counts = counts.reshape(finest, finest, BINS)
    levels = []
    for side in GRIDS:
        share = finest // side
        joined = counts.reshape(side, share, side, share, BINS).sum(axis=(1, 3))
        levels.append((joined / joined.sum(axis=2, keepdims=True)).ravel())
    return np.concatenate(levels)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted random forest."""

    forest: RandomForestClassifier

    def score(self, features: ArrayLike) -> NDArray[np.float64]:
        """Probability of being informative, float64 (N,), of features (N, 420)."""
        return self.forest.predict_proba(np.asarray(features, np.float32))[:, 1]


def fit(features: ArrayLike, labels: ArrayLike, seed: int = 0) -> Classifier:
    """Fit a random forest of 100 trees.

    Parameters
    ----------
    features : array of shape (N, 420)
    labels : integer array of shape (N,)
        1 informative, 0 uninformative; both must occur.
    seed : int
        The same seed and data give the same forest.

    Raises
    ------
    ValueError
        If the labels are not 0 and 1, or only one of them occurs.
    """
    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    if not np.array_equal(np.unique(labels), [0, 1]):
        raise ValueError(f"Need frames of label 0 and of label 1, not {np.unique(labels)}.")
    forest = RandomForestClassifier(TREES, random_state=seed)
    return Classifier(forest.fit(features, labels))


def laplacian_variance(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey frame: the plain measure of focus, as a baseline.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)

    References
    ----------
    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
    """
    return float(ndimage.laplace(_grey(image), mode="mirror").var(dtype=np.float64))
