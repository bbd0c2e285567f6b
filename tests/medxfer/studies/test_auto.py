"""The depth search: its rule on toy scores, and whole searches that never see a test example."""

import types

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import training, tuning
from medxfer.evaluation import intervals, roc
from medxfer.studies import auto
from tests.testing import tiny

DEPTHS = ["fc8", "fc7", "fc6", "conv5", "conv4"]


def monitor(probabilities, labels):
    return roc.auc(labels > 0, probabilities[:, 1])


@pytest.fixture(scope="module")
def toy():
    """Labels, subjects, and probabilities of a given quality."""
    rng = np.random.default_rng(2)
    labels = np.tile([0, 1], 120)
    subjects = [f"s{i // 20}" for i in range(240)]
    common = rng.standard_normal(240)

    def probabilities(quality, noise=0.2):
        scores = quality * labels + common + noise * rng.standard_normal(240)
        p = 1 / (1 + np.exp(-scores))
        return np.stack([1 - p, p], axis=1)

    return labels, subjects, probabilities


def search(toy, qualities, **options):
    labels, subjects, probabilities = toy
    tried = []

    def train(depth):
        tried.append(depth)
        return probabilities(qualities[DEPTHS.index(depth)])

    return auto.search(DEPTHS, train, labels, subjects, monitor, **options), tried


@pytest.mark.parametrize(
    ("qualities", "depth", "tried"),
    [
        ([0, 1, 2, 3, 4], "conv4", 5),  # better all the way down
        ([0, 2, 2, 2, 4], "fc7", 4),  # two settings without a gain end it
        ([2, 2, 2, 4, 4], "fc8", 3),
        ([0, 2, 2, 4, 4], "conv5", 5),  # one of them does not
        ([3, 0, 0, 0, 0], "fc8", 3),
    ],
)
def test_deepens_while_it_helps(toy, qualities, depth, tried):
    choice, found = search(toy, qualities)
    assert choice.depth == depth
    assert found == DEPTHS[:tried] == [step.depth for step in choice.path]
    assert [step.accepted for step in choice.path].count(True) >= 1
    for step in choice.path[1:]:
        assert step.accepted == (step.gain.low > 0)


def test_the_rule_is_stated_in_the_reason(toy):
    ended = search(toy, [2, 2, 2, 2, 2])[0].reason
    assert ended == (
        "2 deeper settings in a row gained no more than the noise of 12 validation subjects"
    )
    assert "first layer" in search(toy, [0, 1, 2, 3, 4])[0].reason
    assert search(toy, [2, 2, 2, 2, 9], patience=9)[0].depth == "conv4"


def test_few_validation_subjects_are_said(toy, caplog):
    labels, _, probabilities = toy
    for count, said in ((4, True), (5, False)):
        caplog.clear()
        search((labels, [f"s{i % count}" for i in range(240)], probabilities), [2, 2, 2, 2, 2])
        assert (f"With {count} validation subjects" in caplog.text) == said


def test_the_noise_is_that_of_the_bootstrap_over_subjects(toy):
    labels, subjects, probabilities = toy
    before, after = probabilities(1.0), probabilities(1.4)
    found = auto.difference(before, after, labels, subjects, monitor, draws=1500)
    parts = [roc.weighted_auc(labels, p[:, 1]) for p in (after, before)]
    other = intervals.bootstrap(intervals.difference(*parts), subjects, draws=1500, seed=1)
    assert found.estimate == pytest.approx(other.estimate)
    width = other.high - other.low
    np.testing.assert_allclose([found.low, found.high], [other.low, other.high], atol=0.15 * width)
    assert found.clusters == 12


def test_draws_of_one_class_are_left_out_and_one_subject_tells_nothing():
    labels = np.repeat([0, 1], 6)
    p = np.stack([1 - np.linspace(0, 1, 12), np.linspace(0, 1, 12)], axis=1)
    found = auto.difference(p, p, labels, ["a"] * 6 + ["b"] * 6, monitor, draws=50)
    assert "no value in" in found.caution and found.low < 0 < found.high
    assert np.isnan(auto.difference(p, p, labels, ["a"] * 12, monitor).low)


class Built(types.SimpleNamespace):
    """What :mod:`medxfer.experiment` makes."""


def build():
    model = tiny.build()
    return Built(
        model=model, groups=tiny.groups(model), weights=types.SimpleNamespace(new=("fc4",))
    )


