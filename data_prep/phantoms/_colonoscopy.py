"""Colonoscopy rendered by ray marching: a bent tube with folds, and lumps that stand on its wall.

The light sits at the camera, so that near walls saturate and the lumen is dark; folds and lumps
hide what lies behind them; the truth is which pixels' rays end on a lump. Lengths in cm.
"""

import dataclasses
import functools

import cv2
import numpy as np

from data_prep.phantoms import _mucosa

WIDTH, HEIGHT = 384, 288  # pixels
REACH = 15.0  # cm that the light goes
COARSE = 3  # rays of the first pass are this many pixels apart
_CLOSE = 1.5  # cm within which samples of the map are wider than pixels
_BLEND = 0.14  # cm over which a lump joins the wall
_LAMPS = ((-0.28, -0.12), (0.3, -0.1))  # right and down of the lens


@dataclasses.dataclass(frozen=True)
class Bend:
    """Centre line of the colon: x and y as sines of z. Arrays are float32 (2,)."""

    size: np.ndarray
    rate: np.ndarray
    phase: np.ndarray

    def at(self, z: np.ndarray) -> list[np.ndarray]:
        """Offsets x and y of the centre, each shaped as ``z``."""
        return [self.size[k] * np.sin(self.rate[k] * z + self.phase[k]) for k in (0, 1)]

    def slope(self, z: np.ndarray) -> list[np.ndarray]:
        """Derivatives of the offsets."""
        size = self.size * self.rate
        return [size[k] * np.cos(self.rate[k] * z + self.phase[k]) for k in (0, 1)]


