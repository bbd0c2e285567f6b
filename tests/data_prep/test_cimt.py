import collections
import csv
import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from data_prep import cimt, command, far_wall, records
from data_prep.errors import UserError
from data_prep.far_wall import Settings
from data_prep.readers import _carotid, _consensus, boundary_csv
from data_prep.readers._images import Unusable
from data_prep.splits import pseudonym
from tests.data_prep.readers import synthetic

KEY = b"secret"
SMALL = Settings(patch=9, roi_width=30, roi_height=40, rois_per_image=2, patches_per_roi=6)


def make_study(li, ma, image=None, mm=0.06):
    image = synthetic.picture() if image is None else image
    source = _carotid.source("cubs", pathlib.Path("/data"), "Jane", "Doe", {})
    return _carotid.make_study(source, image, mm, li, ma, mm_per_pixel_x=mm)


def wavy(shape=(120, 200), first=5, last=194, seed=0):
    """A study over ``shape`` whose interfaces wave and come as near as 4 rows."""
    x = np.linspace(first, last, 40)
    li = 60 + 5 * np.sin(x / 20)
    ma = li + 8 + 4 * np.cos(x / 9)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return make_study(np.column_stack([x, li]), np.column_stack([x, ma]), image)


def regions_of(study, settings, seed=0):
    return far_wall.find_regions(study, settings, np.random.default_rng(seed))


def test_columns_by_brute_force():
    points = np.array([[3.5, 10.0], [7.0, 17.0], [20.0, 4.0], [24.0, 8.0]])
    rows = far_wall.columns(points, 30, max_gap=5)
    for x in range(30):
        expected = np.nan
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            if x0 <= x <= x1 and (x1 - x0 <= 5 or x in (x0, x1)):
                expected = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        np.testing.assert_allclose(rows[x], expected)


@pytest.mark.parametrize("settings", [SMALL, Settings(), Settings(band=0, exclusion=1)])
def test_labels_by_brute_force(settings):
    """Every pixel on its own: the rule in words, in plain Python."""
    study = wavy()
    region = regions_of(study, settings)[0]
    region.lumen_intima[3:6] = np.nan
    labels = far_wall.label_map(region, settings)
    assert labels.shape == (settings.roi_height, settings.roi_width)
    for row in range(settings.roi_height):
        for column in range(settings.roi_width):
            to_li = abs(row - region.lumen_intima[column])
            to_ma = abs(row - region.media_adventitia[column])
            if np.isnan(to_li) or np.isnan(to_ma):
                expected = -1
            elif to_li <= settings.band and to_li <= to_ma:
                expected = 1
            elif to_ma <= settings.band:
                expected = 2
            elif to_li >= settings.exclusion and to_ma >= settings.exclusion:
                expected = 0
            else:
                expected = -1
            assert labels[row, column] == expected


def test_equally_near_is_lumen_intima():
    region = far_wall.Region(0, 0, np.array([10.0]), np.array([12.0]))
    labels = far_wall.label_map(region, dataclasses.replace(SMALL, roi_height=20))
    assert labels[11, 0] == 1 and labels[12, 0] == 2


def test_regions_are_spread_and_do_not_overlap():
    study = wavy(first=5, last=194)
    for count, starts in [(1, [85]), (2, [5, 165]), (3, [5, 85, 165]), (9, None)]:
        settings = dataclasses.replace(SMALL, rois_per_image=count)
        found = [region.x for region in regions_of(study, settings)]
        assert starts is None or found == starts
        assert (np.diff(found) >= 30).all()
    assert len(found) == 190 // 30
    assert found[0] == 5 and found[-1] + 30 == 195


def test_region_rows_count_from_its_top():
    study = wavy()
    for region in regions_of(study, SMALL):
        columns = np.arange(region.x, region.x + 30)
        np.testing.assert_allclose(
            region.lumen_intima + region.y, np.interp(columns, *study.lumen_intima.T)
        )
        np.testing.assert_allclose(
            region.media_adventitia + region.y, np.interp(columns, *study.media_adventitia.T)
        )


