import dataclasses
import json

import pytest

from data_prep.errors import UserError
from medxfer.config import Config

WRONG = {
    "fraction": [0, -0.1, 1.5, float("nan")],
    "epochs": [0, -1],
    "patience": [0],
    "batch_size": [0],
    "base_rate": [0, -1e-3, float("nan")],
    "new_multiplier": [0],
    "bias_multiplier": [0],
    "momentum": [-0.1, 1],
    "gamma": [0, 1.01],
    "weight_decay": [-1e-9],
    "optimizer": ["rmsprop"],
    "freeze_bn": ["yes"],
    "head_init": ["zeros"],
    "l2_sp_alpha": [-1],
    "l1_sp_alpha": [-1],
    "sp_beta": [-1, float("nan")],
    "dropout": [-0.1, 1],
    "precision": ["half"],
    "distribute": ["everywhere"],
    "init": ["zeros"],
    "maps": ["fast"],
    "cache": ["tape"],
    "cache_dtype": ["int8"],
    "cache_gib": [0],
    "seed": [-1, 2**31],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_wrong_setting_is_named_with_its_rule(name, value):
    with pytest.raises(UserError, match=rf"^--{name} must be .*Received: .*\.$") as caught:
        Config(app="cimt", **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "limits", [{"fraction": 1}, {"momentum": 0}, {"dropout": 0}, {"gamma": 1}, {"seed": 2**31 - 1}]
)
def test_the_limits_themselves_are_allowed(limits):
    Config(app="cimt", **limits)


def test_json_gives_the_same_run_back(tmp_path):
    config = Config(app="cimt", tune="conv1", data="some ünïcode/folder", base_rate=0.1 + 0.2)
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text()) == dataclasses.asdict(config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not a readable run configuration"),
        ("{", "not a readable run configuration"),
        ("[1]", "not a table"),
        ("null", "not a table"),
        ('{"app": "cimt", "colour": 1}', "unknown settings: colour"),
        ("{}", "not a whole run configuration"),
        ('{"app": "cimt", "epochs": "many"}', "not a whole run configuration"),
        ('{"app": "cimt", "epochs": 0}', "--epochs must be at least 1"),
    ],
)
def test_what_is_no_configuration_is_the_users_error(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        Config.load(path)