@dataclasses.dataclass(frozen=True)
class Lump:
    """A polyp, or what may be taken for one: an ellipsoid on the wall, perhaps on a stalk.

    Attributes
    ----------
    foot, axes : numpy.ndarray
        float32 (3,) place on the wall; (3, 3) rows: two tangents and the normal into the lumen.
    radii : numpy.ndarray
        float32 (3,), along the axes.
    lift : float
        Height of the centre above the wall.
    lean : float
        Sideways offset of the centre.
    stalk : float
        Radius of the stalk, 0 without.
    lobes, pits : float
        Amplitude of the lobes in cm, contrast of the surface pattern.
    rate : numpy.ndarray
        float32 (3,): radians per cm of the lobes.
    colour : numpy.ndarray
        float32 (3,), linear reflectance.
    polyp : bool
        Counts in the mask.
    """

    foot: np.ndarray
    axes: np.ndarray
    radii: np.ndarray
    lift: float
    lean: float
    stalk: float
    lobes: float
    pits: float
    rate: np.ndarray
    colour: np.ndarray
    polyp: bool

    @property
    def centre(self) -> np.ndarray:
        """float32 (3,), middle of the body."""
        return self.foot + self.lift * self.axes[2] + self.lean * self.axes[0]

    @property
    def extent(self) -> float:
        """Radius about ``centre`` of a sphere outside which the lump has no part."""
        return float(self.radii.max() + abs(self.lean) + max(self.lift, 0) + 0.15)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Approximate signed distance float32 (N,) of points (3, N), positive outside."""
        local = self.axes @ (points - self.foot[:, None])
        body = local - np.array([[self.lean], [0], [self.lift]], np.float32)
        warp = np.sin(0.5 * self.rate[:, None] * np.roll(body, 1, axis=0) + self.rate[:, None])
        body += 0.12 * self.radii[0] * warp  # else its outline were an ellipse
        scaled = body / self.radii[:, None]
        norm = length(scaled) + np.float32(1e-6)
        distance = norm * (norm - 1) / (length(scaled / self.radii[:, None]) + np.float32(1e-6))
        waves = np.sin(body * self.rate[:, None] + self.rate[::-1, None])
        distance -= self.lobes * waves[1] * (waves[0] + waves[2])
        if self.stalk:
            top = np.array([self.lean, 0, self.lift], np.float32)
            share = np.clip(top @ local / (top @ top), 0, 1)
            neck = length(local - share * top[:, None]) - self.stalk * (1.5 - share)
            distance = _join(distance, neck, 0.1)
        return distance

    def pattern(self, points: np.ndarray) -> np.ndarray:
        """Surface pattern float32 (N,), about -1 to 1: winding ridges, or pits."""
        local = self.axes @ (points - self.foot[:, None])
        rate = self.rate[:, None]
        bent = local + 0.09 * np.sin(1.7 * rate * np.roll(local, 1, axis=0) + rate)
        bent += 0.035 * np.sin(4.1 * rate * np.roll(bent, 1, axis=0))
        waves = np.sin(bent * (4.3 * rate))
        return 0.6 * (waves[0] * waves[1] + waves[1] * waves[2] + waves[2] * waves[0])


@dataclasses.dataclass(frozen=True)
class Scene:
    """A colon with what lies in it."""

    style: _mucosa.Style
    wall: _mucosa.Wall
    bend: Bend
    lumps: tuple[Lump, ...] = ()

    def free(self, points: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far points lie in the lumen; not positive in tissue.

        Parameters
        ----------
        points : numpy.ndarray
            float32 (3, N).
        exact : bool
            Interpolate the radius between samples of the map, else take the nearest.

        Returns
        -------
        free, wall, lump : numpy.ndarray
            float32 (N,), float32 (N,), int8 (N,): cm to tissue, cm to the wall alone, and which
            lump is nearer than the wall (-1 none).
        """
        place, centred = self.place(points)
        if exact:
            radius = look_up(self.wall.radius, place)
        else:
            row = np.clip(place[1].astype(np.int32), 0, _mucosa.ROWS - 1)
            # Angles are at least -pi, and take() wraps whole turns.
            at = row * _mucosa.COLUMNS + place[0].astype(np.int32)
            radius = self.wall.radius.ravel().take(at, mode="wrap")
        wall = radius - centred[2]
        free, nearest = wall.copy(), np.full(len(wall), -1, np.int8)
        for number, lump in enumerate(self.lumps):
            x, y, z = (points[axis] - lump.centre[axis] for axis in range(3))
            close = np.flatnonzero(x * x + y * y + z * z < lump.extent**2)
            if close.size:
                distance = lump.distance(points[:, close])
                nearest[close[distance < free[close]]] = number
                free[close] = _join(free[close], distance, _BLEND)
        return free, wall, nearest

    def place(self, points: np.ndarray) -> tuple[tuple, tuple]:
        """Map (column, row) of points, and (x, y, distance) from the centre line."""
        x, y = self.bend.at(points[2])
        x, y = points[0] - x, points[1] - y
        column = np.arctan2(y, x) * np.float32(_mucosa.COLUMNS / (2 * np.pi))
        row = points[2] * np.float32(_mucosa.PER_CM)
        row -= np.float32(_mucosa.START * _mucosa.PER_CM + 0.5)
        return (column, row), (x, y, np.sqrt(x * x + y * y))

    def point(self, angle: float, z: float) -> np.ndarray:
        """Place float32 (3,) on the wall."""
        centre = np.array([float(axis) for axis in self.bend.at(np.float32(z))])
        row = int((z - _mucosa.START) * _mucosa.PER_CM)
        column = int(angle / (2 * np.pi) * _mucosa.COLUMNS) % _mucosa.COLUMNS
        around = np.array([np.cos(angle), np.sin(angle)])
        x, y = centre + self.wall.radius[row, column] * around
        return np.array([x, y, z], np.float32)

    def normals(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Normals of the wall at points, its film's normals, both float32 (3, N); the place."""
        place, (x, y, distance) = self.place(points)
        around, along, tilt_around, tilt_along = look_up(self.wall.relief, place).T
        cos, sin = x / distance, y / distance
        bend = self.bend.slope(points[2])

        def gradient(around: np.ndarray, along: np.ndarray) -> np.ndarray:
            turn = around / distance
            right, down = -turn * sin - cos, turn * cos - sin
            return unit(np.stack([right, down, along - right * bend[0] - down * bend[1]]))

        film = gradient(around + tilt_around, along + tilt_along)
        return gradient(around, along), film, place


def look_up(table: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Interpolate a map (ROWS, COLUMNS[, C]) at (columns, rows) float32 (N,): (N[, C])."""
    count, across = len(place[0]), 1024
    padded = -(-max(count, 1) // across) * across
    columns, rows = np.zeros((2, padded), np.float32)
    columns[:count] = place[0]
    rows[:count] = np.clip(place[1], 0, _mucosa.ROWS - 1.01)
    grid = (columns.reshape(-1, across), rows.reshape(-1, across))
    found = cv2.remap(table, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return found.reshape(padded, *table.shape[2:])[:count]


def length(vectors: np.ndarray) -> np.ndarray:
    """Lengths (...) of vectors (3, ...)."""
    return np.sqrt(vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (3, ...) made one long."""
    return vectors / length(vectors)


@dataclasses.dataclass(frozen=True)
class Camera:
    """Where the lens is: float32 (3,), and rows right, down, forward: float32 (3, 3)."""

    position: np.ndarray
    axes: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
    """What a camera sees, all of (HEIGHT, WIDTH).

    Attributes
    ----------
    light : numpy.ndarray
        float32 (H, W, 3): linear light, before exposure.
    gloss : numpy.ndarray
        float32 (H, W): reflections of the lamps, in units of the exposure.
    depth : numpy.ndarray
        float32 (H, W), cm along the ray.
    mask : numpy.ndarray
        bool (H, W): polyp.
    """

    light: np.ndarray
    gloss: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


@functools.lru_cache(4)
def rays(half_field: float, step: int = 1) -> np.ndarray:
    """Directions float32 (3, H', W') in camera axes of every ``step``-th pixel's middle.

    The lens spreads angles evenly (equidistant); ``half_field`` is the angle in radians at the
    left and right edge.
    """
    y, x = np.mgrid[step // 2 : HEIGHT : step, step // 2 : WIDTH : step].astype(np.float32)
    x, y = x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2
    distance = np.hypot(x, y) + 1e-6
    angle = distance * np.float32(half_field / (WIDTH / 2))
    sine = np.sin(angle) / distance
    found = np.stack([x * sine, y * sine, np.cos(angle)]).astype(np.float32)
    found.flags.writeable = False  # callers share it
    return found


def project(camera: Camera, points: np.ndarray, half_field: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (x, y) float (2, N) of points (3, N), and their distances (N,)."""
    offset = camera.axes @ (points - camera.position[:, None])
    across = np.hypot(offset[0], offset[1])
    angle = np.arctan2(across, offset[2])
    scale = angle / half_field * (WIDTH / 2) / np.maximum(across, 1e-9)
    middle = np.array([[(WIDTH - 1) / 2], [(HEIGHT - 1) / 2]])
    return offset[:2] * scale + middle, length(offset)


def along(camera: Camera, rays: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Points float32 (3, N) at distances (N,) along rays (3, N) from the lens."""
    return camera.position[:, None] + distance * rays


def march(
    scene: Scene, camera: Camera, rays: np.ndarray, start: np.ndarray, exact: bool = False
) -> np.ndarray:
    """First distance float32 (N,) along rays (3, N) that lies in tissue, at most ``REACH``.

    ``start`` is where to begin, in the lumen. Steps grow with the distance. ``exact`` is that of
    :meth:`Scene.free`.
    """
    found = np.full(rays.shape[1], REACH, np.float32)
    active, reached = np.arange(rays.shape[1]), start.astype(np.float32)
    while active.size:
        free, _, _ = scene.free(along(camera, rays, reached), exact)
        inside = free <= 0
        found[active[inside]] = reached[inside]
        going = np.flatnonzero(~inside & (reached < REACH))
        if going.size < active.size:
            active, reached = active[going], reached[going]
            rays = np.ascontiguousarray(rays.take(going, axis=1))
        reached = reached + step_length(reached)
    return np.minimum(found, REACH)


def step_length(reached: np.ndarray) -> np.ndarray:
    """Step of :func:`march` after a distance, cm."""
    return 0.05 + 0.03 * reached


def trace(
    scene: Scene, camera: Camera, half_field: float, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance float32 (N,) of what the N pixels ``seen`` bool (HEIGHT, WIDTH) show; their rays.

    A coarse grid of rays goes first; full rays begin where none of their neighbours has hit yet.
    """
    coarse = np.tensordot(camera.axes.T, rays(half_field, COARSE), 1)
    begin = np.full(coarse[0].size, 0.05, np.float32)
    hit = march(scene, camera, coarse.reshape(3, -1), begin)
    hit = cv2.erode(hit.reshape(coarse.shape[1:]), np.ones((3, 3)))
    hit = np.repeat(np.repeat(hit, COARSE, axis=0), COARSE, axis=1)[:HEIGHT, :WIDTH][seen]
    full = camera.axes.T @ rays(half_field)[:, seen]
    begin = np.maximum(hit - 1.5 * step_length(hit), 0.05)
    far = np.empty_like(begin)
    close = begin < _CLOSE
    for part in (close, ~close):
        far[part] = march(scene, camera, full[:, part], begin[part], exact=part is close)
    near = np.maximum(far - step_length(far), 0.02)
    value_near = scene.free(along(camera, full, near), exact=True)[0]
    value_far = scene.free(along(camera, full, far), exact=True)[0]
    for _ in range(2):  # false position, halving the weight of the end that stays (Illinois)
        share = np.clip(value_near / np.maximum(value_near - value_far, 1e-6), 0.02, 0.98)
        middle = near + share * (far - near)
        value = scene.free(along(camera, full, middle), exact=True)[0]
        inside = value <= 0
        far, value_far = np.where(inside, middle, far), np.where(inside, value, value_far / 2)
        near = np.where(inside, near, middle)
        value_near = np.where(inside, value_near / 2, value)
    share = np.clip(value_near / np.maximum(value_near - value_far, 1e-6), 0, 1)
    return near + share * (far - near), full


def look(scene: Scene, camera: Camera, half_field: float, seen: np.ndarray) -> View:
    """Render the pixels ``seen``, bool (HEIGHT, WIDTH), of a scene; the others stay 0."""
    depth, directions = trace(scene, camera, half_field, seen)
    points = along(camera, directions, depth)
    _, wall, number = scene.free(points, exact=True)
    normal, film, place = scene.normals(points)
    colour = look_up(scene.wall.colour, place).T
    shade = np.ones(len(depth), np.float32)
    mask = np.zeros(len(depth), bool)
    for index, lump in enumerate(scene.lumps):
        own = np.flatnonzero(number == index)
        if own.size:
            _paint(lump, points, own, wall, normal, film, colour, shade)
            mask[own] = lump.polyp & (depth[own] < REACH)
    light, gloss = np.zeros((2, len(depth)), np.float32)
    for lamp in _LAMPS:
        source = camera.position + np.array([*lamp, 0], np.float32) @ camera.axes
        beam = source[:, None] - points
        far = length(beam)
        beam /= far
        lean = normal[0] * beam[0] + normal[1] * beam[1] + normal[2] * beam[2]
        # Light that enters tissue comes out beside it: edges of shade are soft.
        light += np.clip((lean + 0.55) / 1.55, 0.15, 1) / (far + 0.15) ** 2
        half = unit(beam - directions)
        glint = film[0] * half[0] + film[1] * half[1] + film[2] * half[2]
        gloss += np.clip(glint, 0, 1) ** 220
    lit = np.clip(1.2 - depth / REACH, 0, 1) ** 2
    bounced = 0.3 / (depth + 2.0) ** 2  # by the walls, hence redder
    bounced *= lit * (0.4 + 0.6 * shade)
    light *= lit * shade
    image = colour * (light + bounced * (scene.style.colour / 0.5)[:, None])
    wet = np.clip(gloss - 0.25, 0, None) * 3 * scene.style.wetness * shade

    def picture(values: np.ndarray) -> np.ndarray:
        whole = np.zeros((HEIGHT, WIDTH, *values.shape[1:]), values.dtype)
        whole[seen] = values
        return whole

    return View(picture(image.T), picture(wet * lit), picture(depth), picture(mask))


def _paint(
    lump: Lump,
    points: np.ndarray,
    own: np.ndarray,
    wall: np.ndarray,
    normal: np.ndarray,
    film: np.ndarray,
    colour: np.ndarray,
    shade: np.ndarray,
) -> None:
    """Give the pixels ``own`` of a lump its normals and colour, and its foot a shade."""
    mine = points[:, own]
    step = np.float32(0.015)
    centre = lump.distance(mine)
    ahead = [lump.distance(mine + step * axis[:, None]) for axis in np.eye(3, dtype=np.float32)]
    outward = unit(np.stack(ahead) - centre + np.float32(1e-9))
    pattern = lump.pattern(mine)
    normal[:, own] = outward
    film[:, own] = unit(outward + 0.12 * film[:, own] + 0.05 * pattern)
    # Tissue near the foot keeps the colour of the wall about it.
    share = np.clip(wall[own] / 0.18, 0, 1)
    mucosa = lump.colour[:, None] * np.exp(-lump.pits * pattern)
    colour[:, own] = (1 - share) * colour[:, own] + share * mucosa
    shade[own] = 0.8 + 0.2 * np.clip(wall[own] / 0.25, 0, 1)


def _join(first: np.ndarray, second: np.ndarray, width: float) -> np.ndarray:
    """Smooth minimum (polynomial)."""
    share = np.clip(0.5 + 0.5 * (second - first) / width, 0, 1)
    return second + (first - second) * share - width * share * (1 - share)
