import dataclasses
import types

import numpy as np
import pytest

from data_prep import cimt as preparation
from data_prep import far_wall
from data_prep.errors import UserError
from data_prep.readers import _stills
from medxfer.apps import _far_wall, cimt
from medxfer.apps._options import PredictOptions
from medxfer.evaluation.boundary import Boundaries
from medxfer.studies import measures
from tests.data_prep.readers import test_dicom_ultrasound
from tests.medxfer.conftest import SMALL
from tests.testing.app_test_case import AppTestCase

MM = 0.06


def ridges(lines, height=60, width=92, spread=1.0, peak=0.9):
    """Maps (H, W, 3) whose interfaces are Gaussian ridges along two lines of rows."""
    rows = np.arange(height)[:, None]
    li, ma = (peak * np.exp(-((rows - line) ** 2) / (2 * spread**2)) for line in lines)
    share = np.maximum(1, li + ma)
    li, ma = li / share, ma / share
    return np.stack([1 - li - ma, li, ma], axis=-1).astype(np.float32)


def known_pair(width=92):
    x = np.arange(width)
    li = 20 + 4 * np.sin(x / 30)
    return li, li + 11 + 1.5 * np.cos(x / 25)


class TestCimt(AppTestCase):
    name = "cimt"
    classes = ("background", "lumen-intima", "media-adventitia")
    phantom = {"subjects": 6, "images_per_subject": 1, "seed": 2}
    scores = [
        ([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.0, 0.7]], [0, 1, 2], 1.0),
        # The interfaces are one class: to take one for the other costs nothing.
        ([[0.9, 0.1, 0.0], [0.2, 0.0, 0.8], [0.3, 0.7, 0.0]], [0, 1, 2], 1.0),
        ([[0.1, 0.9, 0.0], [0.8, 0.0, 0.2]], [0, 1], 0.0),
        # Pairs of interface and background: two in order, one tied, one in disorder.
        ([[0.6, 0.4, 0], [0.2, 0.4, 0.4], [0.6, 0.4, 0], [0.1, 0.8, 0.1]], [0, 0, 1, 2], 2.5 / 4),
    ]

    def settings(self):
        return SMALL

    def network(self):
        def maps(image):
            height, width = (side - 2 * SMALL.margin for side in image.shape)
            return ridges((np.full(width, 10.3), np.full(width, 19.6)), height, width)

        return types.SimpleNamespace(maps=maps)


@pytest.mark.parametrize("rule", ["arg_max", "joint"])
def test_decode_finds_a_known_pair_of_lines(rule):
    pair = known_pair()
    found = cimt.decode(ridges(pair), MM, cimt.Decoding(rule=rule))
    for rows, line in zip((found.li, found.ma), pair, strict=True):
        assert np.abs(rows - line).max() < 0.6
        assert np.abs(rows - line).mean() < 0.25


def test_decode_by_the_joint_rule_is_not_led_astray():
    pair = known_pair()
    maps = ridges(pair)
    # In a third of the columns a stronger echo in the lumen, further from the media than a wall is
    # thick, and in a few columns the two interfaces swapped: each column by itself would follow.
    other = ridges((np.full(92, 3.0), pair[1]))
    maps[:, 20:50] = 0.4 * maps[:, 20:50] + 0.6 * other[:, 20:50]
    maps[:, 70:74, 1:] = maps[:, 70:74, :0:-1]
    joint, single = (
        cimt.decode(maps, MM, cimt.Decoding(rule=rule, max_mm=1.2)) for rule in ("joint", "arg_max")
    )
    assert np.abs(joint.li - pair[0]).max() < 2.5
    assert np.abs(single.li - pair[0])[25:45].min() > 8
    assert (joint.ma - joint.li > 0.2 / MM - 1).all()


def test_decode_keeps_the_limits_of_thickness():
    lines = np.full(92, 10.0), np.full(92, 50.0)
    decoding = cimt.Decoding(max_mm=1.2, kappa=0.0)
    found = cimt.decode(ridges(lines), MM, decoding)
    assert (found.ma - found.li <= 1.2 / MM + 1e-6).all()


