"""The page of a study: question, data, answer, figures, tables, methods. Needs no other file."""

import json
import math
from collections.abc import Mapping, Sequence

from medxfer import report
from medxfer.evaluation import family as families
from medxfer.report import Drawing
from medxfer.studies import answer, relations, strategies, tables
from medxfer.studies.gather import Depth, Gathered, Share
from medxfer.studies.plan import Plan

_STYLE = """
.matrix td, .matrix th { padding: .2rem .4rem; font-size: .8rem; min-width: 2.6rem; }
.matrix td.yes { background: #dcebf5; } .matrix td.none { background: #f6f6f6; }
.answer { font-size: 1.05rem; border-left: 4px solid #0072B2; padding-left: .9rem; }
a { color: #00558a; } details { margin: .8rem 0; } code { overflow-wrap: anywhere; }
.words td.n { white-space: normal; }
@media (max-width: 40rem) {
  figure { overflow-x: auto; } figure img { max-width: none; width: 40rem; }
}
"""


def html(plan: Plan, gathered: Gathered, unit: str, data: Mapping, drawn: Sequence[Drawing]) -> str:
    """The report.

    Parameters
    ----------
    plan : Plan
    gathered : Gathered
    unit : str
        What the app scores.
    data : mapping
        ``examples`` and ``subjects`` by split, ``fingerprint``, ``settings``, ``synthetic``.
    drawn : sequence of Drawing
    """
    full = gathered.full
    parts = [
        f"<h1>{_text(plan.app)}: {_question(gathered)}</h1>",
        "<p>For these data: is fine-tuning a pre-trained network better than training from "
        "scratch, from which layer on or by which strategy should one tune, how much data does it "
        "take, and are the differences real?</p>",
    ]
    if data["synthetic"]:
        parts.append(
            _caution(
                "The images of this study are synthetic (the app's phantom). Its numbers show that "
                "the software works, not what holds for patients."
            )
        )
    if gathered.missing or gathered.failed:
        done = len(gathered.runs) + len(gathered.passed_over)
        parts.append(
            _caution(
                f"{done} of {len(plan.runs)} runs are finished, {len(gathered.failed)} have "
                "failed: what follows is about the finished ones. See the table of runs."
            )
        )
    parts += [f"<p class='note'>{_text(note)}</p>" for note in plan.notes]
    parts += ["<h2>Answer</h2>"]
    parts += [f"<p class='answer'>{_text(text)}</p>" for text in answer.sentences(gathered)]
    cautions = list(gathered.cautions)
    if all(len(seeds) == 1 for seeds in full.results.values()):
        cautions.append(
            "every network was trained with one seed, so what another seed would change is unknown"
        )
    parts += [_caution(f"Caution: {text}.") for text in cautions]
    parts += [_depth(gathered, depth) for depth in gathered.depths]
    parts += ["<h2>Data</h2>", *_data(data, unit)]
    parts += ["<h2>Figures</h2>", *(report._figure(drawing) for drawing in drawn)]
    parts += ["<h2>All methods</h2>"]
    parts += [
        "<p class='note'>Mean over seeds, with the 95 % interval by bootstrap over "
        f"{full.measures.clusters} test subjects; ± standard deviation over seeds, where there are "
        "several.</p>"
    ]
    for share in gathered.shares:
        parts += [
            f"<h3>Training data: {_text(tables.amount(share.text, share.subjects))}</h3>",
            _methods(share),
        ]
    parts += ["<h2>Which differences are real?</h2>", _rules()]
    for share in gathered.shares:
        parts += [
            f"<h3>Training data: {_text(tables.amount(share.text, share.subjects))}</h3>",
            *_matrices(share),
            _pairs(share),
        ]
    parts += _strategies(gathered)
    parts += _paper(plan.app, gathered)
    if gathered.less:
        parts += [
            "<h2>All the data against less</h2>",
            "<p class='note'>More data minus less, the same method; Holm over all rows of a "
            "measure.</p>",
            _pair_table([p for p in gathered.less.pairs if p.merit == full.measures.primary]),
        ]
    parts += ["<h2>Runs</h2>", _runs(plan, gathered), "<h2>Methods</h2>"]
    parts += [f"<p>{_text(answer.methods(plan, gathered, data))}</p>"]
    settings = _settings(plan)
    versions = next((run.card["versions"] for run in gathered.runs if "versions" in run.card), {})
    parts += [
        "<details><summary>Settings and versions</summary>",
        report._table(("setting of all runs", "value"), settings),
        report._table(
            ("prepared with", "value"), [(k, json.dumps(v)) for k, v in data["settings"].items()]
        ),
        report._table(("package", "version"), sorted(versions.items())),
        "</details>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>medxfer study: {_text(plan.app)}</title>"
        f"<style>{report._STYLE}{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _question(gathered: Gathered) -> str:
    if strategies.rows(gathered) and not gathered.depths:
        return "by which strategy to fine-tune?"
    return "how deep to tune, or train from scratch?"


def _depth(gathered: Gathered, depth: Depth) -> str:
    text = f"<p><b>Recommended depth: {_text(depth.depth)}.</b> {_text(depth.reason)}"
    if depth.difference is not None:
        primary = gathered.full.measures.primary
        text += (
            f" {_text(depth.depth)} minus {_text(depth.best)}: "
            f"{_text(answer.interval(depth.difference, primary))}."
        )
    return (
        f"{text} The best validation score, in which no test subject had a part, has "
        f"{_text(depth.by_validation)}.</p>"
    )


def _data(data: Mapping, unit: str) -> list[str]:
    rows = [
        (split, str(data["subjects"][split]), str(data["examples"][split]))
        for split in data["examples"]
    ]
    return [
        report._table(("split", "subjects", "examples"), rows),
        "<p>No subject is in two parts; this was checked when the records were written and again "
        f"when they were read. A test example is one {_text(unit)}. Fingerprint "
        f"<code>{_text(data['fingerprint'])}</code>.</p>",
    ]


def _methods(share: Share) -> str:
    family, shown = share.family, share.measures.shown
    rows = []
    for method in family.intervals:
        cells = []
        for merit in shown:
            text = answer.interval(family.interval(method, merit), merit, unit=False)
            spread = family.spread(method, merit)
            cells.append(text if spread != spread else f"{text} ± {_number(spread, merit)}")
        rows.append((method, *cells))
    return report._table(("method", *(report._titled(merit) for merit in shown)), rows)


def _settings(plan: Plan) -> list[tuple[str, str]]:
    """Settings that all networks of the study share."""
    configs = [run.config for run in plan.runs if not run.is_counterpart]
    hidden = {"data", "weights"}  # folders are often called after patients
    return [
        (name, json.dumps(value))
        for name, value in sorted(vars(configs[0]).items())
        if name not in hidden and all(getattr(other, name) == value for other in configs)
    ]


def _strategies(gathered: Gathered) -> list[str]:
    """Network by strategy, beside full fine-tuning."""
    found = strategies.rows(gathered)
    if not found:
        return []
    primary = gathered.full.measures.primary
    rows = [
        (
            row.model,
            row.strategy,
            row.trained_by,
            answer.interval(row.found, primary, unit=False),
            str(row.rank),
            "–" if row.gain is None else answer.interval(row.gain, primary, unit=False),
            "–" if row.gain is None else report.p_value(row.p),
            "–" if row.gain is None else _ahead(row),
            row.verdict or "–",
        )
        for row in found
    ]
    head = (
        "network", "strategy", "trained by", report._titled(primary), "rank", "gain over ft (95 %)",
        "Holm p", "seeds better than ft", "paired test",
    )  # fmt: skip
    means = ", ".join(f"{name} {rank:.1f}" for name, rank in strategies.mean_rank(found).items())
    return [
        "<h2>By which strategy?</h2>",
        "<p class='note'>Every strategy beside full fine-tuning (ft) of the same network, "
        f"training data {_text(gathered.full.text)}, as in Davila et al. 2024; a gain above 0 is "
        "better. p is adjusted by "
        "Holm's method over all comparisons with ft in this table. Seeds in which a strategy is "
        "ahead are counted, not tested: they share their test subjects. "
        f"{_text(strategies.means(gathered))}</p>",
        report._table(head, rows),
        f"<p class='note'>Mean rank over networks: {means}.</p>",
    ]


def _ahead(row: strategies.Row) -> str:
    return f"{row.improved} of {row.cases}" + (f" ({row.equal} equal)" if row.equal else "")


def _rules() -> str:
    return (
        "<p class='note'>Two rules side by side. <b>Bars</b>: the 95 % error bars of the two "
        "methods do not overlap, as in the tables S1 to S3 of Tajbakhsh et al. 2016; for "
        "independent methods that means p &lt; .0056, on the same subjects it is stricter still, "
        "and bars that do overlap do not mean that there is no difference. <b>Paired</b>: the "
        "difference on the same subjects, bootstrap over subjects, Holm-adjusted over all pairs at "
        "that measure, p &lt; .05. DeLong's test, "
        "where it is given, takes every unit as independent, also those of one subject. "
        "<b>Effect size d</b>: the difference in units of its standard deviation between subjects "
        "(Cohen's d of paired measurements, from the bootstrap error).</p>"
    )


def _matrices(share: Share) -> list[str]:
    """Both rules as one triangle: the numbers in a cell say at which measures the two differ."""
    methods, shown = list(share.family.intervals), share.measures.shown
    found = tables.matrices(share, methods)
    number = {merit: str(place) for place, merit in enumerate(shown, start=1)}
    head = "".join(f"<th>{_text(name)}</th>" for name in methods[:-1])
    body = ""
    for place, method in list(enumerate(methods))[1:]:
        cells = ""
        for column in range(place):
            words = []
            for rule, label in ((families.BARS, "bars"), (families.PAIRED, "paired")):
                if merits := found[rule][place][column]:
                    words.append(f"{label} {','.join(number[merit] for merit in merits)}")
            style = "yes" if words else "none"
            cells += f"<td class='{style}'>{'<br>'.join(words) or '–'}</td>"
        body += f"<tr><th>{_text(method)}</th>{cells}</tr>"
    legend = "; ".join(f"{number[merit]}: {_text(report._titled(merit))}" for merit in shown)
    return [
        f"<div class='wide'><table class='matrix'><tr><th></th>{head}</tr>{body}</table></div>",
        f"<p class='note'>Where the method of the row and that of the column differ. {legend}.</p>",
    ]


def _pairs(share: Share) -> str:
    own = [pair for pair in share.family.pairs if pair.merit == share.measures.primary]
    title = f"All pairs: {report._titled(share.measures.primary)}"
    return f"<details><summary>{_text(title)}</summary>{_pair_table(own)}</details>"


def _paper(app: str, gathered: Gathered) -> list[str]:
    """What the paper found beside what was found here."""
    found = relations.relations(app, gathered)
    if not found:
        return []
    primary = gathered.full.measures.primary
    rows = [
        (
            row.paper,
            row.verdict,
            answer.interval(row.difference, row.measure, unit=False)
            + ("" if row.measure == primary else f", {row.measure}"),
            report.p_value(row.p),
        )
        for row in found
    ]
    head = ("in the paper", "here", f"difference in {report._titled(primary)} (95 %)", "p")
    return [
        "<h2>What the paper found</h2>",
        "<p class='note'>Relations that Tajbakhsh et al. 2016 report for this application, on "
        "other data and with other weights. Not shown: the paired test does not "
        "tell the two apart; no contradiction: nor should it. These questions were fixed before "
        "the data, so p is adjusted by Holm's method over those of one kind alone (two methods, "
        "two interfaces, less data), not over all pairs.</p>",
        f"<div class='words'>{report._table(head, rows)}</div>",
    ]


def _pair_table(pairs: Sequence[families.Pair]) -> str:
    tests = list(dict.fromkeys(test for pair in pairs for test in pair.p))
    titles = {"delong": "DeLong", **report.TESTS}
    head = ["pair", "difference (95 %)", "effect size d", "bars disjoint"]
    for test in tests:
        head += [f"p, {titles[test]}", "Holm"]
    rows = []
    for pair in pairs:
        cells = []
        for test in tests:
            cells += [report.p_value(pair.p.get(test)), report.p_value(pair.holm.get(test))]
        rows.append(
            (
                f"{pair.first} − {pair.second}",
                answer.interval(pair.difference, pair.merit, unit=False),
                "–" if math.isnan(pair.effect) else f"{pair.effect:.2f}",
                "yes" if pair.bars_disjoint else "no",
                *cells,
            )
        )
    return report._table(head, rows)


def _runs(plan: Plan, gathered: Gathered) -> str:
    rows = tables.run_rows(plan, gathered)
    finished = [*gathered.runs, *gathered.passed_over]
    done = {run.planned.name: run.planned for run in finished}
    body = ""
    for row in rows:
        name = _text(row["run"])
        if row["run"] in done and not done[row["run"]].is_counterpart:
            name = f"<a href='runs/{name}/report.html'>{name}</a>"
        cells = [name, *(_text(_cell(row[key])) for key in list(row)[1:])]
        body += "<tr>" + "".join(f"<td class='n'>{cell}</td>" for cell in cells) + "</tr>"
    head = "".join(f"<th>{_text(key.replace('_', ' '))}</th>" for key in rows[0])
    table = f"<div class='wide'><table><tr>{head}</tr>{body}</table></div>"
    minutes = sum(row["minutes"] or 0.0 for row in rows)
    title = f"{len(rows)} runs, {len(done)} finished, {minutes / 60:.1f} hours in sum"
    return f"<details open><summary>{title}</summary>{table}</details>"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _number(value: float, merit: str) -> str:
    return report.number(value, report.measure_name(merit)[1])


def _caution(text: str) -> str:
    return f"<p class='caution'>{_text(text)}</p>"


_text = report._text
