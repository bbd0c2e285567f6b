"""Prediction of the classify app: what raw images show."""

import collections
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError
from medxfer.apps._options import NO_OPTIONS, PredictOptions
from medxfer.evaluation import classification

COLUMNS, ROWS = 6, 12  # of the contact sheet: images a class, classes


def raw_inputs(source: pathlib.Path) -> list[pathlib.Path]:
    """An image, or all images of a folder and of those in it."""
    from data_prep.readers import _pictures

    return _pictures.files(source)


def pictures(path: pathlib.Path, settings: Mapping) -> NDArray[np.uint8]:
    """Images of one file, read and fitted as the records were, uint8 (frames, side, side, 3).

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    from data_prep import classify
    from data_prep.readers import _pictures
    from data_prep.readers._images import Unusable

    decoding = _pictures.Decoding.of(settings)
    try:
        frames = _pictures.frames(path, decoding)
        read = [_pictures.read(path, decoding, frame)[0] for frame in frames]
    except Unusable as error:
        raise UserError(str(error)) from error
    return np.stack([classify.fit(image, settings["side"], settings["fit"]) for image in read])


def predict(
    path: pathlib.Path,
    scorer,
    settings: Mapping,
    name: str,
    output: pathlib.Path,
    options: PredictOptions = NO_OPTIONS,
) -> dict:
    """Classify one image; of a file of several frames the probabilities are the mean over them.

    Parameters
    ----------
    path : pathlib.Path
        An image.
    scorer : Scorer
    settings : mapping
        Of the records that the network learnt from, and ``classes``.
    name, output, options
        Nothing is written for a single image; see :func:`collect`.

    Returns
    -------
    dict
        ``predicted``, a class or a list of classes, and ``probabilities`` by class.

    Raises
    ------
    UserError
        If the image cannot be read.
    """
    probabilities = np.mean(scorer(pictures(path, settings)), axis=0, dtype=np.float64)
    classes, multilabel = settings["classes"], settings.get("multilabel", False)
    called = classification.called(probabilities[None], multilabel)[0]
    found = [cls for cls, shown in zip(classes, called, strict=True) if shown]
    return {
        "predicted": found if multilabel else found[0],
        "probabilities": {cls: float(p) for cls, p in zip(classes, probabilities, strict=True)},
    }


def describe(found: Mapping) -> str:
    """One prediction in words."""
    names = _names(found)
    words = ", ".join(f"{name} ({found['probabilities'][name]:.2f})" for name in names)
    return words or "none of the classes"


def collect(
    paths: Sequence[pathlib.Path],
    results: Sequence[Mapping],
    settings: Mapping,
    output: pathlib.Path,
) -> str:
    """Write ``contact_sheet.png``.

    It has a row for each predicted class, of the images that are surest to show it.

    Parameters
    ----------
    paths, results : sequences of equal length
        Files, and what :func:`predict` gave with their ``name``.
    settings : mapping
        As for :func:`predict`.
    output : pathlib.Path
        Folder.

    Returns
    -------
    str
        How many images show which class.
    """
    classes = settings["classes"]
    counts = collections.Counter(name for found in results for name in _names(found))
    nothing = sum(not _names(found) for found in results)
    _sheet(paths, results, settings, [name for name, _ in counts.most_common(ROWS)], output)
    words = [f"{name}: {counts[name]}" for name in classes]
    return ", ".join(words + ([f"none of them: {nothing}"] if nothing else []))


def _names(found: Mapping) -> list[str]:
    predicted = found["predicted"]
    return [predicted] if isinstance(predicted, str) else predicted


def _sheet(
    paths: Sequence[pathlib.Path],
    results: Sequence[Mapping],
    settings: Mapping,
    classes: Sequence[str],
    output: pathlib.Path,
) -> None:
    from medxfer.evaluation import classification_figures

    table = {}
    for cls in sorted(classes, key=settings["classes"].index):
        own = [number for number, found in enumerate(results) if cls in _names(found)]
        own.sort(key=lambda number: -results[number]["probabilities"][cls])
        table[cls] = [
            (pictures(paths[n], settings)[0], f"{results[n]['probabilities'][cls]:.2f}")
            for n in own[:COLUMNS]
        ]
    if table:
        figure = classification_figures.contact_sheet(table, COLUMNS)
        figure.savefig(output / "contact_sheet.png", dpi=200, metadata={"Software": None})
