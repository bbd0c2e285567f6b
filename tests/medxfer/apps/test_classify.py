"""The classify app: any classes, one or several an image; prediction of raw images."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from data_prep import classify as prep
from data_prep.phantoms import classify as phantom
from medxfer import data
from medxfer.apps import classify
from medxfer.dataset_folder import DatasetFolder
from medxfer.evaluation import classification
from medxfer.report import measure_name
from medxfer.studies import measures
from tests.testing.app_test_case import HISTORY, AppTestCase

SMALL = prep.Settings(side=48)
NAMES = ("lobulated", "smooth", "spiculated")


def levels(images, scale=20.0):
    """A stand-in for a network: logits from the spread of the grey values of three thirds."""
    parts = np.array_split(images.astype(np.float64), 3, axis=1)
    logits = np.stack([part.std(axis=(1, 2, 3)) for part in parts], axis=1) / scale
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def each_by_itself(images):
    """A stand-in for a network of several labels an image."""
    return levels(images) ** 0.7


class TestClassify(AppTestCase):
    name = "classify"
    classes = NAMES
    phantom = {"subjects": 30, "seed": 2}
    scores = [
        ([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]], [0, 1, 2], 1.0),
        ([[0.9, 0.1], [0.2, 0.8]], [1, 0], 0.0),
        # Areas 3/4, 1 and 1: no third class, so none of it.
        ([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0]], [0, 0, 1, 1], 0.875),
    ]

    def settings(self):
        return SMALL

    def network(self):
        return types.SimpleNamespace(classify=levels)

    @pytest.mark.slow
    def test_the_phantom_of_a_first_try_is_made_once(self, app, raw, tmp_path, monkeypatch):
        super().test_the_phantom_of_a_first_try_is_made_once(app, raw, tmp_path, monkeypatch)

    def test_metrics_are_those_of_the_probabilities(self, app, folder, methods):
        units = list(data.units(folder, "test"))
        p = levels(np.stack([unit["image"] for unit in units]))
        labels = np.array([unit["label"] for unit in units])
        found = app.metrics(methods["network"])
        assert found["AUC"].estimate == pytest.approx(classification.macro_auc(labels, p))
        assert found["accuracy"].estimate == pytest.approx(np.mean(p.argmax(1) == labels))
        assert set(found) == set(classification.merits(NAMES))

    @pytest.mark.parametrize("size", [1, 5])
    def test_batches_make_no_difference(self, app, folder, methods, monkeypatch, size):
        monkeypatch.setattr(classify, "BATCH", size)
        assert folder.count("test") > 2 * size
        found = app.score(folder, "test", levels)
        assert app.rows(found) == app.rows(methods["network"])
        assert found.pictures.keys() == methods["network"].pictures.keys()

    def test_rows_come_back(self, app, folder, methods):
        for results in methods.values():
            rows = [{k: str(v) for k, v in row.items()} for row in app.rows(results)]
            again = app.restore(rows, folder.truth["test"])
            assert (again.classes, again.multilabel) == (NAMES, False)
            assert app.metrics(again) == app.metrics(results)
            assert {row["label"] for row in rows} == set(NAMES)

    def test_unknown_subjects_are_a_caution(self, app, folder):
        scorer = app.cnn(self.network())
        assert not app.score(folder, "test", scorer).caution
        unknown = dataclasses.replace(folder, findings={"known_by": {"nothing": 7, "table": 2}})
        found = app.metrics(app.score(unknown, "test", scorer))
        for interval in found.values():
            assert "of 7 images the subject is not known" in interval.caution

    def test_a_study_measures_the_same(self, app, methods):
        found = measures.of(app, {name: [results] for name, results in methods.items()})
        assert found.primary == "AUC" and found.higher_is_better
        for name, results in methods.items():
            whole = found.statistics[name][0](np.ones((1, found.clusters), np.intp))[0]
            metrics = app.metrics(results)
            for merit, value in zip(found.merits, whole, strict=True):
                assert value == pytest.approx(metrics[merit].estimate), merit

    def test_mistakes_are_sure_and_wrong(self, app, methods):
        results = methods["network"]
        found = app.mistakes(list(results), False)
        assert 0 < len(found) <= app.SHOWN
        surest = [image.probabilities.max() for image in found]
        assert surest == sorted(surest, reverse=True)
        wrong = [im for im in results if im.probabilities.argmax() != im.truth.argmax()]
        assert surest[0] == max(image.probabilities.max() for image in wrong)
        assert {image.unit for image in found} == set(results.pictures)

    def test_the_counterpart_learns_from_some_subjects_only(self, app, folder, methods):
        subject = folder.subjects("train")[0]
        assert app.counterparts(folder, [subject]) == {}  # one nodule, one class
        few = app.counterparts(folder, folder.subjects("train")[:8])["handcrafted"]
        images = np.stack([unit["image"] for unit in data.units(folder, "test")])
        p = few(images)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert np.abs(p - methods["handcrafted"].probabilities).max() > 0.01


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Records of images that show several classes, or none."""
    raw = tmp_path_factory.mktemp("several") / "raw"
    phantom.generate(raw, subjects=24, seed=3, multilabel=True)
    made = prep.prepare(raw, raw.with_name("records"), settings=SMALL)
    return DatasetFolder.open(made.output, app="classify")


