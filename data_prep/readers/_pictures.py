"""Any medical image as 8-bit RGB: PNG, JPEG, TIFF, BMP, GIF, WebP of 8 or 16 bits, DICOM."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from absl import logging

from data_prep.errors import UserError
from data_prep.readers import _images
from data_prep.readers._images import Unusable

LEVELS = ("image", "type")
FRAMES = ("first", "middle", "all")
MIN_SIDE = 8  # pixels: below it nothing can be seen
TOP = {8: 255, 16: 65535}
DEPTHS = (8, 10, 12, 14, 16)  # bits that detectors and tables have
#: Of images, slides and volumes that no reader here knows.
UNREAD = frozenset(
    ".ai .arw .avif .cr2 .dng .eps .heic .heif .hdr .ico .j2k .jp2 .jpf .jpx .jxl .mha .mhd .mrxs "
    ".ndpi .nef .nhdr .nii .nrrd .pbm .pgm .pnm .ppm .psd .raw .scn .svg .svs .tga .xcf".split()
)
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (".png", *JPEG, ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How stored levels become 8 bits, and which frames count.

    Attributes
    ----------
    levels : str
        What becomes 0 and 255 where there are more than 8 bits and no window: "image": the image's
        own lowest and highest level; "type": those the type could hold.
    window : str
        "CENTRE,WIDTH" in the units of the image (HU for CT), for DICOM grey images instead of their
        own; empty: their own first one.
    frames : str
        Of a DICOM file with several frames: "first", "middle" or "all".
    """

    levels: str = "image"
    window: str = ""
    frames: str = "first"

    def __post_init__(self) -> None:
        if self.levels not in LEVELS:
            raise UserError(f"--levels must be {' or '.join(LEVELS)}: {self.levels}.")
        if self.frames not in FRAMES:
            raise UserError(f"--frames must be {', '.join(FRAMES)}: {self.frames}.")
        if self.window and self.centre_and_width is None:
            raise UserError(f"--window must be CENTRE,WIDTH, such as 40,400: {self.window}.")

    @classmethod
    def of(cls, settings: Mapping) -> "Decoding":
        """The part of an app's settings that concerns decoding."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})

    @property
    def centre_and_width(self) -> tuple[float, float] | None:
        """The window as numbers; None if it is not given, or is none."""
        try:
            centre, width = map(float, self.window.split(","))
        except ValueError:
            return None
        return (centre, width) if math.isfinite(centre) and 0 < width < math.inf else None

    def chosen(self, count: int) -> tuple[int, ...]:
        """Those of so many frames that count, from 0."""
        which = {"first": (0,), "middle": (count // 2,), "all": tuple(range(count))}
        return which[self.frames]


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """The image itself, or all images below a folder, sorted. DICOM is known by its content."""
    if not path.is_dir():
        return [path]
    from data_prep.readers import _volumes

    found = _volumes.files(path.resolve())
    pictures = {file for file in found if is_picture(file)}
    warn_of_unread(file for file in found if file not in pictures)
    return sorted(pictures)


def warn_of_unread(paths: Iterable[pathlib.Path]) -> None:
    """Say how many of the files that are not read look like images by their suffix."""
    found = [(pathlib.Path(path.name.lower().removesuffix(".gz")).suffix, path) for path in paths]
    unread = [(suffix, path) for suffix, path in found if suffix in UNREAD]
    if unread:
        kinds = sorted({suffix for suffix, _ in unread})
        logging.warning(
            "%d files are not read, although they may be images (%s), such as %s: convert them to "
            "PNG, TIFF or DICOM.",
            len(unread),
            ", ".join(kinds),
            unread[0][1],
        )


def is_image(path: pathlib.Path) -> bool:
    """Whether a name is that of an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_picture(path: pathlib.Path) -> bool:
    """Whether a file is an image by its suffix, or DICOM."""
    return is_image(path) or is_dicom(path)


def frames(path: pathlib.Path, decoding: Decoding) -> tuple[int, ...]:
    """Frames of a file that count, from 0.

    Raises
    ------
    Unusable
        If it is DICOM and damaged.
    """
    if not is_dicom(path):
        return (0,)
    from data_prep.readers import _dicom_image

    return decoding.chosen(_dicom_image.header(path).frames)


