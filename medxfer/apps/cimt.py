"""Carotid intima-media thickness: two interfaces in a region of the far wall.

Tajbakhsh et al. 2016, sections III-D and IV-D: a network classifies every pixel of the region as
background, lumen-intima or media-adventitia interface; each column takes the best row of either
map, open snakes smooth the two lines, and their mean vertical distance is the thickness. Beside it
stands the polyline distance, by which most of the field measures.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep import progress
from medxfer.apps import _curves, _phantom
from medxfer.apps._far_wall import MIN_THICKNESS_MM
from medxfer.apps._far_wall import describe as describe
from medxfer.apps._far_wall import predict as predict
from medxfer.apps._far_wall import raw_inputs as raw_inputs
from medxfer.evaluation import boundary, intervals, roc, snakes
from medxfer.evaluation import compare as comparison
from medxfer.evaluation.boundary import Boundaries
from medxfer.handcrafted import cimt as tracer

CLASSES = ("background", "lumen-intima", "media-adventitia")
UNIT = "region"
UNKNOWN = (float("nan"), float("nan"))
#: Prediction and reference of thickness, in two ways, as columns of a table.
THICKNESSES = ("thickness_mm", "polyline_thickness_mm")
INPUT = "image"
#: Range of every measure.
LIMITS: dict[str, intervals.Limits] = {
    "lumen_intima_error_um": intervals.SIZE,
    "media_adventitia_error_um": intervals.SIZE,
    "thickness_error_mm": intervals.SIZE,
    "polyline_thickness_error_mm": intervals.SIZE,
    "thickness_bias_mm": intervals.ANY,
    "polyline_thickness_bias_mm": intervals.ANY,
}
#: Figures of runs that a study shows.
STUDY_FIGURES = {
    "map_median": "the region of middle error, its confidence maps with the row of highest "
    "probability per column, the snakes, and the reference."
}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How two confidence maps become two lines.

    Attributes
    ----------
    rule : str
        ``arg_max``: each column and interface by itself, as in the paper. ``joint``: the ordered
        pair of rows with the highest total log-probability, which cannot cross or jump.
    min_mm, max_mm : float
        Limits of the thickness under the joint rule.
    max_step : int
        Rows that an interface may move from one column to the next under the joint rule.
    smooth : (rows, columns)
        Standard deviation in pixels of the Gaussian that the maps are smoothed by: within the band
        of rows that counts as one interface a sure network answers 1 everywhere, and the middle of
        the band is what is wanted.
    a, b, kappa, sigma : float
        Snakes: stretching, bending, weight and smoothing of the map.
    """

    rule: str = "joint"
    smooth: tuple[float, float] = (1.5, 2.0)
    min_mm: float = MIN_THICKNESS_MM
    max_mm: float = 2.0
    max_step: int = 2
    a: float = 0.01
    b: float = 0.5
    kappa: float = 1.0
    sigma: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What a scorer says of one region: two lines and, from a CNN, the maps they come from."""

    boundaries: Boundaries
    maps: NDArray[np.float32] | None = None  # (H, W, classes)


DEFAULT_DECODING = Decoding()

#: (region, margin, mm per pixel) -> Trace
Scorer = Callable[[NDArray[np.uint8], int, float], Trace]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """One region of the reference standard beside what a scorer says of it."""

    unit: str
    case: str
    subject: str
    mm_per_pixel: float
    image: NDArray[np.uint8]  # the evaluated pixels (H, W)
    true: Boundaries
    trace: Trace
    mm_per_pixel_x: float | None = None  # None: records of earlier versions do not say it

    @property
    def error_um(self) -> dict[str, float]:
        """Mean vertical distance to the reference line, per interface, in micrometres."""
        found = self.trace.boundaries
        return {
            "lumen_intima": boundary.error_um(found.li, self.true.li, self.mm_per_pixel),
            "media_adventitia": boundary.error_um(found.ma, self.true.ma, self.mm_per_pixel),
        }

    @property
    def _scored(self) -> tuple[Boundaries, Boundaries]:
        """Prediction and reference over the annotated columns."""
        known = ~np.isnan(self.true.li + self.true.ma)
        found = self.trace.boundaries
        lines = (np.where(known, rows, np.nan) for rows in (found.li, found.ma))
        return Boundaries(*lines), self.true

    @property
    def thickness_mm(self) -> tuple[float, float]:
        """Predicted and true vertical thickness over the annotated columns, in millimetres."""
        return tuple(boundary.thickness_mm(lines, self.mm_per_pixel) for lines in self._scored)

    @property
    def polyline_thickness_mm(self) -> tuple[float, float]:
        """Predicted and true polyline distance over the annotated columns; NaN if not known."""
        if self.mm_per_pixel_x is None:
            return UNKNOWN
        sizes = self.mm_per_pixel, self.mm_per_pixel_x
        return tuple(boundary.polyline_thickness_mm(lines, *sizes) for lines in self._scored)


def prepared_phantom(cache: pathlib.Path) -> pathlib.Path:
    """Records of the app's synthetic studies, made once and kept in ``cache``.

    Fewer patches a region than for real studies, so that a first try takes minutes.
    """
    from data_prep import cimt, far_wall
    from data_prep.phantoms import cimt as phantom

    raw = phantom.ensure(cache)
    settings = far_wall.Settings(rois_per_image=2, patches_per_roi=10)
    return _phantom.records(raw, cimt.prepare, settings)


def monitor(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of interface against background, both interfaces merged.

    Tajbakhsh et al. 2016, section IV: the score that is watched on the validation part.
    """
    return roc.auc(labels > 0, 1 - probabilities[:, 0])


