import warnings

import numpy as np
import pytest
from sklearn import metrics

from medxfer.evaluation import classification as cls
from medxfer.evaluation import resampling, roc

NAMES = ("a", "b", "c", "d")


def sample(seed, size=120, classes=3, subjects=25, grades=None):
    """Labels, probabilities of a classifier that knows something, and subjects."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    logits = rng.normal(size=(size, classes)) + 1.5 * np.eye(classes)[labels]
    if grades:
        logits = np.round(logits * grades) / grades  # ties
    powers = np.exp(logits)
    owners = [f"s{number}" for number in rng.integers(0, subjects, size)]
    return labels, powers / powers.sum(1, keepdims=True), owners


def several(seed, size=120, classes=3, subjects=25):
    """The same with several labels an image."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((size, classes)) < [0.2, 0.5, 0.7, 0.4][:classes]).astype(int)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 2.0 * labels - 1)))
    owners = [f"s{number}" for number in rng.integers(0, subjects, size)]
    return labels, probabilities, owners


def plain_ece(confidence, true):
    """By loops over bins (low, high] of width 1/15, as Guo et al. 2017 write it."""
    total = 0.0
    for m in range(15):
        inside = [i for i, p in enumerate(confidence) if m / 15 < p <= (m + 1) / 15]
        if inside:
            gap = np.mean([true[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) * abs(gap)
    return total / len(confidence)


def by_scikit_learn(labels, p):
    """Figures of merit of exclusive classes, None where a draw does not have one."""
    classes, found = p.shape[1], p.argmax(1)
    hot = np.eye(classes)[labels]
    columns = [1] if classes == 2 else range(classes)
    areas = [
        metrics.roc_auc_score(hot[:, k], p[:, k]) if 0 < hot[:, k].sum() < len(hot) else np.nan
        for k in columns
    ]
    sensitivity = [np.mean(found[labels == k] == k) if (labels == k).any() else np.nan
                   for k in range(classes)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted but not there
        values = [
            np.nanmean(areas) if not np.isnan(areas).all() else np.nan,
            metrics.balanced_accuracy_score(labels, found),
            metrics.f1_score(labels, found, average="macro"),
            metrics.accuracy_score(labels, found),
            plain_ece(p.max(1), found == labels),
        ]
    return [*values, *(areas if classes > 2 else []), *sensitivity]


def by_scikit_learn_of_several(labels, p):
    found = (p >= 0.5).astype(int)
    classes = range(p.shape[1])
    areas = [metrics.roc_auc_score(labels[:, k], p[:, k]) for k in classes]
    return [
        np.mean(areas),
        np.mean([metrics.balanced_accuracy_score(labels[:, k], found[:, k]) for k in classes]),
        metrics.f1_score(labels, found, average="macro", zero_division=np.nan),
        1 - metrics.hamming_loss(labels, found),
        plain_ece(p.ravel(), labels.ravel()),
        metrics.accuracy_score(labels, found),
        *areas,
        *metrics.recall_score(labels, found, average=None),
    ]


def whole(labels, p, owners):
    return cls.weighted(labels, p, owners)(np.ones((1, len(set(owners))), np.intp))[0]


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("classes", [2, 3, 4])
    @pytest.mark.parametrize("grades", [None, 1])
    def test_exclusive_classes(self, classes, grades):
        labels, p, owners = sample(classes, classes=classes, grades=grades)
        np.testing.assert_allclose(whole(labels, p, owners), by_scikit_learn(labels, p))
        names = cls.merits(NAMES[:classes])
        assert len(names) == len(by_scikit_learn(labels, p))
        assert names[:5] == ("AUC", "balanced accuracy", "macro F1", "accuracy", "ECE")

    def test_macro_auc_is_that_of_scikit_learn(self):
        labels, p, _ = sample(8)
        expected = metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
        assert cls.macro_auc(labels, p) == pytest.approx(expected)
        several_labels, q, _ = several(8)
        expected = metrics.roc_auc_score(several_labels, q, average="macro")
        assert cls.macro_auc(several_labels, q) == pytest.approx(expected)

    def test_several_labels(self):
        labels, p, owners = several(3)
        np.testing.assert_allclose(whole(labels, p, owners), by_scikit_learn_of_several(labels, p))
        assert len(cls.merits(NAMES[:3], True)) == len(by_scikit_learn_of_several(labels, p))

    def test_confusion(self):
        labels, p, _ = sample(4, classes=4)
        expected = metrics.confusion_matrix(labels, p.argmax(1))
        np.testing.assert_array_equal(cls.confusion(labels, p), expected)
        labels, p, _ = several(4)
        expected = metrics.multilabel_confusion_matrix(labels, p >= 0.5)
        np.testing.assert_array_equal(cls.confusion(labels, p), expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_every_draw_is_what_the_drawn_images_give(classes):
    """Images of subjects drawn with repetition; so few that classes are absent."""
    labels, p, owners = sample(5, size=20, classes=classes, subjects=8)
    names, member = np.unique(owners, return_inverse=True)
    statistic = cls.weighted(labels, p, owners)
    for weights in resampling.counts(len(names), 40, seed=1):
        for row, found in zip(weights, statistic(weights), strict=True):
            rows = np.concatenate([np.flatnonzero(member == s) for s in np.repeat(
                np.arange(len(names)), row)])  # fmt: skip
            np.testing.assert_allclose(found, by_scikit_learn(labels[rows], p[rows]), atol=1e-12)


def test_every_draw_of_several_labels():
    labels, p, owners = several(6, size=60, subjects=20)
    names, member = np.unique(owners, return_inverse=True)
    weights = next(resampling.counts(len(names), 30, seed=2))
    for row, found in zip(weights, cls.weighted(labels, p, owners)(weights), strict=True):
        rows = np.repeat(np.arange(len(labels)), row[member])
        expected = by_scikit_learn_of_several(labels[rows], p[rows])
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_class_that_is_absent_is_left_out():
    labels, p, owners = sample(7, classes=4)
    kept = labels < 3
    labels, p, owners = labels[kept], p[kept], np.array(owners)[kept]
    found = dict(zip(cls.merits(NAMES), whole(labels, p, owners), strict=True))
    assert np.isnan(found["AUC: d"]) and np.isnan(found["sensitivity: d"])
    assert found["AUC"] == pytest.approx(np.mean([found[f"AUC: {n}"] for n in "abc"]))
    one = labels == 0
    found = dict(zip(cls.merits(NAMES), whole(labels[one], p[one], owners[one]), strict=True))
    assert np.isnan(found["AUC"]) and np.isnan(cls.macro_auc(labels[one], p[one]))
    assert found["balanced accuracy"] == found["accuracy"] == found["sensitivity: a"]


def test_two_classes_have_the_area_of_the_curve():
    labels, p, owners = sample(9, classes=2)
    assert whole(labels, p, owners)[0] == pytest.approx(roc.auc(labels, p[:, 1]))


def test_analysis_pairs_methods_on_the_same_draws():
    labels, p, owners = sample(10)
    blunt = 0.5 * p + 0.5 / 3
    found = cls.analyse(labels, {"sharp": p, "blunt": blunt}, owners, NAMES[:3], draws=300)
    assert found.merits == cls.merits(NAMES[:3])
    bars = dict(zip(found.merits, found.intervals["sharp"], strict=True))
    for bar in bars.values():
        assert bar.low <= bar.estimate <= bar.high
        assert bar.clusters == len(set(owners))
    pairs = {each.merit: each for each in found.differences}
    # Blunting moves no rank of a single class' probabilities, and no most probable class.
    for merit in ("AUC", "accuracy", "macro F1"):
        assert pairs[merit].difference.estimate == pytest.approx(0, abs=1e-12)
    assert pairs["ECE"].difference.p < 0.05  # but spoils the calibration


def test_many_classes_have_no_figures_of_their_own():
    classes = [str(number) for number in range(cls.PER_CLASS + 1)]
    labels, p, owners = sample(11, size=300, classes=len(classes))
    assert len(cls.merits(classes)) == whole(labels, p, owners).size == 5


class TestReliability:
    def test_against_loops(self):
        labels, p, owners = sample(12)
        found = cls.reliability(labels, p, owners, draws=200)
        confidence, right = p.max(1), p.argmax(1) == labels
        for m in range(15):
            inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
            assert found.counts[m] == inside.sum()
            if inside.any():
                assert found.frequency[m] == pytest.approx(right[inside].mean())
                assert found.probability[m] == pytest.approx(confidence[inside].mean())
                assert found.low[m] <= found.frequency[m] <= found.high[m]
            else:
                assert np.isnan([found.frequency[m], found.probability[m], found.low[m]]).all()
        assert found.ece == pytest.approx(plain_ece(confidence, right))

    def test_all_labels_count_where_there_may_be_several(self):
        labels, p, owners = several(13)
        found = cls.reliability(labels, p, owners, draws=20)
        assert found.counts.sum() == labels.size
        assert found.ece == pytest.approx(plain_ece(p.ravel(), labels.ravel()))

    def test_edges_belong_to_the_bin_below(self):
        p = np.array([[0.0, 1.0], [1.0, 0.0], [0.4, 0.6]])
        found = cls.reliability([1, 0, 1], p, ["x", "y", "z"], draws=5)
        assert found.counts.tolist() == [0] * 8 + [1] + [0] * 5 + [2]  # 0.6 is 9/15
        assert found.ece == pytest.approx(0.4 / 3)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "class indices"),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], "class indices"),
        ([0, 1], [[0.5, 0.7], [0.1, 0.9]], "sum to 1"),
        ([0, 1], [[0.5, np.nan], [0.1, 0.9]], "from 0 to 1"),
        ([0, 1], [[0.5, 0.5], [1.1, -0.1]], "from 0 to 1"),
        ([], np.empty((0, 2)), "shape"),
    ],
)
def test_what_is_no_classification(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        cls.confusion(labels, probabilities)


def test_every_image_has_a_subject():
    labels, p, owners = sample(14)
    with pytest.raises(ValueError, match="subject per image"):
        cls.weighted(labels, p, owners[1:])
