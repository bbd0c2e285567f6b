import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep.errors import UserError
from medxfer import batches, outputs, steps, training, tuning
from tests.testing import tiny


class Interrupted(Exception):
    pass


def fit(run_dir, tune="conv1", parts=None, stages=None, dropout=0.5, monitor=None, **settings):
    """Train a fresh tiny network; returns it and the history."""
    note, share = settings.pop("on_epoch_end", None), settings.pop("share", ())
    config = tiny.config(**settings)
    model = tiny.build(dropout)
    groups = tiny.groups(model)
    train, validation = parts or tiny.pipelines()
    history = training.fit(
        model,
        groups,
        stages or tuning.stages_for(tune, list(groups), config),
        train,
        validation,
        monitor=monitor or tiny.monitor,
        config=config,
        run_dir=run_dir,
        on_epoch_end=note,
        share=share,
    )
    return model, history


def scripted(scores):
    """A monitor that returns these values one after the other."""
    values = iter(scores)
    return lambda probabilities, labels: next(values)


def assert_same_weights(a, b, **tolerance):
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        if tolerance:
            np.testing.assert_allclose(one, other, **tolerance)
        else:
            np.testing.assert_array_equal(one, other)


def test_equals_keras_fit_with_multi_optimizer(tmp_path):
    """An independent way to the same weights: rates by MultiOptimizer, decay by regularisers."""
    settings = {"epochs": 3, "gamma": 0.5, "weight_decay": 0.02, "bias_multiplier": 3.0}
    scores = scripted([0.1, 0.2, 0.3])
    model, history = fit(tmp_path, "conv2", dropout=0, monitor=scores, **settings)

    peer = tiny.build(dropout=0)
    groups = tiny.groups(peer)
    groups["conv1"][0].trainable = False
    rates = {"conv2": 0.01, "fc3": 0.01, "fc4": 0.02}
    inner = {}
    for group, rate in rates.items():
        (layer,) = (layer for layer in groups[group] if layer.weights)
        layer.kernel.regularizer = keras.regularizers.L2(0.02 / 2)
        inner[layer.kernel.path] = keras.optimizers.SGD(rate, momentum=0.9)
        inner[layer.bias.path] = keras.optimizers.SGD(3 * rate, momentum=0.9)
    peer.compile(
        keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(keras.optimizers.SGD(1.0), inner)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    train, _ = tiny.pipelines()
    for epoch in range(3):
        for _, x, y in train.epoch(epoch):
            peer.train_on_batch(x, y)
        for optimizer in inner.values():
            optimizer.learning_rate = float(optimizer.learning_rate) * 0.5
    assert_same_weights(model, peer, rtol=1e-5, atol=1e-6)
    assert [epoch.rate for epoch in history.epochs] == [0.01, 0.005, 0.0025]


def test_loss_is_the_mean_negative_log_likelihood(tmp_path):
    """Without noise between them: one batch, one step, before and after it."""
    train, _ = tiny.pipelines(8)
    model, history = fit(
        tmp_path, parts=(train, train), dropout=0, epochs=1, batch_size=8, weight_decay=0.5
    )

    def nll(network):
        p = keras.ops.softmax(network(train.images)).numpy().astype(np.float64)
        return -np.mean(np.log(p[np.arange(8), train.labels]))

    assert history.epochs[0].loss == pytest.approx(nll(tiny.build(0)), rel=1e-5)
    assert history.epochs[0].validation_loss == pytest.approx(nll(model), rel=1e-5)


def test_best_epoch_not_the_last_is_restored(tmp_path):
    seen = []
    model, history = fit(
        tmp_path, epochs=5, monitor=scripted([0.1, 0.9, 0.8, 0.5, 0.2]), on_epoch_end=seen.append
    )
    assert history.best.number == 1 and history.best.score == 0.9
    assert [epoch.best for epoch in history.epochs] == [True, True, False, False, False]
    assert [epoch.kept for epoch in history.epochs] == [False, True, False, False, False]
    assert [dataclasses.replace(epoch, kept=False) for epoch in history.epochs] == seen
    assert_same_weights(model, fit(tmp_path / "two", epochs=2, monitor=scripted([0.1, 0.9]))[0])


@pytest.mark.parametrize("last", [0.95, 0.3])
def test_the_best_epoch_of_all_stages_is_kept(tmp_path, last):
    """Whichever stage it is in; a later stage still begins with the best of the one before."""
    scores = [0.1, 0.9, 0.2, 0.3, last, 0.2]
    model, history = fit(tmp_path / "both", stages=STAGES, monitor=scripted(scores))
    first, _ = fit(tmp_path / "first", stages=STAGES[:1], monitor=scripted(scores[:3]))
    best = history.best
    assert (best.stage, best.number) == (("head", 1) if last < 0.9 else ("middle", 4))
    same = all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), first.get_weights(), strict=True)
    )
    assert same == (last < 0.9)
    again, loaded = fit(tmp_path / "both", stages=STAGES, monitor=scripted([]))
    assert_same_weights(again, model)
    assert loaded.best == best


