"""The one decoder of still images and masks: PNG, JPEG, TIFF, BMP, GIF, WebP.

What a file says of its levels is honoured, or the file is refused: palette, colour space, planes,
byte order, depth, which end of the levels is white, opacity, orientation.
"""

import dataclasses
import io
import pathlib
import struct
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.errors import UserError

MAX_PIXELS = 50_000_000  # far above any clinical still; a damaged or hostile header asks for more
LOSSY = ("JPEG", "MPO", "WEBP")  # formats that may change levels by a few
ORIENTATION_TAG = 274  # of EXIF and TIFF: how a camera was held
# Its value -> quarter turns anticlockwise, and whether to mirror left and right afterwards.
_TURNS = ((0, True), (2, False), (2, True), (3, True), (3, False), (1, True), (1, False))
TURNS = dict(enumerate(_TURNS, 2))
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how a file starts
GREY_TOLERANCE = 8  # channels that differ by no more are grey: JPEG moves them by a few levels
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # photometric interpretation -> samples of a pixel
WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 2, 3, 5, 6
INK_SET_TAG, ASSOCIATED = 332, 1  # the latter: colours are stored times the opacity
NO_PAGE = 5  # bits of a page that repeats another one smaller, or is its mask
DEFLATE = (8, 32946)
LOSSY_CODECS = (6, 7, 34892, 34933, 50001)
PACKED = "the TIFF packs its pixels in a way that is not read: save it without compression"
OWN_CODECS = (1, 32773, *DEFLATE)  # TIFF compressions that tifffile reads by itself


class Unusable(UserError):
    """A study that cannot be used.

    The message is the reason. It is published beside a pseudonym, so it names no file and no
    person, and quotes no text from inside a file.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """One still image or mask, upright.

    Attributes
    ----------
    pixels : numpy.ndarray
        (H, W), or RGB (H, W, 3); bool, integer or float; black is 0.
    opacity : numpy.ndarray or None
        (H, W) of the same type; 0 is transparent.
    orientation : int
        The tag by which the image was turned; 1: it was not.
    pages : int
        How many images the file holds, of which this is the first.
    lossy : bool
        Whether compression may have changed levels by a few.
    is_doubtful : bool
        Whether white may be black: of arrays of bool, tifffile says by default that 0 is white.
    """

    pixels: np.ndarray
    opacity: np.ndarray | None = None
    orientation: int = 1
    pages: int = 1
    lossy: bool = False
    is_doubtful: bool = False


def decode(path: pathlib.Path) -> Decoded:
    """Read the first image of a file.

    Raises
    ------
    Unusable
        If the file is missing, unreadable, larger than ``MAX_PIXELS``, or stores its pixels in a
        way that is not read. No other exception of a decoder gets out.
    """
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # harmless tags, and sizes, which are tested here
            with path.open("rb") as file:
                is_tiff = file.read(4) in TIFF
            return _tiff(path) if is_tiff else _other(path)
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"the image has more than {MAX_PIXELS // 10**6} million pixels") from error
    except Exception as error:  # decoders raise all kinds on damaged files
        raise Unusable("the image file is unreadable") from error


def load(path: pathlib.Path) -> tuple[Decoded, tuple[str, ...]]:
    """Read an image that is to be looked at, without its opacity.

    Returns
    -------
    image : Decoded
    notes : tuple of str
        What was changed.

    Raises
    ------
    Unusable
        See :func:`decode`; also if all there is to be seen lies in the opacity.
    """
    image, notes = decode(path), []
    if image.pages > 1:
        notes.append(f"first of {image.pages} pages used")
    if image.orientation != 1:
        notes.append("turned as its orientation tag says")
    if image.opacity is not None and not is_flat(image.opacity):
        if is_flat(image.pixels):
            raise Unusable("the image has one colour, and differs in opacity alone: flatten it")
        notes.append("opacity left out")
    return image, tuple(notes)


def load_grey(
    path: pathlib.Path, *, is_drawn_on: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an image as grey levels.

    Parameters
    ----------
    path : pathlib.Path
    is_drawn_on : bool
        Whether points on the image are known. Then an image that a tag turns is refused, for
        nothing tells whether the points were drawn before or after.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W).
    notes : tuple of str
        What was changed on the way, empty for an 8-bit grey image.

    Raises
    ------
    Unusable
        See :func:`load`.
    """
    found, notes = load(path)
    if is_drawn_on and found.orientation != 1:
        raise Unusable(
            "an orientation tag turns the image, and its points do not tell whether they were "
            "drawn before or after: save the image upright, without the tag"
        )
    image, more = to_grey(found.pixels)
    return image, notes + more


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


