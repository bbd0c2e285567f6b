"""Intima-media thickness without a CNN: edges, dynamic programming, open snakes.

Stands in for the handcrafted method of Tajbakhsh et al. 2016, section IV-D, whose tracing step the
paper does not describe. The classic recipe, a pair of rising Gaussian gradients found by dynamic
programming, loses the faint lumen-intima edge to speckle of the adventitia; contrasts between bands
as thick as the layers of the wall do not. The settings were chosen on the first half, by name
(AAAAE to AAAHZ, 11 examinations), of the images of Loizou et al.; how the scan is told from the
rest of the screen was checked on all of them.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medxfer.evaluation import snakes
from medxfer.evaluation.boundary import Boundaries, Rows, joint_rows
from medxfer.handcrafted._bmode import COMPRESSION, contrast, scan_extent

# Of find_far_wall, in millimetres: side of a cell, band of wall whose contrast is taken, limits of
# the lumen's height, and from the lumen-intima interface to the middle of an ordinary wall.
_CELL = 0.25
_WALL = 1.0
_LUMEN = (3.0, 9.0)
_INTERFACE_TO_CENTRE = 0.35
_BRIGHTNESS = 0.2  # what one millimetre of lumen as bright as tissue costs, in contrast


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of :func:`trace`; lengths in millimetres unless said otherwise.

    Attributes
    ----------
    lumen, intima : float
        Bands above and below the lumen-intima interface whose contrast is taken.
    media, adventitia : float
        The same for the media-adventitia interface.
    min_thickness, max_thickness : float
        Limits of the distance between the interfaces.
    max_step : int
        Rows that an interface may move from one column to the next.
    sigma : (float, float)
        Standard deviations in pixels, down and along the wall, of the Gaussian against speckle.
    stiffness : float
        Resistance of the snakes to bending, ``b`` of :func:`~medxfer.evaluation.snakes.open_snake`.
    pull : float
        Weight of the contrast, in standard deviations, in the energy of the snakes.
    """

    lumen: float = 0.8
    intima: float = 0.15
    media: float = 0.3
    adventitia: float = 0.4
    min_thickness: float = 0.3
    max_thickness: float = 1.5
    max_step: int = 1
    sigma: tuple[float, float] = (1.0, 3.0)
    stiffness: float = 5.0
    pull: float = 0.3


DEFAULTS = Settings()