def test_equal_scores_are_told_apart_by_the_validation_loss(tmp_path):
    """And a falling loss at an equal score is progress: with patience 1 the run goes on."""
    flat = scripted([0.5] * 6)
    _, history = fit(tmp_path, epochs=6, patience=1, dropout=0, monitor=flat)
    losses = [epoch.validation_loss for epoch in history.epochs]
    assert len(losses) > 2 and history.best.validation_loss == min(losses)
    falling = [True, *(b < min(losses[: k + 1]) for k, b in enumerate(losses[1:]))]
    assert [epoch.best for epoch in history.epochs] == falling
    assert len(losses) == 6 or not falling[-1]


def epochs_of(*rows, stage="s"):
    """Epochs of (loss, validation loss, score, classes called); the last row is kept."""
    made = [
        training.Epoch(stage, number, 0.1, *row[:3], 1.0, best=True, called=row[3])
        for number, row in enumerate(rows)
    ]
    return training.History([*made[:-1], dataclasses.replace(made[-1], kept=True)])


def doubts(history, train=(0, 0, 0, 1), validation=(0, 1), epochs=9, **settings):
    stage = tuning.Stage("s", {"a": 1.0}, 0.1, epochs=epochs)
    labels = np.array(train), np.array(validation)
    return training.doubts(history, [stage], *labels, tiny.config(**settings), 2)


def test_doubts_about_a_training_are_said():
    prior = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    fine = (0.4, 0.5, 0.9, 2)
    assert doubts(epochs_of(fine)) == []
    (said,) = doubts(epochs_of((prior * 0.99, np.log(2) * 0.99, 0.6, 2)))
    assert f"below {prior:.3f}" in said and "learnt nothing" in said
    assert doubts(epochs_of((prior, np.log(2) * 0.9, 0.6, 2))) == []  # dropout hides what is learnt
    assert doubts(epochs_of((prior * 0.9, np.log(2), 0.6, 2))) == []
    (said,) = doubts(epochs_of((prior * 1.05, np.log(2), 0.6, 2)), balance="weights")[:1] or [""]
    assert said == ""  # below ln 2, the loss of classes that count alike
    (said,) = doubts(epochs_of((0.4, 0.5, 0.9, 1)))
    assert "called the same class" in said
    (said,) = doubts(epochs_of(fine, fine), epochs=2)
    assert "the last of 2 epochs was the best" in said
    assert doubts(epochs_of(fine, fine), epochs=3) == []  # it could have gone on, and did not


def test_prior_loss_of_labels_is_that_of_scipy():
    shares = np.array([0.5, 0.3, 0.2])
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    assert outputs.prior_loss(labels, 3) == pytest.approx(stats.entropy(shares))
    assert outputs.prior_loss(labels, 3, balanced=True) == pytest.approx(np.log(3))
    assert outputs.prior_loss(labels, 4, balanced=True) == pytest.approx(np.log(3))
    several = np.array([[1, 0], [0, 0], [1, 0], [1, 1]])
    each = [stats.entropy([share, 1 - share]) for share in several.mean(axis=0)]
    assert outputs.prior_loss(several, 2) == pytest.approx(sum(each))
    assert outputs.prior_loss(several, 2, balanced=True) == pytest.approx(2 * np.log(2))


