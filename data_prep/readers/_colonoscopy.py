"""What every colonoscopy source becomes: frames in presentation order, with what was drawn on them.

A kind of source is a module beside this one with ``KIND = "colonoscopy"`` and two functions::

    detect(root, options) -> list[Source]             cheap: file names and tables
    frames(source, sampling, tally) -> Iterator[Frame]  one frame at a time; raises Unusable

A module with ``GENERIC = True`` counts only where no other finds anything. A source is one case: a
video, a sequence, or, where a set names neither, a single image.
"""

import collections
import dataclasses
import importlib
import pathlib
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _names, _repeats, of_kind
from data_prep.readers._images import Unusable
from data_prep.readers._paths import inside, require_inside
from data_prep.runner import Study

SPLITS = ("train", "validation", "test")
SAME_TIME = 1e-6  # seconds: times are sums of fractions

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says about a source where its files leave a choice.

    Attributes
    ----------
    layout : str
        Module that is to read the folder, where it could be read in several ways.
    accept_truncated : bool
        Use the frames before the break of a video that is cut off or damaged.
    case_pattern : str
        Regular expression, searched in an image's path below the folder, whose first group is the
        image's case; for stills that would otherwise be a case each.
    clinicdb_sequences : bool
        Images called by their number are frames of CVC-ClinicDB, whatever their folders are called.
    """

    layout: str = ""
    accept_truncated: bool = False
    case_pattern: str = ""
    clinicdb_sequences: bool = False

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.case_pattern).groups
        except re.error as error:
            raise UserError(f"--case_pattern is not a regular expression: {error}.") from error
        if self.case_pattern and not groups:
            raise UserError("--case_pattern needs a group in brackets, which is the case.")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a case are taken.

    Attributes
    ----------
    every_s : float or None
        The first frame at or after 0, 1, 2 ... times so many seconds from the first frame
        (Tajbakhsh et al. 2016 take one every 5 s).
    stride : int
        Every so many frames.
    fps : float or None
        Frames a second of sources that hold no times.
    labelled_only : bool
        Only frames that carry a label or an annotation; the rules above then count among these.
    """

    every_s: float | None = None
    stride: int = 1
    fps: float | None = None
    labelled_only: bool = False

    def __post_init__(self) -> None:
        if self.every_s is not None and not 0 < self.every_s < np.inf:
            raise UserError(f"--every_s must be a number of seconds above 0: {self.every_s}.")
        if self.stride < 1:
            raise UserError(f"--stride must be 1 or more: {self.stride}.")
        if self.every_s is not None and self.stride > 1:
            raise UserError("--every_s and --stride exclude each other: give one.")
        if self.fps is not None and not 0 < self.fps < np.inf:
            raise UserError(f"--fps must be a number above 0: {self.fps}.")

    def picker(self) -> "Picker":
        """A fresh decision-maker for the frames of one case."""
        return Picker(self)


class Picker:
    """Says of one frame after the other, in presentation order, whether it is taken."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._seen = 0
        self._first = self._next = 0.0

    def takes(self, time_s: float | None, *, labelled: bool = True) -> bool:
        """Whether the next frame is taken; ``labelled``: it carries a label or an annotation.

        Raises
        ------
        Unusable
            If frames are wanted by time and this one has none.
        """
        sampling = self._sampling
        if sampling.labelled_only and not labelled:
            return False
        self._seen += 1
        if sampling.every_s is None:
            return (self._seen - 1) % sampling.stride == 0
        if time_s is None:
            raise Unusable("its frames have no times: sample it with --stride, or give --fps")
        if self._seen == 1:
            self._first = self._next = time_s
        if time_s < self._next - SAME_TIME:
            return False
        passed = np.floor((time_s - self._first + SAME_TIME) / sampling.every_s)
        self._next = self._first + (passed + 1) * sampling.every_s
        return True


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes
    ----------
    index : int
        Place in presentation order counted from 0, or the frame number that the set itself gives;
        unique in the case.
    time_s : float or None
        Seconds from the first frame, by the container's timestamps.
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    mask : numpy.ndarray or None
        bool (H, W), True in a lesion; all False where there is none; None: no mask is known.
    label : int or None
        1 informative, 0 not.
    boxes : tuple
        Lesions as x, y, width, height in pixels, x and y of the left upper corner. A frame whose
        lesions are known as boxes only has ``mask`` None; without mask and boxes it is not
        annotated.
    """

    index: int
    time_s: float | None
    image: np.ndarray
    mask: np.ndarray | None = None
    label: int | None = None
    boxes: tuple[Box, ...] = ()


