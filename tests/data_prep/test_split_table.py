import csv
import json
import logging
import pathlib

import cv2
import numpy as np
import pytest

from data_prep import classify, classify_report, colonoscopy, command, frame, pe, split_table
from data_prep.errors import UserError
from data_prep.readers import _classification, _colonoscopy, _volumes
from data_prep.splits import pseudonym
from tests.data_prep import fake

#: Two studies each of Anna0 to Anna3.
PARTS = {"Anna0": "train", "Anna1": "train", "Anna2": "val", "Anna3": "Test"}
EIGHT = range(8)
LONG = {"val": "validation", "Test": "test"}


@pytest.fixture
def studies(tmp_path):
    fake.write_studies(tmp_path / "raw", 8)
    return fake.find(tmp_path / "raw")


def write(path: pathlib.Path, *rows: str) -> pathlib.Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def options(table, **given) -> command.Options:
    return command.Options(table.parent / "data", fake.KEY, split_table=table, **given)


def prepare(studies, output, table, **given):
    how = command.Options(output, fake.KEY, split_table=table, **given)
    return command.prepare(fake.layout(), studies, fake.work, fake.SETTINGS, how)


def subjects(prep) -> dict[str, set[str]]:
    return {
        part: {who for s in prep["splits"].values() if s["part"] == part for who in s["subjects"]}
        for part in ("train", "validation", "test")
    }


def expected(said) -> dict[str, set[str]]:
    return {
        part: {pseudonym(who, fake.KEY) for who, own in said.items() if LONG.get(own, own) == part}
        for part in ("train", "validation", "test")
    }


def by_subject(table):
    return write(table, "Subject;split", *(f"{who};{part}" for who, part in PARTS.items()))


def by_case(table):
    rows = (f"{part},Anna{n // 2}_visit{n}" for n in range(8) for part in [PARTS[f"Anna{n // 2}"]])
    return write(table, "split,case", *rows)


def by_file(table):
    rows = (f"./Anna{n // 2}_visit{n},{PARTS[f'Anna{n // 2}']},Anna{n // 2}" for n in range(8))
    return write(table, "path,split,subject", *rows)


@pytest.mark.parametrize("written", [by_subject, by_case, by_file])
def test_a_table_decides_who_is_in_which_part(studies, tmp_path, written):
    table = written(tmp_path / "split.csv")
    made = prepare(studies, tmp_path / "data", table)
    assert subjects(made.prep) == expected(PARTS)
    assert b"Anna" not in (tmp_path / "data" / "prep.json").read_bytes()
    again = prepare(studies[::-1], tmp_path / "again", table, workers=2)
    for path in (tmp_path / "data").iterdir():
        assert path.read_bytes() == (again.output / path.name).read_bytes(), path.name
    assert prepare(studies, tmp_path / "data", table).reused


def test_another_table_is_another_dataset(studies, tmp_path):
    table = by_subject(tmp_path / "split.csv")
    prepare(studies, tmp_path / "data", table)
    by_case(table)  # in other words
    assert prepare(studies, tmp_path / "data", table).reused
    write(table, "subject,split", "Anna0,test", "Anna1,train", "Anna2,val", "Anna3,train")
    for other in (table, None):
        with pytest.raises(UserError, match="other sources or settings"):
            prepare(studies, tmp_path / "data", other)


