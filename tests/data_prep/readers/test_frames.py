import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.readers import _colonoscopy, _frames, _images
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


@pytest.mark.parametrize(("top", "bits"), [(4095, 12), (1023, 10), (3000, 12), (16383, 14)])
@pytest.mark.parametrize("colours", [False, True])
def test_sixteen_bits_of_which_few_are_used(tmp_path, top, bits, colours):
    levels = np.linspace(0, top, 40 * 50).reshape(40, 50).astype(np.uint16)
    if colours:
        levels = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="rgb" if colours else "minisblack")
    image, notes = _frames.load_rgb(tmp_path / "a.tif")
    expected = levels / ((1 << bits) - 1) * 255
    np.testing.assert_allclose(
        image, expected if colours else expected[..., None] + [0] * 3, atol=0.51
    )
    assert notes[0] == f"16-bit levels, of which {bits} bits are used, turned to 8 bits"


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
    np.testing.assert_array_equal(_frames.load_rgb(tmp_path / "f.tif")[0][..., 2], disc())
    Image.fromarray(disc().astype(np.int32) * 1000).save(tmp_path / "i.tif")
    with pytest.raises(Unusable, match="to 255000"):
        _frames.load_rgb(tmp_path / "i.tif")


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
    for suffix in ("gif", "tif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        pages[0].save(path, save_all=True, append_images=pages[1:])
        with pytest.raises(Unusable, match="holds a film"):
            _frames.load_rgb(path)
        with pytest.raises(Unusable, match="holds 2 images"):
            _frames.load_mask(path)
    stack = np.stack([disc(), 255 - disc()])  # which ImageJ describes in one directory
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    with pytest.raises(Unusable, match="holds a film"):
        _frames.load_rgb(tmp_path / "a.tif")


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


LEVELS = {
    "float32 to 1": (np.float32, 1),
    "float64 to 1": (np.float64, 1),
    "float16 to 1": (np.float16, 1),
    "float32 to 255": (np.float32, 255),
    "bool": (bool, 1),
    "uint8 to 1": (np.uint8, 1),
    "uint8 to 255": (np.uint8, 255),
    "uint16 to 1": (np.uint16, 1),
    "uint16 to 255": (np.uint16, 255),
    "uint16 to 65535": (np.uint16, 65535),
    "int16 to 1": (np.int16, 1),
    "int32 to 1": (np.int32, 1),
    "int32 to 255": (np.int32, 255),
    "uint32 to its end": (np.uint32, 2**32 - 1),
    "int16 to its end": (np.int16, 2**15 - 1),
}


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("order", "<>")
def test_masks_of_all_numbers(tmp_path, kind, order):
    dtype, top = LEVELS[kind]
    pixels = np.where(disc() > 0, top, 0).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=order, photometric="minisblack")
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "a.tif")[0], disc() > 0)


