"""Branching vessels as trees of short tapering pieces, and their distance on a grid of voxels.

Trees are grown as minimum spanning trees with a balancing factor (Cuntz et al., PLoS Computational
Biology 2010): every point joins where wire plus path back to the root is shortest. Radii follow
Murray's law (PNAS 1926): the flow of a parent is the sum of its children's.
"""

import dataclasses

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """Points of a vessel tree; parents come before their children.

    Attributes
    ----------
    points : numpy.ndarray
        float64 (n, 3): x, y, z in mm.
    parent : numpy.ndarray
        int64 (n,): index of the point before; -1 for a root.
    radius : numpy.ndarray
        float64 (n,): mm, of the lumen at the point.
    start : numpy.ndarray
        float64 (n,): mm, of the lumen where the piece that ends at the point begins.
    """

    points: np.ndarray
    parent: np.ndarray
    radius: np.ndarray
    start: np.ndarray

    def pieces(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Pieces from parent to point, of all points or some: see :func:`piece`."""
        ends = np.flatnonzero(self.parent >= 0)
        if chosen is not None:
            ends = np.intersect1d(ends, chosen)
        begins = self.points[self.parent[ends]]
        return np.column_stack([begins, self.points[ends], self.start[ends], self.radius[ends]])

    def children(self, node: int) -> np.ndarray:
        """Points that follow on one, the widest first."""
        found = np.flatnonzero(self.parent == node)
        return found[np.argsort(-self.radius[found], kind="stable")]

    def upstream(self, node: int, length: float) -> list[int]:
        """Points from one towards the root, itself included, over ``length`` mm."""
        return self._walk(node, length, lambda at: int(self.parent[at]))

    def downstream(self, node: int, length: float) -> list[int]:
        """Points from one along the widest branches, itself included, over ``length`` mm."""

        def widest(at: int) -> int:
            following = self.children(at)
            return int(following[0]) if following.size else -1

        return self._walk(node, length, widest)

    def _walk(self, node: int, length: float, step) -> list[int]:
        found, done = [node], 0.0
        while done < length and (following := step(found[-1])) >= 0:
            done += float(np.linalg.norm(self.points[following] - self.points[found[-1]]))
            found.append(following)
        return found


@dataclasses.dataclass(frozen=True)
class Grid:
    """Voxels of a volume about the origin of the phantom's coordinates.

    Attributes
    ----------
    shape : (int, int, int)
        Z, Y, X.
    spacing : (float, float, float)
        mm, z, y, x.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """mm of the voxels' centres: z (Z, 1, 1), y (1, Y, 1) and x (1, 1, X), float32."""
        return np.ix_(*(self._axis(place) for place in range(3)))

    @property
    def half(self) -> np.ndarray:
        """mm from the middle to the outermost voxel centres, float64 (3,): x, y, z."""
        return np.array([self._axis(place)[-1] for place in (2, 1, 0)], np.float64)

    def _axis(self, place: int) -> np.ndarray:
        count = self.shape[place]
        return ((np.arange(count) - (count - 1) / 2) * self.spacing[place]).astype(np.float32)

    def distance(self, pieces: np.ndarray, reach: float = 2.5) -> np.ndarray:
        """Signed distance to the walls of tubes: negative inside.

        Parameters
        ----------
        pieces : numpy.ndarray
            float64 (m, 8): x, y, z of the one end, of the other, and the radius at both, in mm.
        reach : float
            Distances are exact up to so many mm outside, and at least ``reach`` beyond.

        Returns
        -------
        numpy.ndarray
            float32 (Z, Y, X), at most ``reach``.
        """
        found = np.full(self.shape, reach, np.float32)
        z, y, x = self.axes()
        first, last = self._ends(pieces, reach)
        for index in np.flatnonzero((first < last).all(axis=1)):
            (i, j, k), (u, v, w) = first[index], last[index]
            box = found[k:w, j:v, i:u]
            near = piece_distance(pieces[index].astype(np.float32), x[..., i:u], y[:, j:v], z[k:w])
            np.minimum(box, near, out=box)
        return found

    def box(self, pieces: np.ndarray, reach: float) -> tuple[slice, ...]:
        """The part (z, y, x) of the volume that lies within ``reach`` mm of pieces, and about."""
        first, last = self._ends(pieces, reach)
        return tuple(map(slice, first.min(axis=0)[::-1], last.max(axis=0)[::-1]))

    def _ends(self, pieces: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """First and one past the last voxel x, y, z of the box round each piece: int64 (m, 3)."""
        margin = pieces[:, 6:].max(axis=1, keepdims=True) + reach
        lower = np.minimum(pieces[:, :3], pieces[:, 3:6]) - margin
        upper = np.maximum(pieces[:, :3], pieces[:, 3:6]) + margin
        return tuple(
            np.column_stack([np.searchsorted(self._axis(2 - k), ends[:, k]) for k in range(3)])
            for ends in (lower, upper)
        )


def piece_distance(piece: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Signed distance of places to one piece with round ends and a radius that changes evenly."""
    begin, along, radii = piece[:3], piece[3:6] - piece[:3], piece[6:]
    dx, dy, dz = x - begin[0], y - begin[1], z - begin[2]
    length = max(float(along @ along), 1e-12)
    dot = dx * along[0] + dy * along[1] + dz * along[2]
    share = np.clip(dot / np.float32(length), 0, 1)
    square = dx * dx + dy * dy + dz * dz - share * (2 * dot - share * np.float32(length))
    return np.sqrt(np.maximum(square, 0)) - (radii[0] + share * (radii[1] - radii[0]))


def coverage(distance: np.ndarray, width: float = 0.9) -> np.ndarray:
    """Share of a voxel of ``width`` mm that lies inside a wall at a signed distance: float32."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def grow(
    stem: np.ndarray,
    stem_parent: np.ndarray,
    stem_radius: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
    barren: int = 0,
    balance: float = 0.35,
    leaf: tuple[float, float] = (0.45, 0.75),
    exponent: float = 2.6,
    step: float = 2.5,
) -> Tree:
    """Grow a tree from a given stem to places that want blood.

    Parameters
    ----------
    stem : numpy.ndarray
        float64 (s, 3): points of the central vessels in mm.
    stem_parent, stem_radius : numpy.ndarray
        (s,): index of the point before (-1 for a root), and radii in mm.
    places : numpy.ndarray
        float64 (n, 3): where branches end or fork.
    rng : numpy.random.Generator
    barren : int
        So many points at the start of the stem bear no branch.
    balance : float
        Weight of the path to the root against new wire.
    leaf : (float, float)
        Least and greatest radius in mm at the ends.
    exponent : float
        Of the radius in Murray's law; 3 for laminar flow, less in large vessels.
    step : float
        Length in mm of the pieces that branches are made of.
    """
    points, parent = _span(stem, stem_parent, places, barren, balance)
    count = len(stem)
    has_child = np.zeros(len(points), bool)
    has_child[parent[parent >= 0]] = True
    flow = np.where(has_child, 0.0, rng.uniform(*leaf, len(points)) ** exponent)
    for node in range(len(points) - 1, count - 1, -1):
        flow[parent[node]] += flow[node]
    radius = flow ** (1 / exponent)
    radius[:count] = stem_radius
    for node in range(count, len(points)):
        most = radius[parent[node]] * (0.85 if parent[node] < count else 1.0)
        radius[node] = min(radius[node], most)
    for _ in range(3):
        points = _relax(points, parent, radius, count)
    return _refine(points, parent, radius, step)


def _span(
    stem: np.ndarray, stem_parent: np.ndarray, places: np.ndarray, barren: int, balance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points and parents of the balanced minimum spanning tree, in the order of joining."""
    points, parent = list(stem), list(stem_parent)
    # The stem itself costs no path: it is wide, and should bear branches everywhere.
    cost = np.full(len(places), np.inf)
    joined = np.zeros(len(places), np.int64)
    for node, place in enumerate(stem):
        if node >= barren:
            far = np.linalg.norm(places - place, axis=1)
            joined = np.where(far < cost, node, joined)
            cost = np.minimum(cost, far)
    path = [0.0] * len(stem)
    waiting = np.ones(len(places), bool)
    for _ in range(len(places)):
        best = int(np.where(waiting, cost, np.inf).argmin())
        waiting[best] = False
        at = int(joined[best])
        points.append(places[best])
        parent.append(at)
        path.append(path[at] + float(np.linalg.norm(places[best] - points[at])))
        far = np.linalg.norm(places - places[best], axis=1) + balance * path[-1]
        nearer = far < cost
        cost[nearer], joined[nearer] = far[nearer], len(points) - 1
    return np.array(points), np.array(parent, np.int64)


def _relax(points: np.ndarray, parent: np.ndarray, radius: np.ndarray, fixed: int) -> np.ndarray:
    """Draw forking points half way to between their neighbours, the wide ones most."""
    weight, pull = np.zeros(len(points)), np.zeros_like(points)
    grown = np.arange(fixed, len(points))
    np.add.at(weight, parent[grown], radius[grown] ** 2)
    np.add.at(pull, parent[grown], radius[grown, None] ** 2 * points[grown])
    inner = grown[weight[grown] > 0]
    between = 0.5 * points[parent[inner]] + 0.5 * pull[inner] / weight[inner, None]
    moved = points.copy()
    moved[inner] = 0.5 * points[inner] + 0.5 * between
    return moved


def _refine(points: np.ndarray, parent: np.ndarray, radius: np.ndarray, step: float) -> Tree:
    """Bend the edges into smooth curves of pieces at most about ``step`` mm long."""
    widest = np.full(len(points), -1)
    for node in range(len(points)):
        if parent[node] >= 0:
            rival = widest[parent[node]]
            if rival < 0 or radius[node] > radius[rival]:
                widest[parent[node]] = node
    fine: list[np.ndarray] = []
    before: list[int] = []
    lumen: list[tuple[float, float]] = []
    place = np.zeros(len(points), np.int64)

    def tangent(node: int) -> np.ndarray:
        ahead = points[widest[node]] if widest[node] >= 0 else points[node]
        behind = points[parent[node]] if parent[node] >= 0 else points[node]
        way = ahead - behind
        return way / max(float(np.linalg.norm(way)), 1e-9)

    for node in range(len(points)):
        start = parent[node]
        if start < 0:
            place[node] = len(fine)
            fine.append(points[node])
            before.append(-1)
            lumen.append((radius[node], radius[node]))
            continue
        length = float(np.linalg.norm(points[node] - points[start]))
        count = max(1, round(length / step))
        straight = (points[node] - points[start]) / max(length, 1e-9)
        leave = tangent(start) if widest[start] == node else straight
        arrive = tangent(node)
        begin = min(radius[start], (1.3 if widest[start] == node else 1.1) * radius[node])
        last, width = place[start], begin
        for t in np.arange(1, count + 1) / count:
            curve = (
                (2 * t**3 - 3 * t**2 + 1) * points[start]
                + (t**3 - 2 * t**2 + t) * length * leave
                + (3 * t**2 - 2 * t**3) * points[node]
                + (t**3 - t**2) * length * arrive
            )
            wider = begin + t * (radius[node] - begin)
            lumen.append((width, wider))
            fine.append(curve)
            before.append(int(last))
            last, width = len(fine) - 1, wider
        place[node] = last
    start_radius, end_radius = np.array(lumen).T
    return Tree(np.array(fine), np.array(before, np.int64), end_radius, start_radius)


def texture(
    shape: tuple[int, ...], sigma: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Smooth random field of mean 0 and standard deviation 1, float32.

    Drawn on a coarse grid where ``sigma`` (voxels) allows it, and interpolated.
    """
    coarse = tuple(max(1, int(width // 2)) for width in sigma)
    small = [-(-size // step) + 2 for size, step in zip(shape, coarse, strict=True)]
    field = rng.standard_normal(small, np.float32)
    scaled = [width / step for width, step in zip(sigma, coarse, strict=True)]
    field = ndimage.gaussian_filter(field, scaled, mode="wrap")
    field = (field - field.mean()) / field.std()
    for axis, (size, step) in enumerate(zip(shape, coarse, strict=True)):
        if step > 1:
            at = np.arange(size) / step
            low = at.astype(int)
            share = (
                (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            )
            field = field.take(low, axis) * (1 - share) + field.take(low + 1, axis) * share
        else:
            field = field.take(np.arange(size), axis)
    return field
