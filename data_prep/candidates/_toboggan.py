"""Sliding of voxels to the regional minimum they drain to."""

import itertools

import numpy as np
from scipy.spatial import cKDTree

NEIGHBOURS = tuple(itertools.product((-1, 0, 1), repeat=3))  # in the order of their linear index


def slide(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slide every voxel downhill until it rests (tobogganing, Fairfield 1990).

    A voxel moves to the lowest of its 26 neighbours inside the mask; of equal values the one of
    the lowest linear index counts as lower, so that a plateau drains to one voxel and no path can
    run in a circle.

    Parameters
    ----------
    values : numpy.ndarray
        Real (Z, Y, X), no NaN.
    inside : numpy.ndarray
        bool (Z, Y, X): voxels that slide, and that may be slid to.

    Returns
    -------
    voxels : numpy.ndarray
        int64 (n,): linear indices of the voxels inside, rising.
    rest : numpy.ndarray
        int64 (n,): position in ``voxels`` of the minimum that each of them slides to.
    """
    if values.shape != inside.shape or values.ndim != 3:
        raise ValueError(f"Need two volumes of one shape: {values.shape} and {inside.shape}.")
    voxels = np.flatnonzero(inside)
    if not voxels.size:
        return voxels, voxels
    # A border of infinite height spares the test for the volume's edge.
    number = np.int32 if inside.size < 2**31 else np.int64
    box = [slice(lower, upper) for lower, upper in extent(inside)]
    size = [part.stop - part.start + 2 for part in box]
    height = np.full(size, np.inf, values.dtype if values.dtype.kind == "f" else np.float64)
    core = height[1:-1, 1:-1, 1:-1]
    np.copyto(core, values[*box], where=inside[*box])
    flat = height.ravel()
    places = np.flatnonzero(np.isfinite(flat)).astype(number)
    lowest, target = flat[places], places.copy()
    for step in NEIGHBOURS:
        offset = number((step[0] * size[1] + step[1]) * size[2] + step[2])
        neighbour = places + offset
        level = flat[neighbour]
        # Offsets rise, so a later neighbour must be lower to win, but the voxel itself, which
        # stands in the list from the start, yields to an equal one before it.
        better = level < lowest
        if offset < 0:
            better |= (level == lowest) & (target == places)
        np.copyto(lowest, level, where=better)
        np.copyto(target, neighbour, where=better)
    order = np.empty(flat.size, number)
    order[places] = np.arange(len(places), dtype=number)
    rest = order[target]
    del order
    while True:  # every round doubles the length of the path that is cut short
        further = rest[rest]
        if np.array_equal(further, rest):
            return voxels, rest.astype(np.int64)
        rest = further


def join(points: np.ndarray, heights: np.ndarray, reach: float) -> np.ndarray:
    """Join minima to a lower one close by.

    From the lowest minimum upwards, each that is not yet joined takes those within reach. No group
    is therefore wider than twice the reach, where linking neighbours would run on through all the
    tissue along a vessel.

    Parameters
    ----------
    points : numpy.ndarray
        float (m, 3): places of the minima, in the unit of ``reach``.
    heights : numpy.ndarray
        float (m,).
    reach : float

    Returns
    -------
    numpy.ndarray
        int64 (m,): index of the minimum that each belongs to, its own if it joins none; of equal
        heights the first counts as lower.
    """
    count = len(points)
    owner = np.arange(count)
    if not count:
        return owner
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    rank = np.empty(count, np.int64)
    rank[np.lexsort((owner, heights))] = owner
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]  # the lower one first
    pairs = pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))]
    centre, undecided, left = np.zeros(count, bool), np.ones(count, bool), pairs
    while undecided.any():
        # Who has no undecided lower neighbour is a centre; those of a round do not reach another.
        found = undecided.copy()
        found[left[:, 1]] = False
        centre |= found
        undecided &= ~found
        undecided[left[found[left[:, 0]], 1]] = False
        left = left[undecided[left].all(axis=1)]
    pairs = pairs[centre[pairs[:, 0]]][::-1]
    owner[pairs[:, 1]] = pairs[:, 0]  # the lowest is written last and stays
    return owner


def extent(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of true voxels along each axis; one must be true."""
    found = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        found.append((int(hits[0]), int(hits[-1]) + 1))
    return found