@pytest.fixture(scope="module")
def results(several):
    scorers = {"network": each_by_itself, **classify.counterparts(several)}
    return {name: classify.score(several, "test", scorer) for name, scorer in scorers.items()}


class TestSeveralLabels:
    def test_labels_are_those_of_the_records(self, several, results):
        truth = [unit["labels"] for unit in data.units(several, "test")]
        np.testing.assert_array_equal(results["network"].labels, truth)
        assert several.multilabel and np.sum(truth, axis=1).max() > 1
        part = data.Pipeline(several, "train", batch_size=8, transform=lambda images: images)
        train = [unit["labels"] for unit in data.units(several, "train")]
        np.testing.assert_array_equal(part.labels, train)
        _, x, y = next(iter(part.epoch(0)))
        assert x.shape == (8, 48, 48, 3) and y.shape == (8, 3)

    def test_metrics_pairs_and_rows(self, results):
        found = classify.metrics(results["network"])
        assert set(found) == set(classification.merits(NAMES, True))
        pairs = classify.compare(results)
        assert set(pairs) == set(classification.summary(True))
        for images in results.values():
            rows = [{k: str(v) for k, v in row.items()} for row in classify.rows(images)]
            again = classify.restore(rows, {})
            assert again.multilabel
            assert classify.metrics(again) == classify.metrics(images)
        found = measures.of(classify, {name: [images] for name, images in results.items()})
        assert found.merits == classification.summary(True)

    def test_figures(self, results, tmp_path):
        found = classify.figures(results, HISTORY)
        assert {"roc", "classes", "reliability", "mistakes"} <= set(found)
        for name, (figure, caption) in found.items():
            figure.savefig(tmp_path / f"{name}.png", dpi=30)
            assert caption.endswith(".")


SETTINGS = {**vars(SMALL), "multilabel": False, "classes": list(NAMES)}


