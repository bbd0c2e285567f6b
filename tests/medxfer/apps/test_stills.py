"""Every app reads a still for prediction as its records were made."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from data_prep import classify
from data_prep.readers import _frames, _images, _stills
from data_prep.readers._images import Unusable
from medxfer.apps import _classification_images, _endoscopy
from tests.data_prep.readers.colonoscopy_files import pattern, write_image

SETTINGS = {"levels": "image", "window": "", "frames": "first", "side": 48, "fit": "pad"}


def endoscopic(path):
    (frame,) = _endoscopy.frames(path, None, [])
    return frame.image


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stills_are_turned_alike(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    how = {"quality": 95} if suffix == "jpg" else {"lossless": True}
    Image.fromarray(pattern(1)).save(path, exif=exif, **how)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    np.testing.assert_array_equal(endoscopic(path), expected)
    np.testing.assert_array_equal(_frames.load_rgb(path)[0], expected)
    luma = np.rint(expected @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_array_equal(_stills.read(path).image, luma)
    (found,) = _classification_images.pictures(path, SETTINGS)
    np.testing.assert_array_equal(found, classify.fit(expected, 48, "pad"))


def test_all_apps_find_the_same_files(tmp_path):
    names = ["a.png", "b.gif", "c.webp", "d.JPE", "e.jfif", "f.tif", "g.bmp"]
    paths = [write_image(tmp_path / name) for name in names if name[0] not in "de"]
    for name in ("d.JPE", "e.jfif"):
        Image.fromarray(pattern(0)).save(tmp_path / name, format="JPEG")
        paths.append(tmp_path / name)
    assert _stills.find(tmp_path) == _classification_images.raw_inputs(tmp_path) == sorted(paths)
    assert len(list(_endoscopy.frames(tmp_path, None, []))) == len(paths)


@pytest.mark.parametrize("layout", ["one case", "a case an image"])
def test_a_damaged_still_is_left_out_alone(tmp_path, layout):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", pattern(number))
        if layout != "one case":
            write_image(tmp_path / f"p{number}.png", pattern(number)[..., 0])
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    notes = []
    found = list(_endoscopy.frames(tmp_path, None, notes))
    assert len(found) == 2
    for frame, number in zip(found, (0, 2), strict=True):
        np.testing.assert_array_equal(frame.image, pattern(number))
    assert any("the image file is unreadable" in note for note in notes)
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Unusable, match="unreadable"):
        list(_endoscopy.frames(tmp_path, None, []))


def test_a_preview_before_the_image_is_not_taken_for_it(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pattern(0)[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(pattern(0), photometric="rgb")
    np.testing.assert_array_equal(endoscopic(tmp_path / "a.tif"), pattern(0))
    np.testing.assert_array_equal(_images.decode(tmp_path / "a.tif").pixels, pattern(0))
    tifffile.imwrite(tmp_path / "a.tif", pattern(0)[::4, ::4], photometric="rgb", subfiletype=1)
    with pytest.raises(Unusable, match="a preview"):
        _images.decode(tmp_path / "a.tif")
