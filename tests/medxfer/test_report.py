import base64
import dataclasses
import html.parser
import io
import types

import numpy as np
import pytest
from matplotlib import figure as figures
from PIL import Image

from medxfer import experiment, report, runs, tuning
from medxfer.config import Config

HOSTILE = "<script>alert('x')</script>&\"<img src=http://evil.example/x.png>"


def interval(estimate, caution=""):
    return {
        "estimate": estimate, "low": estimate - 1, "high": estimate + 1, "p": 0.5, "level": 0.95,
        "clusters": 3, "caution": caution,
    }  # fmt: skip


def card(**config):
    metrics = {
        "lumen_intima_error_um": interval(12.345, "only 3 subjects: <too> narrow"),
        "thickness_error_mm": interval(0.123456),
    }
    pair = {
        "first": "fc6", "second": "handcrafted", "difference": interval(-3.21),
        "p": {"wilcoxon": 0.01234, "wilcoxon_subjects": 1e-7, "paired_t": None, "bootstrap": 0.5},
    }  # fmt: skip
    settings = Config(app="cimt", **config)
    groups = ("conv5", "fc6", "fc8")
    known = settings.tune if settings.tune.isidentifier() else "fc6"
    stages = tuning.stages_for(known, groups, settings, ("fc8",))
    return {
        "config": dataclasses.asdict(settings),
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "data": {
            "fingerprint": "f" * 64,
            "synthetic": not settings.data,
            "examples": {"train": 7, "test": 3},
            "subjects": {"train": 2, "test": 1},
        },
        "weights": {
            "source": "AlexNet of <somebody>",
            "sha256": "e" * 64,
            "new": ["fc8"],
            "loaded": ["conv1"],
        },  # fmt: skip
        "precision": "float32",
        "history": [{}, {}],
        "best_epoch": 0,
        "best_validation_auc": 0.98765,
        "versions": {"python": "3.12"},
        "metrics": {"fc6": metrics, "handcrafted": metrics},
        "comparison": {"lumen_intima_error_um": [pair]},
    }


