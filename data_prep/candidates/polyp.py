"""Polyp candidates by shape and context.

The detector of Tajbakhsh, Gurudu, Liang, "Automated polyp detection in colonoscopy videos using
shape and context information", IEEE TMI 2015, which is also the candidate generator of Tajbakhsh
et al. 2016, section IV-A: edges are classified by the appearance across them, then by the answers
round them; those of polyps vote for the inside; where votes of several orientations meet, a band
in which the boundary is expected is searched for edges.

Two things differ. The published score, the share of diameters with an edge in the band, is kept
as :attr:`Candidate.band`; :attr:`Candidate.score` is a logistic regression on it and on the votes,
which ranks better. And the box is the extent of the strongest edges round the candidate, with the
band's middle as expectation, because how far votes reach says little of a polyp's size.
"""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.candidates import _band, _context, _edges, _places, _training, _verify, _voting
from data_prep.candidates.forest import Forest
from data_prep.errors import UserError

FILE = "candidates.npz"  # name of a kept detector, beside the records and in a run
_FORMAT = "polyp candidates 2"
_LARGEST = 512 << 20  # bytes of its arrays, unpacked
#: What a damaged file of arrays raises; a zip file of another version is a RuntimeError.
_DAMAGED = (
    OSError, KeyError, TypeError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """How edges, votes and candidates are found. Lengths are pixels of the working frame.

    Attributes
    ----------
    side : int
        Geometric mean of the sides of the visible field after scaling.
    low, high : float
        Thresholds of Canny's detector, in units of the mean gradient within about 30 pixels.
    orientation_sigma : float
        Of the structure tensor from which an edge's normal comes.
    spacing : int
        One edge pixel is kept of each square of so many pixels.
    patch, across, strips : int
        Side of an edge's patch; samples along the edge; strips in which they are averaged.
    noise : float
        Grey levels below which the contrast of a sub-patch counts little.
    context, context_ahead : float
    context_cells : int
        Side of the second stage's window, its shift along the normal, its cells per side.
    tolerance : float
        An edge so near to an annotated boundary is the polyp's.
    trees, depth, leaf : int
        Of both forests: trees, their greatest depth, fewest rows of a leaf.
    samples : int
        Edges from which a forest learns, about half of them a polyp's.
    folds : int
        The second stage learns from answers of first stages that did not see the video.
    max_frames : int
        Frames kept of the training stream, a uniform sample (about 0.7 MB each).
    threshold : float
        Edges this likely to be a polyp's vote; the probability is the mean of both stages.
    retained : float
        Edges this likely count in a band.
    sigmas : tuple of float
        Ranges of a vote; the surface is the mean over ranges.
    groups : int
        Orientation groups whose votes are multiplied.
    step : int
        Side of a cell of the surface.
    radius : float
        Of the suppression round a candidate.
    drop : float
        The votes' reach is where they fall to this share.
    band : float
        Half width of the band in standard deviations.
    top_k : int
        Candidates a frame, at most.
    """

    side: int = 256
    low: float = 0.6
    high: float = 1.2
    orientation_sigma: float = 2.0
    spacing: int = 3
    patch: int = 64
    across: int = 32
    strips: int = 7
    noise: float = 25.0
    context: float = 96.0
    context_ahead: float = 24.0
    context_cells: int = 6
    tolerance: float = 5.0
    trees: int = 50
    depth: int = 12
    leaf: int = 10
    samples: int = 20_000
    folds: int = 3
    max_frames: int = 600
    threshold: float = 0.4
    retained: float = 0.6
    sigmas: tuple[float, ...] = (10.0, 20.0, 40.0)
    groups: int = 4
    step: int = 4
    radius: float = 20.0
    drop: float = 0.5
    band: float = 0.7
    top_k: int = 10

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"The number of candidates a frame must be positive: {self.top_k}.")
        if self.groups < 2 or _voting.DIRECTIONS // 2 % self.groups:
            raise UserError(f"The orientation groups must be 2, 4, 8 or 16: {self.groups}.")
        if self.across % (self.strips + 1):
            raise UserError(
                f"The samples along an edge must be a multiple of the strips and one: "
                f"{self.across} and {self.strips}."
            )
        if self.folds < 2 or self.max_frames < 2:
            raise UserError("The detector learns from two folds and two frames or more.")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A place that may be a polyp.

    Attributes
    ----------
    x, y : float
        In pixels of the image; the centre of the first pixel is (0, 0).
    score : float
        Probability by shape, 0 to 1: see :meth:`Detector.detect`.
    box : tuple of float
        x, y of the top left corner, width, height: extent of the outline, inside the image.
    vote : float
        Height of the surface, in units of the usual maximum of a training frame.
    band : float
        Share of the 180 diameters through the candidate that meet an edge in its band.
    """

    x: float
    y: float
    score: float
    box: tuple[float, float, float, float]
    vote: float
    band: float


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A trained detector.

    Attributes
    ----------
    settings : Settings
    appearance, context : Forest
        The two stages.
    scales : numpy.ndarray
        float64 (len(settings.sigmas),): usual maxima of the votes of each range.
    regression : _band.Regression
        Of the boundary's distance.
    judge : _verify.Judge
        Of the score.
    learnt : tuple of str
        Hashes of the cases that it has learnt from, where its maker knows them.
    """

    settings: Settings
    appearance: Forest
    context: Forest
    scales: NDArray[np.float64]
    regression: _band.Regression
    judge: _verify.Judge
    learnt: tuple[str, ...] = ()

    def detect(self, image: NDArray[np.uint8]) -> list[Candidate]:
        """Candidates of one image.

        Parameters
        ----------
        image : numpy.ndarray
            uint8 RGB (H, W, 3).

        Returns
        -------
        list of Candidate
            At most ``top_k``, in the order in which the votes gave them.

        Raises
        ------
        ValueError
            If the image is not RGB of uint8.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"Need uint8 (H, W, 3). Received: {image.dtype} {image.shape}.")
        frame, edges, features = observe(image, self.settings)
        if not len(edges):
            return []
        shape = frame.field.shape
        first = _training.answer(self.appearance, _training.both(features))
        views = context_views(edges, first, shape, self.settings)
        second = _training.answer(self.context, views)
        voters = _places.Voters.of(edges, first, second, self.settings)
        surface = voters.surface(shape, self.scales, self.settings)
        return [
            self._candidate(
                image, frame, _places.measure(voters, surface, cell, self.regression, self.settings)
            )
            for cell in _places.pick(surface, frame.field, self.settings)
        ]

    def _candidate(self, image: NDArray, frame: _edges.Frame, found: _places.Measured) -> Candidate:
        limit = np.array(image.shape[1::-1]) - 1.0
        outline = np.clip(frame.to_image(found.outline), 0, limit)
        x, y = np.clip(frame.to_image(found.centre), 0, limit)
        corner, extent = outline.min(axis=0), np.maximum(np.ptp(outline, axis=0), 1)
        box = tuple(float(v) for v in (*corner, *extent))
        score = float(self.judge.probability(found.evidence))
        return Candidate(float(x), float(y), score, box, found.vote, found.band)

    def save(self, path: str | pathlib.Path) -> None:
        """Write one .npz file without pickle; the same detector gives the same bytes."""
        arrays = {
            "format": np.array(_FORMAT),
            "settings": np.array(json.dumps(dataclasses.asdict(self.settings), sort_keys=True)),
            "scales": self.scales,
            "regression": np.array(dataclasses.astuple(self.regression)),
            "judge": np.append(self.judge.weights, self.judge.intercept),
            "learnt": np.array(self.learnt, dtype=np.str_),
            **self.appearance.arrays("appearance_"),
            **self.context.arrays("context_"),
        }
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)


def load(path: str | pathlib.Path) -> Detector:
    """Read what :meth:`Detector.save` wrote.

    Raises
    ------
    UserError
        If the file is absent or is not such a detector.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST:
                raise ValueError("it unpacks to more than any detector")
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["format"]) != _FORMAT:
                raise ValueError(f"format {kept['format']}")
            settings = json.loads(str(kept["settings"]))
            settings["sigmas"] = tuple(settings["sigmas"])
            return Detector(
                Settings(**settings),
                Forest.of(kept, "appearance_"),
                Forest.of(kept, "context_"),
                kept["scales"],
                _band.Regression(*map(float, kept["regression"])),
                _verify.Judge(kept["judge"][:-1], float(kept["judge"][-1])),
                tuple(kept["learnt"].tolist()),
            )
    except _DAMAGED as error:
        raise UserError(
            f"{path} cannot be read as a polyp detector ({error}): prepare the data again."
        ) from error


