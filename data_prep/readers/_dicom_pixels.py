"""Stored values of a frame of a DICOM file (PS3.5, 8; PS3.3, C.7.6.3), for all that read DICOM.

What the header and the pixels do not agree on is refused. Big-endian, deflated and headless files
are read as others are; compressed ones by imagecodecs, run lengths by pydicom.
"""

import numpy as np
import pydicom
import pydicom.pixels
from pydicom.uid import UID

from data_prep.readers._images import Unusable

NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
WAVELET_COLOURS = COLOURS[3:]  # of JPEG 2000 only, whose decoder turns them into RGB
RETIRED = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
WAVELETS = tuple(f"1.2.840.10008.1.2.4.{code}" for code in (90, 91, 201, 202, 203))
RUN_LENGTHS = "1.2.840.10008.1.2.5"
FILMS = tuple(f"1.2.840.10008.1.2.4.{code}" for code in range(100, 109))  # MPEG and HEVC
STANDARD = "1.2.840.10008."  # how transfer syntaxes of the standard begin
END = b"\xff\xd9"
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # of JPEG or JPEG-LS, and of JPEG 2000
FRAMES = "NumberOfFrames (0028,0008)"


def frame_count(data: pydicom.Dataset) -> int:
    """How many frames a file says it has.

    Raises
    ------
    Unusable
        If its functional groups describe another number of them.
    """
    count = max(1, int(data.get("NumberOfFrames") or 1))
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) != count:
        raise Unusable(
            f"{FRAMES} is {count}, and PerFrameFunctionalGroupsSequence (5200,9230) describes "
            f"{len(groups)}: the file is incomplete, export it again"
        )
    return count


def check(data: pydicom.Dataset) -> None:
    """Test that an open file has pixels that can be decoded and fit what describes them.

    Raises
    ------
    Unusable
        If something is missing or contradictory, or no decoder for the compression is installed.
    """
    syntax = _syntax(data)
    if "PixelData" not in data:
        if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
            raise Unusable("its pixels are floating-point numbers: save them as whole numbers")
        raise Unusable("PixelData (7FE0,0010) is missing")
    _plugin(syntax)
    _check(data, syntax)


