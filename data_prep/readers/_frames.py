"""Pixels and masks of still frames, and cases that are made of them."""

import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_prep.errors import UserError
from data_prep.readers import _images, _pictures
from data_prep.readers._colonoscopy import Box, Frame, Item, Sampling, Source, Tally
from data_prep.readers._images import Unusable

MASK_LEVEL = 127  # masks have grey edges, from resizing or from JPEG: above it is lesion
ONE_OF_JPEG = 3  # the highest level that JPEG makes of a mask of 0 and 1
JPEG_NOISE = 32  # levels that JPEG leaves in a black mask
ASPECT = 0.01  # relative difference of the aspect ratios of a mask that may be resized


is_image = _pictures.is_image


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


def load_rgb(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a frame.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB.
    notes : tuple of str
        What was changed: depth, grey, opacity, orientation.

    Raises
    ------
    Unusable
        See :func:`data_prep.readers._images.load` and :func:`data_prep.readers._pictures.to_rgb`;
        also for a film.
    """
    image, notes, _ = _load_rgb(path)
    return image, notes


def _load_rgb(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...], int]:
    """:func:`load_rgb`, and the orientation tag by which the image was turned."""
    found, notes = _images.load(path)
    if found.pages > 1:
        raise Unusable("the file holds a film: save its frames as images of their own")
    if found.pixels.dtype.kind in "ui" and found.pixels.dtype.itemsize > 1:
        bits = _pictures.depth(found.pixels.max(), 16)
        few = f", of which {bits} bits are used," if bits < 16 else ""
        notes = (*notes, f"16-bit levels{few} turned to 8 bits")
    if found.pixels.ndim == 2:
        notes = (*notes, "grey levels repeated in three channels")
    return _pictures.to_rgb(found.pixels, "depth"), notes, found.orientation


def load_mask(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a mask: lesion where it is drawn white, or 1 of 0 and 1, or opaque on nothing.

    White is where any colour channel is above the middle.

    Returns
    -------
    mask : numpy.ndarray
        bool (H, W).
    notes : tuple of str

    Raises
    ------
    Unusable
        See :func:`data_prep.readers._images.decode`; also if the levels do not tell lesion from
        background, or their opacity tells another one.
    """
    return _mask(_images.decode(path))


def _mask(found: _images.Decoded) -> tuple[np.ndarray, tuple[str, ...]]:
    if found.pages > 1:
        raise Unusable(f"the mask's file holds {found.pages} images: save one with all lesions")
    if found.is_doubtful:
        raise Unusable(
            "the mask's TIFF says that 0 is white, as tifffile writes of every array of bool: "
            "save it as whole numbers, 255 on 0"
        )
    level = found.pixels if found.pixels.ndim == 2 else found.pixels.max(axis=2)
    top = level.max()
    if not np.isfinite(top) or level.min() < 0:
        raise Unusable("the mask holds levels that are no grey levels")
    if found.opacity is not None:
        drawn = _drawn(level, found.opacity)
        if drawn is not None:
            return drawn, ("mask read from its opacity",)
    if found.lossy and ONE_OF_JPEG < top < JPEG_NOISE:
        return np.zeros(level.shape, bool), ()
    mask = level > _middle(level)
    if top and (not mask.any() or (found.lossy and top <= ONE_OF_JPEG)):
        raise Unusable(f"the mask's levels end at {top}: lesions should be white (255), or 1 on 0")
    if mask.all() and not _images.is_flat(found.pixels):
        raise Unusable("all colours of the mask are light: lesions should be white on black")
    if level.dtype == bool or top <= 0:
        return mask, ()
    if top == 1:
        return mask, ("mask of 0 and 1 read as such",)
    return mask, ("16-bit mask halved at its middle",) if top > 255 else ()


def _middle(level: np.ndarray) -> float:
    """The level between black and white, by the highest one."""
    top = level.max()
    if level.dtype == bool or 0 <= top <= 1:
        return 0.5
    if level.dtype.kind in "ui" and top == np.iinfo(level.dtype).max:
        return top / 2
    if top > 0xFFFF:
        return np.inf
    return MASK_LEVEL if top <= 0xFF else MASK_LEVEL << 8 | MASK_LEVEL


def _drawn(level: np.ndarray, opacity: np.ndarray) -> np.ndarray | None:
    """What is drawn on a transparent ground; None where the opacity tells nothing.

    Parameters
    ----------
    level, opacity : numpy.ndarray
        (H, W); colours of transparent pixels mean nothing, unless they contradict the opacity.

    Raises
    ------
    Unusable
        If both black and white are drawn, or black while white is hidden.
    """
    top = opacity.max()
    if _images.is_flat(opacity):
        is_empty = not top and _images.is_flat(level)
        return np.zeros(level.shape, bool) if is_empty else None
    white = level > _middle(level)
    seen, hidden = opacity == top, opacity == 0
    is_one_colour = level[seen].min() == level[seen].max() and not white[hidden].any()
    if hidden.any() and (white[seen].all() or is_one_colour):
        return opacity > top / 2
    raise Unusable(
        "the mask's colours and its opacity tell different lesions: save it white on black, "
        "without opacity"
    )


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
    if not _has_shape(mask, height, width):
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
    path: pathlib.Path | None, is_negative: bool, height: int, width: int, orientation: int = 1
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Mask of a frame from its file; all False where it is known to show no lesion; else None.

    ``orientation``: the tag by which the frame, now (height, width), was turned.
    """
    if path is None:
        return (np.zeros((height, width), bool) if is_negative else None), ()
    found = _images.decode(path)
    mask, notes = _mask(found)
    if orientation != 1 and found.orientation == 1:
        mask = _as_frame(mask, orientation, height, width)
    mask, more = fit_mask(mask, height, width)
    return mask, notes + more


def _as_frame(mask: np.ndarray, orientation: int, height: int, width: int) -> np.ndarray:
    """A mask without a tag of its own, beside a frame that its tag turned on its side.

    Raises
    ------
    Unusable
        If the sides do not tell whether the mask was drawn on the frame before or after.
    """
    is_upright, is_stored = (
        _has_shape(mask, *sides) for sides in ((height, width), (width, height))
    )
    if orientation < 5 or (is_upright and is_stored):
        raise Unusable(
            "an orientation tag turns the image, and its mask does not tell whether it was drawn "
            "before or after: save both upright, without the tag"
        )
    return _images.turned(mask, orientation) if is_stored else mask


def _has_shape(mask: np.ndarray, height: int, width: int) -> bool:
    return abs(mask.shape[1] * height / (mask.shape[0] * width) - 1) <= ASPECT


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
    image, notes, orientation = _load_rgb(item.image)
    shape = image.shape[:2]
    boxes, is_negative = item.boxes, item.is_negative
    if item.box_file is not None and parse is not None:
        boxes = parse(item.box_file)
        is_negative = not boxes
    if boxes and orientation != 1:
        raise Unusable(
            "an orientation tag turns the image, and its boxes do not tell whether they were drawn "
            "before or after: save the image upright, without the tag"
        )
    boxes, cut = check_boxes(boxes, *shape)
    mask, more = annotation(item.mask, is_negative, *shape, orientation)
    frame = Frame(item.index, time_s, image, mask, item.label, tuple(boxes))
    return frame, notes + cut + more
