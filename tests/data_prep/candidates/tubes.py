"""Vessels of known course for tests."""

import numpy as np
from scipy import ndimage

from data_prep.candidates.embolus import Candidate

LUNG, BLOOD, CLOT = -850.0, 400.0, 50.0


def tube(spacing, radius, direction, bend=None, clot=0.6, seed=0, side_mm=40.0, noise=20.0):
    """A tube through a cube of lung, with a round clot in its middle.

    Parameters
    ----------
    spacing : sequence of float
        mm, z, y, x; every voxel is the mean over its volume, along z in particular.
    radius : float
        mm.
    direction : sequence of float
        Unit vector z, y, x in mm: tangent in the middle.
    bend : float, optional
        Radius of curvature in mm. Default: straight.
    clot : float
        Radius of the clot as a share of the tube's.
    seed, noise
        Of the noise, and its standard deviation in HU.

    Returns
    -------
    volume : int16 array
    candidate : Candidate
        The clot.
    """
    spacing, direction = np.asarray(spacing, float), np.asarray(direction, float)
    rng = np.random.default_rng(seed)
    aside = np.cross(direction, np.roll(np.abs(direction), 1) + (0.1, 0.2, 0.3))
    aside /= np.linalg.norm(aside)
    shape = np.round(side_mm / spacing).astype(int)
    fine = np.maximum(1, np.round(spacing / 0.6)).astype(int)
    step = spacing / fine
    axes = [
        (np.arange(n * f) - (n * f - 1) / 2) * s for n, f, s in zip(shape, fine, step, strict=True)
    ]
    # An odd half-voxel places the middle off the grid, as in life.
    middle = rng.uniform(-0.5, 0.5, 3) * spacing
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - middle
    if bend is None:
        along = points @ direction
        distance = np.linalg.norm(points - along[..., None] * direction, axis=-1)
    else:
        turn = np.hypot(points @ direction, points @ aside - bend)
        distance = np.hypot(turn - bend, points @ np.cross(direction, aside))
    vessel = np.clip(0.5 + (radius - distance) / 0.6, 0, 1)
    ball = np.clip(0.5 + (clot * radius - np.linalg.norm(points, axis=-1)) / 0.6, 0, 1)
    hu = LUNG + vessel * (BLOOD - LUNG) + np.minimum(ball, vessel) * (CLOT - BLOOD)
    blocks = [size for pair in zip(shape, fine, strict=True) for size in pair]
    hu, ball = (each.reshape(blocks).mean(axis=(1, 3, 5)) for each in (hu, ball))
    hu = ndimage.gaussian_filter(hu, 0.4 / spacing) + rng.normal(0, noise, hu.shape)
    voxels = np.argwhere(ball > 0.5)
    centre = tuple(int(each) for each in np.rint((shape - 1) / 2 + middle / spacing))
    if not voxels.size:
        voxels = np.array([centre])
    volume = np.round(hu).astype(np.int16)
    size = len(voxels) * float(np.prod(spacing))
    return volume, Candidate(centre, voxels, size, CLOT, 0.8, 150.0, 10.0)


def directions(count, seed=0):
    """Unit vectors, uniform over the sphere."""
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def angle(first, second):
    """Degrees between two lines."""
    return np.degrees(np.arccos(min(1.0, abs(float(np.dot(first, second))))))
