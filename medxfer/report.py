"""What people look at: figures, a self-contained HTML page, and the closing summary."""

import base64
import dataclasses
import html as escape
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType

from medxfer.runs import RunFolder

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: #fff; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; } code { font-size: .85em; }
.caution { background: #fff4d6; padding: .6rem .9rem; border-left: 4px solid #d98e00; }
"""

TESTS = {
    "wilcoxon": "Wilcoxon, units",
    "wilcoxon_subjects": "Wilcoxon, subject means",
    "paired_t": "paired t, units",
    "bootstrap": "bootstrap over subjects",
}

_WRITTEN = {
    "polyline thickness": "polyline distance (PDM)",
    "thickness": "vertical thickness",
    "lumen intima": "lumen-intima",
    "media adventitia": "media-adventitia",
    "auc": "AUC",
    " fp ": " FP ",
    " fpr": " FPR",
}


_UNTESTED = "There was no test part: nothing is evaluated. Do so on other data:"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure on disk."""

    name: str
    caption: str
    png: pathlib.Path


_MADE = ("date", "command", "commit", "machine")  # of the run card


def draw(
    run: RunFolder, app: ModuleType, methods: Mapping[str, Sequence], history: Sequence[Mapping]
) -> list[Drawing]:
    """Write the app's figures as PNG and PDF to ``figures/`` of the run.

    Without any method, because there was no test part, that of the training alone.
    """
    from medxfer.apps import _curves
    from medxfer.evaluation import figures

    found = app.figures(methods, history) if methods else _curves.course("network", history)
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, (figure, caption) in found.items():
        figures.save(figure, folder / name)
        drawn.append(Drawing(name, caption, folder / f"{name}.png"))
    return drawn


def log_figures(run: RunFolder, drawn: Sequence[Drawing]) -> None:
    """Show the figures in TensorBoard, beside the curves of the run."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(run.path / "logs" / "figures"))
    with writer.as_default(step=0):
        for drawing in drawn:
            image = tf.io.decode_png(drawing.png.read_bytes(), channels=3)[None]
            tf.summary.image(drawing.name, image, description=drawing.caption)
    writer.close()


#: Last words of the names of measures that are units, and how they are printed.
UNITS = {"um": "µm", "mm": "mm"}


def number(value: float | None, unit: str) -> str:
    """A value with as many digits as its unit deserves; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:.1f}" if unit == "um" else f"{value:.3f}"
    return text if float(text) else text.removeprefix("-")


def measure_name(key: str) -> tuple[str, str]:
    """``lumen_intima_error_um`` -> ("lumen-intima error", "um"); no unit: an empty text.

    What follows a colon is a name of the user's, a class, and stays as it is.
    """
    key, colon, own = key.partition(": ")
    if colon:
        return f"{measure_name(key)[0]}: {own}", ""
    words = key.split("_")
    unit = words.pop() if words[-1] in UNITS else ""
    text = " ".join(words)
    for plain, written in _WRITTEN.items():
        text = text.replace(plain, written)
    return text, unit


def _titled(key: str) -> str:
    """A measure's name with its unit."""
    name, unit = measure_name(key)
    return f"{name}, {UNITS[unit]}" if unit else name


def metric_rows(metrics: Mapping[str, Mapping]) -> list[tuple[str, ...]]:
    """One row per measure: name, then a column per method with its 95 % interval."""
    methods = list(metrics)
    table = []
    for key in metrics[methods[0]]:
        unit = measure_name(key)[1]
        cells = [
            "{} ({} to {})".format(
                *(number(metrics[method][key][part], unit) for part in ("estimate", "low", "high"))
            )
            for method in methods
        ]
        table.append((_titled(key), *cells))
    return table


