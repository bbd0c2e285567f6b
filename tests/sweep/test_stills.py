"""Stills and masks: orientation, depth, byte order, palette, planes, compression, format.

What was written is what is right: levels are known before they are stored, and stored by Pillow,
tifffile, OpenCV or by hand. Of lossy files OpenCV is the other reader. Every variant is read by the
route of every app, once as a picture and once as a mask.
"""

import dataclasses
import itertools
import pathlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tifffile
from PIL import Image

from data_prep.readers import _frames, _images, _pictures
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.sweep.tally import Tally

HEIGHT, WIDTH = 32, 48
LESION = np.zeros((HEIGHT, WIDTH), bool)
LESION[6:14, 4:30] = LESION[10:26, 20:30] = True
LUMA = np.array([0.299, 0.587, 0.114])


def picture() -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): colours that no turn or exchange of channels maps to themselves."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    red = 255 * columns / (WIDTH - 1)
    green = 255 * rows / (HEIGHT - 1)
    blue = 100 + 80 * np.sin(columns / 5) * (rows / HEIGHT)
    return np.rint(np.stack([red, green, blue], axis=-1)).astype(np.uint8)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """By where the first row and the first column of what is stored belong (TIFF 6.0, page 36)."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    return {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels, 6: pixels[:, ::-1], 7: pixels[::-1, ::-1], 8: pixels[::-1],
    }[orientation]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to store colours.

    Attributes
    ----------
    store : callable
        uint8 (H, W, 3) -> what is written, and the levels that it means.
    top : float
        Of these levels: white.
    how : dict
        For the writer.
    """

    store: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    top: float
    how: dict = dataclasses.field(default_factory=dict)


def levels_of(dtype, top: float) -> Callable[[np.ndarray], np.ndarray]:
    def convert(pixels: np.ndarray) -> np.ndarray:
        levels = pixels / 255 * top
        return (levels if np.dtype(dtype).kind == "f" else np.rint(levels)).astype(dtype)

    return convert


def plain(dtype, top: float, colour: bool, **how) -> Kind:
    convert = levels_of(dtype, top)

    def store(base):
        stored = convert(base if colour else base[..., 0])
        return stored, stored

    return Kind(store, top, how)


def white_is_zero(dtype, top: float) -> Kind:
    convert = levels_of(dtype, top)

    def store(base):
        levels = convert(base[..., 0])
        stored = levels ^ levels.dtype.type(top)
        return stored, levels

    return Kind(store, top, {"photometric": "miniswhite"})


def with_opacity(dtype, top: float, colour: bool, meaning: str, opacity=None) -> Kind:
    """``opacity``: uint8 (H, W); default: opaque."""
    convert = levels_of(dtype, top)

    def store(base):
        levels = convert(base if colour else base[..., 0])
        share = np.full((HEIGHT, WIDTH), 255, np.uint8) if opacity is None else opacity
        stored = levels.reshape(HEIGHT, WIDTH, -1)
        if meaning == "assocalpha":
            stored = np.rint(stored * (share[..., None] / 255.0)).astype(dtype)
        return np.dstack([stored, convert(share)]), levels

    how = {"photometric": "rgb" if colour else "minisblack", "extrasamples": [meaning]}
    return Kind(store, top, how)


