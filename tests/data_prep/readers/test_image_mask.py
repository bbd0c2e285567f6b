import json

import numpy as np
import pytest
from PIL import Image

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, image_mask
from data_prep.readers._colonoscopy import Options
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image
from tests.data_prep.readers.test_frames import tiff_that_pillow_refuses


def read(source, notes=None):
    return list(_colonoscopy.frames(source, None, notes))


def write_pairs(root, names, images="images", masks="masks", mask_name="{}.png"):
    for place, name in enumerate(names):
        write_image(root / images / f"{name}.png", pattern(place))
        write_image(root / masks / mask_name.format(name), disc())


def test_pairs_without_identity(tmp_path):
    write_pairs(tmp_path, ["b", "a", "c10", "c9"])
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == [f"images/{n}.png" for n in ("a", "b", "c9", "c10")]
    assert all(s.no_identity and s.subject == s.name for s in sources)
    (frame,) = read(sources[1])
    np.testing.assert_array_equal(frame.image, pattern(0))
    np.testing.assert_array_equal(frame.mask, disc() > 0)
    assert (frame.index, frame.time_s, frame.label) == (0, None, None)
    assert [path.name for path in sources[0].files] == ["a.png", "a.png"]


@pytest.mark.parametrize(
    "form", ["{1}/{0}", "{0}/{1}", "{0}_{1}", "{1}_{0}", "Set/{0}/{1}", "{0}/{1}/Set"]
)
def test_pairs_of_two_parts(tmp_path, form):
    """The parts lie in folders of images and masks, or the other way round."""
    for place, part in enumerate(("train", "test")):
        for number in range(2):
            image, mask = (
                tmp_path / form.format(kind, part) / f"{number}.png" for kind in ("images", "masks")
            )
            write_image(image, pattern(2 * place + number))
            write_image(mask, np.roll(disc(), 2 * place + number, 1))
    sources = _colonoscopy.find(tmp_path)
    assert len({source.subject for source in sources}) == 4
    for source in sources:
        (frame,) = read(source)
        shift = next(k for k in range(4) if np.array_equal(frame.image, pattern(k)))
        np.testing.assert_array_equal(frame.mask, np.roll(disc(), shift, 1) > 0)
        assert source.split == ("train", "test")[shift // 2]


def test_folders_of_videos_within_images_and_masks(tmp_path):
    for place, name in enumerate(("a", "b")):
        write_pairs(tmp_path, ["1", "2"], f"images/{name}", f"masks/{name}")
        write_image(tmp_path / f"images/{name}/1.png", pattern(5 + place))
        write_image(tmp_path / f"images/{name}/2.png", pattern(7 + place))
    found = _colonoscopy.find(tmp_path)
    assert [(s.name, s.subject) for s in found] == [(f"images/{n}",) * 2 for n in "ab"]
    assert [len([f for f in read(s) if f.mask.any()]) for s in found] == [2, 2]


def test_kvasir_jpeg_masks_and_boxes(tmp_path):
    root = tmp_path / "Kvasir-SEG"
    write_image(root / "images/x.jpg")
    write_image(root / "masks/x.jpg", disc())
    boxes = [{"label": "polyp", "xmin": 9, "ymin": 12, "xmax": 34, "ymax": 36}]
    table = root / "kavsir_bboxes.json"
    table.write_text(json.dumps({"x": {"height": 48, "width": 64, "bbox": boxes}}))
    (source,) = _colonoscopy.find(tmp_path)
    (frame,) = read(source)
    assert frame.boxes == ((9.0, 12.0, 25.0, 24.0),)
    assert np.mean(frame.mask != (disc() > 0)) < 0.01
    assert table.resolve() in source.files
    table.write_text("[1]")
    with pytest.raises(UserError, match="table of boxes"):
        _colonoscopy.find(tmp_path)


@pytest.mark.parametrize("copies", [("",), ("PNG", "TIF")])
def test_clinicdb_sequences_from_frame_numbers(tmp_path, copies):
    for copy in copies:
        for number in (1, 25, 26, 591, 592, 612):
            folder = tmp_path / copy
            tiff_that_pillow_refuses(folder / f"Original/{number}.tif", pattern(number))
            mask = np.dstack([disc()] * 3)
            tiff_that_pillow_refuses(folder / f"Ground Truth/{number}.tif", mask)
    sources = [s for s in _colonoscopy.find(tmp_path) if not s.problem]
    prefix = f"{copies[0]}/" if copies[0] else ""
    assert [s.name for s in sources] == [f"{prefix}sequence {n}" for n in (1, 2, 28, 29)]
    assert not any(s.no_identity for s in sources)
    notes = []
    assert [frame.index for frame in read(sources[0], notes)] == [1, 25]
    assert "unconfirmed list" in notes[0]
    np.testing.assert_array_equal(read(sources[1])[0].image, pattern(26))


def test_clinicdb_list_of_first_frames():
    numbers = [image_mask.clinicdb_sequence(n) for n in range(1, image_mask.CLINICDB_FRAMES + 1)]
    assert numbers[0] == 1 and numbers[-1] == 29 and set(np.diff(numbers)) == {0, 1}
    assert [n for n in range(2, 613) if numbers[n - 1] != numbers[n - 2]] == list(
        image_mask.CLINICDB[1:]
    )


def test_numbers_in_another_set_are_not_clinicdb(tmp_path):
    write_pairs(tmp_path, ["1", "2", "30"])
    assert all(s.no_identity for s in _colonoscopy.find(tmp_path))
    told = _colonoscopy.find(tmp_path, Options(clinicdb_sequences=True))
    assert [(s.name, len(s.items)) for s in told] == [("sequence 1", 2), ("sequence 2", 1)]


def test_colondb_in_one_folder(tmp_path):
    for number in (1, 2, 10):
        write_image(tmp_path / f"{number}.bmp", pattern(number))
        write_image(tmp_path / f"p{number}.bmp", disc())
        write_image(tmp_path / f"s{number}.bmp", disc() * 0 + 255)
        write_image(tmp_path / f"c{number}.bmp", disc() // 3)
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == ["1.bmp", "2.bmp", "10.bmp"]
    assert all(s.no_identity for s in sources)
    (frame,) = read(sources[2])
    np.testing.assert_array_equal(frame.image, pattern(10))
    np.testing.assert_array_equal(frame.mask, disc() > 0)
    rows = ["1.bmp,1", "2.bmp,1", "10.bmp,2"]
    (tmp_path / "sequences.csv").write_text("\n".join(["image,sequence", *rows]))
    sources = _colonoscopy.find(tmp_path)
    assert [(s.name, len(s.items), s.no_identity) for s in sources] == [
        ("sequence 1", 2, False),
        ("sequence 2", 1, False),
    ]
    (tmp_path / "sequences.csv").write_text("image,sequence\n1.bmp,1\n")
    with pytest.raises(UserError, match="no row for 2.bmp"):
        _colonoscopy.find(tmp_path)


def test_etis_names(tmp_path):
    folder = "ETIS-LaribPolypDB"
    write_pairs(tmp_path, ["1", "2"], folder, "Ground Truth", "p{}.png")
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == [f"{folder}/1.png", f"{folder}/2.png"]
    assert all(read(s)[0].mask.any() for s in sources)


def test_polypgen(tmp_path):
    for centre, mask in (("C1", "{}_mask.png"), ("C2", "{}_mask.png")):
        names = [f"{centre}_a", f"{centre}_b"]
        write_pairs(tmp_path / f"data_{centre}", names, f"images_{centre}", f"masks_{centre}", mask)
    for place in (1, 2):
        folder = tmp_path / f"sequenceData/positive/seq{place}"
        write_image(folder / f"images_seq{place}/f9.png", pattern(20 + place))
        write_image(folder / f"images_seq{place}/f10.png", pattern(30 + place))
        for name in ("f9", "f10"):
            write_image(folder / f"masks_seq{place}/{name}.png", disc())
        (folder / f"masks_seq{place}/f9.txt").write_text("polyp 1 2 3 4")
    write_image(tmp_path / "sequenceData/negativeOnly/seq1_neg/n1.png", pattern(40))
    sources = {s.name: s for s in _colonoscopy.find(tmp_path)}
    assert {s.subject for n, s in sources.items() if n.startswith("data_")} == {
        "centre C1",
        "centre C2",
    }
    sequence = sources["sequenceData/positive/seq2"]
    frames = read(sequence)
    assert [frame.index for frame in frames] == [0, 1]
    np.testing.assert_array_equal(frames[1].image, pattern(32))  # f10 after f9
    (frame,) = read(sources["sequenceData/negativeOnly/seq1_neg"])
    assert frame.mask is not None and not frame.mask.any()
    assert len(sources) == 7 and not any(s.no_identity for s in sources.values())


def test_manifest(tmp_path):
    write_pairs(tmp_path, ["s1_f7", "s1_f3", "s2_f1"])
    heading = "image,mask,sequence,frame"
    rows = ["{0}/s1_f7.png,{1}/s1_f7.png,1,7", "{0}/s1_f3.png,{1}/s1_f3.png,1,3"]
    rows = [row.format("images", "masks") for row in rows]
    (tmp_path / "manifest.csv").write_text("\n".join([heading, *rows]))
    (source,) = _colonoscopy.find(tmp_path)
    frames = read(source)
    assert (source.name, [frame.index for frame in frames]) == ("sequence 1", [3, 7])
    np.testing.assert_array_equal(frames[0].image, pattern(1))


def test_images_without_masks_and_masks_without_images(tmp_path):
    write_pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks/b.png").unlink()
    (tmp_path / "images/c.png").unlink()
    sources = {s.name: s for s in _colonoscopy.find(tmp_path)}
    assert len(read(sources["images/a.png"])) == 1
    with pytest.raises(Unusable, match="no mask of it"):
        read(sources["images/b.png"])
    with pytest.raises(Unusable, match="mask without an image"):
        read(sources["masks/c.png"])


def test_frames_without_masks_are_counted_in_a_sequence(tmp_path):
    write_pairs(tmp_path, ["s1_a", "s1_b", "s1_c", "s2_a"])
    (tmp_path / "masks/s1_b.png").unlink()
    write_image(tmp_path / "masks/s1_c.png", disc(96, 64))
    first, second = _colonoscopy.find(tmp_path, Options(case_pattern=r"(s\d+)_"))
    assert (first.name, second.name, first.no_identity) == ("s1", "s2", False)
    notes = []
    assert [frame.index for frame in read(first, notes)] == [0]
    assert notes[0] == "left out: there is no mask of it (frames: 1)"
    assert "64 x 96 pixels and the image 64 x 48" in notes[1]


def test_patterns_that_do_not_work(tmp_path):
    write_pairs(tmp_path, ["a"])
    with pytest.raises(UserError, match="gives no case for images/a.png"):
        _colonoscopy.find(tmp_path, Options(case_pattern=r"(s\d+)_"))
    with pytest.raises(UserError, match="not a regular expression"):
        Options(case_pattern="(")
    with pytest.raises(UserError, match="needs a group"):
        Options(case_pattern="abc")


def test_the_same_image_under_two_names(tmp_path):
    write_pairs(tmp_path, ["a", "b"])
    write_image(tmp_path / "images/z.png", pattern(0))
    write_image(tmp_path / "masks/z.png", disc())
    assert [s.name for s in _colonoscopy.find(tmp_path) if s.problem] == ["images/z.png"]


def test_real_clinicdb_and_kvasir(real_data):
    sources = _colonoscopy.find(real_data / "polyp/cvc_clinicdb")
    assert [s.name for s in sources] == [f"sequence {n}" for n in range(1, 21)]
    assert sum(len(s.items) for s in sources) == 233
    for source in sources:  # the set's own sequences are those of the list of first frames
        found = {image_mask.clinicdb_sequence(item.index) for item in source.items}
        assert found == {int(source.name.split()[1])}
    frame = read(sources[4])[0]
    assert frame.image.shape == (288, 384, 3) and 0 < frame.mask.mean() < 0.5
    item = sources[4].items[0]
    grey = np.asarray(Image.open(item.mask).convert("L"))
    np.testing.assert_array_equal(frame.mask, grey > 127)
    kvasir = _colonoscopy.find(real_data / "polyp/kvasir_seg")
    assert len(kvasir) == 67 and all(s.no_identity for s in kvasir)
    for source in kvasir[::10]:
        (frame,) = read(source)
        assert frame.mask.shape == frame.image.shape[:2] and frame.mask.any()


def test_real_tiffs_that_pillow_refuses(real_data):
    folder = real_data / "polyp/cvc_clinicdb/original_tif"
    sources = _colonoscopy.find(folder, Options(clinicdb_sequences=True))
    indices = [[frame.index for frame in read(source)] for source in sources]
    assert indices == [[1, 2], [30], [60]]
    assert all(frame.mask.any() for source in sources for frame in read(source))


@pytest.mark.parametrize(
    "folders",
    [
        {"TrainDataset": "train", "TestDataset/CVC-300": "test", "TestDataset/Kvasir": "test"},
        {"train": "train", "val": "validation", "test": "test"},
        {"Kvasir/Training": "train", "Kvasir/Testing": "test"},
    ],
)
def test_the_split_of_a_set_is_that_of_its_folders(tmp_path, folders):
    expected = {}
    for place, (folder, part) in enumerate(folders.items()):
        for number in range(2):
            name = f"{folder}/images/{number}.png"
            write_image(tmp_path / name, pattern(2 * place + number))
            write_image(tmp_path / name.replace("images", "masks"), disc())
            expected[name] = part
    assert {source.name: source.split for source in _colonoscopy.find(tmp_path)} == expected


def test_folders_that_name_no_whole_split_are_said_to_be_ignored(tmp_path, caplog):
    for place, folder in enumerate(("train", "more")):
        write_image(tmp_path / folder / "images" / "1.png", pattern(place))
        write_image(tmp_path / folder / "masks" / "1.png", disc())
    assert {source.split for source in _colonoscopy.find(tmp_path)} == {""}
    assert "Folders are called train, but not every case lies in one" in caplog.text
