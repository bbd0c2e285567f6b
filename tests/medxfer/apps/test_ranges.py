"""Every app's intervals hold their estimate and lie in the range of their metric.

In single runs, in pooled folds of a cross-validation and in studies; of perfect, good, random and
always wrong methods; of methods alone and of differences.
"""

import re

import numpy as np
import pytest

from medxfer import plugins
from medxfer.apps import pe
from medxfer.evaluation import family
from medxfer.studies import measures

APPS = ("cimt", "classify", "several", "frame", "pe", "polyp")
STRENGTHS = {"perfect": 99.0, "good": 2.0, "again": 2.0, "random": 0.0, "wrong": -99.0}


def truth(subjects):
    return {
        f"case{i:02d}": {"subject": f"s{i:02d}", "images": 4, "lesions": [{}] * (1 + i % 3)}
        for i in range(subjects)
    }


def rows(name, strength, cases, seed):
    rng, found = np.random.default_rng([seed, int(abs(strength))]), []
    for case, facts in cases.items():
        for place in range(12):
            row = {"unit": f"{case}-{place:02d}", "case": case, "subject": facts["subject"]}
            label = int(place % 3 == 0)
            score = strength * (label - 0.5) + rng.standard_normal()
            p = 1 / (1 + np.exp(-score))
            if name == "cimt":
                error = 0.0 if strength > 9 else np.exp(rng.standard_normal() - strength / 9)
                row |= {"mm_per_pixel": 0.06, "thickness_mm": 0.7 + error / 99}
                row |= {f"{i}_error_um": error for i in ("lumen_intima", "media_adventitia")}
                row["true_thickness_mm"] = row["true_polyline_thickness_mm"] = 0.7
                row["polyline_thickness_mm"] = 0.7 - error / 99
            elif name == "classify":
                words = ("no", "yes")
                row |= {"label": words[label], "predicted": words[int(p > 0.5)], "p no": 1 - p}
                row["p yes"] = p
            elif name == "several":
                row |= {"label a": label, "label b": 1 - label, "p a": p, "p b": 1 - p}
            elif name == "frame":
                row |= {"frame": place, "label": label, "score": score}
            else:
                lesion = place // 3 % len(facts["lesions"]) if label else -1
                row |= {"lesion": lesion, "score": score, "x": 1.0, "y": 1.0, "z": 2.0}
            found.append(row)
    return found


def limits(merit):
    """The range of a metric, by what its name says."""
    if area := re.match(r"area to ([\d.]+) FP", merit):
        return 0, float(area[1])
    if "bias" in merit:
        return -np.inf, np.inf
    sizes = ("_um", "_mm", "FP per volume in all", "FP per frame in all")
    return (0, np.inf) if merit.endswith(sizes) else (0, 1)


def check(found, low, high, where):
    assert found.low <= found.estimate <= found.high, where
    assert low - 1e-9 <= found.low and found.high <= high + 1e-9, where
    if np.isfinite([low, high]).all():
        assert found.low < found.high, where  # nobody knows it exactly


def modules(name):
    app = plugins.load("medxfer.apps", "classify" if name == "several" else name)
    cases = truth(11)

    def results(strength, seed=0, folds=1):
        parts = [dict(list(cases.items())[k::folds]) for k in range(folds)]
        pooled = [row for part in parts for row in rows(name, strength, part, seed)]
        return app.restore(pooled, cases)

    return app, results


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("name", APPS)
def test_single_runs_and_pooled_folds(name, folds):
    app, results = modules(name)
    methods = {method: results(s, folds=folds) for method, s in STRENGTHS.items()}
    for method, found in methods.items():
        for merit, interval in app.metrics(found).items():
            check(interval, *limits(merit), (method, merit, interval))
    for merit, pairs in app.compare(methods).items():
        low, high = limits(merit)
        for pair in pairs:
            gap = pair.difference
            check(gap, low - high, high - low, (merit, pair))
            # The test and the interval say the same.
            if np.isfinite([low, high]).all() and gap.low <= 0 <= gap.high:
                assert gap.p > 0.0499, pair


@pytest.mark.parametrize("name", APPS)
def test_studies(name):
    app, results = modules(name)
    methods = {method: [results(s, seed) for seed in (0, 1)] for method, s in STRENGTHS.items()}
    found = measures.of(app, methods)
    compared = family.analyse(
        found.statistics, found.merits, found.clusters, tests=found.tests, limits=found.limits,
        sides=found.sides, draws=300,
    )  # fmt: skip
    for method in methods:
        for merit in found.merits:
            check(compared.interval(method, merit), *limits(merit), (method, merit))
    for pair in compared.pairs:
        low, high = limits(pair.merit)
        check(pair.difference, low - high, high - low, pair)
        assert (pair.p["bootstrap"] < 0.05) <= (
            not pair.difference.low <= 0 <= pair.difference.high
        )
    again = compared.pair("good", "again", found.primary).difference
    assert again.estimate == 0 and again.p == 1


def test_an_area_beyond_one_has_its_whole_interval():
    assert dict(zip(pe.MERITS.names, pe.MERITS.limits, strict=True))["area to 5 FP per volume"] == (
        0,
        5,
    )
    app, results = modules("pe")
    found = app.metrics(results(2.0))["area to 5 FP per volume"]
    assert 1 < found.low < found.estimate
