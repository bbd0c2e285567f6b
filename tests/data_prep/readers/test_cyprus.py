import csv
import json
import shutil

import numpy as np
import pytest

from data_prep.readers import cyprus
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import MM, interfaces, stamped, write_cyprus

FAULTY = ["AAACX", "AAAFI", "AAANB"]


def far_wall(**more):
    li, ma = interfaces(first=200, last=500, **more)
    return li + (0, 200), ma + (0, 200)


def read_all(root):
    """Studies and reasons by name."""
    studies, reasons = {}, {}
    for source in cyprus.detect(root):
        try:
            studies[source.name] = cyprus.read(source)
        except Unusable as error:
            reasons[source.name] = str(error)
    return studies, reasons


@pytest.fixture(scope="module")
def real(real_data):
    root = (real_data / "carotid" / "cyprus_imt").resolve()
    return root, *read_all(root)


def test_real_set(real):
    root, studies, reasons = real
    sources = cyprus.detect(root)
    assert len(sources) == 49
    assert len({source.subject for source in sources}) == 22
    assert sorted(reasons) == FAULTY
    assert all("copy of another image's" in reason for reason in reasons.values())
    sorted_ones = [name for name, study in studies.items() if study.notes]
    assert sorted_ones == ["AAAAR", "AAABK", "AAAFB", "AAAFH", "AAAHZ", "AAALP", "AAAPE"]
    assert {study.notes for study in studies.values()} == {(), ("points sorted along x",)}


def test_real_thickness_is_that_of_the_plain_table(real):
    root, studies, _ = real
    with (root / "summary.csv").open() as file:
        table = {row["id"]: row for row in csv.DictReader(file)}
    for name, study in studies.items():
        row = table[name]
        gap = study.media_adventitia[:, 1].mean() - study.lumen_intima[:, 1].mean()
        plain = float(row["imt_mm_from_mean_vertical_gap"])
        assert study.mm_per_pixel == float(row["mm_per_pixel"])
        assert gap * study.mm_per_pixel == pytest.approx(plain, abs=1e-4)
        assert study.stored_imt_mm == float(row["imt_mean_mm_scl"])
        assert study.stored_imt_mm == pytest.approx(plain, abs=0.02)


def test_real_matlab_and_json_agree(real):
    for source in cyprus.detect(real[0]):
        matlab = cyprus._from_matlab(source.files[1])
        plain = cyprus._from_json(source.files[1].with_name(f"{source.name}_boundaries.json"))
        np.testing.assert_array_equal(matlab.lumen_intima, plain.lumen_intima)
        np.testing.assert_array_equal(matlab.media_adventitia, plain.media_adventitia)
        assert matlab.stored == plain.stored
        assert matlab.mm_per_pixel == plain.mm_per_pixel


def test_a_faulty_study_alone(real, tmp_path):
    """Without the study it was copied from, a copy is known by the stored figures left in it."""
    reasons = {}
    for name in FAULTY:
        shutil.copytree(real[0] / name, tmp_path / name / name)
        studies, found = read_all(tmp_path / name)
        reasons[name] = found.get(name) or studies[name].notes[0]
    assert reasons == {
        "AAACX": "its stored thickness (mean 0.00, 0.87 to 1.50 mm) is not that of its points",
        "AAAFI": "the stored mean thickness of 0 was not used, the points were",
        "AAANB": "its stored thickness (mean 3.58, 1.73 to 12.98 mm) is not that of its points",
    }


def test_images_of_one_exam_share_a_subject(tmp_path):
    li, ma = far_wall()
    for number, (name, exam) in enumerate([("A", 1), ("B", 2), ("C", 1)]):
        write_cyprus(tmp_path, name, stamped(exam, seed=number), li + (0, number), ma + (0, number))
    first, second, third = cyprus.detect(tmp_path)
    assert first.subject == third.subject != second.subject


def test_date_time_probe_and_name_do_not_make_a_subject(tmp_path):
    li, ma = far_wall()
    screen = stamped(1)
    other = screen.copy()
    other[10:26, 40:215] = 255  # the name, whited out
    other[14:25, 530:600] = 176  # date
    other[34:46, 290:720] = 176  # probe, time and depth
    write_cyprus(tmp_path, "A", screen, li, ma)
    write_cyprus(tmp_path, "B", other, li + (0, 1), ma + (0, 1))
    first, second = cyprus.detect(tmp_path)
    assert first.subject == second.subject


