"""Checks that every app must pass; a new one subclasses :class:`AppTestCase`."""

import dataclasses
import importlib
import inspect
import itertools
import json
import math
import pathlib

import numpy as np
import pytest

from medxfer import data, plugins
from medxfer.dataset_folder import DatasetFolder
from medxfer.evaluation.intervals import Interval
from medxfer.report import measure_name

NAMES = (
    "CLASSES", "UNIT", "prepared_phantom", "monitor", "cnn", "counterparts", "score", "metrics",
    "INPUT", "compare", "rows", "figures", "raw_inputs", "predict", "describe",
)  # fmt: skip
HISTORY = [
    {"stage": "lp", "loss": 1.1, "validation_loss": 1.2, "score": 0.6, "best": True},
    {"stage": "ft", "loss": 0.9, "validation_loss": 1.0, "score": 0.8, "best": True, "kept": True},
]


class AppTestCase:
    """Subclasses say what the app is; the checks are here.

    Attributes
    ----------
    name
        Module in ``medxfer.apps``, ``data_prep`` and ``data_prep.phantoms``.
    classes
        Names of the classes, background first.
    phantom
        Arguments of the phantom's ``generate`` that make it small, with a test subject or more.
    scores
        (probabilities, labels, score): toy validation sets and what ``monitor`` should give.
    """

    name: str
    classes: tuple[str, ...]
    phantom: dict[str, int]
    scores: list[tuple[list[list[float]], list[int], float]]

    def network(self):
        """What a trained network might say: an object with ``maps`` or ``classify``, or both."""
        raise NotImplementedError

    def settings(self) -> object | None:
        """Settings of the preparation; by default the app's own."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def app(cls):
        return plugins.load("medxfer.apps", cls.name)

    @pytest.fixture(scope="class")
    @classmethod
    def raw(cls, tmp_path_factory):
        phantom = importlib.import_module(f"data_prep.phantoms.{cls.name}")
        raw = tmp_path_factory.mktemp(cls.name) / "raw"
        phantom.generate(raw, **cls.phantom)
        return raw

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, raw):
        prepare = importlib.import_module(f"data_prep.{cls.name}").prepare
        made = prepare(raw, raw.with_name("records"), settings=cls().settings())
        return DatasetFolder.open(made.output, app=cls.name)

    @pytest.fixture(scope="class")
    @classmethod
    def methods(cls, app, folder):
        scorers = {
            "network": app.cnn(cls().network()),
            **app.counterparts(folder),
        }
        return {name: app.score(folder, "test", scorer) for name, scorer in scorers.items()}

    def test_the_app_is_found_and_whole(self, app):
        assert self.name in plugins.names("medxfer.apps")
        assert app.CLASSES in (self.classes, None)  # None: those of the records
        assert isinstance(app.UNIT, str)
        assert [name for name in NAMES if not hasattr(app, name)] == []

    def test_records_hold_the_classes_of_the_app(self, app, folder):
        assert folder.classes == self.classes
        for split in ("train", "validation"):
            labels = {int(unit["label"]) for unit in data.units(folder, split)}
            assert labels == set(range(len(self.classes))), split
        assert folder.count("test") > 0

    def test_the_phantom_of_a_first_try_is_made_once(self, app, raw, tmp_path, monkeypatch):
        phantom = importlib.import_module(f"data_prep.phantoms.{self.name}")
        calls = []

        def ensure(cache, *arguments, **options):
            calls.append(cache)
            return raw

        monkeypatch.setattr(phantom, "ensure", ensure)
        cache = tmp_path / "cache"
        folder = app.prepared_phantom(cache)
        assert calls == [cache]
        times = {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).iterdir()}
        opened = DatasetFolder.open(folder, app=self.name)
        assert opened.count("test") > 0
        assert app.prepared_phantom(cache) == folder
        assert times == {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).iterdir()}

    def test_monitor_scores_toy_sets(self, app):
        for probabilities, labels, expected in self.scores:
            found = app.monitor(np.array(probabilities, np.float64), np.array(labels, np.int64))
            assert found == pytest.approx(expected, abs=1e-12)

    def test_monitor_is_best_for_the_truth_and_half_for_a_guess(self, app):
        count = len(self.classes)
        labels = np.arange(30 * count) % count
        truth = np.eye(count)[labels] * 0.9 + 0.1 / count
        assert app.monitor(truth, labels) == 1
        assert app.monitor(np.full_like(truth, 1 / count), labels) == pytest.approx(0.5)
        noise = np.random.default_rng(0).dirichlet(np.ones(count), len(labels))
        assert 0 <= app.monitor(noise, labels) <= 1

    def test_every_unit_has_one_result(self, folder, methods):
        units = [unit["unit"] for unit in data.units(folder, "test")]
        for results in methods.values():
            assert [result.unit for result in results] == units
            assert {result.subject for result in results} <= set(folder.subjects("test"))

    def test_scores_repeat(self, app, folder, methods):
        again = app.score(folder, "test", app.cnn(self.network()))
        assert app.rows(again) == app.rows(methods["network"])

    def test_metrics_are_intervals_of_finite_measures(self, app, methods):
        found = [app.metrics(results) for results in methods.values()]
        assert found[0].keys() == found[1].keys()
        for key, interval in [pair for metrics in found for pair in metrics.items()]:
            assert isinstance(interval, Interval)
            assert interval.low <= interval.estimate <= interval.high, key
            assert measure_name(key)[0].strip()
            json.dumps(dataclasses.asdict(interval), allow_nan=False)
        assert app.metrics(methods["network"]) == found[0]  # the draws are seeded

    def test_methods_are_compared_in_pairs(self, app, methods):
        metrics = app.metrics(methods["network"])
        found = app.compare(methods)
        assert found and found.keys() <= metrics.keys()
        metrics = {name: app.metrics(results) for name, results in methods.items()}
        for measure, pairs in found.items():
            names = [(pair.first, pair.second) for pair in pairs]
            assert names == list(itertools.combinations(methods, 2))
            for pair in pairs:
                first, second = (metrics[name][measure].estimate for name in names.pop(0))
                assert pair.difference.estimate == pytest.approx(first - second)

    def test_rows_are_plain_values_of_equal_keys(self, app, methods):
        tables = [app.rows(results) for results in methods.values()]
        heads = {tuple(row) for table in tables for row in table}
        assert len(heads) == 1
        assert {"unit", "subject"} <= set(*heads)
        for table, results in zip(tables, methods.values(), strict=True):
            assert [row["unit"] for row in table] == [result.unit for result in results]
            for value in (value for row in table for value in row.values()):
                assert isinstance(value, str) or math.isfinite(value)

    def test_figures_have_captions(self, app, methods, tmp_path):
        from matplotlib import pyplot

        found = app.figures(methods, HISTORY)
        assert found
        for name, (figure, caption) in found.items():
            assert name.isidentifier()
            assert caption.endswith(".")
            figure.savefig(tmp_path / f"{name}.png", dpi=30)
            pyplot.close(figure)

    def test_raw_inputs_are_found(self, app, raw, tmp_path):
        found = app.raw_inputs(raw)
        assert found and all(path.exists() for path in found)
        assert app.raw_inputs(found[0]) == [found[0]]
        assert app.raw_inputs(tmp_path) == []

    def test_the_interface_is_the_common_one(self, app):
        expected = {
            "prepared_phantom": ["cache"],
            "monitor": ["probabilities", "labels"],
            "score": ["folder", "split", "scorer"],
            "figures": ["methods", "history"],
            "predict": ["path", "scorer", "settings", "name", "output", "options"],
        }
        for name, arguments in expected.items():
            found = list(inspect.signature(getattr(app, name)).parameters)
            assert found[: len(arguments)] == arguments, name
