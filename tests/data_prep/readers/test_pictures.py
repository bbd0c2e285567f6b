"""Images of any kind as 8-bit RGB."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from data_prep.errors import UserError
from data_prep.readers import _pictures
from data_prep.readers._images import Unusable
from data_prep.readers._pictures import Decoding
from tests.data_prep.pictures import save, texture, write_dicom


def read(path, **decoding):
    return _pictures.read(path, Decoding(**decoding))[0]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("colour", [False, True])
def test_eight_bits_stay_as_they_are(tmp_path, suffix, colour):
    image = texture(1, 30, 40)
    if colour:
        image = np.stack([image, texture(2, 30, 40), texture(3, 30, 40)], axis=-1)
    how = {"lossless": True} if suffix == ".webp" else {}
    found = read(save(tmp_path / f"a{suffix}", image, **how))
    assert found.dtype == np.uint8 and found.shape == (30, 40, 3)
    np.testing.assert_array_equal(found, image if colour else np.repeat(image[..., None], 3, 2))


def test_jpeg_is_what_pillow_gives(tmp_path):
    path = save(tmp_path / "a.jpg", texture(1))
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_by_the_image_or_the_type(tmp_path, suffix):
    deep = texture(1).astype(np.uint16) * 13 + 100  # 12 of 16 bits
    path = save(tmp_path / f"a{suffix}", deep)
    low, high = int(deep.min()), int(deep.max())
    expected = np.rint((deep - float(low)) / (high - low) * 255)
    np.testing.assert_array_equal(read(path)[..., 0], expected)
    by_type = read(path, levels="type")[..., 0]
    np.testing.assert_array_equal(by_type, np.rint(deep / 65535 * 255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colours_keep_their_balance(tmp_path, suffix):
    deep = np.stack([texture(i).astype(np.uint16) * (10 * i) for i in (1, 2, 3)], axis=-1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, deep, photometric="rgb")
    else:
        cv2.imwrite(str(path), deep[..., ::-1])
    span = deep.max() - deep.min()
    expected = np.rint((deep - float(deep.min())) / span * 255)
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_sixteen_bits_of_which_zero_is_white(tmp_path, how):
    deep = texture(1).astype(np.uint16) * 13 + 100
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="miniswhite", **how)
    light = 65535 - tifffile.imread(tmp_path / "a.tif").astype(float)
    expected = np.rint((light - light.min()) / np.ptp(light) * 255)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], expected)
    by_type = read(tmp_path / "a.tif", levels="type")[..., 0]
    np.testing.assert_array_equal(by_type, np.rint(light / 65535 * 255))


def test_of_an_animation_the_first_image_counts(tmp_path):
    pages = [Image.fromarray(texture(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    image, notes = _pictures.read(tmp_path / "a.gif", Decoding())
    np.testing.assert_array_equal(image, np.dstack([texture(0)] * 3))
    assert notes == ("first of 3 pages used",)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_levels(tmp_path, top):
    levels = texture(1).astype(np.float32) / 255 * top
    tifffile.imwrite(tmp_path / "a.tif", levels)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], texture(1))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((9, 9), -0.5, np.float32), "from -0.5"),
        (np.full((9, 9), 300.0, np.float32), "to 300"),
        (np.full((9, 9), np.nan, np.float32), "not numbers"),
        (np.full((9, 9), np.inf, np.float32), "not numbers"),
        (np.full((9, 9), -3, np.int16), "from -3"),
        (np.full((9, 9), 70000, np.int32), "to 70000"),
        (np.zeros((9, 9, 5), np.uint8), "shape"),
        (np.zeros((9, 0), np.uint8), "shape"),
    ],
)
def test_levels_out_of_range_are_refused(pixels, reason):
    with pytest.raises(Unusable, match=reason):
        _pictures.to_rgb(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_that_was_turned(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", texture(1, 40, 56), exif=exif, quality=95)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["grey", "white is 0", "colour", "deep colour"])
def test_a_tiff_that_was_turned(tmp_path, orientation, compression, kind):
    levels = texture(1, 40, 56)
    if "colour" in kind:
        levels = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    if kind == "deep colour":
        levels = levels.astype(np.uint16) * 257
    photometric = {"grey": "minisblack", "white is 0": "miniswhite"}.get(kind, "rgb")
    tifffile.imwrite(
        tmp_path / "a.tif", levels, photometric=photometric, compression=compression,
        extratags=[(274, 3, 1, orientation, True)],
    )  # fmt: skip
    # Where the first row and the first column of what is stored belong (TIFF 6.0, page 36).
    upright = {
        1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1],
        5: levels.swapaxes(0, 1), 6: levels.swapaxes(0, 1)[:, ::-1],
        7: levels.swapaxes(0, 1)[::-1, ::-1], 8: levels.swapaxes(0, 1)[::-1],
    }[orientation]  # fmt: skip
    expected = _pictures.to_rgb(255 - upright if kind == "white is 0" else upright)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), expected)


def test_palettes_transparency_and_one_bit(tmp_path):
    colours = np.stack([texture(i) for i in (1, 2, 3)], axis=-1)
    picture = Image.fromarray(colours).quantize(16)
    picture.save(tmp_path / "palette.png")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path / "palette.png"), expected)
    alpha = np.dstack([colours, texture(4)])
    np.testing.assert_array_equal(read(save(tmp_path / "alpha.png", alpha)), colours)
    bits = texture(1) > 128
    np.testing.assert_array_equal(read(save(tmp_path / "bits.png", bits))[..., 0], bits * 255)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header asks for so many pixels, and nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 8_000)])
def test_huge_images_are_refused_by_their_header(tmp_path, width, height):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(Unusable, match="more than 50 million"):
        read(path)


def test_what_shows_nothing_is_refused(tmp_path):
    for image, reason in (
        (np.zeros((1, 1), np.uint8), "1 x 1 pixels"),
        (np.full((32, 32), 7, np.uint8), "blank"),
        (np.zeros((7, 64), np.uint8), "at least 8"),
    ):
        with pytest.raises(Unusable, match=reason):
            read(save(tmp_path / "a.png", image))
    with pytest.raises(Unusable, match="missing"):
        read(tmp_path / "absent.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_files_that_are_cut_off_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", texture(1, 64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Unusable):
        read(path)


def test_the_first_of_several_pages_is_used_and_said(tmp_path):
    pages = [Image.fromarray(texture(i)) for i in (1, 2, 3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image, notes = _pictures.read(tmp_path / "a.tif", Decoding())
    np.testing.assert_array_equal(image[..., 0], texture(1))
    assert notes == ("first of 3 pages used",)


def test_files_are_images_by_suffix_or_content(tmp_path):
    wanted = [save(tmp_path / "x" / "b.png", texture(1)), save(tmp_path / "a.JPG", texture(2))]
    wanted += [write_dicom(tmp_path / "x" / "NOSUFFIX", texture(3))]
    (tmp_path / "notes.txt").write_text("none")
    save(tmp_path / ".hidden.png", texture(4))
    assert _pictures.files(tmp_path) == sorted(wanted)
    assert _pictures.files(wanted[0]) == [wanted[0]]
    for frames, expected in (("first", (0,)), ("middle", (2,)), ("all", (0, 1, 2, 3))):
        film = write_dicom(tmp_path / "film.dcm", np.stack([texture(i) for i in range(4)]))
        assert _pictures.frames(film, Decoding(frames=frames)) == expected
        assert _pictures.frames(wanted[0], Decoding(frames=frames)) == (0,)


@pytest.mark.parametrize(
    "given",
    [
        {"levels": "own"},
        {"frames": "last"},
        {"window": "40"},
        {"window": "40,0"},
        {"window": "a,b"},
    ],
)
def test_wrong_settings(given):
    with pytest.raises(UserError, match=f"--{next(iter(given))}"):
        Decoding(**given)


def test_decoding_comes_from_settings():
    settings = {"levels": "type", "window": "40,400", "frames": "all", "side": 224}
    decoding = Decoding.of(settings)
    assert decoding.centre_and_width == (40, 400)
    assert decoding == Decoding("type", "40,400", "all")
