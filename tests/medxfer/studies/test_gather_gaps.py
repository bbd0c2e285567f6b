"""What a study says where runs, lesions or weights are missing."""

import json
import shutil

import numpy as np
import pytest

from medxfer import plugins
from medxfer.studies import answer, gather, report
from tests.medxfer.studies import fabricated

CASES = fabricated.truth()
DATA = {
    "examples": {"train": 80, "test": 144}, "subjects": {"train": 8, "test": 12},
    "fingerprint": "f", "settings": {}, "synthetic": False,
}  # fmt: skip


def gathered(study, plan, cases=CASES):
    app = plugins.load("medxfer.apps", plan.app)
    found = gather.gather(study, plan, app, cases, {}, draws=300)
    report.html(plan, found, app.UNIT, DATA, [])  # must not stumble
    return found


def without(study, runs):
    for run in runs:
        shutil.rmtree(study.run(run.name).path)


def test_a_failed_first_seed_does_not_make_a_shallow_depth_a_deep_one(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES)
    without(study, [run for run in plan.runs if run.method == "fc3" and run.config.seed == 0])
    found = gathered(study, plan)
    assert found.depths[0].tried == ("fc3", "conv2", "conv1")
    (said,) = (text for text in found.cautions if "seeds" in text and "100 %" in text)
    assert said.startswith("with 100 % of the training data methods have 1 (fc3) to 2 seeds")


def test_a_classic_method_that_learns_is_not_shown_where_it_was_not_trained(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "classify", CASES)
    without(study, [r for r in plan.runs if r.is_counterpart and r.share != "100 %"])
    found = gathered(study, plan)
    assert ["handcrafted" in share.results for share in found.shares] == [True, False, False]


def test_where_the_largest_amount_failed_the_next_is_the_answer(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES)
    without(study, [r for r in plan.runs if r.share == "100 %" and not r.is_counterpart])
    found = gathered(study, plan)
    assert found.full.text == "50 %"
    assert "so the answer is about 50 %" in " ".join(found.cautions)
    assert answer.sentences(found)[0].startswith("The best tuned network, conv1, was better")


@pytest.mark.filterwarnings("ignore:Only one class")
def test_without_positives_nothing_is_recommended(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES)
    for run in plan.runs:
        path = study.run(run.name).path / "predictions.csv"
        head, *rows = path.read_text().splitlines()
        place = head.split(",").index("label")
        cells = [row.split(",") for row in rows]
        for row in cells:
            row[place] = "0"
        path.write_text("\n".join([head, *map(",".join, cells)]) + "\n")
    found = gathered(study, plan)
    assert found.depths == []
    assert answer.sentences(found) == [
        "On these test subjects AUC has no interval: nothing can be compared."
    ]
    assert "there is no test subject with a positive unit: no interval can be given" in (
        found.cautions
    )


@pytest.mark.parametrize("app", ["frame", "polyp"])
def test_few_subjects_with_positives_are_told_and_show_less(tmp_path, app):
    cases = {
        name: facts | ({"lesions": []} if number >= 3 else {})
        for number, (name, facts) in enumerate(fabricated.truth(20).items())
    }
    study, plan = fabricated.study(tmp_path / "s", app, fabricated.truth(20))
    few = {facts["subject"] for facts in list(cases.values())[:3]}
    for run in plan.runs:
        path = study.run(run.name).path / "predictions.csv"
        head, *rows = path.read_text().splitlines()
        names = head.split(",")
        cells = [row.split(",") for row in rows]
        for row in cells:
            if row[names.index("subject")] not in few:
                row[names.index("label" if app == "frame" else "lesion")] = (
                    "0" if app == "frame" else "-1"
                )
        path.write_text("\n".join([head, *map(",".join, cells)]) + "\n")
    found = gathered(study, plan, cases)
    what = "a positive unit" if app == "frame" else "a lesion"
    assert any(f"only 3 test subjects with {what}" in text for text in found.cautions)
    assert not any(pair.differs("paired") for pair in found.full.family.pairs)
    assert all(pair.p["bootstrap"] >= 0.25 for pair in found.full.family.pairs)


def test_without_pretrained_weights_nothing_is_said_of_fine_tuning(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES)
    for run in plan.runs:
        object.__setattr__(run.config, "weights", "none")
        path = study.run(run.name).path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "none"}))
    found = gathered(study, plan)
    assert "began at random" in " ".join(found.cautions)
    assert not any("best tuned network" in text for text in answer.sentences(found))


def test_draws_without_a_value_are_told(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "classify", fabricated.truth(4))
    cases = fabricated.truth(4)
    found = gathered(study, plan, cases)
    assert any(interval.caution == "" for interval in found.full.family.intervals["conv1"])
    pair = found.full.family.pairs[0]
    assert np.sign(pair.effect) == np.sign(pair.difference.estimate)
    # A curve that ends before a rate is told once.
    study, plan = fabricated.study(tmp_path / "p", "polyp", CASES)
    found = gathered(study, plan)
    told = [text for text in found.cautions if "at the end of the curve" in text]
    marks = len(list(found.full.results["conv1"][0]))
    assert len(told) <= 1 and marks
