"""README shows the figures of the kept benchmark file, and no others."""

import importlib.util
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(name="run")
def fixture_run(monkeypatch):
    """The script ``benchmarks/run.py`` as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("run_benchmarks", ROOT / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("_shared", None)


def test_readme_shows_the_kept_figures(run):
    found = json.loads(run.KEPT.read_text())
    table = run.README.read_text().partition(run.MARKS[0])[2].partition(run.MARKS[1])[0]
    assert table.strip() == run.markdown(found).strip()
    figures = [figure for entry in found["benchmarks"].values() for figure in entry["figures"]]
    rows = [line for line in table.splitlines() if ".py` | " in line]
    assert len(figures) == len(rows) > 10
    for figure, row in zip(figures, rows, strict=True):
        assert f"| {figure['name']} | {figure['value']:.3g} {figure['unit']} |" in row


def test_kept_figures_are_of_every_script(run):
    found = json.loads(run.KEPT.read_text())
    assert list(found["benchmarks"]) == list(run.SCRIPTS)
    assert all(entry["figures"] for entry in found["benchmarks"].values())


def test_a_figure_that_failed_is_said(run, tmp_path, monkeypatch):
    found = json.loads(run.KEPT.read_text())
    found["benchmarks"] = {"froc_bootstrap": {"figures": [], "seconds": 1, "failed": "no memory"}}
    for name in ("KEPT", "README"):
        monkeypatch.setattr(run, name, tmp_path / name)
    run.KEPT.write_text(json.dumps(found))
    run.README.write_text(f"before\n{run.MARKS[0]}old\n{run.MARKS[1]}after\n")
    run.update_readme()
    lines = run.README.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| `froc_bootstrap.py` | not run: no memory | | |" in lines
    assert "old" not in lines
