"""The polyp app: candidates scored by their patches, FROC, prediction of raw video."""

import csv
import json
import types

import numpy as np
import pytest

from data_prep import command
from data_prep import polyp as prep
from data_prep.candidates import polyp as candidates
from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from medxfer.apps import _detection, polyp
from medxfer.apps._options import PredictOptions
from tests.testing.app_test_case import AppTestCase

SMALL = prep.Settings(
    patch=32, top_k=3, patches_per_candidate=6, scales=(1.0, 1.5), trees=4, samples=2000
)


def redness(images):
    """A stand-in for a network: the redder, the more a polyp."""
    parts = images.reshape(len(images), -1, 3).mean(axis=1)
    share = parts[:, 0] / (parts.sum(axis=1) + 1)
    return np.stack([1 - share, share], axis=1).astype(np.float32)


class TestPolyp(AppTestCase):
    name = "polyp"
    classes = ("other", "polyp")
    phantom = {"videos": 10, "frames": 6, "seed": 1}
    scores = [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], 1.0),
        ([[0.1, 0.9], [0.8, 0.2]], [0, 1], 0.0),
        ([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]], [0, 1, 1], 0.75),
    ]

    def settings(self):
        return SMALL

    def network(self):
        settings = {"test_mirrors": SMALL.test_mirrors}
        return types.SimpleNamespace(classify=redness, patch=SMALL.patch, settings=settings)

    @pytest.mark.slow
    def test_the_phantom_of_a_first_try_is_made_once(self, app, raw, tmp_path, monkeypatch):
        super().test_the_phantom_of_a_first_try_is_made_once(app, raw, tmp_path, monkeypatch)

    def test_candidates_and_truth_agree(self, folder, methods):
        results = methods["handcrafted"]
        facts = folder.truth["test"]
        assert sum(fact["candidates"] for fact in facts.values()) == len(results)
        for case, fact in facts.items():
            hit = {found.lesion for found in results if found.case == case} - {-1}
            assert len(hit) == fact["found"] <= len(fact["lesions"])
            assert hit <= set(range(len(fact["lesions"])))
        marks = results.marks()
        assert marks.images.sum() == sum(fact["images"] for fact in facts.values())
        assert marks.lesion_counts.sum() == sum(len(fact["lesions"]) for fact in facts.values())

    def test_results_are_restored_from_their_rows(self, app, folder, methods):
        rows = app.rows(methods["network"])
        written = [{name: str(value) for name, value in row.items()} for row in rows]
        again = app.restore(written, folder.truth["test"])
        assert app.rows(again) == rows
        assert app.metrics(again) == app.metrics(methods["network"])

    def test_predict_lists_candidates_and_draws_a_sheet(self, app, raw, folder, tmp_path):
        video = app.raw_inputs(raw)[0]
        options = PredictOptions(every_s=0.5, assets=folder.path / "assets")
        scorer = app.cnn(self.network())
        found = app.predict(video, scorer, folder.settings, "a", tmp_path, options)
        assert found["frames"] == 2 + (6 - 1) / 5 // 0.5 - 1
        table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        entries = json.loads((tmp_path / "a.json").read_text())["candidates"]
        assert len(table) == len(entries) == found["candidates"] > 0
        by_frame = {}
        for entry in entries:
            by_frame.setdefault(entry["frame"], []).append(entry["probability"])
        assert all(values == sorted(values)[::-1] for values in by_frame.values())
        assert max(map(len, by_frame.values())) <= SMALL.top_k
        highest = max(entry["probability"] for entry in entries)
        assert found["highest_probability"] == highest
        assert (tmp_path / "a.png").stat().st_size > 1000
        assert f"{found['candidates']} candidates" in app.describe(found)

    def test_a_finished_dataset_is_not_decoded_again(self, raw, folder, monkeypatch):
        monkeypatch.setattr(_colonoscopy, "frames", None)  # calling it would end the test
        assert prep.prepare(raw, folder.path, settings=SMALL).reused

    def test_a_detector_is_not_tested_on_what_it_has_learnt_from(self, raw, folder, tmp_path):
        detector = folder.path / "assets" / "candidates.npz"
        known = len(candidates.load(detector).learnt)
        assert known == len({fact["subject"] for fact in folder.truth["train"].values()}) > 0
        everything = command.Options(tmp_path / "other", key=b"another", test_fraction=1)
        with pytest.raises(UserError, match=f"has learnt from {known} of the"):
            prep.prepare(
                raw, tmp_path / "other", settings=SMALL, detector=detector, options=everything
            )
        assert list(tmp_path.iterdir()) == []

    def test_predict_needs_the_detector(self, app, raw, tmp_path):
        with pytest.raises(UserError, match=r"candidates\.npz"):
            app.predict(app.raw_inputs(raw)[0], None, {}, "a", tmp_path)


def test_views_of_a_unit_and_their_mirrors():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    unit = {"image": stack.reshape(-1, 8, 3), "views": 6}
    np.testing.assert_array_equal(_detection.views(unit), stack)
    asked = []

    def classify(images):
        asked.append(images)
        return redness(images)

    for mirrors, count in ((8, 48), (1, 6)):
        network = types.SimpleNamespace(classify=classify, settings={"test_mirrors": mirrors})
        found = polyp.cnn(network)(unit)
        assert len(asked[-1]) == count
        assert found == pytest.approx(redness(stack)[:, 1].mean(), abs=1e-6)
