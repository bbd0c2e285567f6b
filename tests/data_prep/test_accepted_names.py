"""Whoever calls folders otherwise is told what they may be called."""

import re

import cv2
import numpy as np
import pytest

from data_prep import classify, frame, pe, polyp
from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _lesions, _names, frame_folder, image_mask


def write(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(root / name), cv2.resize(small, (64, 64)))


def accepted(pattern: str, message: str) -> list[str]:
    """Names of folders in a message that a pattern finds."""
    return re.findall(pattern, message)


@pytest.mark.parametrize(
    "names", [("qualified", "unqualified"), ("good", "bad"), ("clear", "0_no")]
)
def test_other_names_of_frame_classes(tmp_path, names):
    write(tmp_path, *(f"{name}/{n}.png" for name in names for n in range(3)))
    with pytest.raises(UserError) as caught:
        frame.prepare(tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert all(name in message for name in names)
    assert "frame_quality_labels.csv" in message
    found = accepted(r"([A-Za-z_0-9]+)/", message)
    # Every name in the message is one that is taken, and every one that is taken is in it.
    known = {**frame_folder.CLASSES, **frame_folder.PREPARATION}
    assert {frame_folder._word(name) for name in found} - {"0", "3"} == known.keys()


def test_one_class_by_name_and_another_without(tmp_path, caplog):
    write(tmp_path, "set/informative/1.png", "set/poor/2.png", "set/poor/3.png")
    with pytest.raises(UserError, match=r"called by no class \(set/poor\).*uninformative/"):
        _colonoscopy.find(tmp_path)
    write(tmp_path, "set/uninformative/4.png")
    assert len(_colonoscopy.find(tmp_path)) == 2
    assert "set/poor" in caplog.text and "are left out" in caplog.text


@pytest.mark.parametrize("names", [("photos", "annotations"), ("frames", "polyps"), ("a", "b")])
def test_other_names_of_masks(tmp_path, names):
    write(tmp_path, *(f"{name}/{n}.png" for name in names for n in range(2)))
    with pytest.raises(UserError) as caught:
        polyp.prepare(tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert all(name in message for name in names)
    assert image_mask.LAYOUT in message and "CASE_masks/" in message


def test_masks_by_the_names_that_are_told(tmp_path):
    told = [("image", "gt"), ("imgs", "mask"), ("img", "Ground Truth"), ("images_C1", "masks_C1")]
    for place, (images, masks) in enumerate([*told, ("Original", "masks")]):
        assert f"{images}/" in image_mask.LAYOUT and f"{masks}/" in image_mask.LAYOUT
        root = tmp_path / str(place)
        write(root, f"{images}/1.png", f"{masks}/1.png")
        (source,) = _colonoscopy.find(root)
        assert source.items[0].mask is not None


def test_other_names_of_splits(tmp_path):
    write(tmp_path, "train/a/1.png", "train/b/2.png", "holdout/a/3.png", "holdout/b/4.png")
    with pytest.raises(UserError, match="holdout.*are called train, training, val, valid"):
        classify.prepare(tmp_path, tmp_path / "out")
    words = _names.SPLITS.replace(" or ", ", ").split(", ")
    assert {_names.split_of(word) for word in words} == {"train", "validation", "test"}
    assert all(_names.split_of(word) for word in words)


def test_names_of_reference_standards_are_those_that_are_taken():
    words = pe.NO_STANDARD.partition("add ")[2]
    endings = accepted(r"_(\w+)", words)
    assert set(endings) > {"label", "mask", "seg"}
    for ending in endings:
        pattern = _lesions.POINTS_ENDING if ending == "points" else _lesions.ENDING
        assert pattern.match(f"scan_{ending}")
    folders = re.split(r", | or ", words.partition("a folder ")[2])
    assert {"labels", "rs", "points"} < set(folders)
    assert all(name == "points" or _lesions.FOLDER.match(name) for name in folders)