def test_a_scorer_keeps_the_maps_it_decoded():
    pair = known_pair()
    asked = []

    def maps(roi):
        asked.append(roi)
        return ridges(pair)

    roi = np.zeros((96, 128), np.uint8)
    trace = cimt.cnn(types.SimpleNamespace(maps=maps))(roi, 18, MM)
    assert asked[0] is roi
    np.testing.assert_array_equal(trace.maps, ridges(pair))
    again = cimt.decode(ridges(pair), MM, cimt.DEFAULT_DECODING)
    np.testing.assert_array_equal(trace.boundaries.li, again.li)
    tracer = cimt.counterparts()["handcrafted"]
    assert tracer(np.zeros((96, 128), np.uint8), 18, MM).maps is None


@pytest.fixture
def results():
    """Five regions of two subjects with lines at random, some columns not annotated."""
    rng = np.random.default_rng(4)
    found = []
    for number in range(5):
        true = [rng.uniform(10, 20, 30), rng.uniform(25, 35, 30)]
        predicted = [line + rng.normal(0, 1, 30) for line in true]
        unknown = rng.random(30) < 0.2 * (number % 3)
        for line in true:
            line[unknown] = np.nan
        found.append(
            cimt.Result(
                f"c{number}-0", f"c{number}", f"s{number % 2}", 0.05 + 0.01 * number,
                np.zeros((40, 30), np.uint8), Boundaries(*true),
                cimt.Trace(Boundaries(*predicted)),
            )
        )  # fmt: skip
    return found


def by_hand(results):
    """Rows of (unit's errors in um, thickness and true thickness in mm), column by column."""
    table = []
    for result in results:
        sums = {"lumen_intima": [], "media_adventitia": [], "thickness": [], "true": []}
        for x in range(30):
            li, ma = result.true.li[x], result.true.ma[x]
            if li != li:
                continue
            found_li, found_ma = result.trace.boundaries.li[x], result.trace.boundaries.ma[x]
            sums["lumen_intima"].append(1000 * result.mm_per_pixel * abs(found_li - li))
            sums["media_adventitia"].append(1000 * result.mm_per_pixel * abs(found_ma - ma))
            sums["thickness"].append(result.mm_per_pixel * (found_ma - found_li))
            sums["true"].append(result.mm_per_pixel * (ma - li))
        table.append({name: sum(values) / len(values) for name, values in sums.items()})
    return table


def test_errors_and_thickness_leave_out_columns_without_annotation(results):
    expected = by_hand(results)
    assert any(np.isnan(result.true.li).any() for result in results)
    for result, row in zip(results, expected, strict=True):
        assert result.error_um["lumen_intima"] == pytest.approx(row["lumen_intima"])
        assert result.error_um["media_adventitia"] == pytest.approx(row["media_adventitia"])
        assert result.thickness_mm == pytest.approx((row["thickness"], row["true"]))
    errors = cimt.errors(results)
    np.testing.assert_allclose(
        errors["lumen_intima_error_um"], [row["lumen_intima"] for row in expected]
    )
    np.testing.assert_allclose(
        errors["thickness_error_mm"], [abs(row["thickness"] - row["true"]) for row in expected]
    )


def test_metrics_are_the_means(results):
    expected, found = by_hand(results), cimt.metrics(results)
    for name in ("lumen_intima", "media_adventitia"):
        mean = np.mean([row[name] for row in expected])
        assert found[f"{name}_error_um"].estimate == pytest.approx(mean)
    bias = np.mean([row["thickness"] - row["true"] for row in expected])
    assert found["thickness_bias_mm"].estimate == pytest.approx(bias)
    assert {interval.clusters for interval in found.values()} == {2}


def test_rows_are_those_by_hand(results):
    for row, expected in zip(cimt.rows(results), by_hand(results), strict=True):
        assert row["media_adventitia_error_um"] == pytest.approx(expected["media_adventitia"])
        assert row["thickness_mm"] == pytest.approx(expected["thickness"])
        assert row["true_thickness_mm"] == pytest.approx(expected["true"])


def test_a_line_that_is_missing_where_it_is_annotated_is_no_accuracy(results):
    first = results[0]
    first.trace.boundaries.li[3] = np.nan
    assert np.isnan(first.error_um["lumen_intima"])


