import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import cimt
from data_prep.errors import UserError
from medxfer import check, check_estimate, check_images, data, groups_table, tuning
from medxfer.config import Config
from medxfer.dataset_folder import DatasetFolder
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
            assert "each, median" in line
            lines = out.splitlines()
            own = lines[lines.index(line) + 1 :][:3]
            assert [text.split(",")[0].strip() for text in own] == [
                "background 20", "lumen-intima 20", "media-adventitia 20"
            ]  # fmt: skip
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
    assert "found." in capsys.readouterr().out


def test_images_that_share_their_black_only_are_no_twins():
    black, grey = np.zeros((40, 40), np.uint8), np.full((40, 40), 90, np.uint8)
    grey[:20] = 0
    seen = {
        "a": check_images.Seen("train", "s", [(0, 0, black)]),
        "b": check_images.Seen("test", "t", [(20, 0, grey)]),
    }
    assert check_images.same_image(seen) == []


def test_pairs_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 90, 90), np.uint8)
    seen = {}
    for number in range(40):
        image = images[rng.integers(6)]
        # Windows of one study, one of which may show what another study shows, too.
        places = rng.integers(0, 50, (2, 2))
        seen[f"case {number:02d}"] = check_images.Seen(
            ("train", "validation", "test")[number % 3],
            f"subject {number % 17}",
            [(y + 3, x - 7, image[y : y + 40, x : x + 33]) for y, x in places.tolist()],
        )
    seen["twin"] = check_images.Seen("test", "other", seen["case 00"].windows[:1])
    mosaics = {case: found.mosaic() for case, found in seen.items()}
    expected = [
        (one, other)
        for one, other in itertools.combinations(seen, 2)
        if seen[one].split != seen[other].split
        and seen[one].subject != seen[other].subject
        and check_images._equal(mosaics[one], mosaics[other])
    ]
    found = check_images.same_image(seen)
    assert ("case 00", "twin") in found and len(found) > 20
    # Windows that share a strip only, narrower than two squares, may have none of them in common.
    narrow = set(expected) - set(found)
    assert set(found) <= set(expected) and len(narrow) <= 0.02 * len(expected)


def test_a_mosaic_shows_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 50), np.uint8)
    truth = {"width": 50, "height": 30}
    mirrored = np.pad(image, 6, mode="reflect")
    seen = check_images.Seen("train", "s")
    for y, x in ((0, 0), (2, 47), (29, 49), (14, 20)):  # patches, centre first
        patch = mirrored[y : y + 13, x : x + 13, None]
        seen.windows.append(check_images.window(patch, False, x, y, 0, truth))
    region = mirrored[6 - 3 : 6 + 20 + 3, 6 + 10 - 3 : 6 + 35 + 3, None]
    seen.windows.append(check_images.window(region, True, 10, 0, 3, truth))
    top, left, mosaic = seen.mosaic()
    assert (top, left, mosaic.shape) == (0, 0, image.shape)
    known = mosaic >= 0
    np.testing.assert_array_equal(mosaic[known], image[known])
    assert known[:7, :7].all() and known[29, 49] and known[:23, 7:38].all()
    assert not known[29, 0]


def test_patches_are_known_again_mirrored_and_turned():
    views = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    views[1] = 7
    stack = views.reshape(24, 8, 3)
    first, third = check_images.views_digests(stack, 3)  # the grey one says nothing
    assert first != third
    for turned in (views[2][::-1], np.rot90(views[2]), views[2].transpose(1, 0, 2)):
        assert check_images.views_digests(np.ascontiguousarray(turned), 1) == [third]
    assert check_images.views_digests(np.zeros((8, 8, 3), np.uint8), 1) == []
    wide = views[0][:4]
    assert check_images.views_digests(wide, 1) != check_images.views_digests(wide[::-1], 1)


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


def test_volumes_are_compared_by_their_pixels_in_a_slice():
    """Not by the distance of slices, which may be close or far apart."""
    spacings = {"a": [1, 0.7, 0.7], "b": [8, 0.6, 0.8], "c": [1, 2.8, 2.8], "d": [1, 0.7, 0.7]}
    truth = {"train": {case: {"spacing_mm": spacings[case]} for case in "ab"}}
    truth["test"] = {case: {"spacing_mm": spacings[case]} for case in "cd"} | {"e": {"width": 3}}
    sizes = {case: {size} for case, size in check._in_plane(truth)}
    assert sizes == {"a": {0.7}, "b": {0.69282}, "c": {2.8}, "d": {0.7}}
    (problem,) = check._calibration_outliers(sizes)
    assert problem.startswith("case c: 2.8 mm per pixel is 4.0 times")


