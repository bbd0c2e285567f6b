"""The exports of a run: as it is, with weights stored small, and what that costs.

``export/`` of a run holds ``APP/VERSION`` and, where they were asked for, ``APP-float16/VERSION``
and ``APP-int8/VERSION`` of the same number, and ``variants.json``, which compares the latest.
"""

import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from medxfer import data, serving
from medxfer.dataset_folder import DatasetFolder
from medxfer.network import BATCH
from medxfer.runs import RunFolder

Monitor = Callable[[NDArray[np.float64], NDArray[np.int64]], float]


def write(
    home: pathlib.Path,
    model: keras.Model,
    model_module: ModuleType,
    folder: DatasetFolder,
    *,
    monitor: Monitor,
    variants: Sequence[str] = (),
    **about: object,
) -> pathlib.Path:
    """Write the next version of a network's SavedModel and check it on images of the records.

    One process at a time may do this for a run: what a killed one left is deleted.

    Parameters
    ----------
    home : path
        Parent of the app's folder.
    model, model_module
        As for :func:`medxfer.serving.export`.
    folder : DatasetFolder
        The records; classes and validation part are those.
    monitor : callable
        Validation score of probabilities and labels.
    variants : sequence of str
        Further ways of storing the weights, of :data:`medxfer.serving_weights.KINDS`.
    about
        ``app``, ``patch`` and ``run_card_hash`` for :func:`medxfer.serving.export`.

    Returns
    -------
    path
        Of the version with float32 weights.

    Raises
    ------
    RuntimeError
        If a SavedModel answers otherwise than the network.
    """
    for left in home.glob("*/.partial-*"):
        shutil.rmtree(left)
    units = itertools.islice(data.units(folder, "validation"), 4)
    images = np.stack([unit["image"] for unit in units])
    made: dict[str, pathlib.Path] = {}
    for kind in ("float32", *variants):
        made[kind] = serving.export(
            model,
            home,
            classes=folder.classes,
            model_module=model_module,
            multilabel=folder.multilabel,
            fit=folder.settings.get("fit", ""),
            weights=kind,
            version=int(made["float32"].name) if made else None,
            **about,
        )
        difference = serving.verify(made[kind], model, model_module, images)
        logging.info("SavedModel (%s) written; it agrees to %.1e.", kind, difference)
    if variants:
        part = data.Pipeline(
            folder, "validation", batch_size=BATCH, transform=lambda images: images
        )
        rows = compare(
            made, lambda: (np.asarray(x) for _, x, _ in part.ordered()), part.labels, monitor
        )
        content = {"version": int(made["float32"].name), "examples": part.num_examples}
        RunFolder(home).write_json("variants.json", {**content, "variants": rows})
        logging.info("On %d images of the validation part:\n%s", part.num_examples, table(rows))
    return made["float32"]


def compare(
    exports: Mapping[str, pathlib.Path],
    batches: Callable[[], Iterable[NDArray[np.uint8]]],
    labels: NDArray[np.int64],
    monitor: Monitor,
) -> list[dict]:
    """Size and answers of every export.

    Parameters
    ----------
    exports : mapping
        Kind of the weights -> folder of the SavedModel; the first is the one to compare with.
    batches : callable
        Gives the images, uint8 (N, H, W, 1 or 3), from the first to the last.
    labels : int64 array of shape (N,) or (N, classes)
    monitor : callable
        Score of probabilities and labels.

    Returns
    -------
    list of dict
        ``weights``, ``bytes`` (of the whole folder), ``score``, and against the first:
        ``largest`` and ``mean`` difference of a probability, ``decisions``, the share of images
        whose most probable class (several labels an image: any label at 0.5) is another.
    """
    rows, reference = [], None
    for kind, path in exports.items():
        answer = tf.saved_model.load(str(path)).signatures["serving_default"]
        found = np.concatenate(
            [answer(image=tf.cast(images, tf.float32))["probabilities"] for images in batches()]
        ).astype(np.float64)
        reference = found if reference is None else reference
        difference = np.abs(found - reference)
        decided, before = (_decided(values, labels.ndim == 2) for values in (found, reference))
        rows.append(
            {
                "weights": kind,
                "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
                "score": float(monitor(found, labels)),
                "largest": float(difference.max()),
                "mean": float(difference.mean()),
                "decisions": float(np.mean(np.any(decided != before, axis=1))),
            }
        )
    return rows


def _decided(probabilities: NDArray[np.float64], multilabel: bool) -> NDArray:
    """Classes of every image, (N, classes) or (N, 1)."""
    return probabilities >= 0.5 if multilabel else probabilities.argmax(axis=1)[:, None]


def table(rows: Sequence[Mapping]) -> str:
    """The comparison for a person."""
    head = ("weights", "MB", "validation score", "largest difference", "mean", "other decisions")
    cells = [
        (
            row["weights"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['score']:.4f}",
            f"{row['largest']:.2g}",
            f"{row['mean']:.2g}",
            f"{row['decisions']:.2%}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in (head, *cells)
    )