def stored_values(data: pydicom.Dataset, frame: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored values (H, W) of a frame, and which of them are padding: bool (H, W) or None.

    Of a colour image (H, W, 3), which is RGB. Bits above BitsStored are cut off. The file has
    passed :func:`check`.

    Raises
    ------
    Unusable
        If other bits are used than the header says, or a compressed frame cannot be decoded.
    Exception
        Of many kinds, if the pixels are damaged.
    """
    syntax = _syntax(data)
    plugin = _plugin(syntax)
    try:
        # Bits above BitsStored are cut off below: padding may use them.
        stored = pydicom.pixels.pixel_array(
            data, index=frame, correct_unused_bits=False, decoding_plugin=plugin
        )
    except Exception as error:  # damaged pixels raise many kinds
        if plugin and _is_whole(data):
            raise Unusable(
                f"its pixels, {syntax.name}, cannot be decoded: they are damaged, or of a variant "
                "that imagecodecs does not read; save it without compression, for instance with "
                "gdcmconv --raw"
            ) from error
        raise
    if not stored.flags.writeable:
        stored = stored.copy()
    padding = _padding(data, stored)
    if int(data.BitsAllocated) > 1:
        _cut(data, stored, padding)
    return stored, padding


def _syntax(data: pydicom.Dataset) -> UID:
    syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if syntax is None:
        # Files without a preamble are little endian; reading showed whether types are explicit.
        implicit = data.original_encoding[0]
        syntax = UID("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1")
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = syntax
    return syntax


def _plugin(syntax: UID) -> str:
    """What decodes a transfer syntax: the name of a plug-in of pydicom, empty for its own."""
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None and (syntax == RUN_LENGTHS or not syntax.is_compressed):
        return ""
    from data_prep.readers import _dicom_codecs

    if _dicom_codecs.is_available(syntax):
        _dicom_codecs.register()
        return _dicom_codecs.NAME
    if syntax.startswith(FILMS):
        raise Unusable(f"it is a film, {syntax.name}: save it as MP4, or its frames as images")
    name = f"{syntax.name} ({syntax})" if syntax in pydicom.uid.UID_dictionary else str(syntax)
    name = name if syntax.startswith(STANDARD) else "private"
    raise Unusable(
        f"no decoder for its compression, {name}: save it without compression, for instance with "
        "gdcmconv --raw"
    )


def _check(data: pydicom.Dataset, syntax: UID) -> None:
    """Test that what describes the pixels is there and holds together."""
    for name in NEEDED:
        if data.get(name) in (None, ""):
            raise Unusable(f"{name} {pydicom.tag.Tag(name)} is missing")
    samples, colours = int(data.SamplesPerPixel), str(data.PhotometricInterpretation)
    right = 1 if colours in GREY else 3 if colours in COLOURS else 0
    if samples != right or (colours in WAVELET_COLOURS and syntax not in WAVELETS):
        known = colours in (*GREY, *COLOURS, *RETIRED)
        raise Unusable(
            f"its PhotometricInterpretation (0028,0004), {colours if known else 'unknown'}, is not "
            f"read with SamplesPerPixel (0028,0002) of {samples} in {syntax.name}"
        )
    allocated, bits = int(data.BitsAllocated), int(data.BitsStored)
    if allocated not in (1, 8, 16, 32) or not 0 < bits <= allocated:
        raise Unusable(
            f"BitsStored (0028,0101) of {bits} in BitsAllocated (0028,0100) of {allocated}: such "
            "samples are not read"
        )
    if samples == 3 and int(data.PixelRepresentation):
        raise Unusable("PixelRepresentation (0028,0103) of colours is 1, signed")
    if colours in ("YBR_FULL", "YBR_FULL_422") and (allocated, bits) != (8, 8):
        raise Unusable(f"its colours, {colours}, are not of 8 bits: save it as RGB")
    if _high(data) != bits - 1 and not _is_plain(syntax):
        raise Unusable("HighBit (0028,0102) does not fit BitsStored (0028,0101)")
    count, held = frame_count(data), _held(data, syntax)
    if held > count:
        raise Unusable(f"its pixels are those of {held} frames, and {FRAMES} says {count}")


def _is_plain(syntax: UID) -> bool:
    """Whether samples keep their bits: no compression, or run lengths."""
    return syntax == RUN_LENGTHS or not syntax.is_compressed


def _held(data: pydicom.Dataset, syntax: UID) -> int:
    """How many whole frames the pixels are, of whatever the header says."""
    if syntax.is_compressed:
        pieces = _fragments(data)
        return sum(syntax == RUN_LENGTHS or piece.startswith(STARTS) for piece in pieces)
    bits = int(data.Rows) * int(data.Columns) * int(data.SamplesPerPixel) * int(data.BitsAllocated)
    return len(data.PixelData) * 8 // bits if bits >= 64 else 0


def _fragments(data: pydicom.Dataset) -> list[bytes]:
    return list(pydicom.encaps.generate_fragments(data.PixelData))[1:]  # the first is a table


def _is_whole(data: pydicom.Dataset) -> bool:
    """Whether compressed pixels have a beginning and an end."""
    try:
        pieces = _fragments(data)
    except Exception:  # damaged lengths raise many kinds
        return False
    return (
        bool(pieces) and pieces[0].startswith(STARTS) and pieces[-1].rstrip(b"\0\xff")[-2:] == END
    )


def _padding(data: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Which stored values are padding (DICOM PS3.3, C.7.5.1.1.2), or None."""
    value = data.get("PixelPaddingValue")
    if value is None or value == "" or stored.ndim == 3:
        return None
    limit = data.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value) if limit is None or limit == "" else int(limit)]
    span = 1 << (8 * stored.dtype.itemsize)
    # Writers often give a negative value as unsigned, or the other way round.
    info = np.iinfo(stored.dtype)
    ends = sorted(end + span * ((end < info.min) - (end > info.max)) for end in ends)
    padding = (stored >= ends[0]) & (stored <= ends[1])
    return padding if padding.any() else None


def _cut(data: pydicom.Dataset, stored: np.ndarray, padding: np.ndarray | None) -> None:
    """Move the bits stored to the lower end, in place, and what is above them away.

    Raises
    ------
    Unusable
        If a bit above is used, and for no overlay: then BitsStored or the pixels are wrong.
    """
    allocated, bits = int(data.BitsAllocated), int(data.BitsStored)
    high = _high(data)
    if not bits - 1 <= high < allocated:
        raise Unusable("HighBit (0028,0102) does not fit BitsStored (0028,0101)")
    if bits == allocated:
        return
    whole, below = stored.copy(), high + 1 - bits
    np.left_shift(stored, allocated - 1 - high, out=stored)
    np.right_shift(stored, allocated - bits, out=stored)
    if _has_overlay_bits(data):
        return
    # Of signed values the bits above repeat the sign, or are 0.
    shifted = whole >> below
    wrong = ((shifted != stored) & (shifted >> bits != 0)) | (whole & ((1 << below) - 1) != 0)
    if padding is not None:
        wrong &= ~padding
    if wrong.any():
        raise Unusable(
            f"its pixels use other bits than BitsStored (0028,0101) of {bits} and HighBit "
            f"(0028,0102) of {high} say: one value is {int(whole[wrong][0])}"
        )


def _high(data: pydicom.Dataset) -> int:
    """Place of the highest bit stored; where it is not said, none lies below those stored."""
    high = data.get("HighBit")
    return int(data.BitsStored) - 1 if high in (None, "") else int(high)


def _has_overlay_bits(data: pydicom.Dataset) -> bool:
    """Whether an overlay (PS3.5, 8.1.2, retired) lies in bits of the pixels."""
    tags = ((group, 0x0102) for group in range(0x6000, 0x6020, 2))
    return any(tag in data and int(data[tag].value or 0) > 0 for tag in tags)
