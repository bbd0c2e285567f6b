import subprocess
import sys

import pytest

from data_prep.errors import UserError
from medxfer import plugins


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "shelf_of_books"
    folder.mkdir()
    for name in ("__init__", "zebra", "apple", "_shared"):
        (folder / f"{name}.py").write_text(f"title = {name!r}\n")
    (folder / "broken.py").write_text("raise RuntimeError('imported')\n")
    (folder / "readme.txt").write_text("no module")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_names_are_modules_without_underscore(package):
    assert plugins.names(package) == ["apple", "broken", "zebra"]
    assert not [name for name in sys.modules if name.startswith(f"{package}.")]


def test_a_package_that_does_not_exist_has_no_plug_in(tmp_path):
    assert plugins.names("medxfer.nothing") == []
    assert plugins.names("medxfer.plugins") == []  # a module


def test_check_imports_nothing(package):
    plugins.check(package, "broken")
    assert f"{package}.broken" not in sys.modules


def test_load_imports_the_module(package):
    assert plugins.load(package, "zebra").title == "zebra"


@pytest.mark.parametrize("name", ["pear", "_shared", "", "apple.core", "../apple", "__init__"])
def test_an_unknown_name_lists_the_valid_ones(package, name):
    with pytest.raises(UserError, match="Valid names: apple, broken, zebra.$"):
        plugins.load(package, name)


def test_the_kind_is_named():
    with pytest.raises(UserError, match="^No model is called 'alexnt'. Valid names: alexnet, "):
        plugins.check("medxfer.models", "alexnt")
    with pytest.raises(UserError, match="^No app is called 'cmit'. Valid names: .*cimt"):
        plugins.check("medxfer.apps", "cmit")


def test_a_network_is_found_by_its_file_alone(tiny_network):
    assert plugins.constant("medxfer.models", tiny_network, "RATE") == 0.001
    with pytest.raises(LookupError, match="tiny_network.py defines no ABSENT"):
        plugins.constant("medxfer.models", tiny_network, "ABSENT")
    assert tiny_network in plugins.names("medxfer.models")
    assert plugins.load("medxfer.models", tiny_network).INPUT_SIDE == 32


def test_listing_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys\nfrom medxfer import plugins\n"
        "plugins.names('medxfer.apps'), plugins.names('medxfer.models')\n"
        "heavy = {'keras', 'tensorflow', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
