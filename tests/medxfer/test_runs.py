import csv
import dataclasses
import hashlib
import json
import pathlib
import re
import threading
from concurrent import futures

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import runs
from medxfer.config import Config

CONFIG = Config(app="cimt", data="records")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MEDXFER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/medxfer"),
        ({"HOME": "/home/me"}, "/home/me/.cache/medxfer"),
    ],
)
def test_cache_folder(monkeypatch, environment, expected):
    for name in ("MEDXFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runs.cache_folder() == pathlib.Path(expected)


def test_a_default_name_is_legible_and_depends_on_every_setting():
    name = runs.default_name(CONFIG)
    assert re.fullmatch(r"cimt-alexnet-fc6-[0-9a-f]{8}", name)
    assert name == runs.default_name(Config(app="cimt", data="records"))
    others = [Config(app="cimt"), Config(app="cimt", data="records", gamma=0.9)]
    assert len({name, *map(runs.default_name, others)}) == 3


def test_a_run_begins_goes_on_and_is_finished_by_its_card(tmp_path):
    run = runs.RunFolder(tmp_path / "deep" / "run")
    run.begin(CONFIG)
    assert names(run.path) == ["config.json"]
    assert Config.load(run.path / "config.json") == CONFIG
    (run.path / "checkpoints").mkdir()
    run.begin(CONFIG)
    assert not run.finished
    with pytest.raises(UserError, match="not a finished run"):
        _ = run.card
    run.write_json("run_card.json", {"app": "cimt"})
    assert run.finished
    assert run.card == {"app": "cimt"}
    run.begin(CONFIG)


def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path):
    run = runs.RunFolder(tmp_path)
    run.begin(CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = Config(app="cimt", data="records", epochs=7, seed=3)
    for refuse in (run.check, run.begin):
        with pytest.raises(UserError, match="other settings") as caught:
            refuse(other)
        changed = re.search(r"\((.*)\)", str(caught.value)).group(1)
        assert sorted(changed.split("; ")) == ["epochs was 30", "seed was 0"]
    assert (tmp_path / "config.json").read_bytes() == before
    assert names(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", ["folder", "file"])
def test_what_is_no_run_folder_is_left_alone(tmp_path, content):
    path = tmp_path / "thesis"
    if content == "folder":
        path.mkdir()
        (path / "chapter1.tex").write_text("precious")
    else:
        path.write_text("precious")
    for refuse in (runs.RunFolder(path).check, runs.RunFolder(path).begin):
        with pytest.raises(UserError, match="not empty and is no run folder"):
            refuse(CONFIG)
    assert names(tmp_path) == ["thesis"]
    assert (path if path.is_file() else path / "chapter1.tex").read_text() == "precious"


def test_check_writes_nothing(tmp_path):
    runs.RunFolder(tmp_path / "new").check(CONFIG)
    assert names(tmp_path) == []


def test_an_interrupted_beginning_is_no_obstacle(tmp_path):
    (tmp_path / "config.partial").write_text('{"app": ')
    runs.RunFolder(tmp_path).begin(CONFIG)
    assert names(tmp_path) == ["config.json"]


def test_a_damaged_card_is_the_users_error(tmp_path):
    (tmp_path / "run_card.json").write_text('{"app": ')
    with pytest.raises(UserError, match="no readable run_card.json"):
        _ = runs.RunFolder(tmp_path).card


def test_files_appear_whole_or_not_at_all(tmp_path):
    run = runs.RunFolder(tmp_path)
    run.write_text("report.html", "µm äöü")
    assert (tmp_path / "report.html").read_bytes() == "µm äöü".encode()
    with pytest.raises(TypeError):
        run.write_json("card.json", {"weights": object()})
    with pytest.raises(ValueError, match="fieldnames"):
        run.write_table("table.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert not (tmp_path / "card.json").exists()
    assert not (tmp_path / "table.csv").exists()


def test_nothing_is_left_where_there_is_no_room(tmp_path, monkeypatch):
    run = runs.RunFolder(tmp_path)
    run.write_text("report.html", "before")

    def full(path, text, **options):
        with path.open("w") as file:
            file.write(text[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        run.write_text("report.html", "after")
    assert names(tmp_path) == ["report.html"] and (tmp_path / "report.html").read_text() == "before"


def test_who_writes_the_same_file_meanwhile_does_not_disturb(tmp_path):
    """Shards that come to their end together write the same tables and the same page."""
    run = runs.RunFolder(tmp_path)
    wanted = {n: [{"run": n, "value": i} for i in range(300)] for n in "abcd"}
    start = threading.Barrier(len(wanted))

    def write(name):
        start.wait()
        for _ in range(30):
            run.write_table("table.csv", wanted[name])
            run.write_text("report.html", name * 10_000)
            run.write_json("study.json", {"run": [name] * 1000})

    with futures.ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(write, wanted))
    assert names(tmp_path) == ["report.html", "study.json", "table.csv"]
    page = (tmp_path / "report.html").read_text()
    assert page in {name * 10_000 for name in wanted}
    assert len(set(json.loads((tmp_path / "study.json").read_text())["run"])) == 1
    with (tmp_path / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 300 and len({row["run"] for row in found}) == 1


def test_settings_of_later_versions_leave_earlier_names_alone():
    later = {name: getattr(CONFIG, name) for name in runs.LATER}
    assert later == {
        "maps": "dense", "weights_input": "auto", "schedule": "staircase",
        "strategy_settings": "authors",
    }  # fmt: skip
    earlier = dataclasses.asdict(CONFIG)
    for name in later:
        del earlier[name]
    digest = hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()
    assert runs.default_name(CONFIG) == f"cimt-alexnet-fc6-{digest[:8]}"
    changed = dataclasses.replace(CONFIG, maps="coarse_to_fine")
    assert runs.default_name(changed) != runs.default_name(CONFIG)
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    assert all(value == defaults[name] for name, value in later.items())


def test_json_is_standard_and_keeps_every_digit(tmp_path):
    content = {"b": 0.1 + 0.2, "a": [1, None, "µ"], "missing": {"p": float("nan")}}

    def refuse(constant):
        raise ValueError(constant)

    path = runs.RunFolder(tmp_path).write_json("metrics.json", content)
    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"b": 0.1 + 0.2, "a": [1, None, "µ"], "missing": {"p": None}}


def test_a_table_is_read_back(tmp_path):
    rows = [{"unit": "a,b", "error": 1.5}, {"unit": 'quote " and\nline', "error": float("nan")}]
    path = runs.RunFolder(tmp_path).write_table("predictions.csv", rows)
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["unit"] for row in found] == [row["unit"] for row in rows]
    assert float(found[0]["error"]) == 1.5 and np.isnan(float(found[1]["error"]))
    assert names(tmp_path) == ["predictions.csv"]


def test_open_run_needs_a_configuration(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        runs.open_run(str(tmp_path))
    runs.RunFolder(tmp_path).begin(CONFIG)
    assert runs.open_run(str(tmp_path)).path == tmp_path


def test_a_name_is_the_same_folder_everywhere_and_a_path_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").mkdir()  # is no run
    assert runs.place("first", "out") == pathlib.Path("out/first")
    for path in ("./first", "out/first", "/out/first", "..", "first/"):
        assert runs.place(path, "other") == pathlib.Path(path)
    runs.RunFolder(tmp_path / "first").begin(CONFIG)
    assert runs.place("first", "out") == pathlib.Path("first")
    with pytest.raises(UserError, match=r"^out/second is no run .*nor is second, in the working"):
        runs.open_run("second", "out")
    runs.RunFolder(tmp_path / "out" / "first").begin(CONFIG)
    assert runs.open_run("first", "out").path == pathlib.Path("out/first")


def test_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert runs.sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path):
    run = runs.RunFolder(tmp_path / "run")
    run.begin(CONFIG)
    run.require_inputs("records 1", "weights 1")
    run.require_inputs("records 1", "weights 1")
    for data, weights, named in (("2", "weights 1", "data"), ("records 1", "2", "weights")):
        with pytest.raises(UserError, match=f"other {named}, which have changed"):
            run.require_inputs(data, weights)


def test_a_finished_run_stands_for_its_own_records_alone(tmp_path):
    run = runs.RunFolder(tmp_path / "run")
    run.begin(CONFIG)
    run.write_json("run_card.json", {"data": {"fingerprint": "a"}})
    records = tmp_path / "records"
    records.mkdir()
    run.require_same_data("")  # the phantom
    run.require_same_data(str(records))  # nothing is there any more
    for fingerprint in ("a", "b"):
        (records / "prep.json").write_text(json.dumps({"fingerprint": fingerprint}))
        if fingerprint == "a":
            run.require_same_data(str(records))
        else:
            with pytest.raises(UserError, match="learnt from other records"):
                run.require_same_data(str(records))


def test_assets_are_kept_with_the_run(tmp_path):
    source = tmp_path / "detector.npz"
    source.write_bytes(b"trees")
    run = runs.RunFolder(tmp_path / "run")
    run.begin(CONFIG)
    run.keep({"detector.npz": source})
    assert names(run.assets) == ["detector.npz"]
    assert (run.assets / "detector.npz").read_bytes() == b"trees"


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    run = runs.RunFolder(tmp_path / "run")
    run.require_inputs("a", "b", write=False)
    assert not run.path.exists()
    run.begin(CONFIG)
    run.require_inputs("a", "b")
    run.require_inputs("a", "b", write=False)
    with pytest.raises(UserError, match="began with other weights"):
        run.require_inputs("a", "c", write=False)


def test_a_worker_may_look_while_the_chief_writes(tmp_path, monkeypatch):
    run = runs.RunFolder(tmp_path)
    exists = pathlib.Path.exists

    def before(path, **options):
        found = exists(path, **options)
        if path.name == "config.json" and not found:
            CONFIG.save(path)  # by the chief, just after the look
        return found

    monkeypatch.setattr(pathlib.Path, "exists", before)
    run.check(CONFIG)


def test_the_hash_of_a_card_is_that_of_its_training(tmp_path):
    run, card = (
        runs.RunFolder(tmp_path),
        {"config": {"seed": 1}, "history": [float("nan")], "n": (2,)},
    )
    first = runs.card_hash(card)
    later = {"metrics": {}, "seconds": {"evaluation": 3.0}, "export": "1", "run_card_hash": first}
    run.write_json("run_card.json", {**card, **later})
    assert runs.card_hash(run.card) == first
    text = json.dumps({"config": {"seed": 1}, "history": [None], "n": [2]})
    assert hashlib.sha256(text.encode()).hexdigest() == first
    assert runs.card_hash({**card, "config": {"seed": 2}}) != first
