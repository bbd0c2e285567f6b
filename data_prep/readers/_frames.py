"""Pixels and masks of still frames, and cases that are made of them."""

import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from data_prep.errors import UserError
from data_prep.readers import _images
from data_prep.readers._colonoscopy import Box, Frame, Item, Sampling, Source, Tally
from data_prep.readers._images import Unusable

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (".png", *JPEG, ".bmp", ".gif", ".tif", ".tiff", ".webp")
MASK_LEVEL = 127  # masks have grey edges, from resizing or from JPEG: above it is lesion
JPEG_NOISE = 32  # levels that JPEG leaves in a black mask
COMPRESSION_TAG = 259  # of TIFF
ORIENTATION_TAG = 274  # of EXIF and TIFF: how a camera was held
# Its value -> quarter turns anticlockwise, and whether to mirror left and right afterwards.
TURNS = {
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
ASPECT = 0.01  # relative difference of the aspect ratios of a mask that may be resized


def is_image(path: pathlib.Path) -> bool:
    """Whether a name is that of an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def case_of(path: pathlib.Path, root: pathlib.Path, pattern: str) -> str:
    """Case of an image by the user's pattern, whose first group is searched in its path.

    Raises
    ------
    UserError
        If the pattern does not match.
    """
    name = path.relative_to(root).as_posix()
    match = re.search(pattern, name)
    if not match or not match[1]:
        raise UserError(f"--case_pattern gives no case for {name}: make it match every image.")
    return match[1]


def pixels(path: pathlib.Path) -> np.ndarray:
    """The stored levels of an image; palettes and colour spaces resolved to RGB.

    Pillow reads them, or tifffile where Pillow refuses a TIFF (the masks and images of
    CVC-ClinicDB say "MinIsBlack" and have three samples).

    Returns
    -------
    numpy.ndarray
        (H, W) or (H, W, C) with C from 1 to 4; bool, integer or float.

    Raises
    ------
    Unusable
        If the file is missing, unreadable, empty, or larger than ``_images.MAX_PIXELS``.
    """
    _images.require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # harmless tags, and sizes, which are tested below
            with Image.open(path) as file:
                if file.width * file.height > _images.MAX_PIXELS:
                    raise Unusable(f"the image has {file.width} x {file.height} pixels: too many")
                tags = getattr(file, "tag_v2", {})
                if tags.get(ORIENTATION_TAG) in TURNS and tags.get(COMPRESSION_TAG, 1) == 1:
                    # Pillow turns TIFF by itself, but scrambles what is not compressed.
                    return turned(_images.tiff(path)[0], tags[ORIENTATION_TAG])
                if tags.get(_images.PLANES_TAG) == _images.PLANES_APART:
                    # Pillow takes 16-bit planes for 8-bit ones, without a complaint.
                    raise ValueError("planes apart")
                return _images.stored(file)
    except Unusable:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise Unusable("the image file is unreadable") from error
        return _images.tiff(path)[0]


def _still_pixels(path: pathlib.Path) -> np.ndarray:
    """:func:`pixels` of a file that is to be one frame: no film, as GIF may hold."""
    found = pixels(path)
    if path.suffix.lower() == ".gif":
        with Image.open(path) as file:
            if getattr(file, "n_frames", 1) > 1:
                raise Unusable("the GIF holds a film: save its frames as images of their own")
    return found


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) upright, by the orientation tag of EXIF and TIFF."""
    if orientation not in TURNS:
        return pixels
    turns, mirrored = TURNS[orientation]
    pixels = np.rot90(pixels, turns)
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def load_rgb(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a frame.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str
        What was changed: depth, grey, opacity.

    Raises
    ------
    Unusable
        See :func:`pixels`; also for levels that are no 8 or 16 bit numbers.
    """
    found, notes = _still_pixels(path), []
    if found.ndim not in (2, 3) or 0 in found.shape or found.shape[2:] > (4,):
        raise Unusable(f"the pixels have the shape {found.shape}, not that of one image")
    if found.dtype == np.uint16 or (found.dtype == np.int32 and 0 <= found.min()):
        if found.max() > 0xFFFF:
            raise Unusable("the levels are neither of 8 nor of 16 bits")
        found = (found >> 8).astype(np.uint8)
        notes.append("16-bit levels turned to 8 bits")
    if found.dtype != np.uint8:
        raise Unusable("the levels are neither of 8 nor of 16 bits")
    if found.ndim == 3 and found.shape[2] in (2, 4):
        found = found[..., :-1]
    if found.ndim == 2 or found.shape[2] == 1:
        found = np.repeat(found.reshape(*found.shape[:2], 1), 3, axis=2)
        notes.append("grey levels repeated in three channels")
    return np.ascontiguousarray(found), tuple(notes)


def load_mask(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a mask: lesion where any colour channel is above ``MASK_LEVEL``, or is 1 of 0 and 1.

    Returns
    -------
    mask : numpy.ndarray
        bool (H, W).
    notes : tuple of str

    Raises
    ------
    Unusable
        See :func:`pixels`; also if the levels do not tell lesion from background.
    """
    found = _still_pixels(path)
    if found.ndim not in (2, 3) or 0 in found.shape or found.shape[2:] > (4,):
        raise Unusable(f"the mask has the shape {found.shape}, not that of one image")
    if found.ndim == 3:
        colours = found[..., :-1] if found.shape[2] in (2, 4) else found
        found = colours.max(axis=2)
    if found.dtype == bool:
        return found, ()
    top = found.max()
    if not np.isfinite(top) or found.min() < 0:
        raise Unusable("the mask holds levels that are no grey levels")
    if top == 0 or (found.dtype.kind != "f" and top == 1):
        return found > 0, ("mask of 0 and 1 read as such",) if top else ()
    if top > 255:  # 16 bits
        return found > (MASK_LEVEL << 8 | MASK_LEVEL), ("16-bit mask halved at its middle",)
    if top <= MASK_LEVEL:
        if path.suffix.lower() in JPEG and top < JPEG_NOISE:
            return np.zeros(found.shape, bool), ()
        raise Unusable(f"the mask's levels end at {top}: lesions should be white (255), or 1 on 0")
    return found > MASK_LEVEL, ()


def fit_mask(mask: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bring a mask to the size of its image, by the nearest pixel, if only the scale differs.

    Parameters
    ----------
    mask : numpy.ndarray
        bool (h, w).
    height, width : int
        Of the image.

    Returns
    -------
    mask : numpy.ndarray
        bool (height, width).
    notes : tuple of str

    Raises
    ------
    Unusable
        If the aspect ratios differ by more than ``ASPECT``: then parts were cut off.
    """
    rows, columns = mask.shape
    if (rows, columns) == (height, width):
        return mask, ()
    if abs(columns * height / (rows * width) - 1) > ASPECT:
        raise Unusable(
            f"its mask has {columns} x {rows} pixels and the image {width} x {height}: "
            "they differ in shape"
        )
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    return mask[row[:, None], column], ("mask resized to its image by the nearest pixel",)


def check_boxes(boxes: Iterable[Box], height: int, width: int) -> tuple[list[Box], tuple[str, ...]]:
    """Cut boxes at the image's edge.

    Raises
    ------
    Unusable
        If nothing of a box is left, for then a lesion of the frame has no place.
    """
    kept, notes = [], ()
    for x, y, wide, high in boxes:
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + wide, float(width)), min(y + high, float(height))
        if not (right > left and bottom > top):
            raise Unusable("a box is empty or lies outside the image")
        if (left, top, right, bottom) != (x, y, x + wide, y + high):
            notes = ("box cut at the image's edge",)
        kept.append((left, top, right - left, bottom - top))
    return kept, notes


def mask_of_boxes(boxes: Iterable[Box], height: int, width: int) -> np.ndarray:
    """Mask bool (height, width) of the pixels whose centre lies in a box."""
    mask = np.zeros((height, width), bool)
    for x, y, wide, high in boxes:
        first = np.ceil(np.array([y, x]) - 0.5).astype(int).clip(0)
        last = np.ceil(np.array([y + high, x + wide]) - 0.5).astype(int).clip(0)
        mask[first[0] : last[0], first[1] : last[1]] = True
    return mask


def annotation(
    path: pathlib.Path | None, is_negative: bool, height: int, width: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Mask of a frame from its file; all False where it is known to show no lesion; else None."""
    if path is None:
        return (np.zeros((height, width), bool) if is_negative else None), ()
    mask, notes = load_mask(path)
    mask, more = fit_mask(mask, height, width)
    return mask, notes + more


def stills(
    source: Source,
    sampling: Sampling,
    tally: Tally,
    parse: Callable[[pathlib.Path], tuple[Box, ...]] | None = None,
) -> Iterator[Frame]:
    """Frames of a case made of still images.

    A frame that cannot be used is left out and counted.

    Parameters
    ----------
    source : Source
    sampling : Sampling
    tally : Tally
    parse : callable, optional
        Boxes from an item's box file.

    Raises
    ------
    Unusable
        If no frame can be used.
    """
    picker, given, reason = sampling.picker(), 0, ""
    for place, item in enumerate(source.items):
        time_s = item.time_s
        if time_s is None and sampling.fps:
            time_s = place / sampling.fps
        annotated = item.mask or item.is_negative or item.boxes or item.box_file
        if not picker.takes(time_s, labelled=item.label is not None or bool(annotated)):
            continue
        try:
            frame, notes = _still(item, time_s, parse)
        except Unusable as error:
            reason = str(error)
            tally.add(f"left out: {reason}")
            continue
        for note in notes:
            tally.add(note)
        given += 1
        yield frame
    if reason and not given:
        raise Unusable(reason)


def _still(
    item: Item, time_s: float | None, parse: Callable[[pathlib.Path], tuple[Box, ...]] | None
) -> tuple[Frame, tuple[str, ...]]:
    if item.problem:
        raise Unusable(item.problem)
    image, notes = load_rgb(item.image)
    shape = image.shape[:2]
    boxes, is_negative = item.boxes, item.is_negative
    if item.box_file is not None and parse is not None:
        boxes = parse(item.box_file)
        is_negative = not boxes
    boxes, cut = check_boxes(boxes, *shape)
    mask, more = annotation(item.mask, is_negative, *shape)
    frame = Frame(item.index, time_s, image, mask, item.label, tuple(boxes))
    return frame, notes + cut + more
