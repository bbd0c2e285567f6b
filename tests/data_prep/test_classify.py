"""Classified images to records."""

import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import classify, classify_report, command
from data_prep.errors import UserError
from data_prep.phantoms import classify as phantom
from data_prep.readers._classification import Options
from data_prep.splits import pseudonym
from medxfer import data, predict
from medxfer.apps import _classification_images
from medxfer.dataset_folder import DatasetFolder
from tests.data_prep.pictures import save, texture, write_folders

KEY = classify.PUBLIC_KEY
SETTINGS = dataclasses.asdict(classify.Settings(side=32))
SUBJECTS = Options(subject_regex=r"(p\d+)_")


def prepare(raw, output, choice=SUBJECTS, settings=None, **given):
    options = command.Options(output, key=KEY, **{"test_fraction": 0.25, **given})
    return classify.prepare(
        raw, output, settings=settings or classify.Settings(side=32), choice=choice, options=options
    )


def records(output: pathlib.Path) -> dict[str, dict]:
    """Case -> its example and its part, of all parts."""
    folder = DatasetFolder.open(output, app="classify")
    return {
        unit["case"]: {**unit, "part": part}
        for part in folder.splits
        for unit in data.units(folder, part)
    }


@pytest.mark.parametrize(("height", "width"), [(30, 90), (200, 100), (64, 64), (100, 1000)])
def test_fit_keeps_proportions(height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (height, width, 3), np.uint8)
    padded = classify.fit(image, 48, "pad")
    rows, columns = np.nonzero(padded.any(axis=2))
    high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(high, wide) == 48 and abs(wide / high * height / width - 1) < 0.15
    assert (
        abs(rows.min() - (47 - rows.max())) <= 1 and abs(columns.min() - (47 - columns.max())) <= 1
    )
    cropped = classify.fit(image, 48, "crop")
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = np.ascontiguousarray(image[top : top + short, left : left + short])
    how = cv2.INTER_AREA if short > 48 else cv2.INTER_LINEAR
    np.testing.assert_array_equal(cropped, cv2.resize(middle, (48, 48), interpolation=how))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Sixteen persons, a copy, a smaller copy, a damaged image and one that is too small."""
    root = write_folders(tmp_path_factory.mktemp("raw"), 16)
    (root / "ill" / "p90_i0.png").write_bytes((root / "ill" / "p00_i0.png").read_bytes())
    image = np.asarray(Image.open(root / "well" / "p10_i0.png"))
    half = cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA)
    save(root / "well" / "p91_i0.jpg", half, quality=90)
    whole = (root / "ill" / "p01_i0.png").read_bytes()
    (root / "ill" / "p92_i0.png").write_bytes(whole[: len(whole) // 2])
    save(root / "well" / "p93_i0.png", np.zeros((1, 1), np.uint8))
    return root


@pytest.fixture(scope="module")
def prepared(raw):
    return prepare(raw, raw.with_name(raw.name + "-data"))


def case(name: str) -> str:
    return pseudonym(name, KEY)


def test_records_are_the_images(raw, prepared):
    found = records(prepared.output)
    usable = [p for p in raw.rglob("*.*") if p.stem[:3] not in ("p92", "p93")]
    assert len(found) == len(usable) == 34
    truth = json.loads((prepared.output / "truth.json").read_text())
    for path in usable:
        name = path.relative_to(raw).as_posix()
        unit = found[case(name)]
        image = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(unit["image"], classify.fit(image, 32, "pad"))
        label = ("ill", "well").index(path.parent.name)
        assert (unit["label"], unit["lesion"], unit["unit"]) == (label, -1, case(name))
        np.testing.assert_array_equal(unit["labels"], np.eye(2, dtype=int)[label])
        assert (unit["width"], unit["height"]) == image.shape[1::-1]
        assert truth[unit["part"]][case(name)] == {
            "subject": unit["subject"],
            "label": label,
            "images": 1,
        }


def test_repeats_are_found_and_stay_together(prepared):
    found, findings = records(prepared.output), prepared.prep["findings"]
    copies = sorted([case("ill/p00_i0.png"), case("ill/p90_i0.png")])
    assert findings["identical"] == [copies]
    (pair,) = findings["similar"]
    assert set(pair["cases"]) == {case("well/p10_i0.png"), case("well/p91_i0.jpg")}
    assert pair["correlation"] > 0.95
    for group in (copies, pair["cases"]):
        assert len({found[member]["subject"] for member in group}) == 1
        assert len({found[member]["part"] for member in group}) == 1
    assert found[case("ill/p00_i1.png")]["subject"] == found[case("ill/p90_i0.png")]["subject"]
    assert findings["known_by"] == {"name": 36} and not findings["own_split"]


def test_what_cannot_be_used_is_named(raw, prepared):
    assert {entry["case"]: entry["reason"] for entry in prepared.prep["skipped"]} == {
        case("ill/p92_i0.png"): "the image file is unreadable",
        case("well/p93_i0.png"): "the image has 1 x 1 pixels: a side must have at least 8",
    }
    with pytest.raises(UserError, match="ill/p92_i0.png cannot be used"):
        prepare(raw, raw.with_name("strict"), strict=True)
    assert not list(raw.parent.glob("strict*"))


def test_no_name_is_written(prepared):
    for path in prepared.output.iterdir():
        content = path.read_bytes()
        for name in (b"p00", b"p10_", b"p90", b"_i0", str(prepared.output.parent).encode()):
            assert name not in content, path.name


def test_workers_do_not_change_the_bytes_and_a_finished_set_is_not_looked_at(
    raw, prepared, tmp_path, monkeypatch
):
    made = prepare(raw, tmp_path / "data", workers=2)
    assert {f.name: f.read_bytes() for f in made.output.iterdir()} == {
        f.name: f.read_bytes() for f in prepared.output.iterdir()
    }
    assert list(tmp_path.iterdir()) == [made.output]
    monkeypatch.setattr(classify.repeats, "find", None)
    again = prepare(raw, tmp_path / "data")
    assert again.reused and again.prep == prepared.prep
    with pytest.raises(UserError, match="other sources or settings"):
        prepare(raw, tmp_path / "data", settings=classify.Settings(side=40))


def test_the_report_names_what_was_found(prepared):
    text = classify_report.report(prepared)
    assert "ill/p00_i0.png" in text and "well/p91_i0.jpg" in text
    assert "by --subject_regex (36 images)" in text
    assert "2 skipped" in command.summary(prepared)


def test_an_own_split_that_leaks(tmp_path):
    raw = tmp_path / "raw"
    for place, (split, count) in enumerate((("train", 8), ("test", 4))):
        for label in ("ill", "well"):
            for number in range(count):
                name = f"p{place}{number}_i0.png"
                image = texture(50 * place + number + 1000 * (label == "ill"))
                save(raw / split / label / f"{label[0]}{name}", image)
    choice = Options(subject_regex=r"([iw]p\d+)_")
    # One person in both parts, one image in both, and one image of both classes.
    save(raw / "test" / "ill" / "ip07_i1.png", texture(7777))
    source = raw / "train" / "well" / "wp03_i0.png"
    (raw / "test" / "well" / "wp99_i0.png").write_bytes(source.read_bytes())
    source = raw / "train" / "ill" / "ip05_i0.png"
    (raw / "train" / "well" / "wp98_i0.png").write_bytes(source.read_bytes())
    made = prepare(raw, tmp_path / "data", choice)
    found, findings = records(made.output), made.prep["findings"]
    leaks = {tuple(leak["moved"]): leak for leak in findings["leaks"]}
    assert set(leaks) == {
        (case("train/ill/ip07_i0.png"),),
        (case("train/well/wp03_i0.png"),),
    }
    assert [leaks[moved]["repeat"] for moved in sorted(leaks)] == [
        moved == (case("train/well/wp03_i0.png"),) for moved in sorted(leaks)
    ]
    assert all(found[moved]["part"] == "test" for (moved,) in leaks)
    (conflict,) = findings["conflicts"]
    assert set(conflict) == {case("train/ill/ip05_i0.png"), case("train/well/wp98_i0.png")}
    text = classify_report.report(made)
    assert "It LEAKS" in text and "train/ill/ip07_i0.png" in text
    assert "WITH DIFFERENT LABELS" in text and "train/well/wp98_i0.png" in text
    with pytest.raises(UserError, match="twice with different labels"):
        prepare(raw, tmp_path / "other", choice, strict=True)
    (raw / "train" / "well" / "wp98_i0.png").unlink()
    with pytest.raises(UserError, match="2 subjects in more than one part"):
        prepare(raw, tmp_path / "other", choice, strict=True)
    drawn = prepare(raw, tmp_path / "other", choice, strict=True, folds=3, fold=0)
    assert not drawn.prep["findings"]["own_split"]


def test_several_labels(tmp_path):
    phantom.generate(tmp_path / "raw", subjects=8, multilabel=True)
    made = classify.prepare(
        tmp_path / "raw", tmp_path / "data", settings=classify.Settings(side=32)
    )
    assert made.prep["settings"]["multilabel"]
    assert {int(u["label"]) for u in records(made.output).values()} == {-1}
    rows = (tmp_path / "raw" / phantom.TABLE).read_text().splitlines()[1:]
    truth = json.loads((made.output / "truth.json").read_text())
    facts = {name: fact for part in truth.values() for name, fact in part.items()}
    for row in rows:
        name, label, subject = row.split(",")
        expected = [int(kind in label.split("|")) for kind in made.prep["classes"]]
        assert facts[case(name)] == {
            "subject": pseudonym(subject, KEY),
            "labels": expected,
            "images": 1,
        }
    assert len(facts) == len(rows)
    assert "images by label" in classify_report.report(made)
    assert "several labels" in command.summary(made)


def test_an_npz_file(tmp_path):
    images = np.stack([texture(i, 28, 28) for i in range(24)])
    labels = np.arange(24)[:, None] % 2
    content = {}
    for part, rows in (("train", slice(0, 16)), ("val", slice(16, 20)), ("test", slice(20, 24))):
        content |= {f"{part}_images": images[rows], f"{part}_labels": labels[rows]}
    np.savez_compressed(tmp_path / "set.npz", **content)
    made = prepare(tmp_path / "set.npz", tmp_path / "data", Options(classes=("well", "ill")))
    assert made.prep["classes"] == ["well", "ill"] and made.prep["findings"]["own_split"]
    found = records(made.output)
    for number in range(4):
        unit = found[case(f"val/{number}")]
        assert (unit["part"], unit["label"]) == ("validation", number % 2)
        enlarged = cv2.resize(images[16 + number], (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(unit["image"][..., 0], enlarged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "set.npz"]
    assert prepare(tmp_path, tmp_path / "data", Options(classes=("well", "ill"))).reused


def test_names_that_are_not_utf8(tmp_path):
    raw = write_folders(tmp_path / "raw", 8)
    odd = os.fsdecode(b"M\xfcller_p99_.png")
    save(raw / "ill" / odd, texture(999))
    line = [sys.executable, "-m", "data_prep.classify", f"--input={raw}", "--side=32"]
    line += [f"--output={tmp_path / 'data'}", f"--link_table={tmp_path / 'link.csv'}"]
    done = subprocess.run(
        [*line, "--workers=2", "--subject_regex=(.+)_"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    with (tmp_path / "link.csv").open(newline="", encoding="utf-8") as file:
        cases = {row["original"]: row["case"] for row in csv.DictReader(file)}
    key = b"medxfer pseudonyms of seed 0"
    assert cases["ill/M\\udcfcller_p99_.png"] == pseudonym(f"ill/{odd}", key)
    assert cases["ill/p00_i0.png"] == pseudonym("ill/p00_i0.png", key)


def test_predictions_of_names_that_are_not_utf8(tmp_path):
    path = save(tmp_path / os.fsdecode(b"M\xfcller.png"), texture(1))
    settings = {**SETTINGS, "classes": ["ill", "well"]}
    found = {"name": path.stem, "predicted": "ill", "probabilities": {"ill": 0.9, "well": 0.1}}
    _classification_images.collect([path], [found], settings, tmp_path)
    predict._write_table(tmp_path / "predictions.csv", [found])
    rows = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1] == r"M\udcfcller,ill,0.9,0.1"


def overlaid(seed: int) -> np.ndarray:
    """A faint texture under the same strong overlay, as of one scanner."""
    return np.where(texture(777, 96, 96) > 150, 255, texture(seed, 96, 96) // 16).astype(np.uint8)


def test_images_of_one_scanner_that_similarity_joins(tmp_path, caplog):
    for number in range(24):
        folder = tmp_path / "raw" / ("ill", "well")[number % 2]
        save(folder / f"p{number:02d}_.png", overlaid(number))
    with pytest.raises(UserError, match="too few.* 24 of 24 subjects are joined .*--repeats=ident"):
        prepare(tmp_path / "raw", tmp_path / "data")
    settings = classify.Settings(side=32, repeats="identical")
    made = prepare(tmp_path / "raw", tmp_path / "data", settings=settings)
    assert len(records(made.output)) == 24 and "joined" not in caplog.text


@pytest.mark.parametrize(("copies", "warned"), [(2, True), (1, False)])
def test_many_similar_images_are_warned_of(tmp_path, caplog, copies, warned):
    raw = write_folders(tmp_path / "raw", 24)
    for number in range(copies):
        image = np.asarray(Image.open(raw / "ill" / f"p0{number}_i0.png"))
        save(raw / "ill" / f"q{number}_.jpg", cv2.resize(image, (96, 96)), quality=95)
    prepare(raw, tmp_path / "data", Options(subject_regex=r"([pq]\d+)_"))
    assert (f"{2 * copies} of {24 + copies} subjects are joined" in caplog.text) == warned


def test_an_own_split_without_usable_training_images(tmp_path, caplog):
    images = np.stack([texture(i, 28, 28) for i in range(12)])
    labels = np.arange(12)[:, None] % 2
    content = {"train_images": images / 127.5 - 1, "train_labels": labels}
    content |= {"test_images": images[:4] + 1, "test_labels": labels[:4]}
    np.savez(tmp_path / "set.npz", **content)
    with pytest.raises(UserError, match="no train part with images that can be used"):
        prepare(tmp_path / "set.npz", tmp_path / "data", Options())
    assert "12 of 16 images cannot be used, such as train/0: its pixels run from" in caplog.text
    assert not list(tmp_path.glob("data*"))


def test_a_second_set_may_lack_a_class(tmp_path):
    write_folders(tmp_path / "raw", 4, classes=("ill", "well"))
    choice = Options(classes=("dead", "ill", "well"))
    made = prepare(tmp_path / "raw", tmp_path / "data", choice, test_fraction=1.0)
    assert {u["part"] for u in records(made.output).values()} == {"test"}
    with pytest.raises(UserError, match="no image of class 'dead'"):
        prepare(tmp_path / "raw", tmp_path / "other", choice)
    assert not list(tmp_path.glob("other*"))


def test_an_output_that_is_something_else_is_told_at_once(raw, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("x")
    monkeypatch.setattr(classify.repeats, "find", None)
    with pytest.raises(UserError, match="is no prepared dataset"):
        prepare(raw, tmp_path / "data")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"side": 4}, "--side"),
        ({"fit": "stretch"}, "--fit must be pad or crop"),
        ({"repeats": "all"}, "--repeats"),
        ({"hamming": 99}, "--hamming"),
        ({"levels": "max"}, "--levels"),
    ],
)
def test_wrong_settings(given, reason):
    with pytest.raises(UserError, match=reason):
        classify.Settings(**given)


def test_columns_of_the_command_line():
    assert classify.columns(["path:Image Index", " label : a:b "]) == {
        "path": "Image Index",
        "label": "a:b",
    }
    with pytest.raises(UserError, match="is not like path"):
        classify.columns(["path"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "pattern", "leaks", "identical", "similar"),
    [
        ("chest_xray_224", r"(person\d+|(?:NORMAL2-)?IM-\d+)", 4, 0, 0),
        ("brain_mri", "", 0, 11, 4),
        ("medmnist", "", 8, 26, 0),
    ],
)
def test_real_sets(real_data, tmp_path, folder, pattern, leaks, identical, similar):
    made = classify.prepare(
        real_data / "classification" / folder,
        tmp_path / "data",
        settings=classify.Settings(side=32),
        choice=Options(subject_regex=pattern),
    )
    found = made.prep["findings"]
    assert len(found["leaks"]) == leaks
    assert len(found["identical"]) == identical and len(found["similar"]) == similar
    assert not found["conflicts"] and not made.prep["skipped"]
    DatasetFolder.open(made.output)  # which tests that no subject is in two parts