def pipelines():
    train, validation = tiny.pipelines()
    for part in (train, validation):
        part.subjects = [f"s{i % 5}" for i in range(part.num_examples)]
    return train, validation


def fit(run_dir, **changes):
    train, validation = pipelines()
    options = {"monitor": tiny.monitor, "config": tiny.config(tune="auto", **changes)}
    return auto.fit(build, train, validation, run_dir=run_dir, **options)


def test_the_run_has_the_weights_of_the_chosen_depth(tmp_path):
    built, history, stages, choice = fit(tmp_path)
    depth = choice.depth
    assert [stage.name for stage in stages] == [depth]
    train, validation = pipelines()
    alone = build()
    expected = training.fit(
        alone.model, alone.groups,
        tuning.stages_for(depth, list(alone.groups), tiny.config(), ("fc4",)),
        train, validation, monitor=tiny.monitor, config=tiny.config(), run_dir=tmp_path / "alone",
    )  # fmt: skip
    assert [e.score for e in history.epochs] == [e.score for e in expected.epochs]
    for one, other in zip(built.model.get_weights(), alone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    (score,) = (step.score for step in choice.path if step.depth == depth)
    assert score == pytest.approx(history.best.score)
    assert (tmp_path / "checkpoints" / "best.weights.h5").is_file()
    table = auto.summary(choice.to_json())
    assert [row[0] for row in table] == [step.depth for step in choice.path]
    # Again in the same folder: nothing is trained anew, and nothing changes.
    weights = tmp_path / "checkpoints" / "best.weights.h5"
    before = weights.stat().st_mtime_ns
    assert not (tmp_path / "search").exists()  # only the chosen weights are kept
    again = fit(tmp_path)
    assert again[3] == choice and weights.stat().st_mtime_ns == before
    assert [e.score for e in again[1].epochs] == [e.score for e in history.epochs]


def test_depths_that_are_the_same_training_are_no_search(tmp_path, monkeypatch):
    """Where the weights lack the last groups, tuning from any of them is one and the same."""
    asked = []
    monkeypatch.setattr(auto, "search", lambda depths, *rest, **_: asked.append(list(depths)))

    def lacking():
        built = build()
        built.weights.new = ("fc3", "fc4")
        return built

    with pytest.raises(AttributeError):  # no choice was made
        auto.fit(
            lacking, *pipelines(), monitor=tiny.monitor, config=tiny.config(), run_dir=tmp_path
        )
    assert asked == [["fc3", "conv2", "conv1"]]


def test_one_validation_subject_is_too_few(tmp_path):
    train, validation = pipelines()
    validation.subjects = ["s0"] * validation.num_examples
    with pytest.raises(UserError, match="needs at least 2 validation subjects"):
        auto.fit(
            build, train, validation, monitor=tiny.monitor, config=tiny.config(), run_dir=tmp_path
        )


def test_no_test_example_is_ever_read(carotid_records, tiny_network, tmp_path):
    """Test shards of noise, or none: the search neither fails nor changes."""
    import shutil

    from medxfer import data, experiment
    from medxfer.config import Config
    from medxfer.dataset_folder import DatasetFolder

    choices = []
    for name, spoil in (("whole", None), ("noise", b"\0" * 999), ("absent", "unlink")):
        place = shutil.copytree(carotid_records, tmp_path / name / "records")
        folder = DatasetFolder.open(place, app="cimt")
        shards = [path for split in ("test", "validation_roi") for path in folder.files(split)]
        for path in shards if spoil else ():
            path.unlink()
            if spoil != "unlink":
                path.write_bytes(spoil)
        config = Config(
            app="cimt", tune="auto", model=tiny_network, weights="none", epochs=2, batch_size=20,
            precision="float32",
        )  # fmt: skip
        experiment.start(config)
        network = experiment.plugins.load("medxfer.models", tiny_network)
        parts = [
            data.Pipeline(folder, s, batch_size=20, transform=data.patch_transform(network))
            for s in ("train", "validation")
        ]
        parts[1].subjects = [f"s{i % 4}" for i in range(parts[1].num_examples)]
        *_, choice = auto.fit(
            lambda config=config: experiment.build(config, 3),
            *parts,
            monitor=experiment.app_of(config).monitor,
            config=config,
            run_dir=tmp_path / name / "run",
        )
        choices.append(choice)
    assert choices[0] == choices[1] == choices[2]
