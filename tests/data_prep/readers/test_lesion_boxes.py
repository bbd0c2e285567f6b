import json

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image


def read(source, notes=None):
    return list(_colonoscopy.frames(source, None, notes))


def write_ldpolypvideo(root, part, video, texts, first=0):
    for place, text in enumerate(texts, 1):
        write_image(root / part / f"Images/{video}/{place:04d}.png", pattern(first + place))
        path = root / part / f"Annotations/{video}/{place:04d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)


def test_ldpolypvideo(tmp_path):
    texts = ["0\n", "2\n10 12 20 30\n1 2 5 9 \n"]
    write_ldpolypvideo(tmp_path, "TrainValid", "1", texts)
    write_ldpolypvideo(tmp_path, "Test", "1", ["1\n50 40 70 60"], first=10)
    test, train = _colonoscopy.find(tmp_path)
    assert (test.name, test.split) == ("Test/Images/1", "test")
    assert (train.name, train.split) == ("TrainValid/Images/1", "train")
    empty, full = read(train)
    assert empty.boxes == () and empty.mask is not None and not empty.mask.any()
    assert full.boxes == ((10.0, 12.0, 10.0, 18.0), (1.0, 2.0, 4.0, 7.0)) and full.mask is None
    notes = []
    (frame,) = read(test, notes)
    assert frame.boxes == ((50.0, 40.0, 14.0, 8.0),)
    assert notes == ["box cut at the image's edge (frames: 1)"]
    assert any(path.name == "0001.txt" for path in test.files)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no box of it is given"),
        ("", "contradicts itself"),
        ("2\n1 2 3 4\n", "contradicts itself"),
        ("1\n1 2 3\n", "contradicts itself"),
        ("1\na b c d\n", "contradicts itself"),
        ("1\n9 9 9 9\n", "empty or lies outside"),
    ],
)
def test_boxes_that_cannot_be_used(tmp_path, text, reason):
    write_ldpolypvideo(tmp_path, "Test", "7", [text, "0\n"])
    notes = []
    (source,) = _colonoscopy.find(tmp_path)
    assert [frame.index for frame in read(source, notes)] == [1]
    assert reason in notes[0] and notes[0].startswith("left out")


def test_sun(tmp_path):
    positive, negative = tmp_path / "sundatabase_positive_part1", tmp_path / "sun_negative_part2"
    for number in (1, 2, 10):
        write_image(positive / f"case1/x_image{number:04d}.jpg", pattern(number))
    write_image(positive / "case2/y_image0001.jpg", pattern(20))
    write_image(negative / "case2/z_image0001.jpg", pattern(30))
    (positive / "annotation_txt").mkdir()
    lines = ["x_image0001.jpg 1,2,11,22,0", "x_image0002.jpg 5,5,9,9,0 20,20,30,40,0"]
    (positive / "annotation_txt/case1.txt").write_text("\n".join(lines))
    sources = {s.name: s for s in _colonoscopy.find(tmp_path)}
    assert len(sources) == 3
    notes = []
    frames = read(sources["sundatabase_positive_part1/case1"], notes)
    assert [frame.boxes for frame in frames] == [
        ((1.0, 2.0, 10.0, 20.0),),
        ((5.0, 5.0, 4.0, 4.0), (20.0, 20.0, 10.0, 20.0)),
    ]
    assert notes == ["left out: no box of it is given (frames: 1)"]
    (frame,) = read(sources["sun_negative_part2/case2"])
    assert not frame.mask.any() and frame.boxes == ()
    with pytest.raises(Unusable, match="no box"):
        read(sources["sundatabase_positive_part1/case2"])
    (positive / "annotation_txt/case1.txt").write_text("x_image0001.jpg 1,2")
    with pytest.raises(UserError, match="should hold lines"):
        _colonoscopy.find(tmp_path)


def write_sun_seg(root, part, clip, first):
    for number in (1, 2):
        stem = f"{clip}_image{number:04d}"
        write_image(root / part / f"Frame/{clip}/{stem}.jpg", pattern(first + number))
        write_image(root / part / f"GT/{clip}/{stem}.png", disc())
    return {
        "images": [{"id": f"{clip}-a2", "case_name": clip, "file_name": f"{clip}_image0002"}],
        "annotation": [{"id": f"{clip}-a2", "bbox": [26, 7, 10, 30]}],
    }


def test_sun_seg(tmp_path):
    content = write_sun_seg(tmp_path, "TrainDataset", "case1_1", 0)
    write_sun_seg(tmp_path, "TestEasyDataset/Seen", "case1_2", 10)
    write_sun_seg(tmp_path, "TestEasyDataset/Unseen", "case2_1", 20)
    table = tmp_path / "TrainDataset/Detection/bbox_annotation.json"
    table.parent.mkdir()
    table.write_text(json.dumps(content))
    sources = {s.name.rpartition("/")[2]: s for s in _colonoscopy.find(tmp_path)}
    said = {name: (s.subject, s.split) for name, s in sources.items()}
    assert said == {
        "case1_1": ("case1", "train"),
        "case1_2": ("case1", "test"),
        "case2_1": ("case2", "test"),
    }
    with pytest.raises(Unusable, match="trains on the same person"):
        read(sources["case1_2"])
    found = _colonoscopy.find(tmp_path / "TestEasyDataset")  # alone, it is no part of a split
    assert [(s.split, s.problem) for s in found] == [("", ""), ("", "")]
    first, second = read(sources["case1_1"])
    assert first.boxes == () and second.boxes == ((26.0, 7.0, 10.0, 30.0),)
    np.testing.assert_array_equal(first.mask, disc() > 0)
    table.write_text("{}")
    with pytest.raises(UserError, match="table of boxes of SUN-SEG"):
        _colonoscopy.find(tmp_path)


def test_real_colon_by_tag_and_not_by_order(tmp_path):
    box = "<xmin>3</xmin><xmax>13</xmax><ymin>5</ymin><ymax>25</ymax>"
    text = f"<annotation><object><bndbox>{box}</bndbox></object></annotation>"
    for number in (2, 10):
        write_image(tmp_path / f"001-004_frames/001-004_{number}.png", pattern(number))
        path = tmp_path / f"001-004_annotations/001-004_{number}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if number == 10 else "<annotation/>")
    (source,) = _colonoscopy.find(tmp_path)
    without, lesion = read(source)
    assert source.name == "001-004" and not without.mask.any() and without.boxes == ()
    assert lesion.boxes == ((3.0, 5.0, 10.0, 20.0),) and lesion.mask is None
