import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from data_prep import command, records, splits
from data_prep.errors import UserError
from medxfer import data
from medxfer.dataset_folder import DatasetFolder
from tests.data_prep import fake


def identity(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    fake.write_studies(root / "raw", 12)
    options = command.Options(root / "records", fake.KEY, test_fraction=0.2)
    studies = fake.find(root / "raw")
    command.prepare(fake.layout(), studies, fake.work, fake.SETTINGS, options)
    return root / "records"


@pytest.fixture(scope="module")
def folder(prepared):
    return DatasetFolder.open(prepared, app="fake")


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


def expected(folder: DatasetFolder, split: str) -> list[dict]:
    """Every example, by TensorFlow's message class and Pillow."""
    found = []
    for path in folder.files(split):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            png = feature["image"].bytes_list.value[0]
            found.append(
                {
                    "image": np.asarray(Image.open(io.BytesIO(png)))[:, :, None],
                    "label": feature["label"].int64_list.value[0],
                    "subject": feature["subject"].bytes_list.value[0].decode(),
                    "case": feature["case"].bytes_list.value[0].decode(),
                    "unit": feature["unit"].bytes_list.value[0].decode(),
                    "lesion": feature["lesion"].int64_list.value[0],
                    "x": feature["x"].float_list.value[0],
                    "li": np.array(feature["li"].float_list.value, np.float32),
                }
            )
    return found


def pipeline(folder, split="train", batch_size=16, transform=identity, **options):
    return data.Pipeline(folder, split, batch_size=batch_size, transform=transform, **options)


def joined(dataset: tf.data.Dataset) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def test_the_folder_says_what_it_holds(folder, prepared):
    prep = json.loads((prepared / "prep.json").read_text())
    assert folder.splits == ("test", "train", "validation", "validation_roi")
    assert (folder.app, folder.classes, folder.channels) == ("fake", ("dark", "bright"), 1)
    assert folder.extras == fake.layout().extras
    assert folder.settings["patch"] == 5
    assert folder.fingerprint == prep["fingerprint"]
    assert folder.truth == json.loads((prepared / "truth.json").read_text())
    for split in folder.splits:
        examples = expected(folder, split)
        assert folder.count(split) == len(examples)
        assert set(folder.subjects(split)) == {example["subject"] for example in examples}
    assert folder.damaged() == []


def test_ordered_is_the_order_of_the_records(folder):
    examples = expected(folder, "train")
    stream = pipeline(folder)
    index, images, labels = joined(stream.ordered())
    np.testing.assert_array_equal(index, np.arange(len(examples)))
    np.testing.assert_array_equal(images, [example["image"] for example in examples])
    np.testing.assert_array_equal(labels, [example["label"] for example in examples])
    np.testing.assert_array_equal(stream.labels, labels)
    assert stream.subjects == [example["subject"] for example in examples]
    assert stream.num_examples == len(examples) == 160
    x, y = stream.ordered().element_spec[1:]
    assert (x.dtype, y.dtype, stream.labels.dtype) == (tf.float32, tf.int64, np.int64)


def test_an_epoch_follows_its_indices_and_drops_the_rest(folder):
    stream = pipeline(folder, batch_size=48)
    images = np.stack([example["image"] for example in expected(folder, "train")])
    order = stream.shuffled_indices(3)
    np.testing.assert_array_equal(np.sort(order), np.arange(160))
    index, x, y = joined(stream.epoch(3))
    np.testing.assert_array_equal(index, order[:144])
    np.testing.assert_array_equal(x, images[order[:144]])
    np.testing.assert_array_equal(y, stream.labels[order[:144]])
    assert stream.epoch(3).element_spec[1].shape == (48, 5, 5, 1)
    assert stream.epoch(3).cardinality() == 3


def test_the_order_depends_on_seed_and_epoch_alone(folder):
    first = pipeline(folder, seed=1)
    again = pipeline(folder, seed=1, batch_size=7, process=(0, 1))
    np.testing.assert_array_equal(first.shuffled_indices(5), again.shuffled_indices(5))
    orders = [first.shuffled_indices(epoch) for epoch in range(3)]
    orders.append(pipeline(folder, seed=2).shuffled_indices(0))
    assert len({order.tobytes() for order in orders}) == 4


def test_fewer_examples_than_a_batch_are_one_batch(folder):
    (batch,) = pipeline(folder, batch_size=1000).epoch(0)
    assert batch[1].shape == (160, 5, 5, 1)


@pytest.mark.parametrize("count", [2, 4])
def test_slices_of_the_processes_join_to_the_global_batches(folder, count):
    alone = pipeline(folder, batch_size=48)
    workers = [pipeline(folder, batch_size=48, process=(i, count)) for i in range(count)]
    for stream in ("epoch", "ordered"):
        get = (lambda p: p.epoch(1)) if stream == "epoch" else (lambda p: p.ordered())
        batches = list(get(alone).as_numpy_iterator())
        shares = [list(get(worker).as_numpy_iterator()) for worker in workers]
        assert all(len(share) == len(batches) for share in shares)
        for step, batch in enumerate(batches):
            for place, whole in enumerate(batch):
                parts = [share[step][place] for share in shares]
                assert max(map(len, parts)) - min(map(len, parts)) <= 1
                np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_fraction_keeps_whole_subjects_and_is_nested(folder):
    whole = pipeline(folder, seed=4)
    kept = set(whole.subjects)
    for share in (0.5, 0.25):
        stream = pipeline(folder, seed=4, fraction=share)
        chosen = splits.fraction(folder.subjects("train"), share, "fraction 4")
        assert set(stream.subjects) == chosen < kept
        rows = [row for row, subject in enumerate(whole.subjects) if subject in chosen]
        np.testing.assert_array_equal(stream.labels, whole.labels[rows])
        index, x, _ = joined(stream.ordered())
        np.testing.assert_array_equal(index, np.arange(len(rows)))
        np.testing.assert_array_equal(x, joined(whole.ordered())[1][rows])
        kept = chosen


def test_validation_is_as_much_smaller_and_shows_every_class(folder):
    whole = pipeline(folder, "validation")
    last = set(whole.subjects)
    for share in (1.0, 0.6, 0.3, 0.01):
        part = pipeline(folder, "validation", seed=4, fraction=share)
        assert set(part.labels) == set(whole.labels)
        assert set(part.subjects) <= last  # nested
        last = set(part.subjects)
        labels, subjects = data.labelled(folder, "validation")
        np.testing.assert_array_equal(labels, whole.labels)
        assert subjects == whole.subjects
        assert data.kept(folder, "validation", labels, subjects, share, 4) == last
    assert len(last) == 1


def test_the_fingerprint_is_that_of_the_examples(folder):
    whole = pipeline(folder).fingerprint
    assert whole == pipeline(folder, seed=5, batch_size=4).fingerprint
    others = [pipeline(folder, "validation"), pipeline(folder, fraction=0.5)]
    assert len({whole, *(other.fingerprint for other in others)}) == 3
    assert [other.whole == whole for other in others] == [False, True]


def test_a_share_knows_its_rows_and_the_look_of_the_whole(folder):
    whole, half = pipeline(folder), pipeline(folder, fraction=0.5)
    np.testing.assert_array_equal(half.labels, whole.labels[half.rows])
    images = joined(whole.ordered())[1]
    np.testing.assert_array_equal(half.sample(), images[: len(half.sample())])
    np.testing.assert_array_equal(joined(half.ordered())[1], images[half.rows])


def test_no_iterator_waits_for_the_tuner_of_tensorflow(folder, monkeypatch):
    opened = []
    iterate = tf.data.Dataset.as_numpy_iterator
    monkeypatch.setattr(
        tf.data.Dataset, "as_numpy_iterator", lambda self: opened.append(self) or iterate(self)
    )
    pipeline = data.Pipeline(folder, "train", batch_size=4, transform=identity, seed=0)
    assert list(data.units(folder, "test"))
    assert len(opened) == 2  # the records of the pipeline, the units
    for dataset in (*opened, pipeline.epoch(0), pipeline.ordered()):
        assert dataset.options().autotune.enabled is False


def test_a_large_split_is_memory_mapped_with_the_same_result(folder, tmp_path):
    mapped = pipeline(folder, memory_limit=100, cache_dir=tmp_path / "cache")
    assert isinstance(mapped._images, np.memmap)
    for one, other in zip(joined(mapped.epoch(2)), joined(pipeline(folder).epoch(2)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "cache").iterdir())  # the file has no name


def test_units_are_whole_examples(folder):
    found = list(data.units(folder, "test"))
    assert len(found) == folder.count("test") > 0
    for unit, example in zip(found, expected(folder, "test"), strict=True):
        assert set(unit) == set(example)
        for name, value in example.items():
            np.testing.assert_array_equal(unit[name], value)
        assert all(isinstance(unit[name], str) for name in ("subject", "case", "unit"))
        assert unit["li"].dtype == np.float32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [7, 33])