class Page(html.parser.HTMLParser):
    """Elements, links and text of a page; knows whether every element is closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.addresses, self.text, self.cells = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture
def drawn(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "map.png")
    return [report.Drawing("map", f"Caption {HOSTILE}", tmp_path / "map.png")]


@pytest.fixture
def folder():
    return types.SimpleNamespace(settings={"patch": 33, "note": HOSTILE})


APP = types.SimpleNamespace(UNIT="ROI")


def page(card, folder, drawn):
    return Page(report.html(APP, card, folder, drawn))


def test_the_page_needs_nothing_else_and_shows_the_figures(folder, drawn):
    found = page(card(), folder, drawn)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    (source,) = found.addresses
    head, content = source.split(",")
    assert head == "data:image/png;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    np.testing.assert_array_equal(image, np.asarray(Image.open(drawn[0].png)))
    assert "@import" not in found.text and "url(" not in found.text


def test_hostile_names_are_text(folder, drawn):
    hostile = card(tune=HOSTILE, model=HOSTILE, data=HOSTILE)
    hostile["weights"]["source"] = HOSTILE
    hostile["versions"] = {HOSTILE: HOSTILE}
    hostile["metrics"] = {HOSTILE: hostile["metrics"]["fc6"]}
    found = page(hostile, folder, drawn)
    assert not {"script", "iframe"} & set(found.tags)
    assert found.tags.count("img") == 1
    assert all(address.startswith("data:") for address in found.addresses)
    assert found.text.count("<script>alert('x')</script>") > 5


def test_numbers_and_cautions_are_shown(folder, drawn):
    found = page(card(data="set"), folder, drawn)
    assert "lumen-intima error, µm" in found.cells
    assert "12.3 (11.3 to 13.3)" in found.cells
    assert "0.123 (-0.877 to 1.123)" in found.cells
    for p in ("0.0123", "< 0.0001", "–", "0.5000"):
        assert p in found.cells
    assert "fc6 − handcrafted" in found.cells
    assert "Caution: only 3 subjects: <too> narrow." in found.text
    assert "(1 of 2)" in found.text  # the kept epoch
    assert "by bootstrap over 1 subjects" in found.text
    assert "synthetic" not in found.text


def test_settings_name_neither_folder_nor_file(folder, drawn):
    given = Config(app="cimt", data="/x/DOE_JOHN", weights="/y/DOE_JANE.h5")
    shown = experiment.without_paths(given)
    assert "DOE" not in str(shown) and shown["weights"] == "a file"
    named = dataclasses.asdict(dataclasses.replace(given, weights="imagenet"))
    del named["data"]
    assert experiment.without_paths(Config(**named)) == named
    found = page({**card(data="set"), "config": shown}, folder, drawn)
    assert "DOE" not in found.text and "e" * 64 in found.text


def test_synthetic_data_is_said_to_be_so(folder, drawn):
    assert "The images of this run are synthetic" in page(card(), folder, drawn).text


def test_a_search_for_the_depth_is_told_step_by_step(folder, drawn, tmp_path):
    gain = {**interval(0.5, "only 2 subjects: <few>"), "low": -0.25}
    path = [
        {"depth": "fc8", "score": 0.8, "gain": None, "accepted": True},
        {"depth": "fc6", "score": 0.91234, "gain": gain, "accepted": False},
    ]
    found = card(tune="fc6") | {"search": {"depth": "fc8", "path": path, "reason": "<enough>"}}
    page = Page(report.html(APP, found, folder, drawn))
    assert "fc8, found on the validation part alone: <enough>." in page.text
    place = page.cells.index("fc6", page.cells.index("tuned from"))
    assert page.cells[place : place + 4] == ["fc6", "0.9123", "+0.5000 (-0.2500 to +1.5000)", "no"]
    assert "depth        fc8: <enough>" in report.summary(tmp_path, found, "region")


def test_scratch_is_not_called_fine_tuning(folder, drawn):
    found = page(card(tune="scratch"), folder, drawn)
    assert "trained from scratch" in found.text
    assert "after AlexNet of" not in found.text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "um", "12.3"),
        (-0.04, "um", "0.0"),
        (0.12345, "mm", "0.123"),
        (0.98765, "auc", "0.988"),
        (float("nan"), "um", "–"),
        (None, "mm", "–"),
    ],
)
def test_number(value, unit, text):
    assert report.number(value, unit) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.05, "0.0500"), (1e-4, "0.0001"), (9.9e-5, "< 0.0001"), (1.0, "1.0000")]
)
def test_p_value(p, text):
    assert report.p_value(p) == text


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lumen_intima_error_um", ("lumen-intima error", "um")),
        ("media_adventitia_error_um", ("media-adventitia error", "um")),
        ("thickness_bias_mm", ("vertical thickness bias", "mm")),
        ("polyline_thickness_error_mm", ("polyline distance (PDM) error", "mm")),
    ],
)
def test_measure_name(key, name):
    assert report.measure_name(key) == name


def test_the_summary_aligns_its_columns_and_says_where_everything_is(tmp_path):
    content = card() | {"export": "export/cimt/1"}
    lines = report.summary(tmp_path / "runs" / "one", content, "region").splitlines()
    table = [line for line in lines if "handcrafted" in line or " to " in line]
    assert len(table) == 3
    starts = {line.rindex("12.3") for line in table if "12.3" in line}
    starts |= {table[0].index("handcrafted")}
    assert len(starts) == 1
    text = "\n".join(lines)
    for name in ("report.html", "figures", "metrics.json", "predictions.csv", "export/cimt/1"):
        assert str(tmp_path / "runs" / "one" / name) in text
    assert "best epoch   1, validation AUC 0.9877" in text
    assert "new: fc8" in text
    assert text.count("Caution") == 1  # the same one of several measures
    assert "SavedModel" not in report.summary(tmp_path, card(), "region")


def test_draw_writes_png_and_pdf(tmp_path):
    def figure():
        drawing = figures.Figure(figsize=(1, 1))
        drawing.add_subplot().plot([0, 1])
        return drawing

    app = types.SimpleNamespace(
        figures=lambda methods, history: {"one": (figure(), "First."), "two": (figure(), "Second.")}
    )
    drawn = report.draw(runs.RunFolder(tmp_path), app, {"fc6": []}, [])
    assert [(d.name, d.caption) for d in drawn] == [("one", "First."), ("two", "Second.")]
    found = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert found == ["one.pdf", "one.png", "two.pdf", "two.png"]
    for drawing in drawn:
        Image.open(drawing.png).verify()


def test_the_method_of_a_strategy_is_told_by_its_stages():
    text = report._method(card(tune="lp_ft"))
    assert "tuned by lp_ft" in text and "Davila" in text
    for stage in tuning.stages_for("lp_ft", ("conv5", "fc8"), Config(app="cimt"), ("fc8",)):
        assert f"{stage.name}: {stage.optimizer}" in text
    assert "Tajbakhsh" not in text
    assert "from fc6 to the last layer" in report._method(card(tune="fc6"))
