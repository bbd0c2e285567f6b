"""What an audit asks of a result, without what may name a person."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import types

import numpy as np
import pytest

from medxfer import provenance


@pytest.fixture
def run_as(monkeypatch):
    def become(*words):
        spec = types.SimpleNamespace(name="medxfer.main")
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
        monkeypatch.setattr(sys, "argv", ["main.py", *words])

    return become


def test_the_command_without_files_folders_and_secrets(run_as, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Doe").mkdir()
    run_as(
        "--app=cimt", "--data=/wards/Doe", "--data", "Doe", "--run", "Doe-2", "-tune=fc6",
        "--pseudonym_key=secret", "--pseudonym_key", "secret", "--weights=imagenet",
        "--weights=Doe.pth", "--other=/home/Doe/x", "Doe", "--seed", "3", "--rates=0.1,0.2",
    )  # fmt: skip
    text = provenance.command()
    assert "Doe" not in text and "secret" not in text
    assert text == (
        "python -m medxfer.main --app=cimt --data=... --data ... --run ... -tune=fc6 "
        "--pseudonym_key=... --pseudonym_key ... --weights=imagenet --weights=... --other=... ... "
        "--seed 3 --rates=0.1,0.2"
    )


def test_outside_a_command_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=None))
    assert provenance.command() == ""


def test_everything_is_plain_json_and_true():
    found = json.loads(json.dumps(provenance.provenance()))
    made = datetime.datetime.fromisoformat(found["date"])
    assert abs(datetime.datetime.now(datetime.UTC) - made) < datetime.timedelta(minutes=1)
    assert found["machine"]["cores"] == os.cpu_count()
    assert platform.node() not in json.dumps(found) or platform.node() in ("localhost", "main")
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    for name in ("pytest", "pillow"):  # imported by now, by whatever name
        assert found["versions"][name] == importlib.metadata.version(name)


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    code = tmp_path / "medxfer" / "provenance.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(code))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed())
    assert provenance.commit() == "0123"  # installed from a repository, which is not here
    git("init")
    assert provenance.commit() == "0123"  # a repository around it that does not hold it
    git("add", ".")
    git("commit", "-m", "first")
    assert provenance.commit() == git("rev-parse", "HEAD")
    code.write_text("changed")
    assert provenance.commit() == git("rev-parse", "HEAD") + "+changes"


class Installed:
    """A distribution that pip installed from a repository."""

    def read_text(self, name: str) -> str:
        assert name == "direct_url.json"
        return json.dumps({"url": "file:///x", "vcs_info": {"vcs": "git", "commit_id": "0123"}})


def test_an_installation_from_an_index_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(pathlib.Path(tmp_path, "provenance.py")))
    plain = types.SimpleNamespace(read_text=lambda name: None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: plain)
    assert provenance.commit() == ""