def test_the_place_in_a_region_is_random_but_the_wall_stays_inside():
    study = wavy()
    settings = dataclasses.replace(SMALL, roi_height=60)
    middles = []
    for seed in range(60):
        for region in regions_of(study, settings, seed):
            middles.append(np.mean(region.lumen_intima + region.media_adventitia) / 2 - 29.5)
            assert region.lumen_intima.min() >= 2 and region.media_adventitia.max() <= 57
    assert np.ptp(middles) > 15 and abs(np.mean(middles)) < 1
    assert np.abs(middles).max() <= 8.5


def test_region_stays_in_a_low_image_and_context_is_reflected():
    li, ma = synthetic.interfaces(first=0, last=139)
    study = make_study(li - (0, 40), ma - (0, 40))  # at the upper edge
    result_region = regions_of(study, SMALL)[0]
    assert result_region.y == 0 and result_region.x == 0
    example = far_wall._roi_example(
        study, result_region, SMALL, dict(subject="s", case="c", unit="u")
    )
    padded = np.pad(study.image, SMALL.margin, mode="reflect")
    np.testing.assert_array_equal(example.image, padded[:52, :42])


def test_a_gap_is_neither_learnt_nor_scored():
    x = np.array([5, 20, 40, 60, 80, 150, 170, 190.0])
    li, ma = np.column_stack([x, x * 0 + 50]), np.column_stack([x, x * 0 + 60])
    study = make_study(li, ma, np.zeros((120, 200), np.uint8))
    settings = dataclasses.replace(SMALL, rois_per_image=4, max_gap_mm=2)  # 33 pixels
    for region in regions_of(study, settings):
        columns = region.x + np.arange(30)
        missing = (columns > 80) & (columns < 150)
        np.testing.assert_array_equal(np.isnan(region.lumen_intima), missing)
        assert missing.mean() <= 0.5
        assert not (far_wall.label_map(region, settings)[:, missing] >= 0).any()
    whole = dataclasses.replace(settings, max_gap_mm=9)
    assert len(regions_of(study, whole)) > len(regions_of(study, settings))


def line(x, y):
    return np.column_stack([np.asarray(x, float), np.asarray(y, float) + np.zeros(len(x))])


def drawn_thrice():
    """Annotations at 50 and 60, 52 and 60, 47 and 63; the second has a gap from 80 to 150."""
    image = np.zeros((120, 200), np.uint8)
    places = [
        (np.arange(5, 195, 10), 50, 60),
        ([15, 40, 60, 80, 150, 170, 190], 52, 60),
        (np.arange(9, 199, 20), 47, 63),
    ]
    mms = (0.06, 0.062, 0.064)
    return [
        make_study(line(x, li), line(x, ma), image, mm)
        for (x, li, ma), mm in zip(places, mms, strict=True)
    ]


def test_interfaces_of_several_annotations():
    settings = dataclasses.replace(SMALL, max_gap_mm=2)  # 33 pixels
    one, two, three = drawn_thrice()
    columns = np.arange(200)
    for studies, known, mean in [
        ([one], (columns >= 5) & (columns <= 185), (50, 60)),
        ([one, three], (columns >= 9) & (columns <= 185), (48.5, 61.5)),
        ([one, two], (columns >= 15) & (columns <= 185), (51, 60)),
    ]:
        study = _consensus.consensus(studies) if len(studies) > 1 else one
        if two in studies:
            known &= (columns <= 80) | (columns >= 150)  # the other one's points are no reason
        for found, row in zip(far_wall.interfaces(study, settings), mean, strict=True):
            np.testing.assert_allclose(found, np.where(known, row, np.nan))
            assert found.dtype == np.float64
        for region in regions_of(study, dataclasses.replace(settings, rois_per_image=4)):
            missing = ~known[region.x : region.x + 30]
            np.testing.assert_array_equal(np.isnan(region.lumen_intima), missing)
            assert region.lumen_intima[~missing][0] + region.y == mean[0]


