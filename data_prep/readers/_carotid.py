"""What every carotid source becomes: one image, its calibration, and two drawn interfaces.

A kind of source is a module beside this one with ``KIND = "carotid"`` and two functions::

    detect(root, options) -> list[Source]    cheap: file names, manifests, headers
    read(source) -> CarotidStudy             one study, whole; raises Unusable with the reason

Coordinates are pixel centres counted from 0: x to the right, y downwards. The wall is the far wall,
so the media-adventitia interface lies below the lumen-intima interface.
"""

import dataclasses
import importlib
import pathlib
from typing import Any

import numpy as np

from data_prep.errors import UserError
from data_prep.readers import tables
from data_prep.readers._images import Unusable
from data_prep.readers._paths import inside
from data_prep.runner import Study

MM_PER_PIXEL = (0.005, 0.5)  # outside: a length in another unit, or not a carotid image
THICKNESS_MM = (0.1, 3.0)  # intima-media thickness that any column can have
MIN_COLUMNS = 10
MAX_DROPPED = 0.2  # share of point pairs that may be dropped as slips of the hand
PAIR_MM = 0.5  # two points further apart along the wall are not a pair
REPEATS = ("consensus", "separate")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says about a source where its files leave a choice.

    Attributes
    ----------
    annotator : str
        Folder of the person or method whose interfaces count (CUBS).
    points : str
        Layout of a text file of points: "rows" (x above y), "columns" (x beside y), or "auto".
    frame : int
        Frame of a multi-frame image, from 0.
    repeats : str
        What becomes of one frame that is stored and annotated several times (Cyprus). "consensus":
        one study, whose truth is the mean of the annotations, as Tajbakhsh et al. 2016 use the
        consensus of two experts; scored apart, they would count as independent, and each would be
        off by its own scatter. "separate": a study each.
    """

    annotator: str = "Manual-A1"
    points: str = "auto"
    frame: int = 0
    repeats: str = "consensus"

    def __post_init__(self) -> None:
        if self.repeats not in REPEATS:
            raise UserError(f"--repeats must be {' or '.join(REPEATS)}: {self.repeats}.")


@dataclasses.dataclass(frozen=True)
class Source(Study):
    """Handle of one study, cheap to make and to send to another process.

    Attributes
    ----------
    name, files
        See :class:`data_prep.runner.Study`; a manifest that speaks of the study is one of the
        files.
    parts : tuple of str
        What each of the files is: "image", "annotation" ...
    kind : str
        Module of this package that reads it.
    root : pathlib.Path
        Input folder, resolved. No file outside it is read.
    subject : str
        Identifier of the person (or of the exam, where no more is known).
    facts : dict
        What a manifest or a header already said.
    problem : str
        Why the study cannot be used, where finding it already showed that.
    notes : tuple of str
        What was mended while it was found.
    repeats : str
        Name of the study whose image or points it repeats, where that is its problem.
    """

    parts: tuple[str, ...]
    kind: str
    root: pathlib.Path
    subject: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    notes: tuple[str, ...] = ()
    repeats: str = ""

    def file(self, part: str) -> pathlib.Path:
        """Path of one part.

        Raises
        ------
        Unusable
            If the study has no such part.
        """
        if part not in self.parts:
            raise Unusable(f"there is no {part} file")
        return self.files[self.parts.index(part)]


def source(
    module: str,
    root: pathlib.Path,
    name: str,
    subject: str,
    files: dict[str, pathlib.Path],
    *,
    problem: str = "",
    **more: Any,
) -> Source:
    """Make a :class:`Source`; ``module`` is the reader's ``__name__``.

    A file outside ``root``, by its path or by a link, is left out and becomes the study's problem.
    """
    for part in [part for part, path in files.items() if not inside(path, root)]:
        problem = f"the {part} file lies outside the input folder"
        files = {other: path for other, path in files.items() if other != part}
    kind = module.rpartition(".")[2]
    paths = tuple(files.values())
    return Source(name, paths, tuple(files), kind, root, subject, problem=problem, **more)


@dataclasses.dataclass(frozen=True, eq=False)
class CarotidStudy:
    """One longitudinal B-mode image with its far wall drawn.

    Attributes
    ----------
    subject, case : str
        Raw identifiers, as in :class:`Source`.
    image : numpy.ndarray
        uint8 (H, W).
    mm_per_pixel, mm_per_pixel_x : float
        Calibration down the image and along it.
    lumen_intima, media_adventitia : numpy.ndarray
        float64 (n, 2) points x, y with strictly increasing x.
    stored_imt_mm : float or None
        Mean thickness that the source itself states.
    notes : tuple of str
        What was mended, in words fit for publication.
    annotations : tuple of CarotidStudy
        The annotations of this one frame, each as a study, where this one is their mean (see
        :mod:`data_prep.readers._consensus`); else empty.
    """

    subject: str
    case: str
    image: np.ndarray
    mm_per_pixel: float
    mm_per_pixel_x: float
    lumen_intima: np.ndarray
    media_adventitia: np.ndarray
    stored_imt_mm: float | None = None
    notes: tuple[str, ...] = ()
    annotations: tuple["CarotidStudy", ...] = ()


def read(source: Source) -> CarotidStudy:
    """Read a study with the reader that found it.

    Raises
    ------
    Unusable
        With the reason.
    """
    return importlib.import_module(f"{__package__}.{source.kind}").read(source)


def require(source: Source) -> None:
    """Test, before a file is opened, that the study is whole and free of known problems.

    Raises
    ------
    Unusable
        If finding it showed a problem, or a file is missing.
    """
    if source.problem:
        raise Unusable(source.problem)
    for part, path in zip(source.parts, source.files, strict=True):
        if not path.is_file():
            raise Unusable(f"the {part} file is missing")


def number(text: Any) -> float | None:
    """A positive number from text, decimal comma or point; None where there is none."""
    value = tables.number(str(text).strip())
    return value if value is not None and value > 0 else None


def make_study(
    source: Source,
    image: np.ndarray,
    mm_per_pixel: float | None,
    lumen_intima: np.ndarray,
    media_adventitia: np.ndarray,
    *,
    mm_per_pixel_x: float | None,
    stored_imt_mm: float | None = None,
    notes: tuple[str, ...] = (),
) -> CarotidStudy:
    """Check what a reader found, mend what is certain, and name what was mended.

    Mended: points that are not in x order are sorted; points that share a column are averaged; the
    interfaces given the wrong way round are exchanged; a few point pairs with an impossible
    thickness are dropped.

    Parameters
    ----------
    source : Source
    image : numpy.ndarray
        uint8 (H, W).
    mm_per_pixel, mm_per_pixel_x : float or None
        Calibration down the image and along it; the same number where pixels are square.
    lumen_intima, media_adventitia : numpy.ndarray
        Points x, y: (n, 2) and (m, 2).
    stored_imt_mm : float, optional
    notes : tuple of str
        What the reader itself mended.

    Raises
    ------
    Unusable
        If the calibration is absent or impossible, a point is not a number or outside the image,
        fewer than ``MIN_COLUMNS`` columns have both interfaces, the interfaces cross, or the
        thickness leaves ``THICKNESS_MM`` in any column.
    """
    mm_y = _calibration(mm_per_pixel)
    mm_x = _calibration(mm_per_pixel_x)
    found: list[str] = [*source.notes, *notes]
    li = _points(lumen_intima, image.shape, "lumen-intima")
    ma = _points(media_adventitia, image.shape, "media-adventitia")
    li, ma = _drop_slips(li, ma, mm_x, mm_y, found)
    li, ma = _in_order(li, found), _in_order(ma, found)
    li, ma = _exchange(li, ma, found)
    _check_thickness(li, ma, mm_y)
    return CarotidStudy(
        subject=source.subject,
        case=source.name,
        image=image,
        mm_per_pixel=mm_y,
        mm_per_pixel_x=mm_x,
        lumen_intima=li,
        media_adventitia=ma,
        stored_imt_mm=stored_imt_mm,
        notes=tuple(dict.fromkeys(found)),
    )


def _calibration(value: float | None) -> float:
    if value is None:
        raise Unusable("no calibration: how many millimetres a pixel spans is not given")
    low, high = MM_PER_PIXEL
    if not low < value < high:
        raise Unusable(f"the calibration of {value:g} mm/pixel is not between {low:g} and {high:g}")
    return float(value)


def _points(points: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise Unusable(f"the {name} interface has fewer than two points")
    if not np.isfinite(points).all():
        raise Unusable(f"the {name} interface holds points that are not numbers")
    limit = np.array([shape[1], shape[0]]) - 0.5
    outside = int(np.any((points < -0.5) | (points > limit), axis=1).sum())
    if outside:
        raise Unusable(f"{outside} points of the {name} interface lie outside the image")
    return points


def _drop_slips(
    li: np.ndarray, ma: np.ndarray, mm_x: float, mm_y: float, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the few pairs, of points drawn as pairs, whose thickness is impossible.

    Both points go: nothing tells which of the two is wrong.
    """
    if len(li) != len(ma) or (np.abs(li[:, 0] - ma[:, 0]) * mm_x > PAIR_MM).any():
        return li, ma
    thickness = (ma[:, 1] - li[:, 1]) * mm_y
    if np.median(thickness) < 0:  # given the wrong way round; exchanged later
        thickness = -thickness
    low, high = THICKNESS_MM
    wrong = (thickness < low) | (thickness > high)
    if not 0 < wrong.sum() <= MAX_DROPPED * len(wrong):
        return li, ma
    worst = thickness[wrong][np.abs(thickness[wrong]).argmax()]
    notes.append(f"{wrong.sum()} of {len(wrong)} point pairs dropped: {worst:.2f} mm apart")
    return li[~wrong], ma[~wrong]