def palette(bits: int, index: type, scale: int, reverse: bool = False) -> Kind:
    """Colours by their number; ``scale``: of the 16-bit entries, which some writers give 8 bits."""

    def store(base):
        steps = (base >> 5).astype(int)  # few colours: 8 x 8 x 4
        numbers = steps[..., 0] * 32 + steps[..., 1] * 4 + (steps[..., 2] >> 1)
        used, numbers = np.unique(numbers, return_inverse=True)
        numbers = numbers.reshape(HEIGHT, WIDTH)
        colours = np.stack([used // 32 * 36, used // 4 % 8 * 36, used % 4 * 85], -1)
        table = np.zeros((2**bits, 3), np.uint16)
        table[: len(used)] = colours
        if reverse:
            table, numbers = table[::-1], 2**bits - 1 - numbers
        levels = table[numbers].astype(np.uint8)
        how["colormap"] = np.ascontiguousarray((table * scale).T.astype(np.uint16))
        return numbers.astype(index), levels

    how: dict = {"photometric": "palette"}
    return Kind(store, 255, how)


def inks(dtype, top: float) -> Kind:
    convert = levels_of(dtype, top)

    def store(base):
        black = base.min(axis=2) // 3
        stored = convert(np.dstack([255 - base, black]))
        light = top - stored.astype(np.float64)
        return stored, np.rint(light[..., :3] * light[..., 3:] / top).astype(dtype)

    return Kind(store, top, {"photometric": "separated"})


HALF = np.where(np.arange(WIDTH) < WIDTH // 2, 128, 255) + np.zeros((HEIGHT, 1), int)
BY_TIFFFILE = {
    **{f"grey {bits}": plain(f"u{bits // 8}", 2**bits - 1, False) for bits in (8, 16)},
    "grey bool": plain(bool, 1, False),
    "grey int16": plain(np.int16, 32767, False),
    "grey int8": plain(np.int8, 127, False),
    "grey int32 of 16 bits": plain(np.int32, 65535, False),
    "grey uint32 of 16 bits": plain(np.uint32, 65535, False),
    "grey uint32": plain(np.uint32, 2**32 - 1, False),
    **{f"grey float{8 * n} to 1": plain(f"f{n}", 1, False) for n in (2, 4, 8)},
    "grey float32 to 255": plain(np.float32, 255, False),
    **{f"0 is white, {d}": white_is_zero(d, t) for d, t in ((bool, 1), ("u1", 255), ("u2", 65535))},
    **{f"RGB {bits}": plain(f"u{bits // 8}", 2**bits - 1, True) for bits in (8, 16)},
    "RGB float32 to 1": plain(np.float32, 1, True),
    "palette 8": palette(8, np.uint8, 257),
    "palette 8 reversed": palette(8, np.uint8, 257, reverse=True),
    "palette 8 of 8-bit entries": palette(8, np.uint8, 1),
    "palette 8 of shifted entries": palette(8, np.uint8, 256),
    "palette 16": palette(16, np.uint16, 257),
    "CMYK 8": inks(np.uint8, 255),
    "CMYK 16": inks(np.uint16, 65535),
    "grey and opacity": with_opacity(np.uint8, 255, False, "unassalpha"),
    "RGB and opacity": with_opacity(np.uint8, 255, True, "unassalpha"),
    "RGB 16 and opacity": with_opacity(np.uint16, 65535, True, "unassalpha"),
    "RGB and more": with_opacity(np.uint8, 255, True, "unspecified"),
    "RGB, half opaque": with_opacity(np.uint8, 255, True, "unassalpha", HALF),
    "RGB 16 times opacity": with_opacity(np.uint16, 65535, True, "assocalpha", HALF),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One file, written from the colours ``base``."""

    name: str
    suffix: str
    write: Callable[[pathlib.Path, np.ndarray, int], np.ndarray]
    top: float = 255
    tolerance: float = 1
    turns: bool = True  # whether there is a place for an orientation


def of_tifffile() -> Iterator[Variant]:
    for (name, kind), order, apart, tiled, packed, big in itertools.product(
        BY_TIFFFILE.items(),
        "<>",
        (False, True),
        (False, True),
        ("", "zlib", "delta"),
        (False, True),
    ):
        samples = kind.store(picture())[0].ndim
        if (apart and samples < 3) or (packed == "delta" and ("float" in name or "bool" in name)):
            continue

        def write(path, base, orientation, kind=kind, order=order, how=(apart, tiled, packed, big)):
            apart, tiled, packed, big = how
            stored, levels = kind.store(base)
            more = {"photometric": "rgb" if stored.ndim == 3 else "minisblack"} | kind.how
            more |= {"tile": (16, 16)} if tiled else {"rowsperstrip": 7}
            more |= {"compression": "zlib"} if packed else {}
            more |= {"predictor": True} if packed == "delta" else {}
            more |= {"planarconfig": "separate" if apart else "contig"} if stored.ndim == 3 else {}
            if stored.ndim == 3 and apart:
                stored = np.moveaxis(stored, -1, 0)
            tifffile.imwrite(
                path, stored, byteorder=order, bigtiff=big, metadata=None,
                extratags=[(274, 3, 1, orientation, True)] if orientation > 1 else [], **more,
            )  # fmt: skip
            return levels

        words = [name, order, apart * "planes", tiled * "tiles", packed, big * "BigTIFF"]
        yield Variant("tifffile TIFF " + " ".join(filter(None, words)), ".tif", write, kind.top)


def lzw(content: bytes) -> bytes:
    """A stream of TIFF's LZW of 9 bits for each byte: it repeats nothing, its table never grows."""
    codes = []
    for start in range(0, len(content), 200):
        codes += [256, *content[start : start + 200]]
    return packed(np.array([[*codes, 257]]), 9).tobytes()


def compress(path: pathlib.Path) -> None:
    """Turn the strips of a TIFF into LZW."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page, order = file.pages.first, file.byteorder
        strips = [lzw(content[place : place + size]) for place, size in zip(
            page.dataoffsets, page.databytecounts, strict=True)]  # fmt: skip
        places = [len(content) + sum(map(len, strips[:k])) for k in range(len(strips))]
        values = {259: [5], 273: places, 279: list(map(len, strips))}
        for number, found in values.items():
            tag = page.tags[number]
            letter = {3: "H", 4: "I"}[int(tag.dtype)]
            struct.pack_into(f"{order}{len(found)}{letter}", content, tag.valueoffset, *found)
    path.write_bytes(content + b"".join(strips))


def of_lzw() -> Iterator[Variant]:
    """What tifffile does not decompress by itself, of all kinds."""
    for (name, kind), order, apart in itertools.product(BY_TIFFFILE.items(), "<>", (False, True)):
        if apart and kind.store(picture())[0].ndim < 3:
            continue

        def write(path, base, orientation, kind=kind, order=order, apart=apart):
            stored, levels = kind.store(base)
            more = {"photometric": "rgb" if stored.ndim == 3 else "minisblack"} | kind.how
            more |= {"planarconfig": "separate" if apart else "contig"} if stored.ndim == 3 else {}
            tifffile.imwrite(
                path, np.moveaxis(stored, -1, 0) if apart else stored, byteorder=order,
                metadata=None, rowsperstrip=HEIGHT,
                extratags=[(274, 3, 1, orientation, True)] if orientation > 1 else [], **more,
            )  # fmt: skip
            compress(path)
            return levels

        words = f"tifffile TIFF {name} {order} LZW {apart * 'planes'}"
        yield Variant(words.strip(), ".tif", write, kind.top)


def as_mode(base: np.ndarray, mode: str) -> tuple[Image.Image, np.ndarray, float]:
    """An image of Pillow, its levels and their top."""
    image = Image.fromarray(base)
    if mode in ("L", "LA"):
        image = Image.fromarray(base[..., 0])
        levels, top = base[..., 0], 255
        image = image.convert(mode)
    elif mode == "1":
        levels, top = base[..., 0] > 127, 1
        image = Image.fromarray(levels)
    elif mode == "P":
        stored, levels = palette(8, np.uint8, 1).store(base)
        image, top = Image.fromarray(stored, mode="P"), 255
        colours = np.zeros((256, 3), np.uint8)
        colours[stored.ravel()] = levels.reshape(-1, 3)
        image.putpalette(colours.ravel().tolist())
    elif mode in ("I;16", "I;16B", "I", "F"):
        kinds = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32, "F": np.float32}
        top = 1 if mode == "F" else 65535
        levels = levels_of(kinds[mode], top)(base[..., 0])
        image = Image.fromarray(levels)
        levels = levels.astype(levels.dtype.newbyteorder("="))
    elif mode == "CMYK":
        stored, levels = inks(np.uint8, 255).store(base)
        image, top = Image.fromarray(stored, mode="CMYK"), 255
    else:
        image, levels, top = image.convert(mode), base, 255
    return image, levels, top


TIFF_CODECS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd")
FAX = ("group3", "group4", "tiff_ccitt", "tiff_lzw", "packbits", "raw")


def of_pillow() -> Iterator[Variant]:
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "YCbCr", "LAB")
    for mode in modes:
        top = as_mode(picture(), mode)[2] if mode not in ("YCbCr", "LAB") else 255

        def write(path, base, orientation, mode=mode, **how):
            image, levels, _ = as_mode(base, mode)
            if path.suffix == ".tif":
                how |= {"tiffinfo": {274: orientation}} if orientation > 1 else {}
            elif orientation > 1:
                exif = Image.Exif()
                exif[274] = orientation
                how["exif"] = exif
            image.save(path, **how)
            return levels

        def with_how(write=write, **how):
            return lambda path, base, orientation: write(path, base, orientation, **how)

        for codec in FAX if mode == "1" else TIFF_CODECS:
            loss = 4 if mode == "YCbCr" else 1
            how = with_how(compression=codec)
            yield Variant(f"Pillow TIFF {mode} {codec}", ".tif", how, top, loss)
            if mode in ("L", "RGB", "I;16"):
                delta = with_how(compression=codec, tiffinfo={317: 2})
                yield Variant(f"Pillow TIFF {mode} {codec} delta", ".tif", delta, top, turns=False)
        if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"):
            yield Variant(f"Pillow PNG {mode}", ".png", write, top)
        if mode in ("1", "L", "P", "RGB", "RGBA"):
            for suffix in (".bmp",) + ((".gif",) if mode in "LP" else ()):
                name = f"Pillow {suffix[1:].upper()} {mode}"
                yield Variant(name, suffix, write, top, turns=False)
        if mode in ("L", "RGB", "RGBA"):
            lossless = with_how(lossless=True, exact=True)
            yield Variant(f"Pillow WebP {mode}", ".webp", lossless, top)


def of_lossy() -> Iterator[Variant]:
    """Levels as OpenCV reads them, which turns them by itself, are turned back for the test."""
    for mode, how in [
        *(("RGB", {"subsampling": k, "progressive": p}) for k in (0, 1, 2) for p in (False, True)),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ]:

        def write(path, base, orientation, mode=mode, how=how):
            exif = Image.Exif()
            exif[274] = orientation
            image = as_mode(base, mode)[0]
            image.save(path, quality=95, exif=exif if orientation > 1 else b"", **how)
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            return cv2.imdecode(np.fromfile(path, np.uint8), flags)[..., ::-1]

        yield Variant(f"Pillow JPEG {mode} {how}", ".jpg", write, tolerance=4)

    def ycck(path, base, orientation):
        stored, levels = inks(np.uint8, 255).store(base)
        ycc = np.asarray(Image.fromarray(stored[..., :3]).convert("YCbCr"))
        image = Image.fromarray(np.dstack([255 - ycc, stored[..., 3]]), mode="CMYK")
        image.save(path, quality=98)
        content = bytearray(path.read_bytes())
        content[content.index(b"Adobe") + 11] = 2  # the transform
        path.write_bytes(content)
        return levels

    yield Variant("Pillow JPEG YCCK", ".jpg", ycck, tolerance=6, turns=False)
    for codec, mode in itertools.product(("jpeg",), ("L", "RGB")):

        def write_tiff(path, base, orientation, codec=codec, mode=mode):
            image, levels, _ = as_mode(base, mode)
            turn = {274: orientation} if orientation > 1 else {}
            how = {"quality": 100} if codec == "jpeg" else {}
            image.save(path, compression=codec, tiffinfo=turn, **how)
            return levels

        yield Variant(f"Pillow TIFF {mode} {codec}", ".tif", write_tiff, tolerance=24)


def of_opencv() -> Iterator[Variant]:
    codecs = {"none": 1, "LZW": 5, "deflate": 8, "PackBits": 32773}
    for (dtype, top), colour, (codec, number), delta in itertools.product(
        ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)),
        (1, 3, 4),
        codecs.items(),
        (1, 2, 3),
    ):
        if delta > 1 and codec not in ("LZW", "deflate"):
            continue
        if (delta == 3) != (dtype in (np.float32, np.float64) and delta > 1):
            continue

        def write(path, base, orientation, dtype=dtype, top=top, how=(colour, number, delta)):
            colour, number, delta = how
            levels = levels_of(dtype, top)(base if colour > 1 else base[..., 0])
            stored = levels[..., ::-1] if colour > 1 else levels
            if colour == 4:
                stored = np.dstack([stored, np.full((HEIGHT, WIDTH), top, dtype)])
            flags = [cv2.IMWRITE_TIFF_COMPRESSION, number, cv2.IMWRITE_TIFF_PREDICTOR, delta]
            assert cv2.imwrite(str(path), stored, flags)
            add_tag(path, 274, orientation)
            return levels

        name = f"OpenCV TIFF {np.dtype(dtype)} x {colour} {codec} predictor {delta}"
        yield Variant(name, ".tif", write, top)
        if dtype in (np.uint8, np.uint16) and codec == "none":

            def write_png(path, base, orientation, dtype=dtype, top=top, colour=colour):
                levels = levels_of(dtype, top)(base if colour > 1 else base[..., 0])
                stored = levels[..., ::-1] if colour > 1 else levels
                if colour == 4:
                    stored = np.dstack([stored, np.full((HEIGHT, WIDTH), top, dtype)])
                assert cv2.imwrite(str(path), stored)
                add_exif(path, orientation)
                return levels

            yield Variant(f"OpenCV PNG {np.dtype(dtype)} x {colour}", ".png", write_png, top)


def add_exif(path: pathlib.Path, orientation: int, behind: bool = False) -> None:
    """Put a PNG's eXIf chunk before or behind its pixels."""
    if orientation == 1:
        return
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    content = path.read_bytes()
    place = content.rindex(b"IEND") - 4 if behind else content.index(b"IDAT") - 4
    path.write_bytes(content[:place] + chunk(b"eXIf", exif) + content[place:])


def add_tag(path: pathlib.Path, number: int, value: int) -> None:
    """Add a tag of one uint16 to a little-endian TIFF: a new directory behind all."""
    content = path.read_bytes()
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    starts = range(place + 2, place + 2 + 12 * count, 12)
    entries = [content[start : start + 12] for start in starts]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry) != (number,)]
    entries.append(struct.pack("<HHIHH", number, 3, 1, value, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    content += b"\0" * (len(content) % 2)
    path.write_bytes(content[:4] + struct.pack("<I", len(content)) + content[8:] + directory)


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers (H, W) of so many bits as uint8 (H, bytes), rows padded, most significant first."""
    shifts = np.arange(bits)[::-1]
    return np.packbits((numbers[..., None] >> shifts & 1).reshape(len(numbers), -1), axis=1)


def by_hand() -> Iterator[Variant]:
    for bits, colour_type in itertools.product((1, 2, 4, 8, 16), (0, 3, 4, 2, 6)):
        if (colour_type == 3 and bits == 16) or (colour_type in (2, 4, 6) and bits < 8):
            continue
        for clear in ("", "tRNS") if colour_type in (0, 2, 3) else ("",):

            def write(path, base, orientation, how=(bits, colour_type, clear)):
                bits, colour_type, clear = how
                top, chunks = 2**bits - 1, []
                levels = levels_of(np.uint16, top)(base)
                if colour_type in (0, 3, 4):
                    levels = levels[..., 0]
                stored = levels.reshape(HEIGHT, WIDTH, -1)
                if colour_type in (4, 6):
                    stored = np.dstack([stored, np.full((HEIGHT, WIDTH), top)])
                rows = packed(stored.reshape(HEIGHT, -1).astype(int), bits)
                if colour_type == 3:
                    table = np.rint(np.arange(top + 1)[:, None] / top * [255, 255, 255])
                    chunks.append(chunk(b"PLTE", table.astype(np.uint8).tobytes()))
                    chunks += [chunk(b"tRNS", b"\xff" * min(top, 9))] if clear else []
                elif clear:
                    colour = [top // 3] * (3 if colour_type == 2 else 1)
                    chunks.append(chunk(b"tRNS", struct.pack(f">{len(colour)}H", *colour)))
                header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
                lines = np.hstack([np.zeros((HEIGHT, 1), np.uint8), rows]).tobytes()
                body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(lines))]
                path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b""))
                add_exif(path, orientation, behind=True)
                return levels

            name = f"PNG by hand, {bits} bits, colour type {colour_type} {clear}"
            yield Variant(name, ".png", write, 2**bits - 1)
    for bits, order, fill, photometric in itertools.product(
        (1, 2, 4, 8, 12, 16), "<>", (1, 2), (0, 1, 3)
    ):
        if photometric == 3 and bits == 12:
            continue

        def write_tiff(path, base, orientation, how=(bits, order, fill, photometric)):
            bits, order, fill, photometric = how
            top = 2**bits - 1
            levels = levels_of(np.uint16, top)(base[..., 0])
            numbers = top - levels if photometric != 1 else levels
            if bits == 16:
                rows = numbers.astype(f"{order}u2").view(np.uint8)
            else:
                rows = packed(numbers.astype(int), bits)
            if fill == 2:
                rows = np.packbits(np.unpackbits(rows, axis=1), axis=1, bitorder="little")
            tags = {258: (3, bits), 259: (3, 1), 262: (3, photometric), 266: (3, fill)}
            tags |= {274: (3, orientation), 277: (3, 1)}
            if photometric == 3:
                table = np.linspace(65535, 0, top + 1).round().astype(np.uint16)
                tags[320] = (3, *np.tile(table, 3).tolist())
                levels = table[numbers] >> 8
            write_tags(path, order, rows.tobytes(), tags)
            return levels

        name = f"TIFF by hand, {bits} bits {order} fill order {fill} photometric {photometric}"
        yield Variant(name, ".tif", write_tiff, 255 if photometric == 3 else 2**bits - 1)
    for across, down in ((1, 1), (2, 1), (2, 2)):

        def write_ycc(path, base, orientation, across=across, down=down):
            base = base[::down, ::across].repeat(down, 0).repeat(across, 1)  # one colour a block
            ycc = np.asarray(Image.fromarray(base).convert("YCbCr"))
            blocks = ycc.reshape(HEIGHT // down, down, WIDTH // across, across, 3).swapaxes(1, 2)
            light = blocks[..., 0].reshape(*blocks.shape[:2], -1)
            units = np.concatenate([light, blocks[:, :, 0, 0, 1:]], axis=2).astype(np.uint8)
            tags = {258: (3, 8, 8, 8), 259: (3, 1), 262: (3, 6), 274: (3, orientation)}
            tags |= {277: (3, 3), 530: (3, across, down)}
            write_tags(path, "<", units.tobytes(), tags)
            return base

        name = f"TIFF by hand, YCbCr {across} x {down}"
        yield Variant(name, ".tif", write_ycc, tolerance=4)


def write_tags(path: pathlib.Path, order: str, content: bytes, tags: dict) -> None:
    """Write a TIFF of one strip; ``tags``: number -> type (3: uint16) and values."""
    tags |= {256: (3, WIDTH), 257: (3, HEIGHT), 278: (3, HEIGHT), 279: (4, len(content))}
    tags[273] = (4, 8)
    start = 8 + len(content) + len(content) % 2
    entries, behind = b"", b""
    place = start + 2 + 12 * len(tags) + 4
    for number, (kind, *values) in sorted(tags.items()):
        value = struct.pack(order + str(len(values)) + ("H" if kind == 3 else "I"), *values)
        if len(value) > 4:
            value, behind = struct.pack(order + "I", place + len(behind)), behind + value
        entries += struct.pack(order + "HHI", number, kind, len(values)) + value.ljust(4, b"\0")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, start)
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    path.write_bytes(header + content + b"\0" * (len(content) % 2) + directory + behind)


def rgb_of(levels: np.ndarray, top: float) -> np.ndarray:
    """Levels as RGB from 0 to 255, (H, W, 3)."""
    return np.broadcast_to(
        (levels.astype(np.float64) / top * 255).reshape(*levels.shape[:2], -1),
        (*levels.shape[:2], 3),
    )


def grey_of(levels: np.ndarray) -> np.ndarray:
    """Levels as the carotid app wants them: luma, from the image's own lowest to its highest."""
    values = levels.astype(np.float64)
    if levels.dtype == bool:
        values = values * 255
    elif levels.dtype != np.uint8:
        values = (values - values.min()) / np.ptp(values) * 255
    return values if values.ndim == 2 else np.rint(values) @ LUMA


ROUTES = {
    "classify": lambda path: _pictures.read(path, Decoding(levels="type"))[0],
    "polyp, frame": lambda path: _frames.load_rgb(path)[0],
    "cimt": lambda path: _images.load_grey(path)[0],
}


def sweep(folder: pathlib.Path, every: int = 1) -> list[Tally]:
    """Read every variant, or one of so many, by all routes."""
    tallies = {name: Tally(f"stills: {name}") for name in (*ROUTES, "masks")}
    variants = [*of_tifffile(), *of_lzw(), *of_pillow(), *of_lossy(), *of_opencv(), *by_hand()]
    lesion = np.repeat(LESION[..., None] * np.uint8(255), 3, axis=2)
    turns = itertools.cycle((1, 6, 3, 8, 2, 5, 4, 7))
    for number, variant in enumerate(variants):
        orientation = next(turns) if variant.turns else 1
        if number % every:
            continue
        path = folder / f"a{variant.suffix}"
        name = f"{variant.name} orientation {orientation}"
        try:
            levels = upright(variant.write(path, picture(), orientation), orientation)
        except OSError as error:
            if "cannot write mode" in str(error):  # Pillow 13 writes fewer modes than 12
                continue
            raise
        for route, read in ROUTES.items():
            expected = grey_of(levels) if route == "cimt" else rgb_of(levels, variant.top)
            judge(tallies[route], name, path, read, expected, variant.tolerance)
        variant.write(path, lesion, orientation)
        expected = upright(LESION, orientation)
        judge(tallies["masks"], name, path, lambda path: _frames.load_mask(path)[0], expected, 0)
    return list(tallies.values())


def judge(tally, name, path, read, expected, tolerance) -> None:
    try:
        found = read(path)
    except Unusable as error:
        tally.refuse(name, re.sub(r"-?\d[\d.e+]*", "N", str(error)))
        return
    if found.shape != expected.shape:
        tally.agree(name, False, f"{found.shape} for {expected.shape}")
        return
    off = np.abs(found.astype(np.float64) - expected)
    tally.agree(
        name, off.max() <= tolerance, f"up to {off.max():.0f} levels, mean {off.mean():.1f}"
    )


def test_no_silent_difference(tmp_path):
    for tally in sweep(tmp_path, every=7):
        assert tally.different == []
        refused = sum(map(len, tally.refused.values()))
        assert refused < 0.2 * tally.agreed and tally.agreed > 150
