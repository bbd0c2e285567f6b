"""Edges of an endoscopic frame and the appearance round them.

After Tajbakhsh, Gurudu, Liang, "Automated polyp detection in colonoscopy videos using shape and
context information", IEEE TMI 2015: an edge pixel is described by a patch turned so that the edge's
normal lies along x. Sizes are pixels of the *working frame*: the visible field, cropped from its
black surroundings and scaled to one size.
"""

import dataclasses
import functools

import cv2
import numpy as np
from numpy.typing import NDArray

BLACK = 20  # grey level up to which the surroundings of the field go
GLINT = 30  # grey levels by which a highlight exceeds what lies round it
GLINT_SIDE = 13  # a highlight is narrower than this
GRADIENT_SIGMA = 1.5
LOCAL_SIGMA = 30.0  # of the neighbourhood in which gradients are compared
MARGIN = 10  # edges this close to the end of the field are its own
_PATCHES = 256  # sampled at once: their places stay in the processor's cache
COEFFICIENTS = 3  # of each DCT, after the constant one


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """The visible field of an image at working size.

    Attributes
    ----------
    channels : numpy.ndarray
        uint8 (h, w, 3), highlights filled in.
    field : numpy.ndarray
        bool (h, w): where the image is not its black surroundings.
    x, y : int
        The field's top left pixel in the image.
    scale_x, scale_y : float
        Working pixels per image pixel.
    """

    channels: NDArray[np.uint8]
    field: NDArray[np.bool_]
    x: int
    y: int
    scale_x: float
    scale_y: float

    def to_image(self, points: NDArray) -> NDArray[np.float64]:
        """Pixel centres (..., 2) of the working frame in coordinates of the image."""
        scale = np.array([self.scale_x, self.scale_y])
        return (points + 0.5) / scale - 0.5 + (self.x, self.y)

    def crop(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask (H, W) of the image in the working frame, bool (h, w)."""
        height, width = self.field.shape
        rows = slice(self.y, self.y + round(height / self.scale_y))
        columns = slice(self.x, self.x + round(width / self.scale_x))
        part = mask[rows, columns].astype(np.uint8)
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST) > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """Edge pixels.

    Attributes
    ----------
    points : numpy.ndarray
        float32 (n, 2): x, y in the working frame.
    normals : numpy.ndarray
        float32 (n, 2): unit vectors across the edge, of either sign.
    """

    points: NDArray[np.float32]
    normals: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


def visible(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The part of an image that is not black surroundings: dark parts joined to its rim.

    Returns
    -------
    numpy.ndarray
        bool (H, W). All of an image that is dark throughout.
    """
    dark = cv2.medianBlur(image.max(axis=2), 5) <= BLACK
    dark[[0, -1]] |= image[[0, -1]].max(axis=2) <= BLACK
    count, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.zeros(count, bool)
    outside[rim] = True
    outside[0] = False
    field = ~outside[labels]
    return field if field.any() else np.ones_like(field)


def working_frame(image: NDArray[np.uint8], side: int) -> Frame:
    """Crop the field and scale it so that the geometric mean of its sides is ``side``.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 RGB (H, W, 3).
    side : int
    """
    field = visible(image)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    y, x = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - y, int(columns[-1]) + 1 - x
    scale = side / np.sqrt(height * width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = slice(y, y + height), slice(x, x + width)
    channels = cv2.resize(image[part], size, interpolation=kind)
    inside = cv2.resize(field[part].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return Frame(
        fill_highlights(channels), inside.astype(bool), x, y, size[0] / width, size[1] / height
    )


def fill_highlights(channels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace small bright spots, which are reflections of the lamp, by what lies round them."""
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GLINT_SIDE, GLINT_SIDE))
    opened = cv2.morphologyEx(channels, cv2.MORPH_OPEN, shape)
    spots = (cv2.subtract(channels, opened) > GLINT).any(axis=2).astype(np.uint8)
    spots = cv2.dilate(spots, np.ones((5, 5), np.uint8)).astype(bool)
    smooth = cv2.GaussianBlur(opened, (0, 0), 2.0)
    return np.where(spots[..., None], smooth, channels)


def find(frame: Frame, low: float, high: float, sigma: float, spacing: int) -> Edges:
    """Edge pixels of any channel, thinned, with their normals.

    Canny's detector works on gradients divided by their local mean, so that a faint edge in a
    smooth region counts as much as a strong one in a rough region.

    Parameters
    ----------
    frame : Frame
    low, high : float
        Canny's thresholds in units of the local mean gradient.
    sigma : float
        Of the structure tensor.
    spacing : int
        Of the edge pixels in each square of so many pixels the steepest is kept.
    """
    inner = cv2.erode(
        frame.field.astype(np.uint8),
        np.ones((2 * MARGIN + 1,) * 2, np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    weight = _wide_blur(inner.astype(np.float32)) + 1e-6
    tensor = np.zeros((3, *inner.shape), np.float32)
    edge = np.zeros(inner.shape, bool)
    planes = np.moveaxis(frame.channels, 2, 0)
    if (planes[0] == planes[1]).all() and (planes[0] == planes[2]).all():
        planes = planes[:1]
    for plane in planes:
        smooth = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), GRADIENT_SIGMA)
        dx, dy = (
            cv2.Scharr(smooth, cv2.CV_32F, 1, 0) / 32,
            cv2.Scharr(smooth, cv2.CV_32F, 0, 1) / 32,
        )
        size = cv2.magnitude(dx, dy) * inner
        local = _wide_blur(size) / weight + 0.1
        dx, dy = dx / local, dy / local
        unit = 256.0
        scaled = (np.clip(d * unit, -32000, 32000).astype(np.int16) for d in (dx, dy))
        edge |= cv2.Canny(*scaled, low * unit, high * unit, L2gradient=True) > 0
        tensor += np.stack([dx * dx, dy * dy, dx * dy])
    tensor = np.stack([cv2.GaussianBlur(part, (0, 0), sigma) for part in tensor])
    y, x = np.nonzero(edge & inner.astype(bool))
    xx, yy, xy = tensor[:, y, x]
    kept = _steepest(x, y, xx + yy, spacing)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)[kept]
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    return Edges(np.stack([x[kept], y[kept]], axis=1).astype(np.float32), normals)


def _wide_blur(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """A Gaussian of LOCAL_SIGMA, computed on an eighth of the size, where it is as good."""
    height, width = plane.shape
    small = cv2.resize(plane, (-(-width // 8), -(-height // 8)), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), LOCAL_SIGMA / 8)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def _steepest(x: NDArray, y: NDArray, strength: NDArray, spacing: int) -> NDArray[np.intp]:
    """Indices of the strongest pixel in each square; of equal ones, the first."""
    cell = (y // spacing) * 100_000 + x // spacing
    order = np.lexsort((-strength, cell))
    first = np.ones(len(order), bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    return np.sort(order[first])


def patches(image: NDArray, edges: Edges, side: int, across: int) -> NDArray[np.float32]:
    """Patches round edge pixels, the normal along x.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 or float32 (h, w).
    edges : Edges
    side : int
        Of the patch, in pixels; even. Pixel i of it lies ``i - (side - 1) / 2`` along the normal.
    across : int
        Samples along the edge, evenly over ``side``.

    Returns
    -------
    numpy.ndarray
        float32 (n, across, side), bilinear; beyond the frame its rim goes on.
    """
    along = np.arange(side, dtype=np.float32) - (side - 1) / 2
    beside = (np.arange(across, dtype=np.float32) - (across - 1) / 2) * (side / across)
    found = []
    for start in range(0, len(edges), _PATCHES):
        points, normals = (a[start : start + _PATCHES].T for a in (edges.points, edges.normals))
        # The tangent is the normal turned by a quarter, (-y, x).
        maps = [
            (
                middle[:, None, None]
                + beside[None, :, None] * tangent[:, None, None]
                + along[None, None, :] * normal[:, None, None]
            ).reshape(points.shape[1], across * side)
            for middle, normal, tangent in zip(
                points, normals, (-normals[1], normals[0]), strict=True
            )
        ]
        found.append(cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    if not found:
        return np.zeros((0, across, side), np.float32)
    return np.concatenate(found).reshape(len(edges), across, side).astype(np.float32)


@functools.cache
def _dct_windows(side: int) -> NDArray[np.float32]:
    """float32 (side, positions * 3): DCT-II of every 8 pixels, half overlapping, no constant."""
    k, n = np.arange(1, COEFFICIENTS + 1), np.arange(8)
    basis = 0.5 * np.cos(np.pi * np.outer(n + 0.5, k) / 8)
    starts = range(0, side - 7, 4)
    matrix = np.zeros((side, len(starts), COEFFICIENTS), np.float32)
    for number, start in enumerate(starts):
        matrix[start : start + 8, number] = basis
    return matrix.reshape(side, -1)


def describe(found: NDArray[np.float32], strips: int, noise: float) -> NDArray[np.float32]:
    """Shape of the intensity profile across the edge, patch by patch.

    A patch is cut in half overlapping strips across the edge, each averaged along it; of every
    eight pixels of a strip, half overlapping, the first DCT coefficients after the constant one
    are kept.

    Parameters
    ----------
    found : numpy.ndarray
        float32 (n, across, side) of :func:`patches`.
    strips : int
        Number of strips; ``across`` must be a multiple of ``strips + 1``.
    noise : float
        Grey levels added to the norm by which a sub-patch's coefficients are divided.

    Returns
    -------
    numpy.ndarray
        float32 (n, strips, positions, 3).
    """
    count, across, side = found.shape
    halves = found.reshape(count, strips + 1, across // (strips + 1), side).mean(axis=2)
    profiles = (halves[:, 1:] + halves[:, :-1]) / 2
    values = profiles @ _dct_windows(side)
    values = values.reshape(count, strips, values.shape[2] // COEFFICIENTS, COEFFICIENTS)
    norm = np.sqrt(np.square(values).sum(axis=3, keepdims=True))
    return values / (norm + noise)


def turned(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What :func:`describe` says of the same patches with the opposite normal."""
    signs = np.array([(-1) ** k for k in range(1, COEFFICIENTS + 1)], np.float32)
    return features[:, ::-1, ::-1] * signs
