import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from data_prep import runner, shards
from data_prep.errors import UserError
from tests.data_prep import fake


@pytest.fixture(scope="module")
def spills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spills")
    fake.write_studies(folder / "raw", 8)
    studies = fake.find(folder / "raw")
    layout = fake.layout()
    found, skipped = runner.run(
        fake.work,
        studies,
        folder / "work",
        extras=layout.extras,
        tokens=runner.tokens(studies, {}, 1),
    )
    assert not skipped
    return found


def parts_of(spills):
    subjects = sorted({spill.subject for spill in spills})
    return dict(zip(subjects, ["train", "train", "validation", "test"], strict=True))


def write(output, spills, parts=None, layout=None, **changes):
    arguments = {"seed": 0, "settings": {}, "inputs": "i", "skipped": {}, **changes}
    parts = parts or parts_of(spills)
    return shards.write_dataset(output, layout or fake.layout(), spills, parts, **arguments)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def raw_records(folder, split):
    paths = sorted(str(path) for path in folder.glob(f"fake-{split}.tfrecord-*"))
    return [record.numpy() for record in tf.data.TFRecordDataset(paths)]


def encoded(spill, kind):
    """(key, encoded example) of one kind, read front to back."""
    with spill.path.open("rb") as file:
        for other, entry in spill.index().items():
            for key, length in zip(entry["key"], entry["length"], strict=True):
                record = file.read(length)
                if other == kind:
                    yield key, record


@pytest.mark.parametrize(
    ("split", "part", "kind"), [("train", "train", "patch"), ("test", "test", "roi")]
)
def test_every_example_is_written_once_by_hashed_key(spills, tmp_path, split, part, kind):
    write(tmp_path / "data", spills, seed=7)
    expected = {
        hashlib.sha256(f"7\0{key}".encode()).hexdigest(): record
        for spill in spills
        if parts_of(spills)[spill.subject] == part
        for key, record in encoded(spill, kind)
    }
    assert raw_records(tmp_path / "data", split) == [expected[key] for key in sorted(expected)]


def test_a_balanced_split_keeps_equal_shares_in_the_same_order(spills, tmp_path):
    plain = write(tmp_path / "plain", spills)
    layout = dataclasses.replace(fake.layout(), balanced=("train",))
    balanced = write(tmp_path / "balanced", spills, layout=layout)
    counts = plain["splits"]["train"]["labels"]
    fewest = min(counts.values())
    assert set(counts.values()) != {fewest}
    assert balanced["splits"]["train"]["labels"] == dict.fromkeys(counts, fewest)
    assert balanced["splits"]["test"] == plain["splits"]["test"]
    left, expected = dict.fromkeys(counts, fewest), []
    for record in raw_records(tmp_path / "plain", "train"):
        label = str(
            tf.train.Example.FromString(record).features.feature["label"].int64_list.value[0]
        )
        left[label] -= 1
        if left[label] >= 0:
            expected.append(record)
    assert raw_records(tmp_path / "balanced", "train") == expected


def test_assets_lie_beside_the_records(spills, tmp_path):
    write(tmp_path / "data", spills, assets={"detector.npz": b"trees"})
    assert (tmp_path / "data" / "assets" / "detector.npz").read_bytes() == b"trees"
    write(tmp_path / "without", spills)
    assert not (tmp_path / "without" / "assets").exists()


def test_bytes_do_not_depend_on_the_order_of_the_studies(spills, tmp_path):
    write(tmp_path / "a", spills)
    write(tmp_path / "b", spills[::-1])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_seed_decides_the_order(spills, tmp_path):
    for seed in (0, 1):
        write(tmp_path / str(seed), spills, seed=seed)
    one, other = (raw_records(tmp_path / str(seed), "train") for seed in (0, 1))
    assert one != other
    assert sorted(one) == sorted(other)


