import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import boundary_csv
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import MM, interfaces, picture, write_csv


def read(root):
    return boundary_csv.read(boundary_csv.detect(root.resolve())[0])


def test_a_study(tmp_path):
    write_csv(tmp_path, "a", subject="P1")
    study = read(tmp_path)
    li, ma = interfaces()
    np.testing.assert_array_equal(study.image, picture())
    np.testing.assert_allclose(study.lumen_intima, li)
    np.testing.assert_allclose(study.media_adventitia, ma)
    assert (study.case, study.subject, study.mm_per_pixel) == ("a", "P1", MM)
    assert study.mm_per_pixel_x == MM


def test_semicolons_decimal_commas_and_oblong_pixels(tmp_path):
    write_csv(tmp_path, "a")
    (tmp_path / "studies.csv").write_text(
        "image;boundaries;subject;mm_per_pixel;mm_per_pixel_x\na.png;a.csv;P1;0,05;0,07\n"
    )
    study = read(tmp_path)
    assert (study.mm_per_pixel, study.mm_per_pixel_x) == (0.05, 0.07)
    assert study.case == "a.png"


def test_deep_and_coloured_pixels_are_named(tmp_path):
    write_csv(tmp_path, "a", pixels=picture().astype(np.uint16) * 100)
    study = read(tmp_path)
    np.testing.assert_array_equal(study.image, picture())
    assert study.notes == ("levels 0 to 25500 scaled to 8 bits",)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mm_per_pixel": ""}, "no calibration"),
        ({"mm_per_pixel": "unknown"}, "no calibration"),
        ({"mm_per_pixel": "6"}, "not between"),
        ({"subject": ""}, "no subject"),
        ({"image": "none.png"}, "the image file is missing"),
        ({"image": "../secret.png"}, "the image file lies outside"),
        ({"image": "/etc/hostname"}, "the image file lies outside"),
        ({"image": "link.png"}, "the image file lies outside"),
        ({"image": "a.csv"}, "unreadable"),
    ],
)
def test_what_cannot_be_used(tmp_path, given, reason):
    root = tmp_path / "root"
    (tmp_path / "secret.png").write_bytes(b"private")
    write_csv(root, "a", **given)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Unusable, match=reason) as raised:
        read(root)
    assert "secret" not in str(raised.value)


def test_calibration_along_the_wall_that_is_no_number(tmp_path):
    write_csv(tmp_path, "a")
    manifest = tmp_path / "studies.csv"
    manifest.write_text("image,boundaries,subject,mm_per_pixel,mm_per_pixel_x\na.png,a.csv,P,.06,?")
    with pytest.raises(Unusable, match="no calibration"):
        read(tmp_path)


def test_manifest_without_its_columns(tmp_path):
    (tmp_path / "studies.csv").write_text("image,subject\na.png,P1\n")
    with pytest.raises(UserError, match="lacks the columns boundaries, mm_per_pixel"):
        boundary_csv.detect(tmp_path)
    (tmp_path / "studies.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="not a readable table"):
        boundary_csv.detect(tmp_path)


def test_other_folders_are_not_claimed(tmp_path):
    assert boundary_csv.detect(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a.png,a.csv,P1,.06", "a.png,a.csv,P1,.06"], r"row 3 names a\.png, as .*row 2 does"),
        (["a.png,a.csv,P1,.06", "./a.png,a.csv,P2,.06"], r"row 3 gives \./a\.png .*row 2"),
        (["x/../a.png,a.csv,P1,.06", "a.png,a.csv,P2,.06"], r"row 3 gives a\.png .*row 2"),
        (["a.png,a.csv,P1,.06", "b.png,a.csv,P1,.06", "link.png,a.csv,P2,.06"], r"row 4 gives"),
    ],
)
def test_one_image_is_of_one_case_and_one_subject(tmp_path, rows, said):
    write_csv(tmp_path, "a")
    (tmp_path / "x").mkdir()
    (tmp_path / "link.png").symlink_to("a.png")
    table = tmp_path / "studies.csv"
    table.write_text("\n".join(["image,boundaries,subject,mm_per_pixel", *rows]) + "\n")
    with pytest.raises(UserError, match=said):
        boundary_csv.detect(tmp_path.resolve())


def test_one_image_annotated_twice_for_one_subject(tmp_path):
    write_csv(tmp_path, "a")
    head = "image,boundaries,subject,mm_per_pixel,case\n"
    (tmp_path / "studies.csv").write_text(head + "a.png,a.csv,P,.06,1\na.png,a.csv,P,.06,2\n")
    assert [found.name for found in boundary_csv.detect(tmp_path.resolve())] == ["1", "2"]