def summary(path: pathlib.Path, card: Mapping, unit: str) -> str:
    """The closing lines of a run on the terminal."""
    metrics = card["metrics"]
    lines = [""]
    if metrics:
        table = [(f"test {unit}s (95 % interval)", *metrics), *metric_rows(metrics)]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            lines.append("  " + "   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)))
    else:
        lines.append(f"  {_UNTESTED} --mode=evaluate --run={path} --data=OTHER")
    lines += [f"  Caution: {caution}." for caution in _cautions(card)]
    source = card["weights"]
    lines += [
        "",
        f"  weights      {source['source']}"
        + (f"; new: {', '.join(source['new'])}" if source["new"] else ""),
        *(
            [f"  depth        {card['search']['depth']}: {card['search']['reason']}"]
            if "search" in card
            else []
        ),
        f"  best epoch   {card['best_epoch'] + 1}{_of_stage(card)}, "
        f"validation AUC {card['best_validation_auc']:.4f}",
        f"  report       {path / 'report.html'}",
        f"  figures      {path / 'figures'}",
        *(
            [f"  numbers      {path / 'metrics.json'}, {path / 'predictions.csv'}"]
            if metrics
            else []
        ),
        *([f"  SavedModel   {path / card['export']}"] if "export" in card else []),
        f"  TensorBoard  tensorboard --logdir {path.parent}",
    ]
    return "\n".join(lines)


def html(app: ModuleType, card: Mapping, folder, drawn: Sequence[Drawing]) -> str:
    """The report as one page that needs no other file."""
    config, counts = card["config"], card["data"]
    settings = {**config, "sha256 of the weights it began with": card["weights"]["sha256"]}
    parts = [f"<h1>{_text(config['app'])}: {_text(config['model'])}, {_text(_tuned(card))}</h1>"]
    if counts["synthetic"]:
        parts.append(
            "<p class='caution'>The images of this run are synthetic (the app's phantom). Its "
            "numbers show that the software works, not how well it works on patients.</p>"
        )
    parts += [
        "<h2>Result</h2>",
        *(_results(app, card) if card["metrics"] else [f"<p>{_UNTESTED} --mode=evaluate.</p>"]),
        *_search(card),
        "<h2>Figures</h2>",
        *(_figure(drawing) for drawing in drawn),
        "<h2>Data</h2>",
        _table(
            ("split", "subjects", "examples"),
            [
                (split, str(counts["subjects"][split]), str(counts["examples"][split]))
                for split in counts["examples"]
            ],
        ),
        "<p>No subject is in two splits; this was checked when the records were written and "
        f"again when they were read. Fingerprint <code>{_text(counts['fingerprint'])}</code>.</p>",
        "<h2>Method</h2>",
        f"<p>{_text(_method(card))}</p>",
        "<h2>Settings</h2>",
        _table(("setting", "value"), [(k, json.dumps(v)) for k, v in sorted(settings.items())]),
        _table(
            ("prepared with", "value"), [(k, json.dumps(v)) for k, v in folder.settings.items()]
        ),
        _table(
            ("made", "value"),
            [
                (k, json.dumps(card[k]))
                for k in ("date", "command", "commit", "machine")
                if k in card
            ],
        ),
        _table(("package", "version"), sorted(card["versions"].items())),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>medxfer: {_text(config['app'])}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _results(app: ModuleType, card: Mapping) -> list[str]:
    """What came out on the test part."""
    counts = card["data"]
    return [
        f"<p>On the {counts['examples']['test']} test {_text(app.UNIT)}s, with 95 % intervals by "
        f"bootstrap over {counts['subjects']['test']} subjects; near an end of a measure's range "
        "Clopper and Pearson's limits, by subjects.</p>",
        _table(("", *card["metrics"]), metric_rows(card["metrics"])),
        *(f"<p class='caution'>Caution: {_text(c)}.</p>" for c in _cautions(card)),
        "<h2>Is the difference real?</h2>",
        "<p class='note'>Difference (first minus second) with its 95 % interval, and p-values, not "
        "adjusted for the number of comparisons. "
        f"The {_text(app.UNIT)}s of one subject are not independent: tests on subject means and "
        "the bootstrap respect that.</p>",
        _table(("measure", "pair", "difference", *_tests(card)), _comparison_rows(card)),
    ]


def _search(card: Mapping) -> list[str]:
    """How a depth was found on the validation part."""
    if "search" not in card:
        return []
    from medxfer.studies import auto

    found = card["search"]
    head = ("tuned from", "validation score", "gain over the depth taken before", "taken")
    return [
        "<h2>Which depth?</h2>",
        f"<p>{_text(found['depth'])}, found on the validation part alone: "
        f"{_text(found['reason'])}. A deeper setting is taken if its gain is more than its noise: "
        "if the 95 % interval by bootstrap over the validation subjects lies above 0.</p>",
        _table(head, auto.summary(found)),
    ]


def _of_stage(card: Mapping) -> str:
    """The stage of the best epoch, where there are several."""
    several = len(card.get("stages", ())) > 1 and "best_stage" in card
    return f", in stage {card['best_stage']}" if several else ""


def _method(card: Mapping) -> str:
    config, source = card["config"], card["weights"]
    kept = (
        f"The epoch with the best validation AUC was kept ({card['best_epoch'] + 1} of "
        f"{len(card['history'])}{_of_stage(card)}). Test subjects took no part in any choice."
    )
    common = (
        f"batch {config['batch_size']}, dropout {config['dropout']}, seed {config['seed']}, "
        f"{card['precision']}{_balanced(config)}"
    )
    if _is_depth(card) or "search" in card:
        begin = "" if config["tune"] == "scratch" else f", after {source['source']},"
        cosine = config.get("schedule") == "cosine"  # earlier versions had no other
        course = "along half a cosine" if cosine else f"factor {config['gamma']} per epoch"
        return (
            f"{config['model']} was {_tuned(card)}{begin} by {_optimizer(card)}"
            f"rate {config['base_rate']}, {config['new_multiplier']} times "
            f"as much for layers without pre-trained weights, bias rates "
            f"{config['bias_multiplier']} times the weight rates, "
            f"{course}, L2 {config['weight_decay']}, {common}), following Tajbakhsh et al., IEEE "
            f"TMI 35(5):1299-1312, 2016. {kept}"
        )
    decay = config["weight_decay"]
    stages = "; ".join(
        f"{stage['name']}: {stage['optimizer']}, rate {stage['base_rate']:g}, "
        f"L2 {decay if stage['weight_decay'] is None else stage['weight_decay']:g}, "
        f"at most {stage['epochs']} epochs, {stage['schedule']} schedule"
        for stage in card["stages"]
    )
    return (
        f"{config['model']}, after {source['source']}, was {_tuned(card)} ({common}), one of the "
        f"strategies compared by Davila et al., Image and Vision Computing 146:105012, 2024. "
        f"Stages: {stages}. {kept}"
    )


def _optimizer(card: Mapping) -> str:
    if card["stages"][0]["optimizer"] == "adam":
        return "Adam ("
    return f"stochastic gradient descent (momentum {card['config']['momentum']}, "


def _balanced(config: Mapping) -> str:
    how = {"weights": "weights in the loss", "sampling": "as many images of each in every epoch"}
    balance = config.get("balance", "none")
    return f", classes balanced by {how[balance]}" if balance in how else ""


def _is_depth(card: Mapping) -> bool:
    """Whether the run tuned from a layer group on, or all from scratch, and not by a strategy."""
    tune, stages = card["config"]["tune"], card["stages"]
    return tune == "scratch" or any(tune in stage["multipliers"] for stage in stages)


def _tuned(card: Mapping) -> str:
    tune = card["config"]["tune"]
    if tune == "scratch":
        return "trained from scratch"
    if "search" in card:
        return "tuned to the depth that the validation part recommended"
    return f"tuned from {tune} to the last layer" if _is_depth(card) else f"tuned by {tune}"


def _comparison_rows(card: Mapping) -> list[tuple[str, ...]]:
    rows = []
    for key, pairs in card["comparison"].items():
        unit = measure_name(key)[1]
        for pair in pairs:
            parts = (number(pair["difference"][p], unit) for p in ("estimate", "low", "high"))
            rows.append(
                (
                    _titled(key),
                    f"{pair['first']} − {pair['second']}",
                    "{} ({} to {})".format(*parts),
                    *(p_value(pair["p"][test]) for test in TESTS if test in pair["p"]),
                )
            )
    return rows


def _tests(card: Mapping) -> list[str]:
    """Titles of the tests that the comparison holds."""
    used = {test for pairs in card["comparison"].values() for pair in pairs for test in pair["p"]}
    return [title for test, title in TESTS.items() if test in used]


def p_value(p: float | None) -> str:
    """A p-value as it is printed; a dash where there is none."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _cautions(card: Mapping) -> list[str]:
    found = {v["caution"] for m in card["metrics"].values() for v in m.values()} - {""}
    return [*card.get("cautions", ()), *sorted(found)]


def _figure(drawing: Drawing) -> str:
    image = base64.b64encode(drawing.png.read_bytes()).decode()
    caption = _text(drawing.caption)
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{image}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td class='n'>{_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><tr>{titles}</tr>{body}</table></div>"


def _text(value: str) -> str:
    return escape.escape(str(value), quote=True)
