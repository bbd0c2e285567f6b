import csv
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.readers import cyprus
from data_prep.readers._carotid import Options
from data_prep.readers._images import Unusable
from tests.data_prep.readers.synthetic import MM, interfaces, stamped, write_cyprus

FAULTY = ["AAACX", "AAAFI", "AAANB"]
SEPARATE = Options(repeats="separate")
REPEAT = "repeats the frame of another image; its points are part of that one's consensus"


def far_wall(**more):
    li, ma = interfaces(first=200, last=500, **more)
    return li + (0, 200), ma + (0, 200)


def read_all(root, options=None):
    """Studies and reasons by name."""
    studies, reasons = {}, {}
    for source in cyprus.detect(root, options):
        try:
            studies[source.name] = cyprus.read(source)
        except Unusable as error:
            reasons[source.name] = str(error)
    return studies, reasons


@pytest.fixture(scope="module")
def real(real_data):
    root = (real_data / "carotid" / "cyprus_imt").resolve()
    return root, *read_all(root, SEPARATE)


@pytest.fixture(scope="module")
def merged(real):
    return read_all(real[0])


def test_real_set(real):
    root, studies, reasons = real
    sources = cyprus.detect(root, SEPARATE)
    assert len(sources) == 49
    assert len({source.subject for source in sources}) == 22
    assert sorted(reasons) == FAULTY
    assert all("copy of another image's" in reason for reason in reasons.values())
    sorted_ones = [name for name, study in studies.items() if study.notes]
    assert sorted_ones == ["AAAAR", "AAABK", "AAAFB", "AAAFH", "AAAHZ", "AAALP", "AAAPE"]
    assert {study.notes for study in studies.values()} == {(), ("points sorted along x",)}
    assert not any(study.annotations for study in studies.values())


def test_real_repeats_by_comparing_all_pairs(real, merged):
    """Groups are those of the images that are equal, but for a few pixels, in any two folders."""
    root, separate, faulty = real
    screens = {path.stem: np.asarray(Image.open(path).convert("L")) for path in root.glob("*/*CRI")}
    assert len(screens) == 49
    rows = {name: screen[100::7].astype(float) for name, screen in screens.items()}
    pairs = sorted(
        tuple(sorted(pair))
        for pair in itertools.combinations(rows, 2)
        if np.isclose(rows[pair[0]], rows[pair[1]], atol=3).mean() > 0.9
    )
    assert ("AAANA", "AAANB") in pairs and len(pairs) == 11
    pairs = [pair for pair in pairs if not set(pair) & set(FAULTY)]
    studies, reasons = merged
    assert [name for name, study in studies.items() if study.annotations] == [a for a, _ in pairs]
    assert {name for name, reason in reasons.items() if reason == REPEAT} == {b for _, b in pairs}
    assert {name: reasons[name] for name in FAULTY} == faulty
    assert sorted(studies) == sorted(set(separate) - {b for _, b in pairs})
    for name, other in pairs:
        drawn = studies[name].annotations
        for one, alone in zip(drawn, (separate[name], separate[other]), strict=True):
            np.testing.assert_array_equal(one.lumen_intima, alone.lumen_intima)
            np.testing.assert_array_equal(one.media_adventitia, alone.media_adventitia)
            assert one.mm_per_pixel == alone.mm_per_pixel
        assert set(studies[name].notes) == {note for one in drawn for note in one.notes}
        np.testing.assert_array_equal(studies[name].image, separate[name].image)


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


def test_real_points_count_pixels_as_the_masks_do(real):
    """The set's band masks, filled between the points, tell where row 0 is."""
    above, below = [], []
    for source in cyprus.detect(real[0], SEPARATE):
        if source.name in FAULTY:
            continue
        study = cyprus.read(source)
        mask = np.asarray(Image.open(source.files[0].with_suffix(".png")).convert("L")) > 0
        x = np.rint(study.lumen_intima[1:-1, 0]).astype(int)
        for column in x[mask[:, x].any(axis=0)]:
            rows = np.flatnonzero(mask[:, column])
            above.append(rows[0] - np.interp(column, *study.lumen_intima.T))
            below.append(rows[-1] - np.interp(column, *study.media_adventitia.T))
    assert len(above) > 200
    # A filled band begins at the first and ends at the last pixel centre within it.
    assert abs(np.median(above) - 0.5) < 0.35 and abs(np.median(below) + 0.5) < 0.35


def test_real_matlab_and_json_agree(real):
    for source in cyprus.detect(real[0], SEPARATE):
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
    assert copied.repeats == "A" and not cyprus.detect(tmp_path)[0].repeats


def test_nobody_owns_points_that_two_were_measured_with(tmp_path):
    for name in "AB":
        write_cyprus(tmp_path, name, stamped(1, ord(name)), *far_wall())
    studies, reasons = read_all(tmp_path)
    assert not studies and len(reasons) == 2


def repeated(root, name, clock, li, ma, **more):
    """The frame of seed 0, stored anew: another time in the header, another calliper cross."""
    screen = stamped(1, seed=0)
    screen[34:46, 530:600] = 10 + 20 * clock
    screen[200 + 4 * clock : 215 + 4 * clock, 300] = 255
    screen[207 + 4 * clock, 293:308] = 255
    write_cyprus(root, name, screen, li, ma, **more)


def two_annotations():
    """Points of two persons: other columns, other extents, other rows."""
    li, ma = far_wall()
    x = np.linspace(170, 480, 14)
    other = np.column_stack([x, 242 + 2 * np.sin(x / 30)])
    return (li, ma), (other, other + np.column_stack([np.full(14, 3.5), 10 + np.cos(x / 25)]))


