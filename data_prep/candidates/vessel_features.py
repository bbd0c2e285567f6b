"""Handcrafted features of a candidate embolus.

The classic counterpart of Tajbakhsh et al. 2016, section IV-B, describes candidates by vessel-based
features, Haralick's texture and wavelets (Liang and Bi, IPMI 2007). The paper lists no single
feature; these are the standard ones of each family.
"""

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from data_prep.candidates import vessel
from data_prep.candidates.embolus import Candidate

LEVELS = 16
RANGE_HU = (-100.0, 500.0)
_SIDE = 64  # of the planes whose wavelet energies are taken
# One of each pair of opposite directions among the 26 neighbours.
DIRECTIONS = tuple(each for each in itertools.product((-1, 0, 1), repeat=3) if each > (0, 0, 0))

HARALICK = (
    "angular_second_moment",
    "contrast",
    "correlation",
    "variance",
    "inverse_difference_moment",
    "sum_average",
    "sum_variance",
    "sum_entropy",
    "entropy",
    "difference_variance",
    "difference_entropy",
    "information_correlation_1",
    "information_correlation_2",
)
_BANDS = ("horizontal", "vertical", "diagonal")
_ENERGIES = tuple(
    f"{plane}_{band}"
    for plane in ("longitudinal", "cross")
    for band in (*(f"{each}_{level}" for level in (1, 2) for each in _BANDS), "smooth_2")
)
NAMES = (
    *HARALICK,
    *_ENERGIES,
    "volume_mm3",
    "surface_mm2",
    "sphericity",
    "cluster_ratio_2_1",
    "cluster_ratio_3_1",
    "vessel_ratio_2_1",
    "vessel_ratio_3_1",
    "mean_hu",
    "deviation_hu",
    "least_hu",
    "shell_mean_hu",
    "shell_filled",
    "enclosure",
    "radius_mm",
    "lung_depth_mm",
)

# Low-pass filter of the Daubechies wavelet with four vanishing moments (Daubechies 1992, table
# 6.1), in the order of convolution.
DB4 = np.array(
    [
        0.23037781330885523,
        0.7148465705525415,
        0.6308807679295904,
        -0.02798376941698385,
        -0.18703481171888114,
        0.030841381835986965,
        0.032883011666982945,
        -0.010597401784997278,
    ]
)


def features(
    hu: np.ndarray,
    spacing: np.ndarray,
    candidate: Candidate,
    axis: vessel.Axis,
    settings: vessel.Settings = vessel.DEFAULTS,
) -> np.ndarray:
    """Features of one candidate.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X): Hounsfield units.
    spacing : numpy.ndarray
        float (3,): mm between voxels along z, y, x.
    candidate : Candidate
    axis : Axis
        Of its vessel.
    settings : vessel.Settings
        Wavelet energies are those of the plane of its middle width, not shifted, not rotated.

    Returns
    -------
    numpy.ndarray
        float64 (len(NAMES),), all finite, in the order of ``NAMES``. Texture is that of the
        cluster and the shell of voxels next to it, since a cluster may be a single voxel.
    """
    spacing = np.asarray(spacing, np.float64)
    low = np.maximum(candidate.voxels.min(axis=0) - 1, 0)
    high = np.minimum(candidate.voxels.max(axis=0) + 2, hu.shape)
    part = hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float64)
    cluster = np.zeros(part.shape, bool)
    cluster[tuple((candidate.voxels - low).T)] = True
    grown = ndimage.binary_dilation(cluster, np.ones((3, 3, 3)))
    shell = part[grown & ~cluster]
    inside = part[cluster]
    if not shell.size:  # a cluster as large as the volume
        shell = inside

    middle = [vessel.middle(settings)]
    grid = dataclasses.replace(settings, side=_SIDE)
    sections = vessel.sections(hu, spacing, candidate.voxel, axis.directions, grid, middle)

    surface = _surface(cluster, spacing)
    volume = inside.size * float(np.prod(spacing))
    variances = _variances(candidate.voxels * spacing)
    return np.array(
        [
            *haralick(cooccurrence(part, grown)),
            *(energy for section in sections for energy in wavelet_energies(_scaled(section[0]))),
            volume,
            surface,
            np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface,
            *_ratios(variances),
            *_ratios(axis.variances),
            inside.mean(),
            inside.std(),
            inside.min(),
            shell.mean(),
            np.mean(shell > candidate.blood_hu),
            candidate.enclosure,
            axis.radius_mm,
            candidate.lung_depth_mm,
        ]
    )


