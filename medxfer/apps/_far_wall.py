"""Prediction of the carotid app: the far wall of raw images without annotation."""

import csv
import pathlib
import typing
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep import patches
from data_prep.errors import UserError
from data_prep.readers import _calibration, _carotid, _stills
from data_prep.readers._calibration import Calibration
from data_prep.readers._images import Unusable
from medxfer.apps._options import NO_OPTIONS, PredictOptions
from medxfer.evaluation import boundary
from medxfer.handcrafted import cimt as tracer

if typing.TYPE_CHECKING:
    from medxfer.apps.cimt import Scorer

MIN_THICKNESS_MM = 0.2  # less is no wall
COLUMNS = ("x", "lumen_intima_y", "media_adventitia_y", "thickness_mm", "polyline_thickness_mm")


def raw_inputs(source: pathlib.Path) -> list[pathlib.Path]:
    """Raw images of a file or folder."""
    return _stills.find(source)


def predict(
    path: pathlib.Path,
    scorer: "Scorer",
    settings: Mapping,
    name: str,
    output: pathlib.Path,
    options: PredictOptions = NO_OPTIONS,
) -> dict:
    """Trace the far wall in one raw image.

    Writes ``NAME.csv`` (one row per column: x, both rows in pixels of the image, thickness in mm,
    vertical and by polyline distance) and ``NAME.png``, the part of the image round the wall with
    both lines; headers and margins, where names are burnt in, stay out of the picture.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    scorer : Scorer
    settings : mapping
        Of the records that the network learnt from: ``roi_width``, ``roi_height``, ``margin``.
    name, output : str, pathlib.Path
        Stem and folder of the files written.
    options : PredictOptions
        ``mm_per_pixel``; ``region``, by default the far wall is searched.

    Raises
    ------
    UserError
        If the image cannot be read, is not calibrated where the wall is, or shows no wall.
    """
    still = _stills.read(path)
    own = still.calibration
    known = _calibration.given(own, options.mm_per_pixel) if options.mm_per_pixel else own
    regions = [options.region] if options.region else _wall_regions(still, known, settings)
    margin = settings["margin"]
    height, width = still.image.shape
    table = []
    for x, y, w, h in regions:
        if x + w > width or y + h > height:
            raise UserError(f"--roi reaches beyond the image of {width} x {height} pixels")
        down, along = _spacing(known, [(x, y), (x + w - 1, y + h - 1)])
        if h * down <= MIN_THICKNESS_MM + down:
            raise UserError(f"no wall fits into {h} rows of {down:g} mm each")
        window = patches.window(still.image, x - margin, y - margin, w + 2 * margin, h + 2 * margin)
        found = scorer(window, margin, down).boundaries
        polyline = boundary.polyline_distances_mm(found, down, along)
        for column, (li, ma, apart) in enumerate(zip(found.li, found.ma, polyline, strict=True)):
            table.append((x + column, y + li, y + ma, (ma - li) * down, apart))
    with (output / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((x, *map(float, rest)) for x, *rest in table)
    lines = np.array(table, np.float64)
    _overlay(still.image, lines, output / f"{name}.png")
    thickness = lines[:, 3]
    return {
        "mm_per_pixel": down,
        "mm_per_pixel_x": along,
        "regions": [list(map(int, found)) for found in regions],
        "columns": len(lines),
        "thickness_mm": float(thickness.mean()),
        "thickness_max_mm": float(thickness.max()),
        "polyline_thickness_mm": float(lines[:, 4].mean()),
        "notes": list(still.notes),
    }


def describe(found: Mapping) -> str:
    """One prediction in words."""
    return (
        f"thickness {found['thickness_mm']:.3f} mm vertical, at most "
        f"{found['thickness_max_mm']:.3f} mm, {found['polyline_thickness_mm']:.3f} mm by polyline "
        f"distance, over {found['columns'] * found['mm_per_pixel_x']:.1f} mm of wall"
    )


def _spacing(calibration: Calibration, corners: list[tuple[int, int]]) -> tuple[float, float]:
    """Height and width of a pixel in mm where the wall is."""
    try:
        return _possible(calibration.at(np.array(corners)))
    except Unusable as error:
        raise UserError(f"{error}; {_calibration.GIVE}") from error


def _possible(spacing: tuple[float, float]) -> tuple[float, float]:
    smallest, largest = _carotid.MM_PER_PIXEL
    for size in spacing:
        if not smallest <= size <= largest:
            raise UserError(
                f"a pixel of {size:g} mm is not between {smallest:g} and {largest:g} mm; "
                f"{_calibration.GIVE}"
            )
    return spacing


def _wall_regions(
    still: _stills.Still, calibration: Calibration, settings: Mapping
) -> list[tuple[int, int, int, int]]:
    """Neighbouring regions along the part of the far wall that is seen best."""
    width, height = settings["roi_width"], settings["roi_height"]
    areas = still.calibration.calibrated
    x0, y0, image = 0, 0, still.image
    if len(areas) == 1:  # the rest of the screen is no image
        x0, y0 = max(areas[0].left, 0), max(areas[0].top, 0)
        image = image[y0 : areas[0].bottom + 1, x0 : areas[0].right + 1]
    elif len({area.spacing for area in calibration.calibrated}) > 1:
        raise UserError(
            "its regions are calibrated in different ways: say with --roi=x,y,width,height which "
            "one shows the wall"
        )
    one = [area.spacing for area in calibration.calibrated]
    spacing = _possible(one[0]) if one else _spacing(calibration, [(0, 0)])
    missing = UserError("no far wall was found; give its place with --roi=x,y,width,height")
    if image.shape[1] < width or not image.size:
        raise missing
    wall = tracer.find_far_wall(image, spacing[0])
    starts = np.arange(0, image.shape[1] - width + 1)
    known = np.convolve(~np.isnan(wall.rows), np.ones(width), "valid") == width
    if not known.any():
        raise missing
    clarity = np.where(known, np.convolve(wall.confidence, np.ones(width), "valid"), -1.0)
    # The clearest tiling of a few regions, side by side.
    count = min(settings["rois_per_image"], int(known.sum() + width - 1) // width) or 1
    while count > 1:
        totals = sum(
            clarity[k * width : len(starts) - (count - 1 - k) * width] for k in range(count)
        )
        whole = np.min(
            [known[k * width : len(starts) - (count - 1 - k) * width] for k in range(count)], axis=0
        )
        if whole.any():
            first = int(np.where(whole, totals, -1.0).argmax())
            break
        count -= 1
    else:
        first = int(clarity.argmax())
    found = []
    for left in (first + k * width for k in range(count)):
        middle = wall.rows[left : left + width].mean()
        y = int(np.clip(round(middle - height / 2), 0, max(image.shape[0] - height, 0)))
        found.append((x0 + left, y0 + y, width, min(height, image.shape[0])))
    return found


def _overlay(image: NDArray[np.uint8], lines: NDArray[np.float64], path: pathlib.Path) -> None:
    """Draw both lines on the part of the image that holds them, three times enlarged."""
    from matplotlib import pyplot

    x, li, ma = lines[:, 0], lines[:, 1], lines[:, 2]
    left, right = int(max(x.min() - 20, 0)), int(min(x.max() + 21, image.shape[1]))
    top, bottom = int(max(li.min() - 40, 0)), int(min(ma.max() + 41, image.shape[0]))
    part = image[top:bottom, left:right]
    figure = pyplot.figure(figsize=(part.shape[1] / 100, part.shape[0] / 100), dpi=300)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(
        part,
        cmap="gray",
        vmin=0,
        vmax=max(int(part.max()), 1),
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
    )
    breaks = np.flatnonzero(np.diff(x) != 1) + 1
    for row, colour in ((li, "#56B4E9"), (ma, "#E69F00")):
        for part_x, part_y in zip(np.split(x, breaks), np.split(row, breaks), strict=True):
            axes.plot(part_x, part_y, color=colour, linewidth=0.7)
    axes.axis("off")
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