def test_agreement_by_hand():
    one, two, three = drawn_thrice()
    settings = dataclasses.replace(SMALL, max_gap_mm=2)
    pair = far_wall.agreement(_consensus.consensus([one, two]), settings)
    assert pair == {
        "lumen_intima_um": pytest.approx(2 * 61),  # in the mean of both calibrations
        "media_adventitia_um": 0,
        "thickness_mm": pytest.approx(2 * 0.061),
    }
    trio = far_wall.agreement(_consensus.consensus([one, two, three]), settings)
    assert trio == {
        "lumen_intima_um": pytest.approx((2 + 3 + 5) / 3 * 62, abs=1e-3),
        "media_adventitia_um": pytest.approx((0 + 3 + 3) / 3 * 62, abs=1e-3),
        "thickness_mm": pytest.approx((2 + 6 + 8) / 3 * 0.062, abs=1e-6),
    }
    with pytest.raises(ValueError, match="two annotations"):
        far_wall.agreement(one, settings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"roi_width": 191}, "annotated over 190 columns; a region takes 191"),
        ({"roi_height": 121}, "the image has 120 rows; a region takes 121"),
        ({"max_gap_mm": 0.05}, "no region is annotated in half of its columns"),
    ],
)
def test_studies_without_a_region(change, reason):
    with pytest.raises(Unusable, match=reason):
        regions_of(wavy(), dataclasses.replace(SMALL, **change))


@pytest.fixture
def source(tmp_path):
    synthetic.write_csv(tmp_path, "Jane-Doe", subject="HOSPITAL-4711")
    return boundary_csv.detect(tmp_path.resolve())[0]


def test_examples_of_a_study(source):
    result = far_wall.prepare(source, SMALL, seed=1, key=KEY)
    assert result.case == pseudonym("Jane-Doe", KEY)
    assert result.subject == pseudonym("HOSPITAL-4711", KEY)
    image = np.pad(synthetic.picture(), 4, mode="reflect")
    rois = {roi.unit: roi for roi in result.examples["roi"]}
    assert list(rois) == [f"{result.case}-0", f"{result.case}-1"]
    seen = set()
    for patch in result.examples["patch"]:
        x, y = (int(patch.extras[axis]) for axis in "xy")
        np.testing.assert_array_equal(patch.image, image[y : y + 9, x : x + 9])
        assert patch.image[4, 4] == synthetic.picture()[y, x]
        assert patch.extras["margin"] == 0 and len(patch.extras["li"]) == 0
        roi = rois[patch.unit]
        column, row = x - roi.extras["x"], y - roi.extras["y"]
        assert 0 <= column < 30 and 0 <= row < 40
        region = far_wall.Region(0, 0, roi.extras["li"], roi.extras["ma"])
        assert far_wall.label_map(region, SMALL)[row, column] == patch.label
        seen.add((x, y))
    labels = [patch.label for patch in result.examples["patch"]]
    assert np.bincount(labels).tolist() == [12, 12, 12]
    assert len(seen) == 36  # drawn without replacement
    assert len({patch.key for patch in result.examples["patch"]}) == 36


