"""The frame app: crops, scores of frames, ROC, prediction of raw video."""

import csv
import json
import types

import numpy as np
import pytest

from data_prep import frame as prep
from medxfer.apps import frame
from medxfer.apps._options import PredictOptions
from medxfer.evaluation import roc
from tests.testing.app_test_case import AppTestCase

SMALL = prep.Settings(crops=2)


def brightness(images):
    """A stand-in for a network: the brighter, the more informative."""
    share = images.mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - share, share], axis=1).astype(np.float32)


class TestFrame(AppTestCase):
    name = "frame"
    classes = ("uninformative", "informative")
    phantom = {"videos": 5, "frames": 14, "seed": 1}
    scores = [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], 1.0),
        ([[0.1, 0.9], [0.8, 0.2]], [0, 1], 0.0),
        ([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]], [0, 1, 1], 0.75),
    ]

    def settings(self):
        return SMALL

    def network(self):
        return types.SimpleNamespace(classify=brightness, patch=SMALL.patch)

    @pytest.mark.slow
    def test_the_phantom_of_a_first_try_is_made_once(self, app, raw, tmp_path, monkeypatch):
        super().test_the_phantom_of_a_first_try_is_made_once(app, raw, tmp_path, monkeypatch)

    def test_metrics_are_those_of_the_scores(self, app, methods):
        results = methods["network"]
        found = app.metrics(results)
        assert found["AUC"].estimate == pytest.approx(roc.auc(results.labels, results.scores))

    def test_predict_writes_scores_and_a_timeline(self, app, raw, tmp_path):
        scorer = app.cnn(self.network())
        video = app.raw_inputs(raw)[0]
        settings = {"width": SMALL.width, "height": SMALL.height}
        every = app.predict(video, scorer, settings, "all", tmp_path)
        assert every["frames"] == 14
        found = app.predict(video, scorer, settings, "a", tmp_path, PredictOptions(every_s=1.0))
        assert found["frames"] == 3  # 14 frames at 5 a second
        table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        content = json.loads((tmp_path / "a.json").read_text())
        assert [row["time_s"] for row in table] == ["0.0", "1.0", "2.0"]
        scores = [entry["informative"] for entry in content["scores"]]
        assert found["informative_share"] == np.mean(np.array(scores) >= 0.5)
        assert (tmp_path / "a.png").stat().st_size > 1000
        assert f"of {found['frames']} frames" in app.describe(found)


def test_crops_depend_on_the_seed_alone_and_lie_in_the_frame():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    first, again, other = (frame.crops(image, 48, seed) for seed in (1, 1, 2))
    assert first.shape == (frame.CROPS, 48, 48, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    windows = np.lib.stride_tricks.sliding_window_view(image, (48, 48, 3))[:, :, 0]
    for crop in first:
        assert (windows == crop).all(axis=(2, 3, 4)).any()


def test_a_frame_scores_the_mean_over_its_crops():
    image = np.random.default_rng(3).integers(0, 256, (350, 500, 3), np.uint8)
    network = types.SimpleNamespace(classify=brightness, patch=227)
    found = frame.cnn(network)({"image": image})
    assert found == pytest.approx(image.mean() / 255, abs=0.01)
    assert found == frame.cnn(network)({"image": image})
