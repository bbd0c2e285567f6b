"""The synthetic nodules: reproducible, and not to be told apart by their brightness."""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from data_prep import duplicates
from data_prep.phantoms import classify


def load(folder):
    with (folder / classify.TABLE).open() as file:
        rows = list(csv.DictReader(file))
    return rows, [np.asarray(Image.open(folder / row["path"])) for row in rows]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        classify.generate(tmp_path / name, seed, subjects=3)
    content = {
        name: {
            p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")
        }
        for name in "abc"
    }
    assert content["a"] == content["b"] != content["c"]
    rows, images = load(tmp_path / "a")
    assert {row["label"] for row in rows} == set(classify.CLASSES)
    assert len({row["subject"] for row in rows}) == 3
    assert {image.shape for image in images} <= set(classify.SIZES)


def test_several_nodules_or_none(tmp_path):
    classify.generate(tmp_path, subjects=8, multilabel=True, classes=2)
    labels = {row["label"] for row in load(tmp_path)[0]}
    assert labels <= {"", "lobulated", "smooth", "lobulated|smooth"} and len(labels) > 2


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return load(classify.ensure(tmp_path_factory.mktemp("cache")))


def auc(rows, features) -> float:
    labels = np.array([row["label"] for row in rows])
    groups = [row["subject"] for row in rows]
    scores = cross_val_predict(
        RandomForestClassifier(200, random_state=0),
        np.array(features),
        labels,
        groups=groups,
        cv=GroupKFold(5),
        method="predict_proba",
    )
    return roc_auc_score(labels, scores, multi_class="ovr")


@pytest.mark.slow
def test_brightness_and_size_of_the_image_tell_little(default):
    rows, images = default
    histograms = [np.histogram(i, 16, (0, 256), density=True)[0] for i in images]
    assert auc(rows, [[i.mean(), i.std()] for i in images]) < 0.6
    assert auc(rows, [i.shape for i in images]) < 0.6
    assert auc(rows, histograms) < 0.68


@pytest.mark.slow
def test_texture_tells_much(default):
    from skimage.feature import graycomatrix, graycoprops

    rows, images = default
    features = []
    for image in images:
        height, width = image.shape
        middle = image[height // 4 : -height // 4, width // 4 : -width // 4] // 16
        matrix = graycomatrix(middle, [1, 3, 6, 12], [0, np.pi / 2], 16, True, True)
        names = ("contrast", "homogeneity", "correlation", "energy")
        features.append(np.concatenate([graycoprops(matrix, name).ravel() for name in names]))
    assert auc(rows, features) > 0.7


@pytest.mark.slow
def test_no_image_repeats_another(default):
    rows, images = default
    thumbnails = np.stack([duplicates.thumbnail(np.repeat(i[..., None], 3, 2)) for i in images])
    for pair in duplicates.similar(thumbnails):
        assert rows[pair.first]["subject"] == rows[pair.second]["subject"]
