"""Prediction of the embolism app: candidates of a raw CT, each with its probability."""

import collections
import csv
import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from absl import logging
from numpy.typing import NDArray

from data_prep.candidates import embolus, vessel
from data_prep.errors import UserError
from data_prep.readers import _slices, _volumes
from data_prep.readers._images import Unusable
from data_prep.readers._volumes import Options, Source, Volume
from medxfer.apps._detection import Scorer
from medxfer.apps._options import NO_OPTIONS, PredictOptions

SHOWN = 8  # candidates in the figure
APART_MM = 10.0  # between any two of them, or one large clot would fill it
SLICE_MM = 80.0  # of the slice round a candidate
WINDOW = (-100.0, 500.0)  # HU
SIDES = ("RL", "AP", "IS")  # of the patient, to which x, y and z in mm rise
USUAL = "LPI"  # at the right or the lower edge of a slice as radiologists look at it
COLUMNS = ("x_mm", "y_mm", "z_mm", "voxel_x", "voxel_y", "voxel_z", "volume_mm3", "probability")


#: Volumes that :func:`raw_inputs` found, by the path it gave them, and whether they call
#: themselves derived.
_found: dict[pathlib.Path, tuple[Source, bool]] = {}


def raw_inputs(source: pathlib.Path) -> list[pathlib.Path]:
    """Folders of DICOM series and files of volumes.

    A series is called by its folder or, if other files that are read lie there too or it lies in
    several folders, by one of its files. Series that call themselves derived are taken where there
    is nothing else: most studies hold some beside the originals, made of them.
    """
    if source.is_file():
        return [source]
    for derived in (False, True):
        try:
            volumes = _volumes.search(source, Options(derived=derived))
            break
        except UserError as error:
            problem = error
    else:
        logging.warning("%s", problem)
        return []
    folders = [{path.parent for path in volume.paths("image")} for volume in volumes]
    crowd = collections.Counter(itertools.chain.from_iterable(folders))
    named = {}
    for volume, places in zip(volumes, folders, strict=True):
        first = volume.paths("image")[0]
        alone = volume.kind == "dicom_ct" and len(places) == 1 and crowd[first.parent] == 1
        named[first.parent if alone else first] = volume, derived
    _found.update(named)
    return sorted(named)