class TestPredict:
    @pytest.fixture(scope="class")
    @classmethod
    def raw(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("raw")
        phantom.generate(folder, subjects=6, seed=4)
        return folder

    def test_an_image_has_the_pixels_of_its_record(self, raw, tmp_path):
        made = prep.prepare(raw, tmp_path / "all", settings=SMALL, options=_test_only(tmp_path))
        folder = DatasetFolder.open(made.output)
        stored = {unit["image"].tobytes() for unit in data.units(folder, "test")}
        paths = classify.raw_inputs(raw)
        assert len(paths) == folder.count("test")
        from medxfer.apps import _classification_images

        for path in paths:
            (image,) = _classification_images.pictures(path, folder.settings)
            assert image.tobytes() in stored

    def test_a_prediction(self, raw, tmp_path):
        path = classify.raw_inputs(raw)[0]
        found = classify.predict(path, levels, SETTINGS, "a", tmp_path)
        assert list(found["probabilities"]) == list(NAMES)
        assert found["predicted"] == max(found["probabilities"], key=found["probabilities"].get)
        assert found["predicted"] in classify.describe(found)
        assert list(tmp_path.iterdir()) == []

    def test_several_labels_or_none(self, raw, tmp_path):
        path, settings = classify.raw_inputs(raw)[0], SETTINGS | {"multilabel": True}
        for p, expected in (([0.7, 0.2, 0.6], [NAMES[0], NAMES[2]]), ([0.1, 0.2, 0.3], [])):
            found = classify.predict(path, lambda x, p=p: np.array([p]), settings, "a", tmp_path)
            assert found["predicted"] == expected
        assert classify.describe(found) == "none of the classes"

    def test_all_together(self, raw, tmp_path):
        paths = classify.raw_inputs(raw)
        found = [
            {"name": f"n{n}", **classify.predict(path, levels, SETTINGS, f"n{n}", tmp_path)}
            for n, path in enumerate(paths)
        ]
        words = classify.collect(paths, found, SETTINGS, tmp_path)
        for name in NAMES:
            assert f"{name}: {sum(r['predicted'] == name for r in found)}" in words
        with Image.open(tmp_path / "contact_sheet.png") as sheet:
            assert sheet.size[0] > 1000 and set(sheet.info) <= {"dpi"}
        json.dumps(found, allow_nan=False)

    def test_a_file_that_is_no_image(self, tmp_path):
        from data_prep.errors import UserError

        (tmp_path / "x.png").write_bytes(b"\x89PNG nothing")
        with pytest.raises(UserError):
            classify.predict(tmp_path / "x.png", levels, SETTINGS, "x", tmp_path)


def _test_only(folder):
    from data_prep import command

    return command.Options(folder / "all", key=prep.PUBLIC_KEY, test_fraction=1.0)


@pytest.mark.parametrize("multilabel", [False, True])
def test_names_of_classes_with_blanks_come_back(multilabel):
    classes = ("No  finding", "a b", "a_b", "p", "none")
    p = np.random.default_rng(1).random((5, 5)).astype(np.float32).astype(np.float64)
    images = [
        classify.Image(f"u{n}", "c", "s", np.eye(5, dtype=np.int64)[n], row)
        for n, row in enumerate(p)
    ]
    rows = classify.rows(classify.Images(images, classes, multilabel, {}))
    assert not any(" " in key for key in rows[0])
    text = [{key: str(value) for key, value in row.items()} for row in rows]
    old = [
        {
            **{key: row[key] for key in row if key[:2] != "p_" and key[:6] != "label_"},
            **{f"p {name}": repr(v) for name, v in zip(classes, p[n].tolist(), strict=True)},
            **(
                {f"label {name}": str(int(k == n)) for k, name in enumerate(classes)}
                if multilabel
                else {}
            ),
        }
        for n, row in enumerate(text)
    ]
    for given in (text, old):
        found = classify.restore(given, {})
        assert found.multilabel == multilabel
        if not multilabel or given is old:
            assert found.classes == classes
        np.testing.assert_array_equal(found.probabilities, p)
        np.testing.assert_array_equal([image.truth for image in found], np.eye(5))


def test_names_of_classes_stay_as_they_are():
    assert measure_name("AUC: glaucoma_mm") == ("AUC: glaucoma_mm", "")
    assert measure_name("sensitivity: auc fp ") == ("sensitivity: auc fp ", "")
    assert measure_name("lumen_intima_error_um") == ("lumen-intima error", "um")
