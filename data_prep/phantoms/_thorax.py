"""The middle of a small chest: what lies where, and how bright a contrast-enhanced CT shows it.

Places are in mm about the middle of the field of view, x to the patient's left, y to the back,
z to the head. The pulmonary trunk forks near the origin.
"""

import dataclasses

import numpy as np
from scipy import interpolate

from data_prep.phantoms._vessels import Grid, Tree, coverage, grow, texture

AIR, LUNG, FAT, MUSCLE = -990.0, -860.0, -95.0, 50.0  # HU
_SPREAD = 9.5  # mm between the places that vessels grow to
# Points x, y, z and radius in mm of the central vessels; each list starts where another passes.
ARTERIES = {
    "trunk": [(10, -38, -40, 12), (12, -31, -20, 11.5), (10, -19, -5, 11), (6, -9, 2, 10.5)],
    "right": [(-8, -2, 2, 9.5), (-22, 0, 0, 8.8), (-33, 3, -4, 8)],
    "left": [(16, 2, 6, 9), (26, 12, 6, 8)],
    "right lower": [(-38, 8, -14, 7), (-40, 13, -26, 5.8), (-42, 17, -40, 4.6)],
    "right upper": [(-35, 0, 9, 5.2), (-40, -3, 20, 4.2)],
    "left lower": [(31, 19, -1, 7), (34, 23, -13, 6), (36, 26, -26, 5.3), (38, 28, -40, 4.4)],
    "left upper": [(32, 5, 13, 5), (36, -2, 24, 4)],
}
_AFTER = {
    "trunk": None,
    "right": ("trunk", -1),
    "right lower": ("right", -1),
    "right upper": ("right", 1),
    "left": ("trunk", -1),
    "left lower": ("left", -1),
    "left upper": ("left", -1),
}
_BARREN = sum(len(ARTERIES[name]) for name in ("trunk", "right", "left"))  # bear no small branches
LEAF = (0.4, 0.7)  # mm, radii where vessels end
VEINS = {
    "right": [
        [(-14, 12, -33, 7), (-26, 2, -24, 6), (-35, -7, -15, 5), (-41, -12, -2, 3.8)],
        [(-16, 18, -36, 6.5), (-28, 24, -39, 5.5), (-38, 32, -42, 4.2)],
    ],
    "left": [
        [(14, 12, -31, 7), (27, 3, -20, 5.6), (35, -7, -8, 4.6), (40, -12, 3, 3.5)],
        [(16, 18, -36, 6.5), (30, 29, -39, 5.2), (40, 36, -42, 4)],
    ],
}
AORTA = [(-10, -26, -45, 12.5), (-11, -26, -10, 12.5), (-10, -25, 45, 12)]
DESCENDING = [(19, 41, -45, 10.5), (19, 40, 45, 10.5)]
CAVA = [(-30, -18, -45, 6.5), (-30, -19, 0, 6.5), (-28, -20, 45, 6.5)]
AZYGOS = [(-9, 43, -45, 3.5), (-8, 43, 45, 3.5)]
OESOPHAGUS = [(6, 32, -45, 6.5), (4, 31, 45, 6)]
ATRIUM = ((0, 15, -37), (24, 12, 17))  # centre, half axes
HEART = ((10, -14, -56), (46, 38, 34))
WINDPIPE = [
    [(0, 17, 45, 8), (0, 17, 13, 8)],
    [(0, 17, 13, 7), (-18, 15, 0, 6.5), (-31, 15, -8, 6)],
    [(0, 17, 13, 6.5), (20, 22, -3, 5.5), (31, 31, -13, 5)],
]
SPINE = (0, 60, 15.5)  # x, y, radius
CHEST = (99.0, 76.0)  # half axes of the rib cage's inner side


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
    """What one person's chest is made of; see the module's names for the parts.

    Attributes
    ----------
    warp : numpy.ndarray
        float64 (3,): sizes along x, y, z against those of this module.
    arteries, veins : Tree
    lobar : numpy.ndarray
        int64: points of ``arteries`` in the lungs' trees that a bronchus goes with.
    nodes : numpy.ndarray
        float64 (m, 8): lymph nodes, as pieces (see :meth:`Grid.distance`).
    rib_phase : float
    medial : float
        mm that the mediastinum is wider than usual.
    """

    warp: np.ndarray
    arteries: Tree
    veins: Tree
    lobar: np.ndarray
    nodes: np.ndarray
    rib_phase: float
    medial: float


