import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.errors import UserError
from medxfer import experiment, predict, runs
from medxfer.apps import cimt as app
from medxfer.config import Config
from tests.medxfer.conftest import SMALL

MM = 0.06
ANY = {"channels": 1, "low": [-1e9] * 5, "high": [1e9] * 5}  # no image lies outside
PERSON = "Mueller_Anna_19570214"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the tiny network, which has not learnt anything."""
    from tests.testing import networks

    with networks.installed():
        run = runs.RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
        config = Config(app="cimt", model=networks.NAME, tune="scratch", precision="float32")
        run.begin(config)
        model = experiment.build(config, len(app.CLASSES)).model
        run.weights.parent.mkdir()
        model.save_weights(run.weights)
        settings = {**vars(SMALL), "margin": SMALL.margin, "rois_per_image": 2}
        run.write_json(
            "run_card.json",
            {
                "data": {"app_settings": settings, "pixels": ANY},
                "trained_weights_sha256": runs.sha256(run.weights),
            },
        )
        yield run


@pytest.fixture
def image(carotid_raw, tmp_path):
    """A raw image whose name is a person's."""
    path = tmp_path / "input" / f"{PERSON}.png"
    path.parent.mkdir()
    shutil.copy(sorted((carotid_raw / "images").iterdir())[0], path)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(path):
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_an_image_becomes_a_table_a_picture_and_json(run, image, tmp_path, capsys):
    output = tmp_path / "deep" / "results"
    (found,) = predict.predict(run, image, output, mm_per_pixel=MM)
    name = found["name"]
    assert re.fullmatch("[0-9a-f]{12}", name)
    assert sorted(contents(output)) == sorted(
        [f"{name}.csv", f"{name}.png", "predictions.csv", "predictions.json"]
    )
    table = rows(output / f"{name}.csv")
    assert found["columns"] == len(table) == 80  # two regions of 40 columns
    thickness = [row["thickness_mm"] for row in table]
    np.testing.assert_allclose(found["thickness_mm"], np.mean(thickness), rtol=1e-12)
    assert found["thickness_max_mm"] == max(thickness)  # nothing is rounded
    for row in table:
        apart = row["media_adventitia_y"] - row["lumen_intima_y"]
        np.testing.assert_allclose(apart * MM, row["thickness_mm"], rtol=1e-9)
        (x, y, width, height), *_ = [r for r in found["regions"] if r[0] <= row["x"] < r[0] + r[2]]
        assert y <= row["lumen_intima_y"] <= row["media_adventitia_y"] <= y + height - 1
    written = json.loads((output / "predictions.json").read_text())
    assert written["images"] == [found]
    assert written["left_out"] == 0
    assert written["weights_sha256"] == run.card["trained_weights_sha256"]
    with Image.open(output / f"{name}.png") as picture:
        assert picture.size[0] == 3 * (80 + 40) and picture.size[1] < 3 * 300
        assert set(picture.info) <= {"dpi"}
    assert str(output) in capsys.readouterr().out


def test_no_name_and_no_path_is_in_the_results(run, image, tmp_path):
    shutil.copy(image, image.with_name("Schmidt_Karl.png"))
    output = tmp_path / "results"
    predict.predict(run, image.parent, output, mm_per_pixel=MM)
    files = contents(output)
    assert len(files) == 6
    for name, content in files.items():
        for secret in (PERSON, "Mueller", "Schmidt", "Karl", str(tmp_path), "input"):
            assert secret not in name
            assert secret.encode() not in content, name


