"""Trilinear sampling of many planes of a volume at once."""

import numpy as np

CHUNK = 16_384  # points at a time: what is computed between stays in the processor's cache


def sample_planes(
    volume: np.ndarray,
    origins: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    shape: tuple[int, int],
    gain: float = 1.0,
    offset: float = 0.0,
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
    gain, offset : float
        The volume is taken as ``gain * volume + offset``: cheaper than to do so with the planes.

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
    part *= np.float32(gain)
    part += np.float32(offset)
    rise = np.diff(part, axis=2, append=part[:, :, -1:])  # towards the next voxel
    # None of the clipping below is needed where all planes lie inside the volume.
    reaches_out = (corners.min(axis=0) < 0).any() or (corners.max(axis=0) > edge).any()
    top = (high - low).astype(np.float32) if reaches_out else None
    origins, rows, columns = (each.astype(np.float32) for each in (origins - low, rows, columns))
    # Steps of a plane: (3, n, height, 1) and (3, n, 1, width).
    down = rows.T[:, :, None, None] * np.arange(shape[0], dtype=np.float32)[:, None]
    down += origins.T[:, :, None, None]
    across = columns.T[:, :, None, None] * np.arange(shape[1], dtype=np.float32)

    count = len(origins)
    values = np.empty((count, *shape), np.float32)
    per_plane = max(1, shape[0] * shape[1])
    planes = max(1, CHUNK // per_plane)
    lines = max(1, min(shape[0], CHUNK // max(1, shape[1])))
    for first in range(0, count, planes):
        some = slice(first, first + planes)
        for line in range(0, shape[0], lines):
            band = slice(line, line + lines)
            points = down[:, some, band] + across[:, some]
            values[some, band] = _trilinear(part, rise, points, top)
    return values


def _trilinear(
    part: np.ndarray, rise: np.ndarray, points: np.ndarray, top: np.ndarray | None
) -> np.ndarray:
    """Values at float32 points (3, ...), clipped to [0, top] if given; overwrites the points.

    All in float32, which is faster.
    """
    if top is not None:
        for each, most in zip(points, top, strict=True):
            np.clip(each, 0, most, out=each)
    below = np.floor(points)
    points -= below
    # Whole numbers below 2^24 are exact in float32; a larger part is counted in float64.
    size = part.shape
    exact = part.size < 2**24
    place = below[0] if exact else below[0].astype(np.float64)
    place *= size[1]
    place += below[1]
    place *= size[2]
    place += below[2]
    place = place.astype(np.intp)
    flat, slopes = part.ravel(), rise.ravel()

    def along_x(offset: int) -> np.ndarray:
        value = slopes[offset:].take(place, mode="wrap")  # unlike the default, unbuffered
        value *= points[2]
        value += flat[offset:].take(place, mode="wrap")
        return value

    def along_y(offset: int) -> np.ndarray:
        low, high = along_x(offset), along_x(offset + size[2])
        high -= low
        high *= points[1]
        high += low
        return high

    low, high = along_y(0), along_y(size[1] * size[2])
    high -= low
    high *= points[0]
    high += low
    return high
