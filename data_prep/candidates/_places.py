"""From a frame's edges to its candidates: voters, surface, and what is measured at a place."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.candidates import _band, _edges, _training, _verify, _voting

FARTHEST = 0.45  # of a boundary from its candidate, as a share of the working frame's side


class Rules(Protocol):
    """The settings that places need; see :class:`data_prep.candidates.polyp.Settings`."""

    side: int
    spacing: int
    threshold: float
    retained: float
    sigmas: tuple[float, ...]
    groups: int
    step: int
    radius: float
    drop: float
    band: float
    top_k: int


@dataclasses.dataclass(frozen=True, eq=False)
class Voters:
    """Edges of polyps with their inner normals, float32 (n, 2), and their probability (n,)."""

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, edges: _edges.Edges, first: NDArray, second: NDArray, settings: Rules) -> "Voters":
        """Edges whose better normal, by both stages' answers (2, n), passes the threshold."""
        answers = (first + second) / 2
        best = answers.max(axis=0)
        kept = best > settings.threshold
        signs = np.where(answers[0] >= answers[1], 1, -1).astype(np.float32)[:, None]
        return cls(edges.points[kept], (edges.normals * signs)[kept], best[kept])

    def votes(self, shape: tuple[int, int], settings: Rules) -> NDArray[np.float32]:
        """Products of the groups' votes, float32 (ranges, rows, columns)."""
        s = settings
        return _voting.combine(
            _voting.accumulate(
                self.points, self.normals, self.weights**2, shape, s.step, s.sigmas, s.groups
            )
        )

    def surface(
        self, shape: tuple[int, int], scales: NDArray, settings: Rules
    ) -> NDArray[np.float32]:
        """Mean over ranges of the votes in units of their usual maxima, (rows, columns)."""
        votes = self.votes(shape, settings)
        return (votes / scales[:, None, None]).mean(axis=0).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A cell of the surface and what is found round it.

    Attributes
    ----------
    centre : numpy.ndarray
        x, y in the working frame.
    outline : numpy.ndarray
        float64 (36, 2): points of the boundary in the working frame.
    vote, band : float
    evidence : numpy.ndarray
        float64, of :func:`_verify.evidence`.
    """

    centre: NDArray[np.float64]
    outline: NDArray[np.float64]
    vote: float
    band: float
    evidence: NDArray[np.float64]


def measure(
    voters: Voters,
    surface: NDArray[np.float32],
    cell: NDArray[np.int64],
    regression: _band.Regression,
    settings: Rules,
) -> Measured:
    """The outline round a cell, its band and the evidence."""
    s = settings
    centre = (cell + 0.5) * s.step - 0.5
    middle = regression.distances(_reach(surface, centre, s))
    factor = float(np.exp(s.band * regression.sd))
    sure = voters.weights > s.retained
    band = _band.probability(
        voters.points[sure],
        voters.normals[sure],
        centre,
        middle / factor,
        middle * factor,
        s.spacing,
    )
    radii = _verify.outline(
        voters.points, voters.normals, voters.weights, centre, middle, regression.sd,
        FARTHEST * s.side,
    )  # fmt: skip
    vote = float(surface[cell[1], cell[0]])
    evidence = _verify.evidence(vote, float(surface.max()), band)
    return Measured(centre, _verify.corners(centre, radii), vote, band, evidence)


def _reach(surface: NDArray, centre: NDArray, settings: Rules) -> NDArray[np.float64]:
    limit = FARTHEST * settings.side
    return _band.reach(surface, centre, settings.drop, settings.step, limit)


def pick(
    surface: NDArray[np.float32], field: NDArray[np.bool_], settings: Rules
) -> NDArray[np.int64]:
    """Cells of the candidates, int64 (m, 2)."""
    size = surface.shape[::-1]
    seen = cv2.resize(field.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return _voting.maxima(surface, seen, settings.radius / settings.step, settings.top_k)


def learn(
    lessons: Sequence[_training.Lesson],
    voters: Sequence[Voters],
    surfaces: Sequence[NDArray],
    settings: Rules,
) -> tuple[_band.Regression, _verify.Judge]:
    """Regression from the first candidate in every polyp, judge from all candidates.

    Raises
    ------
    ValueError
        If no candidate lies in a polyp, or every one does.
    """
    s = settings
    reaches, distances, places, positive = [], [], [], []
    for number, (lesson, surface) in enumerate(zip(lessons, surfaces, strict=True)):
        mask, field = lesson.mask, lesson.field
        cells = pick(surface, field, s)
        centres = (cells + 0.5) * s.step - 0.5
        count, parts = cv2.connectedComponents(mask.astype(np.uint8))
        x, y = np.minimum(np.round(centres).astype(np.int64), np.array(mask.shape[::-1]) - 1).T
        hit = parts[y, x]
        places += [(number, cell) for cell in cells]
        positive += list(hit > 0)
        for part in range(1, count):
            for centre in centres[np.flatnonzero(hit == part)[:1]]:
                reaches.append(_reach(surface, centre, s))
                limit = FARTHEST * s.side
                distances.append(_band.boundary(parts == part, field, centre, limit))
    regression = _band.fit(reaches, distances)
    rows = [
        measure(voters[number], surfaces[number], cell, regression, s).evidence
        for number, cell in places
    ]
    return regression, _verify.learn(np.array(rows), np.array(positive))
