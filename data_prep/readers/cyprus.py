"""The Cyprus intima-media images (Loizou, Pantzaris et al.): one folder an image.

``ID/ID.CRI`` is a palette TIFF. ``ID/ID.scl`` is a MATLAB 5 file: ``scale`` in mm/pixel, the
clinician's thickness in mm (``imt_thikn`` mean, ``Param_2`` least, ``Param_1`` greatest), and the
far wall's points, intima and media by turns, with x in ``Param_3`` and y in ``Param_4``.
``ID/ID_boundaries.json`` says the same and is read where there is no ``.scl``. Both count pixel
centres from 1, as MATLAB does: every row in the set lies on a grid from 0.5 to 576.5, the extent of
576 rows in MATLAB, and the set's own band masks agree. Here pixel centres count from 0.

The images are fewer persons than files: an exam gives up to five, some of them seconds apart. Its
number is burnt into the header, and images with the same stamp share a subject. Some are even one
frame, stored twice and annotated twice: below the header they differ in the callipers alone.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from data_prep.readers import _carotid, _consensus, _matlab
from data_prep.readers._carotid import CarotidStudy, Options, Source
from data_prep.readers._images import Unusable, load_grey

KIND = "carotid"
LAYOUT = "folders ID/ with ID.CRI beside ID.scl or ID_boundaries.json (Cyprus)"

REPEATED = "repeated annotation"  # part of a study: one more annotation of its frame
SCREEN = (576, 768)  # rows and columns of the scanner's screen, where the stamp's place is known
STAMP = (slice(12, 28), slice(294, 500))  # the exam number alone: no name, date, time or probe
STAMP_LEVEL = 128  # letters are 176 on 10
WHITED_OUT = 240  # names were painted over with 255
HEADER = 60  # rows of the screen that hold text, the clock among it
SAME_LEVEL = 8  # levels that differ by no more are the same
SAME_FRAME = 0.005  # share of other pixels: 0.001 in one frame stored twice, 0.28 in two frames
AGREEMENT_MM = 0.1  # stored figures follow the points drawn, slightly aslant, not vertical gaps


@dataclasses.dataclass(frozen=True)
class _Record:
    """One annotation file: points (n, 2), stored (mean, least, greatest) thickness in mm."""

    mm_per_pixel: float
    lumen_intima: np.ndarray
    media_adventitia: np.ndarray
    stored: tuple[float, float, float]

    @property
    def thickness(self) -> np.ndarray:
        """Thickness in mm at each pair of points, as they are in the file."""
        return (self.media_adventitia[:, 1] - self.lumen_intima[:, 1]) * self.mm_per_pixel

    @property
    def is_measured(self) -> bool:
        """Whether the stored figures were measured on these points."""
        return self.stored[0] > 0 and self.agrees_with(self.thickness)

    def agrees_with(self, thickness: np.ndarray) -> bool:
        """Whether the stored figures, but for those that are 0, are those of ``thickness``."""
        measured = thickness.mean(), thickness.min(), thickness.max()
        pairs = zip(self.stored, measured, strict=True)
        return all(abs(said - seen) <= AGREEMENT_MM for said, seen in pairs if said)


def detect(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Find the folders that hold an image of their own name.

    Stamps, points and frames of all of them are read: only together do they show which images
    belong to one exam, which study carries points copied from another, and which repeats a frame.
    The first study of a repeated frame, by name, then stands for all its usable annotations.
    """
    options = options or Options()
    images = [
        path for path in sorted(root.glob("*/*.[cC][rR][iI]")) if path.stem == path.parent.name
    ]
    sources, drawn = {}, defaultdict(list)
    for image in images:
        source = _find(root, image)
        sources[source.name] = source
        try:
            _carotid.require(source)
            record = _read_record(source.file("annotation"))
        except Unusable:  # said again, with its reason, when the study is read
            continue
        points = np.concatenate([record.lumen_intima, record.media_adventitia])
        drawn[points.tobytes()].append((source.name, record))
    for group in drawn.values():
        group.sort(key=lambda pair: not pair[1].is_measured)  # whose points they are comes first
        owners = [name for name, record in group if record.is_measured]
        for name, _ in group if len(group) > 1 else ():
            if owners != [name]:
                sources[name] = _left_out(
                    sources[name],
                    [sources[other] for other, _ in group],
                    "its points are a copy of another image's: they were not drawn on this one",
                )
    if options.repeats == "consensus":
        for first, *others in _repeats(sources.values()):
            sources[first.name] = _with_annotations(first, others, REPEATED)
            for other in others:
                sources[other.name] = _left_out(
                    other,
                    [first, *others],
                    "repeats the frame of another image; its points are part of that one's "
                    "consensus",
                )
    return list(sources.values())


def read(source: Source) -> CarotidStudy:
    """Read one study; :func:`data_prep.readers._carotid.make_study` says what is checked.

    Where it stands for several annotations, it is their consensus.

    Raises
    ------
    Unusable
        Also if the stored thickness contradicts the points: then they are not what was measured.
    """
    _carotid.require(source)
    files = [source.file("annotation")]
    named = zip(source.parts, source.files, strict=True)
    files += [path for part, path in named if part == REPEATED]
    image, notes = load_grey(source.file("image"), is_drawn_on=True)
    studies = [_study(source, image, notes, path) for path in files]
    return _consensus.consensus(studies) if len(studies) > 1 else studies[0]


