"""Recognise one image in two places: copies, mirrored copies, and windows of one larger image."""

import dataclasses
import hashlib
from collections.abc import Mapping

import cv2
import numpy as np

from data_prep import patches

_ENOUGH = 400  # equal pixels, not all of one grey value, that no two images share by chance
_BLOCK = 4  # side of the squares by which images that may be the same are found
_RICH = 6  # grey values in such a square, so that black squares of all images are not compared


@dataclasses.dataclass
class Seen:
    """What the records of one study show of its image."""

    split: str
    subject: str
    windows: list[tuple[int, int, np.ndarray]] = dataclasses.field(default_factory=list)

    def mosaic(self) -> tuple[int, int, np.ndarray]:
        """First row, first column and pixels int16 (H, W); -1 where no record shows the image."""
        top, left = (min(window[axis] for window in self.windows) for axis in (0, 1))
        bottom, right = (
            max(window[axis] + window[2].shape[axis] for window in self.windows) for axis in (0, 1)
        )
        pixels = np.full((bottom - top, right - left), -1, np.int16)
        for y, x, image in self.windows:
            pixels[y - top : y - top + len(image), x - left : x - left + image.shape[1]] = image
        return top, left, pixels


def decode(png: bytes) -> np.ndarray | None:
    """Pixels uint8 (H, W, channels) in OpenCV's order of colours; None if they cannot be read."""
    try:
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if image is None else image.reshape(*image.shape[:2], -1)


def digest(content: bytes | np.ndarray) -> bytes:
    """Of the bytes of a file or of pixels."""
    return hashlib.blake2b(content, digest_size=16).digest()


def views_digests(image: np.ndarray, views: int) -> list[bytes]:
    """Hash of each patch below one another in an image, whichever way it is mirrored.

    Patches of one colour are left out: black resembles black.

    Parameters
    ----------
    image : ndarray of uint8, (views * H, W, channels)
    views : int
    """
    stack = image.reshape(views, -1, *image.shape[1:])
    stack = stack[np.ptp(stack, axis=(1, 2, 3)) > 0]
    if stack.shape[1] != stack.shape[2]:
        return [digest(np.ascontiguousarray(view)) for view in stack]
    versions = np.ascontiguousarray(patches.dihedral(stack))
    return [min(map(digest, versions[:, number])) for number in range(len(stack))]


def window(
    image: np.ndarray, region: bool, x: float, y: float, margin: int, truth: Mapping
) -> tuple[int, int, np.ndarray]:
    """Row, column and pixels of what a record shows; what was mirrored at the edges is cut off.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, channels)
    region : bool
        Whether the place is that of a region's first evaluated pixel, else of a patch's centre.
    x, y, margin
        As in the record.
    truth : mapping
        ``height`` and ``width`` of the study's image.
    """
    image, before = image[..., 0], margin if region else image.shape[0] // 2
    top, left = int(y) - before, int(x) - before
    rows = slice(max(-top, 0), max(truth["height"] - top, 0))
    columns = slice(max(-left, 0), max(truth["width"] - left, 0))
    return top + rows.start, left + columns.start, image[rows, columns]


def same_image(seen: Mapping[str, Seen]) -> list[tuple[str, str]]:
    """Pairs of cases, of different subjects and splits, that show equal pixels at equal places.

    Only cases that share a small square are compared, so that thousands take seconds: squares of
    4 x 4 pixels at every fourth row and column of the study's image, with some content.
    """
    names = list(seen)
    mosaics = {case: found.mosaic() for case, found in seen.items()}
    keys = [_squares(*mosaics[case]) for case in names]
    owners = np.repeat(np.arange(len(names)), [len(own) for own in keys])
    joined = np.concatenate(keys or [np.empty(0, np.uint64)])
    order = np.argsort(joined, kind="stable")
    joined, owners = joined[order], owners[order]
    bounds = np.flatnonzero(np.r_[True, joined[1:] != joined[:-1], True])
    shared = {
        tuple(np.unique(owners[start:stop]).tolist())
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
        if stop - start > 1
    }
    pairs = {
        (one, other)
        for group in shared
        for place, one in enumerate(group)
        for other in group[place + 1 :]
    }
    found = []
    for one, other in sorted(pairs):
        first, second = names[one], names[other]
        here, there = seen[first], seen[second]
        if here.split == there.split or here.subject == there.subject:
            continue
        if _equal(mosaics[first], mosaics[second]):
            found.append((first, second))
    return found


def _squares(top: int, left: int, pixels: np.ndarray) -> np.ndarray:
    """Hashes uint64 of the known squares with some content, each with its place."""
    down, right = -top % _BLOCK, -left % _BLOCK
    pixels = pixels[down:, right:]
    rows, columns = (length // _BLOCK for length in pixels.shape)
    whole = pixels[: rows * _BLOCK, : columns * _BLOCK]
    squares = whole.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK**2)
    places = np.stack(
        np.meshgrid(
            np.arange(rows) + (top + down) // _BLOCK,
            np.arange(columns) + (left + right) // _BLOCK,
            indexing="ij",
        ),
        axis=-1,
    ).reshape(-1, 2)
    values = np.sort(squares, axis=1)
    rich = (values[:, 0] >= 0) & ((np.diff(values, axis=1) > 0).sum(1) >= _RICH - 1)
    table = np.concatenate([squares[rich], places[rich]], axis=1).astype(np.uint64)
    # Odd numbers of 64 bits, always the same ones: a sum of products that wraps around.
    factors = np.random.Philox(key=7).random_raw(table.shape[1]) | np.uint64(1)
    return (table * factors).sum(1, dtype=np.uint64)


def _equal(one: tuple[int, int, np.ndarray], other: tuple[int, int, np.ndarray]) -> bool:
    """Whether two mosaics are equal wherever both show their image, and do so in enough places."""
    (top, left, pixels), (top_2, left_2, pixels_2) = one, other
    down, right = top_2 - top, left_2 - left
    part = pixels[max(down, 0) :, max(right, 0) :]
    part_2 = pixels_2[max(-down, 0) :, max(-right, 0) :]
    common = tuple(map(min, part.shape, part_2.shape))
    part, part_2 = (found[: common[0], : common[1]] for found in (part, part_2))
    known = (part >= 0) & (part_2 >= 0)
    shared = part[known]
    return bool(len(shared) >= _ENOUGH and np.ptp(shared) and np.array_equal(shared, part_2[known]))