def brute_force(li, ma, down, along, steps=4001):
    """Mean distance of the points of either line from the other, finely sampled, in mm."""
    x = np.arange(len(li))
    lines = [np.stack([x * along, rows * down]) for rows in (li, ma)]
    fine = [
        np.stack([np.interp(np.linspace(0, len(li) - 1, steps), x, axis) for axis in line])
        for line in lines
    ]
    pairs = ((lines[0], fine[1]), (lines[1], fine[0]))
    apart = [np.hypot(*(p[:, :, None] - q[:, None])).min(axis=1) for p, q in pairs]
    return np.concatenate(apart).mean()


def test_both_thicknesses_are_reported_and_old_runs_are_read(results):
    old = cimt.rows(results)  # records of old say no width of a pixel
    assert not any("polyline" in name for name in cimt.errors(results) | cimt.metrics(results))
    new = [dataclasses.replace(r, mm_per_pixel_x=0.11) for r in results]
    for result in new:
        known = ~np.isnan(result.true.li)
        if known.all():
            lines = ((result.trace.boundaries.li, result.trace.boundaries.ma),)
            lines += ((result.true.li, result.true.ma),)
            expected = [brute_force(*pair, result.mm_per_pixel, 0.11) for pair in lines]
            np.testing.assert_allclose(result.polyline_thickness_mm, expected, rtol=1e-3)
    names = {"polyline_thickness_error_mm", "polyline_thickness_bias_mm"}
    assert names == set(cimt.metrics(new)) - set(cimt.metrics(results))
    texts = [{key: str(value) for key, value in row.items()} for row in cimt.rows(new)]
    again = cimt.metrics(cimt.restore(texts))
    assert again == cimt.metrics(new)
    assert not any("polyline" in name for name in old[0])
    texts = [{key: str(value) for key, value in row.items()} for row in old]
    assert cimt.metrics(cimt.restore(texts)) == cimt.metrics(results)
    mixed = {"new": new, "old": cimt.restore(texts)}
    assert set(cimt.compare(mixed)) == set(cimt.errors(results))
    assert "polyline" not in "".join(measures.of(cimt, {k: [v] for k, v in mixed.items()}).merits)


def ultrasound(path, regions, **tags):
    """A screen of 200 x 400 pixels with a far wall in either half."""
    pixels = np.random.default_rng(0).integers(90, 140, (200, 400)).astype(np.uint8)
    pixels[60:140] //= 20
    test_dicom_ultrasound.write(path, pixels, regions=regions, Rows=200, Columns=400, **tags)
    return path


def wall(window, margin, mm_per_pixel):
    """A sloping wall of 14 pixels, whatever is shown."""
    rows = np.linspace(15, 25, window.shape[1] - 2 * margin)
    return cimt.Trace(Boundaries(rows, rows + 14))


SETTINGS = {"margin": 18, "roi_width": 60, "roi_height": 60, "rois_per_image": 2}


@pytest.mark.parametrize(
    ("box", "given", "expected"),
    [
        ((20, 100, 92, 60), None, (0.05, 0.06)),
        ((250, 100, 92, 60), None, (0.1, 0.08)),
        ((150, 100, 92, 60), None, "beyond one calibrated region"),
        (None, None, "calibrated in different ways"),
        ((150, 100, 92, 60), (0.07, 0.09), (0.07, 0.09)),
        ((20, 100, 92, 60), (0.07,), "pixels are not square"),
    ],
)
def test_predict_measures_by_the_region_that_holds_the_wall(tmp_path, box, given, expected):
    region = test_dicom_ultrasound.region
    regions = [region(x1=199, y1=199), region(x0=200, x1=399, y1=199, dy=0.01, dx=0.008)]
    path = ultrasound(tmp_path / "a.dcm", regions)
    options = PredictOptions(given, box)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            _far_wall.predict(path, wall, SETTINGS, "a", tmp_path, options)
        return
    found = _far_wall.predict(path, wall, SETTINGS, "a", tmp_path, options)
    down, along = expected
    assert (found["mm_per_pixel"], found["mm_per_pixel_x"]) == pytest.approx(expected)
    assert found["thickness_mm"] == pytest.approx(14 * down)
    rows = np.linspace(15, 25, 92)
    polyline = brute_force(rows, rows + 14, down, along)
    assert found["polyline_thickness_mm"] == pytest.approx(polyline, rel=1e-3)