def test_a_pseudonym_is_that_of_the_image_wherever_it_lies(run, image, tmp_path):
    (first,) = predict.predict(run, image, tmp_path / "a", mm_per_pixel=MM)
    moved = image.rename(image.with_name("other.png"))
    (second,) = predict.predict(run, moved, tmp_path / "b", mm_per_pixel=MM)
    assert first == second
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_keep_names_keeps_them(run, image, tmp_path):
    shutil.copy(image, image.with_name("second.png"))
    found = predict.predict(
        run, image.parent, tmp_path / "results", mm_per_pixel=MM, keep_names=True
    )
    assert [result["name"] for result in found] == [f"0000-{PERSON}", "0001-second"]
    assert "0001-second.csv" in contents(tmp_path / "results")
    with (tmp_path / "results" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == [f"{PERSON}.png", "second.png"]
    for row, result in zip(table, found, strict=True):
        for key in ("name", "path"):
            assert row[key] == result[key]
        for key in ("mm_per_pixel", "columns", "thickness_mm", "thickness_max_mm"):
            assert float(row[key]) == result[key]
        assert not any(" " in key for key in row)


def test_a_link_table_names_the_originals_and_what_was_left_out(run, image, tmp_path):
    deep = image.parent / "ward 7"
    deep.mkdir()
    shutil.copy(image, deep / "second.png")
    (deep / "broken.png").write_bytes(b"nothing")
    link, output = tmp_path / "link.csv", tmp_path / "results"
    found = predict.predict(run, image.parent, output, mm_per_pixel=MM, link_table=link)
    with link.open(newline="") as file:
        table = {row["original"]: row for row in csv.DictReader(file)}
    names = {result["name"]: "" for result in found}
    assert list(table) == sorted(map(str, [image, deep / "broken.png", deep / "second.png"]))
    assert {row["name"]: row["left_out"] for row in table.values() if row["name"]} == names
    assert "unreadable" in table[str(deep / "broken.png")]["left_out"]
    assert link.stat().st_mode & 0o077 == 0
    for content in contents(output).values():
        assert PERSON.encode() not in content and b"path" not in content
    shutil.rmtree(output)
    for path, message in (
        (output / "link.csv", "lies in the output folder"),
        (tmp_path / "a" / ".." / "results" / "x" / "link.csv", "lies in the output folder"),
        (tmp_path / "absent" / "link.csv", "its folder does not exist"),
    ):
        refused(run, image, output, message, mm_per_pixel=MM, link_table=path)


def test_a_region_may_be_given(run, image, tmp_path):
    roi = ["30", "140", "25", "50"]
    (found,) = predict.predict(run, image, tmp_path / "results", mm_per_pixel=MM, roi=roi)
    assert found["regions"] == [[30, 140, 25, 50]]
    table = rows(tmp_path / "results" / f"{found['name']}.csv")
    assert [row["x"] for row in table] == list(range(30, 55))


def test_the_calibration_beside_an_image_is_used_unless_one_is_given(run, image, tmp_path):
    factor = image.parent.parent / "CF" / f"{PERSON}_CF.txt"
    factor.parent.mkdir()
    factor.write_text("0,06\n")
    (found,) = predict.predict(run, image, tmp_path / "a")
    assert found["mm_per_pixel"] == 0.06
    (given,) = predict.predict(run, image, tmp_path / "b", mm_per_pixel=0.05)
    assert given["mm_per_pixel"] == given["mm_per_pixel_x"] == 0.05
    (given,) = predict.predict(run, image, tmp_path / "c", mm_per_pixel=["0.05", "0.08"])
    assert (given["mm_per_pixel"], given["mm_per_pixel_x"]) == (0.05, 0.08)
    table = rows(tmp_path / "c" / f"{given['name']}.csv")
    found = [row["polyline_thickness_mm"] for row in table]
    np.testing.assert_allclose(given["polyline_thickness_mm"], np.mean(found), rtol=1e-12)
    assert 0 < np.mean(found) <= given["thickness_mm"]


def refused(run, source, output, message, **options):
    before = sorted(output.parent.parent.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        predict.predict(run, source, output, **options)
    assert sorted(output.parent.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["", "0", "-0.06", "nan", "inf", "much"])
def test_without_a_usable_calibration_nothing_is_written(run, image, tmp_path, size):
    if size:
        factor = image.parent.parent / "CF" / f"{PERSON}_CF.txt"
        factor.parent.mkdir()
        factor.write_text(size)
    refused(run, image, tmp_path / "new" / "results", "mm_per_pixel|size of a pixel|unreadable")


@pytest.mark.parametrize(
    "size", [0.0, -1.0, float("nan"), float("inf"), ["0.05", "0"], ["x"], ["0.1"] * 3, []]
)
def test_a_pixel_size_that_is_none_is_refused(run, image, tmp_path, size):
    refused(run, image, tmp_path / "new" / "results", "--mm_per_pixel must", mm_per_pixel=size)


@pytest.mark.parametrize("size", [1e-6, 60.0])
def test_a_pixel_size_in_another_unit_is_refused(run, image, tmp_path, size):
    refused(run, image, tmp_path / "new" / "results", "is not between", mm_per_pixel=size)


@pytest.mark.parametrize("picture", ["black", "noise", "tiny"])
def test_an_image_without_a_wall(run, image, tmp_path, picture):
    pixels = {
        "black": np.zeros((300, 400)),
        "noise": None,
        "tiny": np.full((5, 7), 100),
    }[picture]
    if pixels is None:
        image.write_bytes(b"\x89PNG no image")
    else:
        Image.fromarray(pixels.astype(np.uint8)).save(image)
    message = "unreadable" if pixels is None else "no far wall was found"
    refused(run, image, tmp_path / "new" / "results", message, mm_per_pixel=MM)


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (["1", "2", "3"], "--roi must be x,y,width,height"),
        (["a", "2", "30", "40"], "--roi must be x,y,width,height"),
        (["-1", "2", "30", "40"], "--roi must lie in the image"),
        (["1", "2", "30", "4"], "8 pixels or more"),
        (["380", "2", "30", "40"], "beyond the image of 400 x 300"),
        (["0", "270", "30", "40"], "beyond the image of 400 x 300"),
    ],
)
def test_a_region_that_cannot_be(run, image, tmp_path, roi, message):
    refused(run, image, tmp_path / "new" / "results", message, mm_per_pixel=MM, roi=roi)