def draw_anatomy(half: np.ndarray, rng: np.random.Generator) -> Anatomy:
    """Draw a person; vessels reach some mm beyond ``half``, float64 (3,), the field of view."""
    warp = rng.uniform(0.93, 1.05, 3)
    medial = rng.uniform(-2, 3)
    reach = half + 8
    arteries = grow(
        *_stem(rng, warp), _places(reach, warp, medial, rng), rng, barren=_BARREN, leaf=LEAF
    )
    veins = [
        grow(*_vein_stem(side, rng, warp), places, rng, leaf=LEAF)
        for side, places in zip(
            ("right", "left"), _halves(_places(reach, warp, medial, rng)), strict=True
        )
    ]
    lobar = np.flatnonzero(
        (arteries.radius > 1.2) & (arteries.radius < 5.5) & (np.abs(arteries.points[:, 0]) > 33)
    )
    return Anatomy(
        warp,
        arteries,
        _joined(*veins),
        lobar,
        _draw_nodes(arteries, half, rng),
        rng.uniform(0, 1),
        medial,
    )


def chain(points: list[tuple[float, ...]], warp: np.ndarray | float = 1.0) -> np.ndarray:
    """Pieces, float64 (m, 8), along points x, y, z, radius."""
    values = np.asarray(points, np.float64)
    places = values[:, :3] * warp
    return np.column_stack([places[:-1], places[1:], values[:-1, 3], values[1:, 3]])


def lung_distance(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, warp: np.ndarray, medial: float
) -> np.ndarray:
    """About the signed distance in mm to the border of the lungs, negative inside; broadcasts."""
    x, y, z = x / warp[0], y / warp[1], z / warp[2]
    a, b = CHEST
    wall = (np.sqrt((x / a) ** 2 + ((y - 2) / b) ** 2) - 1) * b
    rows = [-80, -60, -40, -20, 5, 28, 44, 58, 80]
    wide = interpolate.PchipInterpolator(rows, [7, 8, 20, 27, 26, 20, 19, 19, 26])
    middle = wide(np.clip(y, -80, 80)).astype(np.float32) + medial - np.abs(x - 3)
    heart = ellipsoid_distance(x, y, z, *HEART)
    return np.maximum(np.maximum(wall, middle), -heart)


def ellipsoid_distance(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple, axes: tuple
) -> np.ndarray:
    """About the signed distance to an ellipsoid, negative inside; exact on its surface."""
    scaled = [(v - c) / r for v, c, r in zip((x, y, z), centre, axes, strict=True)]
    return (np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2) - 1) * min(axes)


