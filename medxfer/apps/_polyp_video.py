"""Prediction of the polyp app: candidates of raw video, each with its probability."""

import csv
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep import polyp_patches
from data_prep.candidates import polyp as candidates
from data_prep.errors import UserError
from data_prep.readers._field_of_view import field_of_view
from medxfer.apps import _endoscopy
from medxfer.apps._detection import Scorer
from medxfer.apps._options import NO_OPTIONS, PredictOptions

SHEET = 24  # frames on the contact sheet
COLUMNS = ("frame", "time_s", "x", "y", "box_x", "box_y", "box_width", "box_height", "probability")


def predict(
    path: pathlib.Path,
    scorer: Scorer,
    settings: Mapping,
    name: str,
    output: pathlib.Path,
    options: PredictOptions = NO_OPTIONS,
) -> dict:
    """Find and score candidates in one video.

    Writes ``NAME.csv`` and ``NAME.json`` (one entry per candidate: frame, time in s, point, box and
    probability, in pixels of the frame) and ``NAME.png``, a contact sheet of the frames with the
    highest probabilities; margins, where names are burnt in, stay out of the pictures.

    Parameters
    ----------
    path : pathlib.Path
        A video, an image, or a folder of images.
    scorer : Scorer
    settings : mapping
        Of the records that the network learnt from.
    name, output : str, pathlib.Path
        Stem and folder of the files written.
    options : PredictOptions
        ``every_s``; ``assets``, which hold the detector.

    Raises
    ------
    UserError
        If the video cannot be read, or the run has no detector.
    """
    place = options.assets / candidates.FILE if options.assets else None
    if place is None or not place.is_file():
        raise UserError(
            f"the run has no {candidates.FILE} in its folder assets: it was not trained by this app"
        )
    detector = candidates.load(place)
    asked = polyp_patches.Settings(
        patch=settings["patch"], scales=tuple(settings["scales"]), shift=settings["shift"]
    )
    rows, sheet, number, notes = [], [], 0, []
    for frame in _endoscopy.frames(path, options.every_s, notes):
        number += 1
        found = []
        for each in detector.detect(frame.image)[: settings["top_k"]]:
            stack = polyp_patches.views(frame.image, each.box, asked)
            unit = {"image": stack.reshape(-1, *stack.shape[2:]), "views": len(stack)}
            found.append((scorer(unit | {"score": each.score}), each))
        found.sort(key=lambda pair: -pair[0])
        for probability, each in found:
            values = (each.x, each.y, *each.box, probability)
            rows.append((frame.index, frame.time_s, *map(float, values)))
        if found:
            sheet.append((found[0][0], frame.index, frame.time_s, _picture(frame.image, found[0])))
            sheet = sorted(sheet, key=lambda shown: -shown[0])[:SHEET]
    with (output / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    entries = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    (output / f"{name}.json").write_text(json.dumps({"candidates": entries}, indent=1) + "\n")
    if sheet:
        _contact_sheet(sheet, output / f"{name}.png")
    probabilities = [row[-1] for row in rows]
    return {
        "frames": number,
        "candidates": len(rows),
        "above_one_half": sum(p >= 0.5 for p in probabilities),
        "highest_probability": max(probabilities, default=0.0),
        "notes": notes,
    }


def describe(found: Mapping) -> str:
    """One prediction in words."""
    return (
        f"{found['frames']} frames, {found['candidates']} candidates, "
        f"{found['above_one_half']} of them at 0.5 or more, "
        f"the highest at {found['highest_probability']:.2f}"
    )


def _picture(image: NDArray[np.uint8], best: tuple) -> NDArray[np.uint8]:
    """The frame without its margins, the best candidate's box drawn, 320 pixels wide."""
    import cv2

    drawn = image.copy()
    x, y, width, height = (int(round(value)) for value in best[1].box)
    thick = max(2, image.shape[1] // 200)
    cv2.rectangle(drawn, (x, y), (x + width, y + height), (86, 180, 233), thick)
    left, top, wide, high = field_of_view(image)
    drawn = drawn[top : top + high, left : left + wide]
    size = 320, max(1, round(320 * high / wide))
    return cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)


def _contact_sheet(sheet: list, path: pathlib.Path) -> None:
    """Pictures in the order of time, each with its frame and probability above."""
    from matplotlib.figure import Figure

    sheet = sorted(sheet, key=lambda shown: shown[1])
    columns = min(4, len(sheet))
    down = -(-len(sheet) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.1 * down), dpi=150, layout="constrained")
    axes = figure.subplots(down, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (probability, index, time_s, picture) in zip(axes, sheet, strict=False):
        axis.imshow(picture)
        when = f"frame {index}" if time_s is None else f"{time_s:.1f} s"
        axis.set_title(f"{when}: {probability:.2f}", fontsize=8)
    figure.savefig(path, metadata={"Software": None})
