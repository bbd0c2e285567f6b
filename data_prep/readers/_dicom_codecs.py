"""JPEG, JPEG-LS and JPEG 2000 frames of DICOM files, decoded by imagecodecs for pydicom.

pydicom's other plug-ins leave gaps: Pillow reads neither lossless JPEG nor 12 bits, GDCM ends the
whole process on some frames.
"""

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"
JPEG = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
)
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)
END, FILLING = b"\xff\xd9", b"\0\xff"  # what may lie behind the end
DECODER_DEPENDENCIES = {syntax: ("imagecodecs",) for syntax in (*JPEG, *JPEG_LS, *JPEG_2000)}


def is_available(syntax: str) -> bool:
    """Whether frames of a transfer syntax can be decoded, as pydicom asks its plug-ins."""
    return syntax in DECODER_DEPENDENCIES


def register() -> None:
    """Make the plug-in known to pydicom; again without effect."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode"))


def decode(frame: bytes, runner: DecodeRunner) -> bytes:
    """Samples of a frame as stored, colours not converted, pixel by pixel; as pydicom asks.

    Raises
    ------
    ValueError
        If the frame's size is not that of the header: nothing is decoded then, since a damaged
        size would take memory and time.
    Exception
        Of many kinds, if it is damaged.
    """
    size = runner.rows, runner.columns, runner.samples_per_pixel
    found = _size_2000(frame) if runner.transfer_syntax in JPEG_2000 else _size(frame)
    if found != size:
        raise ValueError(f"a frame of {found} instead of {size}")
    if runner.transfer_syntax not in JPEG_2000 and frame.rstrip(FILLING)[-2:] != END:
        raise ValueError("cut off")  # libjpeg would fill it up in silence
    if runner.transfer_syntax in JPEG:
        # One and the same space in and out: no conversion.
        space = {"colorspace": "YCBCR", "outcolorspace": "YCBCR"} if size[2] == 3 else {}
        samples = imagecodecs.jpeg8_decode(frame, **space)
        if runner.transfer_syntax in JPEG[:2]:  # lossless JPEG transforms no colours
            _follow_adobe(frame, runner)
    elif runner.transfer_syntax in JPEG_LS:
        samples = imagecodecs.jpegls_decode(frame)
    else:
        samples = imagecodecs.jpeg2k_decode(frame)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    if samples.reshape(*samples.shape[:2], -1).shape != size:
        raise ValueError(f"samples of {samples.shape} instead of {size}")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    return np.ascontiguousarray(samples).tobytes()


def _size(frame: bytes) -> tuple[int, int, int] | None:
    """Height, width and samples a pixel, as the frame header of JPEG or JPEG-LS has them."""
    place = 2
    while place + 10 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4])
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = (int.from_bytes(frame[place + k : place + k + 2]) for k in (5, 7))
            return height, width, frame[place + 9]
        place += 2 + length
    return None


def _size_2000(frame: bytes) -> tuple[int, int, int] | None:
    """As :func:`_size`, of a JPEG 2000 codestream, which some writers put into a JP2 file."""
    start = frame.find(b"\xff\x4f\xff\x51") if frame[4:8] == b"jP  " else 0
    if frame[start : start + 4] != b"\xff\x4f\xff\x51":
        return None
    places = (start + k for k in (8, 12, 16, 20))
    right, bottom, left, top = (int.from_bytes(frame[place : place + 4]) for place in places)
    return bottom - top, right - left, int.from_bytes(frame[start + 40 : start + 42])


def _follow_adobe(frame: bytes, runner: DecodeRunner) -> None:
    """Take the colours from Adobe's marker where the header contradicts it.

    JFIF and component names, which also say it, are heeded by pydicom.
    """
    place = frame.find(b"\xff\xee\x00\x0eAdobe")
    if place < 0 or runner.samples_per_pixel != 3 or len(frame) < place + 16:
        return
    said = "YBR_FULL" if frame[place + 15] else "RGB"
    if said[:3] != runner.photometric_interpretation[:3]:
        runner.set_option("photometric_interpretation", said)