def trace(
    roi: NDArray[np.uint8],
    margin: int,
    mm_per_pixel: float,
    settings: Settings = DEFAULTS,
) -> Boundaries:
    """Trace both interfaces of the far wall in a region of interest.

    The pair of paths with the highest total contrast is found by dynamic programming; then an open
    snake per interface smooths its path on its own side of their midline.

    Parameters
    ----------
    roi : uint8 array of shape (H + 2 margin, W + 2 margin)
        Grey values, lumen above the wall, with ``margin`` pixels of context on every side.
    margin : int
        Width of the context in pixels.
    mm_per_pixel : float
        Vertical size of a pixel.
    settings : Settings

    Returns
    -------
    Boundaries of W columns, rows counted from the first row inside the margin; none is NaN.
    """
    height, width = (side - 2 * margin for side in roi.shape)
    if margin < 0 or min(height, width) < 1:
        raise ValueError(f"A margin of {margin} leaves nothing of a region of {roi.shape}.")
    smooth = ndimage.gaussian_filter(roi.astype(np.float64), settings.sigma, mode="nearest")
    smooth **= COMPRESSION

    def score(above: float, below: float) -> NDArray[np.float64]:
        bands = (max(1, round(band / mm_per_pixel)) for band in (above, below))
        edge = contrast(smooth, *bands)[margin : margin + height, margin : margin + width]
        return edge / max(edge.std(), np.finfo(np.float64).tiny)

    li = score(settings.lumen, settings.intima)
    ma = score(settings.media, settings.adventitia)
    pair = joint_rows(
        li,
        ma,
        int(np.ceil(settings.min_thickness / mm_per_pixel)),
        int(np.floor(settings.max_thickness / mm_per_pixel)),
        settings.max_step,
    )
    # Without this the snake on a faint lumen-intima edge slides into the strong edge below it.
    rows, midline = np.arange(height)[:, None], (pair.li + pair.ma) / 2
    li = np.where(rows < midline, li, np.minimum(li, 0))
    ma = np.where(rows > midline, ma, np.minimum(ma, 0))
    pair = snakes.open_snakes(li, ma, pair, b=settings.stiffness, kappa=settings.pull)
    # Contrasts at row y belong to the edge between rows y - 1 and y.
    return Boundaries(pair.li - 0.5, pair.ma - 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class FarWall:
    """Where the far wall runs across a whole image.

    Attributes
    ----------
    rows : float64 array of shape (W,)
        Row halfway between the interfaces, for a wall of ordinary thickness; NaN in columns
        outside the scan.
    confidence : float64 array of shape (W,)
        Contrast of wall against lumen as a share of the brightest tissue, 0 to 1; 0 outside.
    """

    rows: Rows
    confidence: NDArray[np.float64]


def find_far_wall(image: NDArray[np.uint8], mm_per_pixel: float) -> FarWall:
    """Find the far wall of the carotid artery in a whole longitudinal image.

    The lumen is the dark band, 3 to 9 mm high, between bright tissue: the two paths, near and far
    wall, with the highest contrast towards the band and the least brightness inside it, by
    dynamic programming on cells of a quarter millimetre. Text, rulers and bars of the screen are
    left out as far as they lie outside the scan; calliper crosses and thin lines inside it are
    filtered.

    Parameters
    ----------
    image : uint8 array of shape (H, W)
        The screen, skin above.
    mm_per_pixel : float
        Size of a pixel.

    Returns
    -------
    FarWall; nothing but NaN and 0 if the image holds no scan of 10 mm depth or more.
    """
    if image.ndim != 2 or mm_per_pixel <= 0:
        raise ValueError(f"Need a grey image and its scale: {image.shape}, {mm_per_pixel} mm.")
    rows, confidence = np.full(image.shape[1], np.nan), np.zeros(image.shape[1])
    extent = scan_extent(image, mm_per_pixel)
    if extent is None or (extent[0].stop - extent[0].start) * mm_per_pixel < 10:
        return FarWall(rows, confidence)

    # At most 200 rows of cells keep the table of pairs of rows small.
    side = max(1, round(_CELL / mm_per_pixel), -(-image.shape[0] // 200))
    cell = side * mm_per_pixel
    grey = ndimage.median_filter(_cell_means(image[extent], side), (1, 5)) ** COMPRESSION
    grey = np.minimum(grey / max(np.quantile(grey, 0.95), np.finfo(np.float64).tiny), 1)
    edge = contrast(grey, *[max(1, round(_WALL / cell))] * 2)
    brightness = np.cumsum(grey, axis=0) - grey  # of all cells above
    cost = _BRIGHTNESS * cell * brightness
    lumen = joint_rows(
        cost - edge, edge - cost, int(np.ceil(_LUMEN[0] / cell)), int(_LUMEN[1] / cell), max_step=1
    )

    columns = np.arange(extent[1].start, extent[1].stop)
    centres = extent[1].start + (np.arange(grey.shape[1]) + 0.5) * side - 0.5
    far = extent[0].start + lumen.ma * side - 0.5 + _INTERFACE_TO_CENTRE / mm_per_pixel
    strength = np.clip(edge[lumen.ma.astype(np.int64), np.arange(len(far))], 0, 1)
    rows[columns] = np.interp(columns, centres, far)
    confidence[columns] = np.interp(columns, centres, strength)
    return FarWall(rows, confidence)


def _cell_means(image: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Means of square cells; cells over the edge repeat the outermost pixels."""
    padded = np.pad(image, [(0, -size % side) for size in image.shape], mode="edge")
    height, width = (size // side for size in padded.shape)
    return padded.reshape(height, side, width, side).mean(axis=(1, 3))