@dataclasses.dataclass(frozen=True)
class Item:
    """One still image of a case, and the files that annotate it; see :class:`Frame`.

    ``is_negative``: it is known to show no lesion. ``box_file``: a file of this frame's boxes,
    which the reader understands. ``problem``: why the frame is left out.
    """

    index: int
    image: pathlib.Path
    mask: pathlib.Path | None = None
    is_negative: bool = False
    label: int | None = None
    boxes: tuple[Box, ...] = ()
    box_file: pathlib.Path | None = None
    time_s: float | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Source(Study):
    """Handle of one case, cheap to make and to send to another process.

    Attributes
    ----------
    name, files
        See :class:`data_prep.runner.Study`; tables that speak of the case are among the files.
    kind : str
        Module of this package that reads it.
    root : pathlib.Path
        Input folder, resolved. No file outside it is read.
    subject : str
        Identifier of the person, or the case where no more is known.
    video : pathlib.Path or None
        The video file.
    items : tuple of Item
        The still images, in presentation order; empty for a video.
    facts : dict
        What file names and tables already said.
    no_identity : bool
        The set does not tell which images belong to one person or video: this image is a case of
        its own, and a split of the set may have one polyp on both sides.
    split : str
        "train", "validation" or "test" where the set itself says it, else empty.
    problem : str
        Why the case cannot be used, where finding it already showed that.
    notes : tuple of str
        What was mended while it was found.
    repeats : str
        Name of the case that it repeats, where that is its problem.
    """

    kind: str
    root: pathlib.Path
    subject: str
    video: pathlib.Path | None = None
    items: tuple[Item, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    no_identity: bool = False
    split: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()
    repeats: str = ""

    @property
    def case(self) -> str:
        """Identifier of the video, sequence or image."""
        return self.name

    @property
    def images(self) -> tuple[pathlib.Path, ...]:
        """The files that hold the frames."""
        return (self.video,) if self.video else tuple(item.image for item in self.items)


class Tally:
    """What was mended or left out while a case was read, counted by kind."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, text: str) -> None:
        """Count one frame of which ``text`` is true."""
        self.counts[text] += 1

    def lines(self) -> list[str]:
        """One line a kind, fit for publication."""
        return [f"{text} (frames: {count})" for text, count in self.counts.items()]


def source(
    module: str,
    root: pathlib.Path,
    name: str,
    *,
    subject: str = "",
    items: Iterable[Item] = (),
    tables: Iterable[pathlib.Path] = (),
    more_files: Iterable[pathlib.Path] = (),
    **more: Any,
) -> Source:
    """Make a :class:`Source`; ``module`` is the reader's ``__name__``.

    Its files are the video or the items' files, then ``more_files``, then the ``tables`` that
    exist. A file outside ``root``, by its path or by a link, is left out and becomes the problem.
    """
    items = tuple(items)
    video = more.get("video")
    own = [video] if video else []
    for item in items:
        own += [path for path in (item.image, item.mask, item.box_file) if path]
    files = dict.fromkeys([*own, *more_files, *(path for path in tables if path.is_file())])
    within = tuple(path for path in files if inside(path, root))
    if len(within) < len(files):
        more |= {"problem": "one of its files lies outside the input folder", "video": None}
        items = ()
    kind = module.rpartition(".")[2]
    return Source(name, within, kind, root, subject or name, items=items, **more)


def find(root: pathlib.Path, options: Options | None = None) -> list[Source]:
    """Cases of a folder in whichever layout it has, or the one video or image that ``root`` is.

    Cases that repeat others byte for byte are marked as unusable, and cases that share some frames
    get one subject, so that no frame is on two sides of a split.

    Raises
    ------
    UserError
        If the folder is absent, has no known layout, or has two; if a table of it contradicts
        itself or puts a subject into two splits.
    """
    options = options or Options()
    known = of_kind("colonoscopy")
    if options.layout and options.layout not in known:
        raise UserError(f"--layout must be one of {', '.join(known)}: {options.layout}.")
    if root.is_file():
        stills = "frame_folder" if _is_still(root) else "video"
        return known[stills].detect(root.resolve(), options)
    if not root.is_dir():
        raise UserError(f"--input={root} is not a folder.")
    require_inside(root.resolve(), ".csv", ".json")
    chosen = {options.layout: known[options.layout]} if options.layout else known
    found = {name: reader.detect(root.resolve(), options) for name, reader in chosen.items()}
    found = {name: sources for name, sources in found.items() if sources}
    if len(found) > 1:
        found = {
            name: sources
            for name, sources in found.items()
            if not getattr(known[name], "GENERIC", False)
        }
    if not found:
        looked = "; ".join(reader.LAYOUT for reader in chosen.values())
        raise UserError(f"{root} holds no colonoscopy material. Looked for: {looked}.")
    if len(found) > 1:
        raise UserError(
            f"{root} holds material in more than one layout ({', '.join(found)}): "
            "say which with --layout, or give each a folder of its own."
        )
    sources = _repeats.without_repeats(_with_split(next(iter(found.values())), root.resolve()))
    _repeats.check_splits(sources)
    return sources


def _with_split(sources: list[Source], root: pathlib.Path) -> list[Source]:
    """The sources with the split that their folders name, where no table names one."""
    good = {source.name: source for source in sources if source.files and not source.problem}
    if any(source.split for source in sources):
        return sources
    paths = {name: source.files[0].relative_to(root) for name, source in good.items()}
    parts = _names.splits_of(paths)
    if parts:
        counts = collections.Counter(parts.values())
        logging.info(
            "The set's own split is kept, by its folders: %s cases.",
            ", ".join(f"{part} {counts[part]}" for part in SPLITS if part in counts),
        )
    elif named := {part for path in paths.values() for part in path.parts if _names.split_of(part)}:
        logging.warning(
            "Folders are called %s, but not every case lies in one: the split is made anew.",
            ", ".join(sorted(named)),
        )
    return [dataclasses.replace(source, split=parts.get(source.name, "")) for source in sources]


def _is_still(path: pathlib.Path) -> bool:
    from data_prep.readers import _frames  # it needs this module

    return _frames.is_image(path)


def frames(
    source: Source, sampling: Sampling | None = None, notes: list[str] | None = None
) -> Iterator[Frame]:
    """Frames of a case, one at a time, in presentation order.

    Parameters
    ----------
    source : Source
    sampling : Sampling, optional
        Default: every frame.
    notes : list of str, optional
        What was mended or left out is added to it when the last frame was given.

    Raises
    ------
    Unusable
        With the reason; for a break in the video, and for annotations of frames that the video
        does not have, perhaps only after frames were given: then those may not be used either.
    """
    if source.problem:
        raise Unusable(source.problem)
    reader = importlib.import_module(f"{__package__}.{source.kind}")
    return _frames(reader, source, sampling or Sampling(), notes)


def _frames(
    reader: ModuleType, source: Source, sampling: Sampling, notes: list[str] | None
) -> Iterator[Frame]:
    tally = Tally()
    yield from reader.frames(source, sampling, tally)
    if notes is not None:
        notes += [*source.notes, *tally.lines()]


def natural(text: str | pathlib.Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame 10 follows frame 9."""
    pieces = re.split(r"(\d+)", str(text))
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in pieces if p]