def test_patience(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3, 0.6, 0.7]
    _, history = fit(tmp_path, epochs=6, patience=2, monitor=scripted(scores))
    assert [epoch.score for epoch in history.epochs] == scores[:4]
    stage = tuning.Stage("s", dict.fromkeys(tiny.TABLE, 1), base_rate=0.01, epochs=6)
    _, history = fit(tmp_path / "none", stages=[stage], monitor=scripted(scores))
    assert len(history.epochs) == 6


STAGES = [
    tuning.Stage("head", {"conv1": 0, "conv2": 0, "fc3": 0, "fc4": 5}, 0.01, epochs=3),
    tuning.Stage("middle", {"conv1": 0, "conv2": 1, "fc3": 0, "fc4": 1}, 0.01, epochs=3),
]


@pytest.mark.parametrize("epochs, cache", [(1, "none"), (3, "memory"), (4, "none"), (5, "memory")])
def test_interrupted_and_resumed_is_as_uninterrupted(tmp_path, epochs, cache):
    scores = [0.1, 0.9, 0.2, 0.3, 0.1, 0.2]

    def interrupt(epoch):
        if epoch.number + 1 == epochs:
            raise Interrupted

    whole, history = fit(tmp_path / "whole", stages=STAGES, monitor=scripted(scores), cache=cache)
    with pytest.raises(Interrupted):
        fit(
            tmp_path / "run", stages=STAGES, monitor=scripted(scores), cache=cache,
            on_epoch_end=interrupt,
        )  # fmt: skip
    model, again = fit(
        tmp_path / "run", stages=STAGES, monitor=scripted(scores[epochs:]), cache=cache
    )
    assert_same_weights(model, whole)
    timeless = [dataclasses.replace(e, images_per_second=0) for e in again.epochs]
    assert timeless == [dataclasses.replace(e, images_per_second=0) for e in history.epochs]
    assert [e.number for e in again.epochs if e.best] == [0, 1, 3]
    assert again.best.number == 1


def test_a_kill_while_a_checkpoint_is_written_costs_one_epoch(tmp_path, monkeypatch):
    whole, _ = fit(tmp_path / "whole", monitor=scripted([0.1, 0.3, 0.2]))
    savez, count = np.savez, 0

    def killed(file, **arrays):
        nonlocal count
        count += 1
        if count == 5:  # stage-0, best-0, last, best-1, last
            file.write(b"half")
            raise Interrupted
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", monitor=scripted([0.1, 0.3, 0.2]))
    monkeypatch.undo()
    model, _ = fit(tmp_path / "run", monitor=scripted([0.3, 0.2]))
    assert_same_weights(model, whole)


def test_a_finished_run_is_loaded_and_leaves_one_file_of_weights(tmp_path):
    model, history = fit(tmp_path, epochs=2)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.weights.h5", "history.json"}
    again, loaded = fit(tmp_path, epochs=2, monitor=scripted([]))
    assert loaded == history
    assert_same_weights(again, model)
    fresh = tiny.build()
    fresh.load_weights(tmp_path / "checkpoints" / "best.weights.h5")
    assert_same_weights(fresh, model)
    json.loads((tmp_path / "checkpoints" / "history.json").read_text())


def test_checkpoints_of_another_run_are_refused(tmp_path):
    def interrupt(epoch):
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(tmp_path, "fc4", on_epoch_end=interrupt)
    with pytest.raises(UserError, match="other stages .it stands in fc4."):
        fit(tmp_path, "fc3")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc4")])
    with pytest.raises(UserError, match="another network or stage"):
        training.Checkpoints(tmp_path / "checkpoints").load("last", model.variables)


