import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import cubs
from data_prep.readers._carotid import Options
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import MM, interfaces, picture, write_cubs


@pytest.mark.parametrize("rows", [False, True])
def test_both_orientations(tmp_path, rows):
    write_cubs(tmp_path, "clin_0001_L", rows=rows)
    (source,) = cubs.detect(tmp_path)
    study = cubs.read(source)
    li, ma = interfaces(60)
    np.testing.assert_allclose(study.lumen_intima, li, atol=1e-4)
    np.testing.assert_allclose(study.media_adventitia, ma, atol=1e-4)
    np.testing.assert_array_equal(study.image, picture())
    assert (study.mm_per_pixel, study.mm_per_pixel_x) == (MM, MM)
    assert study.notes == ()


def test_left_and_right_are_one_subject(tmp_path):
    for name in ("clin_0001_L", "clin_0001_R", "clin_0002_L", "tech_001"):
        write_cubs(tmp_path, name)
    (tmp_path / "IMAGES" / "._clin_0001_L.tiff").write_bytes(b"\0")  # as some systems leave behind
    subjects = {source.name: source.subject for source in cubs.detect(tmp_path)}
    assert subjects == {
        "clin_0001_L": "clin_0001",
        "clin_0001_R": "clin_0001",
        "clin_0002_L": "clin_0002",
        "tech_001": "tech_001",
    }


@pytest.mark.parametrize("text", ["0,060", " 0.060\r\n"])
def test_decimal_comma(tmp_path, text):
    write_cubs(tmp_path, "a", calibration=text)
    assert cubs.read(cubs.detect(tmp_path)[0]).mm_per_pixel == 0.06


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "the calibration file is missing"),
        ("", "one positive number"),
        ("0.06 0.06", "one positive number"),
        ("60", "not between"),
    ],
)
def test_calibration_is_never_assumed(tmp_path, text, reason):
    write_cubs(tmp_path, "a", calibration=text)
    with pytest.raises(Unusable, match=reason):
        cubs.read(cubs.detect(tmp_path)[0])


def test_missing_profile(tmp_path):
    write_cubs(tmp_path, "a")
    (tmp_path / "LIMA-Profiles" / "Manual-A1" / "a-MA.txt").unlink()
    with pytest.raises(Unusable, match="the media-adventitia file is missing"):
        cubs.read(cubs.detect(tmp_path)[0])


def test_two_points_need_a_setting(tmp_path):
    li, ma = interfaces(2)
    write_cubs(tmp_path, "a", li=li, ma=ma)
    with pytest.raises(Unusable, match="--points"):
        cubs.read(cubs.detect(tmp_path)[0])
    study = cubs.read(cubs.detect(tmp_path, Options(points="columns"))[0])
    np.testing.assert_allclose(study.lumen_intima, li)


def test_other_annotator(tmp_path):
    write_cubs(tmp_path, "a")
    li, ma = interfaces(60)
    write_cubs(tmp_path, "a", annotator="Manual-A2", li=li - (0, 2), ma=ma)
    study = cubs.read(cubs.detect(tmp_path, Options(annotator="Manual-A2"))[0])
    np.testing.assert_allclose(study.lumen_intima, li - (0, 2), atol=1e-4)
    with pytest.raises(UserError, match="Manual-A1, Manual-A2"):
        cubs.detect(tmp_path, Options(annotator="Manual-A9"))


def test_exchanged_files_and_points_out_of_order(tmp_path):
    li, ma = interfaces(60)
    write_cubs(tmp_path, "a", li=ma[::-1], ma=li[::-1])
    study = cubs.read(cubs.detect(tmp_path)[0])
    np.testing.assert_allclose(study.lumen_intima, li, atol=1e-4)
    assert len(study.notes) == 2


def test_other_folders_are_not_claimed(tmp_path):
    assert cubs.detect(tmp_path) == []
    (tmp_path / "IMAGES").mkdir()
    (tmp_path / "IMAGES" / "a.tiff").write_bytes(b"")
    assert cubs.detect(tmp_path) == []
