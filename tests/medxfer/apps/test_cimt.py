import types

import numpy as np
import pytest

from data_prep.readers import _stills
from medxfer.apps import _far_wall, cimt
from medxfer.evaluation.boundary import Boundaries
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
