"""A classic method learns from the training subjects that the network has, and from no other."""

import types

import numpy as np
import pytest

from medxfer import data, plugins

SUBJECTS = {"train": [f"t{i}" for i in range(6)], "validation": ["v0", "v1", "v2"], "test": ["x"]}


def unit(split, subject, label, place):
    rng = np.random.default_rng([len(split), place, label])
    image = (rng.random((48, 48, 3)) * (90 + 120 * label)).astype(np.uint8)
    return {
        "subject": subject, "case": subject, "unit": f"{subject}-{place}", "label": label,
        "lesion": label - 1, "features": rng.normal(label, 1, 5), "image": image, "score": 0.5,
        "labels": np.eye(2, dtype=int)[label],
    }  # fmt: skip


@pytest.fixture
def read(monkeypatch):
    """Records of every split and of its units, and what was read of them."""
    seen = []

    def units(folder, split):
        for subject in SUBJECTS[split.removesuffix("_unit")]:
            for place, label in enumerate((0, 1, 1)):
                seen.append((split, subject))
                yield unit(split, subject, label, place)

    monkeypatch.setattr(data, "units", units)
    return seen


def folder():
    splits = [*SUBJECTS, "train_unit", "validation_unit"]
    return types.SimpleNamespace(splits=splits, classes=("no", "yes"), multilabel=False)


def fitted(name, monkeypatch):
    """Numbers of examples that the app's classic method is fitted to."""
    app, classic = (plugins.load(f"medxfer.{kind}", name) for kind in ("apps", "handcrafted"))
    found, fit = [], classic.fit

    def spy(features, labels, *rest):
        found.append((len(labels), [len(part[0]) for part in rest if isinstance(part, tuple)]))
        return fit(features, labels, *rest)

    monkeypatch.setattr(classic, "fit", spy)
    return app, found


@pytest.mark.parametrize("name", ["classify", "frame", "pe"])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_it_learns_from_the_fraction_alone(name, count, read, monkeypatch):
    app, found = fitted(name, monkeypatch)
    given = [*SUBJECTS["train"][:count], "v0"]  # the validation subjects of the fraction, too
    assert "handcrafted" in app.counterparts(folder(), given)
    ((examples, held),) = found
    assert examples == 3 * count
    # What is chosen is chosen on the network's validation subjects.
    assert held == ([3] if name == "classify" else [])
    assert not any(split.startswith("test") for split, _ in read)


@pytest.mark.parametrize("name", ["classify", "frame", "pe"])
def test_validation_subjects_alone_teach_nothing(name, read, monkeypatch):
    app, found = fitted(name, monkeypatch)
    assert "handcrafted" not in app.counterparts(folder(), SUBJECTS["validation"])
    assert found == []


@pytest.mark.parametrize("name", ["cimt", "polyp"])
def test_those_that_learn_nothing_here_read_nothing(name, read):
    app = plugins.load("medxfer.apps", name)
    assert "handcrafted" in app.counterparts(folder(), ["t0"])
    assert read == []
    assert hasattr(app, "LEARNT_BEFORE") == (name == "polyp")  # a study says so