def read(
    path: pathlib.Path, decoding: Decoding, frame: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one image.

    Parameters
    ----------
    path : pathlib.Path
    decoding : Decoding
    frame : int
        Of a DICOM file, from 0.

    Returns
    -------
    image : numpy.ndarray
        uint8 (H, W, 3) RGB; grey images have three equal channels.
    notes : tuple of str
        What was mended.

    Raises
    ------
    Unusable
        If the file is missing, damaged, too large or too small, shows one level only, or holds
        levels that are none.
    """
    _images.require_file(path)
    if is_dicom(path):
        from data_prep.readers import _dicom_image

        image, notes = _dicom_image.read(path, decoding, frame)
    else:
        found, notes = _images.load(path)
        image = to_rgb(found.pixels, decoding.levels)
    return check(image), notes


def check(image: np.ndarray) -> np.ndarray:
    """The image, if there is something to be seen in it.

    Raises
    ------
    Unusable
        If a side is shorter than ``MIN_SIDE``, or all pixels are the same.
    """
    check_size(*image.shape[:2])
    if (image == image[0, 0]).all():
        raise Unusable("the image is blank: all its pixels are the same")
    return image


def check_size(height: int, width: int) -> None:
    """Test a size, before the pixels are decoded where a header says it.

    Raises
    ------
    Unusable
        If there are too many pixels, or too few.
    """
    _images.check_pixels(height, width)
    if min(height, width) < MIN_SIDE:
        raise Unusable(
            f"the image has {width} x {height} pixels: a side must have at least {MIN_SIDE}"
        )


def to_rgb(pixels: np.ndarray, levels: str = "image") -> np.ndarray:
    """Turn pixels of any type into 8-bit RGB.

    Parameters
    ----------
    pixels : numpy.ndarray
        (H, W) or (H, W, C) with C from 1 to 4; an opacity channel is left out. Whole numbers of
        more than 8 bits are scaled as ``levels`` says (see :class:`Decoding`). Floating-point
        numbers are from 0 to 1, or from 0 to 255.
    levels : str
        Also "depth": 0 and what so many bits as are used could hold (see :func:`depth`).

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3).

    Raises
    ------
    Unusable
        If the shape is not an image's, or a level is out of range or no number.
    """
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] > (4,):
        raise Unusable(f"the pixels have the shape {pixels.shape}, not that of one image")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind == "f":
        pixels = _from_float(pixels)
    elif pixels.dtype != np.uint8:
        pixels = _from_whole(pixels, levels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8, ``low`` and what is below becoming 0, ``high`` and what is above 255."""
    span = high - low
    scaled = (values.astype(np.float64) - low) * (255 / span if span > 0 else 0.0)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def depth(top: int, bits: int) -> int:
    """Bits of levels up to ``top``: fewer than ``bits`` where those are of the container, 16."""
    used = int(top).bit_length()
    if bits < 16:
        return max(bits, used)
    return next((each for each in DEPTHS if used <= each), used)


def _from_float(pixels: np.ndarray) -> np.ndarray:
    low, high = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Unusable("its pixels hold values that are not numbers")
    if low < 0 or high > TOP[8]:
        raise Unusable(
            f"its pixels run from {low:g} to {high:g}: floating-point levels must be from 0 to 1, "
            "or from 0 to 255"
        )
    return scale(pixels, 0.0, 1.0 if high <= 1 else TOP[8])


def _from_whole(pixels: np.ndarray, levels: str) -> np.ndarray:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > TOP[16]:
        raise Unusable(f"its pixels run from {low} to {high}: levels must be from 0 to {TOP[16]}")
    if pixels.dtype.itemsize == 8 and high <= TOP[8]:  # as NumPy makes whole numbers by itself
        return pixels.astype(np.uint8)
    is_short = pixels.dtype.itemsize < 4  # longer ones hold 16 bits, as Pillow makes them
    bits = int(np.iinfo(pixels.dtype).max).bit_length() if is_short else 16
    if levels == "depth":
        bits = min(bits, depth(high, 16))
    return scale(pixels, *((low, high) if levels == "image" else (0, (1 << bits) - 1)))


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file is DICOM; one with the suffix of an image is not looked into."""
    if path.suffix.lower() in SUFFIXES or path.name == "DICOMDIR":
        return False
    from data_prep.readers import dicom_ct

    return dicom_ct.is_dicom(path)