def predict(
    path: pathlib.Path,
    scorer: Scorer,
    settings: Mapping,
    name: str,
    output: pathlib.Path,
    options: PredictOptions = NO_OPTIONS,
) -> dict:
    """Find and score candidates in one volume.

    Writes ``NAME.csv`` and ``NAME.json`` (one entry per candidate, the surest first: patient
    coordinates in mm, voxel, volume, probability; the series by a hash of its UID only) and
    ``NAME.png``: the surest candidates, a centimetre apart or more, in the slice and in both
    planes of their vessel.

    Parameters
    ----------
    path : pathlib.Path
        A folder that holds one DICOM series, or a file.
    scorer : Scorer
    settings : mapping
        Of the records that the network learnt from: ``patch``, ``top_k``, ``test_patches``, and
        ``derived`` if series that call themselves so were read.
    name, output : str, pathlib.Path
        Stem and folder of the files written.
    options : PredictOptions
        None concerns volumes.

    Raises
    ------
    UserError
        If there is no volume or more than one, or it cannot be used.
    """
    known = settings.get("derived", False)
    source, derived = _found.get(path) or (_only(path, Options(derived=known)), known)
    if derived and not known:
        raise UserError(
            "it calls itself derived (ImageType), and the network learnt from series that do not"
        )
    try:
        volume = _volumes.read(source)
        how_many = embolus.Settings(most=settings["top_k"])
        candidates = embolus.find(volume.hu, volume.spacing, settings=how_many)
    except Unusable as error:
        raise UserError(str(error)) from error
    how = vessel.Settings(side=settings["patch"])
    wanted = vessel.spread(settings["test_patches"], how)
    scored = []
    for number, candidate in enumerate(candidates):
        axis = vessel.axis(volume.hu, volume.spacing, candidate, number, how)
        stack = vessel.planes(
            volume.hu, volume.spacing, candidate.voxel, axis.directions, how, wanted
        )
        unit = {"image": stack.reshape(-1, *stack.shape[2:]), "views": len(stack)}
        scored.append((float(scorer(unit)), candidate, axis))
    scored.sort(key=lambda found: -found[0])
    entries = [_entry(volume, probability, candidate) for probability, candidate, _ in scored]
    with (output / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(entries)
    content = {
        "series_uid_sha256": _series(source),
        "spacing_mm_zyx": [float(side) for side in volume.spacing],
        "candidates": entries,
    }
    (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if scored:
        _picture(volume, _apart(volume, scored), how, output / f"{name}.png")
    return {
        "candidates": len(entries),
        "above_one_half": sum(entry["probability"] >= 0.5 for entry in entries),
        "highest_probability": max((entry["probability"] for entry in entries), default=0.0),
        "notes": list(volume.notes),
    }


def describe(found: Mapping) -> str:
    """One prediction in words."""
    return (
        f"{found['candidates']} candidates, {found['above_one_half']} of them at 0.5 or more, the "
        f"highest at {found['highest_probability']:.2f}"
    )


def _only(path: pathlib.Path, options: Options) -> Source:
    path = path.resolve()
    found = _volumes.search(path if path.is_dir() else path.parent, options)
    if not path.is_dir():
        found = [each for each in found if path in each.paths("image")]
    if len(found) != 1:
        raise UserError(f"{path.name} holds {len(found)} CT volumes; give one at a time")
    return found[0]


def _series(source) -> str:
    """Hash by which the owner can find the series again: of its UID, or of the file's bytes."""
    first = source.paths("image")[0]
    if source.kind != "dicom_ct":
        with first.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    import pydicom

    with _slices.quiet():
        header = pydicom.dcmread(
            first, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True
        )
    return hashlib.sha256(str(header.SeriesInstanceUID).encode()).hexdigest()


def _entry(volume, probability: float, candidate) -> dict:
    z, y, x = (int(index) for index in candidate.voxel)
    left, back, up = volume.to_patient(np.array([candidate.voxel]))[0]
    return {
        "x_mm": float(left),
        "y_mm": float(back),
        "z_mm": float(up),
        "voxel_x": x,
        "voxel_y": y,
        "voxel_z": z,
        "volume_mm3": float(candidate.volume_mm3),
        "probability": probability,
    }


def _apart(volume, scored: list) -> list:
    """The surest of them that are not close to a surer one; at most :data:`SHOWN`."""
    places = volume.to_patient(np.array([candidate.voxel for _, candidate, _ in scored]))
    kept: list[int] = []
    for number, place in enumerate(places):
        distances = np.linalg.norm(places[kept] - place, axis=1)
        if len(kept) < SHOWN and (distances >= APART_MM).all():
            kept.append(number)
    return [scored[number] for number in kept]


def _picture(volume, scored: list, how: vessel.Settings, path: pathlib.Path) -> None:
    """Slice with a cross, longitudinal plane, cross-section: a column for each candidate."""
    from matplotlib.figure import Figure

    count = len(scored)
    figure = Figure(figsize=(1.9 * count + 0.6, 6), dpi=150, layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    middle = vessel.middle(how)
    for column, (probability, candidate, axis) in enumerate(scored):
        (view,) = vessel.planes(
            volume.hu, volume.spacing, candidate.voxel, axis.directions, how, [middle]
        )
        _slice(axes[0, column], volume, candidate.voxel)
        axes[0, column].set_title(f"{probability:.2f}, slice {candidate.voxel[0]}", fontsize=8)
        _gray(axes[1, column], view[..., 0])
        _gray(axes[2, column], view[..., 1])
        for panel in axes[:, column]:
            panel.set(xticks=[], yticks=[])
    rows = (f"slice, {SLICE_MM:g} mm", f"along the vessel, {middle.width_mm:g} mm", "across it")
    for panel, words in zip(axes[:, 0], rows, strict=True):
        panel.set_ylabel(words, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _slice(axis, volume: Volume, voxel) -> None:
    """The slice round a voxel as radiologists look at it, whatever the order of its file.

    Where the file says where the patient is, the sides are named.
    """
    z, y, x = voxel
    aspect = volume.spacing[1] / volume.spacing[2]
    axis.imshow(volume.hu[z], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=aspect)
    axis.plot(x, y, "+", color="#56B4E9", markersize=9)
    left, right, top, bottom = _around(x, y, volume)
    axis.set(xlim=(left, right), ylim=(bottom, top), facecolor="black")
    if not volume.placed:
        return
    for ends, invert, places in (
        (_sides(volume.affine[:3, 0]), axis.invert_xaxis, ((0.05, 0.5), (0.95, 0.5))),
        (_sides(volume.affine[:3, 1]), axis.invert_yaxis, ((0.5, 0.95), (0.5, 0.05))),
    ):
        if ends[1] not in USUAL:
            ends = ends[::-1]
            invert()
        for place, letter in zip(places, ends, strict=True):
            axis.text(
                *place, letter, color="white", fontsize=7, ha="center", va="center",
                transform=axis.transAxes,
            )  # fmt: skip


def _sides(direction: NDArray[np.float64]) -> str:
    """Sides of the patient at the low and at the high end of an axis with such a direction."""
    along = int(np.abs(direction).argmax())
    return SIDES[along][:: 1 if direction[along] > 0 else -1]


def _gray(axis, image: NDArray[np.uint8]) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def _around(x: int, y: int, volume) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of a window round a voxel, in voxels."""
    across, down = SLICE_MM / 2 / volume.spacing[2], SLICE_MM / 2 / volume.spacing[1]
    return x - across, x + across, y - down, y + down