@pytest.mark.parametrize(
    "tune, cache, dtype",
    [
        ("conv2", "memory", "float32"),
        ("fc3", "disk", "float32"),
        ("fc4", "memory", "float32"),
        ("fc4", "disk", "float16"),
    ],
)
def test_kept_features_give_the_weights_of_plain_freezing(
    tmp_path, monkeypatch, tune, cache, dtype
):
    monkeypatch.setenv("MEDXFER_CACHE", str(tmp_path / "cache"))
    plain, expected = fit(tmp_path / "plain", tune)
    parts = tiny.pipelines()
    model, history = fit(tmp_path / "kept", tune, parts, cache=cache, cache_dtype=dtype)
    tolerance = 1e-6 if dtype == "float32" else 2e-3
    assert_same_weights(model, plain, rtol=0, atol=tolerance)
    for a, b in zip(history.epochs, expected.epochs, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=tolerance)
        assert a.validation_loss == pytest.approx(b.validation_loss, abs=tolerance)
    assert [part.reads for part in parts] == [5, 3]
    if cache == "disk":
        parts = tiny.pipelines()
        again, _ = fit(tmp_path / "again", tune, parts, cache=cache, cache_dtype=dtype)
        assert_same_weights(again, model)
        assert [part.reads for part in parts] == [0, 0]


def test_one_pass_keeps_the_features_of_all_depths(tmp_path, monkeypatch):
    """A study's first run computes for all; the others, on less data too, are as if alone."""
    monkeypatch.setenv("MEDXFER_CACHE", str(tmp_path / "cache"))
    share = ("fc4", "fc3", "conv2", "conv1")

    def run(name, tune, few=False, **changes):
        parts = tiny.pipelines()
        if few:
            parts[0] = tiny.Pipeline(parts[0].images, parts[0].labels, rows=np.arange(3, 40, 2))
        model, history = fit(tmp_path / name, tune, parts, **changes)
        return model, history.epochs, [part.reads for part in parts]

    for number, (tune, few) in enumerate(
        [("fc4", False), ("fc3", False), ("conv2", False), ("conv2", True), ("fc4", True)]
    ):
        alone, expected, _ = run(f"alone{number}", tune, few, cache="memory")
        model, epochs, reads = run(f"study{number}", tune, few, cache="disk", share=share)
        assert_same_weights(model, alone)
        assert [e.score for e in epochs] == [e.score for e in expected]
        assert [e.loss for e in epochs] == [e.loss for e in expected]
        assert reads == ([0, 0] if number else [5, 3])
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 2 * 3


def test_what_others_need_is_kept_only_where_it_fits(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDXFER_CACHE", str(tmp_path))
    bound = (40 + 23) * 4 * (8 + 72) / 2**30  # of what enters fc4 and fc3
    fit(tmp_path / "run", "fc4", cache="disk", cache_gib=bound, share=("fc3", "conv2"))
    shapes = {np.load(path).shape[1:] for path in (tmp_path / "features").glob("*.npy")}
    assert shapes == {(8,), (72,)}


def test_features_that_do_not_fit_are_computed_anew(tmp_path, caplog):
    parts = tiny.pipelines()
    with caplog.at_level("INFO", logger="absl"):
        model, _ = fit(tmp_path / "small", "fc4", parts, cache="auto", cache_gib=1e-9)
    assert parts[0].reads == 3 * 5
    assert "computed anew" in caplog.text
    assert_same_weights(model, fit(tmp_path / "plain", "fc4")[0])


def test_each_step_is_traced_once(tmp_path, monkeypatch):
    compiled = []
    for kind in (steps.TrainStep, steps.Inference):

        def init(self, *args, _kind=kind, _init=kind.__init__):
            _init(self, *args)
            compiled.append(self.compiled)

        monkeypatch.setattr(kind, "__init__", init)
    fit(tmp_path, "fc3", cache="memory")
    assert [function.experimental_get_tracing_count() for function in compiled] == [1, 1, 1]


def test_fewer_examples_than_a_batch(tmp_path):
    parts = tiny.pipelines(6)
    model, history = fit(tmp_path, parts=parts, dropout=0, epochs=2, batch_size=8)
    assert len(history.epochs) == 2
    smaller = fit(tmp_path / "same", parts=parts, dropout=0, epochs=2, batch_size=6)[0]
    assert_same_weights(model, smaller, rtol=0, atol=1e-6)


def test_auc_rises_on_separable_data(tmp_path):
    """Three classes told apart by the brightest channel."""

    def auc(probabilities, labels):
        positive, negative = probabilities[labels == 0, 0], probabilities[labels != 0, 0]
        return float(np.mean(positive[:, None] > negative))

    parts = tiny.pipelines(240, noise=1.5)
    _, history = fit(tmp_path, "scratch", parts, dropout=0, epochs=6, base_rate=0.005, monitor=auc)
    assert history.epochs[0].score < 0.98 < 0.99 < history.best.score
    assert history.epochs[-1].loss < 0.1 * history.epochs[0].loss


def test_divergence_is_said_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"diverged in epoch conv1 \d/3: .* Try --base_rate=1e\+0"):
        fit(tmp_path, base_rate=1e5)