def check_pixels(height: int, width: int) -> None:
    """Test a size, before the pixels are decoded.

    Raises
    ------
    Unusable
        If there are too many pixels.
    """
    if height * width > MAX_PIXELS:
        raise Unusable(
            f"the image has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million"
        )


def is_flat(pixels: np.ndarray) -> bool:
    """Whether all pixels are the same."""
    return bool((pixels == pixels[0, 0]).all())


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) upright, by the orientation tag of EXIF and TIFF."""
    turns, mirrored = TURNS.get(orientation, (0, False))
    pixels = np.rot90(pixels, turns)
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def _decoded(pixels: np.ndarray, opacity: np.ndarray | None, orientation: int, **more) -> Decoded:
    """Turn what is stored."""
    if pixels.dtype.kind not in "buif":
        raise Unusable("the pixels are neither whole nor floating-point numbers")
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise Unusable(f"the pixels have the shape {pixels.shape}, not that of one image")
    orientation = orientation if orientation in TURNS else 1
    opacity = None if opacity is None else turned(opacity, orientation)
    return Decoded(turned(pixels, orientation), opacity, orientation, **more)


def _other(path: pathlib.Path) -> Decoded:
    """Read what is no TIFF."""
    with Image.open(path) as file:
        check_pixels(file.height, file.width)
        # What follows in an MPO is a preview, or what another eye or exposure saw.
        pages = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        # Of 16-bit colours Pillow would keep the upper byte, without a word.
        is_deep = file.mode[0] != "I" and any(";16" in str(tile[3]) for tile in file.tile)
        fourth = [tile for tile in file.tile if file.format == "BMP" and "BGRX" in str(tile[3])]
        file.load()
        orientation = file.getexif().get(ORIENTATION_TAG, 1)  # of a PNG behind the pixels
        pixels, opacity = _opencv(np.fromfile(path, np.uint8)) if is_deep else _pillow(file)
        for *_, start, (_, *layout) in fourth:  # Pillow drops it; it may be the opacity
            content = path.read_bytes()[start:]
            stored = Image.frombytes("RGBA", file.size, content, "raw", "BGRA", *layout)
            opacity = np.asarray(stored)[..., 3]
        clear = file.info.get("transparency")
        if clear is not None and opacity is None:  # 16 bits: one colour of them is transparent
            is_clear = (pixels.reshape(*pixels.shape[:2], -1) == clear).all(axis=2)
            opacity = np.where(is_clear, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
        lossy = file.format in LOSSY
    return _decoded(pixels, opacity, orientation, pages=pages, lossy=lossy)


def _pillow(file: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and opacity of an image that Pillow has opened."""
    mode = file.mode
    if mode in ("PA", "La", "RGBa") or (
        "transparency" in file.info and mode in ("1", "L", "P", "RGB")
    ):
        file = file.convert("LA" if mode in ("1", "L", "La") else "RGBA")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and mode[0] != "I":
        file = file.convert("RGB")  # palettes, CMYK, YCbCr
    return _apart(np.asarray(file))


def _apart(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W) or (H, W, 3), and the opacity of pixels (H, W, 2 or 4)."""
    if pixels.ndim == 2:
        return pixels, None
    samples = pixels.shape[2]
    opacity = pixels[..., -1] if samples in (2, 4) else None
    return pixels[..., 0] if samples < 3 else pixels[..., :3], opacity


def _opencv(content: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and opacity of the bytes of a file."""
    import cv2

    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Unusable("the image file is unreadable")
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    return _apart(pixels)


def _tiff(path: pathlib.Path) -> Decoded:
    import tifffile

    with tifffile.TiffFile(path) as file:
        whole, seen = [], set()
        for each in file.pages:  # without an end where directories go round
            if each.offset in seen:
                raise Unusable("the image file is unreadable")
            seen.add(each.offset)
            whole += [] if each.subfiletype & NO_PAGE else [each]
        if not whole:
            only = "the TIFF holds a preview or a mask of an image only"
            raise Unusable(only if seen else "the image file is unreadable")
        page, pages = whole[0], max(len(whole), (file.imagej_metadata or {}).get("images", 1))
        check_pixels(page.imagelength, page.imagewidth)
        orientation = int(page.tags.valueof(ORIENTATION_TAG, 1))
        wanted = COLOURS.get(page.photometric)
        if wanted is None or page.tags.valueof(262) is None:
            raise Unusable("the TIFF's colour space is not read: save it as RGB or grey")
        if page.photometric == CMYK and page.tags.valueof(INK_SET_TAG, 1) != 1:
            raise Unusable("the TIFF's inks are not cyan, magenta, yellow and black")
        if page.compression not in DEFLATE:
            page.predictor = 1  # of what is not compressed so, the tag means nothing
        found = _plain(page, wanted) if _is_plain(page) else _compressed(path, page)
        more = {"lossy": page.compression in LOSSY_CODECS, "pages": pages}
        is_inverse = page.photometric == WHITE_IS_ZERO and page.bitspersample == 1
        return _decoded(
            *found, orientation, is_doubtful=is_inverse and "tifffile" in page.software, **more
        )


