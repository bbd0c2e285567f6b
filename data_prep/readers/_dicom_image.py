"""One frame of a DICOM file as 8-bit RGB: window, MONOCHROME1, palettes, colours (PS3.3, C.7.6.3).

Grey images get the user's window, else the first window or table of the file (VOI LUT module,
C.11.2; in files with functional groups, C.7.6.16.2.10). Without, 8 bits stay as they are, and of
more bits the image's own lowest and highest level become black and white.
"""

import dataclasses
import pathlib

import numpy as np
import pydicom

from data_prep.readers import _deflated, _dicom_pixels, _pictures, _slices
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding

TAGS = (
    *("PatientID", "StudyInstanceUID", "NumberOfFrames"),
    "PerFrameFunctionalGroupsSequence",
)
# Where a functional group may hold what concerns the levels.
GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
RESCALE = ("RescaleSlope", "RescaleIntercept")
LEVELS = (
    *RESCALE,
    *("ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
)
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
FULL = 0.99  # share of what so many bits can hold, from which a table uses them all
NO_WINDOW = "its window makes no sense: lowest and highest level taken instead"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header says.

    Attributes
    ----------
    subject : str
        PatientID; without it StudyInstanceUID; without either empty.
    frames : int
    """

    subject: str
    frames: int


def header(path: pathlib.Path) -> Header:
    """Read the header, without the pixels.

    Raises
    ------
    Unusable
        If it is damaged.
    """
    try:
        _deflated.require_room(path)
        with _slices.quiet():
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
            patient, exam = (str(data.get(tag) or "").strip() for tag in TAGS[:2])
            return Header(patient or exam, _dicom_pixels.frame_count(data))
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error


def read(
    path: pathlib.Path, decoding: Decoding, frame: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one frame.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str

    Raises
    ------
    Unusable
        If there is no such frame, it is too large or too small, or the pixels cannot be decoded.
    """
    try:
        _deflated.require_room(path)
        with _slices.quiet():
            data = pydicom.dcmread(path, force=True)
    except Unusable:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise Unusable("the DICOM file is unreadable") from error
    return render(data, decoding, frame)


def render(
    data: pydicom.Dataset, decoding: Decoding, frame: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A frame of an open file as it is meant to be seen; padding becomes black.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str

    Raises
    ------
    Unusable
        As :func:`read`.
    """
    try:
        with _slices.quiet():
            count = _dicom_pixels.frame_count(data)
            if not 0 <= frame < count:
                raise Unusable(f"there is no frame {frame}: it has {count}, counted from 0")
            rows, columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
            if not rows or not columns:
                raise Unusable("the DICOM file holds no image")
            _pictures.check_size(rows, columns)
            _dicom_pixels.check(data)
            stored, padding = _dicom_pixels.stored_values(data, frame)
            if stored.ndim == 3:
                return _colours(stored, int(data.BitsStored))
            if data.PhotometricInterpretation == "PALETTE COLOR":
                return _palette(stored, data), ()
            return _grey(stored, padding, data, decoding, frame)
    except Unusable:
        raise
    except Exception as error:  # damaged pixels, or tables that do not fit them
        raise Unusable("the pixels of the DICOM file are damaged or cut off") from error


def _colours(stored: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """RGB (H, W, 3) of so many bits; each image's own levels would shift the colours' balance."""
    depth = _pictures.depth(stored.max(), bits)
    notes = (f"colours of {depth} bits, not of {bits} as its header says",) if depth < bits else ()
    image = stored if depth == 8 else _pictures.scale(stored, 0, (1 << depth) - 1)
    return _pictures.to_rgb(image.astype(np.uint8, copy=False)), notes


def _palette(stored: np.ndarray, data: pydicom.Dataset) -> np.ndarray:
    """Colours (PS3.3, C.7.6.3.1.5) of indices (H, W)."""
    tables, signed, little = [], bool(data.PixelRepresentation), _is_little(data)
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        descriptor, content = data[f"{name}Descriptor"].value, data.get(f"{name}Data")
        if content is None:
            content = _expand(data[f"Segmented{name}Data"].value, int(descriptor[2]), little)
        tables.append(_Table.of(descriptor, content, signed, little))
    top = (1 << max(table.bits for table in tables)) - 1
    return np.stack([_pictures.scale(table.look_up(stored), 0, top) for table in tables], axis=-1)


def _expand(content: bytes, bits: int, little: bool) -> list[int]:
    """Entries of a segmented table (PS3.3, C.7.9.2); a last byte may make its length even."""
    kind = "<u2" if bits > 8 else "u1"
    words = np.frombuffer(_in_order(content, little), kind).tolist()
    entries: list[int] = []
    place = 0
    while place + 1 < len(words):
        segment, count = words[place : place + 2]
        place += 2
        if segment == 0:
            entries += words[place : place + count]
            place += count
        elif segment == 1 and entries:
            line = np.linspace(entries[-1], words[place], count + 1)[1:]
            entries += np.rint(line).astype(int).tolist()
            place += 1
        else:
            raise Unusable("its segmented palette has segments that are not read (indirect ones)")
    return entries


def _in_order(content: bytes, little: bool) -> bytes:
    """Bytes that were written as words."""
    return content if little else np.frombuffer(content, ">u2").astype("<u2").tobytes()


def _is_little(data: pydicom.Dataset) -> bool:
    return data.original_encoding[1] is not False


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """A look-up table (PS3.3, C.11.1.1, C.11.2.1.1 and C.7.6.3.1.5).

    ``first`` is the value that the first of ``entries`` stands for, ``bits`` their depth.
    """

    first: int
    entries: np.ndarray
    bits: int

    @classmethod
    def of(cls, descriptor, content, signed: bool, little: bool) -> "_Table":
        """From what the file holds; ``signed``: whether the values looked up can be negative."""
        count, first, bits = (int(value) for value in descriptor)
        count = count or 1 << 16
        if isinstance(content, bytes):
            wide = len(content) >= 2 * count
            content = _in_order(content, little)[: count * (1 + wide)]
            entries = np.frombuffer(content, "<u2" if wide else "u1")
            if not wide and bits > 8:
                entries = entries[:0]  # half of the words are missing
        else:
            entries = np.atleast_1d(np.asarray(content, np.int64)) & 0xFFFF
        if len(entries) < count:
            raise Unusable("a look-up table has fewer entries than its descriptor says")
        first &= 0xFFFF
        entries = entries[:count]
        top = int(entries.max())
        used, usual = top.bit_length(), _pictures.depth(top, bits)
        # 16 may be the size of a word; a table that ends where so many bits do uses these.
        is_full = bits >= 16 and used > 8 and top >= FULL * (1 << used)
        return cls(first - (first >> 15 << 16) * signed, entries, used if is_full else usual)

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Entries of values, the first and the last for what lies outside."""
        places = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(places, 0, len(self.entries) - 1)]


def _grey(
    stored: np.ndarray,
    padding: np.ndarray | None,
    data: pydicom.Dataset,
    decoding: Decoding,
    frame: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored values (H, W), some maybe padding, as RGB; steps as in PS3.4, N.2."""
    if str(data.get("PixelPresentation") or "MONOCHROME") != "MONOCHROME":
        raise Unusable("its colours beside the grey levels (PixelPresentation) are not read")
    if data.get("PresentationLUTSequence"):
        raise Unusable("its PresentationLUTSequence (2050,0010) is not read")
    bits, signed = int(data.BitsStored), int(data.PixelRepresentation)
    ends = np.array([0, (1 << bits) - 1]) - signed * (1 << bits - 1)
    levels = _levels(data, frame)
    little = _is_little(data)
    if levels.get("ModalityLUTSequence"):
        item = levels.ModalityLUTSequence[0]
        table = _Table.of(item.LUTDescriptor, item.LUTData, bool(signed), little)
        values, ends = table.look_up(stored), np.array([0, (1 << table.bits) - 1])
    else:
        slope, intercept = (levels.get(name) for name in RESCALE)
        line = (1.0 if slope is None else float(slope)), float(intercept or 0)
        values, ends = (each * line[0] + line[1] for each in (stored.astype(np.float64), ends))
    negative = bool(ends.min() < 0)
    if bits > 8 and decoding.levels == "image":
        seen = values if padding is None or padding.all() else values[~padding]
        ends = np.array([seen.min(), seen.max()])
    grey, notes = _windowed(values, ends, negative, decoding, levels, little)
    if data.PhotometricInterpretation == "MONOCHROME1" or (
        str(data.get("PresentationLUTShape") or "") == "INVERSE"
    ):
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return _pictures.to_rgb(grey), notes


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values as uint8 through a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Parameters
    ----------
    values : numpy.ndarray
    centre, width : float
    function : str
        "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    """
    values = values.astype(np.float64)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # far below the window: exactly 0
            shares = 1 / (1 + np.exp(-4 * (values - centre) / width))
        return np.rint(shares * 255).astype(np.uint8)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
        if width == 0:
            return np.where(values > centre, 255, 0).astype(np.uint8)
    return _pictures.scale(values, centre - width / 2, centre + width / 2)


def _levels(data: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """What concerns the levels of a frame: of its functional groups, else of the file."""
    found = pydicom.Dataset()
    shared, own = (
        data.get(f"{name}FunctionalGroupsSequence") or () for name in ("Shared", "PerFrame")
    )
    groups = [data, *shared[:1], *own[frame : frame + 1]]
    for place, holder in enumerate(groups):
        items = [holder] if not place else [it for name in GROUPS for it in holder.get(name) or ()]
        for item in items:
            found.update({item[name].tag: item[name] for name in LEVELS if name in item})
    return found


def _windowed(
    values: np.ndarray,
    ends: np.ndarray,
    signed: bool,
    decoding: Decoding,
    levels: pydicom.Dataset,
    little: bool,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values in the units of the image as uint8 (H, W), and notes.

    ``ends`` become black and white where there is no window; ``signed``: whether values can be
    negative; ``little``: the byte order of tables.
    """
    if given := decoding.centre_and_width:
        return window(values, *given), ()
    notes = ()
    centre = _first(levels.get("WindowCenter"))
    if centre is not None:
        width = _first(levels.get("WindowWidth")) or 0.0
        function = str(levels.get("VOILUTFunction") or "LINEAR").upper()
        if function not in FUNCTIONS:
            raise Unusable("its VOILUTFunction (0028,1056) is none that is known")
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return window(values, centre, width, function), ()
        notes = (NO_WINDOW,)
    elif levels.get("VOILUTSequence"):
        item = levels.VOILUTSequence[0]
        table = _Table.of(item.LUTDescriptor, item.LUTData, signed, little)
        said = int(item.LUTDescriptor[2])
        if table.bits != said:
            notes = (f"a table of levels of {table.bits} bits, not of {said} as it says",)
        return _pictures.scale(table.look_up(values), 0, (1 << table.bits) - 1), notes
    return _pictures.scale(values, float(ends.min()), float(ends.max())), notes


def _first(value: object) -> float | None:
    """The first of one or several numbers; None where there is none."""
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    try:
        return float(values[0])
    except (IndexError, TypeError, ValueError):
        return None
