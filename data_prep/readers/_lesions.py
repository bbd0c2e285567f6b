"""Reference standards of CT volumes: label volumes and lists of points, found by their names.

A label volume lies in a folder called labels, labelsTr, masks, segmentations or rs, or its name
ends in ``_label``, ``_mask``, ``_seg``, ``RefStd`` and the like. It belongs to the volume of the
same name in the same folder or, from such a folder (that of another patient is none), to one in
the folder around its own or in one beside its own; for a DICOM series the name is that of its
folder, and inside it any label volume counts, if it is the only series there. A file called
``label`` or ``mask`` alone belongs to the one volume of its folder.

``NAME_points.csv`` or ``points/NAME.csv`` has the columns x, y, z (voxel indices from 0) or x_mm,
y_mm, z_mm (patient LPS), and optionally lesion, the same in all points of one lesion.
``points.csv`` in the input folder also has the column case. A row without coordinates says that a
volume has no lesion.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.ndimage

from data_prep.readers import _grids, _volumes, tables
from data_prep.readers._images import Unusable
from data_prep.readers._volumes import Options, Source, Volume

WORDS = r"(?:labels?|masks?|seg|segs|segmentations?|emboli|embolus|lesions?|gt)"
ENDING = re.compile(rf"^(?:(.*?)[._ -])??{WORDS}$|^(.*?)[._ -]?refstd$", re.IGNORECASE)
FOLDER = re.compile(rf"^(?:.*[._ -])?{WORDS}(?:t[rs])?$|^rs$", re.IGNORECASE)
IMAGE_ENDING = re.compile(r"(?:[._ -](?:0000|ct|cta|ctpa|image|img))+$", re.IGNORECASE)
POINTS_ENDING = re.compile(r"^(.*?)[._ -]points$", re.IGNORECASE)
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
POINTS = "points.csv"
DISPLACED = 0.05  # voxels; a label grid displaced by more was moved, and is said to be


@dataclasses.dataclass(frozen=True, eq=False)
class Lesions:
    """The reference standard of one volume.

    Attributes
    ----------
    count : int
        Number of lesions, which are called 1 to ``count``; 0 where it has none.
    labels : numpy.ndarray or None
        int16 (Z, Y, X), the lesion in each voxel, 0 for none; None where the lesions are points.
    points : numpy.ndarray
        float64 (n, 3): x, y, z in patient LPS mm; empty where there are labels.
    numbers : numpy.ndarray
        int64 (n,): the lesion of each point.
    notes : tuple of str
        What was mended, in words fit for publication.
    """

    count: int
    labels: np.ndarray | None
    points: np.ndarray
    numbers: np.ndarray
    notes: tuple[str, ...] = ()


def sources(
    module: str,
    suffixes: Iterable[str],
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    options: Options,
) -> list[Source]:
    """Sources that are single files with such suffixes; headers are opened for their data's names.

    ``module`` is the reader's ``__name__``; label volumes without a CT are set aside.
    """
    index = Index(root, files)
    images = [path for path in files if _volumes.volume_suffix(path) in suffixes]
    labels = [path for path in images if path in index.label_files]
    images = [path for path in images if path not in index.label_files]
    found = []
    for path in images:
        name = path.relative_to(root).as_posix()
        alone = index.images[path.parent] == 1
        parts, problem = index.references(stem(path), path.parent, alone)
        parts += [("data", other) for other in _volumes.data_files(path, root)]
        outside = not _volumes.inside(path, root)
        found.append(
            Source(
                name,
                (path, *(other for _, other in parts)),
                ("image", *(part for part, _ in parts)),
                module.rpartition(".")[2],
                root,
                name,
                facts={"stem": stem(path), "lesions": options.lesions},
                problem="it is a link that leads out of the input folder" if outside else problem,
                aside=outside,
            )
        )
    return found + [
        Source(
            path.relative_to(root).as_posix(),
            (path,),
            ("labels",),
            module.rpartition(".")[2],
            root,
            "",
            problem="a label volume without its CT",
            aside=True,
        )
        for path in labels
        if index.is_alone(path)
    ]


class Index:
    """Label volumes and point lists of an input folder by the case that their names give."""

    def __init__(self, root: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
        self._root = root
        self.label_files: dict[pathlib.Path, str] = {}
        self.images: collections.Counter[pathlib.Path] = collections.Counter()  # by their folder
        self._points: dict[pathlib.Path, str] = {}
        self._images: set[str] = set()
        self._shared = tables.find(root, POINTS)
        for path in files:
            if _volumes.volume_suffix(path) in VOLUME_SUFFIXES:
                ending = ENDING.match(stem(path))
                if ending:
                    self.label_files[path] = _plain(ending[1] or ending[2] or "")
                elif path.parent != root and FOLDER.match(path.parent.name):
                    self.label_files[path] = _plain(stem(path))
                else:
                    self._images.add(_plain(stem(path)))
                    self.images[path.parent] += 1
            elif path.suffix.lower() in (".csv", *tables.SHEETS) and path != self._shared:
                if ending := POINTS_ENDING.match(path.stem):
                    self._points[path] = _plain(ending[1])
                elif path.parent.name.lower() == "points":
                    self._points[path] = _plain(path.stem)

    def is_alone(self, path: pathlib.Path) -> bool:
        """Whether no volume of any format has the name of this label volume."""
        case = self.label_files[path]
        return bool(case) and case not in self._images

    def ownerless(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Label volumes in a folder whose name is that of no volume file."""
        return [
            path
            for path, case in self.label_files.items()
            if path.parent == folder and case not in self._images
        ]

    def references(
        self, name: str, folder: pathlib.Path, alone: bool, inner: pathlib.Path | None = None
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Parts that are the reference standard of a volume, and a problem where several could be.

        Parameters
        ----------
        name : str
            Of the volume, without suffix.
        folder : pathlib.Path
            In which it lies.
        alone : bool
            Whether it is the only volume there.
        inner : pathlib.Path, optional
            Folder of which it is the only series: any label volume in it that is no other volume's
            belongs to it.
        """
        labels = _nearest(self.label_files, _plain(name), folder, inner)
        if not labels and inner is not None:
            labels = self.ownerless(inner)
        if not labels and alone:
            labels = [
                path
                for path, case in self.label_files.items()
                if path.parent == folder and case == ""
            ]
        points = _nearest(self._points, _plain(name), folder, inner)
        parts = [("labels", path) for path in labels]
        if not parts:
            parts = [("points", path) for path in points]
        if not parts and self._shared is not None:
            parts = [("points", self._shared)]
        # All that it names are parts: the runner takes their names out of what is written.
        names = ", ".join(path.name for _, path in parts)
        several = len(parts) > 1
        for path in labels:
            parts += [("data", other) for other in _volumes.data_files(path, self._root)]
        return parts, f"more than one reference standard has its name: {names}" if several else ""


def _nearest(
    index: dict[pathlib.Path, str], case: str, folder: pathlib.Path, inner: pathlib.Path | None
) -> list[pathlib.Path]:
    """Files of a case in the folder itself, else inside it, else beside it.

    Those inside or beside it are in ``inner`` or in a folder that is called one of reference
    standards: where every patient's files have the same names, all other folders are other
    patients'. Of several beside it, that of imagesTr is in labelsTr, if anywhere.
    """
    named = [path for path, name in index.items() if name == case]
    kept = [path for path in named if path.parent == inner or _is_of_references(path.parent)]
    beside = [path for path in kept if path.parent.parent == folder.parent]
    twin = re.sub("images?", "labels", folder.name.lower())
    for group in (
        [path for path in named if path.parent == folder],
        [path for path in kept if path.parent.parent == folder],
        [path for path in beside if path.parent.name.lower() == twin],
        beside,
    ):
        if group:
            return group
    return []


def _is_of_references(folder: pathlib.Path) -> bool:
    return folder.name.lower() == "points" or FOLDER.match(folder.name) is not None


def stem(path: pathlib.Path) -> str:
    """The name without its suffix, of which ``.nii.gz`` is one."""
    return path.name[: len(path.name) - len(_volumes.volume_suffix(path))]


def _plain(name: str) -> str:
    return IMAGE_ENDING.sub("", name).lower()


def read(source: Source, volume: Volume) -> Lesions | None:
    """The reference standard of a volume; None where it has none.

    Parameters
    ----------
    source : Source
    volume : Volume
        As it was read from ``source``.

    Raises
    ------
    Unusable
        If a file is damaged, labels lie on another grid, or points outside the volume.
    """
    if paths := source.paths("labels"):
        return _read_labels(paths[0], source, volume)
    if paths := source.paths("points"):
        shared = paths[0] == source.root / POINTS
        names = [name.lower() for name in _volumes.table_names(source)] if shared else None
        return _read_points(paths[0], names, volume)
    return None


def _read_labels(path: pathlib.Path, source: Source, volume: Volume) -> Lesions:
    grid = _volumes.open_grid(path, source.root)
    if grid.placed and volume.placed:
        labels, notes = regrid(_grids.labels(grid), grid.affine, volume)
    elif grid.shape == volume.hu.shape:
        labels = _grids.labels(grid)
        notes = ("volume and labels were laid over each other voxel by voxel: one has no position",)
    else:
        raise Unusable(
            f"the label volume has {_text(grid.shape)} voxels, the CT {_text(volume.hu.shape)}, "
            "and one of them has no position"
        )
    values = np.zeros(np.iinfo(np.int16).max + 1, bool)
    for plane in labels:
        values[plane] = True
    values[0] = False
    how = source.facts.get("lesions", "auto")
    if how == "auto":
        one_each = values.sum() > 1 or stem(path).lower().endswith("refstd")
        how = "values" if one_each else "components"
    if how == "values":
        numbers = np.cumsum(values, dtype=np.int16) * values
        for plane in labels:
            plane[...] = numbers[plane]
        count = int(values.sum())
    else:
        count = _number_components(labels)
    return Lesions(count, labels, np.zeros((0, 3)), np.zeros(0, np.int64), notes)


def _number_components(labels: np.ndarray) -> int:
    """Number what hangs together, in place; how many there are."""
    if not labels.any():
        return 0
    marked = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(places[0], places[-1] + 1) for places in marked)
    try:
        # Numbers of 16 bits: those of 32 would be twice the volume's size.
        labels[box], count = scipy.ndimage.label(labels[box], np.ones((3, 3, 3)), np.int16)
    except RuntimeError as error:
        raise Unusable("the label volume has more than 32767 separate parts") from error
    return int(count)


def regrid(
    labels: np.ndarray, affine: np.ndarray, volume: Volume
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bring labels to a volume's grid, of which theirs is a part or an extension.

    Axes may be in another order or run the other way. No label is interpolated: each voxel takes
    that of the nearest.

    Parameters
    ----------
    labels : numpy.ndarray
        int16 (Z', Y', X').
    affine : numpy.ndarray
        (4, 4): their (x, y, z) voxel index to patient LPS mm.
    volume : Volume

    Returns
    -------
    labels : numpy.ndarray
        int16, shape of ``volume.hu``; 0 where the given labels do not reach.
    notes : tuple of str

    Raises
    ------
    Unusable
        If spacing or directions differ, or all labels lie outside the volume.
    """
    try:
        onto = np.linalg.solve(volume.affine, affine)
    except np.linalg.LinAlgError as error:
        raise Unusable("the volume's grid is degenerate") from error
    turned = np.rint(onto[:3, :3])
    last = np.array(labels.shape[::-1]) - 1
    off = np.abs(onto[:3, :3] - turned) @ last
    if not np.isfinite(onto).all() or (np.abs(turned).sum(axis=0) != 1).any():
        raise Unusable("the labels lie on another grid: spacing or directions differ from the CT's")
    if (np.abs(turned).sum(axis=1) != 1).any() or off.max() > 0.5:
        raise Unusable("the labels lie on another grid: spacing or directions differ from the CT's")
    # From here on in the order x, y, z of the volume.
    order, signs = np.abs(turned).argmax(axis=1), turned.sum(axis=1)
    there = labels.T.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
    corner = np.where(turned.sum(axis=0) < 0, last, 0)
    first = onto[:3, :3] @ corner + onto[:3, 3]
    start = np.rint(first).astype(np.int64)
    out = np.zeros(volume.hu.shape, np.int16)
    shape = np.array(out.T.shape)
    low, high = np.maximum(start, 0), np.minimum(start + there.shape, shape)
    marked = int(np.count_nonzero(labels))
    if (low < high).all():
        here = tuple(map(slice, low, high))
        out.T[here] = there[tuple(map(slice, low - start, high - start))]
    lost = marked - int(np.count_nonzero(out))
    if lost and lost == marked:
        raise Unusable("all labels lie outside the CT")
    notes = []
    if not np.array_equal(start, (0, 0, 0)) or there.shape != out.T.shape:
        notes.append("labels cut or extended to the extent of the CT")
    if np.abs(first - start).max() > DISPLACED:
        worst = np.abs(first - start).max()
        notes.append(f"labels moved by {worst:.2f} voxels to the nearest of the CT")
    if lost:
        notes.append(f"{lost} of {marked} labelled voxels lie outside the CT")
    return out, tuple(notes)


def _read_points(path: pathlib.Path, names: list[str] | None, volume: Volume) -> Lesions | None:
    """Points of a list, all of it or the rows whose case has one of the names."""
    found: list[tuple[str, list[float]]] = []
    known: dict[str, str] = {}
    named = in_mm = False
    needs = "columns x, y, z or x_mm, y_mm, z_mm with numbers"
    try:
        table = tables.read(path)
        in_mm = "x_mm" in table.headings
        columns = ("x_mm", "y_mm", "z_mm") if in_mm else ("x", "y", "z")
        for row in table.require(
            *columns, *(["case"] if names is not None else []), rows=False
        ).rows:
            if names is not None and row.given("case").lower() not in names:
                continue
            named = True
            if any(row[column] for column in columns):
                lesion = row.given("lesion") or f"row {row.number}"
                if known.setdefault(tables.key(lesion), lesion) != lesion:
                    problem = "names a lesion otherwise than another row"
                    raise row.error("lesion", problem, "write its name alike")
                found.append((lesion, [row.measure(column) for column in columns]))
    except tables.TableError as error:
        raise Unusable(
            f"{error.reason} (the list of points needs the {needs}"
            + ("" if names is None else ", and the column case")
            + ")"
        ) from error
    if names is not None and not named:
        return None
    if in_mm and found and not volume.placed:
        raise Unusable("points in mm need a CT with a position: list voxels, in columns x, y, z")
    places = np.array([values for _, values in found], np.float64).reshape(-1, 3)
    voxels = volume.to_voxels(places) if in_mm else places[:, ::-1]
    outside = ~((voxels > -0.5) & (voxels < np.array(volume.hu.shape) - 0.5)).all(axis=1)
    if outside.any():
        raise Unusable(f"{outside.sum()} of {len(places)} points lie outside the CT")
    order = {lesion: number for number, lesion in enumerate(dict(found), 1)}
    numbers = np.array([order[lesion] for lesion, _ in found], np.int64)
    points = places if in_mm else volume.to_patient(voxels)
    return Lesions(len(order), None, points, numbers)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[::-1]))