def test_regions_of_a_study(source):
    result = far_wall.prepare(source, SMALL, seed=1, key=KEY)
    for roi, fact in zip(result.examples["roi"], result.truth["rois"], strict=True):
        margin = roi.extras["margin"]
        assert margin == SMALL.margin == 6
        assert roi.image.shape == (40 + 2 * margin, 30 + 2 * margin)
        x, y = roi.extras["x"], roi.extras["y"]
        np.testing.assert_array_equal(
            roi.image[margin:-margin, margin:-margin], synthetic.picture()[y : y + 40, x : x + 30]
        )
        assert roi.label == -1
        thickness = (roi.extras["ma"] - roi.extras["li"]).mean() * 0.06
        expected = {"unit": roi.unit, "x": x, "y": y, "width": 30, "height": 40}
        assert fact == {**expected, "imt_mm": pytest.approx(thickness, abs=1e-6)}
    assert result.truth["imt_mm"] == pytest.approx(0.72)
    assert result.truth["stored_imt_mm"] is None
    assert result.truth["annotations"] == 1 and "repeat" not in result.truth
    assert (result.truth["width"], result.truth["height"]) == (140, 90)


def test_chance_depends_on_seed_and_case_alone(source):
    def bytes_of(seed, key=KEY):
        result = far_wall.prepare(source, SMALL, seed, key)
        return [records.encode(e, cimt.EXTRAS) for kind in result.examples.values() for e in kind]

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)
    places = [
        far_wall.prepare(source, SMALL, 1, key).examples["patch"][0].extras for key in (KEY, b"x")
    ]
    assert places[0] != places[1]


def test_no_room_for_background(source):
    settings = dataclasses.replace(SMALL, roi_height=20, exclusion=19)
    with pytest.raises(Unusable, match="enlarge --roi_height"):
        far_wall.prepare(source, settings, 1, KEY)


@pytest.mark.parametrize("change", [{"patch": 32}, {"patch": 0}, {"band": 6}])
def test_settings_that_cannot_be(change):
    with pytest.raises(UserError, match="^--"):
        Settings(**change)


def write_set(root):
    """Ten usable studies of five subjects, one swapped and one without calibration."""
    for number in range(10):
        li, ma = synthetic.interfaces()
        if number == 4:
            li, ma = ma, li
        name = f"Jane-Doe-{number}"
        synthetic.write_csv(root, name, subject=f"HOSPITAL-{number // 2}", li=li, ma=ma)
    synthetic.write_csv(root, "John-Roe", subject="HOSPITAL-9", mm_per_pixel="")


def run(*arguments):
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(SMALL).items()]
    return subprocess.run(
        [sys.executable, "-m", "data_prep.cimt", *flags, *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command(tmp_path):
    write_set(tmp_path / "raw")
    done = run(
        f"--input={tmp_path / 'raw'}",
        f"--output={tmp_path / 'two'}",
        "--workers=2",
        "--repeats=separate",
    )
    assert done.returncode == 0, done.stderr
    assert "11 studies found, 10 used, 1 of them mended, 1 skipped." in done.stdout
    assert re.search(r"skipped  John-Roe \([0-9a-f]{12}\): no calibration", done.stdout)
    assert re.search(r"mended  Jane-Doe-4 \([0-9a-f]{12}\): interfaces exchanged", done.stdout)

    key = b"medxfer pseudonyms of seed 0"
    options = command.Options(tmp_path / "one", key=key, workers=1)
    choice = _carotid.Options(repeats="separate")
    cimt.prepare(tmp_path / "raw", tmp_path / "one", settings=SMALL, choice=choice, options=options)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "one").iterdir())
    for name in names:  # the same bytes, whatever the number of workers
        content = (tmp_path / "two" / name).read_bytes()
        assert content == (tmp_path / "one" / name).read_bytes(), name
        for text in (b"Jane", b"Doe", b"Roe", b"HOSPITAL", str(tmp_path).encode()):
            assert text not in content, (name, text)

    prep = json.loads((tmp_path / "two" / "prep.json").read_text())
    assert prep["settings"]["margin"] == 6 and prep["settings"]["patch"] == 9
    assert prep["settings"]["repeats"] == "separate"
    splits = prep["splits"]
    assert set(splits) == {"train", "validation", "validation_roi", "test"}
    assert splits["validation"]["subjects"] == splits["validation_roi"]["subjects"]
    for split in ("train", "validation"):
        assert len(set(splits[split]["labels"].values())) == 1
        assert set(splits[split]["labels"]) == {"0", "1", "2"}
    truth = json.loads((tmp_path / "two" / "truth.json").read_text())
    rois = [roi for case in truth["test"].values() for roi in case["rois"]]
    assert len(rois) == splits["test"]["examples"]


