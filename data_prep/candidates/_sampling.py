"""Trilinear sampling of many planes of a volume at once."""

import numpy as np

CHUNK = 16_384  # points at a time: what is computed between stays in the processor's cache


def sample_planes(
    volume: np.ndarray,
    origins: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Sample planes of a volume trilinearly.

    Point (i, j) of plane k lies at ``origins[k] + i * rows[k] + j * columns[k]``.

    Parameters
    ----------
    volume : numpy.ndarray
        Real (Z, Y, X).
    origins, rows, columns : numpy.ndarray
        float (n, 3): z, y, x in voxels.
    shape : (int, int)
        Points along ``rows`` and ``columns``.

    Returns
    -------
    numpy.ndarray
        float32 (n, *shape). Outside the volume the nearest voxel's value.
    """
    origins, rows, columns = (np.asarray(each, np.float64) for each in (origins, rows, columns))
    last = np.array(shape) - 1
    corners = np.stack(
        [origins + a * rows + b * columns for a in (0, last[0]) for b in (0, last[1])]
    ).reshape(-1, 3)
    # Only the part round the planes is converted. Its last voxel stands twice along each axis, so
    # that a point on the volume's edge has an upper neighbour.
    edge = np.array(volume.shape) - 1
    low = np.clip(np.floor(corners.min(axis=0)).astype(np.int64), 0, edge)
    high = np.clip(np.floor(corners.max(axis=0)).astype(np.int64) + 1, 0, edge)
    part = volume[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    part = np.pad(part.astype(np.float32), (0, 1), mode="edge")
    top = (high - low).astype(np.float32)
    origins, rows, columns = (each.astype(np.float32) for each in (origins - low, rows, columns))
    # Steps of a plane: (n, 3, height, 1) and (n, 3, 1, width).
    down = rows[:, :, None, None] * np.arange(shape[0], dtype=np.float32)[:, None]
    down += origins[:, :, None, None]
    across = columns[:, :, None, None] * np.arange(shape[1], dtype=np.float32)

    count = len(origins)
    values = np.empty((count, *shape), np.float32)
    per_plane = max(1, shape[0] * shape[1])
    planes = max(1, CHUNK // per_plane)
    lines = max(1, min(shape[0], CHUNK // max(1, shape[1])))
    for first in range(0, count, planes):
        some = slice(first, first + planes)
        for line in range(0, shape[0], lines):
            band = slice(line, line + lines)
            points = (down[some, :, band] + across[some]).transpose(1, 0, 2, 3)
            values[some, band] = _trilinear(part, points, top)
    return values


def _trilinear(part: np.ndarray, points: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Values at float32 points (3, ...), clipped to [0, top]; all in float32, which is faster."""
    below = np.empty(points.shape, np.float32)
    weight = np.empty(points.shape, np.float32)
    for axis in range(3):
        np.clip(points[axis], 0, top[axis], out=weight[axis])
        np.floor(weight[axis], out=below[axis])
    weight -= below
    # Whole numbers below 2^24 are exact in float32; a larger part is counted in float64.
    size = part.shape
    exact = part.size < 2**24
    place = below[0] if exact else below[0].astype(np.float64)
    place *= size[1]
    place += below[1]
    place *= size[2]
    place += below[2]
    place = place.astype(np.intp)
    flat = part.ravel()

    def along_x(offset: int) -> np.ndarray:
        low = flat[offset:].take(place, mode="wrap")  # unlike the default, unbuffered
        high = flat[offset + 1 :].take(place, mode="wrap")
        high -= low
        high *= weight[2]
        high += low
        return high

    def along_y(offset: int) -> np.ndarray:
        low, high = along_x(offset), along_x(offset + size[2])
        high -= low
        high *= weight[1]
        high += low
        return high

    low, high = along_y(0), along_y(size[1] * size[2])
    high -= low
    high *= weight[0]
    high += low
    return high
