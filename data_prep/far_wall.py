"""Regions and patches of the far wall of the carotid artery.

The protocol is that of Tajbakhsh et al. 2016, section IV-D: regions of 92 x 60 pixels, patches in
equal shares from both interfaces and from background, none of them augmented. What the paper leaves
open (patch side, band) is in :class:`Settings`. Its background lies "far from" the interfaces; here
a part of it lies close to them, for the maps are sharper so (see ``near_share``).
"""

import dataclasses
import itertools
import math

import numpy as np

from data_prep import patches
from data_prep.errors import UserError
from data_prep.readers import _carotid
from data_prep.readers._carotid import CarotidStudy, Source
from data_prep.readers._images import Unusable
from data_prep.records import Example
from data_prep.runner import StudyResult
from data_prep.splits import pseudonym

BACKGROUND, LUMEN_INTIMA, MEDIA_ADVENTITIA = range(3)
NEITHER = -1
NEAR_ROWS = 8  # beyond the exclusion: there the network must learn where an interface ends
MIN_ANNOTATED = 0.5  # share of a region's columns that must be annotated


@dataclasses.dataclass(frozen=True)
class Settings:
    """How regions and patches are taken.

    Attributes
    ----------
    patch : int
        Side of a patch in pixels, odd: its centre is one pixel.
    band : int
        Rows on either side of an interface whose pixels belong to it.
    exclusion : int
        Background lies at least so many rows from both interfaces.
    near_share : float
        Share of the background patches that lies within ``NEAR_ROWS`` rows beyond the exclusion;
        the others lie anywhere. Without them a network learns to tell the wall from its
        surroundings, and answers "interface" in a band far wider than the interface.
    roi_width, roi_height : int
        Size of a region in pixels.
    rois_per_image : int
        At most so many regions an image; they do not overlap.
    roi_shift : int
        Greatest distance in rows between the middle of the wall and that of the region.
    patches_per_roi : int
        Patches a class and region.
    max_gap_mm : float
        Between two neighbouring points further apart than this the wall counts as not annotated.
    """

    patch: int = 33
    band: int = 1
    exclusion: int = 3
    near_share: float = 0.6
    roi_width: int = 92
    roi_height: int = 60
    rois_per_image: int = 3
    roi_shift: int = 8
    patches_per_roi: int = 75
    max_gap_mm: float = 4.0

    def __post_init__(self) -> None:
        if self.patch < 1 or self.patch % 2 == 0:
            raise UserError(f"--patch must be odd, so that one pixel is its centre: {self.patch}.")
        if self.exclusion <= self.band:
            raise UserError(
                f"--exclusion must be above --band, or classes overlap. Received: "
                f"{self.exclusion} and {self.band}."
            )
        if not 0 <= self.near_share <= 1:
            raise UserError(f"--near_share must be from 0 to 1. Received: {self.near_share}.")

    @property
    def margin(self) -> int:
        """Pixels of context round a region: half a patch, and two for shifts."""
        return self.patch // 2 + 2


@dataclasses.dataclass(frozen=True)
class Region:
    """One region of interest.

    Attributes
    ----------
    x, y : int
        Its top left pixel in the image.
    lumen_intima, media_adventitia : numpy.ndarray
        float64 (W,): row of each interface counted from ``y``, NaN where either is not annotated
        or lies outside the region.
    """

    x: int
    y: int
    lumen_intima: np.ndarray
    media_adventitia: np.ndarray


def prepare(source: Source, settings: Settings, seed: int, key: bytes) -> StudyResult:
    """Read one study and cut its regions and patches; a pure function.

    Parameters
    ----------
    source : Source
    settings : Settings
    seed : int
    key : bytes
        Of the pseudonyms.

    Returns
    -------
    StudyResult
        With the kinds "patch" (labels 0 to 2) and "roi" (label -1).

    Raises
    ------
    Unusable
        If the study cannot be read or holds no region.
    """
    study = _carotid.read(source)
    case = pseudonym(study.case, key)
    subject = pseudonym(study.subject, key)
    rng = np.random.default_rng([seed, int(case, 16)])
    regions = find_regions(study, settings, rng)
    rois, cut = [], []
    for number, region in enumerate(regions):
        common = {"subject": subject, "case": case, "unit": f"{case}-{number}"}
        rois.append(_roi_example(study, region, settings, common))
        cut.extend(_patch_examples(study, region, settings, rng, common))
    if not cut:
        raise Unusable("no region has room for background beside the wall: enlarge --roi_height")
    truth = _truth(study, regions, settings, case)
    notes = study.notes
    if study.annotations:
        notes += (_repeat_note(study, truth["repeat"]),)
    return StudyResult(case, subject, {"patch": cut, "roi": rois}, truth, notes)


