"""How the polyp detector learns: a sample of a stream, labels of edges, answers out of fold."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.candidates import _edges, forest
from data_prep.errors import UserError

S = TypeVar("S")
T = TypeVar("T")
FACING = 0.8  # least cosine between an inner normal and the mask's, within the tolerance
AVERSE = 0.3  # up to this cosine an edge at the boundary is certainly no inner normal
_QUANTA = 127.0


class Growth(Protocol):
    """The settings that forests need."""

    trees: int
    depth: int
    leaf: int
    samples: int


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """What is kept of a training frame.

    Attributes
    ----------
    edges : _edges.Edges
    features : numpy.ndarray
        int8 (n, ...): appearance across the edges, in 127ths.
    labels : numpy.ndarray
        int8 (2, n), of :func:`label`.
    shape : tuple of int
        Height and width of the working frame.
    packed : tuple of numpy.ndarray
        Mask and field, as bits.
    """

    edges: _edges.Edges
    features: NDArray[np.int8]
    labels: NDArray[np.int8]
    shape: tuple[int, int]
    packed: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    @classmethod
    def of(
        cls, frame: _edges.Frame, edges: _edges.Edges, features: NDArray, mask: NDArray[np.bool_],
        tolerance: float,
    ) -> "Lesson":  # fmt: skip
        """The lesson of a frame whose image is annotated with ``mask`` (H, W)."""
        mask = frame.crop(mask)
        return cls(
            edges,
            np.round(features * _QUANTA).astype(np.int8),
            label(mask, edges, tolerance),
            mask.shape,
            (np.packbits(mask), np.packbits(frame.field)),
        )

    def rows(self) -> NDArray[np.float32]:
        """Rows of the first stage, float32 (2, n, features)."""
        return both(self.features.astype(np.float32) / np.float32(_QUANTA))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool (h, w): polyps in the working frame."""
        return self._unpack(self.packed[0])

    @property
    def field(self) -> NDArray[np.bool_]:
        """bool (h, w): the visible field."""
        return self._unpack(self.packed[1])

    def _unpack(self, bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
        height, width = self.shape
        return np.unpackbits(bits, count=height * width).reshape(self.shape).astype(bool)


def label(mask: NDArray[np.bool_], edges: _edges.Edges, tolerance: float) -> NDArray[np.int8]:
    """Which normals point from a polyp's boundary to its inside.

    Parameters
    ----------
    mask : numpy.ndarray
        bool (h, w) in the working frame.
    edges : _edges.Edges
    tolerance : float
        In pixels.

    Returns
    -------
    numpy.ndarray
        int8 (2, n), for the normals and the opposite ones: 1 within the tolerance of the boundary
        if the normal faces the inside, 0 beyond twice the tolerance or if it does not, -1 between.
    """
    if not mask.any():
        return np.zeros((2, len(edges)), np.int8)
    signed = np.zeros(mask.shape, np.float32)
    for side, sign in ((mask, 1), (~mask, -1)):
        # Padded by repetition: the end of the frame is no boundary of a polyp that it cuts.
        wide = np.pad(side, 1, mode="edge").astype(np.uint8)
        signed += sign * cv2.distanceTransform(wide, cv2.DIST_L2, 5)[1:-1, 1:-1]
    smooth = cv2.GaussianBlur(signed, (0, 0), 2.0)
    x, y = edges.points.astype(np.int64).T
    slope = np.stack([cv2.Scharr(smooth, cv2.CV_32F, *d)[y, x] for d in ((1, 0), (0, 1))], axis=1)
    slope /= np.linalg.norm(slope, axis=1, keepdims=True) + 1e-6
    cosine = (slope * edges.normals).sum(axis=1)
    distance = np.abs(signed[y, x])
    labels = np.full((2, len(edges)), -1, np.int8)
    for row, facing in zip(labels, (cosine, -cosine), strict=True):
        row[(distance <= tolerance) & (facing > FACING)] = 1
        row[(distance > 2 * tolerance) | (facing < AVERSE)] = 0
    return labels


def both(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Appearance (n, strips, positions, 3) as rows (2, n, all): each normal and the opposite."""
    count = len(features)
    views = features, _edges.turned(features)
    return np.stack([view.reshape(count, -1) for view in views])


def answer(grown: forest.Forest, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities float32 (2, n) of rows (2, n, features)."""
    return grown.predict(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape[:2])


def sample(
    stream: Iterable[S], size: int, rng: np.random.Generator, keep: Callable[[S], T]
) -> list[T]:
    """A uniform sample of a stream of unknown length, in the stream's order.

    ``keep`` makes what is kept of an item; it is called only for items that enter the sample.
    """
    kept: list[tuple[int, T]] = []
    for number, item in enumerate(stream):
        if number < size:
            kept.append((number, keep(item)))
        elif (place := int(rng.integers(number + 1))) < size:
            kept[place] = (number, keep(item))
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]


def folds(videos: Sequence[str], positive: Sequence[bool], count: int) -> NDArray[np.int64]:
    """Fold of every frame; a video is in one fold, those with polyps are spread evenly.

    Raises
    ------
    UserError
        If fewer than two videos have polyps.
    """
    names = list(dict.fromkeys(videos))
    shown = {video for video, has in zip(videos, positive, strict=True) if has}
    if len(shown) < 2:
        raise UserError(
            f"The candidate detector learns from annotated polyps of two videos or more; the "
            f"training part has {len(shown)}: add videos with masks."
        )
    count = min(count, len(shown))
    ordered = [n for n in names if n in shown] + [n for n in names if n not in shown]
    place = {name: number % count for number, name in enumerate(ordered)}
    return np.array([place[video] for video in videos])


@dataclasses.dataclass(frozen=True)
class Stage:
    """Grows a forest, and forests for answers out of fold."""

    growth: Growth
    seed: int
    rng: np.random.Generator

    def learn(
        self, lessons: Sequence[Lesson], rows: Callable[[int], NDArray], fold: NDArray[np.int64]
    ) -> tuple[forest.Forest, list[NDArray[np.float32]]]:
        """The forest of all frames, and each frame's answers by one that did not see its video.

        Parameters
        ----------
        lessons : sequence of Lesson
        rows : callable
            Rows of frame i, float32 (2, n, features); called whenever they are needed, because all
            at once would fill the memory.
        fold : numpy.ndarray
            Of every frame.

        Returns
        -------
        forest : forest.Forest
        answers : list of numpy.ndarray
            float32 (2, n).
        """
        drawn = [self._draw(rows(i), x.labels, len(lessons)) for i, x in enumerate(lessons)]
        answers: list[NDArray[np.float32]] = [np.zeros((2, 0), np.float32)] * len(lessons)
        for number in np.unique(fold):
            grown = self._grow([drawn[i] for i in np.flatnonzero(fold != number)])
            for i in np.flatnonzero(fold == number):
                answers[i] = answer(grown, rows(i))
        return self._grow(drawn), answers

    def _draw(self, rows: NDArray, labels: NDArray, frames: int) -> tuple[NDArray, NDArray]:
        """A frame's share of the samples: as many inner normals as others, if it has them."""
        share = self.growth.samples // (2 * frames) + 1
        known = labels.ravel()
        chosen = np.concatenate(
            [self.rng.permutation(np.flatnonzero(known == kind))[:share] for kind in (0, 1)]
        )
        return rows.reshape(-1, rows.shape[-1])[chosen], known[chosen] == 1

    def _grow(self, drawn: Sequence[tuple[NDArray, NDArray]]) -> forest.Forest:
        growth = self.growth
        return forest.train(
            np.concatenate([rows for rows, _ in drawn]),
            np.concatenate([positive for _, positive in drawn]),
            trees=growth.trees,
            depth=growth.depth,
            leaf=growth.leaf,
            seed=self.seed,
        )
