"""Prediction of the frame app: how informative each frame of a raw video is."""

import csv
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from data_prep.errors import UserError
from data_prep.frame import fill
from medxfer.apps import _endoscopy
from medxfer.apps._options import NO_OPTIONS, PredictOptions


def predict(
    path: pathlib.Path,
    scorer,
    settings: Mapping,
    name: str,
    output: pathlib.Path,
    options: PredictOptions = NO_OPTIONS,
) -> dict:
    """Score the frames of one video.

    Writes ``NAME.csv`` and ``NAME.json`` (frame, time in s, probability of being informative) and
    ``NAME.png``, the score over time.

    Parameters
    ----------
    path : pathlib.Path
        A video, an image, or a folder of images.
    scorer : Scorer
    settings : mapping
        Of the records that the network learnt from: ``width`` and ``height`` of a frame.
    name, output : str, pathlib.Path
        Stem and folder of the files written.
    options : PredictOptions
        ``every_s``.

    Raises
    ------
    UserError
        If the video cannot be read to its end.
    """
    rows, notes = [], []
    for frame in _endoscopy.frames(path, options.every_s, notes):
        image = fill(frame.image, settings["width"], settings["height"])
        rows.append((frame.index, frame.time_s, float(scorer({"image": image}))))
    if not rows:
        raise UserError("it has no frame")
    columns = ("frame", "time_s", "informative")
    with (output / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    entries = [dict(zip(columns, row, strict=True)) for row in rows]
    scores = np.array([row[2] for row in rows])
    found = {
        "frames": len(rows),
        "informative": int((scores >= 0.5).sum()),
        "informative_share": float((scores >= 0.5).mean()),
        "notes": notes,
    }
    (output / f"{name}.json").write_text(json.dumps({**found, "scores": entries}, indent=1) + "\n")
    timed = all(row[1] is not None for row in rows)
    places = [row[1] if timed else row[0] for row in rows]
    _timeline(np.array(places, np.float64), scores, timed, output / f"{name}.png")
    return found


def describe(found: Mapping) -> str:
    """One prediction in words."""
    return (
        f"{found['informative']} of {found['frames']} frames informative "
        f"({found['informative_share']:.0%}, probability 0.5 or more)"
    )


def _timeline(places: np.ndarray, scores: np.ndarray, timed: bool, path: pathlib.Path) -> None:
    from medxfer.evaluation import figures

    figure = figures.timeline(places, scores, "time, s" if timed else "frame")
    figure.savefig(path, dpi=200, metadata={"Software": None})
