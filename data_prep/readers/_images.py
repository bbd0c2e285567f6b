"""Pixels of any still image, as one 8-bit grey plane."""

import pathlib
import warnings

import numpy as np
from PIL import Image

from data_prep.errors import UserError

MAX_PIXELS = 50_000_000  # far above any clinical still; a damaged or hostile header asks for more
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0  # of TIFF
PLANES_TAG, PLANES_APART = 284, 2  # of TIFF: the planes of the colours lie one after the other
GREY_TOLERANCE = 8  # channels that differ by no more are grey: JPEG moves them by a few levels


class Unusable(UserError):
    """A study that cannot be used.

    The message is the reason. It is published beside a pseudonym, so it names no file and no
    person, and quotes no text from inside a file.
    """


def load_grey(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an image as grey levels.

    Parameters
    ----------
    path : pathlib.Path
        PNG, TIFF, JPEG, BMP ...: any mode that Pillow or, for TIFF, tifffile reads.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W).
    notes : tuple of str
        What was changed on the way, empty for an 8-bit grey image.

    Raises
    ------
    Unusable
        If the file is missing, unreadable, empty, or larger than ``MAX_PIXELS``.
    """
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # harmless tags, and sizes, which are tested below
            with Image.open(path) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise Unusable(_too_large(file.height, file.width))
                pages = getattr(file, "n_frames", 1)
                pixels = stored(file)
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"the image is larger than {MAX_PIXELS // 10**6} million pixels") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise Unusable("the image file is unreadable") from error
        pixels, pages = tiff(path)
    image, notes = to_grey(pixels)
    if pages > 1:
        notes = (f"first of {pages} pages used", *notes)
    return image, notes


def require_file(path: pathlib.Path) -> None:
    """Test that there is a file, and no folder or pipe, which would be waited for.

    Raises
    ------
    Unusable
        If not.
    """
    if not path.is_file():
        state = "is no regular file" if path.exists() else "is missing"
        raise Unusable(f"the image file {state}")


def to_grey(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn pixels of any type into 8-bit grey.

    Channels become luma (ITU-R BT.601), an opacity channel is left out, and levels of more than
    8 bits are scaled so that the image's own lowest and highest become 0 and 255: scanners use
    10 or 12 of 16 bits, and the full range of the type would leave such an image black.

    Parameters
    ----------
    pixels : numpy.ndarray
        (H, W) or (H, W, C) with C from 1 to 4; bool, integer or float.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W).
    notes : tuple of str
        What was changed.

    Raises
    ------
    Unusable
        If the shape is not an image's, or a level is not a finite number.
    """
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] > (4,):
        raise Unusable(f"the pixels have the shape {pixels.shape}, not that of one image")
    notes = []
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
        notes.append("1-bit pixels turned to black and white")
    elif pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise Unusable("the pixels hold values that are not numbers")
        low, high = float(pixels.min()), float(pixels.max())
        scale = 255.0 / (high - low) if high > low else 0.0
        pixels = np.rint((pixels.astype(np.float64) - low) * scale).astype(np.uint8)
        notes.append(f"levels {low:g} to {high:g} scaled to 8 bits")
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels), tuple(notes)
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    first = pixels[..., 0]
    if all(np.array_equal(first, pixels[..., k]) for k in range(1, pixels.shape[2])):
        return np.ascontiguousarray(first), tuple(notes)
    coloured = np.ptp(pixels, axis=2) > GREY_TOLERANCE
    if coloured.any():
        notes.append(f"coloured pixels ({coloured.mean():.1%}) turned to grey")
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    return np.rint(luma).astype(np.uint8), tuple(notes)


def stored(file: Image.Image) -> np.ndarray:
    """The levels of an image that Pillow has opened; palettes and colour spaces become RGB.

    Returns
    -------
    numpy.ndarray
        (H, W) or (H, W, C); bool, integer or float.
    """
    deep = file.mode.startswith("I;16")
    # Palettes, CMYK and YCbCr have an RGB meaning; the other modes are numbers.
    plain = deep or file.mode in ("1", "L", "LA", "I", "F", "RGB", "RGBA")
    pixels = np.asarray(file if plain else file.convert("RGB"))
    if deep and getattr(file, "tag_v2", {}).get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        return _black_is_zero(pixels, 16)  # of 8 bits and fewer, Pillow does it
    return pixels


def tiff(path: pathlib.Path) -> tuple[np.ndarray, int]:
    """Read with tifffile what Pillow refuses: 16-bit colour, odd photometric tags.

    Returns
    -------
    pixels : numpy.ndarray
        (H, W) or (H, W, C) of the first page, as they are stored, but black is 0.
    pages : int
        How many there are.

    Raises
    ------
    Unusable
        If it cannot be read, or is too large.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if page.imagelength * page.imagewidth > MAX_PIXELS:
                raise Unusable(_too_large(page.imagelength, page.imagewidth))
            pixels = page.asarray()
            if page.planarconfig == PLANES_APART and pixels.ndim == 3:
                pixels = np.moveaxis(pixels, 0, -1)
            if page.photometric == WHITE_IS_ZERO:
                pixels = _black_is_zero(pixels, page.bitspersample)
            return pixels, len(file.pages)
    except Unusable:
        raise
    except Exception as error:
        raise Unusable("the image file is unreadable") from error


def _black_is_zero(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Levels of so many bits of which 0 is white, turned round; signed ones and floats stay."""
    if pixels.dtype.kind not in "bu":
        return pixels
    top = pixels.dtype.type(True if pixels.dtype == bool else 2**bits - 1)
    if pixels.ndim == 2:
        return top ^ pixels
    turned = pixels.copy()  # further samples are opacity, of which 0 is 0
    turned[..., 0] ^= top
    return turned


def _too_large(height: int, width: int) -> str:
    return f"the image has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million"
