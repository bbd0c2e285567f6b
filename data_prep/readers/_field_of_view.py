"""Where in a frame the endoscope's picture lies, between black borders and burnt-in text."""

import numpy as np
import scipy.ndimage

BLACK = (8, 40)  # levels between which the border of a recording ends
SHARE = 0.04  # of the picture's height or width: a row or column with less of it is not counted
LEAST = 0.2  # share of the frame that a picture fills at least; less is a dark frame
STROKE = 0.012  # of the frame's shorter side: thicker than letters, thinner than the picture
SIDE = 360  # pixels: longer frames are looked at in steps, which a border does not notice


def field_of_view(image: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest upright rectangle that holds the lit picture.

    The border's own level, which is not 0 in many recordings, is taken from the corners: the
    picture is round or has its corners cut. What is brighter is freed of strokes as thin as
    letters, and the largest connected part is the picture; text beside it, and insets apart from
    it, are not.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 (H, W, 3) or (H, W). A single frame may be dark; of a video, give the pixel-wise
        maximum of some frames.

    Returns
    -------
    tuple of int
        x, y, width, height. The whole frame where there is no border or too little light to tell.
    """
    height, width = image.shape[:2]
    whole = (0, 0, width, height)
    step = max(1, -(-max(height, width) // SIDE))
    level = image[::step, ::step]
    level = level.max(axis=2) if level.ndim == 3 else level
    if min(level.shape) < 8:
        return whole
    rows, columns = level.shape
    patch = max(2, min(rows, columns) // 40)
    corners = [level[:patch, :patch], level[:patch, -patch:]]
    corners += [level[-patch:, :patch], level[-patch:, -patch:]]
    # Text may fill a corner, or the picture reach one: the darkest corner shows the border.
    border = min(float(np.median(corner)) for corner in corners)
    lit = level > np.clip(border + BLACK[0], *BLACK)
    stroke = max(1, round(STROKE * min(rows, columns)))
    opened = scipy.ndimage.grey_opening(lit.view(np.uint8), 2 * stroke + 1, mode="nearest")
    parts, count = scipy.ndimage.label(opened)
    if not count:
        return whole
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    picture = parts == largest
    tall, wide = picture.sum(axis=0), picture.sum(axis=1)
    across = np.flatnonzero(tall > SHARE * tall.max())
    down = np.flatnonzero(wide > SHARE * wide.max())
    x, y = int(across[0]) * step, int(down[0]) * step
    right = min(width, (int(across[-1]) + 1) * step)
    bottom = min(height, (int(down[-1]) + 1) * step)
    if (right - x) * (bottom - y) < LEAST * width * height:
        return whole
    return x, y, right - x, bottom - y
