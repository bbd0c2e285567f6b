"""What the edges round an edge say of it: the second stage's view of the first stage's answers."""

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.candidates._edges import Edges


def describe(
    edges: Edges, answers: NDArray[np.float32], shape: tuple[int, int], *,
    window: float, cells: int, ahead: float, step: int,
) -> NDArray[np.float32]:  # fmt: skip
    """Answers of a first classifier in an oriented window round every edge.

    Each cell of the window holds how strongly the edges in it point along the edge's own inner
    normal and along its tangent, how likely they are a polyp's, and how many they are.

    Parameters
    ----------
    edges : Edges
        n of them.
    answers : numpy.ndarray
        float32 (2, n): probability of a polyp's edge whose inner normal is the edge's normal, and
        the opposite one.
    shape : tuple of int
        Height and width of the working frame.
    window : float
        Side in pixels.
    cells : int
        Per side of the window.
    ahead : float
        Pixels by which the window's centre lies before the edge, along the normal.
    step : int
        Pixels a cell of the maps that are sampled.

    Returns
    -------
    numpy.ndarray
        float32 (2, n, 4 * cells**2 + 2): for the normal and for the opposite one; the last two
        columns are the edge's own answers, for this normal and the other.
    """
    if not len(edges):
        return np.zeros((2, 0, 4 * cells**2 + 2), np.float32)
    rows, columns = -(-shape[0] // step), -(-shape[1] // step)
    x, y = (edges.points // step).astype(np.int64).T
    signed = (answers[0] - answers[1])[:, None] * edges.normals
    layers = (signed[:, 0], signed[:, 1], answers.max(axis=0), np.ones(len(x)))
    maps = np.stack(
        [np.bincount(y * columns + x, layer, minlength=rows * columns) for layer in layers], axis=1
    )
    maps = maps.reshape(rows, columns, len(layers)).astype(np.float32)
    sigma = window / cells / 2 / step
    maps = cv2.GaussianBlur(maps, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    offsets = ((np.arange(cells) + 0.5) / cells - 0.5) * window
    along, beside = np.tile(offsets + ahead, cells), np.repeat(offsets, cells)
    views = []
    for normal, own in ((edges.normals, answers), (-edges.normals, answers[::-1])):
        tangent = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
        places = edges.points[:, None] + (
            normal[:, None] * along[None, :, None] + tangent[:, None] * beside[None, :, None]
        )
        places = ((places + 0.5) / step - 0.5).astype(np.float32)
        seen = cv2.remap(maps, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        pointing = [
            seen[..., 0] * axis[:, None, 0] + seen[..., 1] * axis[:, None, 1]
            for axis in (normal, tangent)
        ]
        views.append(np.concatenate([*pointing, seen[..., 2], seen[..., 3], own.T], axis=1))
    return np.stack(views).astype(np.float32)