def _stem(rng: np.random.Generator, warp: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, parents and radii of the central arteries; the points are jittered."""
    points, parent, radius = [], [], []
    index: dict[str, list[int]] = {}
    size = rng.uniform(0.88, 1.08)
    for name, course in ARTERIES.items():
        before = -1 if _AFTER[name] is None else index[_AFTER[name][0]][_AFTER[name][1]]
        index[name] = []
        for x, y, z, r in course:
            points.append((np.array([x, y, z]) + rng.normal(0, 0.9, 3)) * warp)
            parent.append(before)
            radius.append(r * size * rng.uniform(0.95, 1.05))
            before = len(points) - 1
            index[name].append(before)
    return np.array(points), np.array(parent, np.int64), np.array(radius)


def _vein_stem(
    side: str, rng: np.random.Generator, warp: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, parent, radius = [], [], []
    for course in VEINS[side]:
        for place, (x, y, z, r) in enumerate(course):
            points.append((np.array([x, y, z]) + rng.normal(0, 0.9, 3)) * warp)
            parent.append(len(points) - 2 if place else -1)
            radius.append(r * rng.uniform(0.9, 1.05))
    return np.array(points), np.array(parent, np.int64), np.array(radius)


def _places(
    reach: np.ndarray, warp: np.ndarray, medial: float, rng: np.random.Generator
) -> np.ndarray:
    """Places in the lungs at random and about ``_SPREAD`` mm apart: float64 (n, 3)."""
    lines = [np.arange(-r, r, _SPREAD) + rng.uniform(0, _SPREAD) for r in reach]
    places = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
    places += rng.uniform(-0.55, 0.55, places.shape) * _SPREAD
    return places[lung_distance(*places.T, warp, medial) < -3]


def _halves(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return places[places[:, 0] < 0], places[places[:, 0] >= 0]


def _joined(*trees: Tree) -> Tree:
    parents, offset = [], 0
    for tree in trees:
        parents.append(np.where(tree.parent < 0, -1, tree.parent + offset))
        offset += len(tree.points)
    parts = [
        np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("points", "radius", "start")
    ]
    return Tree(parts[0], np.concatenate(parents), *parts[1:])


def _draw_nodes(arteries: Tree, half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lymph nodes against the walls of arteries, most of them where these fork."""
    inside = (np.abs(arteries.points) < half - 4).all(axis=1) & (arteries.parent >= 0)
    count = np.bincount(arteries.parent[arteries.parent >= 0], minlength=len(arteries.points))
    wide = inside & (arteries.radius > 2.2)
    weight = np.where(wide, 1.0 + 6.0 * (count > 1), 0)
    chosen = rng.choice(len(weight), int(rng.integers(12, 20)), False, weight / weight.sum())
    found = []
    for node in chosen:
        along = arteries.points[node] - arteries.points[arteries.parent[node]]
        along /= max(float(np.linalg.norm(along)), 1e-9)
        aside = np.cross(along, rng.normal(size=3))
        aside /= np.linalg.norm(aside)
        size = rng.uniform(1.6, 4.5)
        centre = arteries.points[node] + aside * (
            arteries.radius[node] + rng.uniform(0.5, 1) * size
        )
        long = (along + 0.5 * rng.normal(size=3)) * rng.uniform(0, 4)
        found.append([*(centre - long / 2), *(centre + long / 2), size, size * rng.uniform(0.7, 1)])
    return np.array(found)


def paint(hu: np.ndarray, share: np.ndarray, level: np.ndarray | float) -> None:
    """Put something of a level in the share of each voxel that it covers, in place."""
    hu += share * (level - hu)


def draw_surroundings(
    anatomy: Anatomy, grid: Grid, artery: np.ndarray, vein: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """All that holds no contrast agent: HU, float32 (Z, Y, X).

    Parameters
    ----------
    anatomy : Anatomy
    grid : Grid
    artery, vein : numpy.ndarray
        Signed distances to the vessels' walls, exact to 2.5 mm outside.
    rng : numpy.random.Generator
    """
    z, y, x = grid.axes()
    warp = anatomy.warp
    distance = lung_distance(x, y, z, warp, anatomy.medial).astype(np.float32)
    distance += 1.2 * texture(grid.shape, (5, 8, 8), rng)
    hila = np.abs(x) < rng.uniform(46, 50)
    for tubes, coat in ((AORTA, 2.0), (DESCENDING, 1.5), (CAVA, 1.5), (OESOPHAGUS, 1.0)):
        np.maximum(distance, coat - grid.distance(chain(tubes, warp), coat), out=distance)
    sheath = np.where(hila, 2.0 - np.minimum(artery, vein), -9)
    np.maximum(distance, sheath, out=distance)
    # Gravity makes the back of the lungs denser.
    lung = LUNG + 0.45 * y + 22 * texture(grid.shape, (3, 5, 5), rng)
    lung += 35 * texture(grid.shape, (0.8, 1.2, 1.2), rng)
    strands = np.clip(texture(grid.shape, (1.5, 2, 2), rng), 0, 3)
    hu = FAT + 45 * strands
    wall = (np.sqrt((x / warp[0] / CHEST[0]) ** 2 + ((y / warp[1] - 2) / CHEST[1]) ** 2) - 1) * 76
    muscle = coverage(np.abs(wall + 0 * z - 6) - 5 - 1.5 * texture(grid.shape, (4, 8, 8), rng), 2)
    paint(hu, muscle, MUSCLE)
    paint(hu, coverage(distance), lung)
    _draw_bones(hu, grid, anatomy)
    myocardium = ellipsoid_distance(
        *(v / w for v, w in zip((x, y, z), warp, strict=True)), HEART[0], np.subtract(HEART[1], 5)
    )
    paint(hu, coverage(myocardium), 95.0)
    paint(hu, coverage(grid.distance(chain(OESOPHAGUS, warp))), 42.0)
    for node in anatomy.nodes:
        share = coverage(grid.distance(node[None], 1.0))
        paint(hu, share, rng.uniform(25, 75))
    _draw_airways(hu, grid, anatomy, rng)
    return hu.astype(np.float32)


def _draw_bones(hu: np.ndarray, grid: Grid, anatomy: Anatomy) -> None:
    z, y, x = grid.axes()
    warp = anatomy.warp
    centre = np.array(SPINE[:2]) * warp[:2]
    body = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2) - SPINE[2]
    disc = np.abs((z / 24 + anatomy.rib_phase) % 1 - 0.5) * 24 - 2.5  # negative in the discs
    vertebra = np.maximum(body, -disc)
    paint(hu, coverage(body), 90.0)
    paint(hu, coverage(vertebra), 420.0)
    paint(hu, coverage(vertebra + 1.5), 190.0)
    canal = np.sqrt((x - centre[0]) ** 2 + (y - centre[1] - 24) ** 2) - 8 + 0 * z
    arch = np.abs(canal - 3) - 3
    paint(hu, coverage(arch), 380.0)
    paint(hu, coverage(canal), 30.0)
    angle = np.linspace(-1.45, 1.45, 30)
    ribs = []
    for level in np.arange(-5, 6):
        height = 24 * (level + anatomy.rib_phase)
        for side in (-1, 1):
            places = np.column_stack(
                [
                    side * (CHEST[0] + 7) * np.cos(angle),
                    2 + (CHEST[1] + 7) * np.sin(angle),
                    height - 40 * np.sin(angle),
                    np.full(len(angle), 4.5),
                ]
            )
            ribs.append(chain(places, warp))
    rib = grid.distance(np.concatenate(ribs))
    paint(hu, coverage(rib), 520.0)
    paint(hu, coverage(rib + 1.4), 230.0)


def _draw_airways(hu: np.ndarray, grid: Grid, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Windpipe, main bronchi, and a bronchus along each lobar and segmental artery."""
    tree, chosen = anatomy.arteries, anatomy.lobar
    along = tree.points[chosen] - tree.points[tree.parent[chosen]]
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    towards = np.column_stack(
        [-np.sign(tree.points[chosen, 0]), np.full(len(chosen), 0.9), np.zeros(len(chosen))]
    )
    aside = towards - (towards * along).sum(1, keepdims=True) * along
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9)
    width = 0.85 * tree.radius[chosen]
    shift = aside * (tree.radius[chosen] + width + 0.3)[:, None]
    tubes = np.column_stack(
        [tree.points[tree.parent[chosen]] + shift, tree.points[chosen] + shift, width, width]
    )
    # Some stretches are plugged by mucus, which is as dense as a clot.
    plugged = np.zeros(len(tubes), bool)
    for start in rng.choice(len(tubes), min(6, len(tubes)), False):
        plugged[start : start + 3] = True
    main = np.concatenate([chain(course, anatomy.warp) for course in WINDPIPE])
    outer = grid.distance(np.concatenate([main, tubes]))
    inner = np.concatenate([main, tubes[~plugged]])
    inner[:, 6:] -= 0.35 + 0.12 * inner[:, 6:]
    paint(hu, coverage(outer), 25.0)
    paint(hu, coverage(grid.distance(inner)), AIR)


def blood_pool(anatomy: Anatomy, grid: Grid, name: str) -> np.ndarray:
    """Share of each voxel inside the aorta, the upper vena cava or the azygos vein: float32."""
    tubes = {
        "aorta": np.concatenate([chain(AORTA, anatomy.warp), chain(DESCENDING, anatomy.warp)]),
        "cava": chain(CAVA, anatomy.warp),
        "azygos": chain(AZYGOS, anatomy.warp),
    }
    return coverage(grid.distance(tubes[name]))


def atrium_distance(anatomy: Anatomy, grid: Grid) -> np.ndarray:
    """About the signed distance to the left atrium's wall, float32 (Z, Y, X)."""
    z, y, x = (axis / size for axis, size in zip(grid.axes(), anatomy.warp[::-1], strict=True))
    return ellipsoid_distance(x, y, z, *ATRIUM).astype(np.float32)
