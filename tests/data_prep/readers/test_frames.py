import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.readers import _frames
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image


def tiff_that_pillow_refuses(path, pixels):
    """Three samples, tagged MinIsBlack, as CVC-ClinicDB is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="rgb")
    data = bytearray(path.read_bytes())
    tag = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x02\x00")
    data[tag + 8] = 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_rgb_is_unchanged(tmp_path, suffix):
    image, notes = _frames.load_rgb(write_image(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(image, pattern(0))
    assert notes == ()


def test_tiff_that_pillow_refuses(tmp_path):
    path = tiff_that_pillow_refuses(tmp_path / "a.tif", pattern(3))
    with pytest.raises(Exception, match="identify|unknown|mode"):
        Image.open(path).load()
    np.testing.assert_array_equal(_frames.load_rgb(path)[0], pattern(3))
    path = tiff_that_pillow_refuses(tmp_path / "m.tif", np.dstack([disc()] * 3))
    np.testing.assert_array_equal(_frames.load_mask(path)[0], disc() > 0)


def test_planes_grey_opacity_palette_and_depth(tmp_path):
    planes = np.moveaxis(pattern(1), -1, 0).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "p.tif", planes, photometric="rgb", planarconfig="separate")
    image, notes = _frames.load_rgb(tmp_path / "p.tif")
    np.testing.assert_array_equal(image, pattern(1))
    assert notes == ("16-bit levels turned to 8 bits",)
    image, notes = _frames.load_rgb(write_image(tmp_path / "g.png", disc()))
    np.testing.assert_array_equal(image, np.dstack([disc()] * 3))
    assert "grey" in notes[0]
    image, _ = _frames.load_rgb(write_image(tmp_path / "a.png", np.dstack([pattern(2), disc()])))
    np.testing.assert_array_equal(image, pattern(2))
    Image.fromarray(pattern(2)).quantize(200).save(tmp_path / "q.png")
    expected = np.asarray(Image.open(tmp_path / "q.png").convert("RGB"))
    np.testing.assert_array_equal(_frames.load_rgb(tmp_path / "q.png")[0], expected)
    Image.fromarray(disc().astype(np.uint16) * 257).save(tmp_path / "d.png")
    np.testing.assert_array_equal(_frames.load_rgb(tmp_path / "d.png")[0][..., 1], disc())
    Image.fromarray(disc().astype(np.float32) / 255).save(tmp_path / "f.tif")
    with pytest.raises(Unusable, match="neither of 8 nor of 16"):
        _frames.load_rgb(tmp_path / "f.tif")


@pytest.mark.parametrize("load", [_frames.load_rgb, _frames.load_mask])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0\x08\0\0\0\xff\xff"])
def test_unreadable(tmp_path, load, suffix, content):
    (tmp_path / f"secret{suffix}").write_bytes(content)
    with pytest.raises(Unusable, match="^the image file is unreadable$"):
        load(tmp_path / f"secret{suffix}")
    with pytest.raises(Unusable, match="missing"):
        load(tmp_path / f"none{suffix}")


def test_a_gif_is_read_unless_it_is_a_film(tmp_path):
    pages = [Image.fromarray(disc()), Image.fromarray(255 - disc())]
    pages[0].save(tmp_path / "a.gif")
    np.testing.assert_array_equal(_frames.load_rgb(tmp_path / "a.gif")[0][..., 0], disc())
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "a.gif")[0], disc() > 0)
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    for load in (_frames.load_rgb, _frames.load_mask):
        with pytest.raises(Unusable, match="the GIF holds a film"):
            load(tmp_path / "a.gif")


def test_gigantic_image(tmp_path, monkeypatch):
    monkeypatch.setattr(_frames._images, "MAX_PIXELS", 100)
    with pytest.raises(Unusable, match="pixels"):
        _frames.load_rgb(write_image(tmp_path / "a.png"))
    with pytest.raises(Unusable, match="pixels"):
        _frames.load_rgb(tiff_that_pillow_refuses(tmp_path / "a.tif", pattern(0)))


def test_masks_with_grey_edges_and_jpeg(tmp_path):
    soft = np.asarray(Image.fromarray(disc()).resize((96, 72), Image.Resampling.BICUBIC))
    assert len(np.unique(soft)) > 10
    mask, notes = _frames.load_mask(write_image(tmp_path / "a.png", soft))
    np.testing.assert_array_equal(mask, soft > 127)
    assert notes == ()
    Image.fromarray(disc()).save(tmp_path / "a.jpg", quality=60)
    jpeg = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert len(np.unique(jpeg)) > 10
    mask, _ = _frames.load_mask(tmp_path / "a.jpg")
    np.testing.assert_array_equal(mask, jpeg > 127)
    assert np.mean(mask != (disc() > 0)) < 0.01


@pytest.mark.parametrize(
    ("pixels", "noted"),
    [
        (disc() // 255, True),
        (disc() > 0, False),
        (disc().astype(np.uint16) * 257, True),
        (np.dstack([disc(), disc() * 0, disc() * 0]), False),
        (np.dstack([disc(), disc() * 0 + 255]), False),
        (np.dstack([disc()] * 3 + [disc() * 0 + 255]), False),
    ],
)
def test_masks_of_any_type(tmp_path, pixels, noted):
    mask, notes = _frames.load_mask(write_image(tmp_path / "a.png", pixels))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, disc() > 0)
    assert bool(notes) == noted


def test_masks_without_a_lesion_and_masks_that_cannot_be_told(tmp_path):
    assert not _frames.load_mask(write_image(tmp_path / "a.png", disc() * 0))[0].any()
    noise = np.random.default_rng(0).integers(0, 12, disc().shape).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    assert not _frames.load_mask(tmp_path / "a.jpg")[0].any()
    with pytest.raises(Unusable, match="levels end at 3"):
        _frames.load_mask(write_image(tmp_path / "b.png", disc() // 85))


def test_mask_is_resized_only_where_the_shape_agrees():
    mask = disc(48, 64) > 0
    fitted, notes = _frames.fit_mask(mask, 96, 128)
    np.testing.assert_array_equal(fitted, mask.repeat(2, 0).repeat(2, 1))
    assert "nearest" in notes[0]
    fitted, _ = _frames.fit_mask(mask, 24, 32)
    np.testing.assert_array_equal(fitted, mask[1::2, 1::2])
    odd, _ = _frames.fit_mask(mask, 31, 41)
    pillow = Image.fromarray(disc()).resize((41, 31), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(odd, np.asarray(pillow) > 0)
    assert _frames.fit_mask(mask, 48, 64) == (mask, ())
    for height, width in ((64, 48), (48, 66), (96, 64)):
        with pytest.raises(Unusable, match="differ in shape"):
            _frames.fit_mask(mask, height, width)


def test_boxes():
    boxes, notes = _frames.check_boxes([(1.0, 2.0, 3.0, 4.0)], 10, 10)
    assert (boxes, notes) == ([(1.0, 2.0, 3.0, 4.0)], ())
    boxes, notes = _frames.check_boxes([(-2.0, 5.0, 6.0, 9.0)], 10, 10)
    assert boxes == [(0.0, 5.0, 4.0, 5.0)] and "cut" in notes[0]
    for box in ((3.0, 3.0, 0.0, 2.0), (3.0, 3.0, -1.0, 2.0), (11.0, 1.0, 2.0, 2.0)):
        with pytest.raises(Unusable, match="empty or lies outside"):
            _frames.check_boxes([box], 10, 10)
    mask = _frames.mask_of_boxes([(2.0, 1.0, 3.0, 4.0), (7.5, 7.5, 1.0, 1.0)], 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[1:5, 2:5] = True
    expected[8, 8] = False
    centres = np.mgrid[:10, :10] + 0.5
    inside = (centres >= 7.5).all(0) & (centres < 8.5).all(0)
    np.testing.assert_array_equal(mask, expected | inside)