def test_one_frame_annotated_twice_is_one_study(tmp_path):
    one, two = two_annotations()
    repeated(tmp_path, "A", 0, *one)
    repeated(tmp_path, "B", 1, *two, scale=1.02 * MM)
    write_cyprus(tmp_path, "C", stamped(1, seed=5), one[0] + 1, one[1] + 1)  # another frame
    studies, reasons = read_all(tmp_path)
    assert list(studies) == ["A", "C"] and reasons == {"B": REPEAT}
    study = studies["A"]
    for place, (name, last) in enumerate([("lumen_intima", 480), ("media_adventitia", 483.5)]):
        mean, first_one, second_one = (
            getattr(drawn, name) for drawn in (study, *study.annotations)
        )
        assert mean[0, 0] == 200 and mean[-1, 0] == last
        x = np.arange(200, 481)
        by_hand = (np.interp(x, *one[place].T) + np.interp(x, *two[place].T)) / 2
        np.testing.assert_allclose(np.interp(x, *mean.T), by_hand)
        np.testing.assert_allclose(first_one, one[place])
        np.testing.assert_allclose(second_one, two[place])
    assert study.mm_per_pixel == study.mm_per_pixel_x == pytest.approx(1.01 * MM)
    gap = two[1][:, 1] - two[0][:, 1]
    assert study.stored_imt_mm == pytest.approx((0.72 + gap.mean() * 1.02 * MM) / 2)
    assert study.notes == () and studies["C"].annotations == ()


def test_the_work_depends_on_every_annotation(tmp_path):
    one, two = two_annotations()
    repeated(tmp_path, "A", 0, *one)
    repeated(tmp_path, "B", 1, *two)
    first, second = cyprus.detect(tmp_path)
    assert tmp_path / "B" / "B.scl" in first.files
    assert tmp_path / "A" / "A.scl" in second.files
    alone = cyprus.detect(tmp_path, SEPARATE)
    assert {source.files for source in alone}.isdisjoint({first.files, second.files})


def test_separate_studies_of_one_frame(tmp_path):
    drawn = two_annotations()
    for clock, name in enumerate("AB"):
        repeated(tmp_path, name, clock, *drawn[clock])
    studies, reasons = read_all(tmp_path, SEPARATE)
    assert list(studies) == ["A", "B"] and not reasons
    for name, (li, ma) in zip("AB", drawn, strict=True):
        np.testing.assert_allclose(studies[name].lumen_intima, li)
        np.testing.assert_allclose(studies[name].media_adventitia, ma)
        assert studies[name].annotations == ()


def test_three_annotations(tmp_path):
    li, ma = far_wall()
    for clock, up in enumerate((0, 1, 5)):
        repeated(tmp_path, "ABC"[clock], clock, li - (0, up), ma - (0, up))
    studies, reasons = read_all(tmp_path)
    assert list(studies) == ["A"] and list(reasons.values()) == [REPEAT] * 2
    np.testing.assert_allclose(studies["A"].media_adventitia, ma - (0, 2))
    assert len(studies["A"].annotations) == 3


@pytest.mark.parametrize("faulty", ["A", "B"])
def test_an_unusable_annotation_is_no_part_of_a_consensus(tmp_path, faulty):
    drawn = two_annotations()
    for clock, name in enumerate("AB"):
        stored = (2.5, 2.5, 2.5) if name == faulty else None
        repeated(tmp_path, name, clock, *drawn[clock], stored=stored)
    studies, reasons = read_all(tmp_path)
    assert list(studies) == ["B" if faulty == "A" else "A"]
    assert next(iter(studies.values())).annotations == ()
    assert "stored thickness" in reasons[faulty]


def test_noise_of_a_few_levels_is_the_same_frame_and_a_third_of_it_is_not(tmp_path):
    one, two = two_annotations()
    screen = stamped(1)
    noise = np.random.default_rng(1).integers(0, 8, screen.shape, dtype=np.uint8)
    noise[:60] = 0
    moved = screen.copy()
    moved[100:200] = moved[101:201]
    write_cyprus(tmp_path, "A", screen, *one)
    write_cyprus(tmp_path, "B", screen + noise, *two)
    write_cyprus(tmp_path, "C", moved, one[0] + 1, one[1] + 1)
    studies, _ = read_all(tmp_path)
    assert {name: len(study.annotations) for name, study in studies.items()} == {"A": 2, "C": 0}


def test_annotations_that_hardly_overlap(tmp_path):
    li, ma = far_wall()
    repeated(tmp_path, "A", 0, li[:4], ma[:4])  # columns 200 to 300
    repeated(tmp_path, "B", 1, li[4:] - (30, 0), ma[4:] - (30, 0))  # 303.3 on
    assert read_all(tmp_path)[1] == {
        "A": "the annotations of its frame share 0 columns; 10 are needed "
        "(--repeats=separate reads each on its own)",
        "B": REPEAT,
    }
    assert list(read_all(tmp_path, SEPARATE)[0]) == ["A", "B"]


def test_an_annotation_lost_after_it_was_found(tmp_path):
    one, two = two_annotations()
    repeated(tmp_path, "A", 0, *one)
    repeated(tmp_path, "B", 1, *two)
    source = cyprus.detect(tmp_path)[0]
    (tmp_path / "B" / "B.scl").unlink()
    with pytest.raises(Unusable, match="^the repeated annotation file is missing$"):
        cyprus.read(source)


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
            name: {"x": (points[:, 0] + 1).tolist(), "y": (points[:, 1] + 1).tolist()}
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