def test_command_errors(tmp_path):
    write_set(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    output = f"--output={tmp_path / 'out'}"
    for arguments, message in [
        (
            (f"--input={tmp_path / 'raw'}", output, "--strict", "--workers=1"),
            "John-Roe cannot be used",
        ),
        ((f"--input={tmp_path / 'raw'}", output, "--patch=32"), "--patch must be odd"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_folders_that_hold_nothing_known_or_too_much(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        cimt.find(tmp_path / "none")
    with pytest.raises(UserError, match="studies.csv .*CUBS.*Cyprus.*DICOM"):
        cimt.find(tmp_path)
    synthetic.write_csv(tmp_path, "a")
    synthetic.write_cubs(tmp_path, "clin_0001_L")
    with pytest.raises(UserError, match="more than one layout .boundary_csv, cubs."):
        cimt.find(tmp_path)


def write_repeats(root):
    """Four exams of the Cyprus scanner; in each, one frame drawn twice, 2 rows apart."""
    li, ma = synthetic.interfaces(first=200, last=500)
    for exam in range(4):
        for number, suffix in enumerate("ab"):
            screen = synthetic.stamped(exam, exam)
            screen[34:46, 530:600] = 100 + number  # the clock
            rows = 0, 200 + 2 * number + 10 * exam
            synthetic.write_cyprus(root, f"DOE{exam}{suffix}", screen, li + rows, ma + rows)


def test_repeats(tmp_path):
    write_repeats(tmp_path / "raw")
    output, link = tmp_path / "out", tmp_path / "link.csv"
    options = command.Options(output, cimt.PUBLIC_KEY, link_table=link)
    prepared = cimt.prepare(tmp_path / "raw", output, settings=SMALL, options=options)
    assert prepared.prep["sources"] == {"found": 8, "used": 4}
    with link.open(newline="") as file:
        rows = {row["original"]: row for row in csv.DictReader(file)}
    for exam in range(4):
        first, other = (rows[f"DOE{exam}{suffix}"] for suffix in "ab")
        assert (first["repeats"], other["repeats"]) == ("", f"DOE{exam}a")
        assert "repeats the frame" in other["skipped"] and not first["skipped"]
        assert first["subject"] == other["subject"]
    assert {(prepared.names[s["case"]][-1], s["reason"]) for s in prepared.prep["skipped"]} == {
        ("b", "repeats the frame of another image; its points are part of that one's consensus")
    }
    assert {entry["what"] for entry in prepared.prep["mended"]} == {
        "the same frame was annotated 2 times: the mean of their lines is the truth "
        "(they differ by 120 and 120 um, in calibration by 0.0%)"
    }
    assert prepared.prep["settings"]["repeats"] == "consensus"
    truth = json.loads((output / "truth.json").read_text())
    for case in (case for split in truth.values() for case in split.values()):
        assert case["annotations"] == 2
        assert case["repeat"] == {
            "lumen_intima_um": pytest.approx(120),
            "media_adventitia_um": pytest.approx(120),
            "thickness_mm": pytest.approx(0, abs=1e-9),
        }
        assert case["imt_mm"] == pytest.approx(0.72)
    for path in output.iterdir():
        assert b"DOE" not in path.read_bytes(), path.name
    assert "8 studies found, 4 used, 4 of them mended, 4 skipped." in command.summary(prepared)

    choice = _carotid.Options(repeats="separate")
    with pytest.raises(UserError):  # the folder holds another dataset
        cimt.prepare(tmp_path / "raw", output, settings=SMALL, choice=choice)
    prepared = cimt.prepare(tmp_path / "raw", tmp_path / "two", settings=SMALL, choice=choice)
    assert prepared.prep["sources"] == {"found": 8, "used": 8}
    truth = json.loads((tmp_path / "two" / "truth.json").read_text())
    assert {case["annotations"] for split in truth.values() for case in split.values()} == {1}


def test_a_way_with_repeats_that_does_not_exist():
    with pytest.raises(UserError, match="--repeats must be consensus or separate: mean"):
        _carotid.Options(repeats="mean")


def rows_by_hand(points, width, max_gap):
    """Row in each column, one column and one segment at a time."""
    rows = [np.nan] * width
    for (x0, y0), (x1, y1) in itertools.pairwise(sorted(points)):
        for x in range(int(np.ceil(x0)), int(np.floor(x1)) + 1):
            if x1 - x0 <= max_gap or x in (x0, x1):
                rows[x] = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return np.array(rows)


def repeat_by_hand(folders, max_gap_mm=4.0):
    """Differences of the annotations in two folders, from their plain files, past the reader."""
    files = [json.loads(next(folder.glob("*_boundaries.json")).read_text()) for folder in folders]
    mm = np.mean([file["mm_per_pixel"] for file in files])
    li, ma = (
        [
            rows_by_hand(zip(wall["x"], wall["y"], strict=True), 768, max_gap_mm / mm)
            for wall in (file["far_wall"][name] for file in files)
        ]
        for name in ("lumen_intima", "media_adventitia")
    )
    common = np.isfinite(li[0] + li[1] + ma[0] + ma[1])
    thickness = [(bottom - top)[common].mean() for top, bottom in zip(li, ma, strict=True)]
    return {
        "lumen_intima_um": pytest.approx(np.abs(li[0] - li[1])[common].mean() * mm * 1000, 1e-4),
        "media_adventitia_um": pytest.approx(
            np.abs(ma[0] - ma[1])[common].mean() * mm * 1000, 1e-4
        ),
        "thickness_mm": pytest.approx(abs(thickness[0] - thickness[1]) * mm, abs=1e-5),
    }


def test_real_set(real_data, tmp_path):
    settings = Settings(patches_per_roi=4)
    raw = real_data / "carotid" / "cyprus_imt"
    prepared = cimt.prepare(raw, tmp_path / "out", settings=settings)
    assert prepared.prep["sources"] == {"found": 49, "used": 36}
    reasons = {prepared.names[s["case"]]: s["reason"] for s in prepared.prep["skipped"]}
    assert sorted(name for name, reason in reasons.items() if "copy" in reason) == [
        "AAACX",
        "AAAFI",
        "AAANB",
    ]
    second = sorted(name for name, reason in reasons.items() if "repeats the frame" in reason)
    assert second == (
        "AAAAF AAAAR AAAAV AAAGZ AAAHH AAALQ AAAMP AAAMT AAANI AAAOG".split()  # noqa: SIM905
    )
    subjects = [set(prepared.prep["splits"][name]["subjects"]) for name in cimt.SPLITS]
    train, validation, validation_roi, test = subjects
    assert validation == validation_roi
    assert not (train & validation or train & test or validation & test)
    assert len(train | validation | test) == 22
    names = [path.stem for path in raw.glob("*/*.CRI")]
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path.name

    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    cases = {prepared.names[c]: fact for split in truth.values() for c, fact in split.items()}
    counts = collections.Counter(fact["annotations"] for fact in cases.values())
    assert counts == {1: 26, 2: 10}
    named = sorted(raw.glob("AAA??"))
    for name, fact in cases.items():
        if fact["annotations"] == 2:
            other = named[named.index(raw / name) + 1]
            assert other.name in second
            assert fact["repeat"] == repeat_by_hand([raw / name, other])
        else:
            assert "repeat" not in fact