def columns(points: np.ndarray, width: int, max_gap: float) -> np.ndarray:
    """Row of an interface in every column of the image.

    Parameters
    ----------
    points : numpy.ndarray
        float64 (n, 2): x strictly increasing, y.
    width : int
        Of the image.
    max_gap : float
        In pixels.

    Returns
    -------
    numpy.ndarray
        float64 (width,): linear between neighbouring points; NaN outside them, and strictly
        between two that are more than ``max_gap`` apart.
    """
    x, y = points.T
    all_columns = np.arange(width, dtype=np.float64)
    rows = np.interp(all_columns, x, y, left=np.nan, right=np.nan)
    for left in np.flatnonzero(np.diff(x) > max_gap):
        rows[(all_columns > x[left]) & (all_columns < x[left + 1])] = np.nan
    return rows


def interfaces(study: CarotidStudy, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Row of both interfaces in every column of the image: the mean of the study's annotations.

    Returns
    -------
    lumen_intima, media_adventitia : numpy.ndarray
        float64 (width,): NaN in the columns that any annotation does not cover, by the rule of
        :func:`columns`.
    """
    lumen_intima, media_adventitia = _lines(study, settings).mean(axis=0)
    return lumen_intima, media_adventitia


def agreement(study: CarotidStudy, settings: Settings) -> dict[str, float]:
    """How far apart the annotations of one frame are, over the columns that all cover.

    Returns
    -------
    dict
        ``lumen_intima_um``, ``media_adventitia_um``: mean over columns of the vertical distance of
        two annotations; ``thickness_mm``: difference of their mean thickness. Of more than two
        annotations, the mean over all pairs. All in the study's one calibration.

    Raises
    ------
    ValueError
        If the study has one annotation only.
    """
    if len(study.annotations) < 2:
        raise ValueError("Agreement is that of two annotations or more; the study has one.")
    lines = _lines(study, settings)
    lines = lines[:, :, np.isfinite(lines).all(axis=(0, 1))] * study.mm_per_pixel
    pairs = np.array([a - b for a, b in itertools.combinations(lines, 2)])  # (pairs, 2, columns)
    apart = np.abs(pairs).mean(axis=(0, 2)) * 1000
    thickness = np.abs((pairs[:, 1] - pairs[:, 0]).mean(axis=1)).mean()
    return {
        "lumen_intima_um": round(float(apart[0]), 3),
        "media_adventitia_um": round(float(apart[1]), 3),
        "thickness_mm": round(float(thickness), 6),
    }


def find_regions(study: CarotidStudy, settings: Settings, rng: np.random.Generator) -> list[Region]:
    """Regions of one study, spread evenly over the annotated columns.

    The middle of the wall lies a random few rows above or below that of the region, so that the
    place in a region says nothing about the answer.

    Raises
    ------
    Unusable
        If the annotation is narrower or the image lower than a region, or it is too gappy.
    """
    height, width = study.image.shape
    wide, high = settings.roi_width, settings.roi_height
    li, ma = interfaces(study, settings)
    annotated = np.flatnonzero(np.isfinite(li + ma))
    extent = annotated[-1] - annotated[0] + 1 if annotated.size else 0
    count = min(settings.rois_per_image, extent // wide)
    if count == 0:
        raise Unusable(f"the wall is annotated over {extent} columns; a region takes {wide}")
    if height < high:
        raise Unusable(f"the image has {height} rows; a region takes {high}")
    last = annotated[-1] + 1 - wide
    middle = (annotated[0] + last) / 2
    starts = np.linspace(annotated[0], last, count) if count > 1 else np.array([middle])
    regions = []
    for x in np.floor(starts + 0.5).astype(int):
        shift = rng.integers(-settings.roi_shift, settings.roi_shift, endpoint=True)
        region = _region(int(x), li[x : x + wide], ma[x : x + wide], height, shift, settings)
        if np.isfinite(region.lumen_intima).sum() >= MIN_ANNOTATED * wide:
            regions.append(region)
    if not regions:
        raise Unusable("no region is annotated in half of its columns")
    return regions


def label_map(region: Region, settings: Settings) -> np.ndarray:
    """Class of every pixel of a region.

    A pixel within ``band`` rows of an interface belongs to it, to the nearer one where both are so
    near, to the lumen-intima interface where they are equally near. Background is at least
    ``exclusion`` rows from both. Other pixels, and columns without annotation, are ``NEITHER``.

    Returns
    -------
    numpy.ndarray
        int8 (roi_height, W).
    """
    rows = np.arange(settings.roi_height)[:, None]
    to_li, to_ma = np.abs(rows - region.lumen_intima), np.abs(rows - region.media_adventitia)
    nearest = np.minimum(to_li, to_ma)
    labels = np.full(nearest.shape, NEITHER, np.int8)
    labels[nearest >= settings.exclusion] = BACKGROUND
    near = nearest <= settings.band
    labels[near & (to_li <= to_ma)] = LUMEN_INTIMA
    labels[near & (to_li > to_ma)] = MEDIA_ADVENTITIA
    return labels


def _lines(study: CarotidStudy, settings: Settings) -> np.ndarray:
    """float64 (annotations, 2, width): rows of each annotation's interfaces, NaN where not drawn.

    The rule for gaps is applied to each annotation: another one's points in a gap do not close it.
    """
    width = study.image.shape[1]
    gap = settings.max_gap_mm / study.mm_per_pixel_x
    return np.array(
        [
            [columns(p, width, gap) for p in (drawn.lumen_intima, drawn.media_adventitia)]
            for drawn in study.annotations or (study,)
        ]
    )


def _repeat_note(study: CarotidStudy, repeat: dict) -> str:
    scales = [drawn.mm_per_pixel for drawn in study.annotations]
    return (
        f"the same frame was annotated {len(scales)} times: the mean of their lines is the truth "
        f"(they differ by {repeat['lumen_intima_um']:.0f} and "
        f"{repeat['media_adventitia_um']:.0f} um, in calibration by "
        f"{max(scales) / min(scales) - 1:.1%})"
    )


def _region(
    x: int, li: np.ndarray, ma: np.ndarray, height: int, shift: int, settings: Settings
) -> Region:
    """Place a region over columns ``x`` on; ``height`` is that of the image."""
    high, both = settings.roi_height, np.isfinite(li + ma)
    li, ma = np.where(both, li, np.nan), np.where(both, ma, np.nan)
    y = 0
    if both.any():
        y = math.floor(np.nanmean(li + ma) / 2 + shift - (high - 1) / 2 + 0.5)
        # Keep the bands of both interfaces in the region if it is high enough, and it in the image.
        lowest, highest = np.nanmax(ma) + settings.band - (high - 1), np.nanmin(li) - settings.band
        if lowest <= highest:
            y = min(max(y, math.ceil(lowest)), math.floor(highest))
        y = min(max(y, 0), height - high)
    inside = (li >= y) & (ma <= y + high - 1)
    return Region(x, y, *(np.where(inside, rows - y, np.nan) for rows in (li, ma)))


def _roi_example(study: CarotidStudy, region: Region, settings: Settings, common: dict) -> Example:
    margin = settings.margin
    image = patches.window(
        study.image,
        region.x - margin,
        region.y - margin,
        settings.roi_width + 2 * margin,
        settings.roi_height + 2 * margin,
    )
    extras = {
        "mm_per_pixel": study.mm_per_pixel,
        "mm_per_pixel_x": study.mm_per_pixel_x,
        "x": region.x,
        "y": region.y,
        "margin": margin,
        "li": region.lumen_intima,
        "ma": region.media_adventitia,
    }
    return Example(common["unit"], image, label=NEITHER, extras=extras, **common)


def _patch_examples(
    study: CarotidStudy,
    region: Region,
    settings: Settings,
    rng: np.random.Generator,
    common: dict,
) -> list[Example]:
    """Equally many patches of each class, at places drawn without replacement."""
    labels = label_map(region, settings)
    places = [np.argwhere(labels == label) for label in range(3)]
    count = min(settings.patches_per_roi, *map(len, places))
    examples = []
    for label, candidates in enumerate(places):
        order = rng.permutation(len(candidates))
        if label == BACKGROUND:
            order = _near_first(candidates[order], region, settings, count, order)
        drawn = candidates[np.sort(order[:count])]
        centres = drawn[:, ::-1] + (region.x, region.y)
        for number, (centre, image) in enumerate(
            zip(centres, patches.crop(study.image, centres, settings.patch), strict=True)
        ):
            extras = {
                "mm_per_pixel": study.mm_per_pixel,
                "mm_per_pixel_x": study.mm_per_pixel_x,
                "x": centre[0],
                "y": centre[1],
                "margin": 0,
                "li": (),
                "ma": (),
            }
            key = f"{common['unit']}-{label}-{number}"
            examples.append(Example(key, image, label=label, extras=extras, **common))
    return examples


def _near_first(
    places: np.ndarray, region: Region, settings: Settings, count: int, order: np.ndarray
) -> np.ndarray:
    """``order`` with the first near places in front, as many as their share of ``count``."""
    rows, columns = places.T
    distance = np.minimum(
        np.abs(rows - region.lumen_intima[columns]), np.abs(rows - region.media_adventitia[columns])
    )
    near = np.flatnonzero(distance < settings.exclusion + NEAR_ROWS)
    first = near[: round(settings.near_share * count)]
    return np.concatenate([order[first], np.delete(order, first)])


def _truth(study: CarotidStudy, regions: list[Region], settings: Settings, case: str) -> dict:
    """What ``truth.json`` says of a case; thickness in mm, vertical, mean over columns."""
    height, width = study.image.shape

    def thickness(li: np.ndarray, ma: np.ndarray) -> float:
        return round(float(np.nanmean(ma - li)) * study.mm_per_pixel, 6)

    repeat = {"repeat": agreement(study, settings)} if study.annotations else {}
    return {
        "mm_per_pixel": study.mm_per_pixel,
        "mm_per_pixel_x": study.mm_per_pixel_x,
        "width": width,
        "height": height,
        "imt_mm": thickness(*interfaces(study, settings)),
        "stored_imt_mm": study.stored_imt_mm,
        "annotations": max(1, len(study.annotations)),
        **repeat,
        "rois": [
            {
                "unit": f"{case}-{number}",
                "x": region.x,
                "y": region.y,
                "width": settings.roi_width,
                "height": settings.roi_height,
                "imt_mm": thickness(region.lumen_intima, region.media_adventitia),
            }
            for number, region in enumerate(regions)
        ],
    }
