"""What the CIMT methods share about B-mode images: grey scale, edges, extent of the scan."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Grey values are compressed before edges are measured, so that the faint step from lumen to intima
# counts beside the strong one from media to adventitia.
COMPRESSION = 1 / 3


def contrast(image: NDArray[np.float64], above: int, below: int) -> NDArray[np.float64]:
    """Mean of the ``below`` rows from row y on minus mean of the ``above`` rows before y.

    A step edge between rows y - 1 and y gives its height at y. Rows beyond the image repeat the
    outermost one.
    """
    kernel = np.concatenate([np.full(above, -1 / above), np.full(below, 1 / below)])
    return ndimage.correlate1d(
        image, kernel, axis=0, origin=above - kernel.size // 2, mode="nearest"
    )


def scan_extent(image: NDArray[np.uint8], mm_per_pixel: float) -> tuple[slice, slice] | None:
    """Rows and columns of the scan within a whole screen, None if there is none.

    Speckle differs from pixel to pixel, while background, bars and panels are flat and letters are
    few. The rows end where echoes fill less than a tenth of the width for good.
    """
    window = max(3, round(2 / mm_per_pixel))
    changes = np.diff(image.astype(np.int16), axis=1, append=image[:, -1:]) != 0
    textured = ndimage.uniform_filter(changes.astype(np.float64), window, mode="constant") > 0.25
    labels, count = ndimage.label(textured)
    if not count:
        return None
    area = np.bincount(labels.ravel())[1:]
    # A black lumen may cut the scan in two; text is small beside either part.
    boxes = ndimage.find_objects(labels)
    parts = [box for box, size in zip(boxes, area, strict=True) if size >= area.max() / 4]
    shrink = window // 4  # by which the window let the parts grow
    top = min(box[0].start for box in parts) + shrink
    left = min(box[1].start for box in parts) + shrink
    right = max(max(box[1].stop for box in parts) - shrink, left + 1)
    bottom = np.flatnonzero(textured[:, left:right].mean(axis=1) >= 0.1)[-1] + 1 - shrink
    return slice(top, max(int(bottom), top + 1)), slice(left, right)
