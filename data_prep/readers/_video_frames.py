"""A decoded frame as its header says it is to be shown: turned, and in RGB."""

import numpy as np

from data_prep.readers._images import Unusable

ONE = 1 << 16  # in a display matrix
NEARLY = ONE // 64  # of an element of the matrix: one degree
LIMITED = 1  # AVCOL_RANGE_MPEG
HIGH_RANGE = (16, 18)  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
UNMAPPED = "of high dynamic range: its levels were used as stored"
NO_TURN = (1, 0, 0, 1)
INTERLACED = "interlaced: both fields of a frame were used as one"
OPACITY = "an opacity channel was left out"
RAW = "a raw stream does not say whether it is whole: a cut at its end would not be seen"
RAW_STREAMS = ("hevc", "h264", "mpegvideo", "m4v", "vc1", "obu", "yuv4mpegpipe", "dv")
TURNED = "turned as the video's header says"


def turn(frame) -> tuple[int, int, int, int]:
    """How the columns and rows of a frame are to be turned: a, b, c, d of its display matrix.

    Returns
    -------
    tuple of int
        A pixel at (x, y) is shown at (a x + c y, b x + d y), but for a shift; each is -1, 0 or 1.

    Raises
    ------
    Unusable
        If the header asks for another angle than a quarter turn, or for scaling.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except (KeyError, ValueError):  # of kinds that PyAV does not know there is no list
        data = None
        if frame.rotation:
            raise Unusable("how its frames are to be turned cannot be read") from None
    if data is None:
        return NO_TURN
    matrix = np.frombuffer(memoryview(data), np.uint8)[:36].view(np.int32).reshape(3, 3)
    found = np.rint(matrix[:2, :2] / ONE).astype(int)
    off = np.abs(matrix[:2, :2] - found * ONE).max() > NEARLY
    if off or sorted(np.abs(found).ravel()) != [0, 0, 1, 1] or not np.linalg.det(found):
        raise Unusable(
            f"its header asks for a turn by {frame.rotation} degrees or for scaling: only quarter "
            "turns and mirroring are known; convert the video with its frames turned"
        )
    return tuple(map(int, found.ravel()))


def notes(frame, stream) -> tuple[str, ...]:
    """What was changed for a frame's pixels, and what of its looks they do not carry.

    Raises
    ------
    Unusable
        If a mere tag asks for a turn.
    """
    found = [TURNED] if turn(frame) != NO_TURN else []
    tags = {name.lower(): text.strip() for name, text in stream.metadata.items()}
    if not found and tags.get("rotate", "0") not in ("", "0", "360"):
        raise Unusable(
            f"a tag asks for a turn by {tags['rotate']} degrees, which not all programs obey: "
            "convert the video with its frames turned"
        )
    pixel_shape = stream.sample_aspect_ratio
    if pixel_shape not in (None, 0, 1):
        shape = f"{pixel_shape.numerator}:{pixel_shape.denominator}"
        found.append(f"its pixels are not square ({shape}): frames were used as stored")
    if stream.container.format.name in RAW_STREAMS:
        found.append(RAW)
    if frame.interlaced_frame:
        found.append(INTERLACED)
    if frame.color_trc in HIGH_RANGE:
        found.append(UNMAPPED)
    apart = tags.get("alpha_mode") == "1"  # VP8 and VP9: not decoded with the frame
    if apart or any(component.is_alpha for component in frame.format.components):
        found.append(OPACITY)
    return tuple(found)


def rgb(frame, turned: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels uint8 (H, W, 3), colours by the matrix and range that the frame itself states.

    Parameters
    ----------
    frame : av.VideoFrame
    turned : tuple of int
        As the first frame of the video is; another one is refused.

    Raises
    ------
    Unusable
        If this frame is turned in another way, or its colours cannot be converted.
    """
    import av

    if turn(frame) != turned:
        raise Unusable("its frames are to be turned in different ways")
    if frame.format.name.startswith(("gray", "ya")) and frame.color_range == LIMITED:
        raise Unusable(
            "it is grey with a limited range of levels, which programs read in two ways: convert "
            "it to colour"
        )
    try:
        image = frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, ValueError) as error:
        raise Unusable(f"its colours ({frame.format.name}) cannot be converted to RGB") from error
    a, b, c, d = turned
    if not a:  # the columns become rows
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: d or 1, :: a or 1])
