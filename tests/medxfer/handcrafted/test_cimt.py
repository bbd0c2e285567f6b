import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medxfer.evaluation import boundary
from medxfer.evaluation.boundary import Boundaries
from medxfer.handcrafted import _bmode, cimt

MM = 0.06
MARGIN = 16
COPIES = {"AAACX", "AAAFI", "AAANB"}  # their points are those of another image


def speckle(mean, rng):
    """Log-compressed speckle of the given mean grey values, fine down and coarse along."""
    field = ndimage.gaussian_filter(rng.normal(size=(2, *mean.shape)), (0, 1.0, 2.5))
    envelope = np.hypot(*field)
    grey = mean * (1 + 0.25 * np.log(envelope / envelope.mean()))
    return np.clip(ndimage.gaussian_filter(grey, 1), 0, 255).astype(np.uint8)


def region(seed, slope=0.0, thickness=12.0, height=60, width=92):
    """A wall as its mean profile shows it: black lumen, grey intima, dark media, adventitia."""
    rng = np.random.default_rng(seed)
    x = np.arange(-MARGIN, width + MARGIN)
    li = height / 2 - thickness / 2 + slope * (x - width / 2) + 1.5 * np.sin(x / 25)
    depth = np.arange(-MARGIN, height + MARGIN)[:, None] - li
    mean = np.select(
        [depth < 0, depth < thickness / 2, depth < thickness], [1.0, 40.0, 18.0], 120.0
    )
    inner = slice(MARGIN, MARGIN + width)
    return speckle(mean, rng), Boundaries(li[inner], li[inner] + thickness)


class TestContrast:
    def test_against_means_of_slices(self):
        image = np.random.default_rng(0).random((20, 3))
        for above, below in ((1, 1), (3, 2), (2, 5), (6, 1)):
            found = _bmode.contrast(image, above, below)
            for y in range(above, 20 - below + 1):
                expected = image[y : y + below].mean(axis=0) - image[y - above : y].mean(axis=0)
                np.testing.assert_allclose(found[y], expected)

    def test_edge_of_a_step(self):
        step = np.repeat([0.0, 1.0], [7, 9])[:, None]
        assert _bmode.contrast(step, 3, 4).ravel().argmax() == 7


class TestTrace:
    @pytest.mark.parametrize("slope", [0.0, 0.2, -0.2])
    @pytest.mark.parametrize("thickness", [8.0, 12.0, 18.0])
    def test_follows_a_known_wall(self, slope, thickness):
        errors = []
        for seed in range(3):
            roi, true = region(seed, slope, thickness)
            found = cimt.trace(roi, MARGIN, MM)
            errors.append(
                [boundary.error_um(found.li, true.li, MM), boundary.error_um(found.ma, true.ma, MM)]
            )
        assert np.mean(errors) < 1.2 * MM * 1000  # about one pixel

    def test_rows_count_from_inside_the_margin(self):
        roi, _ = region(1)
        found = cimt.trace(roi, MARGIN, MM)
        less = cimt.trace(roi[6:-6, 6:-6], MARGIN - 6, MM)
        assert found.li.shape == (92,)
        assert np.abs(found.li - less.li).mean() < 0.3
        assert np.abs(found.ma - less.ma).mean() < 0.3

    def test_moves_with_the_image(self):
        tall, _ = region(2, height=80)
        found = cimt.trace(tall[:92], MARGIN, MM)
        moved = cimt.trace(tall[5:97], MARGIN, MM)
        np.testing.assert_allclose(found.li - moved.li, 5, atol=0.5)

    def test_keeps_the_order_and_the_region(self):
        noise = np.random.default_rng(3).integers(0, 256, (92, 124), dtype=np.uint8)
        found = cimt.trace(noise, MARGIN, MM)
        assert (found.ma > found.li).all()
        assert found.li.min() >= -0.5
        assert found.ma.max() <= 59

    def test_an_empty_region_gives_rows_all_the_same(self):
        found = cimt.trace(np.zeros((60, 40), np.uint8), 0, MM)
        assert np.isfinite(found.li + found.ma).all()

    def test_refuses_a_margin_that_leaves_nothing(self):
        with pytest.raises(ValueError, match="leaves nothing"):
            cimt.trace(np.zeros((30, 90), np.uint8), 15, MM)


def screen(seed):
    """A scan with lumen at rows 250 to 350, in a screen with a bar, letters and a ruler."""
    rng = np.random.default_rng(seed)
    mean = np.full((400, 500), 60.0)
    mean[120:150] = 15  # a dark muscle, too thin for a lumen
    mean[150:165] = 140
    mean[185:200] = 140
    mean[200:300] = 1
    mean[300:330] = 130
    mean[330:] = np.linspace(60, 0, 70)[:, None]
    image = np.zeros((560, 760), np.uint8)
    image[60:460, 120:620] = speckle(mean, rng)
    image[:40] = 12
    image[10:25, 30:300:7] = 200
    image[80:130:9, 10:90] = 180
    image[60:460:20, 640:650] = 255
    image[60:460, 700:710] = np.linspace(255, 0, 400)[:, None]
    return image, 60 + 300


