import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from data_prep.readers._colonoscopy import Options, Sampling
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image


def read(source, notes=None, **sampling):
    return list(_colonoscopy.frames(source, Sampling(**sampling), notes))


def write_frames(folder, count=3, first=0):
    for number in range(count):
        write_image(folder / f"frame{number + 8}.png", pattern(first + number))


def test_a_case_a_folder_in_natural_order(tmp_path):
    write_frames(tmp_path / "b/v2", 4)
    write_frames(tmp_path / "v1", 2, first=10)
    (tmp_path / "v1/notes.txt").write_text("no frame")
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == ["b/v2", "v1"]
    frames = read(sources[0])
    for number, frame in enumerate(frames):  # frame8, frame9, frame10, frame11
        assert (frame.index, frame.time_s, frame.mask, frame.label) == (number, None, None, None)
        np.testing.assert_array_equal(frame.image, pattern(number))
    assert not any(s.no_identity for s in sources)


def test_the_folder_itself(tmp_path):
    write_frames(tmp_path / "v")
    (source,) = _colonoscopy.find(tmp_path / "v")
    assert (source.name, len(read(source))) == ("v", 3)


def test_one_image(tmp_path):
    write_frames(tmp_path / "v")
    (source,) = _colonoscopy.find(tmp_path / "v/frame9.png")
    (frame,) = read(source)
    np.testing.assert_array_equal(frame.image, pattern(1))


def test_times_from_a_given_rate(tmp_path):
    write_frames(tmp_path / "v", 10)
    (source,) = _colonoscopy.find(tmp_path)
    taken = read(source, every_s=1, fps=4)
    assert [(frame.index, frame.time_s) for frame in taken] == [(0, 0), (4, 1), (8, 2)]
    assert [frame.index for frame in read(source, stride=3)] == [0, 3, 6, 9]
    with pytest.raises(Unusable, match="no times.*--stride.*--fps"):
        read(source, every_s=1)


def test_masks_beside_a_folder(tmp_path):
    write_frames(tmp_path / "v")
    write_image(tmp_path / "v_masks/frame9.png", disc())
    (source,) = _colonoscopy.find(tmp_path)
    assert [bool(frame.mask.any()) for frame in read(source)] == [False, True, False]
    write_image(tmp_path / "v_masks/frame77.png", disc())
    (source,) = _colonoscopy.find(tmp_path)
    with pytest.raises(Unusable, match="masks of frames that it does not have"):
        read(source)


def test_labels_and_splits(tmp_path):
    write_frames(tmp_path / "v")
    write_frames(tmp_path / "w", first=20)
    table = tmp_path / "frame_quality_labels.csv"
    table.write_text("video,frame_index,label,split\nv,0,1,train\nv,2,0,train\nw,1,1,test\n")
    v, w = _colonoscopy.find(tmp_path)
    assert [frame.label for frame in read(v)] == [1, None, 0]
    assert (v.split, w.split) == ("train", "test")
    table.write_text("video,frame_index,label\nv,3,1\ngone,0,1\n")
    v, w, gone = _colonoscopy.find(tmp_path)
    with pytest.raises(Unusable, match="up to frame 3, but it has 3 frames"):
        read(v)
    with pytest.raises(Unusable, match="not there"):
        read(gone)


def test_classes_without_identity(tmp_path):
    write_frames(tmp_path / "set/Informative")
    write_frames(tmp_path / "set/non-informative", first=20)
    sources = _colonoscopy.find(tmp_path)
    assert len(sources) == 6 and all(s.no_identity and not s.notes for s in sources)
    assert [read(s)[0].label for s in sources] == [1, 1, 1, 0, 0, 0]
    found = _colonoscopy.find(tmp_path, Options(case_pattern=r"frame(\d)"))
    assert [(s.name, s.no_identity) for s in found] == [("8", False), ("9", False), ("1", False)]
    assert sorted(frame.label for frame in read(found[0])) == [0, 1]


@pytest.mark.parametrize("layout", ["{label}/{video}", "{video}/{label}"])
def test_classes_of_videos(tmp_path, layout):
    first = 0
    for video in ("v1", "v2"):
        for label in ("informative", "uninformative"):
            write_frames(tmp_path / layout.format(label=label, video=video), 2, first)
            first += 2
    sources = _colonoscopy.find(tmp_path)
    assert [s.name for s in sources] == ["v1", "v2"]
    for source in sources:
        frames = read(source)
        assert sorted(frame.label for frame in frames) == [0, 0, 1, 1]
        assert [frame.index for frame in frames] == [0, 1, 2, 3]


def test_nerthus(tmp_path):
    for video, score, name in ((1, 0, 0), (2, 3, 3), (2, 3, 2)):
        place = f"{score}/bowel_{video}_score_{name}-{name}_{video}00{name}.png"
        write_image(tmp_path / place, pattern(10 * video + name))
    one, two = _colonoscopy.find(tmp_path)
    assert (one.name, two.name) == ("bowel 1", "bowel 2")
    notes = []
    assert [(f.index, f.label) for f in read(two, notes)] == [(2002, 1), (2003, 1)]
    assert "not" in notes[0] and "another score than its folder" in notes[1]
    assert [f.label for f in read(one)] == [0]


def test_unreadable_frames_are_counted(tmp_path):
    write_frames(tmp_path / "v")
    (tmp_path / "v/frame9.png").write_bytes(b"")
    notes = []
    (source,) = _colonoscopy.find(tmp_path)
    assert [frame.index for frame in read(source, notes)] == [0, 2]
    assert notes == ["left out: the image file is unreadable (frames: 1)"]


def test_tables_that_fit_nothing(tmp_path):
    write_frames(tmp_path / "v")
    (tmp_path / "videos.csv").write_text("video,split\nother,train\n")
    with pytest.raises(UserError, match="none of the videos"):
        _colonoscopy.find(tmp_path)


def test_real_bowel_preparation(real_data):
    sources = _colonoscopy.find(real_data / "frame_quality/endoangel_bbps")
    labels = [read(source)[0].label for source in sources]
    assert (labels.count(0), labels.count(1)) == (10, 10)
    assert all(s.no_identity and "bowel preparation" in s.notes[0] for s in sources)