def test_validation_is_drawn_from_training_where_no_row_says_it(studies, tmp_path):
    said = PARTS | {"Anna2": "train"}
    table = write(
        tmp_path / "split.csv", "subject,split", *(f"{who},{p}" for who, p in said.items())
    )
    drawn = {
        tuple(sorted(subjects(made)["validation"]))
        for seed in range(6)
        for made in [prepare(studies, tmp_path / f"{seed}", table, seed=seed).prep]
        if subjects(made)["test"] == {pseudonym("Anna3", fake.KEY)}
    }
    assert all(len(found) == 1 for found in drawn) and len(drawn) > 1
    none = prepare(studies, tmp_path / "none", table, validation_fraction=0.0)
    assert not subjects(none.prep)["validation"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["subject,part", "Anna0,train"], "lacks the columns split"),
        (["person,split", "Anna0,train"], "no column subject or path"),
        (["subject,split", "Anna0,train", "Anna0,test"], "row 3 puts Anna0 into test, but .*row 2"),
        (["subject,split", "Anna0,holdout"], "row 2: the split 'holdout' is none of"),
        (["subject,split", "Anna0,"], "row 2 has no split"),
        (["subject,split", ",train"], "row 2 has no subject"),
        (["subject,split", "NA,train"], "missing value"),
        (
            ["subject,split", "Anna0,train", "Anna1,train", "Anna2,test", "anna3,test"],
            r"no row for 2 of 8 studies \(subject Anna3 of Anna3_visit6.*no subject \(anna3\)",
        ),
        (["subject,split", *(f"Anna{n},train" for n in range(4))], "no study .* into test"),
        (["subject,split", *(f"Anna{n},test" for n in range(4))], "no study .* into train"),
        (
            [
                "case,split",
                *(f"Anna{n // 2}_visit{n},{'test' if n < 1 else 'train'}" for n in EIGHT),
            ],
            "Anna0_visit0 and Anna0_visit1 are of one subject",
        ),
        (
            [
                "case,split,subject",
                *(f"Anna{n // 2}_visit{n},{'test' if n > 5 else 'train'},{n % 4}" for n in EIGHT),
            ],
            "row 8 puts subject 2 into test, but .*row 4 into train",
        ),
    ],
)
def test_tables_that_cannot_be(studies, tmp_path, rows, message):
    table = write(tmp_path / "split.csv", *rows)
    with pytest.raises(UserError, match=message):
        prepare(studies, tmp_path / "data", table)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("given", [{"folds": 2, "fold": 0}, {"test_fraction": 1.0}])
def test_another_split_beside_the_table_is_refused(studies, tmp_path, given):
    with pytest.raises(UserError, match="take one of them away"):
        prepare(studies, tmp_path / "data", by_subject(tmp_path / "split.csv"), **given)


def test_without_a_test_part_where_none_is_asked_for(studies, tmp_path):
    table = write(tmp_path / "s.csv", "subject,split", *(f"Anna{n},train" for n in range(4)))
    made = prepare(studies, tmp_path / "data", table, test_fraction=0.0)
    assert not subjects(made.prep)["test"] and len(subjects(made.prep)["train"]) == 3


@pytest.mark.parametrize("place", ["absent.csv", "."])
def test_a_table_that_is_not_there_is_named(studies, tmp_path, place):
    with pytest.raises(UserError, match="--split_table=.* is no file"):
        prepare(studies, tmp_path / "data", tmp_path / place)


def test_a_part_of_which_nothing_can_be_used_is_named(studies, tmp_path, caplog):
    for path in (tmp_path / "raw").glob("Anna2*"):
        path.write_bytes(b"damaged")
    made = prepare(studies, tmp_path / "data", by_subject(tmp_path / "split.csv"))
    assert "No study of the validation part could be used" in caplog.text
    assert not subjects(made.prep)["validation"] and len(made.prep["skipped"]) == 2


def test_rows_of_nobody_are_named(studies, tmp_path, caplog):
    table = by_subject(tmp_path / "split.csv")
    table.write_text(table.read_text() + "Berta;test\n")
    with caplog.at_level(logging.WARNING):
        prepare(studies, tmp_path / "data", table)
    assert "1 names of it are those of no subject (Berta)" in caplog.text


def test_a_name_that_means_two_subjects_is_refused(tmp_path):
    found = [fake.FakeStudy(f"{who}/scan.nii.gz", (), who) for who in ("Anna", "Berta")]
    table = write(tmp_path / "split.csv", "path,split", "scan.nii.gz,train")
    with pytest.raises(UserError, match="may be Anna/scan.nii.gz, Berta/scan.nii.gz"):
        split_table.by_study(found, options(table))
    write(table, "path,split", "Anna\\scan.nii.gz,train", "Berta/scan.nii,test")
    said = split_table.by_study(found, options(table))
    assert said == {"Anna/scan.nii.gz": "train", "Berta/scan.nii.gz": "test"}


def test_whole_names_win_and_letters_may_be_composed(tmp_path):
    names = {"Mu\u0308ller/a.png": "M", "b/a.png": "B", "a.png": "A"}
    found = [fake.FakeStudy(name, (), who) for name, who in names.items()]
    table = write(
        tmp_path / "split.csv", "path,split", "a.png,test", "M\u00fcller/a.png,train", "b/a.png,val"
    )
    said = split_table.by_study(found, options(table))
    assert list(map(said.get, names)) == ["train", "validation", "test"]


def image(path: pathlib.Path, seed: int, side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))


