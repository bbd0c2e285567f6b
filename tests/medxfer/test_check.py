import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import cimt
from data_prep.errors import UserError
from medxfer import check
from tests.medxfer.conftest import SMALL


@pytest.fixture
def problems(monkeypatch):
    """Texts of the problems that were named."""
    found = []
    monkeypatch.setattr(check.logging, "error", lambda form, *values: found.append(form % values))
    return found


def parts(records: pathlib.Path) -> dict[str, str]:
    """Case -> one split that holds it."""
    truth = json.loads((records / "truth.json").read_text())
    return {case: split for split in truth for case in truth[split]}


def studies(raw: pathlib.Path) -> list[str]:
    return sorted(path.stem for path in (raw / "images").iterdir())


def of_split(records: pathlib.Path, raw: pathlib.Path, split: str) -> str:
    """A study of a split."""
    from data_prep.splits import pseudonym

    where = parts(records)
    names = studies(raw)
    return next(n for n in names if where[pseudonym(n, cimt.PUBLIC_KEY)].startswith(split))


def test_a_good_set_passes_and_is_counted(carotid_records, capsys, problems):
    before = {path: path.read_bytes() for path in carotid_records.iterdir()}
    assert check.check(str(carotid_records), "cimt")
    assert problems == []
    out = capsys.readouterr().out
    assert out.endswith("Nothing wrong was found.\n")
    prep = json.loads((carotid_records / "prep.json").read_text())
    assert prep["fingerprint"][:12] in out
    for split, content in prep["splits"].items():
        line = next(line for line in out.splitlines() if line.startswith(f"  {split}: "))
        assert f"{content['examples']} examples of {len(content['subjects'])} subjects" in line
        if split == "train":
            assert "background 20, lumen-intima 20, media-adventitia 20" in line
    assert {path: path.read_bytes() for path in carotid_records.iterdir()} == before


@pytest.mark.parametrize("pair", [("train", "test"), ("train", "validation"), ("test", "valid")])
def test_one_image_of_two_subjects_in_two_splits_is_found(
    carotid_raw, carotid_records, tmp_path, capsys, problems, pair
):
    first, second = (of_split(carotid_records, carotid_raw, split) for split in pair)
    raw = shutil.copytree(carotid_raw, tmp_path / "raw")
    for kind, end in (("images", "png"), ("boundaries", "csv")):
        shutil.copy(raw / kind / f"{first}.{end}", raw / kind / f"{second}.{end}")
    records = cimt.prepare(raw, tmp_path / "records", settings=SMALL).output
    assert not check.check(str(records), "cimt")
    (problem,) = [text for text in problems if "show the same image" in text]
    named = {case for case in parts(records) if case in problem}
    assert len(named) == 2
    assert capsys.readouterr().out.endswith("problems were found.\n")


def test_images_that_share_their_black_only_are_no_twins():
    black, grey = np.zeros((40, 40), np.uint8), np.full((40, 40), 90, np.uint8)
    grey[:20] = 0
    seen = {
        "a": check._Seen("train", "s", [(0, 0, black)]),
        "b": check._Seen("test", "t", [(20, 0, grey)]),
    }
    assert check._one_image_twice(seen) == []


def test_a_mosaic_shows_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 50), np.uint8)
    truth = {"width": 50, "height": 30}
    mirrored = np.pad(image, 6, mode="reflect")
    seen = check._Seen("train", "s")
    for y, x in ((0, 0), (2, 47), (29, 49), (14, 20)):  # patches, centre first
        patch = mirrored[y : y + 13, x : x + 13, None]
        example = {"image": patch, "label": 1, "x": x, "y": y, "margin": 0}
        seen.windows.append(check._window(example, truth))
    region = mirrored[6 - 3 : 6 + 20 + 3, 6 + 10 - 3 : 6 + 35 + 3, None]
    example = {"image": region, "label": -1, "x": 10, "y": 0, "margin": 3}
    seen.windows.append(check._window(example, truth))
    top, left, mosaic = seen.mosaic()
    assert (top, left, mosaic.shape) == (0, 0, image.shape)
    known = mosaic >= 0
    np.testing.assert_array_equal(mosaic[known], image[known])
    assert known[:7, :7].all() and known[29, 49] and known[:23, 7:38].all()
    assert not known[29, 0]


def test_an_unusual_calibration_is_named(carotid_raw, tmp_path, problems):
    raw = shutil.copytree(carotid_raw, tmp_path / "raw")
    table = (raw / "studies.csv").read_text().splitlines()
    head, *rows = (line.split(",") for line in table)
    place = head.index("mm_per_pixel")
    rows[0][place] = f"{float(rows[0][place]) / 3.5:.6f}"
    (raw / "studies.csv").write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    records = cimt.prepare(raw, tmp_path / "records", settings=SMALL).output
    assert not check.check(str(records), "cimt")
    (problem,) = problems
    assert "times the median of the set" in problem


def test_two_pixel_sizes_of_one_case_are_named():
    assert check._calibration_outliers({"a": {0.06}, "b": {0.06, 0.07}}) == [
        "case b has 2 pixel sizes"
    ]
    assert check._calibration_outliers({}) == []


def test_a_shard_of_other_bytes_is_the_users_error(carotid_records, tmp_path):
    folder = shutil.copytree(carotid_records, tmp_path / "records")
    (shard,) = folder.glob("cimt-test.tfrecord-*")
    content = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(shard)) as writer:  # whole records, in another order
        for record in content[::-1]:
            writer.write(record)
    with pytest.raises(UserError, match="has changed since it was written"):
        check.check(str(folder), "cimt")


def test_a_study_prepared_of_one_grey_value_is_noted(carotid_raw, tmp_path, capsys, problems):
    raw = shutil.copytree(carotid_raw, tmp_path / "raw")
    for name in studies(raw)[:2]:
        Image.new("L", (400, 300), 7).save(raw / "images" / f"{name}.png")
    records = cimt.prepare(raw, tmp_path / "records", settings=SMALL).output
    assert check.check(str(records), "cimt")  # grey resembles grey: nobody's image leaks
    assert "images have one grey value only" in capsys.readouterr().out


def test_an_unknown_app_and_an_absent_folder_are_the_users_errors(tmp_path):
    with pytest.raises(UserError, match="No app is called"):
        check.check(str(tmp_path), "cmit")
    with pytest.raises(UserError, match="does not exist"):
        check.check(str(tmp_path / "absent"), "cimt")