def decode(maps: NDArray[np.float32], mm_per_pixel: float, decoding: Decoding) -> Boundaries:
    """Lines of the two interfaces from maps (H, W, classes)."""
    li, ma = (
        ndimage.gaussian_filter(maps[..., k].astype(np.float64), decoding.smooth, mode="nearest")
        for k in (1, 2)
    )
    if decoding.rule == "arg_max":
        start = Boundaries(boundary.arg_max_rows(li), boundary.arg_max_rows(ma))
    else:
        least = max(1, int(np.ceil(decoding.min_mm / mm_per_pixel)))
        most = max(least, int(np.floor(decoding.max_mm / mm_per_pixel)))
        logs = [np.log(np.maximum(p, 1e-4)) for p in (li, ma)]
        start = boundary.joint_rows(*logs, least, most, decoding.max_step)
    return snakes.open_snakes(
        li, ma, start, a=decoding.a, b=decoding.b, kappa=decoding.kappa, sigma=decoding.sigma
    )


def cnn(network, decoding: Decoding = DEFAULT_DECODING) -> Scorer:
    """Scorer of a :class:`medxfer.network.TrainedNetwork`, by its confidence maps."""
    maps = network.maps

    def scorer(roi: NDArray[np.uint8], margin: int, mm_per_pixel: float) -> Trace:
        probabilities = maps(roi)
        return Trace(decode(probabilities, mm_per_pixel, decoding), probabilities)

    return scorer


def counterparts(folder=None, subjects=None) -> dict[str, Scorer]:
    """Name -> scorer of the classic tracer, which learns nothing from the records in ``folder``."""
    return {
        "handcrafted": lambda roi, margin, mm_per_pixel: Trace(
            tracer.trace(roi, margin, mm_per_pixel)
        )
    }


def score(folder, split: str, scorer: Scorer) -> list[Result]:
    """Apply ``scorer`` to every region of a split."""
    from medxfer import data

    found = []
    units = data.units(folder, split)
    for unit in progress.track(units, f"{split} part", folder.count(split), "regions"):
        image, margin = np.squeeze(unit["image"], axis=-1), int(unit["margin"])
        inner = slice(margin, -margin or None)
        found.append(
            Result(
                unit["unit"],
                unit["case"],
                unit["subject"],
                float(unit["mm_per_pixel"]),
                image[inner, inner],
                Boundaries(unit["li"], unit["ma"]),
                scorer(image, margin, float(unit["mm_per_pixel"])),
                float(unit["mm_per_pixel_x"]) if "mm_per_pixel_x" in unit else None,
            )
        )
    return found


def errors(results: Sequence[Result]) -> dict[str, NDArray[np.float64]]:
    """One value per unit of every measure, for intervals and paired tests."""
    found = {
        f"{name}_error_um": np.array([result.error_um[name] for result in results])
        for name in ("lumen_intima", "media_adventitia")
    }
    for name, bias in _biases(results).items():
        found[name.replace("_bias_", "_error_")] = np.abs(bias)
    return found


def _biases(results: Sequence[Result]) -> dict[str, NDArray[np.float64]]:
    """Predicted less true thickness of every unit."""
    found = {}
    for name in _measured(results):
        pairs = np.array([getattr(result, name) for result in results])
        found[name.replace("_mm", "_bias_mm")] = pairs[:, 0] - pairs[:, 1]
    return found


def _measured(results: Sequence[Result]) -> tuple[str, ...]:
    """The thicknesses that are known: records of earlier versions have no polyline distance."""
    vertical, polyline = THICKNESSES
    missing = any(np.isnan(result.polyline_thickness_mm[1]) for result in results)
    return (vertical,) if missing else (vertical, polyline)


def metrics(results: Sequence[Result], seed: int = 0) -> dict[str, intervals.Interval]:
    """Mean of every measure with its 95 % interval by bootstrap over subjects."""
    subjects = [result.subject for result in results]
    measures = errors(results) | _biases(results)
    return {
        name: intervals.bootstrap(intervals.mean(values), subjects, seed=seed, limits=LIMITS[name])
        for name, values in measures.items()
    }