@pytest.mark.parametrize(
    "pixels",
    [
        disc().astype(np.float32) / 2550,
        disc().astype(np.float32) / 100,
        disc().astype(np.uint16) * 16,  # 12 of 16 bits
        disc().astype(np.uint32) * 2**20,
        disc().astype(np.int8),  # -1 on 0
        np.where(disc() > 0, np.nan, 0).astype(np.float32),
        np.where(disc() > 0, 255, 200).astype(np.uint8),
    ],
)
def test_masks_that_cannot_be_told_are_refused(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with pytest.raises(Unusable, match="levels end at|no grey levels|are light"):
        _frames.load_mask(tmp_path / "a.tif")


NONE, FULL = disc() * 0, disc() * 0 + 255
EDGE = np.asarray(Image.fromarray(disc()).resize((96, 72), Image.Resampling.BICUBIC))
OPAQUE = {
    "black": [NONE, NONE, NONE, disc()],
    "white": [FULL, FULL, FULL, disc()],
    "red": [FULL, NONE, NONE, disc()],
    "dark red on nothing": [disc() // 3, NONE, NONE, disc()],
    "grey": [FULL // 2, disc()],
    "white on nothing": [disc(), disc(), disc(), disc()],
    "half opaque": [FULL, NONE, NONE, disc() // 3],
    "two light colours": [FULL, np.where(np.arange(64) > 30, FULL, 150), NONE, disc()],
    "white on opaque black": [disc(), disc(), disc(), FULL],
    "white on half opaque black": [disc(), disc(), disc(), FULL // 2],
    "1 on 0": [disc() // 255, disc() // 255, disc() // 255, disc()],
}


@pytest.mark.parametrize("kind", OPAQUE)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "associated.tif", "planes.tif", "bmp"])
def test_masks_in_the_opacity(tmp_path, kind, suffix):
    pixels, path = np.dstack(OPAQUE[kind]).astype(np.uint8), tmp_path / f"a.{suffix}"
    if suffix == "bmp" and pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    colours, opacity = pixels[..., :-1], pixels[..., -1:]
    if suffix == "associated.tif":
        pixels = np.dstack([np.rint(colours / 255.0 * opacity).astype(np.uint8), opacity])
    if "." in suffix or suffix == "tif":
        apart = "separate" if suffix == "planes.tif" else "contig"
        tifffile.imwrite(
            path,
            np.moveaxis(pixels, -1, 0) if apart == "separate" else pixels,
            photometric="rgb" if pixels.shape[2] == 4 else "minisblack",
            extrasamples=["assocalpha" if "associated" in suffix else "unassalpha"],
            planarconfig=apart,
        )
    else:
        Image.fromarray(pixels).save(path, lossless=True, exact=True)
    np.testing.assert_array_equal(_frames.load_mask(path)[0], disc() > 0)


@pytest.mark.parametrize("unused", [0, 255])
def test_a_fourth_byte_of_bmp_that_says_nothing(tmp_path, unused):
    plane = np.full_like(disc(), unused)
    Image.fromarray(np.dstack([disc()] * 3 + [plane])).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "a.bmp")[0], disc() > 0)
    assert not _images.load(tmp_path / "a.bmp")[1]


def test_soft_edges_empty_masks_and_palettes_in_the_opacity(tmp_path):
    for level in (np.zeros_like(EDGE), np.full_like(EDGE, 255)):
        path = write_image(tmp_path / "a.png", np.dstack([level, level, level, EDGE]))
        np.testing.assert_array_equal(_frames.load_mask(path)[0], EDGE > 127)
        path = write_image(tmp_path / "b.png", np.dstack([level] * 3 + [level * 0]))
        assert not _frames.load_mask(path)[0].any()  # a layer on which nothing was drawn
    palette = Image.fromarray((disc() > 0).astype(np.uint8), mode="P")
    for colours in ([255] * 3 + [255, 0, 0], [0] * 6, [0] * 3 + [255] * 3):
        palette.putpalette(colours + [0] * 762)
        for path in (tmp_path / "p.png", tmp_path / "p.gif"):
            palette.save(path, transparency=0)
            np.testing.assert_array_equal(_frames.load_mask(path)[0], disc() > 0)
    palette.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "p.png")[0], disc() > 0)
    grey = Image.fromarray(disc())
    grey.save(tmp_path / "t.png", transparency=0)
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "t.png")[0], disc() > 0)
    deep = Image.fromarray(disc().astype(np.uint16) * 257)
    deep.save(tmp_path / "t.png", transparency=0)
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "t.png")[0], disc() > 0)


@pytest.mark.parametrize(
    "planes",
    [
        [255 - disc(), disc()],  # black drawn, white hidden
        [np.where(np.arange(64) > 30, FULL, 0), disc()],  # black and white drawn
        [disc(), np.roll(disc(), 20, axis=1)],
        [disc(), np.where(disc() > 0, 255, 128)],  # nothing is transparent
    ],
)
def test_masks_whose_opacity_tells_another_lesion_are_refused(tmp_path, planes):
    with pytest.raises(Unusable, match="opacity tell different"):
        _frames.load_mask(write_image(tmp_path / "a.png", np.dstack(planes).astype(np.uint8)))


