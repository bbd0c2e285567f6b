"""Patches of polyp candidates, and the lesions by which they are labelled."""

import dataclasses

import numpy as np

from data_prep import patches
from data_prep.errors import UserError

SHIFTS, MIRRORS = 5, 8
IGNORED = -2  # in a spot too small to be a lesion: neither found nor a false alarm


@dataclasses.dataclass(frozen=True)
class Settings:
    """How candidates and patches are taken.

    Attributes
    ----------
    patch : int
        Side of a stored patch in pixels, to which a box of any size is resampled.
    scales : tuple of float
        Factors on the box of a candidate (Tajbakhsh et al. 2016, section IV-A).
    shift : float
        Share of the resized box by which it moves left, right, up and down.
    top_k : int
        Candidates a frame at most.
    patches_per_candidate : int
        Training patches drawn from the scales x shifts x mirrors of a candidate, 120 at most.
        Those of false candidates are dropped at random until both classes have equal shares.
    test_mirrors : int
        8: a test candidate's score is the mean over all mirrored and turned versions of its
        patches, as in the paper; 1: over the patches as they are, eight times faster.
    min_lesion : float
        Spots of a mask smaller than this share of the frame are no lesions; candidates in them
        count neither way.
    trees, samples : int
        Of the forests of the detector: trees, and edges from which they learn.
    """

    patch: int = 112
    scales: tuple[float, ...] = (1.0, 1.2, 1.5)
    shift: float = 0.1
    top_k: int = 10
    patches_per_candidate: int = 24
    test_mirrors: int = 8
    min_lesion: float = 0.001
    trees: int = 50
    samples: int = 20_000

    def __post_init__(self) -> None:
        if self.patch < 16:
            raise UserError(f"--patch must be at least 16: {self.patch}.")
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"--scales must be numbers above 0: {self.scales}.")
        if self.test_mirrors not in (1, MIRRORS):
            raise UserError(f"--test_mirrors must be 1 or {MIRRORS}: {self.test_mirrors}.")
        if not 0 <= self.shift < 1:
            raise UserError(f"--shift must be from 0 to below 1: {self.shift}.")


def lesions(mask: np.ndarray, settings: Settings) -> tuple[np.ndarray, list[dict]]:
    """Connected spots of a mask (8 neighbours) that are large enough to be lesions.

    Parameters
    ----------
    mask : ndarray of bool, (height, width)

    Returns
    -------
    labels : ndarray of int32, (height, width)
        Index of the lesion; -1 outside, ``IGNORED`` in a spot that is too small.
    found : list of dict
        ``area`` in pixels and ``x``, ``y``, ``width``, ``height`` of its box.
    """
    import cv2

    count, spots, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    labels, found = np.full(mask.shape, -1, np.int32), []
    for spot in range(1, count):
        x, y, width, height, area = map(int, boxes[spot])
        if area < settings.min_lesion * mask.size:
            labels[spots == spot] = IGNORED
            continue
        labels[spots == spot] = len(found)
        found.append({"area": area, "x": x, "y": y, "width": width, "height": height})
    return labels, found


def lesions_of(frame, settings: Settings) -> tuple[np.ndarray, list[dict]]:
    """Lesions of a frame as :func:`lesions` has them; each box is one, also where two overlap."""
    from data_prep.readers._frames import mask_of_boxes

    if frame.mask is not None:
        return lesions(frame.mask, settings)
    shape = frame.image.shape[:2]
    labels, found = np.full(shape, -1, np.int32), []
    for box in frame.boxes:
        for lesion in lesions(mask_of_boxes([box], *shape), settings)[1]:
            rows = slice(lesion["y"], lesion["y"] + lesion["height"])
            part = labels[rows, lesion["x"] : lesion["x"] + lesion["width"]]
            part[part < 0] = len(found)
            found.append(lesion)
    return labels, found


def annotation(frame) -> np.ndarray:
    """Mask bool (height, width) of a frame; boxes are drawn where it has these alone."""
    from data_prep.readers._frames import mask_of_boxes

    if frame.mask is not None:
        return frame.mask
    return mask_of_boxes(frame.boxes, *frame.image.shape[:2])


def square(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The box made square about its centre, by its longer side, so that nothing is distorted."""
    x, y, width, height = box
    side = max(width, height)
    return x + (width - side) / 2, y + (height - side) / 2, side, side


def views(image: np.ndarray, box: tuple[float, float, float, float], settings) -> np.ndarray:
    """Patches of a candidate at all scales and shifts.

    Returns
    -------
    ndarray of uint8, (scales * 5, patch, patch, 3)
        Per scale: centred, left, right, up, down.
    """
    places = patches.boxes(square(box), settings.scales, settings.shift)
    return patches.resample(image, places, settings.patch)
