"""A colonoscope's way through a colon, and where lumps stand on its wall."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from data_prep.phantoms import _mucosa
from data_prep.phantoms._colonoscopy import Bend, Camera, Lump, Scene, unit

CLEARANCE = 0.55  # cm between lens and tissue


def draw_bend(rng: np.random.Generator) -> Bend:
    """Draw a centre line."""
    rate = 2 * np.pi / rng.uniform(13, 28, 2)
    size = rng.uniform(0.5, 2.2, 2)
    phase = rng.uniform(0, 2 * np.pi, 2)
    return Bend(*(array.astype(np.float32) for array in (size, rate, phase)))


def wander(rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
    """Smooth random curve float64 (count,), about standard normal, ``scale`` frames long."""
    margin = int(4 * scale) + 1
    curve = gaussian_filter1d(rng.standard_normal(count + 2 * margin), scale)
    return curve[margin : margin + count] * np.sqrt(2 * scale * np.sqrt(np.pi))


def draw_cameras(
    scene: Scene, frames: int, rng: np.random.Generator, target: np.ndarray | None = None
) -> list[Camera]:
    """Draw a smooth way through the colon.

    Parameters
    ----------
    scene : Scene
    frames : int
        At 5 a second.
    rng : numpy.random.Generator
    target : numpy.ndarray, optional
        float32 (3,): what the endoscopist turns to, more or less.

    Returns
    -------
    list of Camera, none nearer to tissue than ``CLEARANCE`` if the lumen's middle is not.
    """
    share = np.linspace(-0.5, 0.5, frames)
    z = 1.2 + rng.uniform(-1.0, 1.4) * share + 0.35 * wander(rng, frames, 6)
    side = 0.4 * scene.style.radius * np.stack([wander(rng, frames, 10) for _ in "xy"])
    look = np.stack([1.8 * wander(rng, frames, 7) for _ in "xy"])
    shake = np.stack([0.07 * wander(rng, frames, 1.2) for _ in "xyz"])
    roll = rng.uniform(0, 2 * np.pi) + 0.25 * wander(rng, frames, 10)
    ahead = rng.uniform(3.5, 5.5)
    heed = np.clip(0.6 + 0.25 * wander(rng, frames, 8), 0.2, 0.9)
    centre = np.stack([*scene.bend.at(z), z])
    goal = np.stack([*scene.bend.at(z + ahead), z + ahead])
    goal[:2] += look
    positions = centre.copy()
    for keep in np.linspace(1, 0, 6):
        positions[:2] = centre[:2] + keep * side
        if scene.free(positions.astype(np.float32), exact=True)[0].min() > CLEARANCE:
            break
    forward = unit(goal - positions)
    if target is not None:
        forward = unit(forward + heed * (unit(target[:, None] - positions) - forward))
    return [
        camera(place, unit(way + jitter), angle)
        for place, way, jitter, angle in zip(positions.T, forward.T, shake.T, roll, strict=True)
    ]


def camera(position: np.ndarray, forward: np.ndarray, roll: float) -> Camera:
    """Camera that looks along ``forward`` (3,), turned about it by ``roll`` radians."""
    right = unit(np.cross([np.sin(roll), np.cos(roll), 0.0], forward))
    axes = np.stack([right, np.cross(forward, right), forward])
    return Camera(position.astype(np.float32), axes.astype(np.float32))


def draw_polyp(scene: Scene, angle: float, z: float, rng: np.random.Generator) -> Lump:
    """Draw a polyp at a place of the wall: flat, sessile or pedunculated."""
    kind = rng.choice(["flat", "sessile", "pedunculated"], p=[0.3, 0.5, 0.2])
    size = rng.uniform(0.3, 0.75)
    if kind == "flat":
        size = rng.uniform(0.5, 0.9)
        height, lift, stalk = rng.uniform(0.18, 0.28), 0.03, 0.0
    elif kind == "sessile":
        height, lift, stalk = size * rng.uniform(0.55, 0.9), size * rng.uniform(-0.05, 0.35), 0.0
    else:
        height = size * rng.uniform(0.8, 1.1)
        lift, stalk = size * rng.uniform(1.5, 2.1), size * rng.uniform(0.22, 0.4)
    return _lump(
        scene,
        angle,
        z,
        rng,
        radii=(size, size * rng.uniform(0.7, 1), height),
        lift=lift,
        lean=size * rng.uniform(-0.5, 0.5) if stalk else 0.0,
        stalk=stalk,
        lobes=rng.uniform(0.0, 0.07) * (0.5 if kind == "flat" else 1),
        pits=rng.uniform(0, 0.08) if rng.random() < 0.5 else rng.uniform(0.08, 0.2),
        colour=scene.style.colour * _mucosa.draw_factor(rng),
        polyp=True,
    )


def draw_residue(scene: Scene, angle: float, z: float, rng: np.random.Generator) -> Lump:
    """Draw a piece of stool on the wall: yellow, brown, or of a polyp's colour."""
    size = rng.uniform(0.1, 0.35)
    if rng.random() < 0.4:
        colour = scene.style.colour * _mucosa.draw_factor(rng) * np.float32(0.9)
    else:
        colour = rng.uniform([0.3, 0.2, 0.02], [0.7, 0.5, 0.12]).astype(np.float32)
    return _lump(
        scene,
        angle,
        z,
        rng,
        radii=(size, size * rng.uniform(0.4, 0.9), size * rng.uniform(0.25, 0.6)),
        lift=0.0,
        lean=0.0,
        stalk=0.0,
        lobes=rng.uniform(0.04, 0.1),
        pits=rng.uniform(0.2, 0.6),
        colour=colour,
        polyp=False,
    )


def _lump(
    scene: Scene, angle: float, z: float, rng: np.random.Generator, radii: tuple, **facts
) -> Lump:
    foot = scene.point(angle, z)
    normal = scene.normals(foot[:, None])[0][:, 0]
    turn = rng.uniform(0, 2 * np.pi)
    first = unit(np.cross(normal, [np.cos(turn), 0.3, np.sin(turn)]))
    axes = np.stack([first, np.cross(normal, first), normal]).astype(np.float32)
    rate = rng.uniform(5, 11, 3).astype(np.float32)
    return Lump(foot, axes, np.array(radii, np.float32), rate=rate, **facts)
