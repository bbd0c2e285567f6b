"""Images that are one image: equal to the pixel, or stored again in another size or quality.

Candidates are pairs whose perceptual hashes (64 bits of a discrete cosine transform, as in pHash:
Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) differ in few
bits. X-rays of one view look so much alike that this alone would join many persons, so a pair must
also agree in its detail: what is left of the thumbnails without their coarse light and shade.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

SIDE = 32  # of a thumbnail
LOW = 8  # rows and columns of low frequencies in the hash
COARSE = 2.0  # pixels of a thumbnail: standard deviation of the blur that is taken out
HAMMING = 10
CORRELATION = 0.95
_BLOCK = 1 << 22  # pairs compared at once
_FLAT = 1.0  # grey levels: standard deviation of the detail below which there is none


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images, by their places, that are one.

    Attributes
    ----------
    first, second : int
    bits : int
        By how many of 64 their hashes differ.
    correlation : float
        Of their detail.
    """

    first: int
    second: int
    bits: int
    correlation: float


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey image of ``SIDE`` x ``SIDE`` pixels, whatever the proportions.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.

    Returns
    -------
    numpy.ndarray
        uint8 (SIDE, SIDE).
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    return cv2.resize(grey, (SIDE, SIDE), interpolation=how)


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Perceptual hashes: which of the lowest frequencies are above their median.

    Parameters
    ----------
    thumbnails : numpy.ndarray
        uint8 (n, SIDE, SIDE).

    Returns
    -------
    numpy.ndarray
        uint64 (n,). The constant part (the first of 64 bits) does not count for the median.
    """
    steps = np.arange(SIDE)
    basis = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), steps + 0.5))
    basis[0] /= np.sqrt(2)
    low = (basis @ thumbnails.astype(np.float64) @ basis.T).reshape(-1, LOW * LOW)
    # Rounded, so that what is equal but for the order of additions gives equal bits.
    low = np.rint(low * 1024)
    above = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").ravel().astype(np.uint64)


def detail(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails less their blur, each of mean 0 and length 1; of length 0 where there is none.

    Parameters
    ----------
    thumbnails : numpy.ndarray
        uint8 (n, SIDE, SIDE).

    Returns
    -------
    numpy.ndarray
        float32 (n, SIDE * SIDE): the dot product of two is their correlation.
    """
    import cv2

    found = np.empty((len(thumbnails), SIDE * SIDE), np.float32)
    for row, thumb in zip(found, thumbnails.astype(np.float32), strict=True):
        row[:] = (thumb - cv2.GaussianBlur(thumb, (0, 0), COARSE)).ravel()
        row -= row.mean()
        length = np.linalg.norm(row)
        row *= 1 / length if length > _FLAT * SIDE else 0
    return found


def similar(
    thumbnails: np.ndarray, hamming: int = HAMMING, correlation: float = CORRELATION
) -> list[Pair]:
    """Pairs of images that are one image, stored again in another size or quality.

    Copies with another gamma, a caption or a frame, and those that are mirrored, turned by more
    than a degree or cut by more than a percent, are mostly not found. Images of one scanner whose
    overlays outweigh what they show may be found although they are not one image.

    Parameters
    ----------
    thumbnails : numpy.ndarray
        uint8 (n, SIDE, SIDE).
    hamming : int
        By how many bits the hashes may differ.
    correlation : float
        Of the detail, at least.

    Returns
    -------
    list of Pair
        By their places, ``first`` below ``second``.
    """
    marks, details = hashes(thumbnails), detail(thumbnails)
    found = []
    rows = max(1, _BLOCK // max(1, len(marks)))
    for start in range(0, len(marks), rows):
        bits = np.bitwise_count(marks[start : start + rows, None] ^ marks[None, start:])
        first, second = np.nonzero(bits <= hamming)
        keep = first < second
        first, second = first[keep], second[keep]
        for some in np.array_split(np.arange(len(first)), len(first) // (1 << 16) + 1):
            one, other = start + first[some], start + second[some]
            values = np.einsum("ij,ij->i", details[one], details[other])
            for place in np.flatnonzero(values >= correlation):
                pair = int(one[place]), int(other[place])
                distance = int(bits[first[some[place]], second[some[place]]])
                found.append(Pair(*pair, distance, float(values[place])))
    return found


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Places that hang together through pairs, directly or through others (union-find).

    Returns
    -------
    list of list of int
        Every place in exactly one list, the lists and their places in ascending order.
    """
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    found: dict[int, list[int]] = {}
    for place in range(count):
        found.setdefault(root(place), []).append(place)
    return list(found.values())
