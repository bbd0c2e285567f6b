"""Emboli inside a vessel tree: where they lie, and what they fill."""

import dataclasses

import numpy as np
from scipy import ndimage

from data_prep.phantoms._vessels import Grid, Tree

KINDS = ("central", "mural", "saddle", "occluding")
_FREQUENCIES = (0.35, 0.25, 0.27, 0.13)
LEAST_MM3 = 18.0
APART = 4.0  # mm between any two
_CALIBRES = ((6.0, 20.0), (3.6, 6.0), (2.2, 3.6), (1.35, 2.2))  # mm, radius: main to subsegmental
_SHARES = (0.15, 0.28, 0.32, 0.25)


@dataclasses.dataclass(frozen=True, eq=False)
class Clot:
    """One embolus.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    pieces : numpy.ndarray
        float64 (m, 8): what it would fill were there no wall (see :meth:`Grid.distance`).
    """

    kind: str
    pieces: np.ndarray


def draw_clots(
    tree: Tree, grid: Grid, artery: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[list[Clot], np.ndarray, np.ndarray]:
    """Draw emboli that touch neither each other nor the volume's border.

    Parameters
    ----------
    tree : Tree
    grid : Grid
    artery : numpy.ndarray
        float32 (Z, Y, X): signed distance to the arteries' walls.
    count : int
    rng : numpy.random.Generator

    Returns
    -------
    clots : list of Clot
    distance : numpy.ndarray
        float32 (Z, Y, X): signed distance to the nearest embolus, negative inside.
    labels : numpy.ndarray
        uint8 (Z, Y, X): 1 to ``count``, one connected region (26 neighbours) each.
    """
    labels = np.zeros(grid.shape, np.uint8)
    distance = np.full(grid.shape, 2.5, np.float32)
    clots: list[Clot] = []
    for _ in range(60 * count):
        if len(clots) == count:
            break
        clot = draw_clot(tree, grid, str(rng.choice(KINDS, p=_FREQUENCIES)), rng)
        if clot is None:
            continue
        box = grid.box(clot.pieces, APART + 2)
        fill = np.maximum(grid.distance(clot.pieces)[box], artery[box])
        region = _largest(fill <= 0)
        if region.sum() * np.prod(grid.spacing) < LEAST_MM3 or _at_border(region, box, grid):
            continue
        far = ndimage.distance_transform_edt(~region, sampling=grid.spacing)
        if (far[labels[box] > 0] < APART).any():
            continue
        fill[far > 2] = 2.5  # what hangs on by less than an edge is no part of it
        np.minimum(distance[box], fill, out=distance[box])
        clots.append(clot)
        labels[box][region] = len(clots)
    if len(clots) < count:
        raise ValueError(f"No place was found for embolus {len(clots) + 1} of {count}.")
    return clots, distance, labels


def draw_clot(tree: Tree, grid: Grid, kind: str, rng: np.random.Generator) -> Clot | None:
    """Draw one embolus somewhere in the tree; None where it does not fit what was drawn."""
    low, high = _CALIBRES[rng.choice(len(_CALIBRES), p=_SHARES)]
    fits = (tree.radius >= low) & (tree.radius < high) & (tree.parent >= 0)
    fits &= (np.abs(tree.points) < grid.half - 6).all(axis=1)
    wide = np.flatnonzero((tree.radius >= 1.2) & (tree.parent >= 0))
    if kind == "saddle":
        fits &= np.bincount(tree.parent[wide], minlength=len(fits)) > 1
    if not fits.any():
        return None
    node = int(rng.choice(np.flatnonzero(fits)))
    radius = tree.radius[node]
    length = rng.uniform(1.2, 3.5) * radius + rng.uniform(3, 9)
    upstream = tree.upstream(node, length / 2)[::-1]
    if kind == "saddle":
        share, ends = rng.uniform(0.5, 0.75), tree.children(node)[:2]
        branches = [upstream[-4:] + tree.downstream(int(end), length / 3) for end in ends]
    else:
        share = {"central": rng.uniform(0.5, 0.8), "mural": rng.uniform(0.55, 0.8)}.get(kind, 1.2)
        branches = [upstream + tree.downstream(node, length / 2)[1:]]
    if radius < 2.2:
        share = max(share, 0.72)  # less is lost in the scanner's blur
    along = tree.points[branches[0][-1]] - tree.points[branches[0][0]]
    aside = np.cross(along, rng.normal(size=3))
    aside /= max(float(np.linalg.norm(aside)), 1e-9)
    pieces = []
    for course in branches:
        if len(course) < 3:
            return None
        ends = np.linspace(-1, 1, len(course))
        # Blunt ends, and a waist here and there.
        profile = np.sqrt(np.clip(1.05 - ends**4, 0.08, 1)) * rng.uniform(0.85, 1.1, len(course))
        widths = share * tree.radius[course] * profile
        places = tree.points[course]
        if kind == "mural":
            places = places + aside * (tree.radius[course] * (1.15 - share))[:, None]
        pieces.append(np.column_stack([places[:-1], places[1:], widths[:-1], widths[1:]]))
    return Clot(kind, np.concatenate(pieces))


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected region (26 neighbours) of a mask, or nothing."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return mask
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _at_border(region: np.ndarray, box: tuple[slice, ...], grid: Grid) -> bool:
    """Whether a region in a box of the volume comes within two voxels of the volume's border."""
    places = np.argwhere(region) + [part.start for part in box]
    return bool((places < 2).any() or (places > np.array(grid.shape) - 3).any())