def test_one_size_is_not_enough_for_pixels_that_are_not_square(tmp_path):
    box = (20, 100, 92, 60)
    for name, tags, is_refused in (
        ("a", {"PixelAspectRatio": [1, 2]}, True),
        ("b", {"PixelAspectRatio": [1, 1]}, False),
        ("c", {"PixelSpacing": [0.05, 0.08]}, True),
        ("d", {}, False),
    ):
        path = ultrasound(tmp_path / f"{name}.dcm", [], **tags)
        options = PredictOptions((0.06,), box)
        if is_refused:
            with pytest.raises(UserError, match="not square: give --mm_per_pixel=HEIGHT,WIDTH"):
                _far_wall.predict(path, wall, SETTINGS, name, tmp_path, options)
            options = PredictOptions((0.06, 0.12), box)
        found = _far_wall.predict(path, wall, SETTINGS, name, tmp_path, options)
        assert found["mm_per_pixel_x"] == options.mm_per_pixel[-1]
        assert found["thickness_mm"] == pytest.approx(14 * 0.06)


def test_the_wall_is_searched_in_the_one_calibrated_region(tmp_path):
    region = test_dicom_ultrasound.region
    spectrum = region(x1=199, y1=199, units=4, form=3)
    for name, left in (("a", 200), ("b", 210)):
        image = region(x0=left, x1=399, y0=10, y1=189, dy=0.01, dx=0.008)
        path = ultrasound(tmp_path / f"{name}.dcm", [spectrum, image])
        found = _far_wall.predict(path, wall, SETTINGS, name, tmp_path)
        assert all(x >= left and y >= 10 and y + h <= 190 for x, y, _, h in found["regions"])
        assert found["thickness_mm"] == pytest.approx(1.4)
    outside = ultrasound(tmp_path / "c.dcm", [region(x0=500, x1=600)])
    with pytest.raises(UserError, match="no far wall"):
        _far_wall.predict(outside, wall, SETTINGS, "c", tmp_path)


def test_the_bar_of_a_millimetre_lies_along_the_wall(results):
    maps = ridges((np.full(30, 12.0), np.full(30, 28.0)), 40, 30)
    traced = cimt.Trace(results[0].trace.boundaries, maps)
    wide = [dataclasses.replace(r, trace=traced, mm_per_pixel_x=0.2) for r in results]
    figure, _ = cimt._maps("cnn", wide)["map_best"]
    assert np.ptp(figure.axes[0].lines[-1].get_xdata()) == pytest.approx(1 / 0.2)


def test_records_hold_both_sizes_of_a_pixel(tmp_path):
    from medxfer.dataset_folder import DatasetFolder

    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(6):
        test_dicom_ultrasound.write(raw / f"{number}.dcm", PatientID=f"P{number}")
    settings = far_wall.Settings(patch=9, roi_width=40, roi_height=40, patches_per_roi=2)
    preparation.prepare(raw, tmp_path / "data", settings=settings)
    folder = DatasetFolder.open(tmp_path / "data")
    (result, *_) = cimt.score(folder, "test", cimt.counterparts()["handcrafted"])
    assert result.mm_per_pixel == pytest.approx(0.05)
    assert result.mm_per_pixel_x == pytest.approx(0.06)


def test_a_gap_between_regions_is_not_bridged_in_the_picture(tmp_path):
    image = np.full((100, 120), 40, np.uint8)
    lines = np.array([(x, 50.0, 60.0, 0.6) for x in (*range(10, 30), *range(60, 80))])
    _far_wall._overlay(image, lines, tmp_path / "one.png")
    from matplotlib import image as images

    picture = images.imread(tmp_path / "one.png")[..., :3]
    coloured = np.ptp(picture, axis=-1).max(axis=0) > 0.2  # columns of the picture, 3 a pixel
    at = (np.array([20, 45, 70]) + 0.5 - 0) * 3
    assert [bool(coloured[int(x)]) for x in at] == [True, False, True]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "x"])
def test_a_calibration_that_is_none_is_refused(tmp_path, carotid_raw, size):
    image = tmp_path / "IMAGES" / "a.png"
    image.parent.mkdir()
    image.write_bytes(next((carotid_raw / "images").iterdir()).read_bytes())
    (tmp_path / "CF").mkdir()
    (tmp_path / "CF" / "a_CF.txt").write_text(size)
    with pytest.raises(_stills.Unusable, match="calibration file beside the image"):
        _stills.read(image)