def compare(
    methods: dict[str, Sequence[Result]], seed: int = 0
) -> dict[str, list[comparison.Comparison]]:
    """Paired comparison of every two methods for each measure, on the same regions."""
    first = next(iter(methods.values()))
    subjects = [result.subject for result in first]
    measured = {name: errors(results) for name, results in methods.items()}
    common = set.intersection(*map(set, measured.values()))
    return {
        measure: comparison.compare(
            {name: values[measure] for name, values in measured.items()}, subjects, seed=seed
        )
        for measure in next(iter(measured.values()))
        if measure in common
    }


def rows(results: Sequence[Result]) -> list[dict[str, str | float]]:
    """One row per region: errors, thickness in two ways, and its reference."""
    table, names = [], _measured(results)
    for result in results:
        pairs = {name: getattr(result, name) for name in names}
        table.append(
            {
                "unit": result.unit,
                "case": result.case,
                "subject": result.subject,
                "mm_per_pixel": result.mm_per_pixel,
                **{f"{name}_error_um": value for name, value in result.error_um.items()},
                **{name: pair[0] for name, pair in pairs.items()},
                **{f"true_{name}": pair[1] for name, pair in pairs.items()},
            }
        )
    return table


@dataclasses.dataclass(frozen=True)
class Restored:
    """What ``predictions.csv`` keeps of a :class:`Result`: the measures, not the lines."""

    unit: str
    case: str
    subject: str
    mm_per_pixel: float
    error_um: dict[str, float]
    thickness_mm: tuple[float, float]
    polyline_thickness_mm: tuple[float, float] = UNKNOWN


def restore(
    rows: Sequence[Mapping[str, str]], truth: Mapping[str, Mapping] | None = None
) -> list[Restored]:
    """Results from rows of ``predictions.csv``, for :func:`metrics` and :func:`compare`."""
    names = ("lumen_intima", "media_adventitia")
    return [
        Restored(
            row["unit"],
            row["case"],
            row["subject"],
            float(row["mm_per_pixel"]),
            {name: float(row[f"{name}_error_um"]) for name in names},
            *(
                # Runs of earlier versions have no polyline distance.
                tuple(float(row.get(key) or "nan") for key in (name, f"true_{name}"))
                for name in THICKNESSES
            ),
        )
        for row in rows
    ]


def figures(
    methods: Mapping[str, Sequence[Result]], history: Sequence[Mapping]
) -> dict[str, tuple]:
    """Name -> (figure, caption) of one run; the first of ``methods`` is the network's.

    Maps of the best, the middle and the worst region by mean error (not of restored results, which
    have no maps), box plots, agreement of thickness, and the course of training.
    """
    from medxfer.evaluation import figures as draw

    name, results = next(iter(methods.items()))
    drawn = _maps(name, results) if isinstance(results[0], Result) else {}
    panels = {
        title: {method: errors(found)[key] for method, found in methods.items()}
        for title, key in (
            ("Lumen-intima", "lumen_intima_error_um"),
            ("Media-adventitia", "media_adventitia_error_um"),
        )
    }
    drawn["errors"] = (
        draw.error_boxes(panels),
        "Error per interface and test region: Tukey box plots, mean (standard deviation) above.",
    )
    thickness = np.array([result.thickness_mm for result in results])
    subjects = [result.subject for result in results]
    drawn["bland_altman"] = (
        draw.bland_altman(thickness[:, 0], thickness[:, 1], subjects),
        "Vertical thickness: difference against mean of prediction and reference.",
    )
    drawn["thickness"] = (
        draw.agreement(thickness[:, 0], thickness[:, 1], subjects),
        "Vertical thickness: prediction against reference.",
    )
    return drawn | _curves.course(name, history)


def _maps(name: str, results: Sequence[Result]) -> dict[str, tuple]:
    """Of the best, the middle and the worst region by mean error."""
    from medxfer.evaluation import figures as draw

    drawn = {}
    order = np.argsort([sum(result.error_um.values()) for result in results], kind="stable")
    for title, place in (("best", 0), ("median", len(order) // 2), ("worst", len(order) - 1)):
        result = results[order[place]]
        maps = result.trace.maps
        arg_max = Boundaries(*(boundary.arg_max_rows(maps[..., k]) for k in (1, 2)))
        figure = draw.confidence_map(
            result.image,
            maps[..., 1],
            maps[..., 2],
            arg_max,
            result.trace.boundaries,
            result.true,
            result.mm_per_pixel_x,
        )
        drawn[f"map_{title}"] = (
            figure,
            f"The {title} of {len(results)} test regions by error ({name}): region and confidence "
            "maps with the row of highest probability per column, the snakes, and the reference.",
        )
    return drawn
