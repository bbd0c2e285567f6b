import pathlib
import pickle

import numpy as np
import pytest

from data_prep.readers import _carotid, of_kind
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import MM, interfaces, picture

ROOT = pathlib.Path("/data")
SOURCE = _carotid.source("data_prep.readers.cubs", ROOT, "name", "person", {"image": ROOT / "a"})


def make(li=None, ma=None, mm=MM, mm_x=MM, **more):
    default = interfaces()
    li = default[0] if li is None else li
    ma = default[1] if ma is None else ma
    return _carotid.make_study(SOURCE, picture(), mm, li, ma, mm_per_pixel_x=mm_x, **more)


def test_nothing_to_mend():
    study = make(stored_imt_mm=0.7, notes=("from the reader",))
    li, ma = interfaces()
    np.testing.assert_array_equal(study.lumen_intima, li)
    np.testing.assert_array_equal(study.media_adventitia, ma)
    assert (study.case, study.subject) == ("name", "person")
    assert study.notes == ("from the reader",)
    assert study.stored_imt_mm == 0.7


def test_sources_are_picklable_and_readers_are_found():
    assert pickle.loads(pickle.dumps(SOURCE)) == SOURCE  # noqa: S301
    assert SOURCE.kind == "cubs" and SOURCE.file("image") == ROOT / "a"
    assert sorted(of_kind("carotid")) == ["boundary_csv", "cubs", "cyprus", "dicom_ultrasound"]


def test_points_out_of_order_are_sorted():
    li, ma = interfaces()
    order = np.random.default_rng(0).permutation(len(li))
    study = make(li[order], ma[order])
    np.testing.assert_array_equal(study.lumen_intima, li)
    np.testing.assert_array_equal(study.media_adventitia, ma)
    assert study.notes == ("points sorted along x",)


def test_points_of_one_column_are_averaged():
    li, ma = interfaces()
    twice = np.insert(li, 4, li[4] + (0, 1), axis=0)
    study = make(twice, ma)
    np.testing.assert_allclose(
        study.lumen_intima, np.where([[False, True]] * (np.arange(10)[:, None] == 4), li + 0.5, li)
    )
    assert study.notes == ("points of one column averaged",)


def test_exchanged_interfaces_are_put_right():
    li, ma = interfaces()
    study = make(ma, li)
    np.testing.assert_array_equal(study.lumen_intima, li)
    assert len(study.notes) == 1 and "exchanged" in study.notes[0]


@pytest.mark.parametrize("exchanged", [False, True])
def test_one_pair_13_mm_apart_is_dropped(exchanged):
    li, ma = interfaces()
    li[3, 1] -= 38
    ma[3, 1] = li[3, 1] + 13 / 0.18
    study = make(*((ma, li) if exchanged else (li, ma)), mm=0.18, mm_x=0.06)
    assert len(study.lumen_intima) == len(study.media_adventitia) == 9
    assert study.notes[0] == "1 of 10 point pairs dropped: 13.00 mm apart"


def test_too_many_wrong_pairs_are_not_dropped():
    li, ma = interfaces()
    ma[::3, 1] += 30
    ma[:, 1] = np.minimum(ma[:, 1], 89)
    with pytest.raises(Unusable, match="the thickness runs from 1.92 to 3.72"):
        make(li - (0, 20), ma)


@pytest.mark.parametrize("mm", [None, 0.6, 0.004, float("nan")])
def test_calibration(mm):
    with pytest.raises(Unusable, match="calibration"):
        make(mm=mm)
    with pytest.raises(Unusable, match="calibration"):
        make(mm_x=mm)


def test_points_outside_the_image_or_not_numbers():
    li, ma = interfaces()
    with pytest.raises(Unusable, match="1 points of the media-adventitia .* outside"):
        make(ma=ma + np.where(np.arange(10) == 9, 10.0, 0)[:, None])
    with pytest.raises(Unusable, match="not numbers"):
        make(li=li * np.where(np.arange(10) == 5, np.nan, 1)[:, None])
    with pytest.raises(Unusable, match="fewer than two points"):
        make(li=li[:1])


def test_crossing_interfaces():
    li, ma = interfaces()
    li[:, 1] = 60 - np.arange(10) * 4
    ma[:, 1] = 45
    with pytest.raises(Unusable, match="cross or touch in [0-9]+ columns"):
        make(li[:9], ma)


def test_interfaces_that_hardly_overlap():
    li, ma = interfaces()
    with pytest.raises(Unusable, match="drawn over [0-9]+ columns only"):
        make(li[:5], ma[4:])
    with pytest.raises(Unusable, match="one column"):
        make(li * (0, 1) + (20, 0), ma)


@pytest.mark.parametrize("mm", [0.006, 0.4])
def test_impossible_thickness(mm):
    with pytest.raises(Unusable, match="mm are possible"):
        make(mm=mm)


def test_numbers():
    assert _carotid.number(" 0,061\n") == _carotid.number("0.061") == 0.061
    assert [_carotid.number(text) for text in ("", "0", "-1", "nan", "inf", "x", None)] == [
        None
    ] * 7


def test_files_outside_the_folder_and_missing_ones(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_text("private")
    (root / "link").symlink_to(tmp_path / "outside")
    for path in (root / "link", root / ".." / "outside", tmp_path / "outside"):
        source = _carotid.source("cubs", root, "a", "b", {"image": path})
        assert source.files == ()
        with pytest.raises(Unusable, match="^the image file lies outside the input folder$"):
            _carotid.require(source)
    with pytest.raises(Unusable, match="^the image file is missing$"):
        _carotid.require(_carotid.source("cubs", root, "a", "b", {"image": root / "none"}))
    with pytest.raises(Unusable, match="no mask file"):
        SOURCE.file("mask")
