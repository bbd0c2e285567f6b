import csv

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from data_prep.phantoms import frame as phantom
from data_prep.phantoms._colonoscopy import HEIGHT, WIDTH
from medxfer.evaluation import roc
from medxfer.handcrafted import frame as handcrafted
from tests.data_prep.phantoms import colonoscopy as shared

VIDEOS, FRAMES = 5, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frame-phantom")
    phantom.generate(folder, seed=1, videos=VIDEOS, frames=FRAMES)
    return folder


def read(folder):
    """Labelled frames (N, H, W, 3), labels int (N,) and videos (N,)."""
    with (folder / phantom.LABELS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    videos = {name: shared.decode(folder / name)[0] for name in {row["video"] for row in rows}}
    images = np.array([videos[row["video"]][int(row["frame_index"])] for row in rows])
    labels = np.array([row["label"] == "informative" for row in rows], int)
    assert {row["label"] for row in rows} == {"informative", "uninformative"}
    return images, labels, np.array([row["video"] for row in rows])


@pytest.fixture(scope="module")
def labelled(folder):
    return read(folder)


def test_layout(folder, labelled):
    images, labels, videos = labelled
    assert sorted(path.name for path in folder.iterdir()) == [
        phantom.LABELS,
        *(f"video_{number:02d}.mp4" for number in range(VIDEOS)),
    ]
    assert images.shape[1:] == (HEIGHT, WIDTH, 3)
    assert 0.6 * VIDEOS * FRAMES < len(labels) < VIDEOS * FRAMES
    for video in np.unique(videos):
        assert 0.2 < labels[videos == video].mean() < 0.8


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        phantom.generate(tmp_path / name, seed=seed, videos=1, frames=8)
    first = shared.digests(tmp_path / "first")
    assert shared.digests(tmp_path / "again") == first
    assert shared.digests(tmp_path / "other") != first


def test_labels_follow_the_strength():
    assert phantom.label(0.0) == phantom.label(0.3) == "informative"
    assert phantom.label(0.5) is None
    assert phantom.label(0.8) == phantom.label(1.0) == "uninformative"


def test_events_do_not_overlap_and_every_kind_comes():
    kinds = set()
    for seed in range(20):
        end = 0
        for event in phantom.draw_events(60, np.random.default_rng(seed)):
            assert event.start >= end
            end = event.start + len(event.strengths)
            kinds.add(event.kind)
            levels = np.array(event.strengths)
            assert (levels <= 0.3).all() or (levels[1:-1] >= 0.8).all()
        assert end <= 60
    assert kinds == set(phantom.KINDS)


def test_sharpness_alone_does_not_tell(labelled):
    images, labels, _ = labelled
    sharpness = [handcrafted.laplacian_variance(image) for image in images]
    assert 0.4 < roc.auc(labels, sharpness) < 0.8


def colour_scores(images, labels, videos, statistics):
    def fit(features, labels):
        forest = RandomForestClassifier(100, random_state=0).fit(features, labels)
        return lambda known: forest.predict_proba(known)[:, 1]

    colour = np.concatenate([statistic(images, axis=(1, 2)) for statistic in statistics], axis=1)
    return shared.out_of_video(colour, labels, videos, fit)


def test_mean_colour_alone_does_not_tell(labelled):
    scores = colour_scores(*labelled, [np.mean])
    assert roc.auc(labelled[1], scores) < 0.85


@pytest.mark.slow
def test_default_size_is_learnt_by_the_handcrafted_method_alone(tmp_path):
    """Better than chance in unseen videos, and than sharpness or colour; not solved."""
    images, labels, videos = read(phantom.ensure(tmp_path))
    known = handcrafted.features(images)
    scores = shared.out_of_video(known, labels, videos, lambda f, y: handcrafted.fit(f, y).score)
    sharpness = [handcrafted.laplacian_variance(image) for image in images]
    found, plain = roc.auc(labels, scores), roc.auc(labels, sharpness)
    assert 0.7 < found < 0.95 and 0.4 < plain < found - 0.1
    colour = colour_scores(images, labels, videos, [np.mean, np.std])
    assert 0.4 < roc.auc(labels, colour) < 0.8


def test_ensure_is_whole_or_absent(tmp_path, monkeypatch):
    shared.check_ensure(phantom, monkeypatch, tmp_path, "frame")