class TestFindFarWall:
    def test_on_a_screen(self):
        image, true = screen(0)
        found = cimt.find_far_wall(image, MM)
        inside = slice(140, 600)
        assert np.abs(found.rows[inside] - true - 0.35 / MM).max() < 5
        assert found.confidence[inside].min() > 0.2

    def test_columns_outside_the_scan_are_unknown(self):
        found = cimt.find_far_wall(screen(1)[0], MM)
        outside = np.r_[0:100, 645:760]
        assert np.isnan(found.rows[outside]).all()
        assert not found.confidence[outside].any()
        assert found.rows.shape == found.confidence.shape == (760,)

    def test_a_calliper_cross_does_not_matter(self):
        image, _ = screen(2)
        marked = image.copy()
        marked[340:380, 300:302] = 255
        marked[355:357, 290:312] = 255
        difference = cimt.find_far_wall(marked, MM).rows - cimt.find_far_wall(image, MM).rows
        assert np.nanmax(np.abs(difference)) < 8

    @pytest.mark.parametrize(
        "image", [np.zeros((200, 300), np.uint8), np.full((50, 50), 9, np.uint8)]
    )
    def test_no_scan(self, image):
        found = cimt.find_far_wall(image, MM)
        assert np.isnan(found.rows).all()
        assert not found.confidence.any()

    def test_a_scan_too_shallow_for_an_artery(self):
        image = np.random.default_rng(3).integers(0, 256, (100, 300), dtype=np.uint8)
        assert np.isnan(cimt.find_far_wall(image, MM).rows).all()

    def test_refuses_colour(self):
        with pytest.raises(ValueError, match="grey image"):
            cimt.find_far_wall(np.zeros((9, 9, 3), np.uint8), MM)


@pytest.fixture(scope="module")
def cyprus(real_data):
    """Image, mm per pixel and annotated rows per column (NaN outside) of every usable study."""
    studies = []
    for folder in sorted((real_data / "carotid" / "cyprus_imt").iterdir()):
        if not folder.is_dir() or folder.name in COPIES:
            continue
        image = np.asarray(Image.open(folder / f"{folder.name}.CRI").convert("L"))
        note = json.loads((folder / f"{folder.name}_boundaries.json").read_text())
        rows = []
        for name in ("lumen_intima", "media_adventitia"):
            # The points were picked in MATLAB, whose first pixel centre is 1.
            x, y = (np.array(note["far_wall"][name][axis]) - 1 for axis in "xy")
            order = np.argsort(x)
            at = np.arange(image.shape[1])
            rows.append(np.interp(at, x[order], y[order], left=np.nan, right=np.nan))
        studies.append((image, note["mm_per_pixel"], Boundaries(*rows)))
    return studies


class TestRealImages:
    def test_far_wall_is_found(self, cyprus):
        found = 0
        for image, mm, true in cyprus:
            distance = cimt.find_far_wall(image, mm).rows - (true.li + true.ma) / 2
            found += np.nanmean(np.abs(distance)) <= 15
        assert found / len(cyprus) > 0.9

    def test_far_wall_of_a_handheld_scanner(self, real_data):
        """Another screen; the wall runs from row 485 on the left to 512 on the right, by eye."""
        for path in sorted((real_data / "carotid" / "handheld_sequence").glob("*.png")):
            image = np.asarray(Image.open(path).convert("L"))
            rows = cimt.find_far_wall(image, MM).rows[60:640]
            assert np.abs(rows - np.linspace(488, 512, rows.size)).max() < 15, path.name

    def test_tracer_errs_by_little_more_than_the_experts_differ(self, cyprus):
        errors = []
        for image, mm, true in cyprus:
            annotated = np.flatnonzero(~np.isnan(true.li + true.ma))
            left = annotated[annotated.size // 2] - 46
            columns = slice(left, left + 92)
            middle = np.nanmean((true.li + true.ma)[columns]) / 2
            top = int(middle) - 30
            roi = image[top - MARGIN : top + 60 + MARGIN, left - MARGIN : left + 92 + MARGIN]
            found = cimt.trace(roi, MARGIN, mm)
            errors.append([
                boundary.error_um(found.li, true.li[columns] - top, mm),
                boundary.error_um(found.ma, true.ma[columns] - top, mm),
            ])  # fmt: skip
        assert np.median(errors, axis=0).max() < 110
        assert np.mean(errors, axis=0).max() < 160