@pytest.mark.parametrize("damage", ["blank", "whited out", "other size"])
def test_without_a_stamp_the_folder_is_the_subject(tmp_path, damage):
    screen = stamped(1)
    if damage == "blank":
        screen[12:28, 294:500] = 10
    elif damage == "whited out":
        screen[10:30, 200:300] = 255
    else:
        screen = screen[:500]
    write_cyprus(tmp_path, "A", screen, *far_wall())
    (source,) = cyprus.detect(tmp_path)
    assert source.subject == "A"
    assert cyprus.read(source).notes == (
        "no exam number in the image: its folder counts as one subject",
    )


def test_only_the_measured_one_of_two_with_the_same_points_is_used(tmp_path):
    li, ma = far_wall()
    write_cyprus(tmp_path, "A", stamped(1, 0), li, ma)
    write_cyprus(tmp_path, "B", stamped(2, 1), li, ma, stored=(0, 0.72, 0.72))
    studies, reasons = read_all(tmp_path)
    assert list(studies) == ["A"] and "copy" in reasons["B"]
    copied = cyprus.detect(tmp_path)[1]
    assert (tmp_path / "A" / "A.scl") in copied.files  # the verdict depends on it


def test_nobody_owns_points_that_two_were_measured_with(tmp_path):
    for name in "AB":
        write_cyprus(tmp_path, name, stamped(1, ord(name)), *far_wall())
    studies, reasons = read_all(tmp_path)
    assert not studies and len(reasons) == 2


def test_stored_mean_of_zero_is_not_the_truth(tmp_path):
    write_cyprus(tmp_path, "A", stamped(1), *far_wall(), stored=(0, 0, 0))
    study = read_all(tmp_path)[0]["A"]
    assert study.stored_imt_mm is None
    assert study.notes == ("the stored mean thickness of 0 was not used, the points were",)


@pytest.mark.parametrize("stored_before_the_slip", [True, False])
def test_a_pair_13_mm_apart_is_dropped_whatever_was_stored(tmp_path, stored_before_the_slip):
    li, ma = far_wall()
    ma[4, 1] = li[4, 1] + 13 / MM
    stored = (0.72, 0.72, 0.72) if stored_before_the_slip else None
    write_cyprus(tmp_path, "A", stamped(1), li, ma, stored=stored)
    study = read_all(tmp_path)[0]["A"]
    assert study.notes == ("1 of 10 point pairs dropped: 13.00 mm apart",)
    assert len(study.lumen_intima) == 9


def test_exchanged_interfaces(tmp_path):
    li, ma = far_wall()
    write_cyprus(tmp_path, "A", stamped(1), ma, li, stored=(0.72, 0.72, 0.72))
    study = read_all(tmp_path)[0]["A"]
    np.testing.assert_allclose(study.lumen_intima, li)
    assert "exchanged" in study.notes[0]


def test_json_stands_in_for_a_missing_matlab_file(tmp_path):
    li, ma = far_wall()
    folder = write_cyprus(tmp_path, "A", stamped(1), li, ma)
    (folder / "A.scl").unlink()
    assert read_all(tmp_path)[1] == {"A": "the annotation file is missing"}
    content = {
        "mm_per_pixel": MM,
        "imt_mm": {"mean": 0.72, "max": 0.72, "min": 0.72},
        "far_wall": {
            name: {"x": points[:, 0].tolist(), "y": points[:, 1].tolist()}
            for name, points in (("lumen_intima", li), ("media_adventitia", ma))
        },
    }
    (folder / "A_boundaries.json").write_text(json.dumps(content))
    study = read_all(tmp_path)[0]["A"]
    np.testing.assert_allclose(study.media_adventitia, ma)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\0" * 300])
def test_unreadable_annotation(tmp_path, content):
    folder = write_cyprus(tmp_path, "A", stamped(1), *far_wall())
    (folder / "A.scl").write_bytes(content)
    assert read_all(tmp_path)[1] == {"A": "the annotation file is unreadable or incomplete"}


def test_unreadable_image(tmp_path):
    folder = write_cyprus(tmp_path, "A", stamped(1), *far_wall())
    (folder / "A.CRI").write_bytes(b"II*\0 not a TIFF")
    assert read_all(tmp_path)[1] == {"A": "the image file is unreadable"}


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    write_cyprus(tmp_path / "elsewhere", "A", stamped(1), *far_wall())
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "A").symlink_to(tmp_path / "elsewhere" / "A")
    (source,) = cyprus.detect((tmp_path / "root").resolve())
    assert source.files == ()
    with pytest.raises(Unusable, match="outside the input folder"):
        cyprus.read(source)
