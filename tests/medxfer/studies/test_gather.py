"""Finished runs to numbers, tables, figures and sentences, for every kind of app."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import plugins
from medxfer.evaluation import compare, froc, intervals, roc
from medxfer.studies import answer, estimate, figures, gather, relations, report, tables
from medxfer.studies import plan as plans
from tests.medxfer.studies import fabricated
from tests.medxfer.test_report import Page

CASES = fabricated.truth()
DRAWS = 600


@pytest.fixture(scope="module", params=["frame", "polyp", "cimt"])
def made(request, tmp_path_factory):
    """(study, plan, app, what was gathered)."""
    place = tmp_path_factory.mktemp(request.param) / "study"
    study, plan = fabricated.study(place, request.param, CASES)
    app = plugins.load("medxfer.apps", request.param)
    return study, plan, app, gather.gather(study, plan, app, CASES, {}, draws=DRAWS)


def expected(app, plan, method, share, merit):
    """Mean over seeds of a figure of merit, straight from the rows."""
    values = []
    for planned in plan.runs:
        if (planned.method, planned.share) == (method, share):
            rows = fabricated.rows(plan.app, planned, CASES)
            score = np.array([row.get("score", np.nan) for row in rows])
            if plan.app == "frame":
                label = [row["label"] for row in rows]
                at = {f"sensitivity at FPR {r:g}": r for r in app.RATES}
                values.append(
                    roc.auc(label, score)
                    if merit == "AUC"
                    else roc.sensitivity(label, score, [at[merit]])[0]
                )
            elif plan.app == "polyp":
                marks = app.restore(rows, CASES).marks()
                rates = [
                    rate
                    for rate in app.MERITS.rates
                    if merit == f"sensitivity at {rate:g} FP per frame"
                ]
                values.append(
                    froc.sensitivity(marks, rates, beyond="hold")[0]
                    if rates
                    else froc.area(marks, 1.0, beyond="hold")
                )
            else:
                keys = (
                    ["lumen_intima_error_um", "media_adventitia_error_um"]
                    if merit.startswith("mean")
                    else [merit]
                )
                values.append(np.mean([[row[key] for key in keys] for row in rows]))
    return np.mean(values)


def test_every_number_is_the_mean_over_its_seeds(made):
    _, plan, app, found = made
    assert [share.text for share in found.shares] == ["100 %", "50 %", "one subject"]
    for share, merit in itertools.product(found.shares, found.full.measures.merits):
        if merit == "thickness_error_mm":
            continue
        for method in ("fc3", "conv1", "scratch (msra)"):
            value = share.family.interval(method, merit).estimate
            assert value == pytest.approx(expected(app, plan, method, share.text, merit)), merit


def test_single_seeds_agree_with_the_apps_own_metrics(made):
    _, _, app, found = made
    results = found.full.results["conv1"][0]
    own = app.metrics(results)
    for place, merit in enumerate(found.full.measures.merits):
        if merit in own:
            value = found.full.family.by_seed["conv1"][0, place]
            assert value == pytest.approx(own[merit].estimate), merit


def test_classic_methods_come_from_their_own_runs(made):
    _, plan, _, found = made
    learns = plans.counterpart_learns(plan.app)
    for share in found.shares:
        (results,) = share.results["handcrafted"]
        assert {result.subject for result in results} == {f["subject"] for f in CASES.values()}
        first = found.full.results["handcrafted"][0]
        assert (results is first) == (not learns or share is found.full)


def test_pairs_are_all_there_with_both_rules(made):
    study, plan, _, found = made
    tables.write(study, plan, found)
    with (study.path / "tables" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for share in found.shares:
        own = [r for r in rows if r["training_data"] == share.text]
        methods = list(share.family.intervals)
        assert len(own) == len(list(itertools.combinations(methods, 2))) * len(share.family.merits)
        for merit in share.family.merits:
            of_merit = [r for r in own if r["measure"] == merit]
            adjusted = compare.holm([float(r["p_bootstrap"]) for r in of_merit])
            np.testing.assert_allclose([float(r["holm_bootstrap"]) for r in of_merit], adjusted)
    extra = {"frame": {"p_delong"}, "cimt": {"p_paired_t", "p_wilcoxon_subjects"}, "polyp": set()}
    assert extra[plan.app] <= set(rows[0])
    content = json.loads((study.path / "study.json").read_text())
    assert content["test_subjects"] == 12 and len(content["runs"]) == len(plan.runs)
    (depth,) = content["depths"]
    assert depth["best"] in ("conv1", "conv2")


def test_delong_of_two_single_seeds_is_delongs_test():
    labels = np.tile([0, 1, 1], 20)
    rng = np.random.default_rng(0)
    a, b = labels + rng.standard_normal(60), labels + rng.standard_normal(60)
    from medxfer.studies import measures

    assert measures.delong(labels, [a], [b]) == pytest.approx(roc.delong_test(labels, a, b).p)
    assert measures.delong(labels, [a], [a]) == 1.0
    # Averaging a score with itself changes nothing.
    assert measures.delong(labels, [a, a], [b]) == pytest.approx(roc.delong_test(labels, a, b).p)


def test_the_recommended_depth_is_the_shallowest_not_told_from_the_best(made):
    _, _, _, found = made
    (depth,), primary = found.depths, found.full.measures.primary
    order = ["fc3", "conv2", "conv1"]
    assert (
        gather.depths_of(run.planned for run in found.runs) == {"alexnet": order}
        and list(depth.tried) == order
    )
    for name in order[: order.index(depth.depth)]:
        assert found.full.family.pair(name, depth.best, primary).holm["bootstrap"] < 0.05
    assert (
        depth.depth == depth.best
        or found.full.family.pair(depth.depth, depth.best, primary).holm["bootstrap"] >= 0.05
    )
    assert depth.by_validation == "conv1"


def test_a_failed_seed_does_not_turn_more_data_against_less_around(tmp_path):
    study, plan = plans.StudyFolder(tmp_path / "s"), fabricated.plan("frame")
    study.write_plan(plan, shared=False)
    for run in plan.runs:
        if not (run.share == "100 %" and run.config.seed == 0):
            fabricated.finish(study, plan, run, CASES)
    app = plugins.load("medxfer.apps", "frame")
    found = gather.gather(study, plan, app, CASES, {}, draws=100)
    assert {pair.first.rpartition(", ")[2] for pair in found.less.pairs} == {"100 %"}


def test_depths_are_recommended_for_each_network(tmp_path):
    groups = {"alexnet": ("conv1", "fc3"), "vgg19": ("conv2", "fc3")}
    study, plan = fabricated.study(
        tmp_path / "s", "frame", CASES, groups=groups, shares=["1"], seeds=1
    )
    app = plugins.load("medxfer.apps", "frame")
    found = gather.gather(study, plan, app, CASES, {}, draws=100, caution="known against them")
    assert [depth.tried for depth in found.depths] == [
        ("alexnet fc3", "alexnet conv1"), ("vgg19 fc3", "vgg19 conv2"),
    ]  # fmt: skip
    assert [depth.depth.split()[0] for depth in found.depths] == ["alexnet", "vgg19"]
    assert "known against them" in found.cautions
    assert "alexnet conv1" in " ".join(answer.sentences(found))


def test_less_data_is_compared_with_all_of_it_for_one_method_at_a_time(made):
    _, plan, _, found = made
    names = {(pair.first, pair.second) for pair in found.less.pairs}
    assert ("conv1, 100 %", "conv1, one subject") in names
    assert all(a.rpartition(", ")[0] == b.rpartition(", ")[0] for a, b in names)
    assert not any("xavier" in a for a, _ in names)  # on all the data only
    assert any("handcrafted" in a for a, _ in names) == plans.counterpart_learns(plan.app)


def test_what_learnt_before_less_data_were_taken_is_said(made):
    _, plan, _, found = made
    said = [text for text in found.cautions if "learnt from all training subjects" in text]
    assert len(said) == (plan.app == "polyp")
    assert not said or said[0].startswith("the detector of candidates")


def test_relations_of_the_paper_are_looked_up(made):
    _, plan, app, found = made
    rows = relations.relations(plan.app, found)
    words = {row.paper: row for row in rows}
    family, primary = found.full.family, found.full.measures.primary
    kept = [  # the networks of this study have two of the paper's depths
        (first, second, said)
        for first, second, said in relations.PAPER[plan.app]
        if {first, second} <= {"conv1", "scratch", "handcrafted"}
    ]
    # What the paper says of less data: of frames nothing about half or one video.
    less = [
        share
        for share in found.shares[1:]
        if share.text in {"polyp": ("50 %",), "cimt": ("50 %", "one subject")}.get(plan.app, ())
    ]
    own = list(found.full.results) if plan.app == "cimt" else []
    assert kept and len(rows) == len(kept) + len(less) + len(own) + 1
    for method in own:
        (row,) = (
            r
            for text, r in words.items()
            if text.startswith(f"The media-adventitia error of {method} ")
        )
        gap = np.subtract(
            *(
                expected(app, plan, method, "100 %", f"{name}_error_um")
                for name in ("media_adventitia", "lumen_intima")
            )
        )
        assert row.difference.estimate == pytest.approx(gap)
        assert row.difference.low < gap < row.difference.high
        assert row.verdict == (
            "not shown" if row.p >= 0.05 else "holds" if gap > 0 else "does not hold: smaller"
        )
    named = [tuple(name.replace("scratch", "scratch (msra)") for name in pair[:2]) for pair in kept]
    raw = [family.pair(one, two, primary).p["bootstrap"] for one, two in named]
    ranked = sorted(raw)  # Holm: the least p times the number of tests, the next times one less
    adjusted = [
        min(1, max((len(raw) - ranked.index(q)) * q for q in raw if q <= own_p)) for own_p in raw
    ]
    for (first, second, said), own_p in zip(kept, adjusted, strict=True):
        one, two = (name.replace("scratch", "scratch (msra)") for name in (first, second))
        verb = "is better than" if said == relations.BETTER else "and"
        (row,) = (words[text] for text in words if text.startswith(f"{one} {verb} {two}"))
        pair = family.pair(one, two, primary)
        assert row.difference == pair.difference
        assert row.p == pytest.approx(own_p)
        told, better = own_p < 0.05, (pair.difference.estimate > 0) == (plan.app != "cimt")
        expect = {
            (relations.BETTER, True, True): "holds",
            (relations.BETTER, True, False): "does not hold: worse",
            (relations.BETTER, False, better): "not shown",
            (relations.ALIKE, True, better): f"does not hold: {'better' if better else 'worse'}",
            (relations.ALIKE, False, better): "no contradiction",
        }
        assert row.verdict == expect[said, told, better]
    # How much an advantage changes is the difference of two differences.
    for share in less:
        (row,) = (row for text, row in words.items() if text.startswith(f"With {share.text} "))
        gaps = [
            s.family.pair("conv1", "scratch (msra)", primary).difference.estimate
            for s in (share, found.full)
        ]
        assert row.difference.estimate == pytest.approx(gaps[0] - gaps[1])
        assert row.difference.low < row.difference.estimate < row.difference.high


def test_how_soon_tuned_networks_are_as_good_as_scratch_will_be(made):
    study, plan, _, found = made
    row = relations.relations(plan.app, found)[-1]

    def scores(run):
        return [epoch["score"] for epoch in study.run(run.name).card["history"]]

    cases = []
    for scratch in plan.runs:
        for tuned in plan.runs:
            one = scratch.share == tuned.share == "100 %"
            if (
                one
                and scratch.method.startswith("scratch")
                and tuned.method in ("fc3", "conv2", "conv1")
                and scratch.config.seed == tuned.config.seed
            ):
                best = np.argmax(scores(scratch))
                reached = np.flatnonzero(np.array(scores(tuned)) >= max(scores(scratch)))
                cases.append(bool(len(reached)) and reached[0] < best)
    assert f"({sum(cases)} of {len(cases)} pairs of runs)" in row.paper
    share, n, z = np.mean(cases), len(cases), 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    limits = row.difference.low, row.difference.high
    assert limits == pytest.approx((middle - reach, middle + reach), abs=1e-6)
    assert row.difference.estimate == share and np.isnan(row.p)


def test_sentences_say_what_the_intervals_support(made):
    _, _, _, found = made
    scratch, depth, data = answer.sentences(found)
    pair = found.full.family.pair(
        answer._best(found, ["fc3", "conv2", "conv1"]),
        answer._best(found, ["scratch (msra)", "scratch (xavier)"]),
        found.full.measures.primary,
    )
    assert ("is not shown" in scratch) == (pair.holm["bootstrap"] >= 0.05)
    assert found.depths[0].best in depth
    assert "one subject instead of 100 %" in data


def test_figures_and_the_page(made, tmp_path):
    study, plan, app, found = made
    from medxfer import report as run_report

    batches = {run.name: 7 for run in plan.runs}
    drawn = []
    made_figures = figures.figures(app, found, batches)
    for name, (figure, caption) in made_figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=30)
        drawn.append(run_report.Drawing(name, caption, tmp_path / f"{name}.png"))
        assert caption.endswith((".", ". "))
    assert set(made_figures) == {
        "family_0", "family_1", "family_2", "training_size", "convergence", "validation_and_test",
    }  # fmt: skip
    data = {
        "examples": {"train": 80, "test": 144}, "subjects": {"train": 8, "test": 12},
        "fingerprint": "<f>", "settings": {"patch": 33}, "synthetic": True,
    }  # fmt: skip
    page = Page(report.html(plan, found, app.UNIT, data, drawn))
    images = [address for address in page.addresses if address.startswith("data:image/png")]
    assert len(images) == len(drawn)
    links = {run.name for run in plan.runs if not run.is_counterpart}
    assert {f"runs/{name}/report.html" for name in links} == set(page.addresses) - set(images)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "weights <of> somebody" in page.text and "<f>" in page.text
    assert "are synthetic" in page.text
    for text in answer.sentences(found):
        assert text in page.text


def test_an_app_with_measures_of_its_own_is_drawn_by_them(tmp_path):
    few = {"shares": ["1"], "seeds": 1, "inits": ["msra"]}
    study, plan = fabricated.study(tmp_path / "study", "classify", CASES, **few)
    app = plugins.load("medxfer.apps", "classify")
    found = gather.gather(study, plan, app, CASES, {}, draws=100)
    looks = {method: place for place, method in enumerate(found.methods)}
    figure = figures.merits(found.full, looks)
    shown = found.full.measures.shown
    assert [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes] == list(shown)
    drawn = figures.figures(app, found, {})
    assert "144 test images of 12 subjects" in drawn["family_0"][1]


def test_a_mean_curve_of_one_seed_is_its_staircase():
    x, y = np.array([0, 0, 0.5, 1.0]), np.array([0, 0.3, 0.3, 0.8])
    found = figures._mean_curve([(x, y)])
    for at in (0.0, 0.2, 0.5, 0.9, 1.0):
        here = found[1][np.searchsorted(found[0], at, side="right") - 1]
        assert here == y[np.searchsorted(x, at, side="right") - 1]
    both = figures._mean_curve([(x, y), (np.array([0, 0.7]), np.array([0.1, 0.5]))])
    assert both[0][-1] == 0.5 or both[0][-1] == 0.7
    assert both[1][-1] == pytest.approx((0.3 + 0.5) / 2)


def test_what_is_missing_and_what_failed_is_said(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES, leave=("conv2", "fc3"))
    app = plugins.load("medxfer.apps", "frame")
    reasons = {run.name: "no memory" for run in plan.runs if run.method == "fc3"}
    found = gather.gather(study, plan, app, CASES, reasons, draws=100)
    assert not found.depths and len(found.failed) == 6 and len(found.missing) == 6
    assert {row["state"] for row in tables.run_rows(plan, found)} == {
        "finished", "no memory", "not finished",
    }  # fmt: skip
    data = {
        "examples": {"train": 80, "test": 144}, "subjects": {"train": 8, "test": 12},
        "fingerprint": "f", "settings": {}, "synthetic": False,
    }  # fmt: skip
    page = Page(report.html(plan, found, "frame", data, []))
    assert "runs are finished, 6 have failed" in page.text
    assert "Of the depths" not in page.text


def test_nothing_finished_and_damaged_runs_are_users_errors(tmp_path):
    app = plugins.load("medxfer.apps", "frame")
    study, plan = plans.StudyFolder(tmp_path / "s"), fabricated.plan("frame")
    study.write_plan(plan, shared=False)
    with pytest.raises(UserError, match="No run of .* is finished"):
        gather.gather(study, plan, app, CASES, {})
    fabricated.finish(study, plan, plan.runs[0], CASES)
    path = study.run(plan.runs[0].name).path / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace("fc3,", "conv9,"))
    with pytest.raises(UserError, match="holds no scores of fc3"):
        gather.gather(study, plan, app, CASES, {})
    path.write_text("method,unit\nfc3,a\n")
    with pytest.raises(UserError, match="cannot be read"):
        gather.gather(study, plan, app, CASES, {})


def test_runs_on_other_units_are_refused(tmp_path):
    study, plan = fabricated.study(tmp_path / "s", "frame", CASES)
    path = study.run(plan.runs[0].name).path / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-180]) + "\n")
    app = plugins.load("medxfer.apps", "frame")
    with pytest.raises(UserError, match="different units"):
        gather.gather(study, plan, app, CASES, {}, draws=50)


def test_what_is_left_is_estimated_from_finished_runs(tmp_path):
    study, plan = plans.StudyFolder(tmp_path / "s"), fabricated.plan("frame")
    study.write_plan(plan, shared=False)
    first = {run.method: run for run in plan.runs if run.config.seed == 0 and run.subjects == 8}
    for run in first.values():
        fabricated.finish(study, plan, run, CASES)
        weights = study.run(run.name).weights
        weights.parent.mkdir()
        weights.write_bytes(b"0" * (0 if run.is_counterpart else 100))
    records = estimate.Records({"train": 80, "validation": 20, "test": 10}, 8)
    found = estimate.estimate(study, plan, records)
    assert set(found.seconds) == {run.name for run in plan.runs} - {r.name for r in first.values()}
    for run in plan.runs:
        if run.name in found.seconds:
            training = 0 if run.is_counterpart else 60.0 * run.subjects
            assert found.seconds[run.name] == pytest.approx(training + 3.0)
    assert found.source == f"{len(first)} finished runs"
    networks = [run for run in plan.runs if not run.is_counterpart and run.name in found.seconds]
    assert found.disk == 100 * len(networks)
    assert found.total(2) == pytest.approx(sum(found.seconds.values()) / 2)


def test_cimt_rows_come_back_as_results(made):
    _, plan, app, _ = made
    if plan.app != "cimt":
        pytest.skip("of another app")
    rows = fabricated.rows("cimt", plan.runs[0], CASES)
    results = app.restore([{k: str(v) for k, v in row.items()} for row in rows])
    assert app.rows(results) == rows
    found = app.metrics(results)["lumen_intima_error_um"]
    assert isinstance(found, intervals.Interval)
    assert found.estimate == pytest.approx(np.mean([r["lumen_intima_error_um"] for r in rows]))


@pytest.mark.parametrize(
    ("tune", "passes", "epochs"),
    [("scratch", 0, {"conv1": 4}), ("conv2", 1, {"conv2": 4}), ("ft", 0, {"conv1": 4}),
     ("lp", 1, {}), ("lp_ft", 1, {"conv1": 4}), ("g_lf", 1, {"fc3": 1, "conv2": 1, "conv1": 2})],
)  # fmt: skip
def test_what_was_never_run_is_estimated_by_its_stages(tune, passes, epochs):
    steps = {"fc3": 1.0, "conv2": 10.0, "conv1": 100.0}
    measured = {
        "steps": steps, "image": 7.0, "start": 5.0, "open": 3.0, "compile": 0.5, "test": 22.0,
    }  # fmt: skip
    config = dataclasses.replace(fabricated.plan("frame").runs[0].config, tune=tune, epochs=4)
    run = plans.Planned("r", tune, "50 %", 4, config)
    found = estimate._from_calibration(run, measured, {"train": 80, "validation": 30}, 0.5)
    stages = len(epochs) + (tune in ("lp", "lp_ft"))
    expected = 5 + 3 + 11 * 2 + 0.5 * stages + passes * (40 + 15) * 7
    assert found == pytest.approx(expected + sum(n * 45 * steps[g] for g, n in epochs.items()))


def test_tensorboard_shows_settings_and_measures_of_every_run(made):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util.tensor_util import make_ndarray

    from medxfer.studies import hparams

    study, plan, _, found = made
    for _ in range(2):  # a second time replaces the first
        hparams.write(study, found)
    primary = found.full.measures.primary
    for run in (r for r in plan.runs if not r.is_counterpart):
        folder = study.path / "logs" / "hparams" / run.name
        assert len(list(folder.iterdir())) == 1
        events = EventAccumulator(str(folder)).Reload()
        tag = "_hparams_/session_start_info"
        held = plugin_data_pb2.HParamsPluginData.FromString(
            events.SummaryMetadata(tag).plugin_data.content
        )
        values = held.session_start_info.hparams
        assert values["method"].string_value == run.method
        assert values["seed"].number_value == run.config.seed
        (share,) = (s for s in found.shares if s.text == run.share)
        seeds = [r.config.seed for r in plan.runs if (r.method, r.share) == (run.method, run.share)]
        expected = share.family.by_seed[run.method][
            seeds.index(run.config.seed), share.family.merits.index(primary)
        ]
        (event,) = events.Tensors(f"test {primary}")
        assert make_ndarray(event.tensor_proto) == pytest.approx(expected, rel=1e-6)


def test_pictures_of_runs_are_those_of_the_best_depth_and_of_scratch(made):
    study, plan, app, found = made
    for run in plan.runs:
        folder = study.run(run.name).path / "figures"
        folder.mkdir(exist_ok=True)
        (folder / "map_median.png").write_bytes(b"")
    drawn = figures.of_runs(app, found, study)
    if plan.app != "cimt":
        assert drawn == []
        return
    assert [drawing.caption.split(",")[0] for drawing in drawn] == [
        found.depths[0].best, "scratch (msra)",
    ]  # fmt: skip
    assert all(", seed 0: the region of middle error" in drawing.caption for drawing in drawn)
    assert len({drawing.name for drawing in drawn}) == 2
