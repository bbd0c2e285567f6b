"""Prediction of the carotid app: the far wall of raw images without annotation."""

import csv
import pathlib
import typing
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep import patches
from data_prep.errors import UserError
from data_prep.readers import _carotid, _stills
from medxfer.apps._options import NO_OPTIONS, PredictOptions
from medxfer.handcrafted import cimt as tracer

if typing.TYPE_CHECKING:
    from medxfer.apps.cimt import Scorer

MIN_THICKNESS_MM = 0.2  # less is no wall


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

    Writes ``NAME.csv`` (one row per column: x, both rows in pixels of the image, thickness in mm)
    and ``NAME.png``, the part of the image round the wall with both lines; headers and margins,
    where names are burnt in, stay out of the picture.

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
        If the image cannot be read, is not calibrated, or shows no wall.
    """
    still = _stills.read(path)
    mm_per_pixel = options.mm_per_pixel or still.mm_per_pixel
    if not mm_per_pixel:
        raise UserError("it does not say how large a pixel is; give --mm_per_pixel")
    smallest, largest = _carotid.MM_PER_PIXEL
    if not smallest <= mm_per_pixel <= largest:
        raise UserError(
            f"a pixel of {mm_per_pixel:g} mm is not between {smallest:g} and {largest:g} mm; give "
            "--mm_per_pixel"
        )
    given = options.region
    regions = [given] if given else _wall_regions(still.image, mm_per_pixel, settings)
    margin = settings["margin"]
    height, width = still.image.shape
    table = []
    for x, y, w, h in regions:
        if x + w > width or y + h > height:
            raise UserError(f"--roi reaches beyond the image of {width} x {height} pixels")
        if h * mm_per_pixel <= MIN_THICKNESS_MM + mm_per_pixel:
            raise UserError(f"no wall fits into {h} rows of {mm_per_pixel:g} mm each")
        window = patches.window(still.image, x - margin, y - margin, w + 2 * margin, h + 2 * margin)
        found = scorer(window, margin, mm_per_pixel).boundaries
        for column, (li, ma) in enumerate(zip(found.li, found.ma, strict=True)):
            table.append((x + column, y + li, y + ma, (ma - li) * mm_per_pixel))
    with (output / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "lumen_intima_y", "media_adventitia_y", "thickness_mm"])
        writer.writerows((x, *map(float, rest)) for x, *rest in table)
    lines = np.array(table, np.float64)
    _overlay(still.image, lines, output / f"{name}.png")
    thickness = lines[:, 3]
    return {
        "mm_per_pixel": mm_per_pixel,
        "regions": [list(map(int, found)) for found in regions],
        "columns": len(lines),
        "thickness_mm": float(thickness.mean()),
        "thickness_max_mm": float(thickness.max()),
        "notes": list(still.notes),
    }


def describe(found: Mapping) -> str:
    """One prediction in words."""
    return (
        f"thickness {found['thickness_mm']:.3f} mm, at most {found['thickness_max_mm']:.3f} mm, "
        f"over {found['columns'] * found['mm_per_pixel']:.1f} mm of wall"
    )


def _wall_regions(
    image: NDArray[np.uint8], mm_per_pixel: float, settings: Mapping
) -> list[tuple[int, int, int, int]]:
    """Neighbouring regions along the part of the far wall that is seen best."""
    width, height = settings["roi_width"], settings["roi_height"]
    wall = tracer.find_far_wall(image, mm_per_pixel)
    starts = np.arange(0, image.shape[1] - width + 1)
    known = np.convolve(~np.isnan(wall.rows), np.ones(width), "valid") == width
    if not known.any():
        raise UserError("no far wall was found; give its place with --roi=x,y,width,height")
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
        top = int(np.clip(round(middle - height / 2), 0, max(image.shape[0] - height, 0)))
        found.append((left, top, width, min(height, image.shape[0])))
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