def _in_order(points: np.ndarray, notes: list[str]) -> np.ndarray:
    if (np.diff(points[:, 0]) < 0).any():
        points = points[np.argsort(points[:, 0], kind="stable")]
        notes.append("points sorted along x")
    columns, first, count = np.unique(points[:, 0], return_index=True, return_counts=True)
    if len(columns) < len(points):
        rows = np.add.reduceat(points[:, 1], first) / count
        points = np.column_stack([columns, rows])
        notes.append("points of one column averaged")
    if len(points) < 2:
        raise Unusable("all points of an interface lie in one column")
    return points


def _common_columns(li: np.ndarray, ma: np.ndarray) -> np.ndarray:
    first = np.ceil(max(li[0, 0], ma[0, 0]))
    last = np.floor(min(li[-1, 0], ma[-1, 0]))
    return np.arange(first, last + 1)


def _exchange(li: np.ndarray, ma: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    columns = _common_columns(li, ma)
    if len(columns) < MIN_COLUMNS:
        raise Unusable(
            f"both interfaces are drawn over {len(columns)} columns only; {MIN_COLUMNS} are needed"
        )
    below = np.interp(columns, *ma.T) > np.interp(columns, *li.T)
    if below.all():
        return li, ma
    if not below.any():
        notes.append("interfaces exchanged: they were given the wrong way round")
        return ma, li
    raise Unusable(f"the interfaces cross or touch in {int((~below).sum())} columns")


def _check_thickness(li: np.ndarray, ma: np.ndarray, mm_y: float) -> None:
    columns = _common_columns(li, ma)
    thickness = (np.interp(columns, *ma.T) - np.interp(columns, *li.T)) * mm_y
    low, high = THICKNESS_MM
    if thickness.min() < low or thickness.max() > high:
        raise Unusable(
            f"the thickness runs from {thickness.min():.2f} to {thickness.max():.2f} mm; "
            f"{low:g} to {high:g} mm are possible"
        )
