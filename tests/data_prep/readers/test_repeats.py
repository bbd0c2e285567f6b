import shutil

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy
from data_prep.readers._images import Unusable
from tests.data_prep.readers.colonoscopy_files import pattern, write_image


def write_folder(folder, numbers):
    for place, number in enumerate(numbers):
        write_image(folder / f"{place:03d}.png", pattern(number, 60, 90))


def test_a_case_inside_another_is_left_out(tmp_path):
    write_folder(tmp_path / "a", [1, 2, 3])
    write_folder(tmp_path / "b", [9, 1, 2, 3, 8])
    write_folder(tmp_path / "c", [5, 6])
    a, b, c = _colonoscopy.find(tmp_path)
    with pytest.raises(Unusable, match="repeats the frames of another case"):
        _colonoscopy.frames(a)
    assert not b.problem and not c.problem
    assert {source.subject for source in (b, c)} == {"b", "c"}
    assert any(path.parent.name == "b" for path in a.files)


def test_of_equal_cases_the_first_stays(tmp_path):
    write_folder(tmp_path / "a", [1, 2])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert [bool(source.problem) for source in _colonoscopy.find(tmp_path)] == [False, True, True]


def test_cases_that_share_a_frame_share_a_subject(tmp_path):
    write_folder(tmp_path / "a", [1, 2, 3])
    write_folder(tmp_path / "b", [3, 4])
    write_folder(tmp_path / "c", [4, 5])
    write_folder(tmp_path / "d", [6, 7])
    sources = _colonoscopy.find(tmp_path)
    assert [source.subject for source in sources] == ["a", "a", "a", "d"]
    notes = []
    assert len(list(_colonoscopy.frames(sources[0], None, notes))) == 3
    assert notes == ["shares frames with another case: both count as one subject"]


def test_shared_frames_across_given_splits_are_an_error(tmp_path):
    write_folder(tmp_path / "a", [1, 2, 3])
    write_folder(tmp_path / "b", [3, 4])
    (tmp_path / "videos.csv").write_text("video,split\na,train\nb,test\n")
    with pytest.raises(UserError, match="a is given as train and b as test"):
        _colonoscopy.find(tmp_path)


def test_blank_frames_join_nothing(tmp_path):
    for name, number in (("a", 1), ("b", 2)):
        write_folder(tmp_path / name, [number])
        write_image(tmp_path / name / "black.png", np.zeros((60, 90, 3), np.uint8))
    assert [source.subject for source in _colonoscopy.find(tmp_path)] == ["a", "b"]


def test_one_file_listed_in_two_cases(tmp_path):
    write_folder(tmp_path / "x", [1, 2])
    rows = ["x/000.png,none,A", "x/001.png,none,A", "x/001.png,none,B"]
    (tmp_path / "frames.csv").write_text("\n".join(["image,mask,case", *rows]))
    first, second = _colonoscopy.find(tmp_path)
    assert not first.problem and "byte for byte" in second.problem
