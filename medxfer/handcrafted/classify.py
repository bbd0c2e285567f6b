"""Image classification without a network: shape, texture and grey values to logistic regression.

What was usual before networks, as one method for any kind of image:

* shape: histograms of oriented gradients (Dalal and Triggs, CVPR 2005);
* texture: uniform local binary patterns at two radii (Ojala et al., IEEE TPAMI 24(7), 2002), and
  statistics of grey-level co-occurrence (Haralick et al., IEEE SMC 3(6), 1973);
* grey values and colours: a histogram, and the moments of every channel.
"""

import dataclasses
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from skimage import feature
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from medxfer import outputs

SIDE, SHAPE_SIDE = 128, 64  # pixels to which an image is reduced for texture and for shape
CELL, ORIENTATIONS = 8, 9
PATTERNS = ((8, 1), (16, 2))  # neighbours and radius
LEVELS, DISTANCES = 32, (1, 2, 4)  # of co-occurrence
STATISTICS = ("contrast", "homogeneity", "energy", "correlation")
BINS = 16
STRENGTHS = tuple(10.0**power for power in range(-5, 1))  # inverse, of the regularisation
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
_ANGLES = np.arange(4) * np.pi / 4


def features(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Numbers of one image, the four kinds one after the other.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
        RGB, at least 8 x 8 pixels.

    Returns
    -------
    float32 array of shape (1829,)
    """
    return np.concatenate(blocks(image)).astype(np.float32)


def blocks(image: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Shape, local patterns, co-occurrence and grey values of an image, see :func:`features`."""
    import cv2

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Need a uint8 image (H, W, 3), not {image.dtype} {image.shape}.")
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = np.round(small.astype(np.float32) @ _GREY).astype(np.uint8)
    shape = feature.hog(
        cv2.resize(grey, (SHAPE_SIDE, SHAPE_SIDE), interpolation=cv2.INTER_AREA),
        ORIENTATIONS,
        (CELL, CELL),
        (2, 2),
        block_norm="L2-Hys",
        transform_sqrt=True,
    )
    codes = [
        feature.local_binary_pattern(grey, points, radius, "uniform") for points, radius in PATTERNS
    ]
    patterns = [
        np.bincount(code.astype(np.intp).ravel(), minlength=points + 2) / grey.size
        for code, (points, _) in zip(codes, PATTERNS, strict=True)
    ]
    pairs = feature.graycomatrix(
        grey // (256 // LEVELS), DISTANCES, _ANGLES, LEVELS, symmetric=True, normed=True
    )
    together = [feature.graycoprops(pairs, name).mean(axis=1) for name in STATISTICS]
    histogram = np.bincount(grey.ravel() // (256 // BINS), minlength=BINS) / grey.size
    channels = small.reshape(-1, 3) / 255
    mean, spread = channels.mean(axis=0), channels.std(axis=0)
    third = ((channels - mean) ** 3).mean(axis=0)
    # Of a flat channel the skewness is that of no asymmetry.
    skewness = np.where(spread > 1e-6, third / np.maximum(spread, 1e-6) ** 3, 0)
    return [
        shape,
        np.concatenate(patterns),
        np.ravel(together),
        np.concatenate([histogram, mean, spread, skewness]),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """Regressions on standardised features: one of all classes, or one of every label.

    Attributes
    ----------
    mean, scale : float64 arrays of shape (F,)
    kernel : float64 array of shape (F, C)
    bias : float64 array of shape (C,)
    multilabel : bool
    strength : float
        The inverse strength of the regularisation that was chosen.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    multilabel: bool
    strength: float

    def probabilities(self, features: ArrayLike) -> NDArray[np.float64]:
        """float64 (N, C) of features (N, F)."""
        x = (np.asarray(features, np.float64) - self.mean) / self.scale
        logits = x @ self.kernel + self.bias
        return special.expit(logits) if self.multilabel else special.softmax(logits, axis=1)


def fit(
    features: ArrayLike,
    labels: ArrayLike,
    classes: int,
    held: tuple[ArrayLike, ArrayLike] | None = None,
) -> Classifier:
    """Fit with the strength whose likelihood is best on images held out.

    Parameters
    ----------
    features : array of shape (N, F)
    labels : integer array of shape (N,) or (N, classes)
        Class indices, at least two different ones; or 0 and 1 for every class.
    classes : int
        A class without examples has the probability 0, or, of several labels, half an example's.
    held : (features, labels), optional
        Of the validation images. Without any a strength in the middle is taken.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if held is None or not len(held[0]):
        *_, chosen = _path(features, labels, classes, up_to=STRENGTHS[len(STRENGTHS) // 2])
        return chosen
    unseen, truth = np.asarray(held[0], np.float64), np.asarray(held[1])
    return min(_path(features, labels, classes), key=lambda model: _loss(model, unseen, truth))


def _path(
    features: NDArray, labels: NDArray, classes: int, up_to: float = STRENGTHS[-1]
) -> Iterator[Classifier]:
    """Classifiers of one strength after the other, each beginning where the one before ended."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    x = (features - mean) / scale
    several = labels.ndim == 2
    tasks = list(labels.T) if several else [labels]
    fitters = [LogisticRegression(max_iter=500, warm_start=True, random_state=0) for _ in tasks]
    for strength in (value for value in STRENGTHS if value <= up_to):
        parts = [
            _solve(fitter.set_params(C=strength), x, y, 2 if several else classes)
            for fitter, y in zip(fitters, tasks, strict=True)
        ]
        if several:
            parts = [(kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]) for kernel, bias in parts]
        kernel, bias = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        yield Classifier(mean, scale, kernel, bias, several, strength)


def _solve(
    fitter: LogisticRegression, x: NDArray, y: NDArray, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kernel (F, classes) and bias (classes,)."""
    present = np.unique(y)
    # Exclusive classes that were never seen are ruled out; so, but for chance, is a label.
    unseen = -np.inf if classes > 2 else np.log(0.5 / (len(y) + 0.5))
    if len(present) < 2:
        return np.zeros((x.shape[1], classes)), np.where(np.arange(classes) == present, 0, unseen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitter.fit(x, y)
    kernel, bias = outputs.dense_of(fitter.coef_, fitter.intercept_, present, classes)
    return kernel, np.where(np.isin(np.arange(classes), present), bias, unseen)


def _loss(model: Classifier, features: NDArray, labels: NDArray) -> float:
    """Sum of the negative log-likelihood, no probability being below a millionth."""
    p = np.clip(model.probabilities(features), 1e-6, 1 - 1e-6)
    if labels.ndim == 2:
        return -float(np.log(np.where(labels > 0, p, 1 - p)).sum())
    return -float(np.log(p[np.arange(len(labels)), labels]).sum())
