"""Frames of colonoscopy videos to records."""

import numpy as np
import pytest

from data_prep import command, frame
from data_prep.errors import UserError
from data_prep.phantoms import frame as phantom
from medxfer import data
from medxfer.dataset_folder import DatasetFolder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "raw"
    phantom.generate(folder, videos=4, frames=12, seed=3)
    return folder


@pytest.fixture(scope="module")
def folder(raw):
    made = frame.prepare(raw, raw.with_name("data"), settings=frame.Settings(crops=3))
    return DatasetFolder.open(made.output, app="frame")


def test_fill_keeps_proportions_and_drops_the_margins():
    image = np.zeros((300, 500, 3), np.uint8)
    rows, columns = np.mgrid[:200, :400]
    image[50:250, 50:450] = np.stack([60 + rows // 2, 60 + columns // 4, 0 * rows + 90], axis=-1)
    found = frame.fill(image, 100, 70)
    assert found.shape == (70, 100, 3)
    assert found.min() > 30  # no margin is left
    # 200 rows become 70, so 286 of 400 columns are seen: the gradients keep their ratio.
    down = np.polyfit(np.arange(70), found[:, 50, 0].astype(float), 1)[0]
    across = np.polyfit(np.arange(100), found[35, :, 1].astype(float), 1)[0]
    assert down / across == pytest.approx(2, rel=0.05)


def test_frames_and_crops_agree(folder):
    side = folder.settings["patch"]
    frames = {u["unit"]: u["image"] for u in data.units(folder, "train_unit")}
    seen = set()
    for unit in data.units(folder, "train"):
        whole = frames[unit["unit"]]
        assert whole.shape == (350, 500, 3)
        assert unit["image"].shape == (side, side, 3)
        corner = unit["image"][:2, :2]
        windows = np.lib.stride_tricks.sliding_window_view(whole, (2, 2, 3))[:, :, 0]
        places = np.argwhere((windows == corner).all(axis=(2, 3, 4)))
        crops = (whole[y : y + side, x : x + side] for y, x in places)
        assert any(np.array_equal(crop, unit["image"]) for crop in crops)
        seen.add(unit["unit"])
    assert seen <= set(frames)


def test_truth_counts_the_labelled_frames(folder):
    for split in ("train_unit", "validation_unit", "test"):
        labels: dict[str, list[int]] = {}
        for unit in data.units(folder, split):
            labels.setdefault(unit["case"], []).append(int(unit["label"]))
        for case, fact in folder.truth[split].items():
            assert fact["images"] == len(labels[case])
            assert fact["informative"] == sum(labels[case])


def test_training_classes_have_equal_shares(folder):
    for split in ("train", "validation"):
        counts = np.bincount([int(unit["label"]) for unit in data.units(folder, split)])
        assert counts[0] == counts[1] > 0


def test_workers_do_not_change_the_bytes(raw, folder, tmp_path):
    options = command.Options(tmp_path / "two", key=frame.PUBLIC_KEY, workers=2)
    made = frame.prepare(raw, tmp_path / "two", settings=frame.Settings(crops=3), options=options)
    assert {f.name: f.read_bytes() for f in made.output.glob("*.tfrecord*")} == {
        f.name: f.read_bytes() for f in folder.path.glob("*.tfrecord*")
    }


def test_a_crop_must_fit():
    with pytest.raises(UserError, match="--patch"):
        frame.Settings(patch=400)


def test_videos_without_labels_are_named(raw, tmp_path):
    for video in raw.glob("*.mp4"):
        (tmp_path / video.name).write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="labelled informative"):
        frame.prepare(tmp_path, tmp_path / "out")