def observe(
    image: NDArray[np.uint8], settings: Settings
) -> tuple[_edges.Frame, _edges.Edges, NDArray[np.float32]]:
    """The working frame of an image, its edges, and the appearance across each of them."""
    s = settings
    frame = _edges.working_frame(image, s.side)
    edges = _edges.find(frame, s.low, s.high, s.orientation_sigma, s.spacing)
    grey = cv2.cvtColor(frame.channels, cv2.COLOR_RGB2GRAY)
    found = _edges.patches(grey, edges, s.patch, s.across)
    return frame, edges, _edges.describe(found, s.strips, s.noise)


def context_views(
    edges: _edges.Edges, answers: NDArray, shape: tuple[int, int], settings: Settings
) -> NDArray[np.float32]:
    """Rows of the second stage, float32 (2, n, features)."""
    s = settings
    return _context.describe(
        edges, answers, shape, window=s.context, cells=s.context_cells,
        ahead=s.context_ahead, step=s.step,
    )  # fmt: skip


def fit(
    frames: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_], str]],
    settings: Settings | None = None,
    seed: int = 0,
) -> Detector:
    """Train a detector.

    Parameters
    ----------
    frames : iterable of (image, mask, video)
        uint8 RGB (H, W, 3); bool (H, W); any hashable name. Read once; what is learnt from is kept,
        the frames are not. Frames without a polyp give edges that are not a polyp's.
    settings : Settings, optional
    seed : int
        Of all sampling and of the forests; the same frames in the same order give the same bytes.

    Raises
    ------
    UserError
        If fewer than two videos show a polyp.
    """
    settings = settings or Settings()
    rng = np.random.default_rng(seed)

    def keep(frame: tuple[NDArray, NDArray, str]) -> tuple[str, _training.Lesson]:
        image, mask, video = frame
        found = observe(image, settings)
        return video, _training.Lesson.of(*found, mask, settings.tolerance)

    kept = _training.sample(frames, settings.max_frames, rng, keep)
    videos = [video for video, _ in kept]
    lessons = [lesson for _, lesson in kept]
    folds = _training.folds(videos, [bool((x.labels == 1).any()) for x in lessons], settings.folds)
    stage = _training.Stage(settings, seed, rng)
    appearance, first = stage.learn(lessons, lambda i: lessons[i].rows(), folds)

    def views(i: int) -> NDArray[np.float32]:
        return context_views(lessons[i].edges, first[i], lessons[i].shape, settings)

    context, second = stage.learn(lessons, views, folds)
    voters = [
        _places.Voters.of(lesson.edges, *both, settings)
        for lesson, *both in zip(lessons, first, second, strict=True)
    ]
    votes = [v.votes(x.shape, settings) for v, x in zip(voters, lessons, strict=True)]
    scales = np.mean([v.max(axis=(1, 2)) for v in votes], axis=0, dtype=np.float64)
    scales = np.maximum(scales, np.finfo(np.float32).eps)
    surfaces = [(v / scales[:, None, None]).mean(axis=0).astype(np.float32) for v in votes]
    try:
        regression, judge = _places.learn(lessons, voters, surfaces, settings)
    except ValueError:
        raise UserError(
            "Candidates of the training videos hit no polyp, or nothing else, so the detector "
            "cannot learn to tell them apart: check that masks and frames belong together."
        ) from None
    return Detector(settings, appearance, context, scales, regression, judge)