def test_shards_have_about_the_size_asked_for(spills, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write(whole, spills)
    prep = write(cut, spills, shard_bytes=3000)
    assert raw_records(whole, "train") == raw_records(cut, "train")
    assert raw_records(whole, "test") == raw_records(cut, "test")
    info = json.loads((cut / "dataset_info.json").read_text())
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    size = sum(len(record) for record in raw_records(whole, "train"))
    count = math.ceil(size / 3000)
    assert int(train["numBytes"]) == size
    names = [f"fake-train.tfrecord-{shard:05d}-of-{count:05d}" for shard in range(count)]
    assert list(prep["splits"]["train"]["sha256"]) == names
    lengths = [sum(1 for _ in tf.data.TFRecordDataset(str(cut / name))) for name in names]
    assert [int(length) for length in train["shardLengths"]] == lengths
    assert max(lengths) - min(lengths) <= 1
    for name, digest in prep["splits"]["train"]["sha256"].items():
        assert hashlib.sha256((cut / name).read_bytes()).hexdigest() == digest


def test_prep_and_truth_say_what_was_done(spills, tmp_path):
    written = write(tmp_path / "data", spills, settings={"patch": 5}, skipped={"c": "no scale"})
    prep = json.loads((tmp_path / "data" / "prep.json").read_text())
    assert prep == written
    assert prep["settings"] == {"patch": 5}
    assert prep["skipped"] == [{"case": "c", "reason": "no scale"}]
    assert prep["sources"] == {"found": 9, "used": 8}
    assert prep["mended"] == [
        {"case": spill.case, "what": what}
        for spill in sorted(spills, key=lambda spill: spill.case)
        for what in spill.mended
    ]
    examples = {split: content["examples"] for split, content in prep["splits"].items()}
    assert examples == {"train": 80, "validation": 40, "validation_roi": 2, "test": 2}
    assert sum(prep["splits"]["train"]["labels"].values()) == 80
    truth = json.loads((tmp_path / "data" / "truth.json").read_text())
    for split, part in (("train", "train"), ("validation_roi", "validation"), ("test", "test")):
        assert truth[split] == {
            spill.case: {"subject": spill.subject, "width": 32, "height": 24}
            for spill in spills
            if parts_of(spills)[spill.subject] == part
        }


def test_the_fingerprint_follows_sources_and_content(spills, tmp_path):
    variants = [{}, {"inputs": "j"}, {"seed": 1}]
    found = [
        write(tmp_path / str(place), spills, **variant)["fingerprint"]
        for place, variant in enumerate(variants)
    ]
    assert len(set(found)) == 3


def test_tfds_reads_the_folder(spills, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    write(tmp_path / "data", spills, shard_bytes=3000)
    builder = tfds.builder_from_directory(tmp_path / "data")
    assert builder.info.features["label"].names == ["dark", "bright"]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 80,
        "validation": 40,
        "validation_roi": 2,
        "test": 2,
    }
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "unit": tf.io.FixedLenFeature([], tf.string),
    }
    for split in ("train", "test"):
        by_tfds = {ex["unit"].decode(): ex for ex in tfds.as_numpy(builder.as_dataset(split))}
        records = raw_records(tmp_path / "data", split)
        assert len(by_tfds) == len(records)
        for record in records:
            ours = tf.io.parse_single_example(record, spec)
            read = by_tfds[ours["unit"].numpy().decode()]
            np.testing.assert_array_equal(read["image"], tf.io.decode_png(ours["image"]))
            expected = [1.5, np.nan, 3.0] if split == "test" else []
            np.testing.assert_array_equal(read["li"], expected)
            assert read["label"] in ((-1,) if split == "test" else (0, 1))


def test_a_split_without_examples_is_written_and_one_without_subjects_is_not(spills, tmp_path):
    layout = dataclasses.replace(
        fake.layout(), splits={"train": ("train", "patch"), "test": ("test", "other")}
    )
    parts = {subject: "train" for subject in parts_of(spills)}
    parts[spills[0].subject] = "test"
    prep = write(tmp_path / "a", spills, parts, layout)
    assert prep["splits"]["test"]["examples"] == 0
    assert len(prep["splits"]["test"]["subjects"]) == 1
    assert raw_records(tmp_path / "a", "test") == []
    prep = write(tmp_path / "b", spills, {subject: "train" for subject in parts}, layout)
    assert list(prep["splits"]) == ["train"]


def test_two_examples_of_one_key_are_an_error(spills, tmp_path):
    path = tmp_path / "twice.records"
    path.write_bytes(spills[0].path.read_bytes())
    index = spills[0].index()
    index["patch"]["key"][3] = index["patch"]["key"][5]
    path.with_suffix(".json").write_text(json.dumps({"index": index}))
    twice = [dataclasses.replace(spills[0], path=path), *spills[1:]]
    parts = {subject: "train" for subject in parts_of(spills)}
    with pytest.raises(UserError, match=f"same key .case {spills[0].case}"):
        write(tmp_path / "data", twice, parts)
    assert not (tmp_path / "data").exists()


def test_two_studies_of_one_case_are_an_error(spills, tmp_path):
    with pytest.raises(UserError, match=f"2 studies are case {spills[0].case}"):
        write(tmp_path / "data", [spills[0], *spills])


def test_a_dataset_without_examples_is_an_error(spills, tmp_path):
    layout = dataclasses.replace(fake.layout(), splits={"train": ("train", "other")})
    with pytest.raises(UserError, match="No study gave any example"):
        write(tmp_path / "data", spills, layout=layout)


def test_a_subject_in_two_parts_is_an_error(spills, tmp_path, monkeypatch):
    written = shards._write_split

    def leak(folder, name, *arguments):
        content = written(folder, name, *arguments)
        return dataclasses.replace(content, subjects=[*content.subjects, "leak"])

    monkeypatch.setattr(shards, "_write_split", leak)
    with pytest.raises(UserError, match="leak"):
        write(tmp_path / "data", spills)
    assert not (tmp_path / "data").exists()


def test_a_finished_folder_is_recognised_and_nothing_is_overwritten(spills, tmp_path):
    output = tmp_path / "data"
    assert shards.find_finished(output, "i") is None
    output.mkdir()
    assert shards.find_finished(output, "i") is None
    prep = write(output, spills)
    assert shards.find_finished(output, "i") == prep
    with pytest.raises(UserError, match="other sources or settings"):
        shards.find_finished(output, "j")
    before = contents(output)
    with pytest.raises(UserError, match="in the way"):
        write(output, spills)
    assert contents(output) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="no prepared dataset"):
        shards.find_finished(foreign, "i")
    with pytest.raises(UserError, match="no prepared dataset"):
        shards.find_finished(foreign / "thesis.tex", "i")