def cooccurrence(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey-level co-occurrence matrix of a part of a volume.

    Parameters
    ----------
    hu : numpy.ndarray
        Real (Z, Y, X).
    mask : numpy.ndarray
        bool (Z, Y, X): pairs of neighbours, both inside, are counted.

    Returns
    -------
    numpy.ndarray
        float64 (16, 16), symmetric: mean over the 13 directions that hold a pair of the share of
        their pairs; all on one level, that of the mean, where no direction does.
    """
    low, high = RANGE_HU
    levels = np.clip((hu - low) / (high - low) * LEVELS, 0, LEVELS - 1).astype(np.int64)
    matrices = []
    for direction in DIRECTIONS:
        here = tuple(slice(max(0, -step), min(0, -step) or None) for step in direction)
        there = tuple(slice(max(0, step), min(0, step) or None) for step in direction)
        both = mask[here] & mask[there]
        if both.any():
            pairs = levels[here][both] * LEVELS + levels[there][both]
            counts = np.bincount(pairs, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
            matrices.append((counts + counts.T) / (2 * pairs.size))
    if matrices:
        return np.mean(matrices, axis=0)
    alone = np.zeros((LEVELS, LEVELS))
    alone[(int(levels[mask].mean()),) * 2] = 1
    return alone


def haralick(matrix: np.ndarray) -> np.ndarray:
    """The first 13 statistics of Haralick, Shanmugam and Dinstein (1973).

    Entropies are in nats; the sum variance is taken about the sum average; a correlation that is
    not defined, on one level, is 1, and the information measures are 0 there.

    Parameters
    ----------
    matrix : numpy.ndarray
        float (N, N): symmetric, not negative, its sum 1.

    Returns
    -------
    numpy.ndarray
        float64 (13,), in the order of ``HARALICK``.
    """
    size = len(matrix)
    i, j = np.indices(matrix.shape)
    margin = matrix.sum(axis=1)
    level = np.arange(size)
    mean = level @ margin
    variance = (level - mean) ** 2 @ margin
    total = np.bincount((i + j).ravel(), matrix.ravel(), minlength=2 * size - 1)
    difference = np.bincount(np.abs(i - j).ravel(), matrix.ravel(), minlength=size)
    sums = np.arange(2 * size - 1)
    sum_average = sums @ total
    entropy, margin_entropy = _entropy(matrix), _entropy(margin)
    independent = np.outer(margin, margin)
    seen = matrix > 0
    cross = -np.sum(matrix[seen] * np.log(independent[seen]))
    product = _entropy(independent)
    correlation = ((i - mean) * (j - mean) * matrix).sum() / variance if variance > 1e-12 else 1.0
    return np.array(
        [
            (matrix**2).sum(),
            level**2 @ difference,
            correlation,
            variance,
            (matrix / (1 + (i - j) ** 2)).sum(),
            sum_average,
            (sums - sum_average) ** 2 @ total,
            _entropy(total),
            entropy,
            level**2 @ difference - (level @ difference) ** 2,
            _entropy(difference),
            (entropy - cross) / margin_entropy if margin_entropy > 1e-12 else 0.0,
            np.sqrt(max(0.0, 1 - np.exp(-2 * (product - entropy)))),
        ]
    )


def wavelet_energies(image: np.ndarray) -> np.ndarray:
    """Energies of the sub-bands of two levels of the db4 wavelet, the image repeated all round.

    Parameters
    ----------
    image : numpy.ndarray
        Real (H, W): multiples of 4.

    Returns
    -------
    numpy.ndarray
        float64 (7,): horizontal, vertical and diagonal details of levels 1 and 2, and the rest.
        Sums of squares divided by the number of pixels of the image, so that they add up to its
        mean square.
    """
    if any(side % 4 for side in image.shape):
        raise ValueError(f"Both sides must be multiples of 4: {image.shape}.")
    energies, smooth = [], np.asarray(image, np.float64)
    for _ in range(2):
        low, high = _split(smooth, 0)
        smooth, vertical = _split(low, 1)
        horizontal, diagonal = _split(high, 1)
        energies += [np.sum(band**2) for band in (horizontal, vertical, diagonal)]
    return np.array([*energies, np.sum(smooth**2)]) / image.size


def _split(image: np.ndarray, along: int) -> tuple[np.ndarray, np.ndarray]:
    """Low and high half-band along an axis, every second sample, periodic."""
    high_pass = DB4[::-1] * (-1.0) ** np.arange(len(DB4))
    low, high = (
        ndimage.correlate1d(image, taps, axis=along, mode="wrap") for taps in (DB4, high_pass)
    )
    return tuple(band.take(range(0, image.shape[along], 2), axis=along) for band in (low, high))


def _scaled(section: np.ndarray) -> np.ndarray:
    """Hounsfield units of the range as 0 to 1."""
    low, high = RANGE_HU
    return np.clip((section.astype(np.float64) - low) / (high - low), 0, 1)


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log(shares)))


def _surface(cluster: np.ndarray, spacing: np.ndarray) -> float:
    """Area of the voxel faces between a cluster and the rest, in mm^2."""
    padded = np.pad(cluster, 1)
    faces = [np.count_nonzero(np.diff(padded.view(np.int8), axis=axis)) for axis in range(3)]
    return float(np.dot(faces, np.prod(spacing) / spacing))


def _variances(points: np.ndarray) -> np.ndarray:
    """Of points, along their principal axes, falling."""
    return np.linalg.eigvalsh(np.cov(points.T, bias=True))[::-1]


def _ratios(variances: np.ndarray) -> tuple[float, float]:
    """Second and third variance over the first; 1 for a single point."""
    if variances[0] <= 1e-12:
        return 1.0, 1.0
    return tuple(float(max(0.0, each) / variances[0]) for each in variances[1:])
