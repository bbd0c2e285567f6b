import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.readers import _frames, _images, _pictures
from data_prep.readers._images import Unusable, decode, load_grey, to_grey
from data_prep.readers._pictures import Decoding
from tests.data_prep.readers.synthetic import picture


def test_grey_png_is_unchanged(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    image, notes = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image, picture())
    assert notes == ()


def test_palette_gives_its_colours_not_its_indices(tmp_path):
    indices = picture() % 4
    file = Image.fromarray(indices).convert("P")
    file.putpalette([0, 0, 0, 90, 90, 90, 180, 180, 180, 255, 255, 255])
    file.save(tmp_path / "a.tif")
    image, notes = load_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, np.array([0, 90, 180, 255], np.uint8)[indices])
    assert notes == ()


def test_grey_rgb_collapses_without_a_note_and_opacity_with_one(tmp_path):
    for opacity, expected in ((picture(1), ("opacity left out",)), (picture() * 0 + 255, ())):
        rgba = np.dstack([picture()] * 3 + [opacity])
        Image.fromarray(rgba).save(tmp_path / "a.png")
        image, notes = load_grey(tmp_path / "a.png")
        np.testing.assert_array_equal(image, picture())
        assert notes == expected


def test_colours_become_luma_and_are_named(tmp_path):
    rgb = np.dstack([picture(seed) for seed in range(3)])
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image, notes = load_grey(tmp_path / "a.png")
    luma = np.asarray(Image.fromarray(rgb).convert("L"), int)
    assert np.abs(image.astype(int) - luma).max() <= 1
    assert len(notes) == 1 and "coloured" in notes[0]


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path):
    deep = picture().astype(np.uint16) * 16 + 100  # 12 of 16 bits
    Image.fromarray(deep).save(tmp_path / "a.png")
    image, notes = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image, picture())
    assert notes == ("levels 100 to 4180 scaled to 8 bits",)


def test_one_bit_and_float(tmp_path):
    Image.fromarray(picture() > 127).save(tmp_path / "a.png")
    image, notes = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.where(picture() > 127, 255, 0))
    assert "1-bit" in notes[0]
    image, _ = to_grey(np.array([[0.0, 0.25], [0.5, 1.0]]))
    np.testing.assert_array_equal(image, [[0, 64], [128, 255]])


def test_flat_deep_image_does_not_divide_by_nothing():
    image, _ = to_grey(np.full((3, 4), 700, np.uint16))
    np.testing.assert_array_equal(image, np.zeros((3, 4)))


def test_tiff_that_pillow_refuses(tmp_path):
    deep = np.dstack([picture().astype(np.uint16) * 257] * 3)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    image, _ = load_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, picture())


def test_first_of_several_pages_is_named(tmp_path):
    pages = [Image.fromarray(picture(seed)) for seed in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image, notes = load_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, picture(0))
    assert notes == ("first of 2 pages used",)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".CRI"])
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"II*\0\x08\0\0\0\xff\xff"])
def test_unreadable_file(tmp_path, suffix, content):
    (tmp_path / f"secret{suffix}").write_bytes(content)
    with pytest.raises(Unusable, match="^the image file is unreadable$"):
        load_grey(tmp_path / f"secret{suffix}")


def test_truncated_and_missing_file(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(Unusable, match="unreadable"):
        load_grey(tmp_path / "b.png")
    with pytest.raises(Unusable, match="missing"):
        load_grey(tmp_path / "c.png")


@pytest.mark.parametrize("load", [load_grey, _frames.load_rgb, _frames.load_mask])
def test_a_pipe_is_not_waited_for(tmp_path, load):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(Unusable, match="is no regular file"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize("limit", [None, 1000])
def test_gigantic_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch, limit):
    side = 200 if limit else 20_000  # 400 million pixels: above Pillow's own limit too
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    if limit:
        monkeypatch.setattr(_images, "MAX_PIXELS", limit)
    with pytest.raises(Unusable, match="million"):
        load_grey(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 4, 5), (2, 4, 4, 3)])
def test_shapes_that_are_no_image(shape):
    with pytest.raises(Unusable, match="shape"):
        to_grey(np.zeros(shape, np.uint8))


def test_pixels_that_are_not_numbers():
    with pytest.raises(Unusable, match="not numbers"):
        to_grey(np.array([[np.nan, 1.0]]))


@pytest.mark.parametrize("bits", [1, 8, 16, 32])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_zero_is_white(tmp_path, bits, how):
    """Against the stored numbers, which tifffile does not interpret."""
    numbers = picture() > 127 if bits == 1 else picture().astype(f"uint{bits}") * 15
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="miniswhite", **how)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == 0
        stored = file.pages[0].asarray()
    expected = 2**bits - 1 - stored.astype(np.int64)
    pixels = decode(tmp_path / "a.tif").pixels
    assert pixels.dtype.kind == stored.dtype.kind
    np.testing.assert_array_equal(pixels.astype(np.int64), expected)
    grey, _ = load_grey(tmp_path / "a.tif")
    assert np.corrcoef(grey.ravel(), stored.ravel().astype(float))[0, 1] < -0.99


def test_zero_is_white_but_no_opacity(tmp_path):
    both = np.dstack([picture(), picture(1)])
    for planes, pixels in (("contig", both), ("separate", np.moveaxis(both, -1, 0))):
        tifffile.imwrite(
            tmp_path / "a.tif",
            pixels,
            photometric="miniswhite",
            planarconfig=planes,
            extrasamples=["unassalpha"],
        )
        found = decode(tmp_path / "a.tif")
        np.testing.assert_array_equal(found.pixels, 255 - picture())
        np.testing.assert_array_equal(found.opacity, picture(1))


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_zero_is_white_and_nothing_is_black(tmp_path, kind):
    levels = picture().astype(kind) - 100
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="miniswhite")
    with pytest.raises(Unusable, match="no largest one"):
        load_grey(tmp_path / "a.tif")


def test_an_image_drawn_in_its_opacity_is_refused(tmp_path):
    nothing = np.zeros_like(picture())
    pixels = np.dstack([nothing] * 3 + [picture()])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for load in (load_grey, _frames.load_rgb, lambda path: _pictures.read(path, Decoding())):
        with pytest.raises(Unusable, match="opacity alone"):
            load(tmp_path / "a.png")


def test_directories_that_go_round_end(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(picture(), photometric="minisblack", contiguous=False)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, last = file.pages[0], file.pages[1]
        start = last.offset + 2 + 12 * len(last.tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    assert struct.unpack_from("<I", content, start) == (0,)
    for place in (first.offset, last.offset):
        struct.pack_into("<I", content, start, place)
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(Unusable, match="unreadable"):
            load_grey(tmp_path / "a.tif")


DAMAGES = [SyntaxError, EOFError, struct.error, ValueError, MemoryError, KeyError, RecursionError]
DAMAGES += [Image.DecompressionBombError, OverflowError, AttributeError, TypeError, zlib.error]


@pytest.mark.parametrize("error", DAMAGES)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_whatever_a_decoder_raises_is_said_of_the_file(tmp_path, monkeypatch, error, suffix):
    def broken(*_, **__):
        raise error("a secret of the file")

    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture()).save(path)
    monkeypatch.setattr(Image.Image, "load", broken)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", broken)
    reads = (load_grey, _frames.load_rgb, _frames.load_mask)
    for load in (*reads, lambda path: _pictures.read(path, Decoding())):
        with pytest.raises(Unusable, match="unreadable|pixels") as raised:
            load(path)
        assert "secret" not in str(raised.value)