def test_one_bit_masks_of_which_0_is_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", disc() > 0)  # as drawn for tifffile, inverse for others
    with Image.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(np.asarray(file), disc() == 0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), disc() > 0)
    with pytest.raises(Unusable, match="array of bool"):
        _frames.load_mask(tmp_path / "a.tif")
    Image.fromarray(disc() > 0).save(tmp_path / "a.tif", compression="group4", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as file:
        assert file.tag_v2[262] == 0
        expected = np.asarray(file)
    np.testing.assert_array_equal(_frames.load_mask(tmp_path / "a.tif")[0], expected)


def test_a_lossy_mask_of_0_and_1_is_refused(tmp_path):
    Image.fromarray(disc() // 255).save(tmp_path / "a.jpg", quality=100)
    with pytest.raises(Unusable, match="levels end at"):
        _frames.load_mask(tmp_path / "a.jpg")


def write_turned(path, pixels, orientation):
    """Write pixels as they are, and a tag that says how to turn them."""
    if path.suffix == ".tif":
        turn = [(274, 3, 1, orientation, True)] if orientation > 1 else []
        tifffile.imwrite(path, pixels, extratags=turn)
        return path
    exif = Image.Exif()
    exif[274] = orientation
    how = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {"lossless": True}
    Image.fromarray(pixels).save(path, exif=exif if orientation > 1 else b"", **how)
    return path


def upright(pixels, orientation):
    """By where the first row and the first column of what is stored belong (TIFF 6.0, page 36)."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    return {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels, 6: pixels[:, ::-1], 7: pixels[::-1, ::-1], 8: pixels[::-1],
    }[orientation]  # fmt: skip


def still(image, mask=None, **more):
    item = _colonoscopy.Item(0, image, mask, is_negative=mask is None, **more)
    source = _colonoscopy.source("readers.frame_folder", image.parent, "case", items=[item])
    return next(_frames.stills(source, _colonoscopy.Sampling(), _colonoscopy.Tally()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_image_and_mask_are_turned_alike(tmp_path, orientation, kind):
    stored, drawn = pattern(2), disc()
    image = write_turned(tmp_path / f"i.{kind}", stored, orientation)
    loss = 8 if kind == "jpg" else 0
    found = _frames.load_rgb(image)[0].astype(int)
    assert np.abs(found - upright(stored, orientation)).max() <= loss
    masks = [write_turned(tmp_path / "both_turned.tif", drawn, orientation)]
    masks += [write_turned(tmp_path / "both_turned.png", drawn, orientation)]
    if orientation in (1, 5, 6, 7, 8):  # the sides tell
        masks += [write_image(tmp_path / "stored.png", drawn)]
        masks += [write_image(tmp_path / "upright.png", upright(drawn, orientation))]
    for mask in masks:
        frame = still(image, mask)
        assert frame.image.shape[:2] == frame.mask.shape
        np.testing.assert_array_equal(frame.mask, upright(drawn, orientation) > 0)
    if orientation == 1:
        return
    square = write_turned(tmp_path / f"s.{kind}", stored[:40, :40], orientation)
    mask = write_image(tmp_path / "s_mask.png", drawn[:40, :40])
    with pytest.raises(Unusable, match="mask does not tell"):
        still(square, mask)
    with pytest.raises(Unusable, match="boxes do not tell"):
        still(image, boxes=((3.0, 3.0, 9.0, 9.0),))
    assert not still(image).mask.any()
    if orientation < 5:
        with pytest.raises(Unusable, match="mask does not tell"):
            still(image, write_image(tmp_path / "m.png", drawn))


def test_a_broken_picture_does_not_take_its_case_with_it(tmp_path):
    pages = [Image.fromarray(pattern(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "1.gif", save_all=True, append_images=pages[1:])
    whole = (tmp_path / "1.gif").read_bytes()
    write_image(tmp_path / "0.png")
    write_image(tmp_path / "2.png", pattern(2))
    for cut in (0.9, 0.6, 0.4, 0.2):
        (tmp_path / "1.gif").write_bytes(whole[: int(len(whole) * cut)])
        (case,) = _colonoscopy.find(tmp_path)
        notes = []
        assert [frame.index for frame in _colonoscopy.frames(case, notes=notes)] == [0, 2]
        assert any("left out" in note for note in notes)


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