def test_a_score_that_is_no_number(tmp_path):
    with pytest.raises(UserError, match="examples of every class"):
        fit(tmp_path, monitor=scripted([float("nan")]))


@pytest.mark.parametrize("label", [-1, tiny.CLASSES])
def test_labels_out_of_range(tmp_path, label):
    parts = tiny.pipelines()
    parts[1].labels[3] = label
    with pytest.raises(UserError, match="Labels must be 0 to 2, for 3 classes"):
        fit(tmp_path, parts=parts)


def test_a_class_without_a_training_image_is_told(tmp_path, caplog):
    parts = tiny.pipelines()
    parts[0].labels[parts[0].labels == 1] = 2
    with caplog.at_level("WARNING", logger="absl"):
        fit(tmp_path, parts=parts, epochs=1)
    assert "No training image shows class 1 (counted from 0)" in caplog.text


def test_every_epoch_is_saved_before_it_is_told(tmp_path):
    def look(epoch):
        meta = training.Checkpoints(tmp_path / "checkpoints").meta("last")
        assert len(meta["history"]) == epoch.number + 1

    fit(tmp_path, epochs=2, on_epoch_end=look)


def test_rates_must_match_the_groups(tmp_path):
    stage = tuning.Stage("s", {"conv1": 1}, base_rate=0.1, epochs=1)
    with pytest.raises(ValueError, match="no rate to conv2, fc3, fc4"):
        fit(tmp_path, stages=[stage])


def test_tensorboard(tmp_path):
    _, history = fit(tmp_path, "fc3", epochs=2)
    events = EventAccumulator(str(tmp_path / "logs"), {"tensors": 0}).Reload()

    def read(tag):
        return [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]

    for tag, field in {
        "loss/training": "loss",
        "loss/validation": "validation_loss",
        "score/validation": "score",
        "images_per_second": "images_per_second",
    }.items():
        expected = [getattr(epoch, field) for epoch in history.epochs]
        assert read(tag) == pytest.approx(expected, rel=1e-6)
    assert read("rate/conv2") == [0, 0]
    assert read("rate/fc3") == pytest.approx([0.01, 0.0095])
    assert read("rate/fc4") == pytest.approx([0.02, 0.019])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_mixed_precision_keeps_float32_weights(tmp_path, policy, cache):
    exact, _ = fit(tmp_path / "exact", "fc3", dropout=0)
    keras.config.set_dtype_policy(policy)
    try:
        model, history = fit(tmp_path / "mixed", "fc3", dropout=0, cache=cache)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.output.dtype == "float32"
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert_same_weights(model, exact, rtol=0, atol=0.03)


def test_two_runs_of_one_seed_are_equal(tmp_path):
    (a, first), (b, second) = fit(tmp_path / "a"), fit(tmp_path / "b")
    assert_same_weights(a, b)
    assert [e.loss for e in first.epochs] == [e.loss for e in second.epochs]


def test_batches_ahead_are_the_same_and_errors_arrive():
    assert list(batches._ahead(iter(range(1, 5)))) == [1, 2, 3, 4]

    def broken():
        yield 1
        raise Interrupted

    with pytest.raises(Interrupted):
        list(batches._ahead(broken()))