def test_resize_is_bilinear_between_pixel_centres(channels, side):
    images = np.random.default_rng(0).integers(0, 256, (2, 11, 14, channels), np.uint8)
    found = data.resize_to(side)(tf.constant(images)).numpy()
    assert (found.dtype, found.shape) == (np.float32, (2, side, side, 3))
    centres = [(np.arange(side) + 0.5) * size / side - 0.5 for size in images.shape[1:3]]
    grid = np.meshgrid(*centres, indexing="ij")
    for image, resized in zip(images, found, strict=True):
        for channel in range(3):
            source = image[:, :, channel % channels].astype(float)
            by_scipy = ndimage.map_coordinates(source, grid, order=1, mode="nearest")
            np.testing.assert_allclose(resized[:, :, channel], by_scipy, atol=1e-3)


def test_patch_transform_gives_a_network_its_input(folder):
    class network:  # noqa: N801
        INPUT_SIDE = 9

        @staticmethod
        def preprocess(images):
            return images / 255.0 - 0.5

    plain = joined(pipeline(folder, transform=data.resize_to(9)).ordered())[1]
    ready = joined(pipeline(folder, transform=data.patch_transform(network)).ordered())[1]
    np.testing.assert_allclose(ready, plain / 255 - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda path: [file.unlink() for file in path.iterdir()], "is empty"),
        (lambda path: (path / "prep.json").unlink(), "no dataset folder"),
        (lambda path: (path / "truth.json").write_text("{"), "no dataset folder"),
        (lambda path: (path / "prep.json").write_text("[]"), "no dataset folder"),
        (lambda path: change(path / "prep.json", app="polyp"), "of app 'polyp', not of 'fake'"),
        (
            lambda path: (path / "fake-test.tfrecord-00000-of-00001").unlink(),
            "fake-test.tfrecord-00000-of-00001 is missing",
        ),
        (
            lambda path: (path / "fake-test.tfrecord-00000-of-00002").touch(),
            "fake-test.tfrecord-00000-of-00002 does not belong",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(copy, prepare, message):
    prepare(copy)
    with pytest.raises(UserError, match=message):
        DatasetFolder.open(copy, app="fake")


def test_a_subject_in_two_parts_is_refused(copy):
    contents = json.loads((copy / "prep.json").read_text())["splits"]
    leak = contents["train"]["subjects"][0]
    contents["test"]["subjects"].append(leak)
    change(copy / "prep.json", splits=contents)
    with pytest.raises(UserError, match=leak):
        DatasetFolder.open(copy)


def test_records_of_an_undeclared_subject_are_refused(copy):
    contents = json.loads((copy / "prep.json").read_text())["splits"]
    hidden = contents["train"]["subjects"].pop()
    change(copy / "prep.json", splits=contents)
    with pytest.raises(UserError, match=f"not in its prep.json .{hidden}"):
        pipeline(DatasetFolder.open(copy))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_subjects_are_left_out_of_one_split_alone(folder, count):
    own = [example["subject"] for example in data.units(folder, "test")]
    gone = set(folder.subjects("test")[:count])
    kept = [subject for subject in own if subject not in gone]
    less = folder.without("test", gone, len(kept))
    assert [example["subject"] for example in data.units(less, "test")] == kept
    assert less.count("test") == len(kept) and less.has("test") == bool(kept)
    assert set(less.subjects("test")) == set(own) - gone == set(kept)
    assert {fact["subject"] for fact in less.truth["test"].values()} == set(kept)
    assert less.truth["train"] == folder.truth["train"]
    assert folder.count("test") == len(own)  # itself unchanged
    with pytest.raises(UserError, match="holds"):  # a number that is not that of the records
        list(data.units(folder.without("test", gone, len(kept) + 1), "test"))


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(UserError, match="no split 'training', only test, train"):
        pipeline(folder, "training")


def record_starts(content: bytes) -> list[int]:
    """Where the records of a TFRecord file begin: length, its check sum, data, its check sum."""
    starts, place = [], 0
    while place < len(content):
        starts.append(place)
        place += 16 + int.from_bytes(content[place : place + 8], "little")
    return starts


@pytest.mark.parametrize("record", [0, 17])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_record_is_named(copy, record, damage):
    path = copy / "fake-train.tfrecord-00000-of-00001"
    content = bytearray(path.read_bytes())
    place = record_starts(content)[record] + 40
    content[place] ^= 1
    path.write_bytes(content[:place] if damage == "cut" else content)
    folder = DatasetFolder.open(copy)
    with pytest.raises(UserError, match=f"{path.name}: record {record} .* damaged"):
        pipeline(folder)
    with pytest.raises(UserError, match=f"{path.name}: record {record} .* damaged"):
        list(data.units(folder, "train"))
    (named,) = folder.damaged()
    assert f"{path.name}: record {record} (from 0) is damaged" in named


@pytest.mark.parametrize("kept", [0, 159])
def test_a_file_cut_between_records_is_noticed(copy, kept):
    path = copy / "fake-train.tfrecord-00000-of-00001"
    content = path.read_bytes()
    path.write_bytes(content[: record_starts(content)[kept]])
    folder = DatasetFolder.open(copy)
    with pytest.raises(UserError, match=f"holds {kept} records, but 160 were written"):
        pipeline(folder)
    with pytest.raises(UserError, match=f"holds {kept} records, but 160 were written"):
        list(data.units(folder, "train"))


def test_patches_of_several_sizes_and_broken_images_are_refused(folder, copy):
    path = copy / "fake-train.tfrecord-00000-of-00001"
    subject = folder.subjects("train")[0]
    example = records.Example(
        "k", np.zeros((5, 5), np.uint8), 0, subject, "c", "u", extras={"x": 0.0, "li": []}
    )
    larger = dataclasses.replace(example, image=np.zeros((7, 7), np.uint8))
    good, large = (records.encode(one, folder.extras) for one in (example, larger))
    broken = good.replace(b"IHDR", b"IHDX")
    for other, place in ((large, 3), (large, 600), (broken, 0), (broken, 3)):
        contents = json.loads((copy / "prep.json").read_text())["splits"]
        contents["train"]["examples"] = place + 1
        change(copy / "prep.json", splits=contents)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in [good] * place + [other]:
                writer.write(record)
        with pytest.raises(UserError, match="cannot be read as equal images|of several sizes"):
            pipeline(DatasetFolder.open(copy))
