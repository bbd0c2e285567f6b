"""Strategies beside full fine-tuning, and learning rates chosen on the validation part."""

import dataclasses
import json

import numpy as np
import pytest

from medxfer import plugins
from medxfer.evaluation import roc
from medxfer.studies import answer, figures, gather, report, strategies, tables
from medxfer.studies import plan as plans
from tests.medxfer.studies import fabricated

CASES = fabricated.truth()
GROUPS = {"alexnet": ("conv1", "conv2", "fc3"), "vgg19": ("block1", "block2", "head")}
BEST = (0.01, 0.001, 0.01)  # rate that validates best, by seed
TRIED = ("ft", "lp", "lp_ft", "l2_sp")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(study, plan, what was gathered) of two networks, four strategies, two rates, three seeds."""
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        quality = {"ft": 0.9, "lp": -0.5, "lp_ft": 3.0, "l2_sp": 0.9}
        context.setattr(fabricated, "QUALITY", fabricated.QUALITY | quality)
        study, plan = fabricated.study(
            tmp_path_factory.mktemp("strategies") / "study", "frame", CASES,
            groups=GROUPS, depths=["none"], inits=[], strategies=TRIED, rates=[0.01, 0.001],
            shares=["1"], seeds=3,
        )  # fmt: skip
        for run in plan.runs:
            card = study.run(run.name).card
            if not run.is_counterpart:
                card["best_validation_auc"] += 0.01 * (
                    BEST[run.config.seed] == run.config.base_rate
                )
                study.run(run.name).write_json("run_card.json", card)
        found = gather.gather(
            study, plan, plugins.load("medxfer.apps", "frame"), CASES, {}, draws=600
        )
    return study, plan, found


def test_every_strategy_has_every_rate_unless_it_is_solved_for(made):
    _, plan, _ = made
    counts = {}
    for run in plan.runs:
        counts.setdefault((run.config.model, run.config.tune), set()).add(run.config.base_rate)
    for model in GROUPS:
        assert {tune for name, tune in counts if name == model} == set(TRIED)
        for tune in TRIED:
            assert counts[model, tune] == ({0.001} if tune == "lp" else {0.01, 0.001})
    assert {run.config.tune for run in plan.runs if not run.config.model} == {"handcrafted"}


def test_the_rate_with_the_best_validation_score_is_compared(made):
    _, _, found = made
    kept = [run.planned.config for run in found.runs if not run.planned.is_counterpart]
    assert len(kept) == 2 * 4 * 3 and not found.missing
    for config in kept:
        assert config.base_rate == (0.001 if config.tune == "lp" else BEST[config.seed])
    assert len(found.passed_over) == 2 * 3 * 3
    assert all(len(seeds) == 3 for m, seeds in found.full.results.items() if m != "handcrafted")


def test_gains_ranks_and_cases_follow_from_the_rows(made):
    _, plan, found = made
    rows = {(row.model, row.strategy): row for row in strategies.rows(found)}
    assert set(rows) == {(model, strategy) for model in GROUPS for strategy in TRIED}
    values = {}
    for run in found.runs:
        for results in run.results.values():
            labels, scores = [r.label for r in results], [r.score for r in results]
            key = run.planned.config.model, run.planned.config.tune, run.planned.config.seed
            values[key] = roc.auc(np.array(labels), np.array(scores))
    for model in GROUPS:
        means = {s: np.mean([values[model, s, seed] for seed in range(3)]) for s in TRIED}
        for strategy in TRIED:
            row = rows[model, strategy]
            assert row.found.estimate == pytest.approx(means[strategy])
            assert row.rank == 1 + sum(value > means[strategy] for value in means.values())
            if strategy == "ft":
                assert row.gain is None and not row.cases
                continue
            assert row.gain.estimate == pytest.approx(means[strategy] - means["ft"])
            ahead = [values[model, strategy, s] > values[model, "ft", s] for s in range(3)]
            assert (row.improved, row.cases) == (sum(ahead), 3)
        assert rows[model, "lp_ft"].verdict == "better" and rows[model, "lp_ft"].rank == 1
        assert rows[model, "lp"].verdict == "worse" and rows[model, "lp"].improved == 0
    others = [row for row in rows.values() if row.gain is not None]
    plain = [
        found.full.family.pair(f"{row.model} {row.strategy}", f"{row.model} ft", "AUC").p[
            "bootstrap"
        ]
        for row in others
    ]
    order = np.argsort(plain)
    adjusted, worst = np.empty(len(plain)), 0.0
    for place, index in enumerate(order):  # Holm 1979, step by step
        worst = adjusted[index] = max(worst, min(1.0, (len(plain) - place) * plain[index]))
    np.testing.assert_allclose([row.p for row in others], adjusted)
    assert strategies.improved(list(rows.values()))["lp_ft"] == (6, 0, 6)
    assert next(iter(strategies.mean_rank(list(rows.values())))) == "lp_ft"


def test_where_errors_count_a_gain_is_less_error(tmp_path, monkeypatch):
    quality = {"ft": 0.5, "lp_ft": 1.5}
    monkeypatch.setattr(fabricated, "QUALITY", fabricated.QUALITY | quality)
    study, plan = fabricated.study(
        tmp_path / "study", "cimt", CASES,
        depths=["none"], inits=[], strategies=("ft", "lp_ft"), shares=["1"], seeds=2,
    )  # fmt: skip
    found = gather.gather(
        study, plan, plugins.load("medxfer.apps", "cimt"), CASES, {}, draws=400
    )  # fmt: skip
    _, row = strategies.rows(found)
    assert row.strategy == "lp_ft" and row.rank == 1 and row.verdict == "better"
    assert row.gain.low > 0 and row.gain.low < row.gain.estimate < row.gain.high
    assert (row.improved, row.cases) == (2, 2)


def test_tables_sentences_and_page(made, tmp_path):
    study, plan, found = made
    tables.write(study, plan, found)
    content = json.loads((study.path / "study.json").read_text())
    assert len(content["strategies"]) == 8
    states = [row["state"] for row in content["runs"]]
    assert states.count("another rate validated better") == len(found.passed_over)
    text = " ".join(answer.sentences(found))
    start = "Compared with full fine-tuning (ft), lp_ft on alexnet and lp_ft on vgg19 were better;"
    assert start in text and "lp on alexnet and lp on vgg19 were worse" in text
    assert "Of the depths" not in text and "from scratch" not in text
    assert "lp_ft 6 of 6" in text
    data = {
        "examples": {"train": 80, "validation": 10, "test": 144},
        "subjects": {"train": 8, "validation": 2, "test": 12},
        "fingerprint": fabricated.PRINT, "settings": {}, "synthetic": False,
    }  # fmt: skip
    page = report.html(plan, found, "frame", data, [])
    assert "By which strategy?" in page and "lp_ft" in page
    assert "0.001 and 0.01, whichever validated best" in page and "Davila et al." in page
    assert "Tajbakhsh" not in page.split("<h2>Methods</h2>")[1]
    assert "base_rate" not in page and "input_side" in page  # what all runs share


def test_gains_are_drawn_with_their_intervals(made):
    _, _, found = made
    drawn = figures.figures(plugins.load("medxfer.apps", "frame"), found, {})
    figure, caption = drawn["strategies"]
    assert "over full fine-tuning" in caption
    rows = [row for row in strategies.rows(found) if row.gain is not None]
    for axis in figure.axes:
        own = [row for row in rows if row.model == axis.get_title(loc="left")]
        assert len(axis.containers) == len(own) == 3
        for row, bars in zip(own, axis.containers, strict=True):
            (segment,) = bars.lines[2][0].get_segments()
            np.testing.assert_allclose(segment[:, 0], [row.gain.low, row.gain.high])


def test_without_full_fine_tuning_there_is_nothing_to_gain_over(made):
    _, _, found = made
    runs = [run for run in found.runs if run.planned.config.tune != "ft"]
    assert strategies.rows(dataclasses.replace(found, runs=runs)) == []
    assert plans.NONE == "none"


@pytest.mark.parametrize("settings", ["common", "authors"])
def test_the_report_says_by_what_strategies_were_trained(tmp_path, settings, monkeypatch):
    quality = fabricated.QUALITY | dict.fromkeys(TRIED, 1.0)
    monkeypatch.setattr(fabricated, "QUALITY", quality)
    study, plan = fabricated.study(
        tmp_path / "study", "frame", CASES, depths=["none"], inits=[], strategies=TRIED,
        shares=["1"], seeds=1, strategy_settings=settings,
    )  # fmt: skip
    app = plugins.load("medxfer.apps", "frame")
    found = gather.gather(study, plan, app, CASES, {}, draws=50)
    ways = {row.strategy: row.trained_by for row in strategies.rows(found)}
    common = "sgd, L2 0.0005, staircase"
    expected = dict.fromkeys(TRIED, common) | {"lp": "head solved for"}
    if settings == "authors":
        expected |= {"lp_ft": "sgd, L2 0, cosine", "l2_sp": "sgd, L2 0.01, staircase"}
    assert ways == expected
    words = {
        "common": f"one optimizer, decay and schedule: {common} (--strategy_settings=common)",
        "authors": "those of their authors (--strategy_settings=authors): differences are those",
    }[settings]
    data = {
        "examples": {"train": 9, "test": 9}, "subjects": {"train": 8, "test": 12}, "settings": {},
        "fingerprint": "f", "synthetic": False,
    }  # fmt: skip
    assert words in answer.methods(plan, found, data)
    assert words in report.html(plan, found, "frame", data, [])
    (row,) = (row for row in tables.run_rows(plan, found) if row["method"] == "lp_ft")
    assert row["trained_by"] == expected["lp_ft"]


def test_the_report_says_which_rate_scratch_chose_and_on_what_budget(tmp_path):
    study, plan = fabricated.study(
        tmp_path / "study", "frame", CASES, depths=["conv1"], inits=["msra"], shares=["1"],
        seeds=3, scratch_rates=[],
    )  # fmt: skip
    best = (0.003, 0.01, 0.003)
    for run in plan.runs:
        if run.config.tune == "scratch" and run.config.base_rate == best[run.config.seed]:
            card = study.run(run.name).card
            card["best_validation_auc"] += 0.01
            study.run(run.name).write_json("run_card.json", card)
    found = gather.gather(study, plan, plugins.load("medxfer.apps", "frame"), CASES, {}, draws=50)
    chosen = {
        run.planned.config.seed: run.planned.config.base_rate
        for run in found.runs
        if run.planned.config.tune == "scratch"
    }
    assert chosen == dict(enumerate(best))
    data = {"examples": {"test": 9}, "subjects": {"train": 8}}
    text = answer.methods(plan, found, data)
    assert (
        "Of 0.001, 0.003 and 0.01 for scratch (msra), 0.003 (2 of 3 seeds) and 0.01 (1 of 3 "
        "seeds) validated best." in text
    )
    assert "from scratch as when tuned" in text and "rate 0.001, dropout" in text
    (sentence,) = (s for s in answer.sentences(found) if "from scratch" in s)
    assert "of 0.001, 0.003 and 0.01 by validation" in sentence


def test_runs_of_an_earlier_version_are_named(tmp_path):
    study, plan = fabricated.study(
        tmp_path / "study", "frame", CASES, depths=["conv1"], inits=[], shares=["1", "0.5"], seeds=1
    )
    app = plugins.load("medxfer.apps", "frame")

    def said():
        found = gather.gather(study, plan, app, CASES, {}, draws=50)
        return any("of an earlier version" in text for text in found.cautions)

    assert not said()
    for run in plan.runs:
        if run.config.fraction < 1 and not run.is_counterpart:
            card = study.run(run.name).card
            del card["data"]["validation_subjects_used"]
            study.run(run.name).write_json("run_card.json", card)
    assert said()
