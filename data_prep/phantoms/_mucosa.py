"""Maps of a colon's inner wall: radius, colour, wet gloss. Rows run along the colon, columns round.

Lengths in cm. Column 0 follows the last column. Folds are the semilunar ones between haustra:
crescents or rings of two to four centimetres' distance that hide what lies behind them.
"""

import dataclasses

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

ROWS, COLUMNS = 1440, 720
START, PER_CM = -3.0, 60.0  # position of row 0 along the colon, rows per cm
LENGTH = ROWS / PER_CM


@dataclasses.dataclass(frozen=True)
class Style:
    """What the videos of one colon share.

    Attributes
    ----------
    radius : float
        Mean radius in cm.
    fold_height, fold_gap : float
        In cm.
    colour : numpy.ndarray
        float32 (3,), linear RGB reflectance of the mucosa.
    vessels, mottling, bumps, wetness : float
        Contrast of the vessels, of blotches, of small relief, and share of the wall that glints.
    patches : int
        Flat red or pale spots: the colour of polyps without their shape.
    """

    radius: float
    fold_height: float
    fold_gap: float
    colour: np.ndarray
    vessels: float
    mottling: float
    bumps: float
    wetness: float
    patches: int


@dataclasses.dataclass(frozen=True)
class Wall:
    """Maps of one wall.

    Attributes
    ----------
    radius : numpy.ndarray
        float32 (ROWS, COLUMNS), cm.
    relief : numpy.ndarray
        float32 (ROWS, COLUMNS, 4): derivative of the radius round (cm per radian) and along (cm
        per cm), and the tilt in the same directions of the film of mucus, which only gloss sees.
    colour : numpy.ndarray
        float32 (ROWS, COLUMNS, 3), linear reflectance.
    """

    radius: np.ndarray
    relief: np.ndarray
    colour: np.ndarray


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a colon."""
    colour = np.array([0.66, 0.27, 0.17]) * rng.uniform(0.85, 1.1)
    # From pale orange to deep pink: both the mucosa and the white balance of the processor.
    yellow = rng.uniform(0.78, 1.25)
    colour *= [1, yellow, yellow * rng.uniform(0.7, 1.2)]
    return Style(
        radius=rng.uniform(2.1, 2.7),
        fold_height=rng.uniform(0.7, 1.25),
        fold_gap=rng.uniform(2.0, 3.6),
        colour=colour.astype(np.float32),
        vessels=rng.uniform(0.0, 0.3) if rng.random() < 0.4 else rng.uniform(0.5, 1.1),
        mottling=rng.uniform(0.03, 0.09),
        bumps=rng.uniform(0.008, 0.025),
        wetness=rng.uniform(0.3, 1.0),
        patches=int(rng.integers(4, 12)),
    )


def draw_wall(style: Style, rng: np.random.Generator) -> Wall:
    """Draw a wall of a style."""
    radius = _radius(style, rng)
    tilt = _slopes(0.012 * field(rng, 0.22) + 0.004 * field(rng, 0.07), style.radius)
    relief = np.concatenate([_slopes(radius, style.radius), tilt], axis=2)
    return Wall(radius, relief, _colour(style, rng))


def draw_factor(rng: np.random.Generator) -> np.ndarray:
    """Colour of a polyp, or of a flat spot, as multiple of the mucosa's: float32 (3,).

    Often about the mucosa's own; else redder or paler.
    """
    kind = rng.random()
    if kind < 0.5:
        return rng.uniform(0.93, 1.08, 3).astype(np.float32)
    if kind < 0.8:
        red = rng.uniform(0.6, 0.85)
        return np.array([rng.uniform(0.9, 1.05), red, red * rng.uniform(0.9, 1.1)], np.float32)
    pale = rng.uniform(1.1, 1.35)
    return np.array([rng.uniform(1.0, 1.1), pale, pale * rng.uniform(0.95, 1.15)], np.float32)


def field(rng: np.random.Generator, size: float) -> np.ndarray:
    """Smooth random map float32 (ROWS, COLUMNS), closed round the colon, standard deviation 1.

    ``size`` is the distance in cm of the random values that are interpolated.
    """
    rows = max(int(LENGTH / size), 4)
    columns = max(int(COLUMNS * 0.021 / size), 4)
    grid = rng.standard_normal((rows, columns), np.float32)
    grid = np.concatenate([grid[:, -2:], grid, grid[:, :2]], axis=1)
    scale = COLUMNS / columns
    wide = cv2.resize(grid, (round(grid.shape[1] * scale), ROWS), interpolation=cv2.INTER_CUBIC)
    start = round(2 * scale)
    wide = wide[:, start : start + COLUMNS]
    return wide / wide.std()


def _radius(style: Style, rng: np.random.Generator) -> np.ndarray:
    """Radius map: haustra, folds with their knuckles, small relief."""
    along = START + (np.arange(ROWS, dtype=np.float32)[:, None] + 0.5) / PER_CM
    round_ = np.linspace(0, 2 * np.pi, COLUMNS, endpoint=False, dtype=np.float32)
    radius = style.radius + 0.12 * field(rng, 3) + 0.05 * field(rng, 1)
    knuckles = 1 + 0.13 * field(rng, 1.3)
    place, phase = START + rng.uniform(0, 2), rng.uniform(0, 2 * np.pi)
    while place < START + LENGTH:
        centre = phase + 2.1 * int(rng.integers(3)) + rng.uniform(-0.4, 0.4)
        turn = np.cos(round_ - centre)
        if rng.random() < 0.3:  # a ring, highest between the three bands of muscle
            profile = 0.65 + 0.35 * np.cos(3 * (round_ - phase))
        else:
            edge = rng.uniform(-0.5, 0.6)
            profile = 1 / (1 + np.exp(-(turn - edge) / rng.uniform(0.12, 0.3)))
        height = style.fold_height * rng.uniform(0.55, 1.15) * profile
        wave = 0.2 * np.cos(round_ - rng.uniform(0, 6)) + 0.1 * np.cos(2 * round_ - place)
        offset = np.abs(along - (place + wave)) / rng.uniform(0.3, 0.55)
        radius = radius - height * knuckles * np.exp(-(offset**2))
        place += style.fold_gap * rng.uniform(0.6, 1.3)
    radius = np.maximum(radius, 0.42 * style.radius)
    return radius + style.bumps * (field(rng, 0.3) + 0.3 * field(rng, 0.12))


def _slopes(heights: np.ndarray, radius: float) -> np.ndarray:
    """Derivatives round (per radian) and along (per cm) of a map: float32 (ROWS, COLUMNS, 2)."""
    around = np.roll(heights, -1, axis=1) - np.roll(heights, 1, axis=1)
    around *= COLUMNS / (4 * np.pi)
    return np.stack([around, np.gradient(heights, 1 / PER_CM, axis=0)], axis=2)


def _colour(style: Style, rng: np.random.Generator) -> np.ndarray:
    # Blotches move red least: blood takes green and blue.
    blotches = style.mottling * (field(rng, 1.2) + 0.6 * field(rng, 0.3) + 0.5 * field(rng, 0.06))
    blood = style.vessels * vessels(rng)
    extinction = (blotches + blood)[..., None] * np.array([0.3, 1.0, 0.85], np.float32)
    colour = style.colour * np.exp(-extinction)
    for _ in range(style.patches):
        row, column = rng.uniform(0.1, 0.7) * ROWS, rng.uniform(0, COLUMNS)
        size = rng.uniform(0.2, 0.7) * PER_CM
        down = np.arange(ROWS, dtype=np.float32)[:, None] - row
        across = (np.arange(COLUMNS, dtype=np.float32) - column + COLUMNS / 2) % COLUMNS
        across -= COLUMNS / 2
        top, bottom = int(max(row - 2 * size, 0)), int(min(row + 2 * size, ROWS))
        angle = np.arctan2(down[top:bottom], across)
        reach = 1 + 0.25 * np.sin(2 * angle + row) + 0.15 * np.sin(3 * angle + column)
        distance = np.hypot(down[top:bottom], across) / (size * reach)
        share = 0.5 - 0.5 * np.tanh((distance - 1) / rng.uniform(0.1, 0.5))
        colour[top:bottom] *= 1 + share[..., None] * (draw_factor(rng) - 1)
    return colour


def vessels(rng: np.random.Generator, trees: int = 110) -> np.ndarray:
    """Branching vessels that thin out, float32 (ROWS, COLUMNS), 0 to about 1."""
    margin = COLUMNS // 2
    canvas = np.zeros((ROWS, COLUMNS + 2 * margin), np.uint8)
    stems = [
        (rng.uniform(0, COLUMNS), rng.uniform(0, ROWS), rng.uniform(0, 2 * np.pi), level)
        for level in rng.choice([3, 4, 5], trees, p=[0.45, 0.4, 0.15])
    ]
    while stems:
        x, y, heading, level = stems.pop()
        steps = int(rng.integers(8, 14)) * (3 if level > 2 else 2)
        bends = heading + np.cumsum(rng.normal(0, 0.16, steps))
        path = np.stack([x + 4 * np.cumsum(np.cos(bends)), y + 4 * np.cumsum(np.sin(bends))], 1)
        path -= [COLUMNS * np.floor(x / COLUMNS) - margin, 0]
        points = np.rint(path * 16).astype(np.int32)
        width, strength = ((1, 90), (1, 130), (2, 150), (3, 190), (5, 220))[level - 1]
        cv2.polylines(canvas, [points], False, strength, width, cv2.LINE_AA, shift=4)
        if level > 1:
            for share in rng.uniform(0.2, 1, int(rng.integers(2, 4))):
                index = int(share * (steps - 1))
                side = rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
                x, y = path[index] - [margin, 0]
                stems.append((x, y, bends[index] + side, level - 1))
    drawn = canvas[:, margin:-margin].copy()
    drawn[:, :margin] = np.maximum(drawn[:, :margin], canvas[:, -margin:])
    drawn[:, -margin:] = np.maximum(drawn[:, -margin:], canvas[:, :margin])
    depth = np.clip(0.75 + 0.35 * field(rng, 2), 0.1, 1.2)  # some run deeper and show less
    return gaussian_filter(drawn.astype(np.float32) / 255, 0.8, mode=("nearest", "wrap")) * depth
