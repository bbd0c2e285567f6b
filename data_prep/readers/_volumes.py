"""What every CT source becomes: one volume in Hounsfield units on a rectangular grid.

A kind of source is a module beside this one with ``KIND = "ct"``, ``LAYOUT`` and two functions::

    detect(root, files, options) -> list[Source]   cheap: file names and headers
    read(source) -> Volume                         one volume, whole; raises Unusable

A kind whose sources are single files also has ``SUFFIXES``, ``open_grid(path, root) -> Grid``,
with which label volumes are read too, and ``beside(path, root)``: the file that holds the voxels
where the header lies alone, else None. Voxel indices count from 0, at voxel centres. Patient
coordinates are in mm, left-posterior-superior (DICOM PS3.3, C.7.6.2.1.1).
"""

import dataclasses
import importlib
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _grids, of_kind, tables
from data_prep.readers._grids import Grid
from data_prep.readers._images import Unusable
from data_prep.readers._paths import inside
from data_prep.runner import Study

LESIONS = ("auto", "components", "values")
SUBJECTS = "subjects.csv"
NAMED = 20  # sources left out that are named one by one


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says about a source where its files leave a choice.

    Attributes
    ----------
    lesions : str
        What one lesion is in a label volume: "values": what has one value; "components": what hangs
        together (26 neighbours); "auto": components where all lesions have one value, else values.
        A file called ``...RefStd`` (CAD-PE) has values.
    derived : bool
        Whether DICOM series that call themselves derived or secondary are read too.
    """

    lesions: str = "auto"
    derived: bool = False

    def __post_init__(self) -> None:
        if self.lesions not in LESIONS:
            raise UserError(f"--lesions must be {', '.join(LESIONS)}: {self.lesions}.")


@dataclasses.dataclass(frozen=True)
class Source(Study):
    """Handle of one volume, cheap to make and to send to another process.

    Attributes
    ----------
    name, files
        See :class:`data_prep.runner.Study`.
    parts : tuple of str
        What each of the files is: "image" (one or, for a DICOM series, many), "data" (voxels of a
        header beside it, of the image or of labels), "labels", "points", "subjects".
    kind : str
        Module of this package that reads it.
    root : pathlib.Path
        Input folder, resolved. No file outside it is read.
    subject : str
        Identifier of the person, for making a pseudonym only.
    facts : dict
        What finding it already showed.
    problem : str
        Why it cannot be used.
    notes : tuple of str
        What was mended while it was found.
    aside : bool
        It is no CT volume at all (a localiser, another modality ...), for the reason in
        ``problem``; :func:`find` names it and leaves it out.
    """

    parts: tuple[str, ...]
    kind: str
    root: pathlib.Path
    subject: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    notes: tuple[str, ...] = ()
    aside: bool = False

    def paths(self, part: str) -> tuple[pathlib.Path, ...]:
        """Files that are such a part, maybe none."""
        named = zip(self.parts, self.files, strict=True)
        return tuple(path for kind, path in named if kind == part)


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """One CT volume, without anything that identifies a person.

    Attributes
    ----------
    hu : numpy.ndarray
        int16 (Z, Y, X) in Hounsfield units, in the order of the file (DICOM: ascending along the
        normal of the slices); at least -1024.
    spacing : numpy.ndarray
        float64 (3,) mm in the order z, y, x.
    affine : numpy.ndarray
        float64 (4, 4): (x, y, z) voxel index to patient LPS mm; its axes are at right angles.
    facts : mapping
        What the header says of the scan, where it does: "slice_thickness_mm", "kvp" (float),
        "contrast" (bool: an agent is named).
    placed : bool
        Whether the file says where the patient is; else ``affine`` holds the spacing alone.
    notes : tuple of str
        What was mended, in words fit for publication.
    """

    hu: np.ndarray
    spacing: np.ndarray
    affine: np.ndarray
    facts: Mapping[str, float | bool] = dataclasses.field(default_factory=dict)
    placed: bool = True
    notes: tuple[str, ...] = ()

    def to_patient(self, voxels: np.ndarray) -> np.ndarray:
        """Patient LPS mm, float64 (n, 3) x, y, z, of voxel indices (n, 3) in the order z, y, x."""
        indices = np.asarray(voxels, np.float64)[:, ::-1]
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxels(self, points: np.ndarray) -> np.ndarray:
        """Voxel indices, float64 (n, 3) z, y, x, of patient LPS mm (n, 3) x, y, z."""
        offsets = np.asarray(points, np.float64) - self.affine[:3, 3]
        return np.linalg.solve(self.affine[:3, :3], offsets.T).T[:, ::-1]


def find(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """CT volumes below a folder as :func:`search` finds them, with their subjects.

    Parameters
    ----------
    root : pathlib.Path
        May hold ``subjects.csv`` with the columns case and subject: which volumes (by name, with or
        without folder, or by the name's stem) are of one person. It is needed where formats without
        a patient identifier hold several volumes of one person.
    options : Options, optional

    Raises
    ------
    UserError
        As :func:`search`, and if ``subjects.csv`` is faulty.
    """
    root = root.resolve()
    sources = _with_subjects(search(root, options), root)
    if nameless := sum(source.subject == source.name for source in sources):
        logging.warning(
            "%d volumes without a patient identifier: each counts as a subject of its own. If some "
            "are of one person, say so in %s (columns case, subject).",
            nameless,
            root / SUBJECTS,
        )
    return sources


def search(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """CT volumes below a folder, of every format, each with the reference standard beside it.

    Only names and headers are read. What is no CT volume is left out, and named in the log.
    Folders that are links are not entered, and files that lead out of ``root`` are not opened.

    Parameters
    ----------
    root : pathlib.Path
    options : Options, optional

    Returns
    -------
    list of Source
        By name.

    Raises
    ------
    UserError
        If the folder is absent or holds no CT volume.
    """
    if not root.is_dir():
        raise UserError(f"--input={root} is not a folder.")
    root, options = root.resolve(), options or Options()
    paths = files(root)
    kinds = of_kind("ct")
    found = [source for module in kinds.values() for source in module.detect(root, paths, options)]
    # A label volume may belong to a source of a format that its own reader knows nothing of.
    used = {path for source in found if not source.aside for path in source.files}
    left = [source for source in found if source.aside and not used.issuperset(source.files)]
    aside = sorted(left, key=lambda source: source.name)
    for source in aside[:NAMED]:
        logging.info("Left out: %s: %s.", source.name, source.problem)
    if len(aside) > NAMED:
        logging.info("Left out: %d more that are no CT volume.", len(aside) - NAMED)
    sources = sorted((source for source in found if not source.aside), key=lambda s: s.name)
    if not sources:
        looked = "; ".join(module.LAYOUT for module in kinds.values())
        first = f" Left out: {aside[0].name}: {aside[0].problem}." if aside else ""
        raise UserError(f"{root} holds no CT volume. Looked for: {looked}.{first}")
    return sources


def read(source: Source) -> Volume:
    """Read a volume with the reader that found it.

    Raises
    ------
    Unusable
        With the reason. It may name files of the source, which the runner takes out of what is
        written.
    """
    if source.problem:
        raise Unusable(source.problem)
    for path in source.files:
        if not inside(path, source.root):
            raise Unusable(f"{path.name} leads out of the input folder")
        if not path.is_file():
            raise Unusable(f"{path.name} is missing")
    return importlib.import_module(f"{__package__}.{source.kind}").read(source)


def read_lesions(source: Source, volume: Volume):
    """The reference standard: see :func:`data_prep.readers._lesions.read`."""
    return importlib.import_module(f"{__package__}._lesions").read(source, volume)


def open_grid(path: pathlib.Path, root: pathlib.Path) -> Grid:
    """Header of a single file, by the reader of its suffix.

    Raises
    ------
    Unusable
        If the header cannot be read, or its volume cannot be.
    """
    return _module(path).open_grid(path, root)


def data_files(path: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
    """The file that holds the voxels of a header, none where it is the same or cannot be found."""
    try:
        found = _module(path).beside(path, root) if path.is_file() and inside(path, root) else None
    except Unusable:  # said when the volume is read
        return []
    return [] if found is None else [found]


def _module(path: pathlib.Path) -> types.ModuleType:
    for module in of_kind("ct").values():
        if volume_suffix(path) in getattr(module, "SUFFIXES", ()):
            return module
    raise Unusable(f"{path.name} is no volume file")


def volume_suffix(path: pathlib.Path) -> str:
    """The suffix in small letters, ".nii.gz" as a whole."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def read_file(source: Source) -> Volume:
    """Read a source that is one file.

    Raises
    ------
    Unusable
        With the reason.
    """
    (path,) = source.paths("image")
    grid = open_grid(path, source.root)
    spacing = _grids.check_affine(grid.affine)
    hu, low, high = _grids.hounsfield(grid)
    notes = source.notes + grid.notes + _grids.check_levels(low, high)
    affine = grid.affine
    if not grid.placed:
        # What the file says of directions and origin is of no patient.
        affine = np.diag([*spacing[::-1], 1.0])
        notes += ("the file gives no patient position: coordinates are from its first voxel",)
    return Volume(hu, spacing, affine, placed=grid.placed, notes=notes)


def data_file(path: pathlib.Path, root: pathlib.Path, name: str) -> pathlib.Path:
    """The file of voxels that a header names, where it is one file inside ``root``.

    Raises
    ------
    Unusable
        With the reason.
    """
    if name.upper().startswith("LIST") or "%" in name:
        raise Unusable("its voxels lie in several files: save it as one")
    data = path.parent / name
    if not inside(data, root):
        raise Unusable("its data file lies outside the input folder")
    if not data.is_file():
        raise Unusable("its data file is missing")
    return data


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """All files below ``root`` (resolved), sorted; linked folders are named and not entered."""
    found = []
    for folder, subfolders, names in os.walk(root):
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):
                logging.warning(
                    "Not entered, because it is a link: %s.", os.path.join(folder, name)
                )
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [pathlib.Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _with_subjects(sources: list[Source], root: pathlib.Path) -> list[Source]:
    table = tables.find(root, SUBJECTS)
    if table is None or not inside(table, root):
        return sources
    subjects: dict[str, str] = {}
    for row in tables.read(table).require("case", "subject", rows=False).rows:
        case, subject = row.given("case"), row.given("subject")
        if not case or not subject:
            raise UserError(f"{row.where} has a case without a subject, or none: fill it in.")
        if subjects.setdefault(case, subject) != subject:
            raise UserError(f"{row.where} gives {case} another subject than before: keep one.")
    tables.require_distinct(
        "subject", ((subject, f"{table}, case {case}") for case, subject in subjects.items())
    )
    given = []
    for source in sources:
        found = [subjects[name] for name in table_names(source) if name in subjects]
        if found:
            source = dataclasses.replace(
                source,
                subject=found[0],
                files=(*source.files, table),
                parts=(*source.parts, "subjects"),
            )
        given.append(source)
    return given


def table_names(source: Source) -> tuple[str, ...]:
    """What tables may call a source, the most exact name first."""
    return source.name, pathlib.PurePosixPath(source.name).name, source.facts["stem"]