def test_shards_of_other_bytes_are_named_and_ends_the_check(carotid_records, tmp_path, problems):
    folder = shutil.copytree(carotid_records, tmp_path / "records")
    test, train = (next(folder.glob(f"cimt-{split}.tfrecord-*")) for split in ("test", "train"))
    content = list(tf.data.TFRecordDataset(str(test)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(test)) as writer:  # whole records, in another order
        for record in content[::-1]:
            writer.write(record)
    damaged = bytearray(train.read_bytes())
    second = 16 + int.from_bytes(damaged[:8], "little")
    damaged[second + 100] ^= 1
    train.write_bytes(damaged)
    assert not check.check(str(folder), "cimt")
    assert len(problems) == 2
    assert any(f"{test.name} has changed since it was written" in text for text in problems)
    assert any(f"{train.name}: record 1 (from 0) is damaged" in text for text in problems)


def test_what_one_split_holds_is_judged(carotid_records, tmp_path, problems, capsys):
    """Records that prep.json does not fit, and an image that is none."""
    folder = shutil.copytree(carotid_records, tmp_path / "records")
    path = next(folder.glob("cimt-train.tfrecord-*"))
    content = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    content[3] = content[3].replace(b"IHDR", b"IHDX")
    prep = json.loads((folder / "prep.json").read_text())
    train = prep["splits"]["train"]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in content[:-1]:
            writer.write(record.replace(train["subjects"][0].encode(), b"f" * 12))
    train["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "prep.json").write_text(json.dumps(prep))
    assert not check.check(str(folder), "cimt")
    assert [next(word for word in ("record 3", "59 records", "ffffffffffff") if word in text)
            for text in problems] == ["record 3", "59 records", "ffffffffffff"]  # fmt: skip
    assert "1 subjects have no example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kept", "test_fraction", "missing"),
    [
        (("train", "validation"), 0.5, ["test"]),
        (("train",), 0.5, ["validation", "test"]),
        (("test",), 0.5, ["train", "validation"]),
        (("test",), 1.0, []),
        (("train", "validation"), 1.0, ["test"]),
    ],
)
def test_a_missing_split_is_a_problem(
    carotid_records, tmp_path, problems, kept, test_fraction, missing
):
    folder = shutil.copytree(carotid_records, tmp_path / "records")
    prep, truth = (json.loads((folder / f"{name}.json").read_text()) for name in ("prep", "truth"))
    for split in set(prep["splits"]).difference(kept):
        for name in prep["splits"].pop(split)["sha256"]:
            (folder / name).unlink()
        del truth[split]
    prep["settings"]["test_fraction"] = test_fraction
    for name, content in (("prep", prep), ("truth", truth)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    assert check.check(str(folder), "cimt") == (not missing)
    assert [text.split()[3] for text in problems] == missing
    assert all("--test_fraction" in text for text in problems)


def test_pixels_are_described_as_they_are(carotid_records, capsys):
    assert check.check(str(carotid_records), "cimt")
    lines = capsys.readouterr().out.splitlines()
    folder = DatasetFolder.open(carotid_records, app="cimt")
    for split in folder.splits:
        (place,) = (n for n, line in enumerate(lines) if line.startswith(f"  {split}: "))
        pixels = np.concatenate([unit["image"].ravel() for unit in data.units(folder, split)])
        line = next(line for line in lines[place:] if line.startswith("    pixels: "))
        assert f"mean {pixels.mean():.1f}, standard deviation {pixels.std():.1f}" in line
        assert f", {pixels.min()} to {pixels.max()}, {(pixels == 0).mean():.1%} black" in line


def test_beyond_a_bound_a_sample_is_decoded(carotid_records, capsys, monkeypatch):
    monkeypatch.setattr(check, "DECODED", 5000)
    assert check.check(str(carotid_records), "cimt")
    out = capsys.readouterr().out
    decoded = [int(line.split("; of ")[1].split()[0]) for line in out.splitlines()
               if "images drawn at random" in line]  # fmt: skip
    assert decoded and all(1 <= count < 60 for count in decoded)


def test_what_a_run_needs_is_counted():
    group = groups_table.Group
    groups = [
        group("conv1", 1, 1000, (4, 4, 8), 128, 16_000),
        group("fc2", 1, 500, (3,), 3, 500),
    ]
    config = Config(app="cimt", batch_size=10, epochs=4)
    counts, images = {"train": 60, "validation": 20}, [6000, 2000]
    entering = {"conv1": 48, "fc2": 128}

    def needs(tune, **changes):
        changed = dataclasses.replace(config, **changes)
        stages = tuning.stages_for(tune, ["conv1", "fc2"], changed, ["fc2"])
        return check_estimate.needs(groups, entering, stages, counts, images, changed, 1e-3)

    activations = 2 * 4 * 10 * 131
    whole = needs("conv1")
    assert whole.seconds == pytest.approx(1e-3 * 16_500 * 4 * (3 * 60 + 20))
    assert whole.memory == check_estimate.RUNTIME + 8000 + 4 * 4 * 1500 + activations
    assert whole.disk == 0
    last = needs("fc2")  # what conv1 makes is computed once and kept
    assert last.seconds == pytest.approx(1e-3 * (16_000 * 80 + 500 * 4 * (3 * 60 + 20)))
    kept = 80 * 128 * 4
    assert last.memory == check_estimate.RUNTIME + 8000 + kept + 4 * (1500 + 3 * 500) + activations
    assert needs("fc2", cache="disk").disk == kept
    anew = needs("fc2", cache="none")
    assert anew.seconds == pytest.approx(1e-3 * 4 * (16_000 * 80 + 500 * (3 * 60 + 20)))


def test_a_run_is_estimated_on_this_machine(carotid_records, capsys, tiny_network):
    config = Config(app="cimt", model=tiny_network, epochs=7, precision="float32")
    assert check.check(str(carotid_records), "cimt", config)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a run of" in line]
    # The default depth is another network's.
    assert f"--model={tiny_network}, --tune=conv1, on this machine" in line
    assert "0.9 GiB of memory, training at most" in line and "7 epochs" in line
    assert re.search(r"evaluation [\d.]+ s and the classic methods [\d.]+ s$", line)
    assert keras.mixed_precision.dtype_policy().name == "float32"
    with pytest.raises(UserError, match="--tune=fc9 is unknown"):
        check.check(str(carotid_records), "cimt", dataclasses.replace(config, tune="fc9"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (12.3, "12 s"), (100, "1.7 min"), (5000, "83 min"), (7200, "2 h")],
)
def test_durations_are_short(seconds, words):
    assert check_estimate.duration(seconds) == words


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