def test_a_region_too_low_for_a_wall(run, image, tmp_path):
    roi = ["30", "140", "25", "8"]
    refused(run, image, tmp_path / "new" / "results", "no wall fits", mm_per_pixel=0.01, roi=roi)


def test_absent_and_empty_inputs_and_used_outputs(run, image, tmp_path):
    output = tmp_path / "results"
    refused(run, tmp_path / "absent", output, "does not exist", mm_per_pixel=MM)
    (tmp_path / "empty").mkdir()
    refused(run, tmp_path / "empty", output, "holds no image", mm_per_pixel=MM)
    output.mkdir()
    (output / "thesis.tex").write_text("precious")
    refused(run, image, output, "is not empty", mm_per_pixel=MM)
    assert contents(output) == {"thesis.tex": b"precious"}


def test_an_empty_output_folder_is_used(run, image, tmp_path):
    (tmp_path / "results").mkdir()
    predict.predict(run, image, tmp_path / "results", mm_per_pixel=MM)
    assert len(contents(tmp_path / "results")) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "results"]


def test_a_bad_image_among_good_ones_is_counted(run, image, tmp_path, monkeypatch):
    image.with_name("broken_Schmidt.png").write_bytes(b"nothing")
    warned = []
    monkeypatch.setattr(predict.logging, "warning", lambda form, *v: warned.append(form % v))
    found = predict.predict(run, image.parent, tmp_path / "results", mm_per_pixel=MM)
    assert len(found) == 1
    assert warned == ["broken_Schmidt.png left out: the image file is unreadable."]
    written = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert written["left_out"] == 1
    assert "Schmidt" not in json.dumps(written)


def warnings_of(run, source, output, monkeypatch):
    said = []
    monkeypatch.setattr(predict.logging, "warning", lambda form, *v: said.append(form % v))
    roi = ["90", "140", "60", "90"]
    return predict.predict(run, source, output, mm_per_pixel=MM, roi=roi), said


def test_images_unlike_those_of_the_training_are_named(run, image, tmp_path, monkeypatch):
    other = runs.RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    card = other.card
    del card["data"]["pixels"]
    other.write_json("run_card.json", card)
    (found,), (said,) = warnings_of(other, image, tmp_path / "a", monkeypatch)
    assert "outside_training" not in found and "of an earlier version" in said
    card["data"]["pixels"] = ANY | {"low": [0, 0, 0, 0, 0], "high": [240, 255, 255, 255, 255]}
    other.write_json("run_card.json", card)
    (found,), said = warnings_of(other, image, tmp_path / "b", monkeypatch)
    assert found["outside_training"] == "" and said == []
    seen = np.asarray(Image.open(image))
    Image.fromarray((seen // 32 + 245).astype(np.uint8)).save(image.with_name("pale.png"))
    found, (said,) = warnings_of(other, image.parent, tmp_path / "c", monkeypatch)
    assert [bool(result["outside_training"]) for result in found] == [False, True]
    assert said.startswith("1 of 2 images do not look like") and "pale.png (level" in said
    with (tmp_path / "c" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["outside_training"] for row in table] == [r["outside_training"] for r in found]


def test_damaged_weights_are_the_users_error(run, image, tmp_path):
    other = runs.RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    other.weights.write_bytes(b"no HDF5")
    refused(
        other, image, tmp_path / "new" / "results", "does not hold the weights", mm_per_pixel=MM
    )
    other.weights.unlink()
    refused(other, image, tmp_path / "new" / "results", "no trained weights", mm_per_pixel=MM)


def test_describe():
    found = {
        "thickness_mm": 0.61234, "thickness_max_mm": 0.8, "columns": 100, "mm_per_pixel": MM,
        "mm_per_pixel_x": 0.05, "polyline_thickness_mm": 0.6,
    }  # fmt: skip
    assert app.describe(found) == (
        "thickness 0.612 mm vertical, at most 0.800 mm, 0.600 mm by polyline distance, "
        "over 5.0 mm of wall"
    )
