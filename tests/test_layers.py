"""Imports run downwards only."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Folder or file -> what it must not import, anywhere in its text.
FORBIDDEN = {
    "data_prep": {"medxfer", "keras"},
    "medxfer/models": {"tensorflow", "medxfer.apps", "medxfer.tuning", "medxfer.training"},
    "medxfer/tuning": {"tensorflow", "medxfer.apps", "medxfer.models", "medxfer.training"},
    "medxfer/evaluation": {
        "tensorflow",
        "keras",
        "data_prep",
        "medxfer.apps",
        "medxfer.models",
        "medxfer.data",
        "medxfer.dataset_folder",
    },
    "medxfer/apps": {
        "keras",
        "tensorflow",
        "medxfer.models",
        "medxfer.tuning",
        "medxfer.main",
        "medxfer.experiment",
    },
    "medxfer/handcrafted": {"tensorflow", "keras", "medxfer.models", "medxfer.apps"},
}


def imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("place", sorted(FORBIDDEN))
def test_imports_run_downwards(place):
    files = sorted((ROOT / place).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            for banned in FORBIDDEN[place]:
                assert name != banned and not name.startswith(banned + "."), f"{path}: {name}"


def test_nothing_imports_tensorflow_addons():
    for package in ("medxfer", "data_prep"):
        for path in (ROOT / package).rglob("*.py"):
            names = imported(path)
            assert not any(n.startswith(("tensorflow_addons", "tf_keras")) for n in names), path