def test_classified_images_follow_a_table_and_not_their_folders(tmp_path):
    names = [f"{part}/{kind}/{n}.png" for part in ("train", "test") for kind in "ab" for n in "123"]
    for seed, name in enumerate(names):
        image(tmp_path / "raw" / name, seed)
    image(tmp_path / "raw" / "train/a/1_mask.png", 99)  # of no use, so it needs no row
    parts = [("train", "val", "test")[n % 3] for n in range(12)]
    table = write(tmp_path / "s.csv", "path,split", *map(",".join, zip(names, parts, strict=True)))
    made = classify.prepare(
        tmp_path / "raw",
        tmp_path / "data",
        settings=classify.Settings(side=32, repeats="identical"),
        options=options(table),
    )
    truth = json.loads((made.output / "truth.json").read_text())
    for name, part in zip(names, parts, strict=True):
        assert pseudonym(name, fake.KEY) in truth[LONG.get(part, part)]
    report = classify_report.report(made)
    assert "--split_table is kept" in report and "own_split" not in report
    assert made.prep["settings"]["split_table"] and len(made.prep["skipped"]) == 1


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Folders of frames; v3 repeats v2."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        for place in range(2):
            image(root / f"v{number}" / f"{place}.png", 10 * min(number, 2) + place, 64)
    rows = [f"v{n},{i},{('un' * i)}informative" for n in range(4) for i in range(2)]
    write(root / "labels.csv", "video,frame_index,label", *rows)
    write(
        root / "videos.csv",
        "video,subject,split",
        *(f"v{n},P{n},{'test' if n > 1 else 'train'}" for n in range(4)),
    )
    return root


def test_videos_follow_a_table_and_not_that_of_the_set(videos, tmp_path):
    table = write(
        tmp_path / "s.csv", "video,split", "v0,test", "v1,train", "v2,validation", "v3,validation"
    )
    link = tmp_path / "link.csv"
    made = frame.prepare(
        videos,
        tmp_path / "data",
        settings=frame.Settings(width=64, height=64, patch=32, crops=2),
        options=options(table, link_table=link),
    )
    assert subjects(made.prep) == expected({"P0": "test", "P1": "train", "P2": "validation"})
    with link.open(newline="") as file:
        rows = {row["original"]: row for row in csv.DictReader(file)}
    assert rows["v3"]["subject"] == pseudonym("P3", fake.KEY)
    assert "repeats the frames" in rows["v3"]["skipped"] and rows["v3"]["repeats"] == "v2"
    assert not rows["v2"]["skipped"] and not rows["v2"]["repeats"]
    # What a detector of polyps learns from follows the same parts.
    sources = _colonoscopy.find(videos)
    parts = colonoscopy.assign(sources, options(table))
    assert parts[pseudonym("P0", fake.KEY)] == "test"


def test_volumes_follow_a_table(tmp_path):
    def source(name):
        return _volumes.Source(name, (), (), "nifti", tmp_path, name, facts={"stem": name})

    table = write(tmp_path / "s.csv", "case,split", "a,test", "b,train", "c,val")
    parts = pe.assign([source(name) for name in "abc"], options(table))
    assert parts == {
        pseudonym(name, fake.KEY): part
        for name, part in zip("abc", ("test", "train", "validation"), strict=True)
    }


def test_the_link_table_names_what_repeats(tmp_path):
    raw = tmp_path / "raw"
    for kind in "ab":
        for number in range(6):
            image(raw / kind / f"p{kind}{number}_x.png", 20 + ord(kind) * 7 + number)
    (raw / "b" / "pz_x.png").write_bytes((raw / "b" / "pb1_x.png").read_bytes())
    (raw / "a" / "pz_y.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    link = tmp_path / "link.csv"
    classify.prepare(
        raw,
        tmp_path / "data",
        settings=classify.Settings(side=32, repeats="identical"),
        choice=_classification.Options(subject_regex="(p[a-z0-9]+)_"),
        options=command.Options(tmp_path / "data", fake.KEY, link_table=link),
    )
    with link.open(newline="") as file:
        rows = {row["original"]: row for row in csv.DictReader(file)}
    assert rows["b/pz_x.png"]["repeats"] == "b/pb1_x.png" and not rows["b/pz_x.png"]["skipped"]
    assert not rows["b/pb1_x.png"]["repeats"]
    # The damaged image is of the person whose other image made two subjects one.
    assert rows["a/pz_y.png"]["skipped"] and not rows["b/pb1_x.png"]["skipped"]
    assert rows["a/pz_y.png"]["subject"] == rows["b/pb1_x.png"]["subject"]
    assert len({row["subject"] for row in rows.values()}) == 12