def _is_plain(page) -> bool:
    """Whether tifffile reads a page without further packages, and gives what is stored."""
    return (
        page.compression in OWN_CODECS
        and page.bitspersample in (1, 8, 16, 32, 64)
        and page.predictor in (1, 2)
        and page.photometric != YCBCR
    )


def _plain(page, wanted: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and opacity of a page; ``wanted``: samples of its colour space."""
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise Unusable(f"the pixels have the shape {pixels.shape}, not that of one image")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    samples = pixels.shape[2]
    if page.photometric == 1 and samples > 2:
        wanted = 3  # CVC-ClinicDB: called grey, and has three samples
    if samples not in (wanted, wanted + 1):
        raise Unusable(f"the TIFF has {samples} samples of a pixel, not those of one image")
    opacity = pixels[..., -1] if samples > wanted else None
    pixels = pixels[..., :wanted]
    if page.photometric == PALETTE:
        pixels = _palette(page)[pixels[..., 0].astype(int)]
    elif page.photometric == CMYK:
        pixels = _from_cmyk(pixels)
    elif page.photometric == WHITE_IS_ZERO:
        if pixels.dtype.kind not in "bu":
            raise Unusable("the TIFF says that 0 is white, and its levels have no largest one")
        top = True if pixels.dtype == bool else np.iinfo(pixels.dtype).max
        pixels = pixels ^ pixels.dtype.type(top)
    if opacity is not None and ASSOCIATED in page.extrasamples:
        pixels = _divided(pixels, opacity)
    return (pixels[..., 0] if pixels.shape[2] == 1 else pixels), opacity


def _palette(page) -> np.ndarray:
    """uint8 (2**bits, 3)."""
    colours = np.asarray(page.colormap).T
    # Some writers store 8 bits where 16 are meant.
    return (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)


def _from_cmyk(pixels: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) of inks (H, W, 4)."""
    if pixels.dtype.kind != "u":
        raise Unusable("the TIFF's inks are neither of 8 nor of 16 bits")
    top = np.iinfo(pixels.dtype).max
    light = top - pixels.astype(np.float64)
    return np.rint(light[..., :3] * light[..., 3:] / top).astype(pixels.dtype)


def _divided(pixels: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colours that are stored times the opacity, without it; black where nothing is seen."""
    top = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    share = np.maximum(opacity[..., None].astype(np.float64) / top, np.finfo(np.float64).tiny)
    colours = np.minimum(pixels / share, top)
    return (colours if pixels.dtype.kind == "f" else np.rint(colours)).astype(pixels.dtype)


def _compressed(path: pathlib.Path, page) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and opacity of a page that tifffile does not decompress by itself, not turned."""
    content = bytearray(path.read_bytes())
    if tag := page.tags.get(ORIENTATION_TAG):  # some turn it by themselves, and some cannot
        struct.pack_into(f"{page.parent.byteorder}H", content, tag.valueoffset, 1)
    bits, is_single = page.bitspersample, page.samplesperpixel == 1
    is_deep = bits == 16 and page.photometric == RGB and page.planarconfig == 1
    # Of other deep ones, Pillow and OpenCV take some for what they are not, without a word.
    is_known = {
        1: bits <= 8 or (is_deep and ASSOCIATED not in page.extrasamples),
        3: bits == 32 and is_single and page.parent.byteorder == "<",
    }
    is_grey = bits in (12, 16) and is_single and page.photometric == 1
    is_known[1] |= is_grey
    if page.index or not is_known.get(page.sampleformat):  # other pages are not asked for
        raise Unusable(PACKED)
    if is_deep or (page.photometric == YCBCR and page.compression == 1):
        return _opencv(np.frombuffer(content, np.uint8))
    try:
        file = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise Unusable(PACKED) from error
    with file:
        file.load()
        if page.photometric == PALETTE:
            pixels, opacity = _apart(np.asarray(file))
            pixels = _palette(page)[pixels.astype(int)]
        else:
            pixels, opacity = _pillow(file)
    return (pixels << 4 | pixels >> 8 if page.bitspersample == 12 else pixels), opacity
