"""Crop, enlarge, shift, rotate, mirror: plain NumPy, many patches at once."""

from collections.abc import Sequence

import numpy as np


def crop(image: np.ndarray, centres: np.ndarray, size: int) -> np.ndarray:
    """Square patches round many centres.

    Parameters
    ----------
    image : ndarray, (height, width) or (height, width, channels)
    centres : ndarray of int, (n, 2)
        x and y of each patch's centre pixel, which is pixel (size - 1) // 2 of the patch. It may
        lie outside the image.
    size : int
        Side of the patches in pixels.

    Returns
    -------
    ndarray, (n, size, size) or (n, size, size, channels), dtype of the image
        Beyond its edges the image goes on reflected, without repeating the edge pixel (as
        ``numpy.pad(mode="reflect")``).

    Raises
    ------
    ValueError
        If the centres are not whole numbers of shape (n, 2).
    """
    centres = np.asarray(centres)
    if centres.ndim != 2 or centres.shape[1] != 2 or centres.dtype.kind not in "iu":
        raise ValueError(
            f"Centres must be whole numbers (n, 2). Received: {centres.dtype} {centres.shape}."
        )
    offsets = np.arange(size) - (size - 1) // 2
    columns = _reflect(centres[:, 0, None].astype(np.int64) + offsets, image.shape[1])
    rows = _reflect(centres[:, 1, None].astype(np.int64) + offsets, image.shape[0])
    return image[rows[:, :, None], columns[:, None, :]]


def window(image: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The rectangle whose top left pixel is (x, y), reflected at the edges like :func:`crop`."""
    columns = _reflect(np.arange(x, x + width), image.shape[1])
    rows = _reflect(np.arange(y, y + height), image.shape[0])
    return image[rows[:, None], columns[None, :]]


def boxes(box: Sequence[float], scales: Sequence[float], shift: float) -> np.ndarray:
    """Enlarged and shifted versions of one box (Tajbakhsh et al. 2016, section IV-A).

    Parameters
    ----------
    box : x, y, width, height
        In pixels; (x, y) is the top left corner.
    scales : sequence of float
        Factors on both sides of the box; its centre stays.
    shift : float
        Share of the *resized* box by which it moves left, right, up and down.

    Returns
    -------
    ndarray of float64, (len(scales), 5, 4)
        Per scale: centred, left, right, up, down.
    """
    x, y, width, height = map(float, box)
    sizes = np.multiply.outer(scales, [width, height])
    moves = np.array([[0, 0], [-shift, 0], [shift, 0], [0, -shift], [0, shift]])
    centres = np.array([x + width / 2, y + height / 2]) + moves[None] * sizes[:, None]
    corners = centres - sizes[:, None] / 2
    return np.concatenate([corners, np.broadcast_to(sizes[:, None], corners.shape)], axis=-1)


def resample(image: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Boxes of an image, each enlarged or reduced to one size.

    Parameters
    ----------
    image : ndarray of uint8, (height, width) or (height, width, channels)
    boxes : ndarray of float, (..., 4)
        x, y, width, height in pixels: the box spans [x, x + width] in coordinates in which pixel 0
        spans [0, 1], as edges of pictures are meant. They may reach beyond the image.
    side : int
        Of the patches, in pixels.

    Returns
    -------
    ndarray of uint8, (n, side, side) or (n, side, side, channels)
        Bilinear between pixel centres, rounded; where a patch has fewer pixels than its box, the
        image is first averaged down by the whole factor, so that fine texture does not alias.
        Beyond its edges the image is reflected, without repeating the edge pixel.
    """
    import cv2

    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    out = np.empty((len(boxes), side, side, *image.shape[2:]), np.uint8)
    levels: dict[tuple[int, int], np.ndarray] = {(1, 1): image}
    for patch, (x, y, width, height) in zip(out, boxes, strict=True):
        factors = max(1, int(width / side)), max(1, int(height / side))
        if factors not in levels:
            levels[factors] = _reduced(image, *factors)
        level = levels[factors]
        step_x, step_y = width / side / factors[0], height / side / factors[1]
        # Centre of the first output pixel, in pixels of the level whose first centre is 0.
        first_x = x / factors[0] + step_x / 2 - 0.5
        first_y = y / factors[1] + step_y / 2 - 0.5
        matrix = np.array([[step_x, 0, first_x], [0, step_y, first_y]])
        cv2.warpAffine(
            level,
            matrix,
            (side, side),
            dst=patch,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return out


def _reduced(image: np.ndarray, across: int, down: int) -> np.ndarray:
    """Mean over blocks; an incomplete block is made whole by repeating the last row or column."""
    import cv2

    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % down, 0, -width % across, cv2.BORDER_REPLICATE)
    size = padded.shape[1] // across, padded.shape[0] // down
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA)


def dihedral(patches: np.ndarray) -> np.ndarray:
    """The eight versions of square patches: four quarter turns, and the same mirrored.

    Parameters
    ----------
    patches : ndarray, (n, size, size) or (n, size, size, channels)

    Returns
    -------
    ndarray, (8, n, size, size, ...)
        Version 0 is the patches themselves; 1 to 3 are turned anticlockwise by 90, 180 and 270
        degrees; 4 to 7 are the mirror images (left to right) of 0 to 3.
    """
    turned = [np.rot90(patches, turns, axes=(1, 2)) for turns in range(4)]
    return np.stack([*turned, *(np.flip(patch, axis=2) for patch in turned)])


def _reflect(indices: np.ndarray, size: int) -> np.ndarray:
    """Fold any whole numbers into 0 .. size - 1, as between two mirrors at the edge pixels."""
    last = size - 1
    return last - np.abs(last - indices % (2 * last)) if last else np.zeros_like(indices)
