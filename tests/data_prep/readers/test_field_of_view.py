import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_prep.readers._field_of_view import field_of_view


def screen(kind="octagon", place=(60, 20, 500, 400), size=(640, 480), border=0, level=120):
    """uint8 frame with a lit picture in ``place`` (x, y, w, h), noise, and text in the margin."""
    image = Image.new("L", size, border)
    draw = ImageDraw.Draw(image)
    x, y, w, h = place
    c = min(w, h) // 5
    corners = [(x + c, y), (x + w - 1 - c, y), (x + w - 1, y + c), (x + w - 1, y + h - 1 - c)]
    corners += [(x + w - 1 - c, y + h - 1), (x + c, y + h - 1), (x, y + h - 1 - c), (x, y + c)]
    if kind == "octagon":
        draw.polygon(corners, fill=level)
    elif kind == "circle":
        draw.ellipse((x, y, x + w - 1, y + h - 1), fill=level)
    else:
        draw.rectangle((x, y, x + w - 1, y + h - 1), fill=level)
    return image, draw


def near(found, expected, by):
    np.testing.assert_allclose(found, expected, atol=by)


@pytest.mark.parametrize("kind", ["octagon", "rectangle"])
@pytest.mark.parametrize("border", [0, 16, 30])
def test_picture_between_borders(kind, border):
    image, _ = screen(kind, border=border)
    noise = np.random.default_rng(0).integers(0, 6, (480, 640, 3))
    pixels = (np.asarray(image)[..., None] + noise).astype(np.uint8)
    near(field_of_view(pixels), (60, 20, 500, 400), 4)


def test_circle_loses_no_more_than_its_rim():
    x, y, w, h = field_of_view(np.asarray(screen("circle", (120, 40, 400, 400))[0]))
    assert 120 <= x < 128 and 40 <= y < 48 and w > 384 and h > 384


def test_text_and_a_small_inset_do_not_count():
    image, draw = screen(place=(200, 20, 420, 440))
    for row, text in enumerate(("NAME 12345678", "01/02/2013", "12:34:56", "CVP: 12")):
        draw.text((5, 30 + 20 * row), text, fill=255)
    draw.rectangle((10, 380, 90, 460), fill=200)  # an insertion shape beside the picture
    near(field_of_view(np.asarray(image)), (200, 20, 420, 440), 6)


def test_inset_and_dark_lumen_inside_stay_inside():
    image, draw = screen(place=(40, 10, 580, 460))
    draw.ellipse((150, 100, 400, 330), fill=0)
    draw.rectangle((40, 300, 240, 470), fill=0)
    near(field_of_view(np.asarray(image)), (40, 10, 580, 460), 6)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_no_border_or_no_light_gives_the_whole_frame(level):
    assert field_of_view(np.full((100, 140, 3), level, np.uint8)) == (0, 0, 140, 100)
    small, _ = screen(place=(300, 200, 60, 60))
    assert field_of_view(np.asarray(small)) == (0, 0, 640, 480)
    assert field_of_view(np.zeros((4, 5, 3), np.uint8)) == (0, 0, 5, 4)


def test_real_frames(real_data):
    """The borders of CVC-ClinicDB and of two videos, as one sees them."""
    frames = sorted((real_data / "polyp/cvc_clinicdb/images").glob("*.png"))[::20]
    for path in frames:
        x, y, w, h = field_of_view(np.asarray(Image.open(path).convert("RGB")))
        assert 24 <= x <= 50 and 10 <= y <= 30 and 290 <= w <= 322 and 248 <= h <= 270
    for path in sorted((real_data / "polyp/kvasir_seg/images").glob("*.jpg"))[::5]:
        image = np.asarray(Image.open(path).convert("RGB"))
        _, _, w, h = field_of_view(image)
        assert w >= 0.85 * image.shape[1] and h >= 0.85 * image.shape[0]