def _study(
    source: Source, image: np.ndarray, notes: tuple[str, ...], path: pathlib.Path
) -> CarotidStudy:
    """The image with one of its annotation files."""
    record = _read_record(path)
    if record.stored[0] == 0:
        notes += ("the stored mean thickness of 0 was not used, the points were",)
    study = _carotid.make_study(
        source,
        image,
        record.mm_per_pixel,
        record.lumen_intima,
        record.media_adventitia,
        mm_per_pixel_x=record.mm_per_pixel,
        stored_imt_mm=record.stored[0] or None,
        notes=notes,
    )
    # What was mended just now may or may not have been part of what was measured then.
    x, top = study.lumen_intima.T
    mended = (np.interp(x, *study.media_adventitia.T) - top) * study.mm_per_pixel
    if not (record.agrees_with(record.thickness) or record.agrees_with(mended)):
        said = "mean {:.2f}, {:.2f} to {:.2f} mm".format(*record.stored)
        raise Unusable(f"its stored thickness ({said}) is not that of its points")
    return study


def _find(root: pathlib.Path, image: pathlib.Path) -> Source:
    name = image.parent.name
    scl, plain = image.with_suffix(".scl"), image.with_name(f"{name}_boundaries.json")
    annotation = scl if scl.exists() or not plain.exists() else plain
    source = _carotid.source(__name__, root, name, name, {"image": image, "annotation": annotation})
    try:
        _carotid.require(source)
        exam = _exam(load_grey(image)[0])
    except Unusable:  # said again, with its reason, when the study is read
        return source
    if exam:
        return dataclasses.replace(source, subject=exam)
    note = "no exam number in the image: its folder counts as one subject"
    return dataclasses.replace(source, notes=(note,))


def _with_annotations(source: Source, others: Iterable[Source], part: str) -> Source:
    """Add the annotations of other studies to the files that the study depends on."""
    paths = tuple(other.file("annotation") for other in others)
    return dataclasses.replace(
        source, files=source.files + paths, parts=source.parts + (part,) * len(paths)
    )


def _left_out(source: Source, group: list[Source], problem: str) -> Source:
    """Give the reason not to use a study; it rests on the annotations of the whole group.

    What it repeats is the first other one of the group.
    """
    others = [other for other in group if other.name != source.name]
    source = _with_annotations(source, others, "compared")
    return dataclasses.replace(source, problem=problem, repeats=others[0].name)


def _repeats(sources: Iterable[Source]) -> list[list[Source]]:
    """Groups of two or more usable studies of one frame; compared within an exam only."""
    exams = defaultdict(list)
    for source in sources:
        exams[source.subject].append(source)
    groups: list[list[Source]] = []
    for exam in exams.values():
        frames: list[tuple[np.ndarray, list[Source]]] = []
        for source in exam if len(exam) > 1 else ():
            try:
                pixels = read(source).image[HEADER:].astype(np.int16)
            except Unusable:  # it cannot add to a consensus; said again when it is read
                continue
            for frame, group in frames:
                if (np.abs(pixels - frame) > SAME_LEVEL).mean() < SAME_FRAME:
                    group.append(source)
                    break
            else:
                frames.append((pixels, [source]))
        groups += [group for _, group in frames if len(group) > 1]
    return groups


def _exam(screen: np.ndarray) -> str:
    """Digest of the exam number's bitmap, empty where none can be read."""
    if screen.shape != SCREEN or (screen[STAMP] > WHITED_OUT).any():
        return ""
    letters = screen[STAMP] > STAMP_LEVEL
    if not 0.05 < letters.mean() < 0.4:
        return ""
    return "exam " + hashlib.sha256(np.packbits(letters).tobytes()).hexdigest()


def _read_record(path: pathlib.Path) -> _Record:
    try:
        return _from_json(path) if path.suffix == ".json" else _from_matlab(path)
    except Exception as error:  # both parsers raise many kinds on damaged files
        raise Unusable("the annotation file is unreadable or incomplete") from error


def _from_matlab(path: pathlib.Path) -> _Record:
    content = _matlab.read(path)
    points = np.column_stack([content[name].ravel() for name in ("Param_3", "Param_4")])
    stored = tuple(float(content[name].item()) for name in ("imt_thikn", "Param_2", "Param_1"))
    return _record(content["scale"].item(), points[0::2], points[1::2], stored)


def _from_json(path: pathlib.Path) -> _Record:
    content = json.loads(path.read_text(encoding="utf-8"))
    wall, said = content["far_wall"], content["imt_mm"]
    li, ma = (
        np.column_stack([wall[name]["x"], wall[name]["y"]]).astype(np.float64)
        for name in ("lumen_intima", "media_adventitia")
    )
    stored = tuple(float(said[name]) for name in ("mean", "min", "max"))
    return _record(content["mm_per_pixel"], li, ma, stored)


def _record(mm_per_pixel: float, li: np.ndarray, ma: np.ndarray, stored: tuple) -> _Record:
    if li.shape != ma.shape or len(li) < 2:
        raise ValueError(f"points do not come in pairs: {li.shape}, {ma.shape}")
    return _Record(float(mm_per_pixel), li - 1, ma - 1, stored)  # MATLAB counts from 1
